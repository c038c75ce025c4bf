//! What goes wrong in a cutover: the source serves again, or one question is asked.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::bench::{Bench, is_writable, json, settings};
use crate::{
    Case, cases,
    common::run,
    process::wait_for,
    site::Site,
    zfs::{create, get, mounted, populate, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_quiesce_hook_that_fails,
        a_quiesce_hook_that_hangs,
        an_undeclared_hook_stops_it_before_anything,
        a_busy_mount_is_reported_and_the_source_serves,
        a_busy_mount_is_freed_when_asked,
        who_uses_nothing_of_it_is_not_ended,
        a_mount_that_stays_in_another_namespace_is_no_fence,
        a_target_that_does_not_come_up_is_held,
        a_target_that_does_not_come_up_is_left_again,
        a_target_that_never_gets_well_is_held,
        a_target_that_never_gets_well_is_left_again,
        a_full_target_gives_the_source_back,
        two_cutovers_of_one_dataset,
        a_peer_without_the_grant,
        an_outage_that_lasts_too_long_is_rolled_back,
        an_unreadable_ledger_stops_everything,
        a_target_that_is_lost_for_ever_is_left_by_a_persons_word,
        a_released_source_serves_when_break_says_so,
        a_signal_after_the_decision_waits_for_the_target,
    ]
}

/// Replaces a hook's script on one side.
fn break_hook(bench: &Bench, name: &str, text: &str) {
    fs::write(bench.site.dir.join(name), format!("#!/bin/bash\n{text}\n")).unwrap();
}

#[track_caller]
fn rolled_back(bench: &Bench, more: &[&str], why: &str) {
    let result = json(&bench.start(more).wait(120).must(8));
    assert_eq!(result["result"], "rolled_back");
    assert!(result["why"].as_str().unwrap().contains(why), "{result}");
    assert!(is_writable(&bench.east()) && !is_writable(&bench.west()));
}

fn a_quiesce_hook_that_fails() {
    let bench = Bench::new();
    bench.write();
    let stop = fs::read_to_string(bench.site.dir.join("stop.sh")).unwrap();
    break_hook(&bench, "stop.sh", "echo out of luck; exit 3");
    rolled_back(&bench, &["--tries", "1"], "out of luck");
    fs::write(bench.site.dir.join("stop.sh"), stop).unwrap();
    assert!(bench.writer_runs());
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all());
}

fn a_quiesce_hook_that_hangs() {
    let bench = Bench::with(Site::quiet(), "app", "[hook.hang]\nstop = [\"/bin/sleep\", \"1000\"]\ntimeout_s = 2\n");
    bench.write();
    rolled_back(&bench, &["--tries", "1", "--source-hook", "hang"], "hang");
    wait_for("the writer to run again", 20, || bench.writer_runs());
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all());
}

fn an_undeclared_hook_stops_it_before_anything() {
    let bench = Bench::new();
    bench.write();
    let result = json(&bench.start(&["--tries", "1", "--target-hook", "nowhere"]).wait(120).must(9));
    assert_eq!(result["result"], "needs_operator");
    assert!(result["needs"].as_str().unwrap().contains("declares no hook nowhere"), "{result}");
    assert!(bench.writer_runs() && is_writable(&bench.east()));
    let id = result["id"].as_str().unwrap();
    assert_eq!(json(&bench.cutover(&["abort", id]).must(0))["result"], "rolled_back");
}

fn a_busy_mount_is_reported_and_the_source_serves() {
    let bench = Bench::new();
    bench.write();
    let at = get(&bench.east(), "mountpoint").0;
    let mut holder = std::process::Command::new("sleep").arg("300").current_dir(&at).spawn().unwrap();
    let pid = holder.id().to_string();
    rolled_back(&bench, &["--tries", "1"], &pid);
    let _ = holder.kill();
    let _ = holder.wait();
    wait_for("the writer to run again", 20, || bench.writer_runs());
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all());
}

