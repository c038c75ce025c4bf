//! `zmigrate prune`.

use std::time::Duration;

use serde::Serialize;

use super::{
    args::Global,
    job::job_context,
    job_args::Prune,
    output::{Output, note, print_failure, runtime},
    replicate::stop_on_signal,
};
use crate::{
    driver::{PruneReport, RetiredReport, Upkeep},
    host,
    runner::{overview::find, preview},
    types::{Failure, JobName},
};

#[derive(Serialize)]
struct PruneObject<'a> {
    job: &'a JobName,
    result: &'static str,
    exit_code: u8,
    dry_run: bool,
    /// Snapshots that went, or would go.
    dropped: usize,
    datasets: &'a [PruneReport],
    /// Of the target, gone at the source.
    deleted: &'a [RetiredReport],
    notes: &'a [String],
    /// The first thing that could not be destroyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
}

pub fn run(global: &Global, args: &Prune, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let job = find(&config, &args.name)?.clone();
    let context = job_context(config)?;
    let runtime = runtime()?;
    let found = runtime.block_on(async {
        tokio::spawn(stop_on_signal(context.stop.clone()));
        preview(&context, &job, !args.dry_run).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    let found = found?;
    let exit_code = found.failure.as_ref().map_or(0, |failure| failure.class.exit_code());
    let object = PruneObject {
        job: &job.name,
        result: match (&found.failure, args.dry_run) {
            (Some(_), _) => "failed",
            (None, true) => "planned",
            (None, false) => "done",
        },
        exit_code,
        dry_run: args.dry_run,
        dropped: found.destroyed(),
        datasets: &found.pruned,
        deleted: &found.retired,
        notes: &found.notes,
        error: found.failure.as_ref(),
    };
    if !output.is_json() {
        found.notes.iter().for_each(|text| note(format_args!("note: {text}")));
        found.failure.iter().for_each(print_failure);
    }
    output.result(&object, text(&found, args.dry_run));
    Ok(exit_code)
}

fn text(found: &Upkeep, dry_run: bool) -> String {
    let mut text = String::new();
    for report in &found.pruned {
        let gone = report.snapshots.iter().filter(|s| !s.keep).count();
        // What was done is told short, what would be done in full.
        if !dry_run && gone == 0 {
            continue;
        }
        text.push_str(&format!("{} ({}): {gone} of {} go\n", report.dataset, report.side, report.snapshots.len()));
        for snapshot in report.snapshots.iter().filter(|s| dry_run || !s.keep) {
            let word = if snapshot.keep { "keep" } else { "drop" };
            text.push_str(&format!("  {word}  @{}\n        {}\n", snapshot.tag, snapshot.why));
        }
    }
    for report in &found.retired {
        let word = match (report.result, dry_run) {
            ("destroyed", true) => "would be destroyed",
            ("destroyed", false) => "destroyed",
            (word, _) => word,
        };
        text.push_str(&format!("{} (target): {word}\n        {}\n", report.dataset, report.why));
    }
    text.push_str(&match (found.pruned.is_empty(), dry_run, found.destroyed()) {
        (true, _, _) if !found.retired.is_empty() => {
            "no snapshot was judged: the job has no rules (keep, keep_peer)".to_owned()
        }
        (true, _, _) => "the job has no rules (keep, keep_peer), so all snapshots stay".to_owned(),
        (_, true, n) => format!("{n} snapshots would go; nothing was changed"),
        (_, false, n) => format!("{n} snapshots were destroyed"),
    });
    text
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    use crate::{driver::SnapshotReport, types::FailureClass};
    let (job, error) = ("j".parse().unwrap(), Failure::new(FailureClass::Zfs, "e"));
    let snapshots = vec![SnapshotReport { tag: "s".parse().unwrap(), keep: true, why: "w".into() }];
    let object = PruneObject {
        job: &job,
        result: "failed",
        exit_code: 6,
        dry_run: false,
        dropped: 1,
        datasets: &[PruneReport { dataset: "a".parse().unwrap(), side: "source", snapshots }],
        deleted: &[RetiredReport { dataset: "a/b".parse().unwrap(), result: "waits", why: "w".into() }],
        notes: &["n".to_owned()],
        error: Some(&error),
    };
    serde_json::to_value(object).unwrap()
}
