//! What is not done without being asked, and what is refused.

use crate::{
    Case,
    world::{Way, World},
};

pub const CASES: &[Case] = &[
    ("dry_run_shows_sizes_and_changes_nothing", dry_run_shows_sizes_and_changes_nothing),
    ("diverged_is_refused_and_rolled_back_on_request", diverged_is_refused_and_rolled_back_on_request),
    ("modified_is_refused_and_rolled_back_on_request", modified_is_refused_and_rolled_back_on_request),
    ("a_source_that_went_back_takes_its_target_along", a_source_that_went_back_takes_its_target_along),
    ("what_is_not_granted_is_refused", what_is_not_granted_is_refused),
    ("one_run_at_a_time", one_run_at_a_time),
];

/// All that a run could change at and below a dataset: datasets, snapshots, bookmarks, holds, user properties.
fn state(dataset: &str) -> String {
    format!("zfs list -Hp -r -t all -o name,guid,userrefs,readonly,zmigrate:job {dataset}")
}

fn dry_run_shows_sizes_and_changes_nothing(w: &World) {
    let pair = w.pair("dry", 8);
    w.change(&pair, "s1", 100);
    w.change(&pair, "s2", 3000);
    let before = (w.one.sh(&state("tank")), w.two.sh(&state("tank")));
    let run = w.push(&pair, "-n");
    assert_eq!(run.report["result"], "planned", "{}", run.out);
    let sizes: Vec<u64> = run.report["plan_sizes"].as_array().unwrap().iter().filter_map(|s| s.as_u64()).collect();
    let near = |bytes: u64, mib: u64| bytes > (mib << 20) && bytes < ((mib + 3) << 20);
    assert!(matches!(sizes[..], [full, more] if near(full, 8) && near(more, 2)), "{sizes:?}");
    let (guest, args) = w.replicate(Way::Push, &pair, "-n --output text");
    let text = w.zmigrate(guest, &args).must_be(0).out;
    assert!(text.contains("tank/src/dry@s1 → node2:tank/dst/dry  full  8"), "{text}");
    assert!(text.contains("tank/src/dry@s2 → node2:tank/dst/dry  incremental from @s1  "), "{text}");
    assert!(text.contains("dry run: nothing was changed"), "{text}");
    let (guest, args) = w.replicate(Way::Pull, &pair, "-n");
    w.zmigrate(guest, &args).must_be(0);
    assert_eq!((w.one.sh(&state("tank")), w.two.sh(&state("tank"))), before);
}

fn diverged_is_refused_and_rolled_back_on_request(w: &World) {
    let pair = w.pair("diverged", 4);
    w.change(&pair, "s1", 100);
    w.push(&pair, "");
    w.two.sh(&format!("zfs snapshot {0}@own1; zfs snapshot {0}@own2", pair.target));
    w.change(&pair, "s2", 100);
    let before = w.two.sh(&state(&pair.target));
    let (guest, args) = w.replicate(Way::Push, &pair, "");
    let run = w.zmigrate(guest, &args).must_be(3);
    let said = run.report["datasets"][0]["error"]["message"].as_str().unwrap_or("").to_owned();
    for name in ["tank/dst/diverged@own2", "tank/src/diverged@s2", "tank/dst/diverged@s1"] {
        assert!(said.contains(name), "{said}");
    }
    assert_eq!(w.two.sh(&state(&pair.target)), before);
    // The newest common one is held, and both newer ones go.
    let run = w.push(&pair, "--rollback");
    assert!(run.notes().contains("rolled back to @s1; 2 snapshots were destroyed"), "{}", run.out);
    assert_eq!(w.one.snapshots(&pair.source), w.two.snapshots(&pair.target));
    w.same(&pair, "s2");
    let journal = w.two.sh("cat /root/zmlab/state/journal.jsonl");
    assert!(journal.contains("tank/dst/diverged@own1") && journal.contains("tank/dst/diverged@own2"), "{journal}");
}

fn modified_is_refused_and_rolled_back_on_request(w: &World) {
    let pair = w.pair("modified", 4);
    w.change(&pair, "s1", 100);
    w.push(&pair, "");
    w.two.sh(&format!(
        "zfs set readonly=off {0}; zfs mount {0}; head -c 1M /dev/urandom >/{0}/own; zfs umount {0}",
        pair.target
    ));
    w.change(&pair, "s2", 100);
    let (guest, args) = w.replicate(Way::Push, &pair, "");
    let run = w.zmigrate(guest, &args).must_be(3);
    assert!(run.out.contains("the target was modified"), "{}", run.out);
    w.push(&pair, "--rollback");
    crate::basic::protected(w.two, &pair.target);
    w.same(&pair, "s2");
}

/// What has to go is held by the job itself, as the newest common snapshot that it was.
fn a_source_that_went_back_takes_its_target_along(w: &World) {
    let pair = w.pair("went-back", 2);
    w.change(&pair, "s1", 100);
    w.change(&pair, "s2", 100);
    w.push(&pair, "");
    w.one.sh(&format!("zfs rollback -r {}@s1", pair.source));
    w.change(&pair, "s3", 100);
    let (guest, args) = w.replicate(Way::Push, &pair, "");
    w.zmigrate(guest, &args).must_be(3);
    // A hold of anybody else is respected.
    w.two.sh(&format!("zfs hold mine {}@s2", pair.target));
    let (guest, args) = w.replicate(Way::Push, &pair, "--rollback");
    let run = w.zmigrate(guest, &args).must_be(3);
    assert!(run.out.contains("is held (mine)"), "{}", run.out);
    w.two.sh(&format!("zfs release mine {}@s2", pair.target));
    w.push(&pair, "--rollback");
    assert_eq!(w.one.snapshots(&pair.source), w.two.snapshots(&pair.target));
    w.same(&pair, "s3");
}

fn what_is_not_granted_is_refused(w: &World) {
    let pair = w.pair("granted", 1);
    w.change(&pair, "s1", 1);
    w.zmigrate(w.one, &format!("push {} node2:tank/elsewhere", pair.source)).must_be(4);
    w.zmigrate(w.two, "pull node1:tank tank/dst/all").must_be(4);
    assert!(w.two.ask("zfs list tank/elsewhere").code != 0);
}

fn one_run_at_a_time(w: &World) {
    let pair = w.pair("locked", 12);
    w.change(&pair, "s1", 1);
    let (guest, args) = w.replicate(Way::Push, &pair, "--bwlimit 1M");
    let run = w.start(guest, &args);
    w.in_flight(w.two, &pair.target, 0);
    let second = w.zmigrate(guest, &args.replace("--bwlimit 1M", "")).must_be(75);
    assert!(second.err.contains("node1") || second.out.contains("node1"), "{}{}", second.out, second.err);
    run.join().must_be(0);
    w.same(&pair, "s1");
}
