//! The crash matrix of all that is not the way forward: both kinds of rollback, a leg that is barred, what holds, what returns by itself,
//! a source that is destroyed, a fence that is broken. Each ends as it would have without the crash.

use super::{
    bench::{Bench, is_writable, json, settings},
    given_back::Before,
    matrix::{Who, crash, serves},
    phases::id_of,
    points::{
        BARS, DAEMON_RETURNS, HOLDS, LEAD_BREAKS, LEAD_DISCARDS, LEAD_RETURNS, LEAD_UNFENCES, LEAD_WITHDRAWS,
        SOURCE_DISCARDS, SOURCE_UNFENCES, SOURCE_WITHDRAWS, TARGET_SETTLES, chosen,
    },
};
use crate::{
    Case, cases,
    process::wait_for,
    site::Site,
    zfs::{exists, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        crashes_while_a_fenced_source_is_given_back,
        crashes_while_a_fenced_source_is_given_back_at_the_peer,
        crashes_while_a_source_whose_writers_did_not_stop_is_left,
        crashes_while_what_never_began_is_barred,
        crashes_while_it_holds,
        crashes_while_it_returns_by_itself,
        crashes_while_the_source_is_destroyed,
        crashes_while_a_fence_is_broken,
    ]
}

/// Both hosts' `zfs` sends no final snapshot while there is a file `no-final`, but for those that it names.
const NO_FINAL: &str = "last=${@: -1}\n\
    if [ -e $DIR/no-final ] && [ \"$1\" = send ] && [[ $last == *_final_* ]] && ! grep -qxF \"$last\" $DIR/no-final; then\n\
    echo 'no final snapshot today' >&2; exit 1\nfi\nexec zfs \"$@\"\n";

/// A bench on which a new final snapshot cannot be sent once [`no_more_finals`] was said.
fn without_final() -> Bench {
    let site = Site::quiet();
    let more = site.wrapped_zfs("no-final-zfs", NO_FINAL);
    Bench::with(site, "app", &more)
}

/// What is there by now may be sent, as what an earlier leg left is part of a pass.
fn no_more_finals(bench: &Bench) {
    let all = zfs(&["list", "-H", "-t", "snapshot", "-o", "name"]);
    std::fs::write(bench.site.dir.join("no-final"), all).unwrap();
}

/// It ends rolled back, whether that needed `resume` or not.
#[track_caller]
fn ends_rolled_back(bench: &Bench, point: &str, id: &str) {
    let done = bench.cutover(&["resume", id]);
    assert_eq!(done.code, Some(8), "{point}:\n{}{}", done.stdout, done.stderr);
    assert_eq!(json(&done)["result"], "rolled_back", "{point}");
    serves(bench, point);
}

/// Rollbacks of the way there: east is given back.
fn undone(bench: &mut Bench, points: &[&str], who: Who) {
    for point in points {
        // What counts is not the default.
        zfs(&["set", "readonly=off", &bench.east()]);
        bench.write();
        let before = Before::going_there(bench);
        crash(bench, point, who, |bench, environment| bench.start_with(&["--tries", "2"], environment));
        ends_rolled_back(bench, point, &id_of(bench));
        bench.stop_writing();
        assert!(!bench.assert_one_side_has_it_all(), "{point}: east serves");
        before.must_be_back(point);
        bench.afresh();
    }
}

fn crashes_while_a_fenced_source_is_given_back() {
    let mut bench = without_final();
    no_more_finals(&bench);
    let source = [LEAD_UNFENCES, SOURCE_UNFENCES].concat();
    undone(&mut bench, &chosen("leader, unfencing", LEAD_UNFENCES, 2), Who::Leader);
    undone(&mut bench, &chosen("leader as source, unfencing", SOURCE_UNFENCES, 2), Who::Leader);
    undone(&mut bench, &chosen("daemon, unfencing", TARGET_SETTLES, 2), Who::Daemon);
    undone(&mut bench, &chosen("leader and daemon, unfencing", &source, 1), Who::LeaderAndDaemon);
    undone(&mut bench, &chosen("daemon and leader, unfencing", TARGET_SETTLES, 1), Who::DaemonAndLeader);
}

