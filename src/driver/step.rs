//! Carries out what is planned for one dataset: actions in order, each step through a transfer of its own.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    DatasetReport, DatasetResult, RunOptions, StepReport, attempt::Ready, board::Board, side::Side, side::unexpected,
};
use crate::{
    plan::{Action, DatasetPlan, Decision, SnapshotRef, Step},
    session::{bases::bookmark_name, client::Client, engine::EngineSession},
    types::{
        DatasetName, Failure, FailureClass, JobId, SnapshotName,
        listing::{DatasetInfo, HELD, JOB, MANIFEST_PROPERTIES, PropertySource},
        transfer::Base,
    },
    wire::message::{ReceiveStep, Reply, Request, SendStep, Transferred},
};

/// After our half of a transfer failed: how long the other half may take to notice by itself.
pub(super) const OTHER_HALF_NOTICES: Duration = Duration::from_secs(30);
/// Snapshots of the source, newest first, that are looked at for holds of earlier runs: one argument each.
const MAX_RELEASED: usize = 200;

/// What all datasets of an attempt share.
pub(super) struct Work {
    pub client: Arc<Client>,
    pub local: Arc<EngineSession>,
    pub ready: Arc<Ready>,
    pub source: Side,
    pub target: Side,
    pub job: JobId,
    pub options: RunOptions,
    pub board: Arc<Board>,
    /// True where the source can keep bookmarks.
    pub bookmarks: bool,
    /// The snapshots of the source that are a base of their dataset when all is done, or may be.
    pub bases: HashSet<SnapshotName>,
}

impl Work {
    /// Does what is planned for one dataset. `placeholders` must stand first; `source` and `target` are its entries in
    /// the listings, `sizes` the estimates of its steps in order.
    pub async fn dataset(
        &self,
        plan: &DatasetPlan,
        placeholders: &[DatasetName],
        (source, target): (Option<&DatasetInfo>, Option<&DatasetInfo>),
        sizes: &[Option<u64>],
    ) -> DatasetReport {
        let mut report = DatasetReport {
            source: plan.source.clone(),
            target: plan.target.clone(),
            result: DatasetResult::Done,
            steps: Vec::new(),
            unsure: None,
            notes: plan.notes.clone(),
            error: None,
        };
        let result = match &plan.decision {
            Decision::Refused(refusal) => {
                report.result = DatasetResult::Refused;
                Err(Failure::new(FailureClass::Refused, refusal).hint(refusal.hint()))
            }
            Decision::UpToDate { common, .. } => {
                report.result = DatasetResult::UpToDate;
                match common {
                    Some(common) => self.catch_up(plan, common, source, target, &mut report).await,
                    // A bookmark is all that the source has of it, and stays what it is.
                    None => Ok(()),
                }
            }
            Decision::Work(actions) => match self.placeholders(placeholders).await {
                Ok(()) => self.actions(plan, actions, (source, target), sizes, &mut report).await,
                Err(failure) => Err(failure),
            },
        };
        if let Err(failure) = result {
            if report.result != DatasetResult::Refused {
                report.result =
                    if failure.class == FailureClass::Refused { DatasetResult::Refused } else { DatasetResult::Failed };
            }
            report.error = Some(failure);
        }
        report
    }

    async fn placeholders(&self, placeholders: &[DatasetName]) -> Result<(), Failure> {
        for dataset in placeholders {
            self.target.tell(Request::CreatePlaceholder { dataset: dataset.clone() }).await?;
        }
        Ok(())
    }

