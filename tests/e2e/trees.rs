//! Trees of datasets: excludes, clones, placeholders, snapshots of one moment.

use std::collections::BTreeSet;

use crate::{
    Case, cases, pin,
    site::Site,
    zfs::{create, destroy, exists, get, mounted, populate, snapshot, snapshots, state, tags, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_tree_with_excludes_a_clone_and_an_empty_corner,
        missing_parents_become_placeholders,
        a_placeholder_gives_way_only_if_it_is_empty,
        one_snapshot_of_a_tree_is_one_moment,
        a_snapshot_named_by_the_time,
    ]
}

fn a_tree_with_excludes_a_clone_and_an_empty_corner() {
    let site = Site::new();
    let root = site.e("t");
    for (n, name) in ["t", "t/a", "t/a/low", "t/b", "t/scratch", "t/scratch/below", "t/scratchy"].iter().enumerate() {
        create(&site.e(name));
        populate(&site.e(name), n as u64, 60_000);
    }
    zfs(&["snapshot", "-r", &format!("{root}@s1")]);
    zfs(&["clone", &format!("{root}/a@s1"), &format!("{root}/0-clone")]);
    populate(&format!("{root}/0-clone"), 99, 50_000);
    snapshot(&format!("{root}/0-clone"), "c1");
    create(&site.e("t/none"));
    let done = site.push("t", "in/t", &["-r", "--exclude", "scratch", "--jobs", "4"]).must(0);
    pin!(site, done.stdout, @r"
    note: 2 dataset(s) excluded
    note: EAST/t/none has no snapshot and is left alone
    EAST/t → west:WEST/in/t: done
      @s1  full, [SIZE] in [SECONDS]
    EAST/t/a → west:WEST/in/t/a: done
      @s1  full, [SIZE] in [SECONDS]
    EAST/t/0-clone → west:WEST/in/t/0-clone: done
      @c1  from @s1, [SIZE] in [SECONDS]
    EAST/t/a/low → west:WEST/in/t/a/low: done
      @s1  full, [SIZE] in [SECONDS]
    EAST/t/b → west:WEST/in/t/b: done
      @s1  full, [SIZE] in [SECONDS]
    EAST/t/scratchy → west:WEST/in/t/scratchy: done
      @s1  full, [SIZE] in [SECONDS]
    6 datasets: 6 done
    [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
    ");
    assert_eq!(done.stderr, "");
    for name in ["t", "t/a", "t/a/low", "t/b", "t/scratchy", "t/0-clone"] {
        site.assert_equal(&site.e(name), &site.w(&format!("in/{name}")));
    }
    assert_eq!(get(&site.w("in/t/0-clone"), "origin").0, site.w("in/t/a@s1"));
    for name in ["in/t/scratch", "in/t/none"] {
        assert!(!exists(&site.w(name)), "{name}");
    }
    destroy(&site.e("t/none")).unwrap();
    zfs(&["snapshot", "-r", &format!("{root}@s2")]);
    site.push("t", "in/t", &["-r", "--exclude", "scratch", "--jobs", "4"]).must(0);
    for name in ["t", "t/a", "t/a/low", "t/b", "t/scratchy", "t/0-clone"] {
        site.assert_equal(&site.e(name), &site.w(&format!("in/{name}")));
    }
    site.pull("in/t", "back", &["-r", "--jobs", "4"]).must(0);
    for name in ["", "/a", "/a/low", "/b", "/scratchy", "/0-clone"] {
        site.assert_equal(&format!("{root}{name}"), &site.e(&format!("back{name}")));
    }
}

fn missing_parents_become_placeholders() {
    let site = Site::new();
    let db = site.source("db", 10_000);
    site.push("db", "in/x/y/db", &[]).must(0);
    site.assert_equal(&db, &site.w("in/x/y/db"));
    for name in ["in", "in/x", "in/x/y"] {
        for (property, value) in [("zmigrate:placeholder", "on"), ("canmount", "off"), ("readonly", "on")] {
            assert_eq!(get(&site.w(name), property), (value.into(), "local".into()), "{name} {property}");
        }
    }
    assert_ne!(get(&site.w("in/x/y/db"), "zmigrate:placeholder").1, "local");
}

fn a_placeholder_gives_way_only_if_it_is_empty() {
    let site = Site::new();
    let db = site.source("db", 10_000);
    site.push("db", "in/x/db", &[]).must(0);
    let before = state(&site.west);
    let done = site.push("db", "in/x", &[]).must(3);
    pin!(site, done.stderr, @r"
    EAST/db → west:WEST/in/x:
    error: the target WEST/in/x is a placeholder that cannot be replaced by EAST/db@s1 (GUID [GUID]): there are datasets below it
    hint: rename WEST/in/x aside, run again, and rename the datasets below it back to below the new WEST/in/x; or send to another name
    ");
    assert_eq!(state(&site.west), before);
    let target = site.w("in/x/db");
    zfs(&["release", &format!("zmigrate:{}", get(&target, "zmigrate:job").0), &format!("{target}@s1")]);
    destroy(&format!("{target}@s1")).unwrap();
    destroy(&target).unwrap();
    site.push("db", "in/x", &[]).must(0);
    site.assert_equal(&db, &site.w("in/x"));
    let journal = std::fs::read_to_string(site.dir.join("west.state/journal.jsonl")).unwrap();
    assert!(journal.contains("remove_placeholder"), "{journal}");
}

fn moments(tag: &str, datasets: &[String]) -> BTreeSet<String> {
    let txg = |dataset: &String| zfs(&["get", "-Hp", "-o", "value", "createtxg", &format!("{dataset}@{tag}")]);
    datasets.iter().map(txg).collect()
}

fn one_snapshot_of_a_tree_is_one_moment() {
    let site = Site::new();
    let names = ["t", "t/a", "t/a/b", "t/c", "t/skip"].map(|n| site.e(n));
    for (n, name) in names.iter().enumerate() {
        create(name);
        populate(name, n as u64, 10_000);
    }
    site.push("t", "in/t", &["-r", "--exclude", "skip", "--snapshot=now"]).must(0);
    assert_eq!(moments("now", &names[..4]).len(), 1, "not one transaction group");
    assert!(tags(&site.e("t/skip")).is_empty() && !exists(&site.w("in/t/skip")));
    for name in &names[..4] {
        site.assert_equal(name, &name.replace(&site.e("t"), &site.w("in/t")));
    }
    // The tag is taken: nothing happens.
    let before = (state(&site.east), state(&site.west));
    site.push("t", "in/t", &["-r", "--snapshot=now"]).must(6);
    assert_eq!((state(&site.east), state(&site.west)), before);
    site.pull("in/t", "back", &["-r"]).must(0);
    // A pull takes its snapshot on the peer.
    std::fs::write(mounted(&names[0]).join("later"), "x").unwrap();
    site.push("t", "in/t", &["-r", "--exclude", "skip", "--snapshot=two"]).must(0);
    let target = ["in/t", "in/t/a", "in/t/a/b", "in/t/c"].map(|n| site.w(n));
    // But not of what another run writes to, unless a person has made that writable.
    site.pull("in/t", "back", &["-r", "--snapshot=three"]).must(3).says(&["is the target of"]);
    target.iter().for_each(|name| drop(zfs(&["set", "readonly=off", name])));
    site.pull("in/t", "back", &["-r", "--snapshot=three"]).must(0);
    assert_eq!(moments("three", &target).len(), 1, "not one transaction group");
    assert_eq!(snapshots(&target[2]), snapshots(&site.e("back/a/b")));
}

fn a_snapshot_named_by_the_time() {
    let site = Site::new();
    let db = site.e("db");
    create(&db);
    populate(&db, 1, 1000);
    let done = site.push("db", "in/db", &["--snapshot"]).must(0);
    pin!(site, done.stdout, @r"
    EAST/db → west:WEST/in/db: done
      @[NOW]  full, [SIZE] in [SECONDS]
    [SIZE] in [SECONDS], [RATE]; [SIZE] on the wire, [N] % saved
    ");
    site.assert_equal(&db, &site.w("in/db"));
}
