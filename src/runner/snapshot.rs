//! The snapshot at the beginning of a push, or of a run of this host alone, and the programs around it.
//!
//! Invariants: the program after the snapshot runs however the one before it, or the snapshot, has ended; nothing is snapshotted
//! that others write to.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::Instrument;

use super::{
    hooks::{Stage, run_hook},
    report::JobReport,
    run::Run,
};
use crate::{
    limits::RUN_LISTING_WITHIN,
    plan::ExcludePattern,
    port::zfs::SnapshotRequest,
    session::{
        patience::{done_in_time, in_time},
        snapshot::not_ours,
    },
    types::{DatasetName, Failure, FailureClass, SnapshotTag},
};

/// Names that are tried for a snapshot, each a second later, where somebody has taken one already.
pub(super) const NAME_TRIES: i64 = 5;

impl Run<'_> {
    /// Runs the programs around one atomic snapshot of the source on this host, and takes it into `report`. Why the program after it
    /// failed, if it did.
    pub(super) async fn snapshot(
        &self,
        report: &mut JobReport,
        tag: &SnapshotTag,
        exclude: &[ExcludePattern],
    ) -> Result<Option<Failure>, Failure> {
        let (job, root) = (self.job, &self.job.dataset);
        let found = self.zfs().datasets(std::slice::from_ref(root));
        let found = in_time(&format!("look at {root}"), RUN_LISTING_WITHIN, found).await?;
        let Some(info) = found.first() else {
            return Err(Failure::new(FailureClass::Zfs, format!("there is no dataset {root} on this host"))
                .hint("it may have been renamed, or its pool is not imported; a target keeps what it has"));
        };
        // Before anything is stopped for it; the engine looks again, and at what is below.
        if let Some(failure) = not_ours(info) {
            let does = if job.remote.is_some() { "passes on" } else { "prunes" };
            let job = &job.name;
            let hint = failure.hint.clone().unwrap_or_default();
            return Err(
                failure.hint(format!("{hint}; with snapshot = false, [job.{job}] {does} the snapshots that are there"))
            );
        }
        let mut except: Vec<DatasetName> = Vec::new();
        if job.recursive && !exclude.is_empty() {
            let out = |name: &DatasetName| {
                let below = name.relative_to(root).unwrap_or_default();
                exclude.iter().any(|pattern| pattern.excludes(below))
            };
            // Names alone: the snapshots of a whole tree are not looked at for them.
            let tree = in_time(&format!("list {root}"), RUN_LISTING_WITHIN, self.zfs().tree(root)).await?;
            except.extend(tree.into_iter().map(|d| d.name).filter(out));
        }
        self.before(report, tag.as_str()).await?;
        let taken = self.take(tag, &except).await;
        let (name, result) = match &taken {
            Ok((tag, _)) => (tag.as_str(), "ok"),
            Err(_) => (tag.as_str(), "failed"),
        };
        let after = run_hook(job, &report.run, Stage::After, name, result).await;
        let (tag, notes) = taken?;
        report.snapshot = Some(tag);
        report.notes.extend(notes);
        Ok(after.err())
    }

    /// The program before the snapshot. If it fails, the one after it runs as well: what the first has stopped halfway, or one of a run
    /// that died, must not stand still for ever.
    pub(super) async fn before(&self, report: &mut JobReport, tag: &str) -> Result<(), Failure> {
        let Err(failure) = run_hook(self.job, &report.run, Stage::Before, tag, "").await else { return Ok(()) };
        let after = run_hook(self.job, &report.run, Stage::After, tag, "failed").await;
        report.notes.extend(after.err().map(|after| after.to_string()));
        Err(failure)
    }

    /// The name for a snapshot whose name is taken.
    pub(super) fn a_second_after(&self, tag: &SnapshotTag) -> Result<SnapshotTag, Failure> {
        let at = self.job.prefix.time_of(tag).unwrap_or_default();
        self.tag(Timestamp::from_second(at.as_second() + 1).unwrap_or(at))
    }

    async fn take(&self, tag: &SnapshotTag, except: &[DatasetName]) -> Result<(SnapshotTag, Vec<String>), Failure> {
        let (job, mut tag) = (self.job, tag.clone());
        for later in 1..=NAME_TRIES {
            let request = SnapshotRequest {
                root: job.dataset.clone(),
                tag: tag.clone(),
                recursive: job.recursive,
                except: except.to_vec(),
            };
            // A pool that hangs must not keep a job's place among the others.
            let engine = Arc::clone(&self.context.engine);
            // It goes to its end, whoever waits for it: half of it could leave snapshots where none may be.
            let taken = tokio::spawn(async move { engine.snapshot_source(request).await }.in_current_span());
            let taken = async { taken.await.unwrap_or_else(|e| Err(Failure::new(FailureClass::Internal, e))) };
            match done_in_time(&format!("snapshot {}", job.dataset), RUN_LISTING_WITHIN, taken).await {
                Ok(notes) => return Ok((tag, notes)),
                // A clock that was set back, or another job of this prefix in the same second.
                Err(failure) if failure.exists && later < NAME_TRIES => {
                    tag = self.a_second_after(&tag)?;
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::new(FailureClass::Internal, "no name was left for a snapshot"))
    }
}