    async fn actions(
        &self,
        plan: &DatasetPlan,
        actions: &[Action],
        (source, target): (Option<&DatasetInfo>, Option<&DatasetInfo>),
        sizes: &[Option<u64>],
        report: &mut DatasetReport,
    ) -> Result<(), Failure> {
        let mut kept = source.map(|info| self.kept_bases(info)).unwrap_or_default();
        let mut sizes = sizes.iter();
        let mut previous = None;
        let last_step = actions.iter().rposition(|action| matches!(action, Action::Step(_)));
        for (at, action) in actions.iter().enumerate() {
            match action {
                Action::AbortPartial { reason } => {
                    report.notes.push(format!("the interrupted receive of {} was thrown away: {reason}", plan.target));
                    self.target.tell(Request::AbortPartial { dataset: plan.target.clone() }).await?;
                }
                Action::ReplacePlaceholder { target } => {
                    self.target.tell(Request::RemovePlaceholder { dataset: target.clone() }).await?;
                }
                Action::Rollback { to, to_guid, destroys } => {
                    let request = Request::Rollback { to: to.clone(), to_guid: *to_guid, destroys: destroys.clone() };
                    self.target.tell(request).await?;
                    let lost = match destroys.len() {
                        0 => "what was written since is gone".to_owned(),
                        1 => "1 snapshot was destroyed".to_owned(),
                        n => format!("{n} snapshots were destroyed"),
                    };
                    report.notes.push(format!("{} was rolled back to @{}; {lost}", plan.target, to.tag()));
                }
                Action::Step(step) => {
                    let size = sizes.next().copied().flatten();
                    let base = step.from.as_ref().and_then(|from| {
                        previous.take().or_else(|| target?.snapshot_name(target?.snapshot_by_guid(from.guid)?).ok())
                    });
                    if last_step == Some(at) {
                        // Also what earlier runs held and did not come to release.
                        kept.extend(source.map(|info| self.superseded(info, &step.snapshot)).unwrap_or_default());
                    }
                    self.step(step, base, source, size, &mut kept, report).await?;
                    previous = Some(step.target_snapshot.clone());
                }
            }
        }
        Ok(())
    }

    /// One step: transfer, then keep the snapshot as a base. `base` is the target's own copy of what it starts from.
    async fn step(
        &self,
        step: &Step,
        base: Option<SnapshotName>,
        source: Option<&DatasetInfo>,
        size: Option<u64>,
        kept: &mut Vec<Base>,
        report: &mut DatasetReport,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let transferred = self.transfer(step, base, source, size, report).await?;
        if let Some(transferred) = &transferred {
            report.notes.extend(transferred.warnings.iter().cloned());
            report.steps.push(step_report(step, (transferred.raw_bytes, transferred.wire_bytes), started));
        }
        kept.extend(step.from.as_ref().map(|from| from.base.clone()).filter(|base| self.may_let_go(base)));
        self.acknowledge(&step.snapshot, step.to_guid, kept, report).await
    }

    async fn acknowledge(
        &self,
        snapshot: &SnapshotName,
        guid: crate::types::Guid,
        kept: &mut Vec<Base>,
        report: &mut DatasetReport,
    ) -> Result<(), Failure> {
        let superseded = std::mem::take(kept);
        let (snapshot, job) = (snapshot.clone(), self.job.clone());
        if self.bookmarks
            && let Ok(bookmark) = bookmark_name(&snapshot, guid, &job)
        {
            kept.push(Base::Bookmark(bookmark));
        }
        let request = Request::Acknowledge { snapshot, guid, job, superseded };
        match &self.ready.owed {
            Some(owed) => owed.lock().unwrap_or_else(PoisonError::into_inner).push(request),
            None => report.notes.extend(self.source.tell(request).await?),
        }
        Ok(())
    }

    /// False for a clone's origin that its own dataset keeps as a base, where a hold is what keeps it.
    fn may_let_go(&self, base: &Base) -> bool {
        self.bookmarks || !matches!(base, Base::Snapshot(snapshot) if self.bases.contains(snapshot))
    }

    /// All that this job may have left on a dataset of the source, but for `keep`: bookmarks, and holds on snapshots.
    fn superseded(&self, info: &DatasetInfo, keep: &SnapshotName) -> Vec<Base> {
        let snapshots = info.snapshots.iter().rev().take(MAX_RELEASED).filter_map(|s| info.snapshot_name(s).ok());
        let others = snapshots.filter(|name| name != keep).map(Base::Snapshot);
        // What a bookmark of ours stands for was a base, however far back it lies, and may be held since a run that died.
        let ours = format!("zmigrate:{}:", self.job);
        let marked = info.bookmarks.iter().filter(|b| b.tag.as_str().starts_with(&ours));
        let marked = marked.filter_map(|b| info.snapshot_name(info.snapshot_by_guid(b.guid)?).ok());
        let marked = marked.filter(|name| name != keep).map(Base::Snapshot);
        self.kept_bases(info).into_iter().chain(others).chain(marked).collect()
    }

    /// What this job keeps on a dataset of the source and a later step makes superfluous.
    fn kept_bases(&self, info: &DatasetInfo) -> Vec<Base> {
        let ours = format!("zmigrate:{}:", self.job);
        info.bookmarks
            .iter()
            .filter(|b| b.tag.as_str().starts_with(&ours))
            .filter_map(|b| info.bookmark_name(b).ok().map(Base::Bookmark))
            .collect()
    }

