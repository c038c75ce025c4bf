//! The fence: a source that nobody can write to, and the way back to exactly what it was.
//!
//! Invariant: after [`fence`] has returned well nothing of the unit is mounted, in no mount namespace that can be seen, no
//! device of it is open, all of it is read-only, and carries the fence. An unmount without force that succeeds, and leaves no
//! other mount of it behind, is the proof that no write was lost.

use std::{cmp::Reverse, collections::BTreeMap, future::Future, path::Path};

use futures_util::future::join_all;

use super::{
    Tools,
    look::{MOUNTED, datasets, is_mounted, leg_in, names_of, value},
    unit::Unit,
    users::{in_use, must_have_left, places_of},
};
use crate::{
    cutover::{leg::Leg, record::Saved},
    port::zfs::{Zfs, ZfsErrorKind, ZfsResult},
    types::{
        DatasetName, Failure, FailureClass,
        listing::{DatasetInfo, DatasetKind, FENCE, PropertySource},
        mounts::{self, Mount},
    },
};

pub(super) fn zfs_failed(text: String) -> Failure {
    Failure::new(FailureClass::Zfs, text)
}

fn pairs(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}

/// Fences the unit for `leg`. May be repeated. `former` names the datasets whose properties were noted, and `seen` is what was seen then,
/// if that was just now.
///
/// # Errors
/// When something is in use, or ZFS fails. It may be fenced in part then.
pub(super) async fn fence(
    tools: &Tools,
    unit: &Unit,
    leg: Leg,
    former: &[Saved],
    seen: Option<Vec<DatasetInfo>>,
    kill_busy: bool,
) -> Result<(), Failure> {
    let zfs = &*tools.zfs;
    let mut failed = None;
    let is_noted = |d: &DatasetInfo| former.iter().any(|s| s.dataset == d.name);
    let seen = seen.filter(|all| !is_fenced(all, leg) && all.iter().all(is_noted));
    if let Some(seen) = &seen {
        failed = set(tools, seen, leg, kill_busy).await.err();
    }
    // What is seen from here on counts: also what was mounted, or came into being, in between.
    let all = datasets(zfs, unit).await?;
    let mounts = |all: &[DatasetInfo]| all.iter().map(|d| (d.name.clone(), is_mounted(d))).collect::<Vec<_>>();
    if let Some(failure) = failed.filter(|_| seen.is_some_and(|seen| mounts(&seen) == mounts(&all))) {
        return Err(failure);
    }
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
        set(tools, &all, leg, kill_busy).await?;
        let now = datasets(zfs, unit).await?;
        if let Some(open) = now.iter().find(|d| !is_closed(d, leg)) {
            return Err(zfs_failed(format!("{} is not fenced although everything was done for it", open.name)));
        }
    }
    Ok(())
}

