//! What may come in any phase: the link is cut or falls silent, a person thinks better of it. The leader waits at a point in each phase, when
//! nothing of that phase is begun, until the trouble is there.

use std::{fs, path::PathBuf, thread::sleep, time::Duration};

use rustix::process::Signal;

use super::bench::{Bench, is_writable, json, settings};
use crate::{
    Case, cases,
    process::{Running, wait_for},
    proxy::Proxy,
};

pub fn cases() -> Vec<Case> {
    cases![
        the_link_is_cut_in_each_phase,
        the_link_falls_silent,
        an_abort_in_each_phase,
        an_abort_that_reaches_the_target_first,
        an_abort_that_reaches_the_target_too_late,
    ]
}

/// What an abort comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abort {
    RollsBack,
    /// The target takes whichever reaches it first.
    Races,
    IsTooLate,
}

/// A point in each phase, in their order.
const PHASES: [(&str, Abort); 12] = [
    ("lead:after:passing", Abort::RollsBack),
    ("lead:after:catch_up", Abort::RollsBack),
    ("lead:after:arm", Abort::RollsBack),
    ("lead:after:arm@2", Abort::RollsBack),
    ("lead:after:quiesce", Abort::RollsBack),
    ("lead:after:fence", Abort::RollsBack),
    ("lead:after:final", Abort::RollsBack),
    ("lead:after:sync", Abort::RollsBack),
    ("lead:after:verify", Abort::RollsBack),
    ("lead:after:promote", Abort::Races),
    ("lead:after:activate", Abort::IsTooLate),
    ("lead:after:release", Abort::IsTooLate),
];

/// Where it waits is there as long as this file is.
fn pause_file(bench: &Bench) -> PathBuf {
    bench.site.dir.join("pause")
}