    /// Finishes what an earlier run may have left undone after the data had arrived, up to the newest that both have.
    async fn catch_up(
        &self,
        plan: &DatasetPlan,
        common: &SnapshotRef,
        source: Option<&DatasetInfo>,
        target: Option<&DatasetInfo>,
        report: &mut DatasetReport,
    ) -> Result<(), Failure> {
        let (newest, guid) = (&common.name, common.guid);
        let bookmark = bookmark_name(newest, guid, &self.job).ok().map(|b| b.tag());
        let kept = source.map(|info| self.kept_bases(info)).unwrap_or_default();
        let has_bookmark = source.is_some_and(|s| s.bookmarks.iter().any(|b| Some(&b.tag) == bookmark.as_ref()));
        let undone = match self.bookmarks && bookmark.is_some() {
            true => !has_bookmark || kept.len() > 1,
            // Holds are all there is here, and no listing shows them. A lone snapshot leaves nothing to let go of.
            false => source.is_some_and(|s| s.snapshots.len() > 1),
        };
        if undone {
            let mut superseded = source.map(|info| self.superseded(info, newest)).unwrap_or_default();
            // The first step of a clone held its origin.
            let origin = source.and_then(|info| info.origin.clone());
            let origin = origin.filter(|origin| origin.dataset().is_at_or_below(&self.options.source));
            superseded.extend(origin.map(Base::Snapshot).filter(|base| self.may_let_go(base)));
            self.acknowledge(newest, guid, &mut superseded, report).await?;
        }
        // The name of the held snapshot is set last, so a target without it may lack its protections and hold, too.
        let unfinished = |t: &&DatasetInfo| {
            let held = t.snapshot_by_guid(guid).map(|s| s.tag.as_str());
            held.is_some() && (t.local(HELD) != held || t.local(JOB) != Some(self.job.as_str()))
        };
        let Some(held) = target.filter(unfinished).and_then(|t| t.snapshot_by_guid(guid).zip(Some(t))) else {
            return Ok(());
        };
        let snapshot = held.1.snapshot_name(held.0).map_err(|e| Failure::new(FailureClass::Usage, e))?;
        let step = ReceiveStep {
            snapshot,
            to_guid: guid,
            from_guid: None,
            from: None,
            kind: plan.kind,
            creates: false,
            resumes: false,
            origin: None,
            raw: false,
            properties: Vec::new(),
            job: self.job.clone(),
        };
        let channel = self.client.next_channel();
        match self.target.ask(Request::OpenReceive { channel, step }).await? {
            Reply::AlreadyReceived => Ok(()),
            Reply::AlreadyReceivedWith(notes) => {
                report.notes.extend(notes);
                Ok(())
            }
            _ => {
                let _ = self.target.ask(Request::Cancel { channel }).await;
                Err(Failure::new(FailureClass::Refused, format!("{} changed while the run was planned", plan.target)))
            }
        }
    }

    /// A channel that was connected before, and still is.
    fn prepared(&self) -> Option<u32> {
        let mut channels = self.ready.channels.lock().unwrap_or_else(PoisonError::into_inner);
        // The oldest: it has had the most time.
        let at = channels.iter().position(|channel| self.client.is_open(*channel))?;
        channels.drain(..=at).next_back()
    }