/// Does all that a fence is to these datasets.
async fn set(tools: &Tools, all: &[DatasetInfo], leg: Leg, kill_busy: bool) -> Result<(), Failure> {
    let zfs = &*tools.zfs;
    unmount(tools, all, kill_busy).await?;
    must_have_left(&*tools.busy, &names_of(all, DatasetKind::Filesystem)).await?;
    for volume in names_of(all, DatasetKind::Volume) {
        let device = volume.device_node();
        let mut closed = zfs.close_volume(&volume).await;
        if let Err(e) = &closed
            && e.kind == ZfsErrorKind::Busy
        {
            in_use(&*tools.busy, &volume, &[device], kill_busy).await?;
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
    together(work).await
}

/// Unmounts all of it, the deepest place first: one mount keeps another busy in which it lies, whatever the datasets are called.
async fn unmount(tools: &Tools, all: &[DatasetInfo], kill_busy: bool) -> Result<(), Failure> {
    let mounts = mounts_now();
    let mut due: Vec<&DatasetInfo> = all.iter().filter(|d| is_mounted(d) && !goes_along(d, all)).collect();
    due.sort_by_cached_key(|d| Reverse(depth(d, &mounts)));
    for info in due {
        let mut unmounted = tools.zfs.unmount(&info.name).await;
        if let Err(e) = &unmounted
            && e.kind == ZfsErrorKind::Busy
        {
            let below: Vec<&DatasetName> =
                all.iter().map(|d| &d.name).filter(|name| name.is_at_or_below(&info.name)).collect();
            // By now: what was unmounted since left a directory of another filesystem, and its users are none of ours.
            in_use(&*tools.busy, &info.name, &places_of(&below, &mounts_now()), kill_busy).await?;
            unmounted = tools.zfs.unmount(&info.name).await;
        }
        unmounted?;
    }
    Ok(())
}

fn mounts_now() -> Vec<Mount> {
    mounts::parse(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// Whether it is unmounted with a dataset above it: its place is that one's, and its own name below that.
fn goes_along(info: &DatasetInfo, all: &[DatasetInfo]) -> bool {
    let inherits = |d: &DatasetInfo| {
        d.property("mountpoint").is_some_and(|p| !matches!(p.source, PropertySource::Local | PropertySource::Received))
    };
    let above = |d: &DatasetInfo| all.iter().find(|other| d.name.parent().is_some_and(|parent| parent == other.name));
    let mut at = info;
    while inherits(at)
        && let Some(next) = above(at)
    {
        if is_mounted(next) {
            return true;
        }
        at = next;
    }
    false
}

/// How deep the place of a filesystem lies: where it is mounted, or else where it will be.
fn depth(info: &DatasetInfo, mounts: &[Mount]) -> usize {
    let mounted = mounts.iter().find(|m| m.is_of(&info.name)).map(|m| m.at.as_path());
    let place = mounted.or_else(|| Some(Path::new(value(info, "mountpoint")?)));
    place.map_or(0, |place| place.components().count())
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
    mount(zfs, &all, former).await?;
    await_devices(zfs, &all, former).await
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
/// touched: ZFS may unmount and mount a filesystem for it, which something may be using. What is noted of a dataset that is gone by now is
/// of no account.
pub(super) async fn restore(zfs: &dyn Zfs, all: &[DatasetInfo], noted: &[Saved]) -> Result<(), Failure> {
    let mut set: BTreeMap<(&str, &str), Vec<DatasetName>> = BTreeMap::new();
    let mut inherit: BTreeMap<(&str, bool), Vec<DatasetName>> = BTreeMap::new();
    let is_there = |s: &&Saved| all.iter().any(|d| d.name == s.dataset);
    for saved in noted.iter().filter(is_there).filter(|s| s.property != MOUNTED && !is_as_noted(all, s)) {
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

/// Waits for the devices of volumes that are noted to have one: who is started next may open it at once.
pub(super) async fn await_devices(zfs: &dyn Zfs, all: &[DatasetInfo], noted: &[Saved]) -> Result<(), Failure> {
    let mode = |d: &DatasetInfo| noted.iter().find(|s| s.dataset == d.name && s.property == "volmode");
    // Without its key a volume has none.
    let is_locked = |d: &DatasetInfo| d.encryption.as_ref().is_some_and(|e| !e.key_loaded);
    let shall = |d: &&DatasetInfo| !is_locked(d) && mode(d).is_some_and(|s| s.value != "none");
    together(all.iter().filter(shall).map(|d| zfs.await_volume(&d.name)).collect()).await
}

/// Mounts what is noted as mounted, the shallowest place first: what is mounted over another hides it.
pub(super) async fn mount(zfs: &dyn Zfs, all: &[DatasetInfo], noted: &[Saved]) -> Result<(), Failure> {
    let was = |d: &DatasetInfo| noted.iter().find(|s| s.dataset == d.name && s.property == MOUNTED);
    let is_due = |d: &DatasetInfo| !is_mounted(d) && was(d).is_some_and(|s| s.local.as_deref() == Some("yes"));
    let mut due: Vec<&DatasetInfo> = all.iter().filter(|d| is_due(d)).collect();
    due.sort_by_cached_key(|d| depth(d, &[]));
    for info in due {
        zfs.mount(&info.name).await?;
    }
    Ok(())
}
