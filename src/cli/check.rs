//! `zmigrate check`: one word for a monitoring system, and the reasons.
//!
//! The form is that of the Monitoring Plugins' guidelines: the first line says all, figures stand behind a `|`, further
//! lines are details; the exit code is 0, 1, 2 or 3.

use std::{fmt::Display, path::Path};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{args::Global, job_args::CheckArgs, output::Output, status::ago};
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
/// How late a job of this host alone may begin before that is told: others run as well, eight at a time.
const LATE: SignedDuration = SignedDuration::from_hours(1);
/// How long a run of such a job may take before that is told: it takes a snapshot and prunes.
const HANGS: SignedDuration = SignedDuration::from_hours(24);

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
    let watched = statuses.iter().filter(|status| args.name.is_some() || is_watched(status, now));
    let jobs: Vec<Judged> = watched.map(|status| judge(status, args, now)).collect();
    let levels = jobs.iter().map(|job| job.level).chain(others.iter().map(|found| found.level));
    let level = levels.max_by_key(|level| level.rank()).unwrap_or(Level::Unknown);
    let text = text(level, &jobs, &others, args);
    output.must_say(&CheckObject { level, exit_code: level.exit_code(), jobs, others }, text);
    Ok(level.exit_code())
}

/// A job that only people start is late by nobody's fault, unless it is asked for. One with a limit is meant to keep it, whoever starts it.
/// What a verification found is told in any case.
fn is_watched(status: &JobStatus, now: Timestamp) -> bool {
    let trouble = status.verification.as_ref().and_then(|verification| verification.trouble(now));
    status.schedule.is_some() || status.max_lag_s.is_some() || trouble.is_some()
}

fn judge(status: &JobStatus, args: &CheckArgs, now: Timestamp) -> Judged {
    if status.target.is_none() {
        // A limit for the lag of all jobs is hardly meant for one that has none; one for this job is.
        let asked = args.max_lag.filter(|_| args.name.is_some());
        let max_lag_s = asked.map(|span| span.as_s()).or(status.max_lag_s);
        let (level, why) = judge_local(status, max_lag_s, now);
        return Judged { job: status.job.clone(), level, lag_s: None, max_lag_s, why: one_line(&why) };
    }
    let verification = status.verification.as_ref();
    let unverified = verification.and_then(|verification| verification.trouble(now));
    let differs = verification.is_some_and(|verification| verification.difference.is_some());
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
        _ if differs => (Level::Critical, unverified.unwrap_or_default()),
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
        (Some(lag), _) if unverified.is_some() => {
            (Level::Warning, format!("{}; {}", behind(lag), unverified.unwrap_or_default()))
        }
        (Some(_), None) if warn_lag_s.is_none() => {
            (Level::Unknown, "no limit: give --max-lag, or set max_lag in the job".to_owned())
        }
        (Some(lag), _) => (Level::Ok, behind(lag)),
    };
    Judged { job: status.job.clone(), level, lag_s: status.lag_s, max_lag_s, why: one_line(&why) }
}

