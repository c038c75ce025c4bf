//! The way there, and back, under a writer.

use super::bench::{Bench, is_writable, json, settings};
use crate::{
    Case, cases,
    process::wait_for,
    site::{Site, zmigrate},
    zfs::{create, exists, get, populate},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_writer_goes_on_at_the_target,
        there_and_back_ten_times,
        a_tree_moves_from_the_peer_to_here,
        held_until_go,
        an_abort_gives_all_back,
        completed_means_destroyed,
        proved_by_content,
        without_hooks_it_is_fenced_alone,
    ]
}

fn a_writer_goes_on_at_the_target() {
    let bench = Bench::new();
    populate(&bench.east(), 1, 3_000_000);
    bench.write();
    let done = bench.start(&[]).wait(120).must(0);
    let result = json(&done);
    assert_eq!(result["result"], "done");
    let id = result["id"].as_str().unwrap().to_owned();
    assert!(result["downtime_ms"].as_u64().unwrap() > 0 && result["predicted_downtime_ms"].as_u64().unwrap() > 0);
    assert!(result["passes"].as_u64().unwrap() >= 2);
    bench.wait_for_records(20);
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all(), "west serves");
    assert_eq!(get(&bench.east(), "readonly"), ("on".into(), "local".into()));
    assert_eq!(get(&bench.east(), "zmigrate:fence").0, format!("{id}:1"));
    assert_eq!(get(&bench.west(), "zmigrate:serving").0, format!("{id}:1"));
    let status = bench.status();
    assert_eq!((&status["phase"], &status["id"]), (&"done".into(), &result["id"]));
    assert_eq!(status["needs"], serde_json::Value::Null);
    assert_eq!((&status["proof"]["means"], &status["proof"]["written"]), (&"digest".into(), &0.into()));
    // What replicated here before does not any more: neither into what serves, nor into what is fenced.
    let (east, west) = (bench.east(), format!("west:{}", bench.west()));
    bench.site.start(&["push", &east, &west]).wait(60).must(3).says(&["is the writable side since cutover"]);
    bench.site.start(&["pull", &west, &east]).wait(60).must(3).says(&["is fenced by cutover"]);
}

fn there_and_back_ten_times() {
    let bench = Bench::new();
    let before = settings(&bench.east());
    bench.write();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    assert!(bench.assert_one_side_has_it_all(), "leg 1");
    for leg in 2..=20 {
        bench.wait_for_records(3);
        let result = json(&bench.cutover(&["back", &id]).must(0));
        assert_eq!(result["result"], "done", "leg {leg}");
        bench.wait_for_records(3);
        assert_eq!(bench.assert_one_side_has_it_all(), leg % 2 == 1, "leg {leg}");
    }
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all());
    // All but the mark of what serves.
    let own = |settings: Vec<String>| settings.into_iter().filter(|line| !line.contains(" zmigrate:serving "));
    let now: Vec<String> = own(settings(&bench.east())).collect();
    assert_eq!(now, own(before).collect::<Vec<_>>(), "home again with its own properties");
}

fn a_tree_moves_from_the_peer_to_here() {
    let bench = Bench::new();
    let (from, to) = (bench.site.w("in/db"), bench.site.e("db"));
    for name in ["", "/data", "/data/below", "/wal"] {
        create(&format!("{from}{name}"));
        populate(&format!("{from}{name}"), 3, 200_000);
    }
    crate::zfs::zfs(&["set", "canmount=off", &format!("{from}/wal")]);
    let place = bench.site.dir.join("elsewhere");
    crate::zfs::zfs(&["set", &format!("mountpoint={}", place.display()), &format!("{from}/data")]);
    let args = ["cutover", "start", &format!("west:{from}"), &to, "--max-downtime", "60s", "--output", "json"];
    bench.site.start(&args).wait(60).must(3).says(&["is below what moves", "-r"]);
    let result = json(&bench.site.start(&[&args[..], &["-r"]].concat()).wait(120).must(0));
    assert_eq!(result["result"], "done");
    for name in ["", "/data", "/data/below"] {
        assert!(is_writable(&format!("{to}{name}")), "{to}{name}");
        assert!(!is_writable(&format!("{from}{name}")), "{from}{name}");
    }
    assert_eq!(get(&format!("{to}/wal"), "canmount"), ("off".into(), "local".into()));
    assert_eq!(get(&format!("{to}/data"), "mountpoint").0, place.display().to_string());
    assert!(place.join("below/text").exists() || place.join("text").exists());
    let tag = crate::zfs::tags(&to).into_iter().next_back().unwrap();
    for name in ["", "/data", "/data/below", "/wal"] {
        bench.site.assert_same_files(&format!("{from}{name}@{tag}"), &format!("{to}{name}@{tag}"));
    }
}

