//! The fence: a source that nobody can write to, and the way back to exactly what it was.
//!
//! Invariant: after [`fence`] has returned well nothing of the unit is mounted, no device of it is open, all of it is
//! read-only, and carries the fence. An unmount without force that succeeds is the proof that no write was lost.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
};

use futures_util::future::join_all;

use super::{
    Tools,
    look::{MOUNTED, datasets, is_mounted, leg_in, names_of, value},
    unit::Unit,
};
use crate::{
    cutover::{leg::Leg, record::Saved},
    port::zfs::{Zfs, ZfsErrorKind, ZfsResult},
    types::{
        DatasetName, Failure, FailureClass,
        listing::{DatasetInfo, DatasetKind, FENCE, PropertySource},
        mounts,
    },
};

/// Holders that are named: enough to know what has to be stopped.
const SHOWN_HOLDERS: usize = 5;

fn zfs_failed(text: String) -> Failure {
    Failure::new(FailureClass::Zfs, text)
}

fn pairs(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}

/// Fences the unit for `leg`. May be repeated. `former` names the datasets whose properties were noted.
///
/// # Errors
/// When something is in use, or ZFS fails. It may be fenced in part then.
pub(super) async fn fence(
    tools: &Tools,
    unit: &Unit,
    leg: Leg,
    former: &[Saved],
    kill_busy: bool,
) -> Result<(), Failure> {
    let zfs = &*tools.zfs;
    let all = datasets(zfs, unit).await?;
    // One that a way home brought after the fence was set is read-only by itself, and fenced by what is above it. It gets its own.
    let came_home = |d: &DatasetInfo| {
        let readonly = d.property("readonly").is_some_and(|p| p.value == "on" && p.source == PropertySource::Local);
        readonly && !is_mounted(d) && d.property(FENCE).is_some_and(|p| p.value == leg.to_string())
    };
    let is_new = |d: &&DatasetInfo| !former.iter().any(|s| s.dataset == d.name) && !came_home(d);
    if let Some(new) = all.iter().find(is_new) {
        return Err(zfs_failed(format!("{} came into being while the fence was being set", new.name)));
    }
    if !is_fenced(&all, leg) {
        unmount(tools, &all, kill_busy).await?;
        for volume in names_of(&all, DatasetKind::Volume) {
            let device = Path::new("/dev/zvol").join(volume.as_str());
            let mut closed = zfs.close_volume(&volume).await;
            if let Err(e) = &closed
                && e.kind == ZfsErrorKind::Busy
            {
                in_use(tools, &volume, &[device], kill_busy).await?;
                closed = zfs.close_volume(&volume).await;
            }
            closed?;
        }
        let every: Vec<DatasetName> = all.iter().map(|d| d.name.clone()).collect();
        let mountable: Vec<DatasetName> =
            all.iter().filter(|d| value(d, "canmount") == Some("on")).map(|d| d.name.clone()).collect();
        // After the unmount: a filesystem that is mounted does not become read-only everywhere.
        let (marks, noauto) =
            ([pairs("readonly", "on"), pairs(FENCE, &leg.to_string())].concat(), pairs("canmount", "noauto"));
        let mut work = vec![zfs.set_all(&every, &marks)];
        if !mountable.is_empty() {
            work.push(zfs.set_all(&mountable, &noauto));
        }
        together(work).await?;
        let now = datasets(zfs, unit).await?;
        if let Some(open) = now.iter().find(|d| !is_closed(d, leg)) {
            return Err(zfs_failed(format!("{} is not fenced although everything was done for it", open.name)));
        }
    }
    Ok(())
}

