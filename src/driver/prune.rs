//! Pruning of this host's snapshots, dataset by dataset: of a push's source, and of a job of this host alone.
//!
//! Invariant: of what others write to below the root nothing goes: that is pruned by whoever writes it, under its lock. Nor of what a
//! cutover moved away.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;

use super::upkeep::{Upkeep, given_up, report};
use crate::{
    jobs::{
        names::Prefix,
        retention::Retention,
        spare::{Decision, KeptFor, Need, Subject},
    },
    limits::MAX_PRUNED,
    session::{engine::EngineSession, prune::correct, snapshot::not_ours},
    types::{
        DatasetName, Failure, Guid, SnapshotTag,
        listing::{DatasetInfo, FENCE, JOB},
    },
};

/// One pruning of a tree on this host.
pub(super) struct PruneHere<'a> {
    pub session: &'a Arc<EngineSession>,
    /// The dataset that the job names: whoever wrote the job meant that one, also if it is a target.
    pub root: &'a DatasetName,
    /// The job that writes it, if it is a target: what that writes below it is meant as well.
    pub root_job: Option<&'a str>,
    pub prefix: &'a Prefix,
    pub rules: &'a Retention,
    pub dry_run: bool,
    /// As a [`super::PruneReport`] has it.
    pub side: &'static str,
    /// The id of the job itself, whose marks are of its own target; `None` if its target does not tell.
    pub own: Option<&'a str>,
    pub kept_for: Vec<(KeptFor, &'a DatasetName)>,
    /// Datasets of others that hold snapshots which the rules would have judged.
    pub of_others: Vec<&'a DatasetName>,
}

impl<'a> PruneHere<'a> {
    /// Prunes one dataset, and takes into `found` what became of it. Ages are reckoned at `now`.
    ///
    /// # Errors
    /// What ends everything. What could not be destroyed is in `found`.
    pub async fn dataset(
        &mut self,
        info: &'a DatasetInfo,
        needs: &[Need],
        now: Timestamp,
        found: &mut Upkeep,
    ) -> Result<(), Failure> {
        if info.property(FENCE).is_some() {
            found.notes.push(format!("{} was moved away by a cutover, so nothing of it is pruned", info.name));
            return Ok(());
        }
        let is_meant = info.name == *self.root || self.root_job.is_some_and(|job| info.local(JOB) == Some(job));
        if !is_meant && not_ours(info).is_some() {
            let is_judged = info.snapshots.iter().any(|snapshot| self.prefix.time_of(&snapshot.tag).is_some());
            self.of_others.extend(is_judged.then_some(&info.name));
            return Ok(());
        }
        // Holds are looked at where something is to go, so that a round without news costs no command for each dataset.
        let subject = Subject { dataset: info, holds: &[], needs, prefix: self.prefix };
        let mut decided = subject.decide(Some(self.rules), now);
        let asked = wanted(&decided).len();
        let pruned = prune_source(self.session, (self.prefix, self.dry_run), &info.name, &mut decided).await;
        // Of what was to go and stayed, only the holds tell why.
        let holds = match asked > wanted(&decided).len() {
            true => self.session.holds_of(info).await.unwrap_or_default(),
            false => Vec::new(),
        };
        let subject = Subject { holds: &holds, ..subject };
        let kept = self.own.and_then(|own| subject.kept_for(own, self.rules, now));
        self.kept_for.extend(kept.map(|kept| (kept, &info.name)));
        found.pruned.push(report(&info.name, self.side, decided));
        found.unless_it_ends_all(pruned)
    }

    /// Says what a person should know of all of it.
    pub fn conclude(self, found: &mut Upkeep) {
        if let Some(first) = self.of_others.first() {
            let more = if self.of_others.len() > 1 {
                format!(" and {} more", self.of_others.len() - 1)
            } else {
                String::new()
            };
            found.notes.push(format!("nothing of {first}{more} is pruned: another job or host writes there"));
        }
        found.kept_for = given_up(self.root, &self.kept_for);
        found.notes.extend(found.kept_for.clone());
    }
}

/// What is to go, oldest first.
pub(super) fn wanted(decided: &[Decision]) -> Vec<(SnapshotTag, Guid)> {
    decided.iter().filter(|d| !d.keep).map(|d| (d.tag.clone(), d.guid)).collect()
}

/// `how`: the prefix of what may go, and whether nothing is to be destroyed.
async fn prune_source(
    local: &Arc<EngineSession>,
    how: (&Prefix, bool),
    dataset: &DatasetName,
    decided: &mut [Decision],
) -> Result<(), Failure> {
    let wanted = wanted(decided);
    for (at, batch) in wanted.chunks(MAX_PRUNED).enumerate() {
        let (ours, dataset, prefix) = (Arc::clone(local), dataset.clone(), how.0.clone());
        let (batch, dry_run) = (batch.to_vec(), how.1);
        let act = async move { ours.prune_source(&dataset, &prefix, &batch, dry_run).await };
        match local.to_its_end(act).await {
            Ok(pruned) => correct(decided, pruned),
            Err(failure) => {
                undone(decided, &wanted[at * MAX_PRUNED..], &failure);
                return Err(failure);
            }
        }
    }
    Ok(())
}

/// What was to go and, as far as this side knows, did not.
pub(super) fn undone(decided: &mut [Decision], rest: &[(SnapshotTag, Guid)], failure: &Failure) {
    let rest: HashSet<Guid> = rest.iter().map(|(_, guid)| *guid).collect();
    for decision in decided.iter_mut().filter(|d| !d.keep && rest.contains(&d.guid)) {
        (decision.keep, decision.why) = (true, format!("could not be destroyed: {failure}"));
    }
}
