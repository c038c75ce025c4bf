//! How each job stands, from what its runs wrote down: no ZFS and no peer is asked, so this answers also when they do not.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    files::{JobFiles, JobState, LastRun, Progress},
    verify::Verified,
};
use crate::{
    config::Config,
    jobs::{Direction, Job, Remote, lag::Lag, span::human_seconds},
    types::{DatasetName, Failure, FailureClass, JobName, SnapshotTag},
};

/// One dataset of a job.
#[derive(Clone, Debug, Serialize)]
pub struct DatasetStatus {
    /// On the source.
    pub source: DatasetName,
    /// On the target.
    pub target: DatasetName,
    /// The newest snapshot that both sides had when they were looked at last.
    pub common: Option<SnapshotTag>,
    /// When that one was taken, by the clock of the source.
    pub taken: Option<Timestamp>,
    /// Seconds since that one was taken; `null` where there is none.
    pub lag_s: Option<u64>,
    /// Snapshots of the source that were newer when they were counted last; `null` where that could not be told.
    pub unsent_snapshots: Option<usize>,
    /// Bytes that were still to be sent then; `null` where that could not be told.
    pub unsent_bytes: Option<u64>,
}

/// A job's verifications.
#[derive(Clone, Debug, Serialize)]
pub struct VerificationStatus {
    /// The time between two of them, as configured.
    pub every_s: u64,
    /// By content as well.
    pub content: bool,
    /// When one came to its end last, whatever it found.
    pub last: Option<Timestamp>,
    /// When both sides were found equal last.
    pub good: Option<Timestamp>,
    /// Their content was compared then.
    pub good_content: bool,
    /// What differs, as it was found last.
    pub difference: Option<String>,
    /// Both sides were not found equal for more than twice that time.
    pub overdue: bool,
}

impl VerificationStatus {
    fn of(job: &Job, verified: Verified, now: Timestamp) -> Option<VerificationStatus> {
        let every = job.verify?;
        Some(VerificationStatus {
            every_s: every.as_s(),
            content: job.verify_content,
            overdue: verified.is_overdue(job, now),
            last: verified.last,
            good: verified.good,
            good_content: verified.good_content,
            difference: verified.difference,
        })
    }

    /// Why a person should look, in words.
    pub fn trouble(&self, now: Timestamp) -> Option<String> {
        if let Some(difference) = &self.difference {
            return Some(format!("the last verification found a difference: {difference}"));
        }
        let since = |at: Timestamp| human_seconds(u64::try_from(now.as_second() - at.as_second()).unwrap_or_default());
        self.overdue.then(|| match self.good {
            Some(good) if good > now => "both sides were last found equal by a clock that was ahead".to_owned(),
            Some(_) if self.content && !self.good_content => {
                "the content of both sides was not compared when they were last found equal".to_owned()
            }
            Some(good) => format!("both sides were last found equal {} ago", since(good)),
            None => "both sides have never been compared yet".to_owned(),
        })
    }
}

/// One job.
#[derive(Clone, Debug, Serialize)]
pub struct JobStatus {
    /// Its name.
    pub job: JobName,
    /// Which way: `push`, `pull`, or `local` for one of this host alone.
    pub direction: &'static str,
    /// The dataset that is read.
    pub source: DatasetName,
    /// The peer; `null` of one of this host alone.
    pub peer: Option<String>,
    /// The dataset that is written; `null` of one of this host alone.
    pub target: Option<DatasetName>,
    /// `running`, `paused`, `idle`, `new` if it never ran, or `unreadable`.
    pub state: &'static str,
    /// No run begins by itself.
    pub paused: bool,
    /// Why nothing is known of it: what was written down cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What starts it; absent if only people do.
    pub schedule: Option<String>,
    /// When it is to start next, unless it is paused.
    pub next: Option<Timestamp>,
    /// The run that was begun last.
    pub last: Option<LastRun>,
    /// The run that ended last: the one begun last, or the one before while that is at work.
    pub last_ended: Option<LastRun>,
    /// When a run went well last.
    pub last_good: Option<Timestamp>,
    /// When both sides were looked at last.
    pub looked: Option<Timestamp>,
    /// The largest lag of its datasets, in seconds; `null` if one of them has no common snapshot, or it never ran.
    pub lag_s: Option<u64>,
    /// From when on that is too much, as configured.
    pub max_lag_s: Option<u64>,
    /// Bytes still to be sent when they were counted last; `null` if that could not be told of all its datasets.
    pub unsent_bytes: Option<u64>,
    /// Runs so far.
    pub runs: u64,
    /// Runs that did not go well.
    pub failed_runs: u64,
    /// Bytes on the wire in all.
    pub wire_bytes: u64,
    /// How far the run that is at work has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What stays for a target that may have been given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_for: Option<String>,
    /// Where its data come from, and where they go, unless they stay.
    #[serde(skip)]
    pub way: (String, Option<String>),
    /// Its verifications, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationStatus>,
    /// Its datasets, as they were seen last.
    pub datasets: Vec<DatasetStatus>,
}