/// The environment of a process that waits at a point.
fn pause(bench: &Bench, point: &str) -> [(&'static str, String); 2] {
    let file = pause_file(bench);
    fs::write(&file, "").unwrap();
    [("ZMIGRATE_PAUSE_AT", point.to_owned()), ("ZMIGRATE_PAUSE_FILE", file.display().to_string())]
}

pub fn go_on(bench: &Bench) {
    fs::remove_file(pause_file(bench)).unwrap();
}

/// What a process logs when it waits there.
fn waits_at(point: &str) -> String {
    format!("waits at {}", point.split('@').next().unwrap())
}

/// Starts a cutover whose leader waits at a point, and comes there.
#[track_caller]
pub fn held_at(bench: &Bench, point: &str, more: &[&str]) -> Running {
    let environment = pause(bench, point);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut running = bench.start_with(more, &environment);
    wait_for(&format!("the leader to come to {point}"), 60, || {
        assert!(!running.has_ended(), "{point} was not passed:\n{}", running.stderr());
        running.stderr().contains(&waits_at(point))
    });
    running
}

pub fn id_of(bench: &Bench) -> String {
    bench.status()["id"].as_str().unwrap().to_owned()
}

/// Says abort to the leader, who has it before he does anything else.
#[track_caller]
pub fn abort_now(bench: &Bench, id: &str) -> Running {
    let door = bench.site.dir.join(format!("east.state/cutover/lead-{id}.sock")).display().to_string();
    let abort = bench.site.start(&["cutover", "abort", id, "--output", "json"]);
    // The door itself is one, and who came in another.
    let knocks = || fs::read_to_string("/proc/net/unix").unwrap().lines().filter(|line| line.ends_with(&door)).count();
    wait_for("a word at the door", 30, || knocks() > 1);
    // One line, which is written at once.
    sleep(Duration::from_millis(200));
    abort
}

/// A bench whose link a trial can break, which is noticed after a few seconds.
fn with_proxy() -> (Bench, Proxy) {
    let mut bench = Bench::new();
    bench.site.limits.push_str("\nidle_timeout_s = 5\nlink_lost_after_s = 60");
    let proxy = Proxy::to(bench.site.port, &[]);
    let grants = format!("{}cutover = [\"{}/in\"]\n", bench.site.default_grant(), bench.site.west);
    bench.site.write_configs(&grants, Some(proxy.port));
    bench.site.signal_daemon(Signal::TERM);
    bench.site.reap_daemon(20);
    bench.site.start_daemon();
    (bench, proxy)
}

/// One side serves, with every record; true if that is west.
#[track_caller]
fn serves_well(bench: &mut Bench, point: &str) -> bool {
    wait_for(&format!("{point}: the writer to run"), 30, || bench.writer_runs());
    bench.wait_for_records(2);
    bench.stop_writing();
    bench.assert_one_side_has_it_all()
}

fn the_link_is_cut_in_each_phase() {
    let (mut bench, proxy) = with_proxy();
    for (point, _) in PHASES {
        bench.write();
        let running = held_at(&bench, point, &["--tries", "5"]);
        let cut = proxy.cut_now();
        go_on(&bench);
        // It goes on by itself.
        let result = json(&running.wait(120).must(0));
        assert_eq!(result["result"], "done", "{point}");
        // The first pass connects once it is begun.
        assert!(cut > 0 || point == PHASES[0].0, "{point}: there was nothing to cut");
        assert!(serves_well(&mut bench, point), "{point}: west serves");
        bench.afresh();
    }
}

fn the_link_falls_silent() {
    let (mut bench, proxy) = with_proxy();
    for point in ["lead:after:quiesce", "lead:after:sync", "lead:after:promote"] {
        bench.write();
        let running = held_at(&bench, point, &["--tries", "5"]);
        proxy.silence();
        go_on(&bench);
        assert_eq!(json(&running.wait(120).must(0))["result"], "done", "{point}");
        assert!(serves_well(&mut bench, point), "{point}: west serves");
        bench.afresh();
    }
}

fn an_abort_in_each_phase() {
    let mut bench = Bench::new();
    for (point, comes_to) in PHASES {
        let before = settings(&bench.east());
        bench.write();
        let running = held_at(&bench, point, &[]);
        let id = id_of(&bench);
        let abort = abort_now(&bench, &id);
        go_on(&bench);
        let (aborted, ended) = (abort.wait(120), running.wait(120));
        let is_done = serves_well(&mut bench, point);
        let said = format!("{point}: {aborted:?}\n{}", ended.stderr);
        match comes_to {
            Abort::RollsBack => assert!(!is_done, "{said}"),
            Abort::Races => {}
            Abort::IsTooLate => assert!(is_done, "{said}"),
        }
        // Too late is said, and changes nothing.
        let (codes, result) = if is_done { ((Some(3), Some(0)), "done") } else { ((Some(0), Some(8)), "rolled_back") };
        assert_eq!((aborted.code, ended.code), codes, "{said}");
        assert_eq!(json(&ended)["result"], result, "{said}");
        if !is_done {
            assert_eq!(settings(&bench.east()), before, "{point}: values and their sources are what they were");
        }
        bench.afresh();
    }
}

/// Nobody has asked the target to promote when the leader dies, so the abort is what it hears first.
fn an_abort_that_reaches_the_target_first() {
    let mut bench = Bench::new();
    let before = settings(&bench.east());
    bench.write();
    let died = bench.start_with(&[], &[("ZMIGRATE_CRASH_AT", "lead:after:promote")]).wait(120);
    assert_eq!(died.code, None, "{}", died.stderr);
    assert!(!is_writable(&bench.east()) && !is_writable(&bench.west()));
    let id = id_of(&bench);
    assert_eq!(json(&bench.cutover(&["abort", &id]).must(0))["result"], "rolled_back");
    assert!(!serves_well(&mut bench, "promote"), "east serves");
    assert_eq!(settings(&bench.east()), before);
}

/// The target has decided, and could not say so yet, when the abort comes.
fn an_abort_that_reaches_the_target_too_late() {
    for point in ["host:before:promoted", "host:after:promoted"] {
        let mut bench = Bench::new();
        bench.write();
        bench.site.bury_daemon();
        bench.site.daemon_environment = pause(&bench, point).map(|(name, value)| (name.to_owned(), value)).into();
        bench.site.start_daemon();
        let running = bench.start(&[]);
        wait_for(&format!("the target to come to {point}"), 60, || bench.site.log().contains(&waits_at(point)));
        assert!(!is_writable(&bench.east()) && !is_writable(&bench.west()));
        let abort = bench.site.start(&["cutover", "abort", &id_of(&bench), "--output", "json"]);
        wait_for("the leader to roll back", 30, || running.stderr().contains(": rolling back"));
        go_on(&bench);
        abort.wait(120).must(3);
        assert_eq!(json(&running.wait(120).must(0))["result"], "done", "{point}");
        assert!(serves_well(&mut bench, point), "west serves");
    }
}
