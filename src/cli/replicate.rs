//! `zmigrate push` and `zmigrate pull`.

use std::{fmt::Write, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    args::{Global, Pull, Push, Replicate},
    output::{Output, note, print_failure, runtime},
    progress::{saved_percent, show},
};
use crate::{
    driver::{Board, DatasetReport, DatasetResult, Direction, Report, RunContext, RunOptions, run},
    host,
    plan::{EncryptionMode, History, RenderOptions, Step},
    session::live::LiveConnections,
    types::{DatasetName, Failure, FailureClass, PeerAddress, SnapshotTag, human_bytes, human_rate, transfer::Streams},
};

pub fn push(global: &Global, args: Push, output: &Output) -> Result<u8, Failure> {
    if args.target.snapshot.is_some() {
        return Err(Failure::new(
            FailureClass::Usage,
            format!("{} names a snapshot; the target is a dataset", args.target),
        )
        .hint("leave out what follows the @; snapshots keep their names"));
    }
    let options =
        run_options(Direction::Push, args.source.dataset, args.target.dataset, args.source.upto, &args.options);
    replicate(global, &args.target.peer, options, &args.options, output)
}

pub fn pull(global: &Global, args: Pull, output: &Output) -> Result<u8, Failure> {
    let upto = args.source.snapshot.map(|snapshot| snapshot.tag());
    let options = run_options(Direction::Pull, args.source.dataset, args.target, upto, &args.options);
    replicate(global, &args.source.peer, options, &args.options, output)
}

fn run_options(
    direction: Direction,
    source: DatasetName,
    target: DatasetName,
    upto: Option<SnapshotTag>,
    args: &Replicate,
) -> RunOptions {
    RunOptions {
        direction,
        source,
        target,
        recursive: args.recursive,
        exclude: args.exclude.clone(),
        history: if args.newest { History::Newest } else { History::All },
        upto,
        encryption: match (args.raw, args.no_raw) {
            (true, _) => EncryptionMode::Raw,
            (_, true) => EncryptionMode::Plain,
            _ => EncryptionMode::Default,
        },
        rollback: args.rollback,
        enters: None,
        estimates: true,
        snapshot: args.snapshot.clone().map(|name| name.unwrap_or_else(tag_of_now)),
        dry_run: args.dry_run,
        jobs: args.jobs.into(),
        compression: args.transport.compress,
        bwlimit_bytes_per_s: args.transport.bwlimit.map(|limit| limit.0),
    }
}

/// `zmigrate_2026-11-24T02:03:04.567Z`: UTC, so that it sorts, and fine enough that two runs do not meet.
fn tag_of_now() -> SnapshotTag {
    let now = jiff::Timestamp::now().strftime("zmigrate_%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
    // All of its characters are allowed, which a test holds up.
    now.parse().unwrap_or_else(|_| unreachable!("{now} is a snapshot tag"))
}

fn replicate(
    global: &Global,
    peer: &PeerAddress,
    options: RunOptions,
    args: &Replicate,
    output: &Output,
) -> Result<u8, Failure> {
    if options.snapshot.is_some() && options.upto.is_some() {
        return Err(Failure::new(
            FailureClass::Usage,
            "--snapshot takes a new snapshot, so DATASET@SNAP cannot be given",
        )
        .hint("leave out one of them"));
    }
    if !options.recursive && !options.exclude.is_empty() {
        return Err(Failure::new(FailureClass::Usage, "--exclude leaves out datasets below, which only -r sends"));
    }
    let context = run_context(global, peer, args.transport.streams)?;
    if !options.dry_run {
        host::state_is_ours(&host::config(global.config.as_deref(), None)?)?;
    }
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        let progress = show(args.transport.progress, global.quiet, Arc::clone(&context.board));
        tokio::spawn(stop_on_signal(context.stop.clone()));
        let report = run(&context, &options).await;
        drop(progress);
        report
    });
    // All has ended by now, or has been told to; a thread that hangs in a write must not keep the command.
    runtime.shutdown_timeout(Duration::from_secs(2));
    for dataset in &report.datasets {
        if !output.is_json()
            && let Some(failure) = &dataset.error
        {
            note(format_args!("{} → {}:", dataset.source, place(&report, &dataset.target)));
            print_failure(failure);
        }
    }
    if let Some(failure) = &report.error {
        print_failure(failure);
    }
    output.result(&report, text(&report));
    Ok(report.exit_code)
}

/// What a run with a peer works with.
pub(super) fn run_context(global: &Global, peer: &PeerAddress, streams: Streams) -> Result<RunContext, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let store = host::identity(&config)?;
    Ok(RunContext {
        link: LiveConnections::that_looks().watched(host::link(&config, &store, peer)?, &store),
        engine: host::engine(&config),
        client: host::client_options(&config, streams),
        identity: store.own().name,
        board: Arc::new(Board::default()),
        stop: CancellationToken::new(),
        limit: None,
    })
}

/// Ends the run when the operator or the system wants it; `zfs receive` keeps what it has.
pub(super) async fn stop_on_signal(stop: CancellationToken) {
    let says = "stopping; what has been received is being saved. A second signal ends it at once";
    stop_on_signal_saying(stop, says.to_owned()).await;
}

