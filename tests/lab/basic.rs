//! One dataset: full and incremental, both ways, and what is set on the target.

use crate::{
    Case,
    guest::Guest,
    world::{Pair, Way, World},
};

pub const CASES: &[Case] = &[
    ("push_full_then_up_to_date", push_full_then_up_to_date),
    ("pull_full_then_up_to_date", pull_full_then_up_to_date),
    ("pull_by_the_other_guest", pull_by_the_other_guest),
    ("increments_all", increments_all),
    ("increment_newest", increment_newest),
    ("up_to_a_named_snapshot", up_to_a_named_snapshot),
    ("takes_a_snapshot_first", takes_a_snapshot_first),
    ("send_flags", send_flags),
    ("properties", properties),
];

fn push_full_then_up_to_date(w: &World) {
    full_then_up_to_date(w, Way::Push, "push-full");
}

fn pull_full_then_up_to_date(w: &World) {
    full_then_up_to_date(w, Way::Pull, "pull-full");
}

fn full_then_up_to_date(w: &World, way: Way, name: &str) {
    let pair = w.pair(name, 8);
    w.change(&pair, "s1", 100);
    let (guest, args) = w.replicate(way, &pair, "");
    let run = w.zmigrate(guest, &args).must_be(0);
    assert_eq!(run.report["result"], "done");
    assert_eq!(run.steps().len(), 1);
    assert!(run.steps()[0]["from"].is_null() && run.steps()[0]["resumed"] == false, "{}", run.out);
    assert!(run.report["raw_bytes"].as_u64().unwrap() > 8 << 20, "{}", run.out);
    w.same(&pair, "s1");
    let again = w.zmigrate(guest, &args).must_be(0);
    assert_eq!(again.report["result"], "up_to_date", "{}", again.out);
    assert!(again.steps().is_empty());
}

fn pull_by_the_other_guest(w: &World) {
    let pair = Pair { source: "tank/src/other-way".into(), target: "tank/dst/other-way".into() };
    w.two.sh("zfs create tank/src/other-way; head -c 8M /dev/urandom >/tank/src/other-way/noise; zfs snapshot tank/src/other-way@s1");
    let run = w.zmigrate(w.one, &format!("pull node2:{} {}", pair.source, pair.target)).must_be(0);
    assert_eq!(run.report["direction"], "pull");
    assert_eq!(w.two.digest("tank/src/other-way@s1"), w.one.digest("tank/dst/other-way@s1"));
}

fn increments_all(w: &World) {
    let pair = w.pair("inc-all", 4);
    w.change(&pair, "s1", 10);
    w.push(&pair, "-I");
    w.change(&pair, "s2", 500);
    w.one.sh(&format!("rm /{0}/s1; truncate -s 1M /{0}/noise", pair.source));
    w.change(&pair, "s3", 700);
    let run = w.push(&pair, "");
    let from: Vec<_> = run.steps().iter().filter_map(|s| s["from"].as_str()).collect();
    assert_eq!(from.len(), 2, "{}", run.out);
    assert!(from[0].ends_with("@s1") && from[1].ends_with("@s2"), "{from:?}");
    assert_eq!(w.one.snapshots(&pair.source), w.two.snapshots(&pair.target));
    for tag in ["s1", "s2", "s3"] {
        w.same(&pair, tag);
    }
}

fn increment_newest(w: &World) {
    let pair = w.pair("inc-newest", 4);
    w.change(&pair, "s1", 10);
    w.change(&pair, "s2", 10);
    w.push(&pair, "-i");
    w.change(&pair, "s3", 500);
    w.change(&pair, "s4", 500);
    let run = w.push(&pair, "-i");
    assert_eq!(run.steps().len(), 1, "{}", run.out);
    let tags: Vec<_> =
        w.two.snapshots(&pair.target).iter().map(|s| s.split(' ').next().unwrap_or("").to_owned()).collect();
    assert_eq!(tags, ["s2", "s4"]);
    w.same(&pair, "s4");
}

