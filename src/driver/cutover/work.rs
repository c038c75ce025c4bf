//! The work across both hosts: passes, the final sync, and the look at both sides before the promotion.
//!
//! A pass takes the same way as the final sync, over a session that stays open, so what it measures is what the outage will
//! cost; times.rs makes up what only the outage has.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Begun, PassReport,
    content::{Tell, difference},
    owed::Owed,
    ready::Open,
    talk::Talk,
    times::{Known, Times},
};
use crate::{
    cutover::{
        call::{final_tag, pass_tag},
        effect::Result as Worked,
        leg::{Leg, Millis, Node, Side},
        predict::Pass,
        proof::{Means, Proof},
        terms::{Pair, Terms},
    },
    driver::{DatasetResult, Direction, Report, RunContext, RunOptions, attempt, is_passing},
    plan::{EncryptionMode, History},
    session::{client::Client, engine::EngineSession},
    types::{Failure, FailureClass, SnapshotTag},
    wire::hello::features,
};

/// How often a pass is tried again that failed of something that passes by itself.
const PATIENCE: u32 = 60;
/// The pause between passes while it is held: the target stays this close behind.
const HELD_PASSES: Duration = Duration::from_secs(10);

/// How long a source may take to be told what it is owed.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// The same while the source is down.
const SETTLE_IN_OUTAGE: Duration = Duration::from_secs(1);

/// Datasets that the final sync sends at the same time, at least, when little is left: each costs a few commands that wait for the pool to
/// write, and those that wait together wait once. More are no faster.
pub(super) const AT_ONCE: usize = 16;
/// Of this much, at most, all may be on its way or waiting in memory at the same time; where more is left, `--jobs` counts.
const LITTLE_LEFT: u64 = 256 << 20;

/// What was measured of the passes so far.
#[derive(Default)]
struct Measured {
    /// What passes have shown of those that follow.
    known: Known,
    /// When the last pass' snapshot was taken.
    snapshot_at: Option<Instant>,
    /// Bytes that were left after it.
    left: Option<u64>,
    /// How long it took to keep the bases of a pass, of all datasets.
    changes: Option<Duration>,
    report: Option<PassReport>,
    /// The fence of the target's host in that leg, which it is received into; it stays the same until the leg is over.
    enters: Option<(Leg, Option<String>)>,
    /// The last sync's streams were compared by their digests.
    digests: bool,
    /// What the last comparison found to differ.
    differs: Option<String>,
}

/// See the module.
pub struct Worker {
    context: Arc<RunContext>,
    talk: Arc<Talk>,
    begun: Begun,
    open: AsyncMutex<Option<Open>>,
    /// What a source is to be told.
    owed: Owed,
    measured: Mutex<Measured>,
    /// How far a comparison has come, in words.
    comparing: Arc<Mutex<Option<String>>>,
    hurry: Notify,
}

impl Worker {
    pub fn new(context: Arc<RunContext>, talk: Arc<Talk>, begun: Begun) -> Worker {
        let (measured, owed) = (Mutex::default(), Owed::default());
        Worker {
            context,
            talk,
            begun,
            open: AsyncMutex::new(None),
            owed,
            measured,
            comparing: Arc::default(),
            hurry: Notify::new(),
        }
    }

