//! One run: connect, lock, look, plan, carry out, report.
//!
//! ```text
//! run ─ attempt ─┬─ list both sides, plan          (again after a restart of the peer)
//!                ├─ placeholders
//!                └─ datasets, `jobs` at a time ─ actions in order ─ step ─ transfer, acknowledge
//! ```
//!
//! A run holds no state of its own that matters: what has been done is read from both sides' ZFS each time, so an
//! attempt that broke off anywhere is simply made again.

mod attempt;
mod board;
pub mod cutover;
mod limit;
mod local;
mod probe;
mod prune;
mod report;
mod retire;
mod side;
mod step;
mod upkeep;
pub mod verify;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub use board::{ActiveStep, Board, Snapshot as BoardSnapshot};
pub use local::{LocalOptions, keep_up_here};
pub use probe::{ProbeOptions, ProbeReport, ReceiverSeconds, probe};
#[cfg(test)]
pub(crate) use report::sample as report_sample;
pub use report::{DatasetReport, DatasetResult, Report, StepReport};
pub use retire::RetiredReport;
pub use upkeep::{PruneReport, SnapshotReport, Upkeep, UpkeepOptions, upkeep};

use crate::{
    plan::{EncryptionMode, ExcludePattern, History},
    port::link::Link,
    session::{client::ClientOptions, engine::Engine},
    types::{DatasetName, Failure, FailureClass, PeerName, SnapshotTag},
    wire::message::Compression,
};

/// Which way the data goes, seen from where the command was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The source is here.
    Push,
    /// The target is here.
    Pull,
}

/// What to replicate, and how.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Which way.
    pub direction: Direction,
    /// The dataset that is read.
    pub source: DatasetName,
    /// The dataset that will exist.
    pub target: DatasetName,
    /// All below it as well.
    pub recursive: bool,
    /// Left out, each with all below it.
    pub exclude: Vec<ExcludePattern>,
    /// All snapshots, or the newest.
    pub history: History,
    /// As far as this snapshot.
    pub upto: Option<SnapshotTag>,
    /// Raw or plain.
    pub encryption: EncryptionMode,
    /// A target that went its own way may be rolled back.
    pub rollback: bool,
    /// The fence that may be received into; see [`crate::plan::PlanOptions`].
    pub enters: Option<String>,
    /// Ask ZFS beforehand how long the streams will be, for people who watch.
    pub estimates: bool,
    /// Take a snapshot of this name first.
    pub snapshot: Option<SnapshotTag>,
    /// Change nothing.
    pub dry_run: bool,
    /// Datasets in parallel.
    pub jobs: usize,
    /// How to compress.
    pub compression: Compression,
    /// Wire bytes per second, for all transfers together.
    pub bwlimit_bytes_per_s: Option<u64>,
}

/// What a run works with.
pub struct RunContext {
    /// How to reach the peer.
    pub link: Arc<dyn Link>,
    /// This host's side.
    pub engine: Arc<Engine>,
    /// How the session behaves.
    pub client: ClientOptions,
    /// The name in our own certificate.
    pub identity: PeerName,
    /// Where progress is shown.
    pub board: Arc<Board>,
    /// Set when the run is to end early; what has been received is kept.
    pub stop: CancellationToken,
    /// Where the limit changes while the run is at work: wire bytes per second for all transfers together, in place of that of the
    /// options. A source that is too old to be told keeps to theirs.
    pub limit: Option<watch::Receiver<Option<u64>>>,
}

/// Attempts in a row without any step done before a passing failure is taken for a lasting one.
const FRUITLESS_ATTEMPTS: u32 = 5;
/// How long a peer that was there may be away while it is restarted: systemd gives it 90 s to end.
const RESTART_WITHIN: Duration = Duration::from_secs(120);

/// Replicates, and goes on after whatever passes by itself.
///
/// Failures of single datasets are in the report; its exit code says what the whole amounts to.
pub async fn run(context: &RunContext, options: &RunOptions) -> Report {
    let started = Instant::now();
    let mut report = Report::new(options, &context.link.to_string());
    let mut fruitless = 0;
    let mut client = context.client.clone();
    loop {
        let steps_before = report.steps_done();
        let result = attempt::attempt(context, &client, options, &mut report).await;
        // There has been a session, or this is not tried again. A peer that is restarted is away for as long as it needs to
        // end what it has in work.
        client.connect_for = client.lost_after.min(RESTART_WITHIN);
        let again = match &result {
            Err(failure) => is_passing(failure),
            Ok(()) => report.failures().any(passes_for_one),
        };
        fruitless = if report.steps_done() > steps_before { 0 } else { fruitless + 1 };
        if !again || fruitless >= FRUITLESS_ATTEMPTS {
            report.conclude(result.err(), started.elapsed());
            return report;
        }
        let why = result.err().or_else(|| report.failures().find(|f| passes_for_one(f)).cloned());
        let pause = Duration::from_millis(500) * 2u32.pow(fruitless.min(4));
        if let Some(why) = why {
            tracing::warn!("{why}; trying again in {:.1} s", pause.as_secs_f32());
        }
        tokio::select! {
            biased;
            () = sleep(pause) => {}
            () = context.stop.cancelled() => {
                report.conclude(Some(stopped()), started.elapsed());
                return report;
            }
        }
    }
}

fn stopped() -> Failure {
    Failure::new(FailureClass::Interrupted, "the run was stopped")
        .hint("run the same command again; it goes on where it stopped")
}

/// The same of one dataset's failure: it may also have found no place among the transfers of a side, which others leave.
fn passes_for_one(failure: &Failure) -> bool {
    is_passing(failure) || (failure.class == FailureClass::Unreachable && failure.transient)
}

/// True for what a new session may get over: the peer was restarted, a process was killed, something was busy.
fn is_passing(failure: &Failure) -> bool {
    match failure.class {
        FailureClass::SessionLost => true,
        FailureClass::Zfs => failure.transient,
        _ => false,
    }
}
