//! Cron expressions: five fields as in `crontab(5)`, in a time zone.
//!
//! When a clock is set forward, what fell into the hour that does not exist runs right after it. When it is set back, an
//! expression that names hours runs once, and one whose hour is `*` or `*/n` runs in both of the hours that look alike:
//! a dataset is not left alone for two hours because of a law.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, TimeZone},
};

/// A cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Sunday is bit 0.
    weekdays: u64,
    /// The field began with `*`.
    any_hour: bool,
    any_day: bool,
    any_weekday: bool,
}

/// A text that is no cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cron expression {text:?}: {why}")]
pub struct CronError {
    text: String,
    why: String,
}

/// The longest expression, in bytes: every minute and hour by itself, and some.
const MAX_BYTES: usize = 400;

/// Days that are looked through for the next time: 29 February comes back within 8 years.
const MAX_DAYS: usize = 9 * 366;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Words for whole expressions.
const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(s: &str) -> Result<Cron, CronError> {
        let bad = |why: String| CronError { text: s.chars().take(80).collect(), why };
        if s.len() > MAX_BYTES {
            return Err(bad(format!("is longer than {MAX_BYTES} bytes")));
        }
        let spelled = WORDS.iter().find(|(word, _)| *word == s).map_or(s, |(_, spelled)| spelled);
        let fields: Vec<&str> = spelled.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(bad(format!("has {} fields, not 5: minute hour day month weekday", fields.len())));
        };
        let weekdays = field(weekday, "weekday", 0, 7, &WEEKDAYS, 0).map_err(bad)?;
        let cron = Cron {
            text: s.to_owned(),
            minutes: field(minute, "minute", 0, 59, &[], 0).map_err(bad)?,
            hours: field(hour, "hour", 0, 23, &[], 0).map_err(bad)?,
            days: field(day, "day", 1, 31, &[], 0).map_err(bad)?,
            months: field(month, "month", 1, 12, &MONTHS, 1).map_err(bad)?,
            // 7 is Sunday, too.
            weekdays: (weekdays | (weekdays >> 7)) & 0x7f,
            any_hour: hour.starts_with('*'),
            any_day: day.starts_with('*'),
            any_weekday: weekday.starts_with('*'),
        };
        // 30 February: better said now than never run. Any zone has every date.
        match cron.next_after(Timestamp::UNIX_EPOCH, &TimeZone::UTC) {
            Some(_) => Ok(cron),
            None => Err(bad("names a day that never comes".into())),
        }
    }
}

