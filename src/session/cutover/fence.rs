//! The fence: a source that nobody can write to, and the way back to exactly what it was.
//!
//! Invariant: after [`fence`] has returned well nothing of the unit is mounted, no device of it is open, all of it is
//! read-only, and carries the fence. An unmount without force that succeeds is the proof that no write was lost.

use std::collections::BTreeMap;

use super::{
    look::{MOUNTED, datasets, is_mounted, leg_in, names_of, value},
    unit::Unit,
};
use crate::{
    cutover::{leg::Leg, record::Saved},
    port::zfs::Zfs,
    types::{
        DatasetName, Failure, FailureClass,
        listing::{DatasetInfo, DatasetKind, FENCE, PropertySource},
    },
};

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
pub(super) async fn fence(zfs: &dyn Zfs, unit: &Unit, leg: Leg, former: &[Saved]) -> Result<(), Failure> {
    let all = datasets(zfs, unit).await?;
    if let Some(new) = all.iter().find(|d| !former.iter().any(|s| s.dataset == d.name)) {
        return Err(zfs_failed(format!("{} came into being while the fence was being set", new.name)));
    }
    if !is_fenced(&all, leg) {
        unmount(zfs, &all).await?;
        for volume in names_of(&all, DatasetKind::Volume) {
            zfs.close_volume(&volume).await?;
        }
        let every: Vec<DatasetName> = all.iter().map(|d| d.name.clone()).collect();
        // After the unmount: a filesystem that is mounted does not become read-only everywhere.
        zfs.set_all(&every, &[pairs("readonly", "on"), pairs(FENCE, &leg.to_string())].concat()).await?;
        let mountable: Vec<DatasetName> =
            all.iter().filter(|d| value(d, "canmount") == Some("on")).map(|d| d.name.clone()).collect();
        if !mountable.is_empty() {
            zfs.set_all(&mountable, &pairs("canmount", "noauto")).await?;
        }
        let now = datasets(zfs, unit).await?;
        if let Some(open) = now.iter().find(|d| !is_closed(d, leg)) {
            return Err(zfs_failed(format!("{} is not fenced although everything was done for it", open.name)));
        }
    }
    Ok(())
}

/// Unmounts all of it, the topmost first: what is below goes along.
async fn unmount(zfs: &dyn Zfs, all: &[DatasetInfo]) -> Result<(), Failure> {
    let mut gone: Vec<&DatasetName> = Vec::new();
    for info in all.iter().filter(|d| is_mounted(d)) {
        if !gone.iter().any(|above| info.name.is_at_or_below(above)) {
            zfs.unmount(&info.name).await?;
            gone.push(&info.name);
        }
    }
    Ok(())
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
    restore(zfs, former).await?;
    let all = datasets(zfs, unit).await?;
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

/// Sets properties as they are noted; one command for each value, whatever the number of datasets.
pub(super) async fn restore(zfs: &dyn Zfs, noted: &[Saved]) -> Result<(), Failure> {
    let mut set: BTreeMap<(&str, &str), Vec<DatasetName>> = BTreeMap::new();
    let mut inherit: BTreeMap<(&str, bool), Vec<DatasetName>> = BTreeMap::new();
    for saved in noted.iter().filter(|s| s.property != MOUNTED) {
        match &saved.local {
            Some(value) => set.entry((&saved.property, value)).or_default().push(saved.dataset.clone()),
            None => inherit.entry((&saved.property, saved.received)).or_default().push(saved.dataset.clone()),
        }
    }
    for ((property, received), datasets) in inherit {
        zfs.inherit_all(&datasets, property, received).await?;
    }
    for ((property, value), datasets) in set {
        zfs.set_all(&datasets, &pairs(property, value)).await?;
    }
    Ok(())
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