/// Unmounts all of it, the topmost first: what is below goes along.
async fn unmount(tools: &Tools, all: &[DatasetInfo], kill_busy: bool) -> Result<(), Failure> {
    let mut gone: Vec<&DatasetName> = Vec::new();
    for info in all.iter().filter(|d| is_mounted(d)) {
        if gone.iter().any(|above| info.name.is_at_or_below(above)) {
            continue;
        }
        let mut unmounted = tools.zfs.unmount(&info.name).await;
        if let Err(e) = &unmounted
            && e.kind == ZfsErrorKind::Busy
        {
            let below: Vec<&DatasetName> =
                all.iter().map(|d| &d.name).filter(|name| name.is_at_or_below(&info.name)).collect();
            let places = places_of(&below, &std::fs::read("/proc/self/mountinfo").unwrap_or_default());
            in_use(tools, &info.name, &places, kill_busy).await?;
            unmounted = tools.zfs.unmount(&info.name).await;
        }
        unmounted?;
        gone.push(&info.name);
    }
    Ok(())
}

/// Where these datasets are mounted, as far as one can see into them: not where their `mountpoint` says, for there may be
/// something else, and whoever uses that is none of ours.
fn places_of(datasets: &[&DatasetName], mountinfo: &[u8]) -> Vec<PathBuf> {
    let mounts = mounts::parse(mountinfo);
    let is_one = |m: &mounts::Mount| datasets.iter().any(|name| m.source.to_str() == Some(name.as_str()));
    let on_top = |m: &&mounts::Mount| mounts.iter().rfind(|other| other.at == m.at).is_some_and(is_one);
    mounts.iter().filter(|m| is_one(m)).filter(on_top).map(|m| m.at.clone()).collect()
}

/// Says who uses one of these places; with `kill_busy` ends those processes instead, and nothing is wrong any more.
async fn in_use(tools: &Tools, dataset: &DatasetName, places: &[PathBuf], kill_busy: bool) -> Result<(), Failure> {
    let mut processes = Vec::new();
    let mut mounts = Vec::new();
    for place in places.iter().filter(|p| p.is_absolute() && p.exists()) {
        match tools.busy.holders(place).await {
            Ok(found) => {
                processes.extend(found.processes);
                mounts.extend(found.mounts);
            }
            Err(why) => tracing::warn!("cannot find out who uses {}: {why}", place.display()),
        }
    }
    processes.dedup();
    let mounts = mounts.iter().map(|m| format!("mounted at {}", m.display()));
    let names: Vec<String> = processes.iter().map(ToString::to_string).chain(mounts).take(SHOWN_HOLDERS).collect();
    let who = if names.is_empty() { "nobody who can be seen".to_owned() } else { names.join("; ") };
    if kill_busy && !processes.is_empty() {
        tracing::warn!(%dataset, "ending what keeps it busy: {who}");
        return tools.busy.end(&processes).await.map_err(|why| zfs_failed(format!("{dataset} is in use: {why}")));
    }
    Err(zfs_failed(format!("{dataset} is in use by {who}"))
        .hint("stop that by a hook or by hand, or give --kill-busy, which ends these processes"))
}

fn is_closed(info: &DatasetInfo, leg: Leg) -> bool {
    let readonly = info.property("readonly");
    let is_set = readonly.is_some_and(|p| p.value == "on" && p.source == PropertySource::Local);
    is_set && !is_mounted(info) && value(info, "canmount") != Some("on") && leg_in(info, FENCE) == Some(leg)
}

/// Whether all of it is fenced for `leg`.
pub(super) fn is_fenced(all: &[DatasetInfo], leg: Leg) -> bool {
    let no_device = |d: &DatasetInfo| value(d, "volmode").is_none_or(|mode| mode == "none");
    all.iter().all(|d| is_closed(d, leg) && (d.kind == DatasetKind::Filesystem || no_device(d)))
}

/// Sets every noted property back to what it was, with its source, takes the fence away, and mounts what was mounted.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn unfence(zfs: &dyn Zfs, unit: &Unit, former: &[Saved]) -> Result<(), Failure> {
    let all = datasets(zfs, unit).await?;
    restore(zfs, &all, former).await?;
    take_away(zfs, &all, FENCE).await?;
    mount(zfs, &all, former).await
}

