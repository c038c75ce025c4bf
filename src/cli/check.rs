//! `zmigrate check`: one word for a monitoring system, and the reasons.
//!
//! The form is that of the Monitoring Plugins' guidelines: the first line says all, figures stand behind a `|`, further
//! lines are details; the exit code is 0, 1, 2 or 3.

use std::{fmt::Display, path::Path};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{args::Global, job_args::CheckArgs, output::Output};
use crate::{
    config::Config,
    driver::cutover::standing,
    host,
    identity::{LoadedIdentity, RENEW_NODE, When},
    jobs::span::human_seconds,
    runner::overview::{JobStatus, overview},
    types::{Failure, JobName},
};

/// How far ahead of this clock that of a source may be.
const AHEAD: SignedDuration = SignedDuration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        }
    }

    fn exit_code(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }

    /// Of several, the one that counts: what is known to be bad comes before what is not known.
    fn rank(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Unknown => 2,
            Level::Critical => 3,
        }
    }
}

#[derive(Serialize)]
struct Judged {
    job: JobName,
    level: Level,
    lag_s: Option<u64>,
    max_lag_s: Option<u64>,
    why: String,
}

#[derive(Serialize)]
struct CheckObject {
    level: Level,
    exit_code: u8,
    jobs: Vec<Judged>,
    others: Vec<Other>,
}

/// What is wrong beside the jobs.
#[derive(Serialize)]
struct Other {
    level: Level,
    why: String,
}

/// Says that nothing is known; gives the exit code.
pub fn not_known(why: &impl Display, output: &Output) -> u8 {
    let object = CheckObject { level: Level::Unknown, exit_code: 3, jobs: Vec::new(), others: Vec::new() };
    output.must_say(&object, format!("ZMIGRATE UNKNOWN - {}", one_line(why)));
    3
}

/// A `|` begins the figures, and a line break the details.
fn one_line(text: &impl Display) -> String {
    text.to_string().replace(['\n', '|'], " ")
}

/// The certificate of this host, if it is about to expire or has; of one that cannot be read nothing is said: whoever
/// asks may be another user than the one who runs the jobs.
fn certificate(dir: &Path, now: When) -> Option<Other> {
    let own = LoadedIdentity::read(dir).ok()?.own;
    let (level, word) = match () {
        () if now > own.not_after => (Level::Critical, "expired"),
        () if now.after(RENEW_NODE) > own.not_after => (Level::Warning, "expires"),
        () => return None,
    };
    Some(Other { level, why: format!("the certificate in {} {word} {}", dir.display(), own.not_after) })
}

pub fn run(global: &Global, args: &CheckArgs, output: &Output) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let looked = host::config(global.config.as_deref(), global.identity_dir.as_deref()).and_then(|config| {
        let statuses = overview(&config, args.name.as_ref(), now)?;
        let mut others: Vec<Other> = certificate(&config.identity_dir, When::now()).into_iter().collect();
        if args.name.is_none() {
            others.extend(cutovers(&config)?);
        }
        Ok((statuses, others))
    });
    let (statuses, others) = match looked {
        Ok(looked) => looked,
        Err(failure) => return Ok(not_known(&failure, output)),
    };
    let watched = statuses.iter().filter(|status| args.name.is_some() || is_watched(status));
    let jobs: Vec<Judged> = watched.map(|status| judge(status, args, now)).collect();
    let levels = jobs.iter().map(|job| job.level).chain(others.iter().map(|found| found.level));
    let level = levels.max_by_key(|level| level.rank()).unwrap_or(Level::Unknown);
    let text = text(level, &jobs, &others, args);
    output.must_say(&CheckObject { level, exit_code: level.exit_code(), jobs, others }, text);
    Ok(level.exit_code())
}

/// A job that only people start is late by nobody's fault, unless it is asked for. One with a limit is meant to keep it, whoever starts it.
fn is_watched(status: &JobStatus) -> bool {
    status.schedule.is_some() || status.max_lag_s.is_some()
}