fn a_busy_mount_is_freed_when_asked() {
    let bench = Bench::new();
    bench.write();
    let at = get(&bench.east(), "mountpoint").0;
    let mut holder = std::process::Command::new("sleep").arg("300").current_dir(&at).spawn().unwrap();
    json(&bench.start(&["--kill-busy"]).wait(120).must(0));
    assert!(!holder.wait().unwrap().success());
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

/// A place that was unmounted already is a directory of another filesystem, whose users are none of ours.
fn who_uses_nothing_of_it_is_not_ended() {
    let bench = Bench::new();
    // Deeper than the place of what it is below, so it is unmounted first.
    let deep = bench.site.dir.join("a/place/of/its/own/deep/down");
    zfs(&["create", "-o", &format!("mountpoint={}", deep.display()), &format!("{}/wal", bench.east())]);
    bench.write();
    let sleeps = |at: &Path| std::process::Command::new("sleep").arg("300").current_dir(at).spawn().unwrap();
    let mut holder = sleeps(Path::new(&get(&bench.east(), "mountpoint").0));
    let mut bystander = sleeps(&bench.site.dir);
    json(&bench.start(&["-r", "--kill-busy"]).wait(120).must(0));
    assert!(!holder.wait().unwrap().success());
    assert!(bystander.try_wait().unwrap().is_none(), "it has nothing to do with it");
    let _ = bystander.kill();
    let _ = bystander.wait();
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

fn a_mount_that_stays_in_another_namespace_is_no_fence() {
    let bench = Bench::new();
    bench.write();
    let at = get(&bench.east(), "mountpoint").0;
    let mut holder = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "300"])
        .spawn()
        .unwrap();
    let pid = holder.id();
    let command = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    wait_for("a namespace of its own", 20, || command().trim() == "sleep");
    let who = format!("sleep ({pid}) has mounted, in a namespace of its own, {at}");
    let done = bench.start(&["--tries", "1", "--kill-busy"]).wait(120).says(&[&who]);
    assert!(holder.try_wait().unwrap().is_none(), "it is not ended");
    bench.assert_not_two_sides();
    let _ = holder.kill();
    let _ = holder.wait();
    // zfs-fuse cannot mount it again while it is mounted anywhere, so the way back may have had to wait.
    if done.code != Some(8) {
        let id = bench.status()["id"].as_str().unwrap().to_owned();
        assert_eq!(json(&bench.cutover(&["resume", &id]).must(8))["result"], "rolled_back");
    }
    wait_for("the writer to run again", 20, || bench.writer_runs());
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all());
}

fn a_target_that_does_not_come_up_is_held() {
    let bench = Bench::new();
    bench.write();
    let start = fs::read_to_string(bench.site.dir.join("start-west.sh")).unwrap();
    break_hook(&bench, "start-west.sh", "echo will not; exit 1");
    let result = json(&bench.start(&["--tries", "2"]).wait(120).must(9));
    let needs = result["needs"].as_str().unwrap();
    assert!(needs.contains("promoted and does not come up") && needs.contains("will not"), "{needs}");
    bench.assert_not_two_sides();
    assert!(!is_writable(&bench.east()), "the decision is made");
    let id = result["id"].as_str().unwrap();
    bench.cutover(&["abort", id]).must(3).says(&["the target is promoted"]);
    fs::write(bench.site.dir.join("start-west.sh"), start).unwrap();
    assert_eq!(json(&bench.cutover(&["resume", id]).must(0))["result"], "done");
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

fn a_target_that_does_not_come_up_is_left_again() {
    let bench = Bench::new();
    bench.write();
    break_hook(&bench, "start-west.sh", "exit 1");
    let result = json(&bench.start(&["--tries", "1", "--on-activate-failure", "return"]).wait(120).must(8));
    assert_eq!(result["result"], "rolled_back");
    assert!(result["why"].is_string(), "{result}");
    wait_for("the writer to run at home", 20, || bench.writer_runs());
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all(), "east serves again");
}