/// Removes a mark from the datasets that bear it.
pub(super) async fn take_away(zfs: &dyn Zfs, all: &[DatasetInfo], mark: &str) -> Result<(), Failure> {
    let marked: Vec<DatasetName> = all.iter().filter(|d| d.local(mark).is_some()).map(|d| d.name.clone()).collect();
    if !marked.is_empty() {
        zfs.inherit_all(&marked, mark, false).await?;
    }
    Ok(())
}

/// Carries all of it out at once, and tells the first failure when all has ended: each change waits for the pool to write, and
/// those that wait together wait for the same writing.
async fn together<F: Future<Output = ZfsResult<()>>>(work: Vec<F>) -> Result<(), Failure> {
    join_all(work).await.into_iter().collect::<ZfsResult<()>>().map_err(Failure::from)
}

/// Whether a property is as it was noted, with its source.
fn is_as_noted(all: &[DatasetInfo], saved: &Saved) -> bool {
    let now = all.iter().find(|d| d.name == saved.dataset).and_then(|d| d.property(&saved.property));
    let source = now.map(|p| &p.source);
    match &saved.local {
        Some(value) => now.is_some_and(|p| p.value == *value && p.source == PropertySource::Local),
        None if saved.received => source == Some(&PropertySource::Received),
        None => !matches!(source, Some(PropertySource::Local | PropertySource::Received)),
    }
}

/// Sets properties as they are noted; one command for each value, whatever the number of datasets. What is so already is not
/// touched: ZFS may unmount and mount a filesystem for it, which something may be using.
pub(super) async fn restore(zfs: &dyn Zfs, all: &[DatasetInfo], noted: &[Saved]) -> Result<(), Failure> {
    let mut set: BTreeMap<(&str, &str), Vec<DatasetName>> = BTreeMap::new();
    let mut inherit: BTreeMap<(&str, bool), Vec<DatasetName>> = BTreeMap::new();
    for saved in noted.iter().filter(|s| s.property != MOUNTED && !is_as_noted(all, s)) {
        match &saved.local {
            Some(value) => set.entry((&saved.property, value)).or_default().push(saved.dataset.clone()),
            None => {
                // `canmount` is no inheritable property: only `-S` clears it.
                let back = saved.received || saved.property == "canmount";
                inherit.entry((&saved.property, back)).or_default().push(saved.dataset.clone());
            }
        }
    }
    let set: Vec<_> = set.into_iter().map(|((property, value), datasets)| (datasets, pairs(property, value))).collect();
    let inherited =
        inherit.iter().map(|((property, received), datasets)| zfs.inherit_all(datasets, property, *received));
    let all = inherited.chain(set.iter().map(|(datasets, pairs)| zfs.set_all(datasets, pairs))).collect();
    together(all).await
}

/// Mounts what is noted as mounted, parents first.
pub(super) async fn mount(zfs: &dyn Zfs, all: &[DatasetInfo], noted: &[Saved]) -> Result<(), Failure> {
    for info in all.iter().filter(|d| !is_mounted(d)) {
        let was = noted.iter().find(|s| s.dataset == info.name && s.property == MOUNTED);
        if was.is_some_and(|s| s.local.as_deref() == Some("yes")) {
            zfs.mount(&info.name).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is found there may be killed.
    #[test]
    fn only_what_is_mounted_is_looked_into() {
        let line = |at: &str, source: &str| format!("36 35 98:0 / {at} rw - zfs {source} rw\n");
        let text = line("/", "/dev/vda1")
            + &line("/srv/db", "tank/db")
            + &line("/srv/hidden", "tank/db")
            + &line("/srv/hidden", "tmpfs")
            + &line("/srv/other", "tank/dbx");
        let (db, new): (DatasetName, DatasetName) = ("tank/db".parse().unwrap(), "tank/new".parse().unwrap());
        assert_eq!(places_of(&[&db, &new], text.as_bytes()), [PathBuf::from("/srv/db")]);
        assert!(places_of(&[&new], text.as_bytes()).is_empty());
    }
}