/// A way home that is rolled back: west stays what serves, and can be left later.
fn crashes_while_a_fenced_source_is_given_back_at_the_peer() {
    let mut bench = without_final();
    bench.write();
    let id = json(&bench.start(&["--tries", "2"]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    let target = [LEAD_UNFENCES, TARGET_SETTLES].concat();
    for (points, who) in [
        (chosen("leader, unfencing the peer", LEAD_UNFENCES, 1), Who::Leader),
        (chosen("leader as target, unfencing the peer", TARGET_SETTLES, 1), Who::Leader),
        (chosen("daemon, unfencing the peer", SOURCE_UNFENCES, 2), Who::Daemon),
        (chosen("leader and daemon, unfencing the peer", &target, 1), Who::LeaderAndDaemon),
        (chosen("daemon and leader, unfencing the peer", SOURCE_UNFENCES, 1), Who::DaemonAndLeader),
    ] {
        for point in points {
            no_more_finals(&bench);
            let before = Before::going_back(&bench);
            crash(&mut bench, point, who, |bench, environment| {
                bench.site.start_with(&["cutover", "back", &id, "--output", "json"], environment)
            });
            ends_rolled_back(&bench, point, &id);
            assert!(bench.assert_one_side_has_it_all(), "{point}: west serves");
            before.must_be_back(point);
        }
    }
    std::fs::remove_file(bench.site.dir.join("no-final")).unwrap();
    json(&bench.cutover(&["back", &id]).must(0));
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all(), "east serves again");
}

fn crashes_while_a_source_whose_writers_did_not_stop_is_left() {
    let mut bench = Bench::new();
    let script = bench.site.dir.join("stop.sh");
    let stop = std::fs::read_to_string(&script).unwrap();
    // A person who stops it is no hook.
    std::fs::write(&script, stop.replacen('\n', "\n[ -z \"$ZMIGRATE_DATASETS\" ] || exit 3\n", 1)).unwrap();
    let source = [LEAD_WITHDRAWS, SOURCE_WITHDRAWS].concat();
    undone(&mut bench, &chosen("leader, withdrawing", LEAD_WITHDRAWS, 2), Who::Leader);
    undone(&mut bench, &chosen("leader as source, withdrawing", SOURCE_WITHDRAWS, 2), Who::Leader);
    undone(&mut bench, &chosen("daemon, withdrawing", TARGET_SETTLES, 1), Who::Daemon);
    undone(&mut bench, &chosen("leader and daemon, withdrawing", &source, 1), Who::LeaderAndDaemon);
    undone(&mut bench, &chosen("daemon and leader, withdrawing", TARGET_SETTLES, 1), Who::DaemonAndLeader);
}

/// The leader dies before any host was asked, and a person aborts it; each host sees to it that this leg never begins.
fn crashes_while_what_never_began_is_barred() {
    let mut bench = Bench::new();
    for who in [Who::Leader, Who::Daemon, Who::LeaderAndDaemon, Who::DaemonAndLeader] {
        for point in chosen(&format!("{who:?}, barring"), BARS, 1) {
            bench.write();
            let before = Before::going_there(&bench);
            let died = bench.start_with(&[], &[("ZMIGRATE_CRASH_AT", "lead:after:arm")]).wait(120);
            assert_eq!(died.code, None, "{}", died.stderr);
            let id = id_of(&bench);
            crash(&mut bench, point, who, |bench, environment| {
                bench.site.start_with(&["cutover", "abort", &id, "--output", "json"], environment)
            });
            ends_rolled_back(&bench, point, &id);
            before.must_be_back(point);
            // It can be begun again.
            json(&bench.start(&[]).wait(120).must(0));
            bench.stop_writing();
            assert!(bench.assert_one_side_has_it_all(), "{point}: west serves");
            bench.afresh();
        }
    }
}

fn crashes_while_it_holds() {
    let mut bench = Bench::new();
    for point in chosen("leader, holding", HOLDS, 2) {
        bench.write();
        let mut running = bench.start_with(&["--hold"], &[("ZMIGRATE_CRASH_AT", point)]);
        let mut went = None;
        // The second time it is armed by a word, which is the only one.
        if point.ends_with("@2") || point.ends_with("said") {
            wait_for("all to be ready", 60, || running.has_ended() || running.stderr().contains("all is ready"));
            went = Some(bench.site.start(&["cutover", "go", &id_of(&bench), "--output", "json"]));
        }
        let done = running.wait(120);
        assert_eq!(done.code, None, "{point} was not passed:\n{}{}", done.stdout, done.stderr);
        bench.assert_not_two_sides();
        if let Some(went) = went {
            // Whose leader is gone leads itself.
            assert!(matches!(went.wait(120).code, Some(0 | 75)), "{point}");
        }
        let id = id_of(&bench);
        let mut resumed = bench.site.start(&["cutover", "resume", &id, "--output", "json"]);
        wait_for(&format!("{point}: it to hold, or to end"), 60, || {
            resumed.has_ended() || bench.status()["needs"].as_str().is_some_and(|needs| needs.contains("cutover go"))
        });
        if !resumed.has_ended() {
            bench.cutover(&["go", &id]).must(0);
        }
        assert_eq!(json(&resumed.wait(120).must(0))["result"], "done", "{point}");
        serves(&bench, point);
        bench.stop_writing();
        assert!(bench.assert_one_side_has_it_all(), "{point}: west serves");
        bench.afresh();
    }
}

/// The target is promoted, does not come up, and is left again; at the end east serves as it did, or one clear question is asked.
fn crashes_while_it_returns_by_itself() {
    let mut bench = Bench::new();
    let start = bench.site.dir.join("start-west.sh");
    std::fs::write(&start, "#!/bin/bash\necho will not\nexit 1\n").unwrap();
    // What has been away serves by the leg that brought it home.
    let own = |bench: &Bench| -> Vec<String> {
        settings(&bench.east()).into_iter().filter(|line| !line.contains(" zmigrate:serving ")).collect()
    };
    for (points, who) in [
        (chosen("leader, returning", LEAD_RETURNS, 2), Who::Leader),
        (chosen("daemon, returning", DAEMON_RETURNS, 2), Who::Daemon),
        (chosen("leader and daemon, returning", LEAD_RETURNS, 1), Who::LeaderAndDaemon),
        (chosen("daemon and leader, returning", DAEMON_RETURNS, 1), Who::DaemonAndLeader),
    ] {
        for point in points {
            bench.write();
            let before = own(&bench);
            let more = ["--tries", "2", "--on-activate-failure", "return"];
            crash(&mut bench, point, who, |bench, environment| bench.start_with(&more, environment));
            ends_rolled_back(&bench, point, &id_of(&bench));
            bench.stop_writing();
            assert!(!bench.assert_one_side_has_it_all(), "{point}: east serves again");
            assert_eq!(own(&bench), before, "{point}: as it was");
            // A peer keeps a place for each leader that died, for a while, and has a limited number of them.
            bench.site.bury_daemon();
            bench.forget_the_unit_at_west();
            bench.site.start_daemon();
            bench.afresh();
        }
    }
}

/// Destroyed is what was left, and nothing else, however often it was begun.
fn crashes_while_the_source_is_destroyed() {
    let mut bench = Bench::new();
    for (points, who, at_west) in [
        (chosen("leader, destroying", LEAD_DISCARDS, 1), Who::Leader, false),
        (chosen("leader as source, destroying", SOURCE_DISCARDS, 2), Who::Leader, false),
        (chosen("daemon, destroying", SOURCE_DISCARDS, 2), Who::Daemon, true),
        (chosen("daemon and leader, destroying", SOURCE_DISCARDS, 1), Who::DaemonAndLeader, true),
    ] {
        for point in points {
            bench.write();
            let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
            if at_west {
                json(&bench.cutover(&["back", &id]).must(0));
            }
            crash(&mut bench, point, who, |bench, environment| {
                bench.site.start_with(&["cutover", "complete", &id, "--output", "json"], environment)
            });
            let verb = if bench.status()["phase"] == "done" { "complete" } else { "resume" };
            assert_eq!(json(&bench.cutover(&[verb, &id]).must(0))["result"], "completed", "{point}");
            let (left, serving) = if at_west { (bench.west(), bench.east()) } else { (bench.east(), bench.west()) };
            assert!(!exists(&left) && is_writable(&serving), "{point}");
            serves(&bench, point);
            bench.stop_writing();
            assert_eq!(bench.assert_one_side_has_it_all(), !at_west, "{point}");
            bench.afresh();
        }
    }
}

fn crashes_while_a_fence_is_broken() {
    let mut bench = Bench::new();
    let points = [chosen("leader, breaking", LEAD_BREAKS, 2), chosen("leader as source, breaking", SOURCE_UNFENCES, 2)];
    for point in points.concat() {
        bench.write();
        let before = settings(&bench.east());
        let died = bench.start_with(&[], &[("ZMIGRATE_CRASH_AT", "lead:after:sync")]).wait(120);
        assert_eq!(died.code, None, "{}", died.stderr);
        bench.site.bury_daemon();
        let id = id_of(&bench);
        let word = ["break", &id, "--i-have-destroyed-the-target"];
        crash(&mut bench, point, Who::Leader, |bench, environment| {
            bench.site.start_with(&[&["cutover"], &word[..], &["--output", "json"]].concat(), environment)
        });
        let begun = bench.status()["phase"].as_str().is_some_and(|phase| phase.starts_with("br"));
        let done = if begun { bench.cutover(&["resume", &id]) } else { bench.cutover(&word) };
        assert_eq!(json(&done)["result"], "broken", "{point}: {done:?}");
        assert_eq!(settings(&bench.east()), before, "{point}: as it was");
        serves(&bench, point);
        bench.stop_writing();
        assert!(!bench.assert_one_side_has_it_all(), "{point}: east serves");
        bench.site.start_daemon();
        bench.afresh();
    }
}
