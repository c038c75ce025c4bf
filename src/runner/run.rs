//! One run of a job.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

use super::{
    bandwidth::Limit,
    files::{JobFiles, JobState, LastRun, Progress, place},
    history::History,
    hooks::{Stage, run_hook},
    recount::count_unsent,
    report::{JobReport, Started, conclude, first_trouble, record, run_id},
    retry::may_pass,
    snapshot::NAME_TRIES,
    turn::Turn,
};
use crate::{
    config::Config,
    driver::{self, Board, RunContext, RunOptions, Upkeep, UpkeepOptions, upkeep},
    host,
    identity::IdentityStore,
    jobs::{Direction, Job, Remote, lag::Lag, span::Span},
    limits::{LISTING_WITHIN, RUN_LISTING_WITHIN},
    plan::{ExcludePattern, History as Snapshots},
    port::zfs::Zfs,
    session::{engine::Engine, live::LiveConnections, patience::in_time},
    types::{Failure, FailureClass, JobName, SnapshotTag},
};

/// How long it may take to count what is unsent while a person waits for the run's end.
const COUNTED_FOR_A_PERSON: Duration = Duration::from_secs(20);

/// What runs of jobs work with.
#[derive(Clone)]
pub struct JobContext {
    /// The configuration.
    pub config: Arc<Config>,
    /// This host's identity.
    pub store: Arc<IdentityStore>,
    /// This host's side.
    pub engine: Arc<Engine>,
    /// Where its connections are listed.
    pub live: Arc<LiveConnections>,
    /// Set when the run is to end early; what has been received is kept.
    pub stop: CancellationToken,
    /// Its place among a daemon's runs.
    pub turn: Option<Arc<Turn>>,
    /// True if a person allowed this run to roll the target back. No schedule ever does.
    pub rollback: bool,
}

/// Runs a job, unless it is at work already.
///
/// # Errors
/// `Locked` when it is, and when nothing can be written down. All else is in the report.
pub async fn run_job(context: &JobContext, job: &Job, by: Started) -> Result<JobReport, Failure> {
    let files = JobFiles::new(&context.config.state_dir);
    let _lock = files.lock(&job.name)?;
    let (started, since) = (Timestamp::now(), Instant::now());
    let mut report = JobReport {
        job: job.name.clone(),
        run: run_id(started),
        result: "failed",
        exit_code: 0,
        started,
        seconds: 0.0,
        attempts: 0,
        snapshot: None,
        replication: None,
        lags: Vec::new(),
        raw_bytes: 0,
        wire_bytes: 0,
        pruned: 0,
        verification: None,
        notes: Vec::new(),
        error: None,
    };
    let history = History::new(&context.config.state_dir);
    let (mut state, damaged) = files.load_or_set_aside(job)?;
    report.notes.extend(damaged);
    (state.source, state.target) = (job.dataset.to_string(), place(job));
    state.verified.begin(job, started);
    state.begin(LastRun { run: report.run.clone(), started, result: "running".into(), ..LastRun::default() });
    files.save(job, &state)?;
    if let Err(e) = history.append(&record(&report, by, None)) {
        let failure = Failure::new(FailureClass::Usage, format!("the history cannot be written: {e}"))
            .hint("check state_dir in the configuration: it may be full, or another user's");
        // Begun and ended: it was not cut off.
        if let Some(last) = &mut state.last {
            let error = Some(failure.to_string());
            *last = LastRun {
                ended: Some(Timestamp::now()),
                result: "failed".into(),
                exit_code: failure.class.exit_code(),
                error,
                ..last.clone()
            };
        }
        state.failed_runs += 1;
        files.save(job, &state)?;
        return Err(failure);
    }
    let span = tracing::info_span!("job", job = %job.name, run = %report.run, dataset = %job.dataset);
    let run = Run { context, job, files: &files, by };
    async {
        tracing::info!("begun by {}", by.word());
        let looked = state.looked.take();
        let result = run.carry_out(&mut report, &mut state).await;
        if state.looked.is_none() {
            // It did not come to see both sides.
            state.looked = looked;
            let within = if by == Started::Person { COUNTED_FOR_A_PERSON } else { LISTING_WITHIN };
            count_unsent(run.zfs(), job, &mut state.lags, within, &context.stop).await;
        }
        conclude(&mut report, result, since.elapsed());
        report.all_notes().iter().for_each(|note| tracing::info!("{note}"));
        let error =
            report.error.as_ref().map(ToString::to_string).or_else(|| first_trouble(&report)).unwrap_or_default();
        // On a terminal the report says so.
        if report.exit_code != 0 && by == Started::Schedule {
            tracing::warn!(exit_code = report.exit_code, "{}: {error}", report.result);
        } else {
            tracing::info!(exit_code = report.exit_code, seconds = report.seconds, "{}", report.result);
        }
    }
    .instrument(span)
    .await;
    let ended = Timestamp::now();
    let (raw_bytes, wire_bytes) = (report.raw_bytes, report.wire_bytes);
    state.last = Some(LastRun {
        run: report.run.clone(),
        started,
        ended: Some(ended),
        result: report.result.into(),
        exit_code: report.exit_code,
        error: report.error.as_ref().map(ToString::to_string).or_else(|| first_trouble(&report)),
        raw_bytes,
        wire_bytes,
        pruned: report.pruned as u64,
    });
    state.runs += 1;
    state.wire_bytes = state.wire_bytes.saturating_add(wire_bytes);
    if report.exit_code == 0 {
        state.last_good = Some(ended);
    } else {
        state.failed_runs += 1;
    }
    // What was done is done; that it could not be written down is said, and does not undo it.
    if let Err(failure) = files.save(job, &state) {
        report.notes.push(failure.to_string());
    }
    if let Err(e) = history.append(&record(&report, by, Some(ended))) {
        report.notes.push(format!("the history cannot be written: {e}"));
    }
    Ok(report)
}