    fn measured(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last pass' report, once.
    pub fn take_report(&self) -> Option<PassReport> {
        self.measured().report.take()
    }

    /// What the last comparison found to differ, once.
    pub fn take_difference(&self) -> Option<String> {
        self.measured().differs.take()
    }

    /// How far the comparison under way has come, in words.
    pub fn comparing(&self) -> Option<String> {
        self.comparing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the source what it is owed: which snapshot is the base now, and what it can let go of. Until then it keeps the older
    /// one as well.
    pub async fn settle(&self) {
        self.settle_within(SETTLE_WITHIN).await;
    }

    async fn settle_within(&self, within: Duration) {
        if self.owed.is_empty() {
            return;
        }
        let all = async {
            let mut kept = self.open.lock().await;
            let open: &Open = self.session(&mut kept).await?;
            self.owed.tell_all(open).await
        };
        let result = timeout(within, all).await.unwrap_or_else(|_| Err(internal("it does not answer")));
        if let Err(failure) = result {
            tracing::warn!(
                "the source keeps older bases as well, until the next pass or `zmigrate state release --stale`: {failure}"
            );
        }
    }

    /// Ends the session for transfers.
    pub async fn leave(&self) {
        if let Some(open) = self.open.lock().await.take() {
            open.local.shut_down().await;
            open.client.bye().await;
        }
    }

    /// The outage is near: connects what it will need.
    pub async fn connect(&self, terms: &Terms) {
        if let Some(open) = self.open.lock().await.as_ref() {
            open.connect(terms);
        }
    }

    /// Cuts the pause before the next pass short.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Snapshot, and send what is new; `held` passes keep a distance.
    pub async fn pass(&self, terms: &Terms, number: u32, held: bool, stop: &CancellationToken) -> Worked {
        let since = self.measured().snapshot_at;
        if let Some(since) = since.filter(|_| held) {
            let pause = HELD_PASSES.saturating_sub(since.elapsed());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.hurry.notified() => {}
                () = stop.cancelled() => {}
            }
        }
        match self.try_pass(terms, number, held, stop).await {
            Ok(pass) => Worked::Passed(pass),
            Err(failure) => Worked::Failed(failure.in_one()),
        }
    }

    async fn try_pass(
        &self,
        terms: &Terms,
        number: u32,
        held: bool,
        stop: &CancellationToken,
    ) -> Result<Pass, Failure> {
        let tag: SnapshotTag = pass_tag(self.begun.id, number).parse().map_err(internal)?;
        let began = Instant::now();
        let moved = self.transfer(terms, Some(&tag), stop).await?;
        let took = began.elapsed();
        let changes = self.keep_bases(terms, moved.steps).await;
        let previous = self.measured().snapshot_at.replace(began);
        let source = self.talk.look(terms, Side::Source, &tag).await?;
        let round_trip = self.round_trip().await;
        self.talk.tidy(terms, &[self.begun.id], &tag, false).await;
        let mut is_prepared = false;
        if let Some(open) = self.open.lock().await.as_mut() {
            tokio::select! {
                () = open.get_ready(terms, held) => {}
                () = stop.cancelled() => {}
            }
            is_prepared = open.client.has(features::PREPARE);
        }
        let coming_up;
        let report = {
            let mut measured = self.measured();
            let times = Times {
                bytes: moved.bytes,
                steps: moved.steps,
                datasets: source.guids.len(),
                took,
                transfers: moved.transfers,
                preparing: moved.preparing,
                changes,
                round_trip,
                is_prepared,
            };
            let costs = times.costs(&mut measured.known);
            tracing::debug!(number, ?times, ?costs, "measured in a pass");
            coming_up = costs.coming_up;
            // What was written since shows late, when it reaches the disk; so the rate of the last interval counts as well.
            let interval = previous.map(|p| began.duration_since(p)).filter(|i| !i.is_zero());
            let rate = interval.map_or(0.0, |i| moved.bytes as f64 / i.as_secs_f64());
            let expected = (rate * began.elapsed().as_secs_f64()) as u64;
            PassReport {
                number,
                bytes: moved.bytes,
                wire_bytes: moved.wire_bytes,
                seconds: took.as_secs_f64(),
                sending_ms: millis(costs.sending),
                fixed_ms: millis(costs.fixed),
                left_bytes: source.written.max(expected),
            }
        };
        let pass = Pass {
            bytes: report.bytes,
            sending: Millis(report.sending_ms),
            fixed: Millis(report.fixed_ms),
            coming_up: Millis(millis(coming_up)),
            left: report.left_bytes,
        };
        let mut measured = self.measured();
        measured.left = Some(report.left_bytes);
        measured.report = Some(report);
        drop(measured);
        Ok(pass)
    }

    /// Tells the source what it is owed, and says how long it took to change something there in that way.
    async fn keep_bases(&self, terms: &Terms, steps: u32) -> Duration {
        let is_owed = !self.owed.is_empty();
        let began = Instant::now();
        self.settle().await;
        let way = if terms.source_at == Node::Peer { self.round_trip().await } else { Duration::ZERO };
        let mut measured = self.measured();
        // What did not come to its end says little, but more than nothing.
        if is_owed && (self.owed.is_empty() || measured.changes.is_none()) {
            measured.changes = Some(began.elapsed().saturating_sub(way) / steps.max(1));
        }
        measured.changes.unwrap_or_default()
    }

    async fn round_trip(&self) -> Duration {
        self.open.lock().await.as_ref().and_then(|open| open.client.rtt()).unwrap_or_default()
    }

    /// Sends up to the final snapshot, which is the newest there is.
    pub async fn sync(&self, terms: &Terms, stop: &CancellationToken) -> Worked {
        // Of a final sync before this one; the outage does not wait for it.
        self.settle_within(SETTLE_IN_OUTAGE).await;
        match self.transfer(terms, None, stop).await {
            Ok(moved) => {
                self.measured().digests = moved.compared;
                Worked::Synced
            }
            Err(failure) => Worked::Failed(failure.in_one()),
        }
    }

    /// Looks at both sides by the final snapshot.
    pub async fn verify(&self, terms: &Terms, final_number: u32) -> Worked {
        match self.try_verify(terms, final_number).await {
            Ok(proof) => Worked::Verified(proof),
            Err(failure) => Worked::Failed(failure.in_one()),
        }
    }

    async fn try_verify(&self, terms: &Terms, final_number: u32) -> Result<Proof, Failure> {
        let tag: SnapshotTag = final_tag(terms.leg.id, final_number).parse().map_err(internal)?;
        let (source, target) =
            tokio::try_join!(self.talk.look(terms, Side::Source, &tag), self.talk.look(terms, Side::Target, &tag))?;
        let mut means = if self.measured().digests { Means::Digest } else { Means::Guid };
        let (fence, written) = (source.fence, source.written);
        let mut equal = true;
        if terms.verify == Means::Content && means == Means::Digest {
            let kept = self.open.lock().await;
            let Some(open) = kept.as_ref() else { return Err(internal("no session")) };
            let (one, other) = open.sides(terms);
            let to = Arc::clone(&self.comparing);
            *to.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let tell: Tell =
                Arc::new(move |how_far| *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(how_far));
            let differs = difference(&one, &other, terms, &tag, &source, &tell).await?;
            (equal, means) = (differs.is_none(), Means::Content);
            self.measured().differs = differs;
        }
        let (source, target) = source.beside(&target);
        Ok(Proof { fence, written, source: source.into(), target: target.into(), means, equal })
    }

    /// Moves what is new of every pair. Goes on after whatever passes by itself.
    async fn transfer(
        &self,
        terms: &Terms,
        snapshot: Option<&SnapshotTag>,
        stop: &CancellationToken,
    ) -> Result<Moved, Failure> {
        let (mut tries, mut has_shed) = (0, false);
        let mut moved = Moved { compared: true, ..Moved::default() };
        let options: Vec<RunOptions> = terms.unit.iter().map(|pair| self.options(terms, pair, snapshot)).collect();
        let peer = self.context.link.to_string();
        let mut reports: Vec<Report> = options.iter().map(|o| Report::new(o, &peer)).collect();
        let mut done = vec![false; reports.len()];
        loop {
            let mut trouble = None;
            for at in 0..reports.len() {
                if done[at] {
                    continue;
                }
                match self.one(&terms.unit[at], &options[at], &mut reports[at], &mut moved, terms, stop).await {
                    Ok(()) => done[at] = true,
                    Err(failure) => {
                        trouble = Some(failure);
                        break;
                    }
                }
            }
            let Some(failure) = trouble else { break };
            // What something else snapshotted at home is in the way of coming home.
            if failure.class == FailureClass::Refused && !has_shed && self.enters(terms).await?.is_some() {
                has_shed = true;
                match self.talk.shed(terms).await {
                    Ok(()) => continue,
                    Err(old) if old.class == FailureClass::Protocol => return Err(failure),
                    Err(why) => {
                        tracing::warn!("{failure}");
                        return Err(why);
                    }
                }
            }
            tries += 1;
            let passes = is_passing(&failure) || failure.class == FailureClass::Unreachable || failure.transient;
            if stop.is_cancelled() || !passes || tries >= PATIENCE {
                return Err(failure);
            }
            tracing::info!("{failure}; trying again");
            let pause = Duration::from_millis(250) * tries.min(16);
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return Err(failure),
            }
        }
        for report in &reports {
            moved.preparing += report.preparing;
            moved.transfers += report.carrying;
            for dataset in &report.datasets {
                moved.steps = moved.steps.max(dataset.steps.len() as u32);
                moved.bytes += dataset.steps.iter().map(|s| s.raw_bytes).sum::<u64>();
                moved.wire_bytes += dataset.steps.iter().map(|s| s.wire_bytes).sum::<u64>();
                // Without a step the target had it already, and no digest was compared by us.
                moved.compared &= !dataset.steps.is_empty();
            }
        }
        Ok(moved)
    }