/// What a check that does not succeed is reported as.
const NOT_WELL: &str = "the check did not succeed within 2 s";

/// A bench with a hook `health`, whose start goes well, and its check once that file is there.
fn with_a_check() -> (Bench, PathBuf) {
    let site = Site::quiet();
    let well = site.dir.join("well");
    let check = format!("[\"/usr/bin/test\", \"-e\", \"{}\"]", well.display());
    let health = format!("[hook.health]\nstart = [\"/bin/true\"]\ncheck = {check}\ncheck_timeout_s = 2\n");
    (Bench::with(site, "app", &health), well)
}

/// Its programs have started, and write, when it is held.
fn a_target_that_never_gets_well_is_held() {
    let (bench, well) = with_a_check();
    bench.write();
    let result = json(&bench.start(&["--tries", "2", "--target-hook", "health"]).wait(120).must(9));
    assert_eq!(result["result"], "needs_operator");
    let needs = result["needs"].as_str().unwrap();
    assert!(needs.contains("promoted and does not come up") && needs.contains(NOT_WELL), "{needs}");
    bench.assert_not_two_sides();
    assert!(!is_writable(&bench.east()), "the decision is made");
    let id = result["id"].as_str().unwrap();
    bench.cutover(&["abort", id]).must(3).says(&["the target is promoted"]);
    fs::write(well, "").unwrap();
    assert_eq!(json(&bench.cutover(&["resume", id]).must(0))["result"], "done");
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

/// What its programs have written there by then comes home with it.
fn a_target_that_never_gets_well_is_left_again() {
    let (bench, _) = with_a_check();
    bench.write();
    let more = ["--tries", "1", "--on-activate-failure", "return", "--target-hook", "health"];
    let result = json(&bench.start(&more).wait(120).must(8));
    assert_eq!(result["result"], "rolled_back");
    assert!(result["why"].as_str().unwrap().contains(NOT_WELL), "{result}");
    wait_for("the writer to run at home", 20, || bench.writer_runs());
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all(), "east serves again");
}

/// A unit with values that it was given, that came in a stream, and, below it, that are inherited.
fn with_values_of_all_sources() -> Bench {
    let mut bench = Bench::new();
    let seed = bench.site.e("seed");
    for (name, values) in [("", &["readonly=off", "canmount=on", "setuid=off"][..]), ("/below", &[]), ("/own", &[])] {
        let name = format!("{seed}{name}");
        let mut args = vec!["create"];
        args.extend(values.iter().flat_map(|value| ["-o", value]));
        args.push(&name);
        zfs(&args);
    }
    zfs(&["snapshot", "-r", &format!("{seed}@s")]);
    bench.name = "got".into();
    let east = bench.east();
    run("sh", &["-c", &format!("zfs send -R {seed}@s | zfs receive {east}")]).unwrap();
    zfs(&["set", "canmount=on", &format!("{east}/below")]);
    zfs(&["set", "readonly=off", &format!("{east}/own")]);
    zfs(&["set", "exec=off", &east]);
    for name in ["", "/below", "/own"] {
        mounted(&format!("{east}{name}"));
    }
    let settings = settings(&east);
    for (name, value) in [
        ("", "readonly off received"),
        ("", "canmount on received"),
        ("", "exec off local"),
        ("/below", &format!("readonly off inherited from {east}")),
        ("/below", "canmount on local"),
        ("/own", "readonly off local"),
    ] {
        let line = format!("{east}{name} {value}");
        assert!(settings.contains(&line), "no {line}: {settings:#?}");
    }
    bench
}

