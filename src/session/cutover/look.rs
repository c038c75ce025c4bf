//! What a host tells about a unit without its machine: what stands there, what it is like, and tidying up after passes.

use std::{collections::HashMap, slice::from_ref, sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::unit::Unit;
use crate::{
    cutover::{
        call::{Seen, final_hold, is_made_by, leg_of_final},
        leg::{CutoverId, Leg},
        record::Saved,
    },
    port::zfs::{Depth, Since, Zfs, ZfsError, ZfsErrorKind},
    session::engine::lock,
    types::{
        DatasetName, Failure, FailureClass, SnapshotName, SnapshotTag,
        listing::{DatasetInfo, DatasetKind, FENCE, HELD, JOB, Listing, Property, PropertySource},
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

pub(super) fn is_gone(root: &DatasetName) -> Failure {
    Failure::new(FailureClass::Refused, format!("{root} does not exist"))
        .hint("was it renamed or destroyed, or is its pool not imported?")
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
            return Err(is_gone(root));
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

/// All datasets of a unit, and what is to be told of the snapshot of this tag of each. Those of the roots are asked about while it is looked
/// what is below them: often there is nothing.
///
/// # Errors
/// When ZFS fails.
async fn at_tag(zfs: &dyn Zfs, unit: &Unit, tag: &SnapshotTag) -> Result<Vec<(DatasetInfo, Option<Since>)>, Failure> {
    let since = async |datasets: &[DatasetName]| {
        let snapshots: Result<Vec<SnapshotName>, _> = datasets.iter().map(|name| name.snapshot(tag)).collect();
        let snapshots = snapshots.map_err(|e| Failure::new(FailureClass::Usage, e))?;
        let told = if snapshots.is_empty() { Vec::new() } else { zfs.since(&snapshots).await? };
        Ok::<_, Failure>(datasets.iter().cloned().zip(told).collect::<HashMap<_, _>>())
    };
    let (all, mut told) = tokio::try_join!(datasets(zfs, unit), since(unit.roots()))?;
    let below: Vec<DatasetName> = all.iter().map(|d| d.name.clone()).filter(|name| !told.contains_key(name)).collect();
    told.extend(since(&below).await?);
    Ok(all.into_iter().map(|d| (told.get(&d.name).copied().flatten(), d)).map(|(since, d)| (d, since)).collect())
}

/// How long what was seen counts for what follows: it is looked at again when that is done.
const SEEN_FOR: Duration = Duration::from_secs(1);
/// The same of a listing, which is no older than the final snapshot that it shows: roots are sent one after the other. What changes here
/// ends it before.
const LISTED_FOR: Duration = Duration::from_secs(30);

/// What was just seen, for what follows at once.
#[derive(Default)]
pub struct Looked {
    unit: Mutex<Option<(Unit, Instant, Vec<DatasetInfo>)>>,
    trees: Mutex<HashMap<DatasetName, (Instant, Listing)>>,
}

impl Looked {
    /// Keeps what was seen of a unit since then.
    pub(super) fn keep(&self, unit: &Unit, since: Instant, all: Vec<DatasetInfo>) {
        *lock(&self.unit) = Some((unit.clone(), since, all));
    }

    /// What was just seen of this unit, once.
    pub(super) fn take(&self, unit: &Unit) -> Option<Vec<DatasetInfo>> {
        let seen = lock(&self.unit).take_if(|(of, ..)| of == unit);
        seen.filter(|(_, since, _)| since.elapsed() < SEEN_FOR).map(|(.., all)| all)
    }

    /// Keeps a listing of all that is at or below this root, which was just made.
    pub(super) fn keep_tree(&self, root: &DatasetName, listing: Listing) {
        let mut trees = lock(&self.trees);
        trees.retain(|_, (since, _)| since.elapsed() < LISTED_FOR);
        trees.insert(root.clone(), (Instant::now(), listing));
    }

    /// The listing that was just made of this root and all below it, once.
    pub(super) fn take_tree(&self, root: &DatasetName) -> Option<Listing> {
        let listed = lock(&self.trees).remove(root);
        listed.filter(|(since, _)| since.elapsed() < LISTED_FOR).map(|(_, listing)| listing)
    }

    /// Something is changed here: nothing counts that was seen before.
    pub(super) fn forget(&self) {
        *lock(&self.unit) = None;
        lock(&self.trees).clear();
    }
}

/// What stands there by the snapshots of this tag.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn look(zfs: &dyn Zfs, looked: &Looked, unit: &Unit, tag: &SnapshotTag) -> Result<Seen, Failure> {
    let began = Instant::now();
    let mut seen = at_tag(zfs, unit, tag).await?;
    // As those of the final snapshots are.
    seen.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    let (all, since): (Vec<DatasetInfo>, Vec<Option<Since>>) = seen.into_iter().unzip();
    // Since that very snapshot: one that something else took meanwhile would hide what was written before it. What has no such snapshot is
    // different anyway.
    let written = since.iter().flatten().map(|s| s.written).sum();
    let guids = since.iter().map(|since| since.map(|s| s.guid));
    let fences: Vec<Option<Leg>> = all.iter().map(|d| leg_in(d, FENCE)).collect();
    let fence = fences.first().copied().flatten().filter(|first| fences.iter().all(|f| *f == Some(*first)));
    let place = |d: &DatasetInfo| unit.place(&d.name).unwrap_or_default();
    let volumes = all.iter().filter(|d| d.kind == DatasetKind::Volume).map(place).collect();
    let seen = Seen { fence, written, guids: all.iter().map(place).zip(guids).collect(), volumes };
    looked.keep(unit, began, all);
    Ok(seen)
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

/// Destroys the snapshots that these legs made and that are older than one, of each dataset that has that one: without a newer one that it
/// received a target would be another than any snapshot says. What is held stays; but not by the job that it is received for, as a
/// receive whose process died may have left that to do, nor by the cutover itself.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn tidy(zfs: &dyn Zfs, unit: &Unit, legs: &[CutoverId], keep: &SnapshotTag) -> Result<(), Failure> {
    for root in unit.roots() {
        let mut serving = Vec::new();
        for info in zfs.list(root, Depth::Tree).await?.datasets {
            let Some(kept) = info.snapshots.iter().find(|s| s.tag == *keep) else { continue };
            if info.property(FENCE).is_none() {
                serving.push(info.snapshot_name(kept).map_err(|e| Failure::new(FailureClass::Usage, e))?);
            }
            let job = info.local(JOB).map(|job| format!("zmigrate:{job}"));
            let mut gone = Vec::new();
            for snapshot in &info.snapshots {
                if !is_made_by(snapshot.tag.as_str(), legs) || snapshot.createtxg >= kept.createtxg {
                    continue;
                }
                let name = info.snapshot_name(snapshot).map_err(|e| Failure::new(FailureClass::Usage, e))?;
                let is_used = |e: &ZfsError| matches!(e.kind, ZfsErrorKind::Busy | ZfsErrorKind::Exists);
                let own = leg_of_final(snapshot.tag.as_str()).map(final_hold);
                let mut destroyed = zfs.destroy_snapshot(&name).await;
                for tag in job.iter().chain(&own) {
                    if destroyed.as_ref().is_err_and(is_used) {
                        zfs.release(tag, from_ref(&name)).await?;
                        destroyed = zfs.destroy_snapshot(&name).await;
                    }
                }
                match destroyed {
                    Ok(()) => gone.push(snapshot.tag.as_str()),
                    // Somebody uses it: a hold, a clone, a send. It is small, and its name says what it is.
                    Err(e) if is_used(&e) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            // The other half of what was left to do.
            if job.is_some() && info.local(HELD).is_some_and(|held| gone.contains(&held)) {
                zfs.set(&info.name, &[(HELD.to_owned(), keep.to_string())]).await?;
            }
        }
        // Of a leg that was to leave this side, and did not: nobody comes home to what serves.
        if let Some(id) = leg_of_final(keep.as_str()).filter(|_| !serving.is_empty())
            && let Err(e) = zfs.release(&final_hold(id), &serving).await
        {
            tracing::debug!("a hold of cutover {id} stays below {root}: {e}");
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
