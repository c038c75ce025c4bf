//! The requests that take something away from a target, and the placeholders that are made for one.
//!
//! Invariant: what is about to be destroyed is checked against what is really there, under the target's lock, and written to
//! the journal first.

use super::{
    bases::hold_tag,
    engine::{EngineSession, refused},
};
use crate::{
    port::{
        journal::{Entry, Journal, Phase},
        zfs::{Depth, ZfsErrorKind, ZfsResult},
    },
    types::{
        DatasetName, Failure, FailureClass, Guid, JobId, SnapshotName,
        listing::{JOB, PLACEHOLDER},
    },
    wire::message::Reply,
};

impl EngineSession {
    pub(super) async fn create_placeholder(&self, dataset: &DatasetName) -> Result<Reply, Failure> {
        self.must_go_on()?;
        if !self.holds(dataset) {
            return Err(Failure::new(
                FailureClass::Protocol,
                format!("{dataset} has nothing to do with this session's targets"),
            ));
        }
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let properties = [set("canmount", "off"), set("readonly", "on"), set(PLACEHOLDER, "on")];
        match self.zfs().create_filesystem(dataset, &properties).await {
            Ok(()) => Ok(Reply::Done),
            // Somebody else made it, or an earlier try did: a parent is all that is needed.
            Err(e) if e.kind == ZfsErrorKind::Exists => Ok(Reply::Done),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) async fn remove_placeholder(&self, dataset: &DatasetName) -> Result<Reply, Failure> {
        self.must_hold(dataset)?;
        let listing = self.zfs().list(dataset, Depth::Tree).await?;
        let Some(found) = listing.get(dataset) else { return Ok(Reply::Done) };
        if !found.is_placeholder() || listing.datasets.len() != 1 || found.local("canmount") != Some("off") {
            return Err(refused(format!("{dataset} is no empty placeholder any more, so it is not touched")));
        }
        let entry = Entry::RemovePlaceholder { dataset: dataset.clone() };
        self.journalled(entry, self.zfs().destroy_filesystem(dataset)).await?;
        Ok(Reply::Done)
    }

    pub(super) async fn rollback(
        &self,
        to: &SnapshotName,
        to_guid: Guid,
        destroys: &[SnapshotName],
    ) -> Result<Reply, Failure> {
        let dataset = to.dataset();
        self.must_hold(&dataset)?;
        self.nothing_is_left_of(&dataset).await;
        let listing = self.zfs().list(&dataset, Depth::Root).await?;
        let changed = |what: &str| {
            refused(format!("{dataset} changed since the run was planned ({what}); nothing was rolled back"))
        };
        let found = listing.get(&dataset).ok_or_else(|| changed("it is gone"))?;
        self.may_enter(found)?;
        let at = found
            .snapshots
            .iter()
            .position(|s| s.guid == to_guid && s.tag == to.tag())
            .ok_or_else(|| changed("the snapshot to go back to is gone"))?;
        for newer in &found.snapshots[at + 1..] {
            if !destroys.iter().any(|d| d.dataset() == dataset && d.tag() == newer.tag) {
                return Err(changed(&format!("it has a new snapshot @{}", newer.tag)));
            }
            // A name says nothing of what it stands for: the target's own scripts may have made it anew.
            if !self.was_shown(newer.guid) {
                return Err(changed(&format!("@{} is another snapshot now", newer.tag)));
            }
        }
        let ours = found.local(JOB).and_then(|job| job.parse().ok()).map(|job: JobId| hold_tag(&job));
        let newer: Vec<_> = found.snapshots[at + 1..].iter().filter_map(|s| found.snapshot_name(s).ok()).collect();
        let can_hold = self.capabilities(&dataset).await?.holds;
        if can_hold && !newer.is_empty() {
            // `zfs rollback` would find a hold of somebody else only halfway through, so it is looked for first.
            let held = match self.zfs().holds(&newer).await {
                // Some have holds and cannot list them.
                Err(e) if e.kind == ZfsErrorKind::Unsupported => Vec::new(),
                held => held?,
            };
            if let Some((snapshot, tag)) = held.iter().find(|(_, tag)| Some(tag) != ours.as_ref()) {
                return Err(refused(format!("{snapshot} is held ({tag}), so nothing was rolled back"))
                    .hint(format!("`zfs release {tag} {snapshot}` there, if nobody needs it")));
            }
        }
        // Each is destroyed by itself, so what would stop that halfway is looked for first.
        if let Some(clone) = self.clone_of(&newer).await? {
            return Err(refused(format!("{clone} is a clone of a newer snapshot, so nothing was rolled back"))
                .hint("`zfs promote` or destroy it there, if nobody needs what it comes from"));
        }
        let (createtxg, mut marks) = (found.snapshots[at].createtxg, Vec::new());
        for bookmark in found.bookmarks.iter().filter(|b| b.createtxg > createtxg) {
            marks.push(found.bookmark_name(bookmark).map_err(|e| Failure::new(FailureClass::Internal, e))?);
        }
        let entry = Entry::Rollback { to: to.clone(), destroys: destroys.to_vec() };
        let act = async {
            // What was the newest common snapshot is held by the job itself; the one that will be takes its place.
            if let Some(tag) = ours.filter(|_| can_hold) {
                self.zfs().hold(&tag, std::slice::from_ref(to)).await?;
                if !newer.is_empty() {
                    self.zfs().release(&tag, &newer).await?;
                }
            }
            // By name, the newest first: what nobody was shown stops the rollback, and is not lost.
            for snapshot in newer.iter().rev() {
                self.zfs().destroy_snapshot(snapshot).await?;
            }
            for bookmark in &marks {
                self.zfs().destroy_bookmark(bookmark).await?;
            }
            self.zfs().rollback(to).await
        };
        self.journalled(entry, act).await?;
        Ok(Reply::Done)
    }

    /// A dataset that was cloned from one of these snapshots of one pool, if there is any.
    pub(super) async fn clone_of(&self, snapshots: &[SnapshotName]) -> Result<Option<DatasetName>, Failure> {
        let Some(first) = snapshots.first() else { return Ok(None) };
        let pool = first.dataset().pool().parse().map_err(|e| Failure::new(FailureClass::Internal, e))?;
        let all = self.zfs().tree(&pool).await?;
        let clone = all.into_iter().find(|info| info.origin.as_ref().is_some_and(|from| snapshots.contains(from)));
        Ok(clone.map(|clone| clone.name))
    }

    pub(super) async fn abort_partial(&self, dataset: DatasetName) -> Result<Reply, Failure> {
        self.must_hold(&dataset)?;
        // What is not there needs no line in the journal, which does not grow for ever.
        let listing = self.zfs().list(&dataset, Depth::Root).await?;
        let Some(info) = listing.get(&dataset).filter(|info| info.resume_token.is_some() || info.inconsistent) else {
            return Ok(Reply::Done);
        };
        self.may_enter(info)?;
        let entry = Entry::AbortPartial { dataset: dataset.clone() };
        self.journalled(entry, self.zfs().abort_receive(&dataset)).await?;
        Ok(Reply::Done)
    }

    /// As the function of that name, on behalf of whoever leads this session.
    pub(super) async fn journalled(
        &self,
        entry: Entry,
        act: impl Future<Output = ZfsResult<()>>,
    ) -> Result<(), Failure> {
        Ok(journalled(&*self.engine.journal, &self.holder, &entry, act).await??)
    }
}

/// Writes the intent, acts, writes the outcome. What came of the act is inside.
///
/// # Errors
/// When the intent cannot be written: then nothing was done.
pub(super) async fn journalled(
    journal: &dyn Journal,
    by: &str,
    entry: &Entry,
    act: impl Future<Output = ZfsResult<()>>,
) -> Result<ZfsResult<()>, Failure> {
    let write = |phase: Phase| {
        journal.append(by, &phase, entry).map_err(|e| {
            Failure::new(FailureClass::Usage, format!("the journal cannot be written: {e}"))
                .hint("check state_dir in the configuration; nothing is destroyed before it is written down")
        })
    };
    write(Phase::Intent)?;
    let result = act.await;
    let outcome = write(match &result {
        Ok(()) => Phase::Done,
        Err(e) => Phase::Failed { cause: e.to_string() },
    });
    if let Err(failure) = outcome {
        // It is done, or failed, all the same; the intent stands in the journal.
        tracing::error!("{failure}");
    }
    Ok(result)
}

#[cfg(test)]
#[path = "destructive_tests.rs"]
mod tests;
