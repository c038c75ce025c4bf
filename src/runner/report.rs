//! What a run of a job did: for people, as JSON, and for the history.

use std::time::Duration;

use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;

use super::history::{MAX_NOTES, MAX_STEPS, Record, Step, Trouble};
use crate::{
    driver::{
        DatasetResult, Report,
        verify::{VerifyReport, VerifyResult},
    },
    jobs::lag::Lag,
    types::{Failure, FailureClass, JobName, SnapshotTag},
};

/// Who began a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Started {
    /// `zmigrated`, because it was time.
    Schedule,
    /// `zmigrate job run --cron`.
    Cron,
    /// `zmigrate job run`.
    Person,
}

impl Started {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Started::Schedule => "schedule",
            Started::Cron => "cron",
            Started::Person => "person",
        }
    }
}

/// What a run of a job did, for people and as JSON (docs/json.md).
#[derive(Clone, Debug, Serialize)]
pub struct JobReport {
    /// The job.
    pub job: JobName,
    /// The run's id, as in the history.
    pub run: String,
    /// As in the report of a push; `failed` also where the run did not come so far.
    pub result: &'static str,
    /// The exit code of the command.
    pub exit_code: u8,
    /// When it began.
    pub started: Timestamp,
    /// Seconds for all of it.
    pub seconds: f64,
    /// How often it was tried.
    pub attempts: u32,
    /// The snapshot that was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotTag>,
    /// The replication, at its last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<Report>,
    /// How far each dataset is behind, as seen at the end.
    pub lags: Vec<Lag>,
    /// Bytes of the streams of all attempts.
    pub raw_bytes: u64,
    /// Payload bytes on the wire, of all attempts.
    pub wire_bytes: u64,
    /// Snapshots that were destroyed.
    pub pruned: usize,
    /// The comparison of both sides, if one was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerifyReport>,
    /// What a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why the run as a whole failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

impl JobReport {
    /// How its comparison of both sides ended.
    pub fn verified(&self) -> Option<VerifyResult> {
        self.verification.as_ref().map(|found| found.result)
    }

    /// Of two failures the first is the cause, and the other one a note: neither is lost.
    pub(super) fn first_of(&mut self, first: Option<Failure>, second: Option<Failure>) -> Option<Failure> {
        if first.is_some() {
            self.notes.extend(second.map(|second| second.to_string()));
            return first;
        }
        second
    }

    /// What a person should know of all that it did, each once: of the job, of the replication, and of each dataset, with its name.
    pub fn all_notes(&self) -> Vec<String> {
        let replication = self.replication.iter();
        let below = replication.flat_map(|r| {
            let datasets =
                r.datasets.iter().flat_map(|d| d.notes.iter().map(move |note| format!("{}: {note}", d.source)));
            r.notes.iter().cloned().chain(datasets)
        });
        let mut notes: Vec<String> = Vec::new();
        for note in below.chain(self.notes.iter().cloned()) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }
}

/// Takes in how it ended.
pub(super) fn conclude(report: &mut JobReport, result: Result<(), Failure>, elapsed: Duration) {
    report.seconds = elapsed.as_secs_f64();
    let replicated = report.replication.as_ref();
    let (result_word, exit_code) = replicated.map_or(("failed", 0), |r| (r.result, r.exit_code));
    report.error = replicated.and_then(|r| r.error.clone());
    // What needs no other host has no replication to tell of.
    let result_word = if replicated.is_none() && result.is_ok() { "done" } else { result_word };
    (report.result, report.exit_code) = (result_word, exit_code);
    if let Err(failure) = result {
        // What went wrong first names the code.
        if report.exit_code == 0 {
            report.exit_code = failure.class.exit_code();
            report.result = match report.verified() {
                Some(VerifyResult::Different) => "different",
                _ if failure.class == FailureClass::Refused => "refused",
                _ => "failed",
            };
            report.error = Some(failure);
        } else {
            report.notes.push(failure.to_string());
        }
    }
}

/// The first that went wrong with a dataset.
pub(super) fn first_trouble(report: &JobReport) -> Option<String> {
    report.replication.as_ref()?.failures().next().map(ToString::to_string)
}

/// Its line in the history.
pub(super) fn record(report: &JobReport, by: Started, ended: Option<Timestamp>) -> Record {
    let datasets = report.replication.as_ref().map(|r| r.datasets.as_slice()).unwrap_or_default();
    let steps = datasets.iter().flat_map(|d| &d.steps).take(MAX_STEPS).map(|step| Step {
        snapshot: step.snapshot.to_string(),
        from: step.from.clone(),
        raw_bytes: step.raw_bytes,
        wire_bytes: step.wire_bytes,
        seconds: step.seconds,
    });
    let short = |text: String| text.chars().take(400).collect::<String>();
    let troubles = datasets.iter().filter_map(|d| {
        let result = match d.result {
            DatasetResult::Done | DatasetResult::UpToDate => return None,
            DatasetResult::Refused => "refused",
            DatasetResult::Failed => "failed",
            DatasetResult::Skipped => "skipped",
        };
        let error = short(d.error.as_ref().map(ToString::to_string).unwrap_or_default());
        Some(Trouble { dataset: d.source.to_string(), result: result.to_owned(), error })
    });
    Record {
        run: report.run.clone(),
        job: report.job.clone(),
        by: by.word().to_owned(),
        started: report.started,
        ended,
        result: if ended.is_some() { report.result.to_owned() } else { "running".to_owned() },
        exit_code: report.exit_code,
        attempts: report.attempts,
        snapshot: report.snapshot.as_ref().map(ToString::to_string),
        raw_bytes: report.raw_bytes,
        wire_bytes: report.wire_bytes,
        seconds: report.seconds,
        datasets: datasets.len(),
        pruned: report.pruned,
        verified: report.verified().map(|result| result.word().to_owned()),
        steps: steps.collect(),
        troubles: troubles.take(MAX_STEPS).collect(),
        notes: report.all_notes().into_iter().map(short).take(MAX_NOTES).collect(),
        error: report.error.as_ref().map(|e| short(e.to_string())),
    }
}

/// `2026-11-26T04:00:00Z-1a2b`: sorts by time, and tells two of one second apart.
pub(super) fn run_id(now: Timestamp) -> String {
    let mut bytes = [0u8; 2];
    // Without randomness the time alone must do.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    format!("{}-{}", now.strftime("%Y-%m-%dT%H:%M:%SZ"), hex::encode(bytes))
}
