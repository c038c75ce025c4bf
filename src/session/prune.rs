//! Destroying the snapshots that a job no longer keeps, one by one.
//!
//! Invariants: what is asked for is judged again by what is there now; only names of the job's prefix go, and of those none
//! that `jobs::spare` spares; on a target, only of a dataset that bears `zmigrate:job` of this job, under its lock, which a dry run needs not. Each is
//! written to the journal first, and `zfs destroy` itself refuses what is held or cloned.

use std::collections::HashMap;

use super::engine::{EngineSession, refused};
use crate::{
    jobs::{
        names::Prefix,
        spare::{Decision, Need, Subject},
    },
    limits::MAX_PRUNED,
    port::{
        journal::Entry,
        zfs::{Depth, ZfsErrorKind},
    },
    types::{
        DatasetName, Failure, FailureClass, Guid, SnapshotName, SnapshotTag,
        listing::{DatasetInfo, JOB},
    },
    wire::message::{PruneRequest, Pruned, Reply},
};

impl EngineSession {
    /// Prunes a target, as a run asks for it.
    pub(super) async fn prune_target(&self, request: PruneRequest) -> Result<Reply, Failure> {
        let dataset = &request.dataset;
        // Who changes nothing keeps nobody away.
        if !request.dry_run {
            self.must_hold(dataset)?;
        }
        if request.snapshots.len() > MAX_PRUNED {
            let text = format!("more than {MAX_PRUNED} snapshots were to be pruned at once");
            return Err(Failure::new(FailureClass::Protocol, text));
        }
        let prefix: Prefix = request.prefix.parse().map_err(|e| Failure::new(FailureClass::Protocol, e))?;
        let info = self.look_at(dataset).await?;
        if info.local(JOB) != Some(request.job.as_str()) {
            return Err(refused(format!("{dataset} is no target of {}, so nothing of it is pruned", request.job))
                .hint("its property zmigrate:job says whose target it is; a run of the job sets it"));
        }
        self.prune(&info, &prefix, &request.snapshots, request.dry_run).await.map(Reply::Pruned)
    }

    /// Prunes a source on this host.
    ///
    /// # Errors
    /// When ZFS or the journal fails; what was destroyed before stays so.
    pub async fn prune_source(
        &self,
        dataset: &DatasetName,
        prefix: &Prefix,
        snapshots: &[(SnapshotTag, Guid)],
        dry_run: bool,
    ) -> Result<Vec<Pruned>, Failure> {
        let info = self.look_at(dataset).await?;
        self.prune(&info, prefix, snapshots, dry_run).await
    }

    async fn look_at(&self, dataset: &DatasetName) -> Result<DatasetInfo, Failure> {
        let listing = self.zfs().list(dataset, Depth::Root).await?;
        let gone = || refused(format!("{dataset} is gone, so nothing of it is pruned"));
        listing.datasets.into_iter().find(|info| info.name == *dataset).ok_or_else(gone)
    }

    /// The holds on a dataset's snapshots, as far as this ZFS lists them: `destroy` refuses what is held in any case.
    ///
    /// # Errors
    /// When ZFS fails.
    pub async fn holds_of(&self, info: &DatasetInfo) -> Result<Vec<(SnapshotName, String)>, Failure> {
        let names: Vec<SnapshotName> = info.snapshots.iter().filter_map(|s| info.snapshot_name(s).ok()).collect();
        match self.zfs().holds(&names).await {
            Err(e) if e.kind == ZfsErrorKind::Unsupported => Ok(Vec::new()),
            holds => Ok(holds?),
        }
    }

    /// What the jobs of this host need of a dataset.
    pub fn needs_of(&self, dataset: &DatasetName) -> Vec<Need> {
        self.engine.needs().of(dataset, None)
    }

    async fn prune(
        &self,
        info: &DatasetInfo,
        prefix: &Prefix,
        snapshots: &[(SnapshotTag, Guid)],
        dry_run: bool,
    ) -> Result<Vec<Pruned>, Failure> {
        let holds = self.holds_of(info).await?;
        let needs = self.needs_of(&info.name);
        let subject = Subject { dataset: info, holds: &holds, needs: &needs, prefix };
        let spared = subject.spared();
        let there: HashMap<&SnapshotTag, (Guid, &Option<String>)> =
            info.snapshots.iter().zip(&spared).map(|(s, spared)| (&s.tag, (s.guid, spared))).collect();
        let mut all = Vec::with_capacity(snapshots.len());
        for (tag, guid) in snapshots {
            let spared = match there.get(tag) {
                None => None,
                Some((now, _)) if now != guid => Some("is another snapshot of that name by now".to_owned()),
                Some((_, Some(why))) => Some(why.clone()),
                Some((_, None)) if dry_run => None,
                Some((_, None)) => self.destroy(&info.name, tag, *guid).await?,
            };
            all.push(Pruned { tag: tag.clone(), spared });
        }
        Ok(all)
    }

    /// Destroys one snapshot; says why it stays if it is busy.
    async fn destroy(&self, dataset: &DatasetName, tag: &SnapshotTag, guid: Guid) -> Result<Option<String>, Failure> {
        self.must_go_on()?;
        let snapshot = dataset.snapshot(tag).map_err(|e| Failure::new(FailureClass::Internal, e))?;
        let entry = Entry::Prune { snapshot: snapshot.clone(), guid };
        match self.journalled(entry, self.zfs().destroy_snapshot(&snapshot)).await {
            Ok(()) => Ok(None),
            Err(failure) if failure.transient => Ok(Some("is held, cloned or in use".to_owned())),
            Err(failure) => Err(failure),
        }
    }
}

/// Takes what was spared after all into what was decided.
pub fn correct(decisions: &mut [Decision], pruned: Vec<Pruned>) {
    let spared: HashMap<SnapshotTag, String> = pruned.into_iter().filter_map(|p| Some((p.tag, p.spared?))).collect();
    for decision in decisions.iter_mut().filter(|d| !d.keep) {
        if let Some(why) = spared.get(&decision.tag) {
            decision.keep = true;
            decision.why.clone_from(why);
        }
    }
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
