//! Each of the four processes of a transfer is killed in the middle, both ways. What had arrived is not sent again.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    Case,
    world::{DIR, Run, Way, World, pids},
};

pub const CASES: &[Case] = &[
    ("push_kill_zmigrate", |w| kill(w, Way::Push, Victim::Zmigrate)),
    ("push_kill_zmigrated", |w| kill(w, Way::Push, Victim::Zmigrated)),
    ("push_kill_zfs_send", |w| kill(w, Way::Push, Victim::Send)),
    ("push_kill_zfs_receive", |w| kill(w, Way::Push, Victim::Receive)),
    ("pull_kill_zmigrate", |w| kill(w, Way::Pull, Victim::Zmigrate)),
    ("pull_kill_zmigrated", |w| kill(w, Way::Pull, Victim::Zmigrated)),
    ("pull_kill_zfs_send", |w| kill(w, Way::Pull, Victim::Send)),
    ("pull_kill_zfs_receive", |w| kill(w, Way::Pull, Victim::Receive)),
    ("kill_in_an_increment", kill_in_an_increment),
    ("pull_kill_while_the_receive_lives_on", while_the_receive_lives_on),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Zmigrate,
    Zmigrated,
    Send,
    Receive,
}

/// The window and the pipes hold 6 MiB, 5 arrive before the blow, and the rest is time for it on a busy machine.
const WHOLE: u64 = 20 << 20;

fn kill(w: &World, way: Way, victim: Victim) {
    let pair = w.pair(&format!("kill-{way:?}-{victim:?}").to_lowercase(), 20);
    w.change(&pair, "s1", 1);
    kill_and_go_on(w, way, victim, &pair);
    w.same(&pair, "s1");
    assert_eq!(w.one.holds(&pair.source), Vec::<String>::new(), "holds on the source");
    crate::basic::protected(w.two, &pair.target);
}

fn kill_in_an_increment(w: &World) {
    let pair = w.pair("kill-increment", 1);
    w.change(&pair, "s1", 1);
    w.push(&pair, "");
    w.change(&pair, "s2", 20 << 10);
    w.change(&pair, "s3", 10);
    kill_and_go_on(w, Way::Push, Victim::Zmigrate, &pair);
    w.same(&pair, "s2");
    w.same(&pair, "s3");
    assert_eq!(w.one.holds(&pair.source), Vec::<String>::new(), "holds on the source");
}

/// Somebody else has the pipe into `zfs receive` open, so it does not end with the `zmigrate` that started it: the next run waits for it.
fn while_the_receive_lives_on(w: &World) {
    let pair = w.pair("kill-lives-on", 20);
    w.change(&pair, "s1", 1);
    let (guest, args) = w.replicate(Way::Pull, &pair, "--bwlimit 1M");
    let run = w.start(guest, &args);
    w.in_flight(w.two, &pair.target, 5);
    w.two.sh(&format!("setsid sleep 8 9>/proc/$({})/fd/0 </dev/null >/dev/null 2>&1 &", pids("receive", &pair.target)));
    run.kill();
    assert!(run.join().code != 0, "the run had ended before it was killed");
    let (guest, args) = w.replicate(Way::Pull, &pair, "");
    let last = w.zmigrate(guest, &args).must_be(0);
    assert!(last.err.contains("cannot receive resume stream") && last.err.contains("trying again"), "{}", last.err);
    went_on(&last, WHOLE);
    w.same(&pair, "s1");
}

fn kill_and_go_on(w: &World, way: Way, victim: Victim, pair: &crate::world::Pair) {
    let (guest, args) = w.replicate(way, pair, "--bwlimit 1M");
    let peer = if guest == w.one { w.two } else { w.one };
    let run = w.start(guest, &args);
    // A receive that is killed loses what was not synced; the others let it end.
    w.in_flight(w.two, &pair.target, if victim == Victim::Receive { 9 } else { 5 });
    let killed = Instant::now();
    match victim {
        Victim::Zmigrate => run.kill(),
        Victim::Zmigrated => drop(peer.sh(&format!("kill -9 $(cat {DIR}/zmigrated.pid)"))),
        Victim::Send => drop(w.one.sh(&format!("kill -9 $({})", pids("send", &pair.source)))),
        Victim::Receive => drop(w.two.sh(&format!("kill -9 $({})", pids("receive", &pair.target)))),
    }
    if victim == Victim::Zmigrated {
        w.start_daemon(peer);
    }
    let first = run.join();
    let ended = killed.elapsed();
    let (guest, args) = w.replicate(way, pair, "");
    let last = if victim == Victim::Zmigrate {
        assert!(first.code != 0, "the run had ended before it was killed\n{}", first.out);
        assert!(ended < Duration::from_secs(60), "zmigrate was killed, and its ssh ended {ended:?} later");
        w.zmigrate(guest, &args).must_be(0)
    } else {
        // What survives goes on by itself.
        first.must_be(0)
    };
    went_on(&last, WHOLE);
    let (_, text) = w.replicate(way, pair, "--output text");
    let text = w.zmigrate(guest, &text).must_be(0).out;
    assert!(text.contains("up to date"), "{text}");
}

/// Fails unless a step went on where an earlier one had stopped, with less than all of it: of what is not synced nothing is promised.
#[track_caller]
pub fn went_on(run: &Run, whole_bytes: u64) {
    let resumed: Vec<&Value> = run.steps().into_iter().filter(|s| s["resumed"] == true).collect();
    assert!(resumed.len() == 1, "{} steps were resumed\n{}\n{}", resumed.len(), run.out, run.err);
    let rest = resumed[0]["raw_bytes"].as_u64().unwrap();
    eprintln!("lab:   of {whole_bytes} bytes the rest had {rest}");
    assert!(rest > 0 && rest < whole_bytes * 95 / 100, "of {whole_bytes} bytes {rest} were sent again\n{}", run.out);
}