/// A job of this host alone has no lag: it is well as long as it runs, and its runs go well. Its limit is for how long ago one did.
fn judge_local(status: &JobStatus, max_lag_s: Option<u64>, now: Timestamp) -> (Level, String) {
    let since = |at: Timestamp| u64::try_from(now.as_second() - at.as_second()).unwrap_or_default();
    let over = max_lag_s.filter(|max| status.last_good.is_none_or(|good| since(good) > *max));
    let at_work = status.last.as_ref().filter(|last| status.state == "running" && last.ended.is_none());
    let hangs = at_work.filter(|last| now.duration_since(last.started) > HANGS);
    let failed = status.last_ended.as_ref().filter(|last| last.exit_code != 0);
    let late = status.next.filter(|next| now.duration_since(*next) > LATE && status.state != "running");
    match (status.last_good, failed) {
        _ if status.error.is_some() => (Level::Unknown, status.error.clone().unwrap_or_default()),
        (Some(good), _) if over.is_some() => {
            let max = over.map_or(String::new(), human_seconds);
            (Level::Critical, format!("the last run that went well ended {}, more than {max}", ago(good, now)))
        }
        (None, _) if over.is_some() => (Level::Critical, "no run has gone well yet".to_owned()),
        _ if hangs.is_some() => {
            let began = hangs.map_or(String::new(), |last| ago(last.started, now));
            (Level::Warning, format!("the run that is at work began {began}, and may hang"))
        }
        (_, Some(last)) => (Level::Warning, format!("the last run failed: {}", last.error.clone().unwrap_or_default())),
        _ if status.paused => (Level::Warning, "it is paused".to_owned()),
        _ if late.is_some() => {
            let due = late.map_or(String::new(), |due| ago(due, now));
            (Level::Warning, format!("it was due {due} and did not run"))
        }
        _ if status.kept_for.is_some() => (Level::Warning, status.kept_for.clone().unwrap_or_default()),
        (None, None) => (Level::Warning, "no run has gone well yet".to_owned()),
        (Some(good), None) => (Level::Ok, format!("the last run went well {}", ago(good, now))),
    }
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

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    let level = Level::Critical;
    let job = Judged { job: "j".parse().unwrap(), level, lag_s: Some(1), max_lag_s: Some(1), why: "w".into() };
    let others = vec![Other { level, why: "w".into() }];
    serde_json::to_value(CheckObject { level, exit_code: level.exit_code(), jobs: vec![job], others }).unwrap()
}

/// What is said of a job, as README.md has it.
#[cfg(test)]
pub(super) fn line_of(status: &JobStatus, now: Timestamp) -> String {
    let args = CheckArgs { name: None, max_lag: None, warn_lag: None };
    let judged = judge(status, &args, now);
    text(judged.level, &[judged], &[], &args)
}

