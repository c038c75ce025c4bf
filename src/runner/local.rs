//! A run of a job of this host alone: a snapshot, and the pruning by its rules.

use jiff::Timestamp;

use super::{files::JobState, report::JobReport, run::Run};
use crate::{
    driver::{LocalOptions, Upkeep, keep_up_here},
    plan::ExcludePattern,
    types::{Failure, SnapshotTag},
};

impl Run<'_> {
    pub(super) async fn carry_out_here(
        &self,
        report: &mut JobReport,
        state: &mut JobState,
        exclude: Vec<ExcludePattern>,
    ) -> Result<(), Failure> {
        report.attempts = 1;
        let late =
            if self.job.snapshot { self.snapshot(report, &self.tag(report.started)?, &exclude).await? } else { None };
        let failure = match self.keep_up_here(exclude, report.snapshot.clone(), false).await {
            Ok(found) => {
                report.pruned = found.destroyed();
                state.kept_for = found.kept_for;
                report.notes.extend(found.notes);
                found.failure
            }
            Err(failure) => Some(failure),
        };
        report.first_of(late, failure).map_or(Ok(()), Err)
    }

    /// Prunes by the job's rules, or says what would go. `taken`: the snapshot of this run.
    pub(super) async fn keep_up_here(
        &self,
        exclude: Vec<ExcludePattern>,
        taken: Option<SnapshotTag>,
        dry_run: bool,
    ) -> Result<Upkeep, Failure> {
        let job = self.job;
        let options = LocalOptions {
            name: job.name.clone(),
            dataset: job.dataset.clone(),
            recursive: job.recursive,
            exclude,
            prefix: job.prefix.clone(),
            keep: job.keep.clone(),
            taken,
            now: Timestamp::now(),
            dry_run,
        };
        keep_up_here(&self.context.engine, &self.context.stop, &options).await
    }
}
