//! Which of a job's snapshots its rules keep: `24 × 1h, 14 × 1d, all within 1h, last 10, all matching *T00:00:00Z`.
//!
//! Invariants: a snapshot is kept if any rule keeps it; a rule never looks at how long nothing happened: `24 × 1h` keeps
//! one of each of the newest 24 hours that have any, so neither a host that slept for a year nor a clock that jumped
//! ahead empties a grid. Each verdict says which rule.

use std::{collections::BTreeSet, fmt, str::FromStr};

use globset::{GlobBuilder, GlobMatcher};
use jiff::Timestamp;

use super::span::Span;
use crate::types::SnapshotTag;

/// Rules that one text may hold.
const MAX_RULES: usize = 20;
/// The most that a count may be: what a dataset with a snapshot a minute makes in two years.
const MAX_COUNT: u32 = 1_000_000;

/// One reason to keep a snapshot.
#[derive(Clone, Debug)]
enum Rule {
    /// The oldest of each of the newest so many periods of that length in which there are any. Periods begin at multiples of
    /// their length since 1970, UTC, so they are the same whenever one looks.
    Grid { count: u32, every: Span },
    /// All that are no older.
    Within(Span),
    /// The newest so many.
    Last(u32),
    /// All whose names match.
    Matching(String, GlobMatcher),
    /// All.
    All,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Retention {
    rules: Vec<Rule>,
}

impl PartialEq for Retention {
    fn eq(&self, other: &Retention) -> bool {
        self.to_string() == other.to_string()
    }
}
impl Eq for Retention {}

/// A text that is no retention.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no rule for keeping snapshots: write 24x1h, all within 1h, last 10, all matching GLOB, or all")]
pub struct RetentionError(String);

impl FromStr for Retention {
    type Err = RetentionError;