fn a_full_target_gives_the_source_back() {
    let bench = with_values_of_all_sources();
    populate(&bench.east(), 1, 1_000_000);
    let before = settings(&bench.east());
    let armed = || {
        let running = bench.start(&["-r", "--hold", "--tries", "1"]);
        wait_for("the cutover to be armed", 60, || running.stderr().contains("all is ready"));
        let all = json(&bench.site.start(&["cutover", "status", "--output", "json"]).wait(20).must(0));
        let open = all["cutovers"].as_array().unwrap().iter().find(|c| c["over"] == false).unwrap().clone();
        (running, open["id"].as_str().unwrap().to_owned())
    };
    // Where hardly anything fits by now, nothing is stopped for it.
    let (running, id) = armed();
    crate::zfs::zfs(&["set", "quota=24M", &bench.site.w("in")]);
    bench.cutover(&["go", &id]).must(9);
    let result = json(&running.wait(60).must(9));
    let needs = result["needs"].as_str().unwrap();
    assert!(needs.contains("are free for") && result["downtime_ms"].is_null(), "{result}");
    bench.cutover(&["abort", &id]).must(0);
    // So much is written that the last delta does not fit any more.
    crate::zfs::zfs(&["set", "quota=none", &bench.site.w("in")]);
    let (running, id) = armed();
    crate::zfs::zfs(&["set", "quota=44M", &bench.site.w("in")]);
    // By what is about to stop, so that no pass meets it before.
    let big = Path::new(&get(&bench.east(), "mountpoint").0).join("big");
    let stop = fs::read_to_string(bench.site.dir.join("stop.sh")).unwrap();
    let writes = format!("[ -e {0} ] || head -c 60M /dev/urandom >{0}", big.display());
    break_hook(&bench, "stop.sh", &format!("{writes}\n{}", stop.trim_start_matches("#!/bin/bash\n")));
    bench.cutover(&["go", &id]).must(8);
    let result = json(&running.wait(60).must(8));
    assert_eq!(result["result"], "rolled_back");
    let why = result["why"].as_str().unwrap();
    assert!(why.contains("space") || why.contains("quota"), "{why}");
    // The fence had been set by then.
    let journal = bench.journal("east");
    assert!(journal.contains("\"fenced\"") && journal.contains("\"unfenced\""), "{journal}");
    assert_eq!(settings(&bench.east()), before, "values and their sources are what they were");
    assert!(is_writable(&bench.east()) && !is_writable(&bench.west()));
}

fn two_cutovers_of_one_dataset() {
    let bench = Bench::new();
    let running = bench.start(&["--hold"]);
    wait_for("the cutover to be armed", 60, || running.stderr().contains("all is ready"));
    let id = bench.status()["id"].as_str().unwrap().to_owned();
    bench.start(&[]).wait(60).must(3).says(&["is moving these datasets already"]);
    create(&bench.site.e("other"));
    let other = format!("west:{}", bench.west());
    bench.site.start(&["cutover", "start", &bench.site.e("other"), &other]).wait(60).must(3);
    bench.cutover(&["abort", &id]).must(0);
    running.wait(60).must(8);
}

fn a_peer_without_the_grant() {
    let mut site = Site::quiet();
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let app = site.source("app", 1000);
    let target = format!("west:{}", site.w("in/app"));
    site.start(&["cutover", "start", &app, &target]).wait(60).must(4).says(&["cutover"]);
    assert!(is_writable(&app));
}

fn an_outage_that_lasts_too_long_is_rolled_back() {
    let bench = Bench::new();
    bench.write();
    let stop = fs::read_to_string(bench.site.dir.join("stop.sh")).unwrap();
    fs::write(bench.site.dir.join("stop.sh"), stop.replace("#!/bin/bash\n", "#!/bin/bash\nsleep 4\n")).unwrap();
    rolled_back(&bench, &["--outage-limit", "2s"], "the outage would have taken longer than 2.0 s");
    fs::write(bench.site.dir.join("stop.sh"), stop).unwrap();
    wait_for("the writer to run again", 20, || bench.writer_runs());
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all());
}

