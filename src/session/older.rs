//! Letting go of what a target held before, once its newest snapshot is held.
//!
//! Invariants: the newest snapshot that was acknowledged stays held; what is let go of is older than it, and held for this job alone;
//! `zmigrate:held` is set last, so that a target which names its newest snapshot there has nothing left to be finished.

use std::sync::Arc;

use super::bases::hold_tag;
use crate::{
    port::zfs::{Depth, Zfs, ZfsErrorKind, ZfsResult},
    types::{DatasetName, Failure, SnapshotName, listing::HELD},
    wire::message::ReceiveStep,
};

/// Snapshots whose holds are taken off unseen, newest first, where holds cannot be listed: one argument each.
const MAX_UNSEEN: usize = 200;

/// The newest snapshot of the target is held: lets go of older ones, and records that. `recorded` is what was recorded before.
///
/// # Errors
/// When ZFS fails; what is not recorded is tried again by the next step.
pub(super) async fn let_older_go(
    zfs: Arc<dyn Zfs>,
    dataset: DatasetName,
    step: ReceiveStep,
    holds: bool,
    recorded: Option<String>,
) -> Result<(), Failure> {
    let newest = step.snapshot.tag().to_string();
    // What this step started from, and what an earlier one recorded but did not come to release.
    let before = recorded.as_ref().and_then(|tag| dataset.snapshot(&tag.parse().ok()?).ok());
    let mut older: Vec<SnapshotName> = step.from.iter().cloned().chain(before.clone()).collect();
    older.retain(|name| name.dataset() == dataset && *name != step.snapshot);
    older.dedup();
    let from = step.from.as_ref().filter(|from| from.dataset() == dataset);
    // Steps that broke off after their holds, so that none recorded anything, left some in between as well.
    let in_order = match &before {
        Some(before) => Some(before) == from || *before == step.snapshot,
        None => step.creates,
    };
    if holds && !in_order {
        older.extend(held_before(&*zfs, &dataset, &step, &older).await?);
    }
    if holds && !older.is_empty() {
        zfs.release(&hold_tag(&step.job), &older).await?;
    }
    // Last: a target that names its newest snapshot here is protected and held.
    if recorded.is_none_or(|tag| tag != newest) {
        zfs.set(&dataset, &[(HELD.to_owned(), newest)]).await?;
    }
    Ok(())
}

