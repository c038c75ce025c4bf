//! The safety rules about data: nothing of the target's own is lost, what is received is protected, what is sent stays.

use std::fs;

use rustix::process::Signal;

use crate::{
    Case, cases,
    common::run,
    pin,
    process::wait_for,
    site::Site,
    zfs::{create, get, mounted, populate, snapshot, state, tags, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        own_snapshots_of_the_target_stay_unless_rollback_is_said,
        a_dataset_of_somebody_else_is_never_touched,
        a_target_that_was_written_to_is_refused,
        what_is_received_is_protected,
        the_manifest_carries_what_is_allowed_and_nothing_else,
        lost_protections_are_set_again_aloud,
        a_snapshot_being_sent_cannot_be_destroyed,
        one_run_at_a_time,
        overlapping_targets_exclude_each_other,
        an_interrupt_does_not_cut_off_a_rollback,
    ]
}

fn journal(site: &Site) -> Vec<serde_json::Value> {
    journal_of(site, "west")
}

fn journal_of(site: &Site, side: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(site.dir.join(format!("{side}.state/journal.jsonl"))).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes a file into a target, as an operator might who promotes it by hand.
fn write_into(target: &str, file: &str) {
    zfs(&["set", "readonly=off", target]);
    fs::write(mounted(target).join(file), "precious").unwrap();
    zfs(&["unmount", target]);
    zfs(&["set", "readonly=on", target]);
}

fn own_snapshots_of_the_target_stay_unless_rollback_is_said() {
    let site = Site::new();
    let db = site.source("db", 10_000);
    site.push("db", "in/db", &[]).must(0);
    let target = site.w("in/db");
    write_into(&target, "own");
    snapshot(&target, "own");
    populate(&db, 2, 10_000);
    snapshot(&db, "s2");
    let before = state(&site.west);
    let done = site.push("db", "in/db", &[]).must(3);
    pin!(site, done.stderr, @r"
    EAST/db → west:WEST/in/db:
    error: the target has diverged: its newest snapshot is WEST/in/db@own (GUID [GUID]), the source's newest is EAST/db@s2 (GUID [GUID]), the newest that both have is WEST/in/db@s1 (GUID [GUID]), and 1 on the target is newer
    hint: --rollback destroys 1 newer snapshot(s) on the target and returns it to WEST/in/db@s1; or rename the target to keep it
    ");
    assert_eq!(state(&site.west), before);
    assert!(site.files(&format!("{target}@own")).contains_key(std::path::Path::new("own")));
    assert!(journal(&site).is_empty());
    let done = site.push("db", "in/db", &["--rollback"]).must(0);
    pin!(site, done.stdout, @r"
    EAST/db → west:WEST/in/db: done
      @s2  from @s1, [SIZE] in [SECONDS]
      note: WEST/in/db was rolled back to @s1; 1 snapshot was destroyed
    [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
    ");
    site.assert_equal(&db, &target);
    let journal = journal(&site);
    let told: Vec<_> = journal.iter().map(|l| (l["what"].as_str(), l["phase"].as_str())).collect();
    assert_eq!(told, [(Some("rollback"), Some("intent")), (Some("rollback"), Some("done"))]);
    for line in &journal {
        assert_eq!(line["to"], format!("{target}@s1"), "{line}");
        assert_eq!(line["destroys"], serde_json::json!([format!("{target}@own")]), "{line}");
        assert!(line["by"].as_str().unwrap().starts_with("east on "), "{line}");
    }
}

fn a_dataset_of_somebody_else_is_never_touched() {
    let site = Site::new();
    site.source("db", 10_000);
    let own = site.w("in/own");
    create(&own);
    fs::write(mounted(&own).join("precious"), "data").unwrap();
    for round in ["without a snapshot", "with one"] {
        let before = state(&site.west);
        let done = site.push("db", "in/own", &[]).must(3);
        if round == "with one" {
            pin!(site, done.stderr, @r"
            EAST/db → west:WEST/in/own:
            error: source and target have no snapshot in common: the source's newest is EAST/db@s1 (GUID [GUID]), the target's newest is WEST/in/own@s1 (GUID [GUID])
            hint: --rollback cannot help: send to another name to seed a fresh copy, or rename WEST/in/own first
            ");
        } else {
            pin!(site, done.stderr, @r"
            EAST/db → west:WEST/in/own:
            error: the target WEST/in/own exists and has own data ([SIZE], no snapshot); the source's newest is EAST/db@s1 (GUID [GUID])
            hint: send to another name, or rename WEST/in/own, or destroy it if nothing in it is needed
            ");
        }
        site.push("db", "in/own", &["--rollback"]).must(3);
        site.push("db", "in/own", &["--rollback", "-i"]).must(3);
        assert_eq!(state(&site.west), before, "{round}");
        assert_eq!(fs::read(mounted(&own).join("precious")).unwrap(), b"data");
        if round == "without a snapshot" {
            snapshot(&own, "s1");
        }
    }
    // An empty one with the very name of a parent is not taken for a placeholder either.
    site.push("db", "in", &[]).must(3);
    assert!(journal(&site).is_empty());
}

fn a_target_that_was_written_to_is_refused() {
    let site = Site::new();
    let db = site.source("db", 10_000);
    site.push("db", "in/db", &[]).must(0);
    let target = site.w("in/db");
    write_into(&target, "own");
    populate(&db, 2, 10_000);
    snapshot(&db, "s2");
    let done = site.push("db", "in/db", &[]).must(3);
    assert!(done.stderr.contains("hint: "), "{}", done.stderr);
    assert_eq!(tags(&target), ["s1"]);
    assert_eq!(fs::read(mounted(&target).join("own")).unwrap(), b"precious");
    zfs(&["unmount", &target]);
    let rolled = site.push("db", "in/db", &["--rollback"]);
    assert_eq!(rolled.code, Some(0), "{}", rolled.stderr);
    site.assert_equal(&db, &target);
}

const PROTECTIONS: [(&str, &str); 5] =
    [("readonly", "on"), ("canmount", "noauto"), ("setuid", "off"), ("exec", "off"), ("devices", "off")];

#[track_caller]
fn assert_protected(dataset: &str) {
    for (property, value) in PROTECTIONS {
        assert_eq!(get(dataset, property), (value.into(), "local".into()), "{property} of {dataset}");
    }
    assert_eq!(get(dataset, "mounted").0, "no", "{dataset}");
}

fn what_is_received_is_protected() {
    let site = Site::new();
    for name in ["t", "t/a", "t/a/b"] {
        create(&site.e(name));
        populate(&site.e(name), 1, 10_000);
    }
    zfs(&["snapshot", "-r", &site.e("t@s1")]);
    site.push("t", "in/t", &["-r"]).must(0);
    site.pull("in/t", "back", &["-r"]).must(0);
    for name in ["", "/a", "/a/b"] {
        assert_protected(&site.w(&format!("in/t{name}")));
        assert_protected(&site.e(&format!("back{name}")));
    }
}

fn the_manifest_carries_what_is_allowed_and_nothing_else() {
    let site = Site::new();
    let db = site.source("db", 10_000);
    let elsewhere = format!("mountpoint={}", site.dir.join("elsewhere").display());
    let mine = ["compression=gzip", "recordsize=16K", "atime=off", &elsewhere, "exec=on", "setuid=on", "devices=on"];
    let never = ["quota=60M", "refquota=50M", "reservation=1M", "canmount=on", "readonly=off", "org.example:mine=1"];
    for pair in mine.iter().chain(&never) {
        // What is mounted elsewhere now may be busy for a moment.
        wait_for(&format!("zfs set {pair}"), 10, || run("zfs", &["set", pair, &db]).is_ok());
    }
    // Sharing may not work here, but must not be carried if it does.
    let _ = run("zfs", &["set", "sharenfs=ro", &db]);
    snapshot(&db, "s2");
    site.push("db", "in/db", &[]).must(0);
    let _ = run("zfs", &["set", "sharenfs=off", &db]);
    let target = site.w("in/db");
    for (property, value) in [("compression", "gzip"), ("recordsize", "16384"), ("atime", "off")] {
        assert_eq!(get(&target, property), (value.into(), "local".into()), "{property}");
    }
    for property in ["mountpoint", "sharenfs", "quota", "refquota", "reservation", "org.example:mine"] {
        assert_ne!(get(&target, property).1, "local", "{property} was carried over");
        assert_ne!(get(&target, property).1, "received", "{property} was carried over");
    }
    assert_protected(&target);
    site.assert_equal(&db, &target);
}

fn lost_protections_are_set_again_aloud() {
    let site = Site::new();
    let db = site.source("db", 10_000);
    site.push("db", "in/db", &[]).must(0);
    let target = site.w("in/db");
    zfs(&["set", "readonly=off", &target]);
    zfs(&["set", "canmount=on", &target]);
    zfs(&["inherit", "exec", &target]);
    snapshot(&db, "s2");
    let done = site.push("db", "in/db", &[]).must(0);
    pin!(site, done.stdout, @r"
    EAST/db → west:WEST/in/db: done
      @s2  from @s1, [SIZE] in [SECONDS]
      note: WEST/in/db was not protected as it should be; set again: readonly=on canmount=noauto exec=off
    [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
    ");
    assert_protected(&target);
    // Properties that an operator has set on purpose stay.
    zfs(&["set", "compression=on", &target]);
    snapshot(&db, "s3");
    let done = site.push("db", "in/db", &[]).must(0);
    pin!(site, done.stdout, @r"
    EAST/db → west:WEST/in/db: done
      @s3  from @s2, [SIZE] in [SECONDS]
    [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
    ");
    assert_eq!(get(&target, "compression"), ("on".into(), "local".into()));
}

/// 12 MiB at 3 MiB/s.
pub const SLOW: [&str; 6] = ["--bwlimit", "3M", "--compress", "none", "--progress", "json"];
pub const SLOW_BYTES: usize = 12 << 20;

fn a_snapshot_being_sent_cannot_be_destroyed() {
    let site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    let refused = run("zfs", &["destroy", &format!("{db}@s1")]).unwrap_err();
    assert!(refused.contains("busy"), "{refused}");
    push.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    populate(&db, 2, SLOW_BYTES / 2);
    snapshot(&db, "s2");
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    // Both ends of the step, and the copy on the target that it builds on.
    for held in [format!("{db}@s1"), format!("{db}@s2"), site.w("in/db@s1")] {
        let refused = run("zfs", &["destroy", &held]).unwrap_err();
        assert!(refused.contains("busy"), "{refused}");
    }
    push.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    // The older base is let go, on both sides.
    for released in [format!("{db}@s1"), site.w("in/db@s1")] {
        run("zfs", &["destroy", &released]).unwrap();
    }
    assert!(run("zfs", &["destroy", &site.w("in/db@s2")]).is_err(), "the newest common snapshot is not held");
}

fn one_run_at_a_time() {
    let site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    let mut first = site.start_push("db", "in/db", &SLOW);
    first.until_transferred(1 << 20);
    let done = site.push("db", "in/db", &[]).must(75);
    pin!(site, done.stderr, @"error: at west: WEST/in/db is held by east on vm, since [TIME]");
    // A dry run takes no lock.
    site.push("db", "in/db", &["-n"]);
    first.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    site.push("db", "in/db", &[]).must(0);
    let mut first = site.start_pull("in/db", "back", &SLOW);
    first.until_transferred(1 << 20);
    let done = site.pull("in/db", "back", &[]).must(75);
    pin!(site, done.stderr, @"error: EAST/back is held by a run on this host (pid [PID]), since [TIME]");
    first.wait(60).must(0);
    site.assert_equal(&db, &site.e("back"));
}

fn overlapping_targets_exclude_each_other() {
    let site = Site::new();
    site.source("db", SLOW_BYTES);
    site.source("small", 1000);
    // Slow enough for four runs beside it on a machine that does much else.
    let mut first = site.start_push("db", "in/x/y", &["--bwlimit", "512K", "--compress", "none", "--progress", "json"]);
    first.until_transferred(1 << 20);
    site.push("small", "in/x", &[]).must(75).says(&["in/x", "east on "]);
    site.push("small", "in/x/y/z", &[]).must(75).says(&["in/x/y", "east on "]);
    site.push("small", "in/xy", &[]).must(0);
    site.push("small", "in/x/yy", &[]).must(0);
    assert!(!first.has_ended(), "the first run ended too early");
    first.wait(90).must(0);
}

/// Half a rollback, and no word of its end in the journal, would be worse than one that ends late.
fn an_interrupt_does_not_cut_off_a_rollback() {
    let mut site = Site::quiet();
    site.more =
        site.wrapped_zfs("slow", "if [ \"$1\" = destroy ]; then touch $DIR/destroying; sleep 1; fi\nexec zfs \"$@\"\n");
    let grants = format!("[grant.east]\npull = [\"{}\"]\n", site.west);
    site.write_configs(&grants, None);
    site.start_daemon();
    let (from, copy) = (site.w("src"), site.e("copy"));
    create(&from);
    populate(&from, 1, 10_000);
    snapshot(&from, "s1");
    site.pull("src", "copy", &[]).must(0);
    for tag in ["own1", "own2"] {
        snapshot(&copy, tag);
    }
    populate(&from, 2, 10_000);
    snapshot(&from, "s2");
    let pull = site.start_pull("src", "copy", &["--rollback"]);
    wait_for("the first snapshot to go", 20, || site.dir.join("destroying").exists());
    pull.signal(Signal::INT);
    pull.wait(30).must(130);
    assert_eq!(tags(&copy), ["s1"], "it was cut off");
    let told: Vec<_> = journal_of(&site, "east").iter().map(|l| (l["what"].clone(), l["phase"].clone())).collect();
    assert_eq!(told, [("rollback".into(), "intent".into()), ("rollback".into(), "done".into())]);
    site.pull("src", "copy", &[]).must(0);
    site.assert_equal(&from, &copy);
}