/// The same with other words.
pub(super) async fn stop_on_signal_saying(stop: CancellationToken, says: String) {
    use tokio::signal::unix::{SignalKind, signal};
    if let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        let mut signalled = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        signalled().await;
        stop.cancel();
        note(says);
        signalled().await;
        std::process::exit(FailureClass::Interrupted.exit_code().into());
    }
}

/// A dataset of the target's side, with the peer's name before it if it is there.
fn place(report: &Report, target: &DatasetName) -> String {
    if report.direction == "push" { at_peer(report, target) } else { target.to_string() }
}

fn at_peer(report: &Report, dataset: &DatasetName) -> String {
    let separator = if report.peer.starts_with("zm://") { '/' } else { ':' };
    format!("{}{separator}{dataset}", report.peer)
}

/// The result for people.
fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = if report.plan.is_some() { write_plan(&mut text, report) } else { write_report(&mut text, report) };
    text
}

fn write_plan(to: &mut String, report: &Report) -> std::fmt::Result {
    let Some(plan) = &report.plan else { return Ok(()) };
    let sizes: std::collections::HashMap<_, _> = plan
        .datasets
        .iter()
        .flat_map(|d| d.steps())
        .zip(&report.plan_sizes)
        .map(|(step, size)| (step.target_snapshot.clone(), *size))
        .collect();
    let peer = at_peer(report, &report.target).trim_end_matches(report.target.as_str()).to_owned();
    let (here, there) = if report.direction == "push" { ("", peer.as_str()) } else { (peer.as_str(), "") };
    let size = |step: &Step| sizes.get(&step.target_snapshot).copied().flatten();
    to.push_str(&plan.render(&RenderOptions { source_prefix: here, target_prefix: there, size: &size }));
    write!(to, "dry run: nothing was changed")
}

fn write_report(to: &mut String, report: &Report) -> std::fmt::Result {
    for note in &report.notes {
        writeln!(to, "note: {note}")?;
    }
    let many = report.datasets.len() > 20;
    for dataset in &report.datasets {
        // Of a large tree only what is news.
        if !(many && dataset.result == DatasetResult::UpToDate && dataset.notes.is_empty()) {
            write_dataset(to, report, dataset)?;
        }
    }
    let count = |wanted: DatasetResult| report.datasets.iter().filter(|d| d.result == wanted).count();
    let mut parts = Vec::new();
    for (result, word) in [
        (DatasetResult::Done, "done"),
        (DatasetResult::UpToDate, "up to date"),
        (DatasetResult::Refused, "refused"),
        (DatasetResult::Failed, "failed"),
        (DatasetResult::Skipped, "not tried"),
    ] {
        if count(result) > 0 {
            parts.push(format!("{} {word}", count(result)));
        }
    }
    if report.datasets.len() > 1 {
        writeln!(to, "{} datasets: {}", report.datasets.len(), parts.join(", "))?;
    }
    if report.raw_bytes > 0 {
        let seconds = report.seconds.max(0.001);
        let rate = human_rate((report.raw_bytes as f64 / seconds) as u64);
        write!(to, "{} in {}, {rate}", human_bytes(report.raw_bytes), duration(report.seconds))?;
        match saved_percent(report.raw_bytes, report.wire_bytes) {
            Some(saved) => writeln!(to, "; {} on the wire, {saved} % saved", human_bytes(report.wire_bytes))?,
            None => writeln!(to)?,
        }
    }
    Ok(())
}

fn write_dataset(to: &mut String, report: &Report, dataset: &DatasetReport) -> std::fmt::Result {
    let (source, target) = if report.direction == "push" {
        (dataset.source.to_string(), at_peer(report, &dataset.target))
    } else {
        (at_peer(report, &dataset.source), dataset.target.to_string())
    };
    let word = match dataset.result {
        DatasetResult::Done => "done",
        DatasetResult::UpToDate => "up to date",
        DatasetResult::Refused => "refused",
        DatasetResult::Failed => "failed",
        DatasetResult::Skipped => "not tried",
    };
    writeln!(to, "{source} → {target}: {word}")?;
    for step in &dataset.steps {
        let how = match (&step.from, step.resumed) {
            (_, true) => "went on where an earlier run stopped".to_owned(),
            (None, _) => "full".to_owned(),
            (Some(from), _) => format!("from {}", &from[from.find(['@', '#']).unwrap_or(0)..]),
        };
        let tag = step.snapshot.tag();
        writeln!(to, "  @{tag}  {how}, {} in {}", human_bytes(step.raw_bytes), duration(step.seconds))?;
    }
    for note in &dataset.notes {
        writeln!(to, "  note: {note}")?;
    }
    Ok(())
}

fn duration(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds.max(0.0)).as_secs();
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_makes_a_snapshot_tag() {
        let tag = tag_of_now();
        assert!(tag.as_str().starts_with("zmigrate_20") && tag.as_str().ends_with('Z'), "{tag}");
    }
}
