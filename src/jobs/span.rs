//! Lengths of time as people write them: `90s`, `15m`, `1h`, `14d`, `6w`, `1y`.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// The longest one, in seconds: 1,000 years. Every sum of two of them and a time of today stays far from any overflow.
pub const MAX_SPAN_S: u64 = 1000 * 365 * 86_400;

/// The units, largest first: letter and seconds. A year has 365 days.
const UNITS: [(&str, u64); 6] =
    [("y", 365 * 86_400), ("w", 7 * 86_400), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// A length of time in whole seconds, from 1 to [`MAX_SPAN_S`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// So many seconds, brought into the range.
    pub const fn seconds(seconds: u64) -> Span {
        let least = if seconds == 0 { 1 } else { seconds };
        Span(if least > MAX_SPAN_S { MAX_SPAN_S } else { least })
    }

    /// In seconds.
    pub fn as_s(self) -> u64 {
        self.0
    }

    /// In seconds, for sums with times.
    pub fn as_signed_s(self) -> i64 {
        // Within MAX_SPAN_S, so it always fits.
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

/// A text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time such as 90s, 15m, 1h, 14d, 6w or 1y")]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(s: &str) -> Result<Span, SpanError> {
        let bad = || SpanError(s.chars().take(40).collect());
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let (_, factor) = UNITS.iter().find(|(letter, _)| *letter == &s[digits.len()..]).ok_or_else(bad)?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).ok_or_else(bad)?;
        if (1..=MAX_SPAN_S).contains(&seconds) { Ok(Span(seconds)) } else { Err(bad()) }
    }
}

impl fmt::Display for Span {
    /// In the largest unit that divides it; weeks are shown as days.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(letter, factor)| *letter != "w" && self.0.is_multiple_of(*factor));
        let (letter, factor) = unit.copied().unwrap_or(("s", 1));
        write!(f, "{}{letter}", self.0 / factor)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// So many seconds for people, in two units at most: `3 d 4 h`, `15 min`, `42 s`.
pub fn human_seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds % 86_400 / 3600, seconds % 3600 / 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, 1..10) if !seconds.is_multiple_of(60) => format!("{minutes} min {} s", seconds % 60),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, 0) => format!("{hours} h"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, 0, _) => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_as_people_write_them() {
        for (text, seconds, shown) in [
            ("90s", 90, "90s"),
            ("60s", 60, "1m"),
            ("15m", 900, "15m"),
            ("24h", 86_400, "1d"),
            ("2w", 14 * 86_400, "14d"),
            ("1y", 365 * 86_400, "1y"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.as_s(), span.to_string().as_str()), (seconds, shown), "{text}");
        }
        for bad in ["", "h", "0s", "1", "1.5h", "-1h", "1 h", "1H", "1mo", "1001y", "99999999999999999999s", "+1h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn seconds_for_people() {
        let shown: Vec<_> = [0, 42, 60, 75, 900, 3600, 5400, 86_400, 90_000].map(human_seconds).into();
        assert_eq!(shown, ["0 s", "42 s", "1 min", "1 min 15 s", "15 min", "1 h", "1 h 30 min", "1 d", "1 d 1 h"]);
    }
}
