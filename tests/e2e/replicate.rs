//! What a run of one dataset moves, in both directions, and what it says.

use crate::{
    Case, cases, pin,
    site::Site,
    zfs::{exists, populate, snapshot, state, tags},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_full_send_then_increments,
        a_pull_of_all_that,
        the_newest_snapshot_alone,
        as_far_as_a_snapshot,
        nothing_to_do_is_no_error_and_changes_nothing,
        a_dry_run_changes_nothing,
        the_result_as_json,
    ]
}

/// s1 to s5 with other files each.
fn with_history(site: &Site, name: &str) -> String {
    let dataset = site.source(name, 300_000);
    for n in 2..6 {
        populate(&dataset, n, 100_000);
        snapshot(&dataset, &format!("s{n}"));
    }
    dataset
}

fn a_full_send_then_increments() {
    let site = Site::new();
    let db = site.source("db", 300_000);
    let done = site.push("db", "in/db", &[]).must(0);
    pin!(site, done.stdout, @r"
        EAST/db → west:WEST/in/db: done
          @s1  full, [SIZE] in [SECONDS]
        [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
        ");
    assert_eq!(done.stderr, "");
    let target = site.w("in/db");
    site.assert_equal(&db, &target);
    for n in 2..5 {
        populate(&db, n, 100_000);
        snapshot(&db, &format!("s{n}"));
    }
    let done = site.push("db", "in/db", &[]).must(0);
    pin!(site, done.stdout, @r"
    EAST/db → west:WEST/in/db: done
      @s2  from @s1, [SIZE] in [SECONDS]
      @s3  from @s2, [SIZE] in [SECONDS]
      @s4  from @s3, [SIZE] in [SECONDS]
    [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
    ");
    assert_eq!(done.stderr, "");
    site.assert_equal(&db, &target);
}

fn a_pull_of_all_that() {
    let site = Site::new();
    let db = with_history(&site, "db");
    site.push("db", "in/db", &["-I"]).must(0);
    let done = site.pull("in/db", "back", &[]).must(0);
    pin!(site, done.stdout, @r"
    west:WEST/in/db → EAST/back: done
      @s1  full, [SIZE] in [SECONDS]
      @s2  from @s1, [SIZE] in [SECONDS]
      @s3  from @s2, [SIZE] in [SECONDS]
      @s4  from @s3, [SIZE] in [SECONDS]
      @s5  from @s4, [SIZE] in [SECONDS]
    [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
    ");
    assert_eq!(done.stderr, "");
    site.assert_equal(&db, &site.e("back"));
    populate(&db, 9, 100_000);
    snapshot(&db, "s9");
    site.push("db", "in/db", &[]).must(0);
    site.pull("in/db", "back", &[]).must(0);
    site.assert_equal(&db, &site.e("back"));
    let done = site.pull("in/db", "back", &[]).must(0);
    pin!(site, done.stdout, @"west:WEST/in/db → EAST/back: up to date");
}

fn the_newest_snapshot_alone() {
    let site = Site::new();
    let db = with_history(&site, "db");
    site.push("db", "in/db", &["-i"]).must(0);
    assert_eq!(tags(&site.w("in/db")), ["s5"]);
    for n in 6..9 {
        populate(&db, n, 10_000);
        snapshot(&db, &format!("s{n}"));
    }
    let done = site.push("db", "in/db", &["-i"]).must(0);
    pin!(site, done.stdout, @r"
    EAST/db → west:WEST/in/db: done
      @s8  from @s5, [SIZE] in [SECONDS]
    [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
    ");
    assert_eq!(tags(&site.w("in/db")), ["s5", "s8"]);
    site.assert_same_files(&format!("{db}@s8"), &site.w("in/db@s8"));
}

fn as_far_as_a_snapshot() {
    let site = Site::new();
    let db = with_history(&site, "db");
    site.push("db@s3", "in/db", &[]).must(0);
    assert_eq!(tags(&site.w("in/db")), ["s1", "s2", "s3"]);
    let done = site.push("db@s6", "in/db", &[]).must(3);
    pin!(site, done.stderr, @r"
    error: the source has no EAST/db@s6; its newest is EAST/db@s5 (GUID [GUID])
    hint: name a snapshot that exists, or leave it out to send up to the newest
    ");
    let done = site.push("db", "in/db@s4", &[]).must(2);
    pin!(site, done.stderr, @r"
    error: west:WEST/in/db@s4 names a snapshot; the target is a dataset
    hint: leave out what follows the @; snapshots keep their names
    ");
    site.push("db", "in/db", &[]).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    site.pull("in/db@s2", "back", &[]).must(0);
    assert_eq!(tags(&site.e("back")), ["s1", "s2"]);
}

fn nothing_to_do_is_no_error_and_changes_nothing() {
    let site = Site::new();
    with_history(&site, "db");
    site.push("db", "in/db", &[]).must(0);
    site.pull("in/db", "back", &[]).must(0);
    let before = (state(&site.east), state(&site.west));
    let done = site.push("db", "in/db", &[]).must(0);
    pin!(site, done.stdout, @"EAST/db → west:WEST/in/db: up to date");
    assert_eq!(done.stderr, "");
    site.pull("in/db", "back", &[]).must(0);
    assert_eq!((state(&site.east), state(&site.west)), before);
}

fn a_dry_run_changes_nothing() {
    let site = Site::new();
    with_history(&site, "db");
    let before = (state(&site.east), state(&site.west));
    let done = site.push("db", "in/db", &["-n"]).must(0);
    pin!(site, done.stdout, @r"
    west:WEST/in  make a placeholder
    EAST/db@s1 → west:WEST/in/db  full
    EAST/db@s2 → west:WEST/in/db  incremental from @s1
    EAST/db@s3 → west:WEST/in/db  incremental from @s2
    EAST/db@s4 → west:WEST/in/db  incremental from @s3
    EAST/db@s5 → west:WEST/in/db  incremental from @s4
    dry run: nothing was changed
    ");
    assert_eq!((state(&site.east), state(&site.west)), before);
    assert!(!exists(&site.w("in")));
    site.push("db@s2", "in/db", &[]).must(0);
    let before = (state(&site.east), state(&site.west));
    let done = site.push("db", "in/db", &["--dry-run", "-i", "--snapshot=later"]).must(0);
    pin!(site, done.stdout, @r"
    EAST/db@s5 → west:WEST/in/db  incremental from @s2
    dry run: nothing was changed
    ");
    assert_eq!((state(&site.east), state(&site.west)), before);
}

fn the_result_as_json() {
    let site = Site::new();
    let db = site.source("db", 300_000);
    let done = site.push("db", "in/db", &["--output", "json"]).must(0);
    pin!(site, done.stdout, @r#"
    {
      "result": "done",
      "exit_code": 0,
      "direction": "push",
      "peer": "west",
      "source": "EAST/db",
      "target": "WEST/in/db",
      "dry_run": false,
      "raw_bytes": "[BYTES]",
      "wire_bytes": "[BYTES]",
      "seconds": "[SECONDS]",
      "datasets": [
        {
          "source": "EAST/db",
          "target": "WEST/in/db",
          "result": "done",
          "steps": [
            {
              "snapshot": "EAST/db@s1",
              "resumed": false,
              "raw_bytes": "[BYTES]",
              "wire_bytes": "[BYTES]",
              "seconds": "[SECONDS]"
            }
          ]
        }
      ]
    }
    "#);
    populate(&db, 2, 10_000);
    snapshot(&db, "s2");
    let done = site.push("db", "in/db", &["--output", "json", "-n"]).must(0);
    pin!(site, done.stdout, @r#"
    {
      "result": "planned",
      "exit_code": 0,
      "direction": "push",
      "peer": "west",
      "source": "EAST/db",
      "target": "WEST/in/db",
      "dry_run": true,
      "raw_bytes": "[BYTES]",
      "wire_bytes": "[BYTES]",
      "seconds": "[SECONDS]",
      "datasets": [
        {
          "source": "EAST/db",
          "target": "WEST/in/db",
          "result": "done",
          "steps": []
        }
      ],
      "plan": {
        "placeholders": [],
        "datasets": [
          {
            "source": "EAST/db",
            "target": "WEST/in/db",
            "kind": "filesystem",
            "source_guid": "[GUID]",
            "after": [],
            "decision": {
              "work": [
                {
                  "step": {
                    "snapshot": "EAST/db@s2",
                    "to_guid": "[GUID]",
                    "target": "WEST/in/db",
                    "target_snapshot": "WEST/in/db@s2",
                    "from": {
                      "base": {
                        "snapshot": "EAST/db@s1"
                      },
                      "guid": "[GUID]"
                    },
                    "flags": {
                      "large_block": false,
                      "compressed": false,
                      "embed": false,
                      "raw": false
                    },
                    "resume": null,
                    "origin": null,
                    "creates_target": false,
                    "kind": "filesystem"
                  }
                }
              ]
            },
            "notes": []
          }
        ],
        "notes": [],
        "only_on_target": 0
      },
      "plan_sizes": [
        null
      ]
    }
    "#);
    let done = site.push("db", "elsewhere", &["--output", "json"]).must(4);
    pin!(site, done.stdout, @r#"
    {
      "result": "failed",
      "exit_code": 4,
      "direction": "push",
      "peer": "west",
      "source": "EAST/db",
      "target": "WEST/elsewhere",
      "dry_run": false,
      "raw_bytes": "[BYTES]",
      "wire_bytes": "[BYTES]",
      "seconds": "[SECONDS]",
      "datasets": [],
      "error": {
        "class": "not_granted",
        "message": "at west: east is not granted push of WEST/elsewhere",
        "hint": "there, add \"WEST/elsewhere\" or a dataset above it to `push` under [grant.east]",
        "consequence": false,
        "transient": false,
        "exists": false
      }
    }
    "#);
    let done = site.push("none", "in/none", &["--output", "json"]).must(3);
    pin!(site, done.stdout, @r#"
    {
      "result": "refused",
      "exit_code": 3,
      "direction": "push",
      "peer": "west",
      "source": "EAST/none",
      "target": "WEST/in/none",
      "dry_run": false,
      "raw_bytes": "[BYTES]",
      "wire_bytes": "[BYTES]",
      "seconds": "[SECONDS]",
      "datasets": [],
      "error": {
        "class": "refused",
        "message": "the source EAST/none does not exist",
        "hint": "check the name with `zfs list`",
        "consequence": false,
        "transient": false,
        "exists": false
      }
    }
    "#);
}