fn a_target_that_is_lost_for_ever_is_left_by_a_persons_word() {
    for alone in [false, true] {
        let mut bench = Bench::new();
        bench.write();
        let done = bench.start_with(&[], &[("ZMIGRATE_CRASH_AT", "lead:after:sync")]).wait(120);
        assert_eq!(done.code, None);
        let id = bench.status()["id"].as_str().unwrap().to_owned();
        bench.site.bury_daemon();
        assert!(!is_writable(&bench.east()) && !is_writable(&bench.west()));
        if alone {
            // As on a source's host that is not the one where the cutover was started: the leader's ledger is not there.
            fs::remove_file(bench.site.dir.join(format!("east.state/cutover/lead-{id}.jsonl"))).unwrap();
        }
        bench.cutover(&["break", &id]).must(2).says(&["--i-have-destroyed-the-target"]);
        assert!(!is_writable(&bench.east()), "only that word does it");
        let result = json(&bench.cutover(&["break", &id, "--i-have-destroyed-the-target"]).must(0));
        assert_eq!(result["result"], "broken");
        assert!(is_writable(&bench.east()));
        wait_for("the writer to run again", 20, || bench.writer_runs());
        bench.wait_for_records(3);
        bench.stop_writing();
        assert!(!bench.assert_one_side_has_it_all(), "east serves");
    }
}

fn a_signal_after_the_decision_waits_for_the_target() {
    let bench = Bench::new();
    bench.write();
    let start = fs::read_to_string(bench.site.dir.join("start-west.sh")).unwrap();
    break_hook(&bench, "start-west.sh", &format!("sleep 5\n{start}"));
    let running = bench.start(&[]);
    wait_for("the target to come up", 60, || running.stderr().contains(": activate"));
    running.signal(rustix::process::Signal::INT);
    let result = json(&running.wait(60).must(0));
    assert_eq!(result["result"], "done", "what is decided is not left half way");
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

fn an_unreadable_ledger_stops_everything() {
    let bench = Bench::new();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    let dir = bench.site.dir.join("east.state/cutover");
    let host = fs::read_dir(&dir).unwrap().flatten().map(|e| e.path());
    let is_ledger = |name: &str| name.starts_with("host-") && name.ends_with(".jsonl");
    let host = host.into_iter().find(|p| is_ledger(&p.file_name().unwrap().to_string_lossy())).unwrap();
    let text = fs::read_to_string(&host).unwrap();
    // A torn last line is no harm; a line in the middle is.
    fs::write(&host, format!("{text}{{\"at\":\"20")).unwrap();
    bench.cutover(&["status"]).must(0);
    let mut lines: Vec<&str> = text.lines().collect();
    lines[1] = "{nonsense";
    fs::write(&host, lines.join("\n") + "\n").unwrap();
    let east = fs::read_to_string(&host).unwrap();
    bench.cutover(&["back", &id]).must(9);
    let told = bench.cutover(&["status"]).must(2).stdout;
    assert!(told.contains("line 2 cannot be read") && told.contains("nothing was changed"), "{told}");
    assert_eq!(fs::read_to_string(&host).unwrap(), east);
    std::thread::sleep(Duration::from_millis(10));
    assert!(!is_writable(&bench.east()) && is_writable(&bench.west()));
}

fn a_released_source_serves_when_break_says_so() {
    let mut bench = Bench::new();
    bench.write();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    bench.stop_writing();
    // As good as destroyed.
    bench.site.bury_daemon();
    wait_for("the target to go", 20, || run("zfs", &["unmount", &bench.west()]).is_ok());
    let told = json(&bench.cutover(&["break", &id, "--i-have-destroyed-the-target"]).must(0));
    assert!(is_writable(&bench.east()), "it said so: {told}");
    wait_for("the writer", 20, || bench.writer_runs());
}
