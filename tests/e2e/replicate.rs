//! What a run moves, in both directions, and what it says.

use crate::{
    Case, cases,
    site::Site,
    zfs::{populate, snapshot, snapshots, state, tags},
};

pub fn cases() -> Vec<Case> {
    cases![a_full_send_then_increments,]
}

/// Pins a text of a site.
macro_rules! pin {
    ($site:expr, $text:expr, @$expected:literal) => {
        let filters = $site.filters();
        let filters: Vec<(&str, &str)> = filters.iter().map(|(from, to)| (from.as_str(), *to)).collect();
        insta::with_settings!({filters => filters}, { insta::assert_snapshot!($text, @$expected) })
    };
}

fn a_full_send_then_increments() {
    let site = Site::new();
    let db = site.source("db", 300_000);
    let done = site.push("db", "in/db", &[]).must(0);
    pin!(site, done.stdout, @"");
    assert_eq!(done.stderr, "");
    let target = site.w("in/db");
    site.assert_equal(&db, &target);
    for n in 2..5 {
        populate(&db, n, 100_000);
        snapshot(&db, &format!("s{n}"));
    }
    let done = site.push("db", "in/db", &[]).must(0);
    pin!(site, done.stdout, @"");
    site.assert_equal(&db, &target);
    let (before, log) = ((state(&site.east), state(&site.west)), site.log().len());
    let done = site.push("db", "in/db", &[]).must(0);
    pin!(site, done.stdout, @"");
    assert_eq!((state(&site.east), state(&site.west)), before, "a run with nothing to do changed something");
    let _ = (log, tags(&db), snapshots(&db));
}
