//! `zmigrate job`.

use std::{fmt::Write, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    args::Global,
    job_args::JobCommand,
    output::{Output, note, print_failure, runtime},
    replicate::stop_on_signal,
    status::{jobs_object, line, table},
};
use crate::{
    config::Config,
    driver::verify::VerifyResult,
    host,
    identity::{Identity, RENEW_NODE, When},
    jobs::span::{Span, human_seconds},
    runner::{
        JobContext, JobReport, Started,
        files::{JobFiles, JobState},
        overview::{find, overview},
        run_job,
    },
    session::live::LiveConnections,
    types::{Failure, FailureClass, JobName, human_bytes, paragraph},
};

const DAY_S: u64 = 86_400;

#[derive(Serialize)]
struct Paused {
    job: JobName,
    paused: bool,
    changed: bool,
}

pub fn run(global: &Global, command: JobCommand, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    match command {
        JobCommand::List => {
            let jobs = overview(&config, None, Timestamp::now())?;
            output.result(&jobs_object(&jobs), table(&jobs, Timestamp::now()));
            Ok(0)
        }
        JobCommand::Run { name, cron, rollback } => run_one(config, &name, (cron, rollback), output),
        JobCommand::Pause { name } => pause(&config, name, true, output),
        JobCommand::Resume { name } => pause(&config, name, false, output),
    }
}

fn pause(config: &Config, name: JobName, paused: bool, output: &Output) -> Result<u8, Failure> {
    find(config, &name)?;
    host::state_is_ours(config)?;
    let files = JobFiles::new(&config.state_dir);
    let changed = files.set_paused(&name, paused)?;
    let text = match (paused, changed) {
        (true, true) if files.is_running(&name) => format!("job {name} is paused; the run that is at work goes on"),
        (true, true) => format!("job {name} is paused"),
        (true, false) => format!("job {name} was paused already"),
        (false, true) => format!("job {name} runs again"),
        (false, false) => format!("job {name} was not paused"),
    };
    output.result(&Paused { job: name, paused, changed }, text);
    Ok(0)
}

/// What a run of a job, or of its pruning, works with.
pub(super) fn job_context(config: Config) -> Result<JobContext, Failure> {
    host::state_is_ours(&config)?;
    let store = host::identity(&config)?;
    let engine = host::engine(&config);
    Ok(JobContext {
        config: Arc::new(config),
        store,
        engine,
        live: LiveConnections::that_looks(),
        stop: CancellationToken::new(),
        turn: None,
        rollback: false,
    })
}

fn run_one(config: Config, name: &JobName, (cron, rollback): (bool, bool), output: &Output) -> Result<u8, Failure> {
    let job = find(&config, name)?.clone();
    if JobFiles::new(&config.state_dir).is_paused(name) {
        if cron {
            return Ok(0);
        }
        return Err(Failure::new(FailureClass::Refused, format!("job {name} is paused"))
            .hint(format!("`zmigrate job resume {name}` ends that")));
    }
    if cron && !job.schedule.allows(Timestamp::now()) {
        return Ok(0);
    }
    if rollback && job.remote.is_none() {
        let text = format!("job {name} is of this host alone: it has no target to roll back");
        return Err(Failure::new(FailureClass::Usage, text).hint("leave --rollback out"));
    }
    let context = JobContext { rollback, ..job_context(config)? };
    let files = JobFiles::new(&context.config.state_dir);
    // What cannot be read says nothing of when it went well; the run itself tells of it.
    let last_good = files.load(&job).ok().and_then(|state| state.last_good);
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        tokio::spawn(stop_on_signal(context.stop.clone()));
        run_job(&context, &job, if cron { Started::Cron } else { Started::Person }).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    let report = match report {
        Err(failure) if cron && failure.class == FailureClass::Locked => {
            if files.load(&job).is_ok_and(|state| hangs(&state, job.max_lag, Timestamp::now())) {
                print_failure(&failure.hint(format!(
                    "it may hang: see `zmigrate status {name}`, and end that process if it does not go on"
                )));
            }
            return Ok(FailureClass::Locked.exit_code());
        }
        report => report?,
    };
    if cron {
        ends_soon(&context.store.own(), When::now(), last_good).iter().for_each(note);
    }
    let good = report.exit_code == 0;
    if !(cron && good) {
        troubles(&report, output);
        report.all_notes().iter().filter(|_| !output.is_json()).for_each(|text| note(format_args!("note: {text}")));
        if !cron || output.is_json() {
            output.result(&report, text(&report));
        }
    }
    Ok(report.exit_code)
}

/// True if the run that is at work began too long ago to be passed over in silence: as many seconds as the lag may be, or a day. A first
/// run that takes a day is no news each quarter of an hour.
fn hangs(state: &JobState, max_lag: Option<Span>, now: Timestamp) -> bool {
    let limit = match (max_lag, state.last_good) {
        (Some(limit), Some(_)) => limit.as_s(),
        (limit, _) => limit.map_or(DAY_S, |limit| limit.as_s().max(DAY_S)),
    };
    let at_work = state.last.as_ref().filter(|last| last.ended.is_none());
    at_work.is_some_and(|last| now.duration_since(last.started).as_secs() > i64::try_from(limit).unwrap_or(i64::MAX))
}