fn held_until_go() {
    let bench = Bench::new();
    bench.write();
    let running = bench.start(&["--hold"]);
    wait_for("the cutover to be armed", 60, || running.stderr().contains("all is ready"));
    let status = bench.status();
    assert_eq!(status["phase"], "armed");
    assert!(status["needs"].as_str().unwrap().contains("cutover go"), "{status}");
    let id = status["id"].as_str().unwrap().to_owned();
    assert!(bench.writer_runs() && is_writable(&bench.east()));
    bench.cutover(&["complete", &id]).must(3).says(&["the only copy that counts"]);
    // What comes into being while it holds comes up as well.
    let late = format!("{}/late", bench.east());
    create(&late);
    populate(&late, 3, 1000);
    let newest = |status: &serde_json::Value| {
        let passes = status["pass_reports"].as_array().unwrap();
        passes.last().unwrap()["number"].as_u64().unwrap()
    };
    wait_for("status to tell of a pass while it holds", 60, || newest(&bench.status()) > newest(&status));
    let said = bench.cutover(&["go", &id]).must(0);
    assert_eq!(json(&said)["result"], "done");
    assert_eq!(json(&running.wait(60).must(0))["result"], "done");
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
    let late = format!("{}/late", bench.west());
    assert!(is_writable(&late) && get(&late, "mounted").0 == "yes");
}

fn an_abort_gives_all_back() {
    let bench = Bench::new();
    let before = settings(&bench.east());
    bench.write();
    let running = bench.start(&["--hold"]);
    wait_for("the cutover to be armed", 60, || running.stderr().contains("all is ready"));
    let id = bench.status()["id"].as_str().unwrap().to_owned();
    let aborted = json(&bench.cutover(&["abort", &id]).must(0));
    assert_eq!(aborted["result"], "rolled_back");
    assert_eq!(json(&running.wait(60).must(8))["result"], "rolled_back");
    assert!(bench.writer_runs(), "the source's writer was not stopped");
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all(), "east serves");
    assert_eq!(settings(&bench.east()), before);
    // And it can be begun again.
    bench.write();
    json(&bench.start(&[]).wait(120).must(0));
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

fn proved_by_content() {
    let bench = Bench::new();
    populate(&bench.east(), 1, 1_000_000);
    bench.write();
    let result = json(&bench.start(&["--verify", "content"]).wait(180).must(0));
    let proof = bench.status()["proof"].clone();
    assert_eq!((&proof["means"], &proof["equal"]), (&"content".into(), &true.into()), "{result}");
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

fn completed_means_destroyed() {
    let bench = Bench::new();
    bench.write();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    bench.stop_writing();
    assert!(exists(&bench.east()));
    assert_eq!(json(&bench.cutover(&["complete", &id]).must(0))["result"], "completed");
    assert!(!exists(&bench.east()) && is_writable(&bench.west()));
    bench.cutover(&["back", &id]).must(3).says(&["the source is destroyed"]);
    let journal = std::fs::read_to_string(bench.site.dir.join("east.state/journal.jsonl")).unwrap();
    assert!(journal.contains("destroy_released"), "{journal}");
    // There is nothing to break at the side that serves, nor where nothing is left, and nobody says that there was.
    let west = bench.site.dir.join("west.toml").display().to_string();
    let broken =
        |config: &str| zmigrate(&["--config", config, "cutover", "break", &id, "--i-have-destroyed-the-target"]);
    broken(&west).must(3).says(&["is the target of cutover", "no fence that could be broken"]);
    assert!(is_writable(&bench.west()));
    // A new cutover brings it home all the same.
    bench.write();
    let (from, to) = (format!("west:{}", bench.west()), bench.east());
    let home = ["cutover", "start", &from, &to, "--hook", "writer", "--max-downtime", "60s", "--output", "json"];
    assert_eq!(json(&bench.site.start(&home).wait(120).must(0))["result"], "done");
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all(), "east serves again");
    // There and back again: what is left is at the peer then, which was a target before it was the source.
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    bench.cutover(&["back", &id]).must(0);
    assert!(exists(&bench.west()));
    bench.cutover(&["complete", &id]).must(0);
    assert!(!exists(&bench.west()) && is_writable(&bench.east()));
}

fn without_hooks_it_is_fenced_alone() {
    let mut site = Site::quiet();
    let grants = format!("{}cutover = [\"{}/in\"]\n", site.default_grant(), site.west);
    site.write_configs(&grants, None);
    site.start_daemon();
    let app = site.source("app", 100_000);
    let target = format!("west:{}", site.w("in/app"));
    let text = site.start(&["cutover", "start", &app, &target, "--max-downtime", "60s"]).wait(60).must(0);
    assert!(text.stdout.contains(": done. west:") && text.stdout.contains("is read-only"), "{}", text.stdout);
    assert!(!is_writable(&app) && is_writable(&site.w("in/app")));
    site.assert_same_files(&format!("{app}@s1"), &site.w("in/app@s1"));
}