/// The job of that name.
///
/// # Errors
/// When there is none.
pub fn find<'a>(config: &'a Config, name: &JobName) -> Result<&'a Job, Failure> {
    config.jobs.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.jobs.keys().map(JobName::as_str).collect();
        let hint = if known.is_empty() {
            format!("the configuration has no jobs; write a [job.{name}]")
        } else {
            format!("the configuration has: {}", known.join(", "))
        };
        Failure::new(FailureClass::Usage, format!("there is no job {name}")).hint(hint)
    })
}

/// All jobs, or the one of that name, by name.
///
/// # Errors
/// When there is no such job.
pub fn overview(config: &Config, only: Option<&JobName>, now: Timestamp) -> Result<Vec<JobStatus>, Failure> {
    if let Some(name) = only {
        find(config, name)?;
    }
    let files = JobFiles::new(&config.state_dir);
    let wanted = config.jobs.values().filter(|job| only.is_none_or(|name| *name == job.name));
    Ok(wanted.map(|job| status(job, &files, now)).collect())
}

fn status(job: &Job, files: &JobFiles, now: Timestamp) -> JobStatus {
    // One that cannot be read must not hide the others.
    let (state, error) = match files.load(job) {
        Ok(state) => (state, None),
        Err(failure) => (JobState::default(), Some(failure.to_string())),
    };
    let (running, paused) = (files.is_running(&job.name), files.is_paused(&job.name));
    let now_s = u64::try_from(now.as_second()).unwrap_or_default();
    let datasets: Vec<DatasetStatus> = state.lags.iter().map(|lag| dataset(lag, now_s)).collect();
    let lags: Option<Vec<u64>> = datasets.iter().map(|d| d.lag_s).collect();
    let unsent: Option<Vec<u64>> = datasets.iter().map(|d| d.unsent_bytes).collect();
    let last_started = state.last.as_ref().map(|last| last.started);
    let since = state.first_seen.map_or(now, |seen| seen.min(now));
    let next = job.schedule.next(last_started, since, now, job.seed()).filter(|_| !paused);
    let mut last = state.last;
    if let Some(last) = last.as_mut().filter(|last| last.ended.is_none() && !running) {
        last.cut_off();
    }
    let last_ended = if running { state.last_ended } else { last.clone() };
    let progress = files.progress(&job.name).filter(|p| running && last.as_ref().is_some_and(|last| last.run == p.run));
    JobStatus {
        job: job.name.clone(),
        direction: job.word(),
        source: job.dataset.clone(),
        peer: job.remote.as_ref().map(|remote| remote.peer.to_string()),
        target: job.remote.as_ref().map(|remote| remote.target.clone()),
        state: match (running, paused, &last) {
            _ if error.is_some() => "unreadable",
            (true, _, _) => "running",
            (_, true, _) => "paused",
            (_, _, None) => "new",
            _ => "idle",
        },
        paused,
        error,
        schedule: job.schedule.trigger.as_ref().map(ToString::to_string),
        next,
        last,
        last_ended,
        last_good: state.last_good,
        looked: state.looked,
        lag_s: lags.and_then(|lags| lags.into_iter().max()),
        max_lag_s: job.max_lag.map(|span| span.as_s()),
        unsent_bytes: unsent.filter(|all| !all.is_empty()).map(|all| all.iter().sum()),
        runs: state.runs,
        failed_runs: state.failed_runs,
        wire_bytes: state.wire_bytes,
        progress,
        kept_for: state.kept_for,
        verification: VerificationStatus::of(job, state.verified, now),
        way: way(job),
        datasets,
    }
}

fn dataset(lag: &Lag, now_s: u64) -> DatasetStatus {
    DatasetStatus {
        source: lag.source.clone(),
        target: lag.target.clone(),
        common: lag.common.as_ref().map(|common| common.tag.clone()),
        taken: lag.common.as_ref().and_then(|c| Timestamp::from_second(i64::try_from(c.taken_unix_s).ok()?).ok()),
        lag_s: lag.age_s(now_s),
        unsent_snapshots: lag.unsent_snapshots,
        unsent_bytes: lag.unsent_bytes,
    }
}

impl DatasetStatus {
    /// What is wrong if both sides have nothing in common, for people.
    pub fn lacks_base(&self) -> Option<String> {
        let (source, target) = (&self.source, &self.target);
        match (&self.common, self.unsent_snapshots) {
            (Some(_), _) => None,
            (None, Some(0)) => {
                Some(format!("{source} has no snapshot left, while its copy {target} has: nothing of it is replicated"))
            }
            (None, _) => Some(format!("{source} and its target have no snapshot in common")),
        }
    }
}

/// Where its data come from, and where they go.
fn way(job: &Job) -> (String, Option<String>) {
    let Some(Remote { direction, peer, target }) = &job.remote else { return (job.dataset.to_string(), None) };
    let peer = peer.to_string();
    let separator = if peer.starts_with("zm://") { '/' } else { ':' };
    let there = |dataset: &DatasetName| format!("{peer}{separator}{dataset}");
    match direction {
        Direction::Push => (job.dataset.to_string(), Some(there(target))),
        Direction::Pull => (there(&job.dataset), Some(target.to_string())),
    }
}