/// What is said of a certificate that is about to end, once a day: where no daemon runs, nobody else would say it.
fn ends_soon(own: &Identity, now: When, last_good: Option<Timestamp>) -> Option<String> {
    let day = |unix_s: u64| unix_s / DAY_S;
    let said = last_good.and_then(|at| u64::try_from(at.as_second()).ok()).map(day) == Some(day(now.unix_s()));
    (now.after(RENEW_NODE) > own.not_after && !said).then(|| {
        let name = &own.name;
        format!(
            "warning: the certificate of {name} expires {}; `zmigrate ca issue {name} --renew` where the CA is renews it, see docs/authority.md",
            own.not_after
        )
    })
}

/// What went wrong, on stderr.
fn troubles(report: &JobReport, output: &Output) {
    for dataset in report.replication.iter().flat_map(|r| &r.datasets) {
        if let (Some(failure), false) = (&dataset.error, output.is_json()) {
            note(format_args!("job {}: {} → {}:", report.job, dataset.source, dataset.target));
            print_failure(failure);
        }
    }
    if let Some(failure) = &report.error {
        note(format_args!("job {}, run {}:", report.job, report.run));
        print_failure(failure);
    }
}

fn text(report: &JobReport) -> String {
    let mut text = String::new();
    let raw = report.replication.as_ref().map_or(0, |r| r.raw_bytes);
    let seconds = human_seconds(report.seconds as u64);
    let mut words = format!("{}, {} in {seconds}", report.result.replace('_', " "), human_bytes(raw));
    if let Some(tag) = &report.snapshot {
        // Writing into a String does not fail.
        let _ = write!(words, ", @{tag}");
    }
    if report.pruned > 0 {
        let _ = write!(words, ", {} snapshots pruned", report.pruned);
    }
    if report.verified() == Some(VerifyResult::Equal) {
        words.push_str(", both sides compared and equal");
    }
    paragraph(&mut text, &format!("job {}: ", report.job), 2, &words);
    for lag in &report.lags {
        if let Some(trouble) = lag.common.is_none().then_some("no common snapshot") {
            line(&mut text, &format!("  {}: {trouble}", lag.source));
        }
    }
    text
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(super) fn paused_sample() -> serde_json::Value {
    serde_json::to_value(Paused { job: "j".parse().unwrap(), paused: true, changed: true }).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::Serial, runner::files::LastRun};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_run_that_takes_too_long_is_told() {
        let began = at("2026-11-26T04:00:00Z");
        let at_work = LastRun { started: began, result: "running".into(), ..LastRun::default() };
        let well = JobState { last: Some(at_work.clone()), last_good: Some(began), ..JobState::default() };
        let first = JobState { last_good: None, ..well.clone() };
        let ended = JobState { last: Some(LastRun { ended: Some(began), ..at_work }), ..well.clone() };
        let (hour, day) = (Some(Span::seconds(3600)), at("2026-11-27T04:00:01Z"));
        let (soon, late) = (at("2026-11-26T05:00:00Z"), at("2026-11-26T05:00:01Z"));
        assert!(!hangs(&well, hour, soon) && hangs(&well, hour, late));
        assert!(!hangs(&well, None, late) && hangs(&well, None, day));
        // The first one may take long, but not for ever.
        assert!(!hangs(&first, hour, late) && hangs(&first, hour, day));
        assert!(
            hangs(&first, Some(Span::seconds(2 * DAY_S)), day) == hangs(&well, Some(Span::seconds(2 * DAY_S)), day)
        );
        assert!(!hangs(&ended, hour, day) && !hangs(&JobState::default(), hour, day));
        assert!(!hangs(&well, hour, at("2020-01-01T00:00:00Z")), "a clock that was set back");
    }

    #[test]
    fn the_end_of_a_certificate_is_told_once_a_day() {
        let now = When::from_unix_s(at("2026-11-26T04:00:00Z").as_second() as u64);
        let own = |days: u64| Identity {
            name: "east".parse().unwrap(),
            serial: Serial::new(&[1]),
            not_before: now,
            not_after: now.after(Duration::from_secs(days * DAY_S)),
        };
        let said = ends_soon(&own(29), now, Some(at("2026-11-25T23:59:00Z"))).unwrap();
        assert!(
            said.starts_with("warning: the certificate of east expires 2026-12-25") && said.contains("--renew"),
            "{said}"
        );
        assert!(ends_soon(&own(29), now, None).is_some());
        assert_eq!(ends_soon(&own(29), now, Some(at("2026-11-26T00:00:01Z"))), None, "it was said today");
        assert_eq!(ends_soon(&own(31), now, None), None);
    }
}