/// What a job would prune, and why each snapshot stays or goes. Changes nothing but what is known of the lag.
///
/// # Errors
/// When a side cannot be looked at. What could not be destroyed is in the answer.
pub async fn preview(context: &JobContext, job: &Job, act: bool) -> Result<Upkeep, Failure> {
    let files = JobFiles::new(&context.config.state_dir);
    let _lock = if act { Some(files.lock(&job.name)?) } else { None };
    let run = Run { context, job, files: &files, by: Started::Person };
    let exclude = run.exclude().await?;
    let Some(remote) = &job.remote else { return run.keep_up_here(exclude, None, !act).await };
    let mut state = files.load(job)?;
    (state.source, state.target) = (job.dataset.to_string(), place(job));
    run.keep_up(remote, exclude, &mut state, true, !act).await
}

pub(super) struct Run<'a> {
    pub context: &'a JobContext,
    pub job: &'a Job,
    files: &'a JobFiles,
    pub(super) by: Started,
}

impl Run<'_> {
    async fn carry_out(&self, report: &mut JobReport, state: &mut JobState) -> Result<(), Failure> {
        let job = self.job;
        let exclude = self.exclude().await?;
        let Some(remote) = &job.remote else { return self.carry_out_here(report, state, exclude).await };
        let push = remote.direction == Direction::Push;
        let tag = if job.snapshot { Some(self.tag(report.started)?) } else { None };
        // A program that fails after the snapshot fails the run, at its end: what was asked of it is done, and backups go on.
        let mut late = None;
        if let (Some(tag), true) = (&tag, push) {
            // Here and now, so that there is one of this time also when the peer is away.
            late = self.snapshot(report, tag, &exclude).await?;
        }
        let remote_tag = tag.filter(|_| !push);
        if !push {
            self.before(report, "").await?;
        }
        let replicated = self.replicate(remote, report, &exclude, remote_tag).await;
        if !push {
            let result = if replicated.is_ok() { "ok" } else { "failed" };
            late = run_hook(job, &report.run, Stage::After, "", result).await.err();
        }
        if let Err(failure) = replicated {
            report.notes.extend(late.map(|late| late.to_string()));
            return Err(failure);
        }
        let exit_code = report.replication.as_ref().map(|r| r.exit_code);
        if exit_code.is_some_and(|code| !matches!(code, 2 | 4 | 5 | 75 | 130)) {
            let found = self.keep_up(remote, exclude, state, exit_code == Some(0), false).await;
            let failure = match found {
                Ok(found) => {
                    report.pruned = found.destroyed();
                    report.notes.extend(found.notes);
                    report.lags = found.lags;
                    found.failure
                }
                Err(failure) => Some(failure),
            };
            late = report.first_of(late, failure);
        }
        let went_well = late.is_none() && exit_code == Some(0);
        if went_well && state.verified.is_due(job, Timestamp::now(), self.by == Started::Person) {
            return self.verify(remote, report, &mut state.verified).await;
        }
        late.map_or(Ok(()), Err)
    }

    pub(super) fn tag(&self, now: Timestamp) -> Result<SnapshotTag, Failure> {
        let outside = || Failure::new(FailureClass::Internal, format!("the clock says {now}"));
        self.job.prefix.tag_at(now).ok_or_else(outside)
    }

    /// The patterns of the job, and one for each dataset that has its property.
    async fn exclude(&self) -> Result<Vec<ExcludePattern>, Failure> {
        let mut exclude = self.job.exclude.clone();
        let Some(wanted) = &self.job.exclude_property else { return Ok(exclude) };
        let root = &self.job.dataset;
        let found = self.zfs().user_property(root, &wanted.name);
        for (dataset, value) in
            in_time(&format!("look for {} below {root}", wanted.name), RUN_LISTING_WITHIN, found).await?
        {
            let below = dataset.relative_to(root).unwrap_or_default();
            if value == wanted.value && below.is_empty() {
                let text = format!("{root} itself has {}={value}, so nothing is left for the job", wanted.name);
                return Err(Failure::new(FailureClass::Refused, text)
                    .hint("take the property off the root, or exclude_property out of the job"));
            }
            if value == wanted.value && !exclude.iter().any(|pattern| pattern.excludes(below)) {
                // A dataset's name holds no character that a glob takes for more.
                exclude.push(below.parse().map_err(|e| Failure::new(FailureClass::Internal, e))?);
            }
        }
        Ok(exclude)
    }

    pub(super) fn zfs(&self) -> &dyn Zfs {
        &*self.context.engine.zfs
    }

    pub(super) fn run_context(&self, remote: &Remote, limit: Option<&Limit>) -> Result<RunContext, Failure> {
        let context = self.context;
        Ok(RunContext {
            link: context.live.watched(host::link(&context.config, &context.store, &remote.peer)?, &context.store),
            engine: Arc::clone(&context.engine),
            client: host::client_options(&context.config, self.job.streams),
            identity: context.store.own().name,
            // One for each attempt: a board counts on.
            board: Arc::new(Board::default()),
            stop: context.stop.clone(),
            limit: limit.map(Limit::watched),
        })
    }

    async fn replicate(
        &self,
        remote: &Remote,
        report: &mut JobReport,
        exclude: &[ExcludePattern],
        mut tag: Option<SnapshotTag>,
    ) -> Result<(), Failure> {
        let (job, mut names) = (self.job, 1..NAME_TRIES);
        let limit = Limit::by_hour(job, Timestamp::now);
        loop {
            report.attempts += 1;
            let options = RunOptions {
                direction: direction(remote),
                source: job.dataset.clone(),
                target: remote.target.clone(),
                recursive: job.recursive,
                exclude: exclude.to_vec(),
                history: Snapshots::All,
                upto: None,
                encryption: job.encryption,
                rollback: self.context.rollback,
                enters: None,
                estimates: true,
                snapshot: tag.clone(),
                dry_run: false,
                jobs: job.jobs.into(),
                compression: job.compress,
                bwlimit_bytes_per_s: job.bandwidth.at(Timestamp::now(), job.zone()),
            };
            let done = {
                let context = self.run_context(remote, limit.as_ref())?;
                let shown = AbortOnDropHandle::new(tokio::spawn(show(
                    self.files.clone(),
                    job.name.clone(),
                    report.run.clone(),
                    Arc::clone(&context.board),
                )));
                let done = driver::run(&context, &options).await;
                drop(shown);
                self.files.show_progress(&job.name, None);
                done
            };
            report.raw_bytes = report.raw_bytes.saturating_add(done.raw_bytes);
            report.wire_bytes = report.wire_bytes.saturating_add(done.wire_bytes);
            if done.snapshot.is_some() {
                report.snapshot.clone_from(&done.snapshot);
                tag = None;
            } else if let Some(taken) = &tag
                && done.error.as_ref().is_some_and(|e| e.exists)
                && names.next().is_some()
            {
                // Another host that pulls with this prefix was there in the same second.
                tag = Some(self.a_second_after(taken)?);
                report.attempts -= 1;
                continue;
            } else if tag.is_some() {
                // It may have been taken, and only the answer lost.
                tag = Some(self.tag(Timestamp::now())?);
            }
            let again = done.exit_code == 5 || done.error.iter().chain(done.failures()).any(|e| may_pass(e, self.by));
            let why = done.error.as_ref().or_else(|| done.failures().next()).map(ToString::to_string);
            report.replication = Some(done);
            let Some(wait) = job.wait_before(report.attempts).filter(|_| again) else { return Ok(()) };
            if self.next_is_due_within(report.started, wait) {
                // It takes a snapshot of its own time, and lets others have a turn.
                return Ok(());
            }
            tracing::warn!("{}; try {} follows in {wait}", why.unwrap_or_default(), report.attempts + 1);
            let waits = sleep(Duration::from_secs(wait.as_s()));
            let waits = async {
                match &self.context.turn {
                    Some(turn) => turn.give_way(waits).await,
                    None => waits.await,
                }
            };
            tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return Ok(()),
                () = waits => {}
            }
        }
    }

    /// True if the next run is to start by itself before a retry would.
    fn next_is_due_within(&self, started: Timestamp, wait: Span) -> bool {
        let (now, schedule) = (Timestamp::now(), &self.job.schedule);
        let at = SignedDuration::from_secs(wait.as_signed_s());
        let next = schedule.next(Some(started), started, now, self.job.seed());
        next.is_some_and(|next| now.checked_add(at).is_ok_and(|retry| next <= retry))
    }

    /// Looks at both sides, writes down what the target has, and prunes. `is_whole`: all of the job was replicated just now, or
    /// nobody tried.
    async fn keep_up(
        &self,
        remote: &Remote,
        exclude: Vec<ExcludePattern>,
        state: &mut JobState,
        is_whole: bool,
        dry_run: bool,
    ) -> Result<Upkeep, Failure> {
        let job = self.job;
        let push = remote.direction == Direction::Push;
        let (keep_source, keep_target) =
            if push { (job.keep.clone(), job.keep_peer.clone()) } else { (None, job.keep.clone()) };
        let options = UpkeepOptions {
            name: job.name.clone(),
            direction: direction(remote),
            source: job.dataset.clone(),
            target: remote.target.clone(),
            recursive: job.recursive,
            exclude,
            prefix: job.prefix.clone(),
            keep_source,
            keep_target,
            destroy_deleted: job.destroy_deleted.filter(|_| is_whole),
            renamed: state.renamed.clone(),
            now: Timestamp::now(),
            dry_run,
        };
        let left_out: Vec<String> = options.exclude.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        let known = std::sync::Mutex::new(state);
        let record = |lags: &[Lag]| -> Result<(), Failure> {
            let mut state = known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            state.lags = lags.to_vec();
            state.left_out.clone_from(&left_out);
            state.looked = Some(Timestamp::now());
            // Without the job's lock nothing is written.
            if dry_run { Ok(()) } else { self.files.save(job, &state) }
        };
        let found = upkeep(&self.run_context(remote, None)?, &options, &record).await?;
        let state = known.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.renamed.clone_from(&found.renamed);
        state.kept_for.clone_from(&found.kept_for);
        if !dry_run {
            self.files.save(job, state)?;
        }
        Ok(found)
    }
}

/// Shows how far a run has come, once a second, until it is dropped.
async fn show(files: JobFiles, name: JobName, run: String, board: Arc<Board>) {
    let (mut bytes, mut at) = (0, Instant::now());
    loop {
        sleep(Duration::from_secs(1)).await;
        let read = board.read();
        let seconds = at.elapsed().as_secs_f64().max(0.001);
        let progress = Progress {
            run: run.clone(),
            raw_bytes: read.raw_bytes,
            planned_bytes: read.planned_bytes,
            rate_bytes_per_s: (read.raw_bytes.saturating_sub(bytes) as f64 / seconds) as u64,
            steps_done: read.steps_done,
            steps_planned: read.steps_planned,
            active: read.active.into_iter().take(4).map(|step| step.label).collect(),
        };
        (bytes, at) = (read.raw_bytes, Instant::now());
        let (files, name) = (files.clone(), name.clone());
        // A file: not for the threads of the runtime.
        let _ = tokio::task::spawn_blocking(move || files.show_progress(&name, Some(&progress))).await;
    }
}

pub(super) fn direction(remote: &Remote) -> driver::Direction {
    match remote.direction {
        Direction::Push => driver::Direction::Push,
        Direction::Pull => driver::Direction::Pull,
    }
}
