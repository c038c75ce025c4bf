//! `zmigrate status`: how each job stands, in 80 columns.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    args::Global,
    job_args::StatusArgs,
    output::{Output, runtime},
};
use crate::{
    config::Config,
    driver::cutover::standing,
    host,
    jobs::span::human_seconds,
    runner::overview::{JobStatus, overview},
    types::{Failure, FailureClass, human_bytes, human_rate, paragraph},
};

/// The width that people are promised.
const WIDTH: usize = 80;

/// The object of `zmigrate status` and `zmigrate job list`.
#[derive(Serialize)]
pub struct JobsObject<'a> {
    jobs: &'a [JobStatus],
}

pub fn jobs_object(jobs: &[JobStatus]) -> JobsObject<'_> {
    JobsObject { jobs }
}

pub fn run(global: &Global, args: &StatusArgs, output: &Output) -> Result<u8, Failure> {
    let read = || host::config(global.config.as_deref(), global.identity_dir.as_deref());
    let config = read()?;
    if args.watch {
        return watch(&config, output);
    }
    let jobs = overview(&config, None, Timestamp::now())?;
    let mut text = table(&jobs, Timestamp::now());
    for waiting in standing(&*host::ledgers(&config), Timestamp::now())?.waiting {
        paragraph(&mut text, "! ", 2, &waiting.to_string());
    }
    output.result(&jobs_object(&jobs), text);
    Ok(0)
}

/// `3 min ago`, by whole units.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - at.as_second();
    match u64::try_from(seconds) {
        Ok(seconds) => format!("{} ago", human_seconds(seconds)),
        // A clock that was set back.
        Err(_) => format!("in {}", human_seconds(seconds.unsigned_abs())),
    }
}

/// Adds a line, cut to the width.
pub fn line(to: &mut String, text: &str) {
    let cut = text.chars().count() > WIDTH;
    let kept: String = text.chars().take(if cut { WIDTH - 1 } else { WIDTH }).collect();
    to.push_str(kept.trim_end());
    to.push_str(if cut { "…\n" } else { "\n" });
}

/// All jobs: one line each with its figures, one with its way, and what is wrong.
pub fn table(jobs: &[JobStatus], now: Timestamp) -> String {
    if jobs.is_empty() {
        return "there are no jobs; write a [job.NAME] into the configuration\n".to_owned();
    }
    let mut text = String::new();
    line(&mut text, &row(["JOB", "STATE", "LAG", "UNSENT", "LAST RUN", "NEXT"]));
    for job in jobs {
        let lag = job.lag_s.map_or("-".to_owned(), human_seconds);
        let unsent = job.unsent_bytes.map_or("-".to_owned(), human_bytes);
        let last = job.last.as_ref().map_or("never".to_owned(), |last| match last.ended {
            Some(ended) => format!("{} {}", last.result.replace('_', " "), ago(ended, now)),
            None => format!("{} {}", last.result, ago(last.started, now)),
        });
        let next = match job.next {
            Some(next) if next <= now => "now".to_owned(),
            Some(next) => {
                format!("in {}", human_seconds(u64::try_from(next.as_second() - now.as_second()).unwrap_or(0)))
            }
            None => "-".to_owned(),
        };
        line(&mut text, &row([&short(job.job.as_str()), job.state, &lag, &unsent, &last, &next]));
        match &job.way {
            (here, None) => line(&mut text, &format!("  {here} (this host alone)")),
            (from, Some(to)) if from.chars().count() + to.chars().count() + 5 <= WIDTH => {
                line(&mut text, &format!("  {from} → {to}"));
            }
            (from, Some(to)) => {
                line(&mut text, &format!("  {from}"));
                line(&mut text, &format!("    → {to}"));
            }
        }
        if let Some(progress) = &job.progress {
            let of = progress.planned_bytes.map_or(String::new(), |all| format!(" of {}", human_bytes(all)));
            let rate = human_rate(progress.rate_bytes_per_s);
            let (done, steps) = (progress.steps_done, progress.steps_planned);
            line(&mut text, &format!("  step {done}/{steps}, {}{of}, {rate}", human_bytes(progress.raw_bytes)));
            progress.active.iter().for_each(|step| line(&mut text, &format!("    {step}")));
        }
        let lacking: Vec<_> = job.datasets.iter().filter(|d| d.common.is_none()).collect();
        for dataset in lacking.iter().take(3) {
            let what = match dataset.unsent_snapshots {
                Some(0) => "no snapshot left, while its copy has",
                _ => "no snapshot in common",
            };
            line(&mut text, &format!("  ! {}: {what}", dataset.source));
        }
        if let Some(error) = &job.error {
            paragraph(&mut text, "  ! ", 4, error);
        }
        if let Some(error) = job.last.as_ref().and_then(|last| last.error.as_ref()) {
            paragraph(&mut text, "  ! ", 4, error);
        }
        if let Some(trouble) = job.verification.as_ref().and_then(|verification| verification.trouble(now)) {
            paragraph(&mut text, "  ! ", 4, &trouble);
        }
    }
    text
}