    fn from_str(s: &str) -> Result<Retention, RetentionError> {
        let bad = |part: &str| RetentionError(part.trim().chars().take(80).collect());
        let parts: Vec<&str> = s.split(',').map(str::trim).collect();
        if parts.len() > MAX_RULES {
            return Err(bad(s));
        }
        let rules = parts.iter().map(|part| rule(part).ok_or_else(|| bad(part))).collect::<Result<_, _>>()?;
        Ok(Retention { rules })
    }
}

fn rule(text: &str) -> Option<Rule> {
    let count = |text: &str| text.trim().parse::<u32>().ok().filter(|n| (1..=MAX_COUNT).contains(n));
    if text == "all" {
        return Some(Rule::All);
    }
    if let Some(span) = text.strip_prefix("all within ") {
        return span.trim().parse().ok().map(Rule::Within);
    }
    if let Some(n) = text.strip_prefix("last ") {
        return count(n).map(Rule::Last);
    }
    if let Some(glob) = text.strip_prefix("all matching ") {
        let glob = glob.trim();
        let matcher = GlobBuilder::new(glob).build().ok()?.compile_matcher();
        return (!glob.is_empty() && glob.len() <= 64).then(|| Rule::Matching(glob.to_owned(), matcher));
    }
    let (n, every) = text.split_once(['x', '×'])?;
    Some(Rule::Grid { count: count(n)?, every: every.trim().parse().ok()? })
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Grid { count, every } => write!(f, "{count} × {every}"),
            Rule::Within(span) => write!(f, "all within {span}"),
            Rule::Last(n) => write!(f, "last {n}"),
            Rule::Matching(glob, _) => write!(f, "all matching {glob}"),
            Rule::All => f.write_str("all"),
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, rule) in self.rules.iter().enumerate() {
            write!(f, "{}{rule}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl Retention {
    /// For each snapshot (its name and its time), the rule that keeps it, or `None` where none does.
    ///
    /// Neither the order of the snapshots nor that of the rules changes what is kept; the first rule that keeps is named.
    pub fn keeps(&self, snapshots: &[(&SnapshotTag, Timestamp)], now: Timestamp) -> Vec<Option<String>> {
        let mut order: Vec<usize> = (0..snapshots.len()).collect();
        order.sort_by_key(|at| (snapshots[*at].1, snapshots[*at].0));
        let mut kept = vec![None; snapshots.len()];
        // Of a clock that was ahead. They stay until their time has come, and count for nothing until then: otherwise they would
        // be the newest of every rule, and all that is taken now would go.
        for at in order.extract_if(.., |at| snapshots[*at].1 > now) {
            kept[at] = Some("dated in the future".to_owned());
        }
        for rule in &self.rules {
            for at in rule.keeps(snapshots, &order, now) {
                kept[at].get_or_insert_with(|| rule.to_string());
            }
        }
        kept
    }
}

impl Rule {
    /// Places of the snapshots that this rule keeps; `order` has the places from the oldest to the newest.
    fn keeps(&self, snapshots: &[(&SnapshotTag, Timestamp)], order: &[usize], now: Timestamp) -> Vec<usize> {
        match self {
            Rule::All => order.to_vec(),
            Rule::Last(n) => order.iter().rev().take(*n as usize).copied().collect(),
            Rule::Matching(_, glob) => {
                order.iter().copied().filter(|at| glob.is_match(snapshots[*at].0.as_str())).collect()
            }
            Rule::Within(span) => {
                let young = |at: &usize| now.as_second() - snapshots[*at].1.as_second() <= span.as_signed_s();
                order.iter().copied().filter(young).collect()
            }
            Rule::Grid { count, every } => {
                let period = |at: usize| snapshots[at].1.as_second().div_euclid(every.as_signed_s());
                let periods: BTreeSet<i64> = order.iter().map(|at| period(*at)).collect();
                let newest: BTreeSet<i64> = periods.into_iter().rev().take(*count as usize).collect();
                let mut taken = BTreeSet::new();
                let oldest_of_its = |at: &usize| newest.contains(&period(*at)) && taken.insert(period(*at));
                order.iter().copied().filter(oldest_of_its).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::jobs::names::Prefix;

    fn t(s: &str) -> Timestamp {
        s.parse().unwrap()
    }

    fn names(times: &[Timestamp]) -> Vec<SnapshotTag> {
        let prefix: Prefix = "db".parse().unwrap();
        times.iter().map(|at| prefix.tag_at(*at).unwrap()).collect()
    }

    /// The times that are kept.
    fn kept(rules: &str, times: &[Timestamp], now: Timestamp) -> Vec<Timestamp> {
        let tags = names(times);
        let snapshots: Vec<_> = tags.iter().zip(times.iter().copied()).collect();
        let retention: Retention = rules.parse().unwrap();
        let kept = retention.keeps(&snapshots, now);
        times.iter().zip(kept).filter(|(_, why)| why.is_some()).map(|(at, _)| *at).collect()
    }

    fn every(minutes: i64, from: &str, n: i64) -> Vec<Timestamp> {
        let from = t(from).as_second();
        (0..n).map(|i| Timestamp::from_second(from + i * minutes * 60).unwrap()).collect()
    }

    #[test]
    fn rules_as_people_write_them() {
        for (text, shown) in [
            ("24x1h, 14 × 1d,all within 1h", "24 × 1h, 14 × 1d, all within 1h"),
            ("last 10", "last 10"),
            ("all matching *T00:00:00Z", "all matching *T00:00:00Z"),
            ("all", "all"),
        ] {
            assert_eq!(text.parse::<Retention>().unwrap().to_string(), shown);
        }
        for bad in ["", "24", "0x1h", "24x", "x1h", "all within", "last 0", "all matching ", "24x1h,", "none", "-1x1h"]
        {
            assert!(bad.parse::<Retention>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_grid_keeps_the_oldest_of_each_period() {
        let times = every(20, "2026-11-26T00:10:00Z", 12);
        let kept = kept("2x1h", &times, t("2026-11-26T04:00:00Z"));
        assert_eq!(kept, [t("2026-11-26T02:10:00Z"), t("2026-11-26T03:10:00Z")]);
    }

    #[test]
    fn age_count_and_names() {
        let times = every(60, "2026-11-26T00:00:00Z", 5);
        let now = t("2026-11-26T04:30:00Z");
        assert_eq!(kept("all within 90m", &times, now), times[3..]);
        assert_eq!(kept("last 2", &times, now), times[3..]);
        assert_eq!(kept("all matching *T00:*", &times, now), times[..1]);
        assert_eq!(kept("all", &times, now), times);
    }

    /// A clock that is set to another year for a moment must not cost a history.
    #[test]
    fn a_clock_that_jumps_empties_no_grid() {
        let times = every(60, "2026-11-25T00:00:00Z", 24);
        for now in ["2026-11-26T00:00:00Z", "2040-01-01T00:00:00Z", "2001-01-01T00:00:00Z"] {
            assert_eq!(kept("24x1h", &times, t(now)), times, "at {now}");
        }
    }

    /// Two years of a snapshot every 15 minutes, pruned every two hours: the grid is full, and never more than that is there.
    #[test]
    fn two_years_of_a_grid() {
        let retention: Retention = "24x1h, 14x1d, 24x30d, all within 1h".parse().unwrap();
        let start = t("2024-11-26T00:00:00Z").as_second();
        let prefix: Prefix = "db".parse().unwrap();
        let mut there: Vec<(SnapshotTag, Timestamp)> = Vec::new();
        let mut most = 0;
        let mut before_the_set_back = Vec::new();
        let day = 24 * 4;
        let (off, behind) = (30_000..30_000 + 10 * day, 40_000..40_100);
        for round in 0..2 * 365 * 24 * 4i64 {
            // The host was off for ten days, and for a while its clock was a day behind.
            if off.contains(&round) {
                continue;
            }
            if round == behind.start {
                before_the_set_back = there.clone();
            }
            let is_behind = behind.contains(&round);
            let now = start + round * 900 - if is_behind { 86_400 } else { 0 };
            let now = Timestamp::from_second(now).unwrap();
            let tag = prefix.tag_at(now).unwrap();
            if there.iter().all(|(old, _)| *old != tag) {
                there.push((tag, now));
            }
            // Every second hour, so that this takes seconds.
            if round % 8 != 0 {
                continue;
            }
            let snapshots: Vec<_> = there.iter().map(|(tag, at)| (tag, *at)).collect();
            let kept = retention.keeps(&snapshots, now);
            let mut kept = kept.into_iter();
            there.retain(|_| kept.next().flatten().is_some());
            most = most.max(there.len());
            let has = |every: i64| -> BTreeSet<i64> {
                there.iter().map(|(_, at)| at.as_second().div_euclid(every)).collect()
            };
            // Each period from so long ago up to now has a snapshot.
            let is_full = |every: i64, from: i64| {
                let all = has(every);
                (from.div_euclid(every)..=now.as_second().div_euclid(every)).all(|period| all.contains(&period))
            };
            let hours_ago = |n: i64| now.as_second() - n * 3600;
            let after = |gap: &std::ops::Range<i64>, days: i64| gap.start <= round && round < gap.end + days * day;
            if round >= 14 * day && !after(&off, 14) {
                assert!(is_full(86_400, hours_ago(12 * 24)), "round {round}: a day is missing");
            }
            if is_behind {
                // What is dated in the future stays, and what is taken now is kept beside it.
                let ahead: Vec<_> = before_the_set_back.iter().filter(|(_, at)| *at > now).collect();
                assert!(ahead.iter().all(|old| there.contains(old)), "round {round}: a set-back cost snapshots");
                assert!(round > behind.start + 8 || ahead.len() > 20, "{} were ahead", ahead.len());
                let set_back = start + behind.start * 900 - 86_400;
                assert!(is_full(3600, set_back.max(hours_ago(22))), "round {round}: an hour since is missing");
            } else if after(&behind, 1) {
                // Of the day that was had twice, and since.
                let newest = has(3600).range(hours_ago(50).div_euclid(3600)..).count();
                assert!(newest >= 24, "round {round}: {newest} hours right after the clock was set right");
            } else if round >= day && !after(&off, 1) {
                assert!(is_full(3600, hours_ago(23)), "round {round}: an hour is missing");
            }
        }
        let now = Timestamp::from_second(start + 2 * 365 * 86_400).unwrap();
        let ages: Vec<i64> = there.iter().map(|(_, at)| (now.as_second() - at.as_second()) / 86_400).collect();
        assert!(most <= 24 + 14 + 24 + 5 + 100, "{most} snapshots at once");
        assert!(there.len() >= 24 + 13 + 22 && there.len() <= 24 + 14 + 24 + 5 + 8, "{} are left", there.len());
        // The oldest of the grid is there, and each of the last 13 days.
        assert!(ages.iter().any(|age| *age >= 23 * 30), "{ages:?}");
        assert!((0..13).all(|day| ages.contains(&day)), "{ages:?}");
    }

    proptest! {
        /// Pruning again at the same time changes nothing; pruning after each snapshot keeps no less of a grid than once at the end.
        #[test]
        fn pruning_is_stable(
            mut seconds in prop::collection::btree_set(1_700_000_000i64..1_705_000_000, 1..80),
            rules in prop_oneof![Just("5x1h, 3x1d"), Just("last 7"), Just("all within 3d, 4x6h"), Just("10x1d")],
        ) {
            let times: Vec<_> = std::mem::take(&mut seconds).into_iter().map(|s| Timestamp::from_second(s).unwrap()).collect();
            let now = *times.last().unwrap();
            let once = kept(rules, &times, now);
            prop_assert_eq!(&kept(rules, &once, now), &once);
            let mut there: Vec<Timestamp> = Vec::new();
            for at in &times {
                there.push(*at);
                there = kept(rules, &there, *at);
            }
            prop_assert_eq!(there, once);
        }

        #[test]
        fn order_does_not_matter(seconds in prop::collection::btree_set(1_700_000_000i64..1_701_000_000, 1..40)) {
            let mut times: Vec<_> = seconds.into_iter().map(|s| Timestamp::from_second(s).unwrap()).collect();
            let now = *times.last().unwrap();
            let forward = kept("3x1h, 2x1d, all within 30m", &times, now);
            times.reverse();
            let mut backward = kept("3x1h, 2x1d, all within 30m", &times, now);
            backward.reverse();
            prop_assert_eq!(forward, backward);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = text.parse::<Retention>();
        }
    }
}