fn up_to_a_named_snapshot(w: &World) {
    let pair = w.pair("upto", 1);
    for tag in ["s1", "s2", "s3"] {
        w.change(&pair, tag, 10);
    }
    w.zmigrate(w.one, &format!("push {}@s2 node2:{}", pair.source, pair.target)).must_be(0);
    assert_eq!(w.two.snapshots(&pair.target), w.one.snapshots(&pair.source)[..2]);
    let run = w.push(&pair, "");
    assert_eq!(run.steps().len(), 1);
    w.same(&pair, "s3");
}

fn takes_a_snapshot_first(w: &World) {
    let pair = w.pair("snapshot-first", 1);
    let run = w.push(&pair, "--snapshot=first");
    assert_eq!(run.report["snapshot"], "first");
    w.same(&pair, "first");
    let run = w.push(&pair, "--snapshot");
    let tag = run.report["snapshot"].as_str().unwrap_or("").to_owned();
    assert!(tag.starts_with("zmigrate_20"), "{}", run.out);
    w.same(&pair, &tag);
}

/// What `zfs send` is called with, and that the blocks stay as small as they are on disk.
fn send_flags(w: &World) {
    let pair = w.pair("flags", 8);
    w.one.sh(&format!("zfs set compression=zstd recordsize=1M {0}; yes large | head -c 24M >/{0}/large", pair.source));
    w.change(&pair, "s1", 10);
    // Loud enough to tell each command.
    let (guest, args) = w.replicate(Way::Push, &pair, "-vv");
    let run = w.zmigrate(guest, &args).must_be(0);
    let called: Vec<&str> = run.err.lines().filter(|line| line.contains("\"send\"")).collect();
    let wanted = r#""send" "-L" "-c" "tank/src/flags@s1""#;
    assert!(called.iter().any(|line| line.contains(wanted)), "zfs was called as: {called:#?}");
    // Blocks so small that ZFS embeds them are sent whole without -e; the link still does not see them.
    let wire = run.report["wire_bytes"].as_u64().unwrap();
    assert!(wire < 14 << 20, "24 MiB that compress well took {wire} bytes with the 8 MiB of noise");
    w.same(&pair, "s1");
}

fn properties(w: &World) {
    let pair = w.pair("props", 1);
    w.one.sh(&format!(
        "zfs set compression=gzip-3 recordsize=16K mountpoint=/mnt/zmlab exec=on setuid=on devices=on atime=off quota=1G \
         user:note=mine {0}; zfs umount {0}",
        pair.source
    ));
    w.one.sh(&format!("zfs snapshot {}@s1", pair.source));
    w.push(&pair, "");
    protected(w.two, &pair.target);
    let carried = w.two.properties(&pair.target, &["compression", "recordsize", "atime"]);
    assert_eq!(carried, ["compression=gzip-3 local", "recordsize=16384 local", "atime=off local"]);
    let left = w.two.properties(&pair.target, &["mountpoint", "quota", "user:note", "mounted"]);
    let mountpoint = format!("mountpoint=/{} inherited from tank", pair.target);
    assert_eq!(left, [mountpoint.as_str(), "quota=0 default", "user:note=- -", "mounted=no -"]);
    // What comes later changes nothing of it, and says so if it had to.
    w.one.sh(&format!("zfs set compression=off recordsize=128K {0}; zfs snapshot {0}@s2", pair.source));
    w.two.sh(&format!("zfs set readonly=off exec=on {}", pair.target));
    let run = w.push(&pair, "");
    protected(w.two, &pair.target);
    assert!(run.notes().contains("readonly=on exec=off"), "{}", run.out);
    assert_eq!(w.two.properties(&pair.target, &["compression", "recordsize", "atime"]), carried);
}

/// Fails unless a target is as safe as it should be.
#[track_caller]
pub fn protected(guest: Guest, filesystem: &str) {
    let set = guest.properties(filesystem, &["readonly", "canmount", "setuid", "exec", "devices"]);
    assert_eq!(
        set,
        ["readonly=on local", "canmount=noauto local", "setuid=off local", "exec=off local", "devices=off local"]
    );
}
