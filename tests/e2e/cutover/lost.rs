//! A host's ledgers are lost, as where a pool was moved to another machine: what ZFS itself says still counts.

use std::fs;

use super::{
    bench::{Bench, is_writable, json, settings},
    points::chosen,
};
use crate::{
    Case, cases,
    common::run,
    process::wait_for,
    site::zmigrate,
    zfs::{exists, get, tags, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![a_pool_without_its_ledgers_tells_who_serves, crashes_while_an_unknown_fence_is_broken]
}

/// Of breaking a fence that no ledger knows.
const BREAKS_UNKNOWN: &[&str] = &[
    "host:after:unfencing",
    "act:after:unfence",
    "host:before:unknown_fence",
    "host:after:unknown_fence",
    "host:before:unfencing",
    "act:before:unfence",
    "host:before:unfenced",
    "host:after:unfenced",
];

/// The item of that kind which `state list` of a host shows of a dataset.
#[track_caller]
fn mark(bench: &Bench, host: &str, dataset: &str, kind: &str) -> serde_json::Value {
    let config = bench.site.dir.join(format!("{host}.toml")).display().to_string();
    let list = json(&zmigrate(&["--config", &config, "--output", "json", "state", "list", dataset]).must(0));
    let items = list["items"].as_array().unwrap();
    let it = items.iter().find(|item| item["kind"] == kind && item["dataset"] == dataset);
    it.unwrap_or_else(|| panic!("no {kind} of {dataset}: {list}")).clone()
}

fn a_pool_without_its_ledgers_tells_who_serves() {
    let mut bench = Bench::new();
    bench.write();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    bench.wait_for_records(3);
    bench.stop_writing();
    let (east, west, fence) = (bench.east(), format!("west:{}", bench.west()), format!("{id}:1"));
    let (before, snapshots) = (settings(&east), tags(&east));
    fs::remove_dir_all(bench.site.dir.join("east.state/cutover")).unwrap();
    // Nor does a daemon that starts without them take the fence away.
    drop(bench.site.start_daemon_here(&[]));
    let status = json(&bench.cutover(&["status"]).must(0));
    assert_eq!((status["cutovers"].as_array().unwrap().len(), status["units"].as_array().unwrap().len()), (0, 0));

    let fenced = mark(&bench, "east", &east, "fence");
    assert_eq!((&fenced["leg"], &fenced["side"]), (&fence.as_str().into(), &"source".into()), "{fenced}");
    let serving = mark(&bench, "west", &bench.west(), "serving");
    assert_eq!((&serving["leg"], &serving["side"]), (&fence.as_str().into(), &"target".into()), "{serving}");
    let text = bench.site.start(&["state", "list", &east]).wait(20).must(0).stdout;
    assert!(text.contains(&format!("zmigrate:fence={fence}")), "{text}");
    // It is no property that may be let go.
    let let_go = bench.site.start(&["state", "release", &east, "--yes"]).wait(20);
    let_go.must(2).says(&["zmigrate left nothing of that here"]);

    // Nothing is received into it, and it is neither snapshotted nor moved away from here once more.
    let is_fenced = format!("is fenced by cutover {fence}");
    bench.site.start(&["pull", &west, &east]).wait(60).must(3).says(&[&is_fenced]);
    let is_unknown = format!("ZFS shows the fence {fence}, which the journal here does not know");
    let moved_away = format!("was moved away by a cutover ({fence})");
    let copy = bench.site.w("in/copy");
    let push = ["push", &east, &format!("west:{copy}"), "--snapshot"];
    bench.site.start(&push).wait(60).must(3).says(&[&moved_away]);
    let elsewhere = bench.site.w("in/elsewhere");
    let to = format!("west:{elsewhere}");
    let start = ["cutover", "start", &east, &to, "--tries", "1", "--max-downtime", "60s", "--output", "json"];
    // So says what only looks, too.
    for dry in [&[][..], &["-n"]] {
        let refused = bench.site.start(&[&start[..], dry].concat()).wait(60).must(3);
        refused.says(&[
            &format!("takes part in cutover {id} already (unknown fence)"),
            &is_unknown,
            "restore the journal",
        ]);
    }
    // Nor over what serves.
    bench.start(&[]).wait(60).must(3).says(&["already (unknown fence)"]);

    assert!(!exists(&copy) && !exists(&elsewhere), "nothing was sent");
    assert_eq!((settings(&east), tags(&east)), (before, snapshots), "it is as it was left");
    assert_eq!(get(&bench.west(), "zmigrate:serving").0, fence);
    assert!(!is_writable(&east));
    assert!(bench.assert_one_side_has_it_all(), "west serves");

    // The one who serves is lost for ever, as good as: a person says so where the fence is.
    bench.site.bury_daemon();
    wait_for("the target to go", 20, || run("zfs", &["unmount", &bench.west()]).is_ok());
    let broken = bench.cutover(&["break", &id, "--here", "--i-have-destroyed-the-target"]).must(0);
    assert_eq!((json(&broken)["result"].as_str(), &json(&broken)["serves"]), (Some("broken"), &false.into()));
    assert_eq!(get(&east, "zmigrate:fence").0, "-");
    assert_eq!(get(&east, "readonly").0, "on", "what it was before, nobody here knows");
    zfs(&["set", "readonly=off", &east]);
    zfs(&["set", "canmount=on", &east]);
    zfs(&["mount", &east]);
    assert!(is_writable(&east));
}

/// The ledger here is older than the fence, and names a hook that starts writers: they must not start in what is read-only and not mounted.
fn crashes_while_an_unknown_fence_is_broken() {
    let mut bench = Bench::new();
    bench.write();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    json(&bench.cutover(&["back", &id]).must(0));
    bench.wait_for_records(3);
    let (east, ledgers) = (bench.east(), bench.site.dir.join("east.state/cutover"));
    let kept = bench.site.dir.join("kept");
    assert!(run("cp", &["-a", &ledgers.display().to_string(), &kept.display().to_string()]).is_ok());
    let newer = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    bench.stop_writing();
    bench.site.bury_daemon();
    wait_for("the target to go", 20, || run("zfs", &["unmount", &bench.west()]).is_ok());
    let (fence, fenced) = (get(&east, "zmigrate:fence").0, settings(&east));
    for point in chosen("breaking an unknown fence", BREAKS_UNKNOWN, 4) {
        fs::remove_dir_all(&ledgers).unwrap();
        assert!(run("cp", &["-a", &kept.display().to_string(), &ledgers.display().to_string()]).is_ok());
        zfs(&["set", &format!("zmigrate:fence={fence}"), &east]);
        assert_eq!(settings(&east), fenced, "{point}: it was fenced again");
        let word = ["cutover", "break", &newer, "--here", "--i-have-destroyed-the-target", "--output", "json"];
        let done = bench.site.start_with(&word, &[("ZMIGRATE_CRASH_AT", point)]).wait(60);
        assert_eq!(done.code, None, "{point} was not passed:\n{}{}", done.stdout, done.stderr);
        let again = bench.site.start(&word).wait(60);
        if point == "host:after:unfenced" {
            again.must(2).says(&["nor does a unit of this host take part in it"]);
        } else {
            assert_eq!(json(&again.must(0))["serves"], false, "{point}");
        }
        assert_eq!(
            (get(&east, "zmigrate:fence").0.as_str(), get(&east, "readonly").0.as_str()),
            ("-", "on"),
            "{point}"
        );
        assert!(!is_writable(&east) && !bench.site.dir.join("writer.pid").exists(), "{point}: nobody writes");
    }
}
