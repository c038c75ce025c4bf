//! `zmigrate verify`.

use std::{fmt::Write, io::IsTerminal, sync::Arc, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::{
    args::Global,
    cutover_args::Place,
    output::{Output, note, print_failure, runtime},
    replicate::{run_context, stop_on_signal},
};
use crate::{
    driver::{
        Direction,
        verify::{DatasetVerified, VerifyOptions, VerifyProgress, VerifyReport, VerifyResult, verify},
    },
    types::{Failure, human_bytes, transfer::Streams},
};

/// Between two drawings, and between two lines where nothing is drawn.
const TICKS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Snapshots that are named; of more, how many there are.
const NAMED: usize = 5;

/// Compares two copies of a dataset: the snapshots of both sides by their GUIDs, and whether the target was written to. With
/// --content also every file, attribute and byte of the newest snapshot that both have. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 both sides are equal · 3 they differ · else why it could not be found out")]
pub struct Verify {
    /// What was read: DATASET here, or PEER:DATASET
    #[arg(value_name = "SRC")]
    pub source: Place,
    /// Its copy: PEER:DATASET, or DATASET here
    #[arg(value_name = "DST")]
    pub target: Place,
    /// All datasets below as well
    #[arg(short)]
    pub recursive: bool,
    /// Read the newest common snapshot on both sides, and compare all that is in it
    #[arg(long)]
    pub content: bool,
    /// With --content: how many differences of each dataset are named
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10000))]
    pub max_differences: u16,
}

pub fn run(global: &Global, args: Verify, output: &Output) -> Result<u8, Failure> {
    let (peer, is_here, source, target) = Place::apart(&args.source, &args.target)?;
    let direction = if is_here { Direction::Push } else { Direction::Pull };
    let options = VerifyOptions {
        direction,
        source,
        target,
        recursive: args.recursive,
        content: args.content,
        most: args.max_differences.into(),
        seen: None,
    };
    let context = run_context(global, &peer, Streams::Fixed(1))?;
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        let progress = Arc::new(VerifyProgress::default());
        let shown = show(global.quiet, Arc::clone(&progress));
        tokio::spawn(stop_on_signal(context.stop.clone()));
        let report = verify(&context, &options, &progress).await;
        drop(shown);
        report
    });
    // A thread that hangs in a read must not keep the command.
    runtime.shutdown_timeout(Duration::from_secs(2));
    if !output.is_json() {
        for dataset in report.datasets.iter().filter(|dataset| dataset.error.is_some()) {
            note(format_args!("{}:", pair(&report, dataset)));
            dataset.error.iter().for_each(print_failure);
        }
    }
    if let Some(failure) = &report.error {
        print_failure(failure);
    }
    output.verdict(report.exit_code, &report, text(&report));
    Ok(report.exit_code)
}

/// Shows how far this side is until the result is dropped.
fn show(quiet: bool, progress: Arc<VerifyProgress>) -> Option<(Option<Cleared>, AbortOnDropHandle<()>)> {
    if quiet {
        return None;
    }
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::default_spinner());
        bar
    });
    let (drawn, tick) = (bar.clone(), if bar.is_some() { TICKS.0 } else { TICKS.1 });
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut ticks = interval(tick);
        // The first tick is at once, when there is nothing to show yet.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let line = match progress.now() {
                Some((snapshot, counts)) => {
                    format!("{snapshot}: {} entries, {}", counts.entries, human_bytes(counts.bytes))
                }
                None => "waiting for the other side".to_owned(),
            };
            match &drawn {
                Some(bar) => {
                    bar.set_message(line);
                    bar.tick();
                }
                None => note(line),
            }
        }
    }));
    Some((bar.map(Cleared), task))
}

/// A bar that is gone when it is dropped.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn pair(report: &VerifyReport, dataset: &DatasetVerified) -> String {
    match (&dataset.source, &dataset.target) {
        (Some(source), Some(target)) => format!("{source} and {target}"),
        (Some(source), None) => source.to_string(),
        (None, Some(target)) => target.to_string(),
        (None, None) => report.source.to_string(),
    }
}

/// The result for people.
fn text(report: &VerifyReport) -> String {
    let mut text = String::new();
    for dataset in &report.datasets {
        // Writing into a String does not fail.
        let _ = write_dataset(&mut text, report, dataset);
    }
    text
}

fn names(tags: &[String]) -> String {
    let named: Vec<&str> = tags.iter().take(NAMED).map(String::as_str).collect();
    let more = tags.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

fn write_dataset(to: &mut String, report: &VerifyReport, dataset: &DatasetVerified) -> std::fmt::Result {
    let result = match dataset.result {
        VerifyResult::Equal => "equal",
        VerifyResult::Different => "DIFFERENT",
        VerifyResult::Failed => "NOT KNOWN",
    };
    writeln!(to, "{}: {result}", pair(report, dataset))?;
    match (&dataset.source, &dataset.target) {
        (Some(_), None) => return writeln!(to, "  only the source has it"),
        (None, _) => return writeln!(to, "  only the target has it"),
        _ => {}
    }
    match &dataset.common {
        Some(common) => writeln!(to, "  newest common snapshot: @{} (GUID {})", common.snapshot, common.guid)?,
        None => writeln!(to, "  no snapshot is on both sides")?,
    }
    for (side, tags) in [("source", &dataset.only_at_source), ("target", &dataset.only_at_target)] {
        if !tags.is_empty() {
            writeln!(to, "  only at the {side}: {} ({})", names(tags), tags.len())?;
        }
    }
    if let Some(bytes) = dataset.target_written_bytes.filter(|bytes| *bytes > 0) {
        writeln!(to, "  the target was written to since its newest snapshot: {}", human_bytes(bytes))?;
    }
    if let Some(content) = &dataset.content {
        let what = format!("{} entries, {}", content.entries, human_bytes(content.bytes));
        if content.equal {
            writeln!(
                to,
                "  content of @{}: equal, {what}, digest {}",
                content.snapshot,
                short(&content.source_digest)
            )?;
        } else {
            writeln!(to, "  content of @{}: differs, {what}", content.snapshot)?;
        }
        for difference in &content.differences {
            writeln!(to, "    {}: {}", difference.path, difference.what)?;
        }
        if content.more_differences {
            writeln!(to, "    and more; --max-differences shows more of them")?;
        }
    }
    dataset.notes.iter().try_for_each(|note| writeln!(to, "  note: {note}"))
}

fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}
