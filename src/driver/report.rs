//! What a run did, for people and as JSON (docs/json.md).

use std::time::Duration;

use serde::Serialize;

use super::{Direction, RunOptions};
use crate::{
    plan::Plan,
    types::{DatasetName, Failure, FailureClass, SnapshotName, SnapshotTag},
};

/// The result of one dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetResult {
    /// Something was sent, and all of it arrived.
    Done,
    /// There was nothing to do.
    UpToDate,
    /// Refused: a person must decide.
    Refused,
    /// It failed.
    Failed,
    /// Not tried, because what it needs failed.
    Skipped,
}

/// One stream that was sent and received.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The snapshot, by its name on the source.
    pub snapshot: SnapshotName,
    /// The snapshot or bookmark that the stream starts from; absent for a full one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// True if it went on where an earlier run stopped.
    pub resumed: bool,
    /// Bytes of the stream; of a resumed one, of the rest.
    pub raw_bytes: u64,
    /// Payload bytes on the wire.
    pub wire_bytes: u64,
    /// Seconds from its beginning to the target's word that it is there.
    pub seconds: f64,
}

/// What became of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetReport {
    /// On the source.
    pub source: DatasetName,
    /// On the target.
    pub target: DatasetName,
    /// How it ended.
    pub result: DatasetResult,
    /// The streams that arrived, in order.
    pub steps: Vec<StepReport>,
    /// The stream that was under way when the session was lost, and with it the word whether it arrived.
    #[serde(skip)]
    pub(super) unsure: Option<StepReport>,
    /// What a person should know although it went well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why it failed or was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `done`, `up_to_date`, `refused`, `partial` or `failed`.
    pub result: &'static str,
    /// The exit code of the command.
    pub exit_code: u8,
    /// `push` or `pull`.
    pub direction: &'static str,
    /// The peer, as the operator wrote it.
    pub peer: String,
    /// The dataset that was read.
    pub source: DatasetName,
    /// The dataset that was written.
    pub target: DatasetName,
    /// True if nothing was changed.
    pub dry_run: bool,
    /// The snapshot that was taken first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotTag>,
    /// The snapshot was asked for, whether or not the answer came.
    #[serde(skip)]
    pub(super) snapshot_asked: bool,
    /// What a session in which all is ready does not need: for the lock, and for the target's listing alone.
    #[serde(skip)]
    pub(super) preparing: Duration,
    /// While datasets were worked off, several at a time.
    #[serde(skip)]
    pub(super) carrying: Duration,
    /// Bytes of all streams.
    pub raw_bytes: u64,
    /// Payload bytes on the wire.
    pub wire_bytes: u64,
    /// Seconds for the whole run.
    pub seconds: f64,
    /// One for each dataset that takes part.
    pub datasets: Vec<DatasetReport>,
    /// What a person should know of the run as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why the run as a whole failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The plan, for a dry run alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Estimates in bytes for the plan's steps, in order; `null` where unknown. For a dry run alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan_sizes: Vec<Option<u64>>,
}

impl DatasetReport {
    /// True if this attempt found that an earlier one's stream had arrived.
    fn found(&self, earlier: &StepReport) -> bool {
        match self.steps.first() {
            Some(first) => first.from.as_deref() == Some(earlier.snapshot.as_str()),
            None => matches!(self.result, DatasetResult::Done | DatasetResult::UpToDate),
        }
    }
}

impl Report {
    pub(super) fn new(options: &RunOptions, peer: &str) -> Report {
        Report {
            result: "failed",
            exit_code: 0,
            direction: match options.direction {
                Direction::Push => "push",
                Direction::Pull => "pull",
            },
            peer: peer.to_owned(),
            source: options.source.clone(),
            target: options.target.clone(),
            dry_run: options.dry_run,
            snapshot: None,
            snapshot_asked: false,
            preparing: Duration::ZERO,
            carrying: Duration::ZERO,
            raw_bytes: 0,
            wire_bytes: 0,
            seconds: 0.0,
            datasets: Vec::new(),
            notes: Vec::new(),
            error: None,
            plan: None,
            plan_sizes: Vec::new(),
        }
    }

