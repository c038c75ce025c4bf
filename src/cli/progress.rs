//! Progress on stderr while a run goes on.

use std::{io::IsTerminal, sync::Arc, time::Duration};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::{args::ProgressMode, output::note};
use crate::{
    driver::{Board, BoardSnapshot},
    types::{human_bytes, human_rate},
};

/// Between two drawings of the bar.
const BAR_TICK: Duration = Duration::from_millis(200);
/// Between two plain lines: often enough to see that it lives, rare enough for a log.
const PLAIN_TICK: Duration = Duration::from_secs(30);
/// Between two JSON objects.
const JSON_TICK: Duration = Duration::from_secs(1);

/// A display that ends when it is dropped.
pub struct Progress {
    bar: Option<ProgressBar>,
    task: Option<AbortOnDropHandle<()>>,
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.task.take());
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[derive(Serialize)]
struct Object<'a> {
    elapsed_s: f64,
    raw_bytes: u64,
    wire_bytes: u64,
    planned_bytes: Option<u64>,
    raw_bytes_per_s: u64,
    seconds_left: Option<u64>,
    steps_done: usize,
    steps_planned: usize,
    active: Vec<ActiveObject<'a>>,
}

#[derive(Serialize)]
struct ActiveObject<'a> {
    step: &'a str,
    raw_bytes: u64,
    size_bytes: Option<u64>,
}

/// Bytes per second over the last ticks, so that the number neither jumps nor lags.
#[derive(Default)]
struct Rate {
    last: Option<(Duration, u64)>,
    smooth: f64,
}

impl Rate {
    fn update(&mut self, now: &BoardSnapshot) -> u64 {
        if let Some((at, bytes)) = self.last {
            let seconds = now.elapsed.saturating_sub(at).as_secs_f64();
            if seconds > 0.0 {
                let current = now.raw_bytes.saturating_sub(bytes) as f64 / seconds;
                // A time constant of about five seconds.
                let weight = (seconds / 5.0).min(1.0);
                self.smooth = if self.smooth == 0.0 { current } else { self.smooth + weight * (current - self.smooth) };
            }
        }
        self.last = Some((now.elapsed, now.raw_bytes));
        self.smooth as u64
    }
}

fn seconds_left(now: &BoardSnapshot, rate: u64) -> Option<u64> {
    now.planned_bytes.filter(|_| rate > 0).map(|planned| planned.saturating_sub(now.raw_bytes) / rate)
}

/// `1.20 GiB of 3.40 GiB · 110 MiB/s · 61 % saved · 2 min left · tank/db@a → backup/db`.
fn sentence(now: &BoardSnapshot, rate: u64) -> String {
    let mut parts = vec![match now.planned_bytes {
        Some(planned) => format!("{} of {}", human_bytes(now.raw_bytes), human_bytes(planned.max(now.raw_bytes))),
        None => human_bytes(now.raw_bytes),
    }];
    parts.push(human_rate(rate));
    if let Some(saved) = saved_percent(now.raw_bytes, now.wire_bytes) {
        parts.push(format!("{saved} % saved"));
    }
    if let Some(left) = seconds_left(now, rate) {
        parts.push(format!("{} left", HumanDuration(Duration::from_secs(left))));
    }
    if now.steps_planned > 1 {
        parts.push(format!("step {} of {}", (now.steps_done + 1).min(now.steps_planned), now.steps_planned));
    }
    if let Some(active) = now.active.first() {
        let others = if now.active.len() > 1 { format!(" and {} more", now.active.len() - 1) } else { String::new() };
        parts.push(format!("{}{others}", active.label));
    }
    parts.join(" · ")
}

/// The share that compression saved, where it is worth a word.
pub fn saved_percent(raw: u64, wire: u64) -> Option<u64> {
    (raw > 0 && wire < raw).then(|| 100 - wire.saturating_mul(100).div_ceil(raw).min(100)).filter(|saved| *saved > 0)
}