    /// Moves one stream; `None` if the target had it already.
    async fn transfer(
        &self,
        step: &Step,
        base: Option<SnapshotName>,
        source: Option<&DatasetInfo>,
        size: Option<u64>,
        report: &mut DatasetReport,
    ) -> Result<Option<Transferred>, Failure> {
        let started = Instant::now();
        let prepared = self.prepared();
        let channel = prepared.unwrap_or_else(|| self.client.next_channel());
        let receive = self.target.ask(Request::OpenReceive { channel, step: self.receive_step(step, base, source) });
        let send = self.source.tell(Request::OpenSend { channel, step: self.send_step(step) });
        let word = self.target.transferred(Request::FinishReceive { channel });
        tokio::pin!(word);
        let mut early = None;
        // What is sent over a channel that is there waits at the other end of it for the receive, and so does the question for its end.
        let (received, sent) = match prepared {
            Some(_) => {
                let both = async { tokio::join!(receive, send) };
                tokio::pin!(both);
                loop {
                    tokio::select! {
                        biased;
                        both = &mut both => break both,
                        word = &mut word, if early.is_none() => early = Some(word),
                    }
                }
            }
            None => match receive.await {
                Ok(Reply::Done) => (Ok(Reply::Done), send.await),
                other => (other, Ok(Vec::new())),
            },
        };
        let begun = (matches!(received, Ok(Reply::Done)), sent.is_ok());
        if begun != (true, true) && (prepared.is_some() || begun.0) {
            // Either may have begun, and a channel that was ready is no more.
            let cancel = || Request::Cancel { channel };
            let _ = tokio::join!(self.source.ask(cancel()), self.target.ask(cancel()));
        }
        let received = match (received, &sent) {
            (Err(received), Err(sent)) => return Err(received.first_cause(sent.clone())),
            (received, _) => received?,
        };
        match received {
            Reply::Done => sent.map(drop)?,
            Reply::AlreadyReceived => return Ok(None),
            Reply::AlreadyReceivedWith(notes) => {
                report.notes.extend(notes);
                return Ok(None);
            }
            _ => return Err(unexpected()),
        }
        let label = format!("{} → {}", step.snapshot, step.target);
        tracing::debug!(channel, "{label}");
        self.board.begin(channel, label, size, &self.local);
        if prepared.is_none() {
            self.client.attach(channel);
        }
        let received = match early {
            Some(word) => word,
            None => self.received(channel, word).await,
        };
        let so_far = self.local.progress(channel).unwrap_or_default();
        let sent = self.source.transferred(Request::FinishSend { channel }).await;
        self.client.close_channel(channel);
        let received_is_unknown = received.as_ref().is_err_and(|failure| failure.class == FailureClass::SessionLost);
        let result = match (received, sent) {
            (Ok(mut received), sent) => {
                // The target has it for good, whatever the sender says of its own end.
                received.warnings.extend(sent.map(|sent| sent.warnings).unwrap_or_default());
                Ok(received)
            }
            (Err(received), Err(sent)) => Err(received.first_cause(sent)),
            (Err(received), Ok(_)) => Err(received),
        };
        if received_is_unknown {
            report.unsure = Some(step_report(step, so_far, started));
        }
        self.board.end(channel, result.as_ref().ok().map(|t| (t.raw_bytes, t.wire_bytes)));
        result.map(Some)
    }

    /// Waits for the target's word. If our own half of the transfer fails and the other does not notice, tells it.
    async fn received(
        &self,
        channel: u32,
        mut word: Pin<&mut impl Future<Output = Result<Transferred, Failure>>>,
    ) -> Result<Transferred, Failure> {
        tokio::select! {
            biased;
            word = &mut word => return word,
            () = self.local.failed(channel) => {}
        }
        match timeout(OTHER_HALF_NOTICES, &mut word).await {
            Ok(word) => word,
            Err(_) => {
                let _ = self.target.ask(Request::Cancel { channel }).await;
                word.await
            }
        }
    }

    fn send_step(&self, step: &Step) -> SendStep {
        SendStep {
            snapshot: step.snapshot.clone(),
            to_guid: step.to_guid,
            base: step.from.as_ref().map(|from| (from.base.clone(), from.guid)),
            flags: step.flags,
            resume: step.resume.as_ref().map(|(token, _)| token.clone()),
            job: self.job.clone(),
            compression: self.options.compression,
            bwlimit_bytes_per_s: self.options.bwlimit_bytes_per_s,
        }
    }

    fn receive_step(&self, step: &Step, base: Option<SnapshotName>, source: Option<&DatasetInfo>) -> ReceiveStep {
        ReceiveStep {
            snapshot: step.target_snapshot.clone(),
            to_guid: step.to_guid,
            from_guid: step.from.as_ref().map(|from| from.guid),
            from: base,
            kind: step.kind,
            creates: step.creates_target,
            resumes: step.resume.is_some(),
            origin: step.origin.clone(),
            raw: step.flags.raw,
            properties: source.map(manifest).unwrap_or_default(),
            job: self.job.clone(),
        }
    }
}

fn step_report(step: &Step, (raw_bytes, wire_bytes): (u64, u64), started: Instant) -> StepReport {
    StepReport {
        snapshot: step.snapshot.clone(),
        from: step.from.as_ref().map(|from| match &from.base {
            Base::Snapshot(snapshot) => snapshot.to_string(),
            Base::Bookmark(bookmark) => bookmark.to_string(),
        }),
        resumed: step.resume.is_some(),
        raw_bytes,
        wire_bytes,
        seconds: started.elapsed().as_secs_f64(),
    }
}

/// The properties that were set on the source itself and may be carried over.
fn manifest(source: &DatasetInfo) -> Vec<(String, String)> {
    source
        .properties
        .iter()
        .filter(|p| matches!(p.source, PropertySource::Local | PropertySource::Received))
        .filter(|p| MANIFEST_PROPERTIES.contains(&p.name.as_str()))
        .map(|p| (p.name.clone(), p.value.clone()))
        .collect()
}
