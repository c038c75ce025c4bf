//! What is left in ZFS between runs: holds and bookmarks of the job, and no more of them than are needed.

use serde_json::Value;

use crate::{
    Case,
    world::{Pair, Way, World},
};

pub const CASES: &[Case] = &[
    ("holds_and_bookmarks", holds_and_bookmarks),
    ("from_a_bookmark", from_a_bookmark),
    ("two_targets_share_nothing", two_targets_share_nothing),
];

/// The job's id, as the target bears it.
#[track_caller]
fn job(w: &World, pair: &Pair) -> String {
    w.two.get(&pair.target, "zmigrate:job")
}

/// Fails unless the source keeps one bookmark, of `tag`, and the target holds `tag` alone.
#[track_caller]
fn kept(w: &World, pair: &Pair, tag: &str) {
    let job = job(w, pair);
    let guid = w.two.get(&format!("{}@{tag}", pair.target), "guid");
    assert_eq!(w.one.bookmarks(&pair.source), [format!("{}#zmigrate:{job}:{guid}", pair.source)]);
    assert_eq!(w.one.holds(&pair.source), Vec::<String>::new(), "holds on the source");
    assert_eq!(w.two.holds(&pair.target), [format!("{}@{tag} zmigrate:{job}", pair.target)]);
}

fn holds_and_bookmarks(w: &World) {
    let pair = w.pair("holds", 12);
    w.change(&pair, "s1", 1);
    let (guest, args) = w.replicate(Way::Push, &pair, "--bwlimit 2M");
    let run = w.start(guest, &args);
    w.in_flight(w.two, &pair.target, 0);
    let during = w.one.holds(&pair.source);
    // A hold is what keeps a snapshot from being destroyed in the middle of a step.
    let destroyed = w.one.ask(&format!("zfs destroy {}@s1", pair.source));
    run.join().must_be(0);
    assert!(destroyed.code != 0, "the snapshot could be destroyed while it was sent");
    assert_eq!(during, [format!("{}@s1 zmigrate:{}", pair.source, job(w, &pair))]);
    kept(w, &pair, "s1");
    // Both ends of an incremental step are held.
    w.change(&pair, "s2", 12 << 10);
    let run = w.start(guest, &args);
    w.in_flight(w.two, &pair.target, 0);
    // The receive begins first, and then the holds are put.
    let mut during = w.one.holds(&pair.source);
    while during.len() < 2 && !run.is_over() {
        during = w.one.holds(&pair.source);
    }
    run.join().must_be(0);
    assert_eq!(during.len(), 2, "{during:?}");
    kept(w, &pair, "s2");
    w.change(&pair, "s3", 10);
    w.change(&pair, "s4", 10);
    w.push(&pair, "");
    kept(w, &pair, "s4");
    w.push(&pair, "");
    kept(w, &pair, "s4");
}

fn from_a_bookmark(w: &World) {
    let pair = w.pair("bookmark", 4);
    w.change(&pair, "s1", 10);
    w.push(&pair, "");
    w.one.sh(&format!("zfs destroy {}@s1", pair.source));
    w.change(&pair, "s2", 300);
    let bookmark = w.one.bookmarks(&pair.source);
    let run = w.push(&pair, "");
    assert_eq!(run.steps().iter().filter_map(|s| s["from"].as_str()).collect::<Vec<_>>(), bookmark, "{}", run.out);
    w.same(&pair, "s2");
    kept(w, &pair, "s2");
    // And once more, the other way of asking.
    w.one.sh(&format!("zfs destroy {}@s2", pair.source));
    w.change(&pair, "s3", 300);
    let (guest, args) = w.replicate(Way::Pull, &pair, "");
    let run = w.zmigrate(guest, &args).must_be(0);
    assert!(run.steps()[0]["from"].as_str().is_some_and(|from| from.contains("#zmigrate:")), "{}", run.out);
    w.same(&pair, "s3");
    kept(w, &pair, "s3");
}

fn two_targets_share_nothing(w: &World) {
    let first = w.pair("twice", 2);
    w.change(&first, "s1", 10);
    let second = Pair { source: first.source.clone(), target: "tank/dst/twice-too".into() };
    w.push(&first, "");
    w.push(&second, "");
    assert_eq!(w.one.bookmarks(&first.source).len(), 2);
    assert_ne!(job(w, &first), job(w, &second));
    w.change(&first, "s2", 10);
    w.push(&first, "");
    w.one.sh(&format!("zfs destroy {}@s1", first.source));
    // The second target still has its own base.
    let run = w.push(&second, "");
    assert!(run.steps()[0]["from"].as_str().is_some_and(|from| from.contains('#')), "{}", run.out);
    assert_eq!(run.report["exit_code"], Value::from(0));
    w.same(&second, "s2");
}
