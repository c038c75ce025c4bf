//! What a host tells about a unit without its machine: what stands there, what it is like, and tidying up after passes.

use std::collections::HashMap;

use super::unit::Unit;
use crate::{
    cutover::{
        call::{Seen, is_made_by},
        leg::{CutoverId, Leg},
        record::Saved,
    },
    port::zfs::{Depth, Zfs, ZfsErrorKind},
    types::{
        DatasetName, Failure, FailureClass, Guid, SnapshotName, SnapshotTag,
        listing::{DatasetInfo, DatasetKind, FENCE, JOB, Property, PropertySource},
    },
};

/// What a fence changes of a filesystem, or a receive into it.
const OF_FILESYSTEMS: &[&str] = &["readonly", "canmount", "setuid", "exec", "devices"];
/// What a fence changes of a volume, or a receive into it.
const OF_VOLUMES: &[&str] = &["readonly", "volmode", "snapdev"];
/// Not a property that can be set, but noted as one: whether it was mounted.
pub(super) const MOUNTED: &str = "mounted";

/// Whether a cutover may set that property of a target as the source has it.
pub(super) fn may_be_set(property: &str) -> bool {
    OF_FILESYSTEMS.contains(&property) || OF_VOLUMES.contains(&property) || matches!(property, "mountpoint" | MOUNTED)
}

/// Of what a fence changes, that which a dataset inherits from its parent.
pub(super) fn inherited() -> Vec<&'static str> {
    let mut all = [OF_FILESYSTEMS, OF_VOLUMES].concat();
    all.retain(|property| *property != "canmount");
    all.sort_unstable();
    all.dedup();
    all
}

/// All datasets of a unit, in order.
///
/// # Errors
/// When a root is not there.
pub(super) async fn datasets(zfs: &dyn Zfs, unit: &Unit) -> Result<Vec<DatasetInfo>, Failure> {
    let mut all = Vec::new();
    for root in unit.roots() {
        let tree = zfs.tree(root).await?;
        if tree.is_empty() {
            return Err(Failure::new(FailureClass::Refused, format!("{root} does not exist"))
                .hint("was it renamed or destroyed, or is its pool not imported?"));
        }
        all.extend(tree);
    }
    Ok(all)
}

/// The value of a property of a dataset, wherever it comes from.
pub(super) fn value<'a>(info: &'a DatasetInfo, name: &str) -> Option<&'a str> {
    info.property(name).map(|p| p.value.as_str())
}

pub(super) fn is_mounted(info: &DatasetInfo) -> bool {
    info.kind == DatasetKind::Filesystem && value(info, MOUNTED) == Some("yes")
}

/// The leg in a property that was set on the dataset itself.
pub(super) fn leg_in(info: &DatasetInfo, property: &str) -> Option<Leg> {
    info.local(property).and_then(|text| text.parse().ok())
}

/// The datasets of a unit, and the snapshots of a tag with their GUIDs.
pub(super) struct AtTag {
    pub all: Vec<DatasetInfo>,
    /// One of each dataset, in the same order.
    pub snapshots: Vec<SnapshotName>,
    /// `None` where there is none.
    pub guids: Vec<Option<Guid>>,
}

/// Looks at all datasets of a unit, and at their snapshots of this tag; `beside` is given these and asked while GUIDs are. Those of the
/// roots are asked for while it is looked what is below them: often there is nothing.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn at_tag<T>(
    zfs: &dyn Zfs,
    unit: &Unit,
    tag: &SnapshotTag,
    beside: impl AsyncFnOnce(&[DatasetInfo], &[SnapshotName]) -> T,
) -> Result<(AtTag, T), Failure> {
    let guids = async |snapshots: &[SnapshotName]| match snapshots {
        [] => Ok(Vec::new()),
        _ => zfs.snapshot_guids(snapshots).await.map_err(Failure::from),
    };
    let of_roots = snapshots_of(unit.roots(), tag)?;
    let (all, mut known) = tokio::try_join!(datasets(zfs, unit), guids(&of_roots))?;
    let names: Vec<DatasetName> = all.iter().map(|d| d.name.clone()).collect();
    let snapshots = snapshots_of(&names, tag)?;
    let below: Vec<SnapshotName> = snapshots.iter().filter(|s| !of_roots.contains(s)).cloned().collect();
    let (more, asked) = tokio::join!(guids(&below), beside(&all, &snapshots));
    known.extend(more?);
    let known: HashMap<&SnapshotName, Option<Guid>> = of_roots.iter().chain(&below).zip(known).collect();
    let guids = snapshots.iter().map(|snapshot| known.get(snapshot).copied().flatten()).collect();
    Ok((AtTag { all, snapshots, guids }, asked))
}