/// The snapshots that are older than the new one and held for its job, but for those that are known; where holds cannot be listed, all
/// that may be.
async fn held_before(
    zfs: &dyn Zfs,
    dataset: &DatasetName,
    step: &ReceiveStep,
    known: &[SnapshotName],
) -> ZfsResult<Vec<SnapshotName>> {
    let listing = zfs.list(dataset, Depth::Root).await?;
    let Some(info) = listing.get(dataset) else { return Ok(Vec::new()) };
    let Some(newest) = info.snapshot_by_guid(step.to_guid).map(|s| s.createtxg) else { return Ok(Vec::new()) };
    let older = info.snapshots.iter().filter(|s| s.createtxg < newest).filter_map(|s| info.snapshot_name(s).ok());
    let older: Vec<SnapshotName> = older.filter(|name| !known.contains(name)).collect();
    if older.is_empty() {
        return Ok(older);
    }
    let ours = hold_tag(&step.job);
    match zfs.holds(&older).await {
        Ok(holds) => Ok(holds.into_iter().filter(|(_, tag)| *tag == ours).map(|(held, _)| held).collect()),
        Err(e) if e.kind == ZfsErrorKind::Unsupported => Ok(older.into_iter().rev().take(MAX_UNSEEN).collect()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fake::{FakeZfs, Op},
        port::zfs::SnapshotRequest,
        types::{Guid, listing::DatasetKind},
    };

    const JOB: &str = "aaaaaaaa11111111";

    fn name(tag: &str) -> SnapshotName {
        format!("in/db@{tag}").parse().unwrap()
    }

    /// A target with snapshots a to e, of which these are held for the job, and d for somebody else as well.
    async fn target(held: &[&str]) -> FakeZfs {
        let zfs = FakeZfs::new(1);
        zfs.create(&"in/db".parse().unwrap());
        for tag in ["a", "b", "c", "d", "e"] {
            let root = "in/db".parse().unwrap();
            let request = SnapshotRequest { root, tag: tag.parse().unwrap(), recursive: false, except: Vec::new() };
            zfs.snapshot(&request).await.unwrap();
        }
        let held: Vec<_> = held.iter().map(|tag| name(tag)).collect();
        zfs.hold(&format!("zmigrate:{JOB}"), &held).await.unwrap();
        zfs.hold("mine", &[name("b")]).await.unwrap();
        zfs
    }

    async fn held(zfs: &FakeZfs) -> Vec<String> {
        let all = ["a", "b", "c", "d", "e"].map(name);
        let holds = zfs.holds(&all).await.unwrap().into_iter();
        holds.filter(|(_, tag)| tag != "mine").map(|(name, _)| name.tag().to_string()).collect()
    }

    async fn arrives(zfs: &FakeZfs, tag: &str, from: Option<&str>, recorded: Option<&str>) -> Vec<String> {
        let dataset: DatasetName = "in/db".parse().unwrap();
        let listing = zfs.list(&dataset, Depth::Root).await.unwrap();
        let guid = |tag: &str| listing.datasets[0].snapshots.iter().find(|s| s.tag.as_str() == tag).unwrap().guid;
        let step = ReceiveStep {
            snapshot: name(tag),
            to_guid: guid(tag),
            from_guid: from.map(guid).filter(|guid| *guid != Guid(0)),
            from: from.map(name),
            kind: DatasetKind::Filesystem,
            creates: false,
            resumes: false,
            origin: None,
            raw: false,
            properties: Vec::new(),
            job: JOB.parse().unwrap(),
        };
        let recorded = recorded.map(str::to_owned);
        let_older_go(Arc::new(zfs.clone()), dataset.clone(), step, true, recorded).await.unwrap();
        let properties = zfs.local_properties(&dataset);
        assert!(properties.iter().any(|(name, value)| name == HELD && value.starts_with(tag)), "{properties:?}");
        held(zfs).await
    }

    /// Two steps in a row held what they received, and came to nothing more.
    #[tokio::test]
    async fn what_steps_that_broke_off_held_is_let_go_of() {
        assert_eq!(arrives(&target(&["a", "b", "c", "d"]).await, "d", Some("c"), Some("a")).await, ["d"]);
        assert_eq!(arrives(&target(&["a", "b", "c"]).await, "c", None, Some("a")).await, ["c"]);
        assert_eq!(arrives(&target(&["a", "b", "c"]).await, "c", None, None).await, ["c"], "nothing was ever recorded");
        let zfs = target(&["a", "b", "c"]).await;
        arrives(&zfs, "c", Some("b"), Some("a")).await;
        assert_eq!(zfs.holds(&[name("b")]).await.unwrap(), [(name("b"), "mine".to_owned())], "of the job alone");
    }

    /// What is newer may be what another step is at work with.
    #[tokio::test]
    async fn what_is_newer_stays_held() {
        assert_eq!(arrives(&target(&["a", "b", "d", "e"]).await, "d", Some("b"), Some("a")).await, ["d", "e"]);
    }

    #[tokio::test]
    async fn a_step_in_order_looks_at_nothing() {
        let zfs = target(&["a", "b"]).await;
        let before = [Op::List, Op::Holds].map(|op| zfs.count(op));
        assert_eq!(arrives(&zfs, "b", Some("a"), Some("a")).await, ["b"]);
        // The look of the test itself.
        assert_eq!([Op::List, Op::Holds].map(|op| zfs.count(op)), before.map(|n| n + 1));
    }
}
