//! The limit of a run, where the hour decides: it changes with the clock, also while a transfer runs for days.

use std::time::Duration;

use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use crate::jobs::Job;

/// How often the clock is looked at. Hours begin with a minute; a clock that was set is noticed as soon.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Follows the clock until it is dropped.
pub(super) struct Limit {
    now: watch::Receiver<Option<u64>>,
    _follows: AbortOnDropHandle<()>,
}

impl Limit {
    /// Of a job whose limit depends on the hour; `None` for any other. `clock` tells the time.
    pub fn by_hour(job: &Job, clock: impl Fn() -> Timestamp + Send + 'static) -> Option<Limit> {
        if job.bandwidth.by_hour.is_empty() {
            return None;
        }
        let (bandwidth, zone) = (job.bandwidth.clone(), job.zone().clone());
        let (tell, now) = watch::channel(bandwidth.at(clock(), &zone));
        let follows = tokio::spawn(async move {
            let mut ticks = interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let limit = bandwidth.at(clock(), &zone);
                let changed = tell.send_if_modified(|told| std::mem::replace(told, limit) != limit);
                if changed {
                    match limit {
                        Some(rate) => tracing::info!("from now on {rate} bytes per second, as the hour says"),
                        None => tracing::info!("from now on without a limit, as the hour says"),
                    }
                }
            }
        });
        Some(Limit { now, _follows: AbortOnDropHandle::new(follows) })
    }

    /// The limit of the moment in bytes per second, and its changes; `None` for no limit.
    pub fn watched(&self) -> watch::Receiver<Option<u64>> {
        self.now.clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::config::Config;

    fn job(bandwidth: &str) -> Job {
        let text = format!(
            "[job.db]\ndirection = \"push\"\ndataset = \"t/db\"\npeer = \"b\"\ntarget = \"t/x\"\ntime_zone = \"Europe/Berlin\"\n{bandwidth}\n"
        );
        Config::parse(&text, "z").unwrap().jobs.into_values().next().unwrap()
    }

    /// A clock that goes with tokio's from that time on.
    fn clock(from: &str) -> impl Fn() -> Timestamp + Send + 'static {
        let (from, began) = (from.parse::<Timestamp>().unwrap(), Instant::now());
        move || from + began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_changes_with_the_hour_both_ways() {
        let job = job("bwlimit_hours = [\"06:00-22:00 1M\"]");
        // 05:59 in Berlin.
        let limit = Limit::by_hour(&job, clock("2026-11-26T04:59:00Z")).unwrap();
        let seen = limit.watched();
        assert_eq!(*seen.borrow(), None);
        sleep(Duration::from_secs(55)).await;
        assert_eq!(*seen.borrow(), None, "before its time");
        sleep(Duration::from_secs(11)).await;
        let limited = *seen.borrow();
        assert!(limited.is_some(), "a minute after six it has no limit still");
        sleep(Duration::from_secs(16 * 3600 - 20)).await;
        assert_eq!(*seen.borrow(), limited);
        sleep(Duration::from_secs(30)).await;
        assert_eq!(*seen.borrow(), None, "after 22:00");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_looks_at_the_clock_for_a_run_that_is_over_or_has_one_limit() {
        assert!(Limit::by_hour(&job("bwlimit = \"1M\""), clock("2026-11-26T04:59:00Z")).is_none());
        let job = job("bwlimit_hours = [\"06:00-22:00 1M\"]");
        let limit = Limit::by_hour(&job, clock("2026-11-26T04:59:00Z")).unwrap();
        let mut seen = limit.watched();
        drop(limit);
        assert!(seen.changed().await.is_err());
    }
}