/// One field: a list of `*`, `a`, `a-b`, each perhaps with `/step`. Bit n stands for n.
fn field(text: &str, what: &str, min: u32, max: u32, names: &[&str], first: u32) -> Result<u64, String> {
    let number = |part: &str| -> Result<u32, String> {
        let named = names.iter().zip(first..).find(|(name, _)| part.eq_ignore_ascii_case(name)).map(|(_, n)| n);
        let plain = || part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        named
            .or_else(plain)
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| format!("{part:?} is no {what}: {min} to {max}"))
    };
    let mut bits = 0u64;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse().ok().filter(|step| (1..=max).contains(step));
                (range, step.ok_or_else(|| format!("{part:?} has a step that is not 1 to {max}"))?)
            }
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (min, max),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/10` counts from 5 to the end.
            None => (number(range)?, if part.contains('/') { max } else { number(range)? }),
        };
        if from > to {
            return Err(format!("{part:?} goes backwards"));
        }
        (from..=to).step_by(step as usize).for_each(|n| bits |= 1 << n);
    }
    Ok(bits)
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn has(bits: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| n < 64 && bits & (1 << n) != 0)
}

impl Cron {
    /// True on a date when it runs at all.
    fn is_on(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        // As in crontab(5): two restrictions widen each other.
        let on = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.months, date.month()) && on
    }

    /// The first time after `after`. `None` if there is none within nine years.
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // A day earlier, because what does not exist on one day may run early on the next.
        let mut date = zone.to_datetime(after).date().yesterday().ok()?;
        for _ in 0..MAX_DAYS {
            if self.is_on(date) {
                let first = self.times_on(date, zone).filter(|at| *at > after).min();
                if first.is_some() {
                    return first;
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// All times of a date, in no order.
    fn times_on<'a>(&'a self, date: Date, zone: &'a TimeZone) -> impl Iterator<Item = Timestamp> + 'a {
        let minutes = (0..60i8).filter(|m| has(self.minutes, *m));
        let hours = (0..24i8).filter(|h| has(self.hours, *h));
        hours
            .flat_map(move |h| minutes.clone().map(move |m| date.at(h, m, 0, 0)))
            .flat_map(move |at| self.real(at, zone))
    }

    /// When the clocks of a zone show that time: mostly once.
    fn real(&self, at: DateTime, zone: &TimeZone) -> impl Iterator<Item = Timestamp> + use<> {
        let ambiguous = zone.to_ambiguous_timestamp(at);
        let utc = |offset: jiff::tz::Offset| offset.to_timestamp(at).ok();
        let (first, second) = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => (utc(offset), None),
            // Read with the offset from before, 02:30 is half an hour after the jump; a `*` has that hour anyway.
            AmbiguousOffset::Gap { .. } if self.any_hour => (None, None),
            AmbiguousOffset::Gap { before, .. } => (jump(zone, utc(before)), None),
            AmbiguousOffset::Fold { before, after } => (utc(before), if self.any_hour { utc(after) } else { None }),
        };
        first.into_iter().chain(second)
    }
}

/// The moment at which the clocks jumped over a time that they never showed; `read` is that time by the old offset.
fn jump(zone: &TimeZone, read: Option<Timestamp>) -> Option<Timestamp> {
    let read = read?;
    // No gap is longer than a day.
    let from = read.checked_sub(24.hours()).ok()?;
    // Where a zone has no table of its jumps, the time by the old offset is after the jump as well.
    zone.following(from).map(|t| t.timestamp()).take_while(|t| *t <= read).last().or(Some(read))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    /// The next `n` times in Berlin's clocks with their offsets.
    fn times(expression: &str, from: &str, n: usize) -> Vec<String> {
        let (cron, zone): (Cron, _) = (expression.parse().unwrap(), berlin());
        let mut at: Timestamp = from.parse().unwrap();
        (0..n)
            .map(|_| {
                at = cron.next_after(at, &zone).unwrap();
                at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M%:z").to_string()
            })
            .collect()
    }

    #[test]
    fn fields_mean_what_crontab_says() {
        assert_eq!(
            times("*/15 * * * *", "2026-11-26T04:07:00Z", 2),
            ["2026-11-26 05:15+01:00", "2026-11-26 05:30+01:00"]
        );
        assert_eq!(times("0 4 * * mon-fri", "2026-11-27T12:00:00Z", 1), ["2026-11-30 04:00+01:00"]);
        assert_eq!(
            times("30 1 1,15 * *", "2026-11-26T00:00:00Z", 2),
            ["2026-12-01 01:30+01:00", "2026-12-15 01:30+01:00"]
        );
        assert_eq!(
            times("0 0 13 * 5", "2026-11-01T00:00:00Z", 3),
            ["2026-11-06 00:00+01:00", "2026-11-13 00:00+01:00", "2026-11-20 00:00+01:00"]
        );
        assert_eq!(times("0 0 29 2 *", "2026-11-26T00:00:00Z", 1), ["2028-02-29 00:00+01:00"]);
        assert_eq!(times("@weekly", "2026-11-26T00:00:00Z", 1), ["2026-11-29 00:00+01:00"]);
        assert_eq!(times("0 0 * * 7", "2026-11-26T00:00:00Z", 1), ["2026-11-29 00:00+01:00"]);
        assert_eq!(
            times("5/20 3 * * *", "2026-11-26T00:00:00Z", 3),
            ["2026-11-26 03:05+01:00", "2026-11-26 03:25+01:00", "2026-11-26 03:45+01:00"]
        );
    }

    #[test]
    fn what_is_none_is_refused_with_the_reason() {
        for (bad, why) in [
            ("", "has 0 fields"),
            ("* * * *", "has 4 fields"),
            ("60 * * * *", "is no minute: 0 to 59"),
            ("* 24 * * *", "is no hour"),
            ("* * 0 * *", "is no day"),
            ("* * * 13 *", "is no month"),
            ("* * * * 8", "is no weekday"),
            ("*/0 * * * *", "step"),
            ("5-1 * * * *", "goes backwards"),
            ("+5 * * * *", "is no minute"),
            ("0 0 30 2 *", "never comes"),
            ("@never", "has 1 fields"),
        ] {
            let error = bad.parse::<Cron>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    /// In Berlin, 02:00 to 03:00 does not exist on 28 March 2027.
    #[test]
    fn a_clock_set_forward_skips_no_run() {
        assert_eq!(
            times("30 2 * * *", "2027-03-27T12:00:00Z", 2),
            ["2027-03-28 03:00+02:00", "2027-03-29 02:30+02:00"]
        );
        assert_eq!(times("0 * * * *", "2027-03-28T00:00:00Z", 2), ["2027-03-28 03:00+02:00", "2027-03-28 04:00+02:00"]);
    }

    /// In Berlin, 02:00 to 03:00 comes twice on 25 October 2026.
    #[test]
    fn a_clock_set_back_repeats_only_what_runs_every_hour() {
        assert_eq!(
            times("30 2 * * *", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"]
        );
        assert_eq!(
            times("30 * * * *", "2026-10-24T23:45:00Z", 3),
            ["2026-10-25 02:30+02:00", "2026-10-25 02:30+01:00", "2026-10-25 03:30+01:00"]
        );
    }

    proptest! {
        #[test]
        fn the_next_time_is_later_and_shows_what_was_asked(
            seconds in 1_700_000_000i64..2_000_000_000, minute in 0u32..60, hour in 3u32..24,
        ) {
            let (cron, zone): (Cron, _) = (format!("{minute} {hour} * * *").parse().unwrap(), berlin());
            let after = Timestamp::from_second(seconds).unwrap();
            let next = cron.next_after(after, &zone).unwrap();
            let shown = zone.to_datetime(next);
            prop_assert!(next > after && next.as_second() - seconds <= 25 * 3600);
            prop_assert_eq!((shown.minute() as u32, shown.hour() as u32, shown.second()), (minute, hour, 0));
        }

        #[test]
        fn parsing_never_panics(text in "[-*/0-9a-z, ]{0,40}") {
            let _ = text.parse::<Cron>();
        }
    }
}
