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
    host,
    jobs::span::human_seconds,
    runner::{
        JobContext, JobReport, Started,
        files::JobFiles,
        overview::{find, overview},
        run_job,
    },
    types::{Failure, FailureClass, JobName, human_bytes, paragraph},
};

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
    let context = JobContext { rollback, ..job_context(config)? };
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        tokio::spawn(stop_on_signal(context.stop.clone()));
        run_job(&context, &job, if cron { Started::Cron } else { Started::Person }).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    let report = match report {
        // A first run that takes a day is no news each quarter of an hour.
        Err(failure) if cron && failure.class == FailureClass::Locked => return Ok(failure.class.exit_code()),
        report => report?,
    };
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
    paragraph(&mut text, &format!("job {}: ", report.job), 2, &words);
    for lag in &report.lags {
        if let Some(trouble) = lag.common.is_none().then_some("no common snapshot") {
            line(&mut text, &format!("  {}: {trouble}", lag.source));
        }
    }
    text
}
