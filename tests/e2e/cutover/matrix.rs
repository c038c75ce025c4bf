//! The crash matrix: the process that leads, and the peer's daemon, end as by `kill -9` before and after each record and each
//! action, in both directions; then all is started again and resumed. Exactly one side serves then, with every record.

use std::time::Duration;

use super::bench::{Bench, json};
use crate::{Case, cases, process::wait_for};

pub fn cases() -> Vec<Case> {
    cases![
        crashes_of_the_leader_on_the_way_there,
        crashes_of_the_daemon_on_the_way_there,
        crashes_of_the_leader_on_the_way_back,
        crashes_of_the_daemon_on_the_way_back,
    ]
}

/// The leader's own records. What is most likely to go wrong stands first.
const LEAD: &[&str] = &[
    "lead:after:promote",
    "lead:after:verify",
    "lead:before:activate",
    "lead:after:quiesce",
    "lead:after:leg",
    "lead:before:catch_up",
    "lead:after:catch_up",
    "lead:after:arm",
    "lead:after:arm@2",
    "lead:before:quiesce",
    "lead:before:fence",
    "lead:after:fence",
    "lead:after:final",
    "lead:after:sync",
    "lead:before:verify",
    "lead:before:promote",
    "lead:after:activate",
    "lead:before:release",
    "lead:after:release",
    "lead:before:done",
    "lead:after:done",
];
/// The records and actions of the host that is left.
const SOURCE: &[&str] = &[
    "host:after:fencing",
    "act:after:fence",
    "act:after:quiesce",
    "host:after:released",
    "host:before:admitted",
    "host:after:admitted",
    "act:before:prepare",
    "act:after:prepare",
    "host:before:quiescing",
    "host:after:quiescing",
    "act:before:quiesce",
    "act:after:readformer",
    "host:before:fencing",
    "act:before:fence",
    "host:before:fenced",
    "host:after:fenced",
    "act:before:final",
    "act:after:final",
    "host:before:released",
];
/// The records and actions of the host that becomes writable.
const TARGET: &[&str] = &[
    "host:after:promoted",
    "host:before:promoted",
    "act:after:activate",
    "act:before:activate",
    "host:before:admitted",
    "host:after:admitted",
    "act:after:prepare",
    "host:before:active",
    "host:after:active",
];

/// How many of each list are tried unless `ZMIGRATE_EACH_PHASE=1` asks for all.
const TRIED: usize = 4;

fn some(points: &'static [&'static str]) -> &'static [&'static str] {
    if std::env::var_os("ZMIGRATE_EACH_PHASE").is_some() { points } else { &points[..TRIED] }
}

fn crashes_of_the_leader_on_the_way_there() {
    let points: Vec<&str> = [some(LEAD), some(SOURCE)].concat();
    there(&points, true);
}

fn crashes_of_the_daemon_on_the_way_there() {
    there(some(TARGET), false);
}

/// Each point with a unit that is at east, so that the leader is the source's host as well.
fn there(points: &[&str], leader: bool) {
    let mut bench = Bench::new();
    for point in points {
        bench.write();
        let id = crash(&mut bench, point, leader, None);
        settle(&bench, point, &id);
        bench.stop_writing();
        bench.assert_one_side_has_it_all();
        bench.afresh();
    }
}

fn crashes_of_the_leader_on_the_way_back() {
    let points: Vec<&str> = [some(LEAD), some(TARGET)].concat();
    back(&points, true);
}

fn crashes_of_the_daemon_on_the_way_back() {
    back(some(SOURCE), false);
}

/// Each point with a unit that is at west: the leader is the target's host as well, and the daemon the source's.
fn back(points: &[&str], leader: bool) {
    let mut bench = Bench::new();
    bench.write();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    for point in points {
        // The first leg of the way back is number two, so what the first one passed does not count.
        crash(&mut bench, point, leader, Some(&id));
        settle(&bench, point, &id);
        if !bench.assert_one_side_has_it_all() {
            json(&bench.cutover(&["back", &id]).must(0));
            assert!(bench.assert_one_side_has_it_all(), "{point}: at west again");
        }
    }
    bench.stop_writing();
}

/// Runs into the crash, and starts again what is down. Says the cutover's id.
fn crash(bench: &mut Bench, point: &str, leader: bool, back: Option<&str>) -> String {
    let crash_at = [("ZMIGRATE_CRASH_AT", point)];
    let environment: &[(&str, &str)] = if leader { &crash_at } else { &[] };
    if !leader {
        bench.site.bury_daemon();
        bench.site.daemon_environment = vec![("ZMIGRATE_CRASH_AT".into(), point.into())];
        bench.site.start_daemon();
    }
    let running = match back {
        None => bench.start_with(&["--tries", "5"], environment),
        Some(id) => bench.site.start_with(&["cutover", "back", id, "--output", "json"], environment),
    };
    if leader {
        let done = running.wait(120);
        assert_eq!(done.code, None, "{point} was not passed:\n{}{}", done.stdout, done.stderr);
        bench.assert_not_two_sides();
    } else {
        wait_for(&format!("the daemon to end at {point}"), 60, || !bench.site.daemon_lives());
        bench.assert_not_two_sides();
        bench.site.bury_daemon();
        bench.site.daemon_environment.clear();
        bench.site.start_daemon();
        drop(running.wait(120));
    }
    bench.status()["id"].as_str().unwrap().to_owned()
}

fn settle(bench: &Bench, point: &str, id: &str) {
    let done = bench.cutover(&["resume", id]);
    assert!(matches!(done.code, Some(0 | 8)), "{point}: {:?}\n{}{}", done.code, done.stdout, done.stderr);
    wait_for(&format!("{point}: the writer to run"), 30, || bench.writer_runs());
    std::thread::sleep(Duration::from_millis(50));
    bench.wait_for_records(2);
}
