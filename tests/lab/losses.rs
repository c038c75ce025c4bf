//! What is lost for good: the snapshot of an interrupted transfer, the power of the target.

use std::time::Duration;

use crate::{
    Case,
    kills::went_on,
    world::{Way, World},
};

pub const CASES: &[Case] = &[
    ("resumed_run_says_so", resumed_run_says_so),
    ("dead_token_is_thrown_away", dead_token_is_thrown_away),
    ("power_cut_of_the_target", power_cut_of_the_target),
];

fn interrupt(w: &World, pair: &crate::world::Pair) {
    let (guest, args) = w.replicate(Way::Push, pair, "--bwlimit 1M");
    let run = w.start(guest, &args);
    w.in_flight(w.two, &pair.target, 5);
    run.kill();
    assert!(run.join().code != 0);
}

fn resumed_run_says_so(w: &World) {
    let pair = w.pair("says-so", 20);
    w.change(&pair, "s1", 1);
    interrupt(w, &pair);
    let (guest, args) = w.replicate(Way::Push, &pair, "-n --output text");
    // The first receive is still saving its state: what a dry run shows then may be either.
    std::thread::sleep(Duration::from_secs(2));
    let run = w.zmigrate(guest, &args);
    eprintln!("lab:   a dry run in between: {}", run.out.trim());
    let (guest, args) = w.replicate(Way::Push, &pair, "--output text");
    let text = w.zmigrate(guest, &args).must_be(0).out;
    assert!(text.contains("went on where an earlier run stopped"), "{text}");
    w.same(&pair, "s1");
}

fn dead_token_is_thrown_away(w: &World) {
    let pair = w.pair("dead-token", 20);
    w.change(&pair, "s1", 1);
    interrupt(w, &pair);
    let source = &pair.source;
    // The hold is there to prevent this.
    assert!(
        w.one.ask(&format!("zfs destroy {source}@s1")).code != 0,
        "the snapshot of an interrupted step is not held"
    );
    let tag = w.one.holds(source)[0].split(' ').nth(1).unwrap().to_owned();
    w.one.until(
        Duration::from_secs(20),
        &format!("if zfs release {tag} {source}@s1; then :; fi; zfs destroy {source}@s1"),
    );
    w.change(&pair, "s2", 10);
    let run = w.push(&pair, "");
    assert!(run.notes().contains("was thrown away: its snapshot tank/src/dead-token@s1 (GUID "), "{}", run.out);
    assert_eq!(run.steps().len(), 1);
    assert!(run.steps()[0]["resumed"] == false && run.steps()[0]["from"].is_null(), "{}", run.out);
    w.same(&pair, "s2");
    // The same with a target that has a snapshot already.
    w.change(&pair, "s3", 20 << 10);
    interrupt(w, &pair);
    w.one.until(
        Duration::from_secs(20),
        &format!("if zfs release {tag} {source}@s3; then :; fi; zfs destroy {source}@s3"),
    );
    w.change(&pair, "s4", 10);
    let run = w.push(&pair, "");
    assert!(run.notes().contains("was thrown away"), "{}", run.out);
    w.same(&pair, "s4");
}

fn power_cut_of_the_target(w: &World) {
    let pair = w.pair("power", 24);
    w.change(&pair, "s1", 1);
    let (guest, args) = w.replicate(Way::Push, &pair, "--bwlimit 1M");
    let run = w.start(guest, &args);
    // What has been synced survives, and no more is promised.
    w.in_flight(w.two, &pair.target, 6);
    w.two.lab("crash", &[]);
    w.two.lab("boot", &[]);
    w.two.sh("zpool list tank >/dev/null 2>&1 || zpool import -f tank");
    w.start_daemon(w.two);
    let first = run.join();
    let last = if first.code == 0 {
        eprintln!("lab:   the run outlived the power cut");
        first
    } else {
        eprintln!("lab:   the run ended with {}: {}", first.code, first.err);
        w.push(&pair, "")
    };
    went_on(&last, 24 << 20);
    w.same(&pair, "s1");
    crate::basic::protected(w.two, &pair.target);
}
