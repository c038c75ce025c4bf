//! When a job runs. Pure: the time comes in.
//!
//! Invariants: however many runs were missed, one makes up for them; a clock that is set back stops nothing.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use xxhash_rust::xxh3::xxh3_64;

use super::{cron::Cron, span::Span};

/// What starts a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// At these times.
    Cron(Cron),
    /// So long after it was last started.
    Every {
        /// At least so long.
        every: Span,
        /// And up to so much longer, so that many jobs do not start together.
        jitter: Option<Span>,
    },
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Cron(cron) => cron.fmt(f),
            Trigger::Every { every, .. } => write!(f, "every {every}"),
        }
    }
}

/// Hours of a day, such as `22:00-06:00`: from the first minute up to and without the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Minutes since midnight.
    from: u16,
    /// Minutes since midnight, up to 1440.
    to: u16,
}

/// A text that is no range of hours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of hours such as 22:00-06:00")]
pub struct HoursError(String);

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(s: &str) -> Result<Hours, HoursError> {
        let bad = || HoursError(s.chars().take(40).collect());
        let minutes = |text: &str| -> Option<u16> {
            let (hour, minute) = text.split_once(':')?;
            let number = |text: &str| {
                (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u16>().ok())?
            };
            let (hour, minute) = (number(hour)?, number(minute)?);
            (minute < 60 && hour * 60 + minute <= 1440).then_some(hour * 60 + minute)
        };
        let (from, to) = s.split_once('-').ok_or_else(bad)?;
        let (from, to) = (minutes(from).ok_or_else(bad)?, minutes(to).ok_or_else(bad)?);
        if from == to || from == 1440 { Err(bad()) } else { Ok(Hours { from, to }) }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl Hours {
    /// True if the clocks of `zone` show a time within these hours.
    pub fn hold(&self, at: Timestamp, zone: &TimeZone) -> bool {
        let time = zone.to_datetime(at).time();
        // Never negative.
        let minute = u16::try_from(i32::from(time.hour()) * 60 + i32::from(time.minute())).unwrap_or_default();
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// How far ahead of the clock a start may be before the clock counts as set back.
const SLACK: SignedDuration = SignedDuration::from_secs(60);

/// When a job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What starts it; `None` for a job that only runs when told to.
    pub trigger: Option<Trigger>,
    /// When it may start; empty for any time.
    pub hours: Vec<Hours>,
    /// Whose clocks count.
    pub zone: TimeZone,
}

impl Schedule {
    /// True if the job may start at that time.
    pub fn allows(&self, at: Timestamp) -> bool {
        self.hours.is_empty() || self.hours.iter().any(|hours| hours.hold(at, &self.zone))
    }

    /// When the job is to start next; at or before `now` means now.
    ///
    /// `last` is when it was last started, `since` when somebody began to watch. `seed` tells jobs apart, so that their
    /// jitters differ; the same run of a job always has the same.
    pub fn next(&self, last: Option<Timestamp>, since: Timestamp, now: Timestamp, seed: u64) -> Option<Timestamp> {
        self.opens(self.due(last, since, now, seed)?, now)
    }

    /// True if the job is to start now.
    pub fn is_due(&self, last: Option<Timestamp>, since: Timestamp, now: Timestamp, seed: u64) -> bool {
        self.allows(now) && self.due(last, since, now, seed).is_some_and(|due| due <= now)
    }

    fn due(&self, last: Option<Timestamp>, since: Timestamp, now: Timestamp, seed: u64) -> Option<Timestamp> {
        // A clock that was set back: what was started in what is the future now says nothing of when it was.
        if self.trigger.is_some() && last.is_some_and(|last| last.duration_since(now) > SLACK) {
            return Some(now);
        }
        let last = last.map(|last| last.min(now));
        match (self.trigger.as_ref()?, last) {
            (Trigger::Cron(cron), _) => cron.next_after(last.unwrap_or(since).min(now), &self.zone),
            (Trigger::Every { .. }, None) => Some(now),
            (Trigger::Every { every, jitter }, Some(last)) => {
                let later = every.as_signed_s() + jitter.map_or(0, |jitter| draw(seed, last, jitter));
                last.checked_add(SignedDuration::from_secs(later)).ok()
            }
        }
    }

    /// `due`, or if the job may not start then, the first time after it that it may and that is not over.
    fn opens(&self, due: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let at = due.max(now);
        if self.allows(at) {
            return Some(due);
        }
        // A range of hours begins with a minute. Two days see every hour of a day, also where one has 25.
        let minute = at.as_second().div_euclid(60) * 60;
        (1..=2 * 24 * 60).filter_map(|n| Timestamp::from_second(minute + n * 60).ok()).find(|at| self.allows(*at))
    }
}

/// Seconds from 0 to `most`, the same for the same job and start.
fn draw(seed: u64, last: Timestamp, most: Span) -> i64 {
    let hash = xxh3_64(format!("{seed} {}", last.as_second()).as_bytes());
    // Less than a span, so it fits.
    i64::try_from(hash % (most.as_s() + 1)).unwrap_or_default()
}

/// Bytes per second on the wire, by the hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Where no hours say otherwise; `None` for no limit.
    pub otherwise: Option<u64>,
    /// The first that holds counts.
    pub by_hour: Vec<(Hours, u64)>,
}

impl Bandwidth {
    /// The limit for a run that starts then.
    pub fn at(&self, at: Timestamp, zone: &TimeZone) -> Option<u64> {
        self.by_hour.iter().find(|(hours, _)| hours.hold(at, zone)).map(|(_, rate)| *rate).or(self.otherwise)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn t(s: &str) -> Timestamp {
        s.parse().unwrap()
    }

    fn schedule(trigger: Trigger, hours: &[&str]) -> Schedule {
        Schedule {
            trigger: Some(trigger),
            hours: hours.iter().map(|h| h.parse().unwrap()).collect(),
            zone: TimeZone::get("Europe/Berlin").unwrap(),
        }
    }

    fn every(every: &str, jitter: Option<&str>) -> Trigger {
        Trigger::Every { every: every.parse().unwrap(), jitter: jitter.map(|j| j.parse().unwrap()) }
    }

    #[test]
    fn an_interval_counts_from_the_last_start() {
        let s = schedule(every("15m", None), &[]);
        let (since, now) = (t("2026-01-01T00:00:00Z"), t("2026-11-26T04:00:00Z"));
        assert_eq!(s.next(None, since, now, 0), Some(now));
        assert_eq!(s.next(Some(t("2026-11-26T03:50:00Z")), since, now, 0), Some(t("2026-11-26T04:05:00Z")));
        // Missed for a week: due, once.
        assert_eq!(s.next(Some(t("2026-11-19T03:50:00Z")), since, now, 0), Some(t("2026-11-19T04:05:00Z")));
    }

    #[test]
    fn jitter_differs_between_jobs_and_not_between_looks() {
        let s = schedule(every("1h", Some("10m")), &[]);
        let (since, last) = (t("2026-01-01T00:00:00Z"), t("2026-11-26T04:00:00Z"));
        let at = |seed| s.next(Some(last), since, last, seed).unwrap().as_second() - last.as_second();
        let all: std::collections::BTreeSet<i64> = (0..50).map(at).collect();
        assert!(all.iter().all(|d| (3600..=4200).contains(d)) && all.len() > 30, "{all:?}");
        assert_eq!(at(7), at(7));
    }

    /// Whatever was started in what is the future now, the clock need not get there again.
    #[test]
    fn a_clock_set_back_does_not_stop_a_job() {
        let now = t("2026-11-26T04:00:00Z");
        let cron = schedule(Trigger::Cron("0 * * * *".parse().unwrap()), &[]);
        for schedule in [schedule(every("15m", None), &[]), cron] {
            for ahead in ["2030-01-01T00:00:00Z", "2026-11-26T05:00:00Z", "2026-11-26T04:01:01Z"] {
                assert!(schedule.is_due(Some(t(ahead)), now, now, 0), "{ahead}");
            }
            // A second or two, as NTP corrects them: the next one is not moved for ever.
            let last = t("2026-11-26T04:00:30Z");
            assert!(!schedule.is_due(Some(last), now, now, 0));
            let due = (0..7200).find(|s| {
                let now = Timestamp::from_second(now.as_second() + s).unwrap();
                schedule.is_due(Some(last), now, now, 0)
            });
            assert!(due.is_some_and(|s| s <= 3600), "{due:?}");
        }
        // A host that began to watch with a clock that was ahead.
        let cron = schedule(Trigger::Cron("0 * * * *".parse().unwrap()), &[]);
        assert_eq!(cron.next(None, t("2030-01-01T00:00:00Z"), now, 0), Some(t("2026-11-26T05:00:00Z")));
    }

    #[test]
    fn what_is_due_waits_for_its_hours() {
        let s = schedule(every("1h", None), &["22:00-06:00"]);
        let since = t("2026-01-01T00:00:00Z");
        // 12:00 in Berlin: it waits for 22:00, which is 21:00 UTC.
        let (last, noon) = (t("2026-11-26T01:00:00Z"), t("2026-11-26T11:00:00Z"));
        assert_eq!(s.next(Some(last), since, noon, 0), Some(t("2026-11-26T21:00:00Z")));
        let night = t("2026-11-26T23:00:00Z");
        assert!(s.next(Some(last), since, night, 0).unwrap() <= night);
        assert!(s.allows(t("2026-11-26T04:59:00Z")) && !s.allows(t("2026-11-26T05:00:00Z")));
        assert!(s.allows(t("2026-11-26T21:00:00Z")));
    }

    #[test]
    fn ranges_of_hours() {
        for (text, shown) in
            [("08:00-18:00", "08:00-18:00"), ("22:30-06:00", "22:30-06:00"), ("18:00-24:00", "18:00-24:00")]
        {
            assert_eq!(text.parse::<Hours>().unwrap().to_string(), shown);
        }
        for bad in
            ["", "8:00-18:00", "08:00", "08:00-08:00", "24:00-06:00", "08:60-09:00", "25:00-26:00", "+8:00-09:00"]
        {
            assert!(bad.parse::<Hours>().is_err(), "{bad:?} was taken");
        }
        let bandwidth = Bandwidth { otherwise: None, by_hour: vec![("08:00-18:00".parse().unwrap(), 5)] };
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(bandwidth.at(t("2026-11-26T07:00:00Z"), &berlin), Some(5));
        assert_eq!(bandwidth.at(t("2026-11-26T06:59:00Z"), &berlin), None);
    }

    /// Watches a job each minute for three days from then on: within its hours it never waits longer than its interval and jitter, it never
    /// runs sooner, and never outside of them. Says how many minutes were within.
    fn watch(zone: &str, from: i64, minutes: u64, opens: u16) -> usize {
        let window = format!("{opens:02}:00-{:02}:30", (opens + 3) % 24);
        let zone_of = TimeZone::get(zone).unwrap();
        let s = Schedule { zone: zone_of.clone(), ..schedule(every(&format!("{minutes}m"), Some("2m")), &[&window]) };
        let since = Timestamp::from_second(from).unwrap();
        let (mut last, mut within): (Option<Timestamp>, usize) = (None, 0);
        let (least, most) = (minutes as i64 * 60, (minutes as i64 + 2) * 60 + 60);
        for minute in 0..3 * 24 * 60 {
            let now = Timestamp::from_second(from + minute * 60).unwrap();
            let told = format!("{zone}, {window}, every {minutes}m, at {now}");
            let due = s.is_due(last, since, now, 3);
            // What is said to be next is what is done. That looks for the next hours, so not each time.
            if minute % 30 == 0 || due {
                assert_eq!(s.next(last, since, now, 3).unwrap() <= now, due, "{told}");
            }
            let (hour, after) = (zone_of.to_datetime(now).time().hour(), zone_of.to_datetime(now).time().minute());
            let past = (i32::from(hour) * 60 + i32::from(after) - i32::from(opens) * 60).rem_euclid(24 * 60);
            let is_within = past < 210;
            within += usize::from(is_within);
            assert!(is_within || !due, "{told}: it runs outside its hours");
            if due {
                assert!(last.is_none_or(|last| now.as_second() - last.as_second() >= least), "{told}: too soon");
                last = Some(now);
            }
            if is_within {
                let waited = last.map_or(i64::MAX, |last| now.as_second() - last.as_second());
                assert!(waited <= most, "{told}: it waited {waited} s within its hours");
            }
        }
        within
    }

    /// Also of half an hour, and of a day that a zone left out.
    #[test]
    fn a_watched_job_runs_across_changes_of_the_clocks() {
        for (zone, change) in [
            ("Europe/Berlin", "2026-03-29T01:00:00Z"),
            ("Europe/Berlin", "2026-10-25T01:00:00Z"),
            ("America/New_York", "2026-03-08T07:00:00Z"),
            ("America/New_York", "2026-11-01T06:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
            ("Pacific/Apia", "2011-12-30T10:00:00Z"),
        ] {
            let (zone_of, at) = (TimeZone::get(zone).unwrap(), t(change));
            let (before, after) = (zone_of.to_offset(at - SignedDuration::from_secs(1)), zone_of.to_offset(at));
            assert_ne!(before, after, "{zone} changes nothing at {change}");
            // The hours of the change, and others.
            for opens in [1, 2, 12, 22] {
                let within = watch(zone, at.as_second() - 36 * 3600, 5, opens);
                assert!((3 * 210 - 120..=3 * 210 + 120).contains(&within), "{zone}, {opens}: {within} minutes");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// Over days, also across changes of the clocks: a job is never forgotten, and never runs outside its hours.
        #[test]
        fn a_watched_job_runs(from in 1_760_000_000i64..1_860_000_000, minutes in 5u64..300, opens in 1u16..23) {
            watch("Europe/Berlin", from, minutes, opens);
        }
    }
}