    async fn one(
        &self,
        pair: &Pair,
        options: &RunOptions,
        report: &mut Report,
        moved: &mut Moved,
        terms: &Terms,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let mut kept = self.open.lock().await;
        let open = self.session(&mut kept).await?;
        moved.preparing += began.elapsed();
        let mut options = options.clone();
        options.enters = self.enters(terms).await?;
        let ready = open.take(terms, pair, options.snapshot.is_none());
        let session = (&open.client, &open.local);
        let outcome = tokio::select! {
            biased;
            outcome = attempt::with_session(&self.context, &options, report, session, &ready) => outcome,
            () = stop.cancelled() => Err(Failure::new(FailureClass::Interrupted, "it was stopped")),
        };
        let owed =
            ready.owed.iter().flat_map(|owed| mem::take(&mut *owed.lock().unwrap_or_else(PoisonError::into_inner)));
        self.owed.extend(owed.map(|request| (terms.source_at, request)));
        let failed = outcome.and_then(|()| match report.failures().next() {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        });
        if let Err(failure) = failed {
            // Whatever it left is ended before anything else begins.
            if let Some(open) = kept.take() {
                open.local.shut_down().await;
                open.client.bye().await;
            }
            return Err(failure);
        }
        open.holds(terms, pair);
        let all = |d: &crate::driver::DatasetReport| matches!(d.result, DatasetResult::Done | DatasetResult::UpToDate);
        if report.datasets.iter().all(all) { Ok(()) } else { Err(internal("a dataset has no result")) }
    }

