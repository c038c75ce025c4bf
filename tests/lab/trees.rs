//! Trees: children, excludes, clones, placeholders.

use crate::{Case, world::World};

pub const CASES: &[Case] = &[("tree_with_clone_excludes_and_placeholders", tree_with_clone_excludes_and_placeholders)];

fn tree_with_clone_excludes_and_placeholders(w: &World) {
    let pair = w.pair("tree", 2);
    let (source, target) = (&pair.source, &pair.target);
    w.one.sh(&format!(
        "zfs create {source}/a; zfs create {source}/a/deep; zfs create {source}/scratch; zfs create {source}/scratch/below; \
         zfs create {source}/bare; zfs create {source}/bare/child; \
         head -c 8M /dev/urandom >/{source}/a/base; head -c 1M /dev/urandom >/{source}/a/deep/x; \
         head -c 1M /dev/urandom >/{source}/bare/child/x; zfs snapshot {source}/a@gold; \
         zfs clone {source}/a@gold {source}/copy; head -c 512K /dev/urandom >/{source}/copy/more; \
         for d in {source} {source}/a {source}/a/deep {source}/scratch {source}/scratch/below {source}/bare/child {source}/copy; do \
         zfs snapshot $d@s1; done"
    ));
    // bare has no snapshot, and its child does; the target's own parents do not exist either.
    let args =
        format!("push -r --exclude scratch {source} node2:tank/dst/above/{}", target.rsplit('/').next().unwrap());
    let target = "tank/dst/above/tree";
    let run = w.zmigrate(w.one, &args);
    let listed = w.two.sh(&format!("zfs list -H -r -o name {target}"));
    eprintln!("lab:   exit {}", run.code);
    assert!(run.code == 0 || run.code == 7, "exit {}\n{}{}", run.code, run.out, run.err);
    for below in ["", "/a", "/a/deep", "/copy", "/bare/child"] {
        let guid = |guest: crate::guest::Guest, at: &str| guest.get(&format!("{at}{below}@s1"), "guid");
        assert_eq!(guid(w.one, source), guid(w.two, target), "{below} in\n{listed}\n{}{}", run.out, run.err);
        assert_eq!(
            w.one.digest(&format!("{source}{below}@s1")),
            w.two.digest(&format!("{target}{below}@s1")),
            "{below}"
        );
        crate::basic::protected(w.two, &format!("{target}{below}"));
    }
    assert!(!listed.contains("scratch"), "{listed}");
    assert_eq!(w.two.get(&format!("{target}/copy"), "origin"), format!("{target}/a@gold"));
    for placeholder in ["tank/dst/above", &format!("{target}/bare")] {
        let marks = w.two.properties(placeholder, &["zmigrate:placeholder", "canmount", "readonly"]);
        assert_eq!(marks, ["zmigrate:placeholder=on local", "canmount=off local", "readonly=on local"]);
    }
    // The clone's step holds only what the clone has of its own.
    let copy = run.report["datasets"].as_array().unwrap().iter().find(|d| d["source"] == format!("{source}/copy"));
    let bytes = copy.and_then(|d| d["steps"][0]["raw_bytes"].as_u64()).unwrap();
    assert!(bytes < 4 << 20, "the clone took {bytes} bytes");

    // An increment of all, atomic over the tree; now the bare one has a snapshot, but a placeholder with a child stays.
    w.one.sh(&format!("echo new >/{source}/new; echo new >/{source}/copy/new; echo new >/{source}/a/deep/new"));
    let args = args.replace("push -r", "push -r --jobs 4 --snapshot=s2 --exclude bare");
    let run = w.zmigrate(w.one, &args).must_be(0);
    let txgs = w.one.sh(&format!(
        "zfs list -Hp -r -t snapshot -o name,createtxg {source} | grep '@s2' | grep -v bare | cut -f2 | sort -u | wc -l"
    ));
    assert_eq!(txgs, "1", "one transaction group for the tree's snapshot");
    for below in ["", "/a", "/a/deep", "/copy"] {
        assert_eq!(
            w.one.digest(&format!("{source}{below}@s2")),
            w.two.digest(&format!("{target}{below}@s2")),
            "{below}\n{}",
            run.out
        );
    }
    assert!(w.one.ask(&format!("zfs list {source}/scratch@s2")).code != 0, "what is left out gets no snapshot");
}