    /// What the datasets failed of, at the last attempt.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.datasets.iter().filter_map(|d| d.error.as_ref())
    }

    pub(super) fn steps_done(&self) -> usize {
        self.datasets.iter().map(|d| d.steps.len()).sum()
    }

    /// Takes the outcome of an attempt at one dataset; steps of earlier attempts stay.
    pub(super) fn merge(&mut self, mut new: DatasetReport) {
        match self.datasets.iter_mut().find(|d| d.source == new.source) {
            None => self.datasets.push(new),
            Some(old) => {
                let mut steps = std::mem::take(&mut old.steps);
                match old.unsure.take() {
                    Some(unsure) if new.found(&unsure) => steps.push(unsure),
                    // This attempt did not come so far as to tell.
                    Some(unsure) if new.steps.is_empty() && new.error.is_some() => {
                        new.unsure = new.unsure.or(Some(unsure))
                    }
                    _ => {}
                }
                steps.append(&mut new.steps);
                if new.result == DatasetResult::UpToDate && !steps.is_empty() {
                    new.result = DatasetResult::Done;
                }
                let mut notes = std::mem::take(&mut old.notes);
                for note in new.notes.drain(..) {
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
                *old = DatasetReport { steps, notes, ..new };
            }
        }
    }

    /// Brings the datasets into an order.
    pub(super) fn sort_by<K: Ord>(&mut self, key: impl Fn(&DatasetName) -> K) {
        self.datasets.sort_by_key(|d| key(&d.source));
    }

    pub(super) fn conclude(&mut self, failure: Option<Failure>, elapsed: Duration) {
        use DatasetResult as R;
        self.seconds = elapsed.as_secs_f64();
        let steps = || self.datasets.iter().flat_map(|d| &d.steps);
        self.raw_bytes = steps().map(|s| s.raw_bytes).sum();
        self.wire_bytes = steps().map(|s| s.wire_bytes).sum();
        let count = |wanted: &[R]| self.datasets.iter().filter(|d| wanted.contains(&d.result)).count();
        let bad = count(&[R::Refused, R::Failed, R::Skipped]);
        let good = self.datasets.len() - bad;
        let class = match &failure {
            Some(failure) => Some(failure.class),
            None if bad == 0 => None,
            None if good > 0 => Some(FailureClass::Partial),
            // All failed: the first cause names the code; what was skipped only follows.
            None => Some(self.failures().next().map_or(FailureClass::Internal, |f| f.class)),
        };
        self.error = failure;
        self.exit_code = class.map_or(0, FailureClass::exit_code);
        self.result = match class {
            None if self.dry_run => "planned",
            None if steps_or_changes(&self.datasets) => "done",
            None => "up_to_date",
            Some(FailureClass::Partial) => "partial",
            Some(FailureClass::Refused) => "refused",
            Some(_) => "failed",
        };
    }
}

fn steps_or_changes(datasets: &[DatasetReport]) -> bool {
    datasets.iter().any(|d| d.result == DatasetResult::Done)
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(crate) fn sample() -> Report {
    use crate::{
        plan::{DatasetPlan, Decision},
        types::{Guid, listing::DatasetKind},
    };
    let (source, target) = ("a".parse::<DatasetName>().unwrap(), "b".parse::<DatasetName>().unwrap());
    let failure = Failure::new(FailureClass::Zfs, "e").hint("h");
    let step = StepReport {
        snapshot: "a@s".parse().unwrap(),
        from: Some("a@r".into()),
        resumed: false,
        raw_bytes: 1,
        wire_bytes: 1,
        seconds: 1.0,
    };
    let planned = DatasetPlan {
        source: source.clone(),
        target: target.clone(),
        kind: DatasetKind::Filesystem,
        source_guid: Guid(1),
        after: vec![0],
        decision: Decision::Work(Vec::new()),
        notes: vec!["n".into()],
    };
    Report {
        result: "partial",
        exit_code: 7,
        direction: "push",
        peer: "p".into(),
        source: source.clone(),
        target: target.clone(),
        dry_run: false,
        snapshot: Some("s".parse().unwrap()),
        snapshot_asked: true,
        preparing: Duration::ZERO,
        carrying: Duration::ZERO,
        raw_bytes: 1,
        wire_bytes: 1,
        seconds: 1.0,
        datasets: vec![DatasetReport {
            source,
            target: target.clone(),
            result: DatasetResult::Failed,
            steps: vec![step],
            unsure: None,
            notes: vec!["n".into()],
            error: Some(failure.clone()),
        }],
        notes: vec!["n".into()],
        error: Some(failure),
        plan: Some(Plan {
            placeholders: vec![target],
            datasets: vec![planned],
            notes: vec!["n".into()],
            only_on_target: 1,
        }),
        plan_sizes: vec![Some(1)],
    }
}
