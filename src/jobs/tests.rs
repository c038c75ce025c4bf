//! What the rules spare, whatever retention says; and long simulations of both together.

use jiff::Timestamp;
use proptest::prelude::*;

use super::{
    names::Prefix,
    retention::Retention,
    spare::{KeptFor, Need, Subject},
};
use crate::types::{
    CreateTxg, Guid, SnapshotName,
    listing::{BookmarkInfo, DatasetInfo, DatasetKind, HELD, JOB, Property, PropertySource, SnapshotInfo},
};

const START: i64 = 1_764_000_000;

fn prefix() -> Prefix {
    "db".parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

fn snapshot(tag: &str, n: u64) -> SnapshotInfo {
    SnapshotInfo { tag: tag.parse().unwrap(), guid: Guid(n), createtxg: CreateTxg(n), creation_unix_s: 0 }
}

/// A dataset with a snapshot of the job each hour, of GUID and createtxg 1, 2, and so on.
fn dataset(hours: u64) -> DatasetInfo {
    let tag = |n: u64| prefix().tag_at(at(n as i64 * 3600)).unwrap().to_string();
    DatasetInfo {
        name: "tank/db".parse().unwrap(),
        kind: DatasetKind::Filesystem,
        guid: Guid(99),
        createtxg: CreateTxg(0),
        origin: None,
        encryption: None,
        resume_token: None,
        inconsistent: false,
        written: None,
        referenced: 0,
        available: 0,
        properties: Vec::new(),
        snapshots: (1..=hours).map(|n| snapshot(&tag(n), n)).collect(),
        bookmarks: Vec::new(),
    }
}

fn has(by: &str, n: u64) -> Need {
    Need { by: by.to_owned(), has: Some(Guid(n)) }
}

fn bookmark(dataset: &mut DatasetInfo, job: &str, n: u64) {
    let tag = format!("zmigrate:{job}:{n}").parse().unwrap();
    dataset.bookmarks.push(BookmarkInfo { tag, guid: Guid(n), createtxg: CreateTxg(n), creation_unix_s: 0 });
}

/// GUIDs of what goes under rules that keep next to nothing.
fn gone(dataset: &DatasetInfo, holds: &[(SnapshotName, String)], needs: &[Need]) -> Vec<u64> {
    let prefix = prefix();
    let rules: Retention = "all matching no-such-name".parse().unwrap();
    let subject = Subject { dataset, holds, needs, prefix: &prefix };
    subject.decide(Some(&rules), at(1_000_000)).iter().filter(|d| !d.keep).map(|d| d.guid.0).collect()
}

fn why(dataset: &DatasetInfo, holds: &[(SnapshotName, String)], needs: &[Need], n: usize) -> String {
    let prefix = prefix();
    Subject { dataset, holds, needs, prefix: &prefix }.spared()[n - 1].clone().unwrap_or_default()
}

#[test]
fn what_was_not_made_by_the_job_stays() {
    let mut d = dataset(5);
    d.snapshots[1] = snapshot("before-upgrade", 2);
    d.snapshots[2] = snapshot("db_before-upgrade", 3);
    assert_eq!(gone(&d, &[], &[has("dc2", 5)]), [1, 4]);
    assert_eq!(why(&d, &[], &[], 2), "was not made by this job");
}

#[test]
fn a_base_and_what_a_target_has_not_got_stay() {
    let d = dataset(5);
    assert_eq!(gone(&d, &[], &[has("dc2", 3)]), [1, 2]);
    assert_eq!(why(&d, &[], &[has("dc2", 3)], 3), "is the base of dc2");
    assert_eq!(why(&d, &[], &[has("dc2", 3)], 4), "is not yet replicated to dc2");
    // The slowest target counts.
    assert_eq!(gone(&d, &[], &[has("dc2", 5), has("dc3", 2)]), [1]);
}

#[test]
fn where_it_is_not_known_what_a_target_has_all_stays() {
    let d = dataset(5);
    let nothing = Need { by: "dc3".into(), has: None };
    assert!(gone(&d, &[], &[has("dc2", 5), nothing]).is_empty());
    // What was seen then is not here any more: the dataset was made again.
    assert!(gone(&d, &[], &[has("dc2", 5), has("dc3", 77)]).is_empty());
}

#[test]
fn a_bookmark_tells_what_its_target_has() {
    let mut d = dataset(5);
    bookmark(&mut d, "aaaa0001", 2);
    assert_eq!(gone(&d, &[], &[has("dc2", 5)]), [1]);
    bookmark(&mut d, "aaaa0001", 4);
    assert_eq!(gone(&d, &[], &[has("dc2", 5)]), [1, 2, 3]);
}

#[test]
fn what_is_held_stays_and_of_the_holds_of_a_job_the_oldest_is_its_base() {
    let d = dataset(5);
    let hold = |n: usize, tag: &str| (d.snapshot_name(&d.snapshots[n - 1]).unwrap(), tag.to_owned());
    assert_eq!(gone(&d, &[hold(2, "mine")], &[has("dc2", 5)]), [1, 3, 4]);
    // Being sent, and its base: the newer one has not arrived.
    let sending = [hold(2, "zmigrate:aaaa0001"), hold(4, "zmigrate:aaaa0001")];
    assert_eq!(gone(&d, &sending, &[has("dc2", 5)]), [1]);
    assert_eq!(why(&d, &sending, &[], 2), "is held (zmigrate:aaaa0001)");
}

#[test]
fn the_newest_and_the_recorded_base_of_a_target_stay() {
    let mut d = dataset(5);
    let value = d.snapshots[2].tag.to_string();
    d.properties.push(Property { name: HELD.into(), value, source: PropertySource::Local });
    assert_eq!(gone(&d, &[], &[]), [1, 2, 4]);
    assert_eq!(why(&d, &[], &[], 3), "is the base of the job that writes here");
    assert_eq!(why(&d, &[], &[], 5), "is the newest");
}

/// Steps that broke off leave holds of the job that writes here; what is between them is kept by nobody.
#[test]
fn holds_of_the_job_that_writes_here_are_no_other_targets_base() {
    let mut d = dataset(5);
    let hold = |n: usize| (d.snapshot_name(&d.snapshots[n - 1]).unwrap(), "zmigrate:aaaa0001".to_owned());
    let holds = [hold(2), hold(5)];
    let mut set = |name: &str, value: &str| {
        d.properties.push(Property { name: name.into(), value: value.into(), source: PropertySource::Local });
        gone(&d, &holds, &[])
    };
    assert!(set(JOB, "aaaa0001") == [1], "without its record, its oldest hold counts");
    let newest = prefix().tag_at(at(5 * 3600)).unwrap().to_string();
    assert_eq!(set(HELD, &newest), [1, 3, 4]);
    // Of another job they are.
    let others: Vec<_> = holds.iter().map(|(name, _)| (name.clone(), "zmigrate:aaaa0002".to_owned())).collect();
    assert_eq!(gone(&d, &others, &[]), [1]);
    // It names what is not there.
    d.properties[1].value = "other".into();
    assert_eq!(gone(&d, &holds, &[]), [1]);
}

/// A target that was given up keeps all that is newer than its base: that is told, and nothing goes for it.
#[test]
fn what_only_an_old_mark_keeps_is_told() {
    const OWN: &str = "aaaa0001";
    let rules: Retention = "last 2".parse().unwrap();
    let days = 40;
    let mut d = dataset(days);
    for (day, snapshot) in d.snapshots.iter_mut().enumerate() {
        snapshot.creation_unix_s = (day as u64 + 1) * 86_400;
    }
    bookmark(&mut d, OWN, days);
    let prefix = prefix();
    let told = |d: &DatasetInfo, holds: &[(SnapshotName, String)], needs: &[Need]| {
        let subject = Subject { dataset: d, holds, needs, prefix: &prefix };
        subject.kept_for(OWN, &rules, at(1_000_000))
    };
    assert_eq!(told(&d, &[], &[has("db", days)]), None);
    let by_mark = |n: u64| {
        let mut d = d.clone();
        bookmark(&mut d, "bbbb0002", n);
        d
    };
    // Of 40 the rules let 38 go; the base and what is newer stay.
    let kept = Some(KeptFor { job: "bbbb0002".into(), snapshots: 34, behind_s: 35 * 86_400 });
    assert_eq!(told(&by_mark(5), &[], &[has("db", days)]), kept);
    let hold = [(d.snapshot_name(&d.snapshots[4]).unwrap(), "zmigrate:bbbb0002".to_owned())];
    assert_eq!(told(&d, &hold, &[has("db", days)]), kept);
    // One that is only late, one that a job of this host writes, and one that keeps what the rules keep anyway.
    assert_eq!(told(&by_mark(11), &[], &[has("db", days)]), None);
    assert_eq!(told(&by_mark(5), &[], &[has("db", days), has("other", 5)]), None);
    let all: Retention = "all".parse().unwrap();
    let (d, needs) = (by_mark(5), [has("db", days)]);
    assert_eq!(Subject { dataset: &d, holds: &[], needs: &needs, prefix: &prefix }.kept_for(OWN, &all, at(0)), None);
    assert!(gone(&d, &[], &needs) == [1, 2, 3, 4], "nothing goes because it is told");
}

#[test]
fn what_a_rule_keeps_stays_and_says_which() {
    let (d, prefix) = (dataset(5), prefix());
    let rules: Retention = "last 2, all matching *T16:*".parse().unwrap();
    let subject = Subject { dataset: &d, holds: &[], needs: &[has("dc2", 5)], prefix: &prefix };
    let all = subject.decide(Some(&rules), at(5 * 3600));
    let shown: Vec<_> = all.iter().map(|d| (d.guid.0, d.keep, d.why.as_str())).collect();
    let rules = "no rule keeps it: last 2, all matching *T16:*";
    assert_eq!(
        shown,
        [
            (1, false, rules),
            (2, false, rules),
            (3, false, rules),
            (4, true, "kept by: last 2"),
            (5, true, "is the newest")
        ]
    );
}

#[test]
fn without_rules_all_stays() {
    let (d, prefix) = (dataset(5), prefix());
    let subject = Subject { dataset: &d, holds: &[], needs: &[has("dc2", 5)], prefix: &prefix };
    let all = subject.decide(None, at(0));
    assert!(all.iter().all(|d| d.keep) && all[0].why == "no rules are set", "{all:?}");
}

/// One target is away from the fourth to the seventh month of two years, the other follows all the time.
#[test]
fn two_years_with_a_target_away_for_three_months() {
    let rules: Retention = "24x1h, 14x1d, all within 1h".parse().unwrap();
    let prefix = prefix();
    let mut d = dataset(1);
    let mut far = 1;
    let (away, back) = (90 * 24, 180 * 24);
    let mut most_while_away = 0;
    for hour in 2..=2 * 365 * 24u64 {
        let now = at(hour as i64 * 3600);
        d.snapshots.push(snapshot(prefix.tag_at(now).unwrap().as_str(), hour));
        if !(away..back).contains(&hour) {
            // An incremental stream needs its base, and -I all that follow.
            let guids: Vec<u64> = d.snapshots.iter().map(|s| s.guid.0).filter(|g| *g >= far).collect();
            assert!((far..=hour).eq(guids.iter().copied()), "hour {hour}: the far target needs {far}..");
            far = hour;
        }
        d.bookmarks.clear();
        bookmark(&mut d, "aaaa0001", far);
        // Pruned at noon each day, so that this takes seconds.
        if hour % 24 == 12 {
            let needs = [has("near", hour)];
            let subject = Subject { dataset: &d, holds: &[], needs: &needs, prefix: &prefix };
            let gone: std::collections::BTreeSet<u64> =
                subject.decide(Some(&rules), now).iter().filter(|d| !d.keep).map(|d| d.guid.0).collect();
            d.snapshots.retain(|s| !gone.contains(&s.guid.0));
            if (away..back).contains(&hour) {
                most_while_away = d.snapshots.len();
            } else if hour > back + 48 {
                assert!(d.snapshots.len() <= 24 + 14 + 2, "hour {hour}: {} are left", d.snapshots.len());
            }
        }
    }
    assert!(most_while_away as u64 > back - away - 48, "{most_while_away} while it was away");
}

proptest! {
    /// Whatever the state: what goes is the job's own, older than every base, and held by nobody.
    #[test]
    fn nothing_goes_that_somebody_needs(
        hours in 1u64..40,
        foreign in prop::collection::btree_set(0usize..40, 0..5),
        held in prop::collection::btree_set(0usize..40, 0..5),
        bases in prop::collection::vec(0u64..45, 0..4),
        marks in prop::collection::vec((0u8..3, 1u64..45), 0..4),
        rules in prop_oneof![Just("last 1"), Just("3x1h"), Just("all within 2h"), Just("2x1d, last 2")],
    ) {
        let (prefix, rules): (Prefix, Retention) = (prefix(), rules.parse().unwrap());
        let mut d = dataset(hours);
        for n in foreign.iter().filter(|n| **n < d.snapshots.len()).copied().collect::<Vec<_>>() {
            d.snapshots[n].tag = format!("own-{n}").parse().unwrap();
        }
        let holds: Vec<_> = held
            .iter()
            .filter_map(|n| Some((d.snapshot_name(d.snapshots.get(*n)?).unwrap(), "keep".to_owned())))
            .collect();
        marks.iter().for_each(|(job, n)| bookmark(&mut d, &format!("aaaa000{job}"), *n));
        // 0 stands for a target that has nothing.
        let needs: Vec<Need> =
            bases.iter().map(|n| Need { by: "x".into(), has: (*n > 0).then_some(Guid(*n)) }).collect();
        let subject = Subject { dataset: &d, holds: &holds, needs: &needs, prefix: &prefix };
        for (decision, s) in subject.decide(Some(&rules), at(hours as i64 * 3600)).iter().zip(&d.snapshots) {
            if decision.keep {
                continue;
            }
            prop_assert!(prefix.time_of(&s.tag).is_some());
            prop_assert!(holds.iter().all(|(held, _)| held.tag() != s.tag));
            prop_assert!(bases.iter().all(|base| s.createtxg.0 < *base));
            for job in 0..3u8 {
                let newest = marks.iter().filter(|(j, _)| *j == job).map(|(_, n)| *n).max();
                prop_assert!(newest.is_none_or(|newest| s.createtxg.0 < newest));
            }
            prop_assert!(Some(s.guid) != d.newest().map(|s| s.guid));
        }
    }
}