fn judge(status: &JobStatus, args: &CheckArgs, now: Timestamp) -> Judged {
    let max_lag_s = args.max_lag.map(|span| span.as_s()).or(status.max_lag_s);
    let warn_lag_s = args.warn_lag.map(|span| span.as_s());
    let lacking = status.datasets.iter().find_map(|d| d.lacks_base());
    let worst = status.datasets.iter().max_by_key(|d| d.lag_s);
    let behind = |lag: u64| {
        let dataset = worst.map_or(status.source.as_str(), |d| d.source.as_str());
        format!("{dataset} is {} behind", human_seconds(lag))
    };
    // The one before, while one is at work: otherwise a job that always fails would be well for as long as it tries.
    let failed = status.last_ended.as_ref().filter(|last| last.exit_code != 0);
    let ahead = status.datasets.iter().find(|d| d.taken.is_some_and(|taken| taken.duration_since(now) > AHEAD));
    let (level, why) = match (status.lag_s, max_lag_s) {
        _ if status.error.is_some() => (Level::Unknown, status.error.clone().unwrap_or_default()),
        _ if lacking.is_some() => (Level::Critical, lacking.unwrap_or_default()),
        (None, _) => (Level::Critical, "nothing has been replicated yet".to_owned()),
        (Some(lag), Some(max)) if lag > max => {
            (Level::Critical, format!("{}, more than {}", behind(lag), human_seconds(max)))
        }
        _ if ahead.is_some() => {
            let dataset = ahead.map_or(status.source.as_str(), |d| d.source.as_str());
            let why = "is dated in the future: a clock is or was wrong, so the lag is not known";
            (Level::Warning, format!("the newest snapshot of {dataset} that both sides have {why}"))
        }
        (Some(lag), _) if warn_lag_s.is_some_and(|warn| lag > warn) => (Level::Warning, behind(lag)),
        (Some(lag), _) if failed.is_some() => {
            let why = failed.and_then(|last| last.error.clone()).unwrap_or_default();
            (Level::Warning, format!("{}; the last run failed: {why}", behind(lag)))
        }
        (Some(lag), _) if status.paused => (Level::Warning, format!("{}; it is paused", behind(lag))),
        (Some(lag), _) if status.kept_for.is_some() => {
            (Level::Warning, format!("{}; {}", behind(lag), status.kept_for.clone().unwrap_or_default()))
        }
        (Some(_), None) if warn_lag_s.is_none() => {
            (Level::Unknown, "no limit: give --max-lag, or set max_lag in the job".to_owned())
        }
        (Some(lag), _) => (Level::Ok, behind(lag)),
    };
    Judged { job: status.job.clone(), level, lag_s: status.lag_s, max_lag_s, why: one_line(&why) }
}

/// The cutovers of this host that go no further without a person.
fn cutovers(config: &Config) -> Result<Vec<Other>, Failure> {
    let waiting = standing(&*host::ledgers(config), Timestamp::now())?.waiting.into_iter();
    Ok(waiting.map(|one| Other { level: Level::Critical, why: one_line(&one) }).collect())
}

fn text(level: Level, jobs: &[Judged], others: &[Other], args: &CheckArgs) -> String {
    let worst: Vec<&Judged> = jobs.iter().filter(|job| job.level == level).collect();
    let summary = match worst.as_slice() {
        [] => {
            let other = others.iter().find(|other| other.level == level);
            other.map_or("no job has a schedule or max_lag".to_owned(), |other| other.why.clone())
        }
        [one] => format!("job {}: {}", one.job, one.why),
        many if level == Level::Ok => format!("{} jobs are up to date", many.len()),
        [first, rest @ ..] => format!("job {}: {} (and {} more)", first.job, first.why, rest.len()),
    };
    let warn = args.warn_lag.map_or(String::new(), |span| span.as_s().to_string());
    let figure = |job: &Judged| {
        let max = job.max_lag_s.map_or(String::new(), |max| max.to_string());
        job.lag_s.map(|lag| format!("'{}'={lag}s;{warn};{max};0", job.job))
    };
    let figures: Vec<String> = jobs.iter().filter_map(figure).collect();
    let mut text = format!("ZMIGRATE {} - {summary}", level.word());
    if !figures.is_empty() {
        text.push_str(&format!(" | {}", figures.join(" ")));
    }
    others.iter().for_each(|other| text.push_str(&format!("\n{} {}", other.level.word(), other.why)));
    if jobs.len() > 1 {
        jobs.iter().for_each(|job| text.push_str(&format!("\n{} job {}: {}", job.level.word(), job.job, job.why)));
    }
    text
}