/// What stands there by the snapshots of this tag.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn look(zfs: &dyn Zfs, unit: &Unit, tag: &SnapshotTag) -> Result<Seen, Failure> {
    // Beside the GUIDs: during a cutover nobody can write while this is looked at.
    let written = async |all: &[DatasetInfo], snapshots: &[SnapshotName]| match all.iter().map(|d| d.written).sum() {
        Some(written) => Ok(written),
        None => zfs.written_since(snapshots).await,
    };
    let (AtTag { all, snapshots, guids }, written) = at_tag(zfs, unit, tag, written).await?;
    let written = if guids.iter().all(Option::is_some) {
        written?
    } else {
        // What has no such snapshot is different anyway; of the others it is told.
        let there = snapshots.iter().zip(&guids).filter(|(_, guid)| guid.is_some());
        let there: Vec<SnapshotName> = there.map(|(snapshot, _)| snapshot.clone()).collect();
        match written {
            Ok(written) => written,
            Err(_) if there.is_empty() => 0,
            Err(_) => zfs.written_since(&there).await?,
        }
    };
    let fences: Vec<Option<Leg>> = all.iter().map(|d| leg_in(d, FENCE)).collect();
    let fence = fences.first().copied().flatten().filter(|first| fences.iter().all(|f| *f == Some(*first)));
    let place = |d: &DatasetInfo| unit.place(&d.name).unwrap_or_default();
    let volumes = all.iter().filter(|d| d.kind == DatasetKind::Volume).map(place).collect();
    Ok(Seen { fence, written, guids: all.iter().map(place).zip(guids).collect(), volumes })
}

fn snapshots_of(all: &[DatasetName], tag: &SnapshotTag) -> Result<Vec<SnapshotName>, Failure> {
    let names = all.iter().map(|name| name.snapshot(tag));
    names.collect::<Result<_, _>>().map_err(|e| Failure::new(FailureClass::Usage, e))
}

/// What a fence would change, as it is now; or as it is wanted, where it has not become so yet.
pub(super) fn former(all: &[DatasetInfo], wanted: &[Saved]) -> Vec<Saved> {
    let as_wanted = |now: Saved| {
        let found = wanted.iter().find(|s| s.dataset == now.dataset && s.property == now.property);
        found.cloned().unwrap_or(now)
    };
    all.iter().flat_map(|info| of(info, &[])).map(as_wanted).collect()
}

/// What a target has to become like: that, and where it is mounted.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn describe(zfs: &dyn Zfs, unit: &Unit) -> Result<Vec<Saved>, Failure> {
    let all = datasets(zfs, unit).await?;
    let job = |info: &DatasetInfo| {
        let value = info.local(JOB)?.to_owned();
        Some(Saved { dataset: info.name.clone(), property: JOB.into(), local: None, value, received: false })
    };
    Ok(all.iter().flat_map(|info| of(info, &["mountpoint"]).into_iter().chain(job(info))).collect())
}

fn of(info: &DatasetInfo, more: &[&str]) -> Vec<Saved> {
    let names = match info.kind {
        DatasetKind::Filesystem => [OF_FILESYSTEMS, more].concat(),
        DatasetKind::Volume => OF_VOLUMES.to_vec(),
    };
    let saved = |p: &Property| Saved {
        dataset: info.name.clone(),
        property: p.name.clone(),
        local: (p.source == PropertySource::Local).then(|| p.value.clone()),
        value: p.value.clone(),
        received: p.source == PropertySource::Received,
    };
    let mut all: Vec<Saved> = names.iter().filter_map(|name| info.property(name)).map(saved).collect();
    if info.kind == DatasetKind::Filesystem {
        let value = if is_mounted(info) { "yes" } else { "no" }.to_owned();
        let local = Some(value.clone());
        all.push(Saved { dataset: info.name.clone(), property: MOUNTED.into(), local, value, received: false });
    }
    all
}

/// Destroys the snapshots that these legs made, but for one. What is held stays.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn tidy(zfs: &dyn Zfs, unit: &Unit, legs: &[CutoverId], keep: &SnapshotTag) -> Result<(), Failure> {
    for root in unit.roots() {
        for info in zfs.list(root, Depth::Tree).await?.datasets {
            for snapshot in &info.snapshots {
                if !is_made_by(snapshot.tag.as_str(), legs) || snapshot.tag == *keep {
                    continue;
                }
                let name = info.snapshot_name(snapshot).map_err(|e| Failure::new(FailureClass::Usage, e))?;
                match zfs.destroy_snapshot(&name).await {
                    Ok(()) => {}
                    // Somebody uses it: a hold, a clone, a send. It is small, and its name says what it is.
                    Err(e) if matches!(e.kind, ZfsErrorKind::Busy | ZfsErrorKind::Exists) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }
    Ok(())
}

/// Those of the datasets that are of this kind.
pub(super) fn names_of(all: &[DatasetInfo], kind: DatasetKind) -> Vec<DatasetName> {
    all.iter().filter(|d| d.kind == kind).map(|d| d.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_set_what_a_fence_does_not_change() {
        for property in ["readonly", "canmount", "volmode", "mountpoint", "mounted"] {
            assert!(may_be_set(property), "{property}");
        }
        for property in ["sharenfs", "sharesmb", "quota", "keylocation", "zmigrate:fence", "zmigrate:job", "sync"] {
            assert!(!may_be_set(property), "{property}");
        }
    }
}