/// `0 OK, 1 WARNING, …`, as docs/exit-codes.md has it.
#[cfg(test)]
pub(super) fn codes_in_words() -> String {
    let levels = [Level::Ok, Level::Warning, Level::Critical, Level::Unknown];
    levels.map(|level| format!("{} {}", level.exit_code(), level.word())).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::{
        Verified,
        files::{JobFiles, JobState, LastRun, place},
    };

    fn now() -> Timestamp {
        "2026-11-26T04:00:00Z".parse().unwrap()
    }

    /// What is said of a job whose runs left that state; the names of its datasets are filled in.
    fn judged(keys: &str, state: JobState) -> (Level, String) {
        judged_by(&CheckArgs { name: None, max_lag: None, warn_lag: None }, keys, state, false)
    }

    /// The same of a check with arguments, and also while a run is at work.
    fn judged_by(args: &CheckArgs, keys: &str, state: JobState, at_work: bool) -> (Level, String) {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("state_dir = \"{}\"\n[job.db]\ndataset = \"t/db\"\n{keys}", dir.path().display());
        let config = Config::parse(&text, "z").unwrap();
        let job = config.jobs.values().next().unwrap();
        let state = JobState { source: job.dataset.to_string(), target: place(job), ..state };
        let files = JobFiles::new(dir.path());
        files.save(job, &state).unwrap();
        let _lock = at_work.then(|| files.lock(&job.name).unwrap());
        let status = overview(&config, None, now()).unwrap().remove(0);
        let judged = judge(&status, args, now());
        (judged.level, judged.why)
    }

    fn run(exit_code: u8) -> LastRun {
        let error = (exit_code != 0).then(|| "what went wrong".to_owned());
        LastRun { started: now(), ended: Some(now()), exit_code, error, ..LastRun::default() }
    }

    fn says(told: (Level, String), level: Level, part: &str) {
        assert!(told.0 == level && told.1.contains(part), "{told:?} is not {level:?} with {part:?}");
    }

    #[test]
    fn what_a_verification_found_is_told_until_one_passes() {
        let keys = "direction = \"push\"\npeer = \"b\"\ntarget = \"t/x\"\nmax_lag = \"1h\"\nverify = \"7d\"\n";
        let lag = serde_json::json!({
            "source": "t/db", "target": "t/x", "unsent_snapshots": 0, "unsent_bytes": null,
            "common": { "tag": "s", "guid": 1, "taken_unix_s": now().as_second() - 60 },
        });
        let with = |verified: Verified| {
            let lags = vec![serde_json::from_value(lag.clone()).unwrap()];
            judged(keys, JobState { last: Some(run(0)), last_good: Some(now()), lags, verified, ..JobState::default() })
        };
        let days_ago = |days: i64| Some(now() - SignedDuration::from_hours(24 * days));
        says(with(Verified::default()), Level::Ok, "is 1 min behind");
        says(with(Verified { good: days_ago(14), ..Verified::default() }), Level::Ok, "is 1 min behind");
        let overdue = with(Verified { good: days_ago(15), ..Verified::default() });
        says(overdue, Level::Warning, "both sides were last found equal 15 d ago");
        says(with(Verified { since: days_ago(15), ..Verified::default() }), Level::Warning, "never been compared");
        let found = Verified { good: days_ago(1), difference: Some("t/db and t/x: bad".into()), ..Verified::default() };
        says(with(found), Level::Critical, "found a difference: t/db and t/x: bad");
    }

    #[test]
    fn a_job_of_this_host_alone_is_judged_by_its_runs() {
        let local = |keys: &str, state: JobState| judged(&format!("direction = \"local\"\n{keys}"), state);
        says(local("", JobState::default()), Level::Warning, "no run has gone well yet");
        let ran = |code: u8| JobState { last: Some(run(code)), last_good: Some(now()), ..JobState::default() };
        says(local("every = \"1h\"\n", ran(0)), Level::Ok, "the last run went well 0 s ago");
        says(local("every = \"1h\"\n", ran(6)), Level::Warning, "the last run failed: what went wrong");
        let long_ago = now() - SignedDuration::from_hours(5);
        let late = JobState { last: Some(LastRun { started: long_ago, ..run(0) }), ..ran(0) };
        says(local("every = \"1h\"\n", late), Level::Warning, "it was due 4 h ago and did not run");
        let kept = JobState { kept_for: Some("3 snapshots stay".into()), ..ran(0) };
        says(local("", kept), Level::Warning, "3 snapshots stay");
    }

    /// A run that hangs ends nowhere, and what cron should start and does not has no schedule here.
    #[test]
    fn a_job_of_this_host_alone_that_stands_still_is_not_well() {
        let hours_ago = |hours: i64| now() - SignedDuration::from_hours(hours);
        let local = |keys: &str| format!("direction = \"local\"\n{keys}");
        let good =
            |hours: i64| JobState { last: Some(run(0)), last_good: Some(hours_ago(hours)), ..JobState::default() };
        let limited = |state: JobState| judged(&local("max_lag = \"2h\"\n"), state);
        says(limited(good(2)), Level::Ok, "the last run went well 2 h ago");
        says(limited(good(3)), Level::Critical, "the last run that went well ended 3 h ago, more than 2 h");
        says(limited(JobState::default()), Level::Critical, "no run has gone well yet");
        // A limit on the command line is for it if it is named.
        let max_lag = Some("2h".parse().unwrap());
        let this = CheckArgs { name: Some("db".parse().unwrap()), max_lag, warn_lag: None };
        says(judged_by(&this, &local(""), good(3), false), Level::Critical, "more than 2 h");
        let all = CheckArgs { name: None, ..this };
        says(judged_by(&all, &local(""), good(3), false), Level::Ok, "went well 3 h ago");
        // A run that is at work, and one that ended long ago while somebody has the lock for another reason.
        let none = CheckArgs { max_lag: None, ..all };
        let begun = |hours: i64, ended: Option<Timestamp>| {
            let last = LastRun { started: hours_ago(hours), ended, ..run(0) };
            let state = JobState { last: Some(last), last_good: Some(hours_ago(99)), ..JobState::default() };
            judged_by(&none, &local("every = \"1h\"\n"), state, true)
        };
        says(begun(24, None), Level::Ok, "went well 4 d 3 h ago");
        says(begun(25, None), Level::Warning, "the run that is at work began 1 d 1 h ago, and may hang");
        says(begun(25, Some(now())), Level::Ok, "went well");
    }
}
