//! The commands for people: `doctor`, `state list`, `state release`.

use serde_json::Value;

use crate::{
    Case, cases,
    site::{Site, an_hour_ahead},
};

pub fn cases() -> Vec<Case> {
    cases![
        what_is_left_is_listed_and_let_go,
        a_run_at_work_is_not_disturbed,
        doctor_looks_at_both_sides,
        doctor_finds_a_clock_that_is_an_hour_off,
    ]
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// `zmigrate` on west, for what is kept there.
fn west(site: &Site, args: &[&str]) -> crate::process::Done {
    let config = site.dir.join("west.toml").to_string_lossy().into_owned();
    crate::site::zmigrate(&[&["--config", &config], args].concat())
}

/// A dataset of west that a push has made, with one snapshot of each side. Its job.
fn pushed(site: &Site) -> String {
    crate::common::run("zfs", &["create", &site.e("db")]).unwrap();
    crate::common::run("zfs", &["snapshot", &format!("{}@one", site.e("db"))]).unwrap();
    site.push("db", "in/db", &[]).must(0);
    let get = crate::common::run("zfs", &["get", "-H", "-o", "value", "zmigrate:job", &site.w("in/db")]);
    get.unwrap().trim().to_owned()
}

fn what_is_left_is_listed_and_let_go() {
    let site = Site::new();
    let job = pushed(&site);
    let list = west(&site, &["--output", "json", "state", "list", &site.west]).must(0);
    let list = json(&list.stdout);
    let items = list["items"].as_array().unwrap();
    let kind = |kind: &str| items.iter().find(|i| i["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {list}"));
    let (name, one) = (site.w("in/db"), format!("{}@one", site.w("in/db")));
    assert_eq!((&kind("hold")["name"], &kind("hold")["standing"]), (&Value::from(one.as_str()), &Value::from("base")));
    for what in ["job", "held", "hold"] {
        assert_eq!((&kind(what)["job"], &kind(what)["side"]), (&Value::from(job.as_str()), &Value::from("target")));
    }
    assert_eq!(kind("placeholder")["name"], Value::from(site.w("in")));
    // The fields that docs/json.md names.
    let fields: Vec<&str> = kind("hold").as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "bytes",
        "created_unix_s",
        "dataset",
        "guid",
        "job",
        "kind",
        "leg",
        "name",
        "seen",
        "side",
        "snapshot",
        "standing",
        "whole_dataset",
    ];
    assert_eq!(fields, expected);
    // A hold that cannot be listed is said so, aloud.
    let listed = list["holds_listed"].as_bool().unwrap();
    assert_eq!(kind("hold")["seen"], listed);
    let text = west(&site, &["state", "list", &site.west]).must(0);
    assert!(text.stdout.contains("@one") && text.stdout.contains(&job), "{}", text.stdout);
    assert_eq!(text.stderr.contains("cannot list holds"), !listed, "{}", text.stderr);
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.stdout);
    // Shown, and nothing done.
    let shown = west(&site, &["state", "release", "--job", &job, &site.west]).must(0);
    assert!(shown.stdout.contains("would release: hold") && shown.stdout.contains("starts over"), "{}", shown.stdout);
    west(&site, &["state", "release", "--job", &job, &site.west, "--yes", "-n"]).must(0);
    let again = west(&site, &["--output", "json", "state", "list", &site.west]).must(0);
    assert_eq!(json(&again.stdout)["items"].as_array().unwrap().len(), items.len());
    assert!(crate::common::run("zfs", &["destroy", &one]).is_err(), "{one} is still held");
    // Nothing is stale; and then all of the job goes, and the snapshot is free.
    let stale = west(&site, &["--output", "json", "state", "release", "--stale", &site.west, "--yes"]).must(0);
    assert_eq!(json(&stale.stdout)["items"], Value::Array(Vec::new()));
    let done = west(&site, &["--output", "json", "state", "release", "--job", &job, &site.west, "--yes"]).must(0);
    let done = json(&done.stdout);
    assert_eq!((&done["result"], &done["exit_code"]), (&"done".into(), &0.into()));
    assert!(done["items"].as_array().unwrap().iter().all(|i| i["released"] == true), "{done}");
    let journal = std::fs::read_to_string(site.dir.join("west.state/journal.jsonl")).unwrap();
    assert!(journal.contains("release_state") && journal.contains(&one), "{journal}");
    crate::common::run("zfs", &["destroy", &one]).unwrap();
    let left = west(&site, &["--output", "json", "state", "list", &name]).must(0);
    assert_eq!(json(&left.stdout)["items"], Value::Array(Vec::new()));
    west(&site, &["state", "list", &site.w("none")]).must(2).says(&["there is no dataset", "hint"]);
    west(&site, &["state", "release"]).must(2).says(&["--stale"]);
    west(&site, &["state", "release", "a b;c"]).must(2);
}

fn a_run_at_work_is_not_disturbed() {
    let site = Site::new();
    let job = pushed(&site);
    crate::common::run("zfs", &["snapshot", &format!("{}@two", site.e("db"))]).unwrap();
    std::fs::write(site.dir.join(&site.east).join("mnt/db/noise"), crate::common::noise(8 << 20, 1)).unwrap();
    crate::common::run("zfs", &["snapshot", &format!("{}@three", site.e("db"))]).unwrap();
    let mut run = site.start_push("db", "in/db", &["--bwlimit", "1M", "--progress", "json"]);
    run.until_transferred(64 << 10);
    let refused = west(&site, &["state", "release", "--job", &job, &site.west, "--yes"]).must(75);
    refused.says(&["is held by east", "nothing was let go"]);
    drop(run);
}

