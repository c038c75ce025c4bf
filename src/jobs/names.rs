//! The names of a job's snapshots: `PREFIX_2026-11-26T04:00:00Z`, in UTC, so that they sort by time.
//!
//! Invariant: only a name that [`Prefix::time_of`] reads is a job's own. A snapshot that a person or another program named
//! is none, whatever its name begins with.

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::SnapshotTag;

/// Bytes of the time behind a prefix, with the `_`.
const TIME_BYTES: usize = "_2026-11-26T04:00:00Z".len();
/// The longest prefix, in bytes. With the time, a name stays within 64 bytes.
pub const MAX_PREFIX_BYTES: usize = 40;

/// What the names of a job's snapshots begin with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(String);

/// A text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prefix {0:?} must have 1 to 40 letters, digits or -_. and begin with a letter or digit")]
pub struct PrefixError(String);

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(s: &str) -> Result<Prefix, PrefixError> {
        let plain = s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let begins = s.starts_with(|c: char| c.is_ascii_alphanumeric());
        if plain && begins && s.len() <= MAX_PREFIX_BYTES {
            Ok(Prefix(s.to_owned()))
        } else {
            Err(PrefixError(s.chars().take(MAX_PREFIX_BYTES + 1).collect()))
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;
    fn try_from(s: String) -> Result<Prefix, PrefixError> {
        s.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Prefix {
    /// The bare text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a snapshot that is taken at `now`, to the second. `None` for a time outside the years 1 to 9999.
    pub fn tag_at(&self, now: Timestamp) -> Option<SnapshotTag> {
        let tag = format!("{}_{}", self.0, now.strftime("%Y-%m-%dT%H:%M:%SZ"));
        let tag = tag.parse::<SnapshotTag>().ok()?;
        self.time_of(&tag).is_some().then_some(tag)
    }

    /// What the name of a snapshot begins with that any job made; `None` if it is none of a job's.
    pub fn of(tag: &SnapshotTag) -> Option<Prefix> {
        let at = tag.as_str().len().checked_sub(TIME_BYTES)?;
        let prefix: Prefix = tag.as_str().get(..at)?.parse().ok()?;
        prefix.time_of(tag).is_some().then_some(prefix)
    }

    /// When a snapshot of this job was taken, by its name; `None` if it is not one of this job's.
    pub fn time_of(&self, tag: &SnapshotTag) -> Option<Timestamp> {
        let time = tag.as_str().strip_prefix(&self.0)?;
        if time.len() != TIME_BYTES || !time.starts_with('_') || !time.ends_with('Z') {
            return None;
        }
        let time = &time[1..];
        let shape = |(i, b): (usize, u8)| match i {
            4 | 7 => b == b'-',
            10 => b == b'T',
            13 | 16 => b == b':',
            19 => b == b'Z',
            _ => b.is_ascii_digit(),
        };
        time.bytes().enumerate().all(shape).then(|| time.parse().ok()).flatten()
    }
}

/// The prefix that most of these names have, and how many, where none or one alone has `own`: the job had another name, or takes no
/// snapshots and its rules fit none.
pub fn renamed(own: &Prefix, tags: &[&SnapshotTag]) -> Option<(Prefix, usize)> {
    let mut by_prefix: BTreeMap<Prefix, usize> = BTreeMap::new();
    tags.iter().filter_map(|tag| Prefix::of(tag)).for_each(|prefix| *by_prefix.entry(prefix).or_default() += 1);
    if by_prefix.remove(own).unwrap_or_default() > 1 {
        return None;
    }
    let most = by_prefix.into_iter().max_by_key(|(_, n)| *n);
    most.filter(|(_, n)| *n > 1 && n * 2 > tags.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag(s: &str) -> SnapshotTag {
        s.parse().unwrap()
    }

    #[test]
    fn names_are_times_in_utc() {
        let prefix: Prefix = "db".parse().unwrap();
        let at: Timestamp = "2026-11-26T05:00:00+01:00".parse().unwrap();
        let name = prefix.tag_at(at).unwrap();
        assert_eq!(name.as_str(), "db_2026-11-26T04:00:00Z");
        assert_eq!(prefix.time_of(&name), Some(at));
        assert_eq!(prefix.tag_at(Timestamp::MIN), None);
    }

    #[test]
    fn what_is_named_otherwise_is_not_the_jobs() {
        let prefix: Prefix = "db".parse().unwrap();
        for foreign in [
            "db",
            "db_",
            "db_before-upgrade",
            "db2_2026-11-26T04:00:00Z",
            "mydb_2026-11-26T04:00:00Z",
            "db_2026-11-26T04:00:00Z-keep",
            "db_2026-11-26T04:00:00",
            "db_2026-13-26T04:00:00Z",
            "db_2026-11-26 04:00:00Z",
            "db_-026-11-26T04:00:00Z",
            "DB_2026-11-26T04:00:00Z",
            "zmigrate_2026-11-26T04:00:00.123Z",
        ] {
            assert_eq!(prefix.time_of(&tag(foreign)), None, "{foreign} was taken for the job's");
        }
        for bad in ["", "_x", "-x", "a b", "a/b", "a@b", "a:b", &"x".repeat(41)] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_prefix_of_any_jobs_snapshot_is_told() {
        let of = |text: &str| Prefix::of(&tag(text)).map(String::from);
        assert_eq!(of("db_2026-11-26T04:00:00Z").as_deref(), Some("db"));
        assert_eq!(of("a_b_2026-11-26T04:00:00Z").as_deref(), Some("a_b"));
        for none in [
            "db",
            "_2026-11-26T04:00:00Z",
            "-x_2026-11-26T04:00:00Z",
            "db_2026-13-26T04:00:00Z",
            "é2026-11-26T04:00:00Z",
        ] {
            assert_eq!(none.parse::<SnapshotTag>().ok().and_then(|tag| Prefix::of(&tag)), None, "{none}");
        }
    }

    /// Its snapshots keep the name that it had, and its rules no longer know them.
    #[test]
    fn a_job_that_was_renamed_is_found_out_once() {
        let own: Prefix = "new".parse().unwrap();
        let found = |tags: &[&str]| {
            let tags: Vec<SnapshotTag> = tags.iter().map(|text| tag(text)).collect();
            renamed(&own, &tags.iter().collect::<Vec<_>>()).map(|(prefix, n)| (prefix.to_string(), n))
        };
        let (a, b, c) = ("old_2026-11-26T04:00:00Z", "old_2026-11-26T05:00:00Z", "old_2026-11-26T06:00:00Z");
        let (first, second) = ("new_2026-11-26T07:00:00Z", "new_2026-11-26T08:00:00Z");
        assert_eq!(found(&[a, b, first]), Some(("old".to_owned(), 2)));
        assert_eq!(found(&[a, b, c, "by-hand"]), Some(("old".to_owned(), 3)));
        assert_eq!(found(&[a, b, c, first, second]), None, "it was said after its first run");
        assert_eq!(found(&[a, "by-hand", "too", first]), None);
        assert_eq!(found(&[first]), None);
        assert_eq!(found(&[]), None);
    }

    proptest! {
        #[test]
        fn a_time_comes_back_to_the_second(seconds in 0i64..250_000_000_000, prefix in "[a-z0-9][a-z0-9_.-]{0,39}") {
            let prefix: Prefix = prefix.parse().unwrap();
            let at = Timestamp::from_second(seconds).unwrap();
            prop_assert_eq!(prefix.time_of(&prefix.tag_at(at).unwrap()), Some(at));
        }

        #[test]
        fn reading_a_name_never_panics(text in "db_.{0,24}") {
            let prefix: Prefix = "db".parse().unwrap();
            if let Ok(tag) = text.parse::<SnapshotTag>() {
                let _ = prefix.time_of(&tag);
            }
        }
    }
}