/// A name that fits into its column.
fn short(name: &str) -> String {
    const COLUMN: usize = 14;
    if name.len() <= COLUMN {
        name.to_owned()
    } else {
        format!("{}…", name.chars().take(COLUMN - 1).collect::<String>())
    }
}

fn row(cells: [&str; 6]) -> String {
    let [job, state, lag, unsent, last, next] = cells;
    format!("{job:<14} {state:<8} {lag:<11} {unsent:<9} {last:<22} {next}")
}

/// Draws the table again each second. Ctrl-C ends it well, with the screen as it was.
fn watch(config: &Config, output: &Output) -> Result<u8, Failure> {
    let mut out = std::io::stdout();
    if output.is_json() || !out.is_terminal() {
        return Err(Failure::new(FailureClass::Usage, "--watch draws on a terminal")
            .hint("leave it out, or use --output json now and then"));
    }
    let lost = |e: std::io::Error| Failure::new(FailureClass::Usage, format!("cannot draw: {e}"));
    // Another screen, without a cursor; at the end, back to the one before.
    let enter = || write!(std::io::stdout(), "\x1b[?1049h\x1b[?25l").map_err(lost);
    let leave = || write!(std::io::stdout(), "\x1b[?25h\x1b[?1049l").and_then(|()| std::io::stdout().flush());
    enter()?;
    let drawn = runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(lost)?;
        loop {
            let now = Timestamp::now();
            let body = match overview(config, None, now) {
                Ok(jobs) => table(&jobs, now),
                Err(failure) => failure.to_string(),
            };
            let frame = frame(&body, now, height());
            write!(out, "\x1b[H{frame}\x1b[J").and_then(|()| out.flush()).map_err(lost)?;
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(0),
                _ = terminate.recv() => return Ok(0),
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    });
    leave().map_err(lost)?;
    drawn
}

/// Lines of the terminal.
fn height() -> usize {
    terminal_size::terminal_size().map_or(24, |(_, height)| height.0.into())
}

/// One screen: a heading, as much of the body as fits, and what was left out.
fn frame(body: &str, now: Timestamp, height: usize) -> String {
    let mut lines =
        vec![format!("zmigrate status   {}   Ctrl-C ends", now.strftime("%Y-%m-%d %H:%M:%SZ")), String::new()];
    let room = height.saturating_sub(lines.len() + 1).max(1);
    let all: Vec<&str> = body.lines().collect();
    lines.extend(all.iter().take(room).map(|line| (*line).to_owned()));
    if all.len() > room {
        lines.push(format!("({} more lines)", all.len() - room));
    }
    // What was there before is wiped to the end of each line.
    lines.iter().map(|line| format!("{line}\x1b[K")).collect::<Vec<_>>().join("\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_never_higher_than_the_terminal() {
        let body = "a line\n".repeat(100);
        for height in [4, 24, 50, 200] {
            let lines = frame(&body, Timestamp::UNIX_EPOCH, height).split("\r\n").count();
            assert!(lines <= height.max(4), "{lines} lines on {height}");
        }
    }

    #[test]
    fn lines_keep_to_the_width() {
        let mut text = String::new();
        line(&mut text, &"x".repeat(200));
        assert_eq!(text.trim_end().chars().count(), WIDTH);
    }
}
