//! `zmigrate history`.

use jiff::Timestamp;
use serde::Serialize;

use super::{args::Global, job_args::HistoryArgs, output::Output, status::ago};
use crate::{
    host,
    jobs::span::human_seconds,
    runner::{
        files::JobFiles,
        history::{History, Record},
    },
    types::{Failure, FailureClass, human_bytes, paragraph},
};

#[derive(Serialize)]
struct HistoryObject {
    runs: Vec<Record>,
}

pub fn run(global: &Global, args: &HistoryArgs, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let files = JobFiles::new(&config.state_dir);
    // A job that is no longer configured still has a history.
    let runs = History::new(&config.state_dir)
        .read(args.name.as_ref(), args.limit as usize, |job| files.is_running(job))
        .map_err(|e| Failure::new(FailureClass::Usage, format!("the history cannot be read: {e}")))?;
    let text = text(&runs, Timestamp::now());
    output.result(&HistoryObject { runs }, text);
    Ok(0)
}

fn text(runs: &[Record], now: Timestamp) -> String {
    if runs.is_empty() {
        return "no runs yet".to_owned();
    }
    let mut text =
        format!("{:<20}  {:<16} {:<11} {:>10} {:>10}  {}\n", "STARTED", "JOB", "RESULT", "BYTES", "TIME", "PRUNED");
    for run in runs {
        let started = run.started.strftime("%Y-%m-%d %H:%M:%SZ");
        let seconds =
            run.ended.map_or_else(|| format!("({})", ago(run.started, now)), |_| human_seconds(run.seconds as u64));
        text.push_str(&format!(
            "{started:<20}  {:<16} {:<11} {:>10} {seconds:>10}  {}\n",
            run.job,
            run.result.replace('_', " "),
            human_bytes(run.raw_bytes),
            run.pruned
        ));
        for trouble in &run.troubles {
            paragraph(&mut text, "    ", 4, &format!("{}: {}", trouble.dataset, trouble.error));
        }
        if let Some(error) = &run.error {
            paragraph(&mut text, "    ", 4, error);
        }
        for note in &run.notes {
            paragraph(&mut text, "    note: ", 4, note);
        }
    }
    text
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    use crate::runner::history::{Step, Trouble};
    let run = Record {
        run: "r".into(),
        job: "j".parse().unwrap(),
        by: "cron".into(),
        started: Timestamp::UNIX_EPOCH,
        ended: Some(Timestamp::UNIX_EPOCH),
        result: "partial".into(),
        exit_code: 7,
        attempts: 1,
        snapshot: Some("s".into()),
        raw_bytes: 1,
        wire_bytes: 1,
        seconds: 1.0,
        datasets: 1,
        pruned: 1,
        verified: Some("equal".into()),
        steps: vec![Step {
            snapshot: "a@s".into(),
            from: Some("a@r".into()),
            raw_bytes: 1,
            wire_bytes: 1,
            seconds: 1.0,
        }],
        troubles: vec![Trouble { dataset: "a".into(), result: "failed".into(), error: "e".into() }],
        notes: vec!["n".into()],
        error: Some("e".into()),
    };
    serde_json::to_value(HistoryObject { runs: vec![run] }).unwrap()
}