/// Shows the board until the result is dropped.
pub fn show(mode: ProgressMode, quiet: bool, board: Arc<Board>) -> Progress {
    let on_terminal = std::io::stderr().is_terminal();
    let mode = match mode {
        _ if quiet => ProgressMode::None,
        ProgressMode::Auto if on_terminal => ProgressMode::Bar,
        ProgressMode::Auto => ProgressMode::Plain,
        mode => mode,
    };
    match mode {
        ProgressMode::Auto | ProgressMode::None => Progress { bar: None, task: None },
        ProgressMode::Bar => {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::default_spinner());
            let task = every(BAR_TICK, board, {
                let bar = bar.clone();
                move |now, rate| {
                    bar.set_message(sentence(now, rate));
                    bar.tick();
                }
            });
            Progress { bar: Some(bar), task: Some(task) }
        }
        ProgressMode::Plain => {
            let task = every(PLAIN_TICK, board, |now, rate| {
                // While nothing is sent there is nothing to tell.
                if !now.active.is_empty() {
                    note(sentence(now, rate));
                }
            });
            Progress { bar: None, task: Some(task) }
        }
        ProgressMode::Json => {
            let task = every(JSON_TICK, board, |now, rate| {
                let active = now.active.iter().map(|a| ActiveObject {
                    step: &a.label,
                    raw_bytes: a.raw_bytes,
                    size_bytes: a.size_bytes,
                });
                let object = Object {
                    elapsed_s: now.elapsed.as_secs_f64(),
                    raw_bytes: now.raw_bytes,
                    wire_bytes: now.wire_bytes,
                    planned_bytes: now.planned_bytes,
                    raw_bytes_per_s: rate,
                    seconds_left: seconds_left(now, rate),
                    steps_done: now.steps_done,
                    steps_planned: now.steps_planned,
                    active: active.collect(),
                };
                note(serde_json::to_string(&object).unwrap_or_default());
            });
            Progress { bar: None, task: Some(task) }
        }
    }
}

fn every(
    tick: Duration,
    board: Arc<Board>,
    mut draw: impl FnMut(&BoardSnapshot, u64) + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut ticks = interval(tick);
        // The first tick is at once, when there is nothing to show yet.
        ticks.tick().await;
        let mut rate = Rate::default();
        loop {
            ticks.tick().await;
            let now = board.read();
            if now.steps_planned > 0 {
                let rate = rate.update(&now);
                draw(&now, rate);
            }
        }
    }))
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    let object = Object {
        elapsed_s: 1.0,
        raw_bytes: 1,
        wire_bytes: 1,
        planned_bytes: Some(1),
        raw_bytes_per_s: 1,
        seconds_left: Some(1),
        steps_done: 1,
        steps_planned: 1,
        active: vec![ActiveObject { step: "s", raw_bytes: 1, size_bytes: Some(1) }],
    };
    serde_json::to_value(object).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::ActiveStep;

    #[test]
    fn the_line_says_what_a_person_asks() {
        let now = BoardSnapshot {
            elapsed: Duration::from_secs(10),
            raw_bytes: 1 << 30,
            wire_bytes: 400 << 20,
            planned_bytes: Some(3 << 30),
            steps_done: 0,
            steps_planned: 2,
            active: vec![ActiveStep { label: "tank/db@a → backup/db".into(), raw_bytes: 1, size_bytes: None }],
        };
        assert_eq!(
            sentence(&now, 100 << 20),
            "1.00 GiB of 3.00 GiB · 100 MiB/s · 60 % saved · 20 seconds left · step 1 of 2 · tank/db@a → backup/db"
        );
        assert_eq!(sentence(&BoardSnapshot::default(), 0), "0 B · 0 B/s");
    }

    #[test]
    fn a_saving_is_never_overstated() {
        assert_eq!(saved_percent(1000, 999), None);
        assert_eq!(saved_percent(1000, 1001), None);
        assert_eq!(saved_percent(0, 0), None);
        assert_eq!(saved_percent(1000, 395), Some(60));
    }
}