    /// The session for transfers, opened anew if the last one is over.
    async fn session<'a>(&self, kept: &'a mut Option<Open>) -> Result<&'a mut Open, Failure> {
        if kept.as_ref().is_none_or(|open| open.client.ended().is_some()) {
            if let Some(old) = kept.take() {
                old.local.shut_down().await;
            }
            let client = Client::connect(Arc::clone(&self.context.link), &self.context.client).await?;
            let holder = format!("cutover {} on this host (pid {})", self.begun.id, std::process::id());
            let engine = Arc::clone(&self.context.engine);
            let local = Arc::new(EngineSession::new(engine, holder, Arc::clone(&client) as _));
            *kept = Some(Open::new(client, local));
        }
        kept.as_mut().ok_or_else(|| internal("no session"))
    }

    async fn enters(&self, terms: &Terms) -> Result<Option<String>, Failure> {
        let known = self.measured().enters.clone().filter(|(leg, _)| *leg == terms.leg);
        if let Some((_, fence)) = known {
            return Ok(fence);
        }
        let fence = self.talk.state(terms, Side::Target).await?.fence.map(|leg| leg.to_string());
        self.measured().enters = Some((terms.leg, fence.clone()));
        Ok(fence)
    }

    fn options(&self, terms: &Terms, pair: &Pair, snapshot: Option<&SnapshotTag>) -> RunOptions {
        RunOptions {
            direction: if terms.source_at == Node::Here { Direction::Push } else { Direction::Pull },
            source: pair.source.clone(),
            target: pair.target.clone(),
            recursive: true,
            exclude: Vec::new(),
            history: History::All,
            upto: None,
            encryption: EncryptionMode::Default,
            rollback: false,
            enters: None,
            estimates: false,
            snapshot: snapshot.cloned(),
            dry_run: false,
            jobs: match (snapshot, self.measured().left) {
                (None, Some(..=LITTLE_LEFT)) => self.begun.jobs.max(AT_ONCE),
                _ => self.begun.jobs,
            },
            compression: self.begun.compression,
            bwlimit_bytes_per_s: self.begun.bwlimit_bytes_per_s,
        }
    }
}

/// What a transfer of the whole unit came to.
#[derive(Default)]
struct Moved {
    bytes: u64,
    wire_bytes: u64,
    transfers: Duration,
    /// What an outage does not need, as it is done before.
    preparing: Duration,
    compared: bool,
    /// Those of the dataset that took most: more than one where other snapshots came along.
    steps: u32,
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn internal(e: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Internal, e)
}
