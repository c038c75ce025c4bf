//! A point in time, in whole seconds, that people and JSON see as `2026-01-31T12:00:00Z`.

use std::{fmt, time::Duration};

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The end of the year 9999: X.509 has no later time (RFC 5280, 4.1.2.5).
const END_OF_TIME_S: u64 = 253_402_300_799;

/// Seconds since 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct When(u64);

impl When {
    /// From seconds since 1970; later than the year 9999 becomes its end.
    pub fn from_unix_s(seconds: u64) -> Self {
        Self(seconds.min(END_OF_TIME_S))
    }

    #[cfg(test)]
    pub(crate) const fn from_unix_s_const(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The system's clock.
    pub fn now() -> Self {
        Self::from(UnixTime::now())
    }

    /// Seconds since 1970.
    pub fn unix_s(self) -> u64 {
        self.0
    }

    /// This long after.
    pub fn after(self, span: Duration) -> Self {
        Self::from_unix_s(self.0.saturating_add(span.as_secs()))
    }

    /// This long before.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.as_secs()))
    }

    /// From `earlier` to this; zero if it is not earlier.
    pub fn since(self, earlier: When) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl From<UnixTime> for When {
    fn from(time: UnixTime) -> Self {
        Self::from_unix_s(time.as_secs())
    }
}

impl From<When> for UnixTime {
    fn from(when: When) -> Self {
        UnixTime::since_unix_epoch(Duration::from_secs(when.0))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // jiff's range ends within the last day of 9999.
        match i64::try_from(self.0).ok().and_then(|s| jiff::Timestamp::from_second(s).ok()) {
            Some(time) => time.fmt(f),
            None => f.write_str("9999-12-31T23:59:59Z"),
        }
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let time: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
        u64::try_from(time.as_second()).map(Self::from_unix_s).map_err(D::Error::custom)
    }
}

/// `3 days`, `5 h`, `90 s`: rough, for sentences.
pub(crate) fn rough(span: Duration) -> String {
    match span.as_secs() {
        s if s >= 2 * 86_400 => format!("{} days", s / 86_400),
        s if s >= 2 * 3_600 => format!("{} h", s / 3_600),
        s if s >= 120 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let when = When::from_unix_s(1_767_225_600);
        assert_eq!(when.to_string(), "2026-01-01T00:00:00Z");
        let json = serde_json::to_string(&when).unwrap();
        assert_eq!(serde_json::from_str::<When>(&json).unwrap(), when);
        assert!(serde_json::from_str::<When>("\"1960-01-01T00:00:00Z\"").is_err());
        assert!(When::from_unix_s(u64::MAX).to_string().starts_with("9999-12-31"));
    }
}
