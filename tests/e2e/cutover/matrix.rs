//! The crash matrix: the process that leads, the peer's daemon, and both of them end as by `kill -9` before and after each record and
//! each action, in both directions; then all is started again and resumed. Exactly one side serves then, with every record; where it is
//! rolled back, both are as they were.

use std::time::Duration;

use rustix::process::Signal;

use super::{
    bench::{Bench, json},
    given_back::Before,
    points::{CATCH_UP, LEAD, SOURCE, TARGET, chosen},
};
use crate::{
    Case, cases,
    process::{Running, wait_for},
};

pub fn cases() -> Vec<Case> {
    cases![
        crashes_of_the_leader_on_the_way_there,
        crashes_of_the_daemon_on_the_way_there,
        crashes_of_the_leader_on_the_way_back,
        crashes_of_the_daemon_on_the_way_back,
        crashes_of_both_on_the_way_there,
        crashes_of_both_on_the_way_back,
    ]
}

/// Who meets a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The process that leads, and is one host's part as well; the other's goes on.
    Leader,
    /// The peer's daemon, which is the other host's part; the leader goes on.
    Daemon,
    /// The leader, and the daemon with it.
    LeaderAndDaemon,
    /// The daemon, and the leader with it.
    DaemonAndLeader,
}

impl Who {
    /// Whether it is the leader that meets the point.
    pub fn leads(self) -> bool {
        matches!(self, Who::Leader | Who::LeaderAndDaemon)
    }
}

fn crashes_of_the_leader_on_the_way_there() {
    there(&chosen("leader, there", &[LEAD, CATCH_UP].concat(), 4), Who::Leader);
    there(&chosen("leader as source, there", SOURCE, 4), Who::Leader);
}

fn crashes_of_the_daemon_on_the_way_there() {
    there(&chosen("daemon, there", TARGET, 4), Who::Daemon);
}

fn crashes_of_the_leader_on_the_way_back() {
    back(&chosen("leader, back", LEAD, 4), Who::Leader);
    back(&chosen("leader as target, back", TARGET, 4), Who::Leader);
}

fn crashes_of_the_daemon_on_the_way_back() {
    back(&chosen("daemon, back", SOURCE, 4), Who::Daemon);
}

fn crashes_of_both_on_the_way_there() {
    there(&chosen("leader and daemon, there", &[LEAD, SOURCE].concat(), 2), Who::LeaderAndDaemon);
    there(&chosen("daemon and leader, there", TARGET, 2), Who::DaemonAndLeader);
}

fn crashes_of_both_on_the_way_back() {
    back(&chosen("leader and daemon, back", &[LEAD, TARGET].concat(), 2), Who::LeaderAndDaemon);
    back(&chosen("daemon and leader, back", SOURCE, 2), Who::DaemonAndLeader);
}

/// Each point with a unit that is at east, so that the leader is the source's host as well.
fn there(points: &[&str], who: Who) {
    let mut bench = Bench::new();
    for point in points {
        bench.write();
        let before = Before::going_there(&bench);
        crash(&mut bench, point, who, |bench, environment| bench.start_with(&["--tries", "5"], environment));
        let id = bench.status()["id"].as_str().unwrap().to_owned();
        let moved = settle(&bench, point, &id, &before);
        bench.stop_writing();
        assert_eq!(bench.assert_one_side_has_it_all(), moved, "{point}: west serves if it is done");
        bench.afresh();
    }
}

/// Each point with a unit that is at west: the leader is the target's host as well, and the daemon the source's.
fn back(points: &[&str], who: Who) {
    let mut bench = Bench::new();
    bench.write();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    for point in points {
        let before = Before::going_back(&bench);
        // The first leg of the way back is number two, so what the first one passed does not count.
        crash(&mut bench, point, who, |bench, environment| {
            bench.site.start_with(&["cutover", "back", &id, "--output", "json"], environment)
        });
        let moved = settle(&bench, point, &id, &before);
        assert_eq!(!bench.assert_one_side_has_it_all(), moved, "{point}: east serves if it is done");
        if moved {
            json(&bench.cutover(&["back", &id]).must(0));
            assert!(bench.assert_one_side_has_it_all(), "{point}: at west again");
        }
    }
    bench.stop_writing();
}

/// Runs into the crash, and starts again the daemon if it is down. A leader that was not struck has ended by itself.
#[track_caller]
pub fn crash(bench: &mut Bench, point: &str, who: Who, start: impl FnOnce(&Bench, &[(&str, &str)]) -> Running) {
    let since = std::time::Instant::now();
    let crash_at = [("ZMIGRATE_CRASH_AT", point)];
    if who.leads() {
        let done = start(bench, &crash_at).wait(120);
        if who == Who::LeaderAndDaemon {
            bench.site.bury_daemon();
        }
        assert_eq!(done.code, None, "{point} was not passed:\n{}{}", done.stdout, done.stderr);
        bench.assert_not_two_sides();
        if who == Who::LeaderAndDaemon {
            bench.site.start_daemon();
        }
    } else {
        bench.site.bury_daemon();
        bench.site.daemon_environment = vec![("ZMIGRATE_CRASH_AT".into(), point.into())];
        bench.site.start_daemon();
        let running = start(bench, &[]);
        wait_for(&format!("the daemon to end at {point}"), 60, || !bench.site.daemon_lives());
        if who == Who::DaemonAndLeader {
            running.signal(Signal::KILL);
        }
        bench.assert_not_two_sides();
        bench.site.bury_daemon();
        bench.site.daemon_environment.clear();
        bench.site.start_daemon();
        drop(running.wait(120));
    }
    eprintln!("crashes: {who:?} at {point}: {:.1} s", since.elapsed().as_secs_f64());
}

/// Goes on to the end. Returns whether it is done; else it is rolled back, with both sides as they were before.
#[track_caller]
fn settle(bench: &Bench, point: &str, id: &str, before: &Before) -> bool {
    let done = bench.cutover(&["resume", id]);
    assert!(matches!(done.code, Some(0 | 8)), "{point}: {:?}\n{}{}", done.code, done.stdout, done.stderr);
    serves(bench, point);
    if done.code == Some(8) {
        eprintln!("crashes: {point}: rolled back");
        before.must_be_back(point);
    }
    done.code == Some(0)
}

/// Waits until the writer runs on whichever side serves, and has acknowledged some more.
#[track_caller]
pub fn serves(bench: &Bench, point: &str) {
    wait_for(&format!("{point}: the writer to run"), 30, || bench.writer_runs());
    std::thread::sleep(Duration::from_millis(50));
    bench.wait_for_records(2);
}