fn doctor_looks_at_both_sides() {
    let site = Site::new();
    crate::common::run("zfs", &["create", &site.w("in")]).unwrap();
    let done = site.start(&["--output", "json", "doctor", "west"]).wait(120);
    let report = json(&done.stdout);
    let checks = report["checks"].as_array().unwrap();
    let failed: Vec<&Value> = checks.iter().filter(|c| c["level"] == "fail").collect();
    // Other pools of this host are none of this trial's business.
    assert!(failed.iter().all(|c| c["topic"] == "pool"), "{failed:?}");
    let message = |topic: &str| -> Vec<&str> {
        checks.iter().filter(|c| c["topic"] == topic).filter_map(|c| c["message"].as_str()).collect()
    };
    assert_eq!(message("peer grant"), [format!("push of {}", site.w("in")), format!("pull of {}", site.w("in"))]);
    let pools = message("peer pool");
    assert!(pools.iter().all(|m| m.starts_with(&site.west)) && !pools.is_empty(), "only granted pools: {pools:?}");
    assert_eq!(report["facts"]["peer_identity"], "west");
    assert!(report["facts"]["round_trip_ms"].as_f64().unwrap() > 0.0 && report["facts"]["protocol"] == 1, "{report}");
    // A stranger's way ends at TLS, with the reason.
    let ca = crate::site::make_ca(&site.dir, "ca2");
    crate::site::issue(&ca, "east", &site.dir.join("east2"));
    let identity = site.dir.join("east2").to_string_lossy().into_owned();
    let stranger = site.start(&["--identity-dir", &identity, "doctor", "west"]).wait(120).must(4);
    assert!(stranger.stdout.contains("CA") && stranger.stdout.contains("→"), "{}", stranger.stdout);
    assert!(
        stranger.stdout.lines().all(|line| line.chars().count() <= 80 || line.contains("zme-")),
        "{}",
        stranger.stdout
    );
    // Nobody listens.
    site.start(&["-q", "doctor", "zm://127.0.0.1:1"]).wait(120).must(5).says(&["nothing listens there"]);
    site.start(&["-q", "doctor", "nosuchhost.invalid"]).wait(120).must(5).says(&["cannot be resolved"]);
    let broken = site.dir.join("broken.toml");
    std::fs::write(&broken, "nonsense = 1\n").unwrap();
    let broken = crate::site::zmigrate(&["--config", &broken.to_string_lossy(), "doctor"]).must(2);
    assert!(broken.stdout.contains("FAIL  config"), "{}", broken.stdout);
}

fn doctor_finds_a_clock_that_is_an_hour_off() {
    let mut site = Site::new();
    let here = an_hour_ahead();
    let here: Vec<(&str, &str)> = here.iter().map(|(name, value)| (&**name, &**value)).collect();
    // The finding about the peer's clock, and by how much that is ahead.
    let look = |site: &Site, environment: &[(&str, &str)]| -> (Value, i64) {
        let done = site.start_with(&["--output", "json", "doctor", "west"], environment).wait(120);
        let report = json(&done.stdout);
        let checks = report["checks"].as_array().unwrap();
        let failed: Vec<&Value> = checks.iter().filter(|c| c["level"] == "fail").collect();
        // Other pools of this host are none of this trial's business.
        assert!(failed.iter().all(|c| c["topic"] == "pool"), "{failed:?}");
        let clocks: Vec<&Value> = checks
            .iter()
            .filter(|c| c["topic"] == "peer" && c["message"].as_str().unwrap().starts_with("its clock is "))
            .collect();
        let [clock] = clocks[..] else { panic!("one finding about the clock: {report}") };
        if failed.is_empty() && clock["level"] == "warn" {
            assert_eq!((done.code, &report["result"]), (Some(1), &"warnings".into()), "{report}");
        }
        assert_eq!(report["exit_code"].as_i64(), done.code.map(i64::from), "{report}");
        (clock.clone(), report["facts"]["clock_skew_ms"].as_i64().unwrap())
    };
    // How long the question was on its way is in it.
    let an_hour = 3_600_000 - 300_000..3_600_000 + 300_000;
    let must_warn = |clock: &Value, words: &str| {
        assert_eq!((&clock["level"], &clock["exit_code"]), (&"warn".into(), &1.into()), "{clock}");
        assert!(clock["message"].as_str().unwrap().ends_with(words), "{clock}");
        let hint = clock["hint"].as_str().unwrap();
        assert!(hint.contains("set the clock") && hint.contains("timedatectl") && hint.contains("west"), "{clock}");
    };
    let (clock, skew_ms) = look(&site, &[]);
    assert_eq!((&clock["level"], &clock["hint"]), (&"ok".into(), &Value::Null), "{clock}");
    assert!(skew_ms.abs() < 60_000, "{skew_ms} ms");
    let (clock, skew_ms) = look(&site, &here);
    assert!(an_hour.contains(&-skew_ms), "{skew_ms} ms");
    must_warn(&clock, "min behind ours");
    site.bury_daemon();
    site.daemon_environment = an_hour_ahead();
    site.start_daemon();
    let (clock, skew_ms) = look(&site, &[]);
    assert!(an_hour.contains(&skew_ms), "{skew_ms} ms");
    must_warn(&clock, "min ahead of ours");
}
