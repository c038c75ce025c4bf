//! Jobs with the real programs: from cron, side by side, one behind the other, and what their pruning never touches.

use std::{fs, os::unix::fs::PermissionsExt, thread::sleep, time::Duration};

use crate::{
    Case, cases, pin,
    process::{Done, wait_for},
    safety::SLOW_BYTES,
    site::{Site, zmigrate},
    zfs::{create, destroy, exists, get, populate, snapshot, tags, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        from_cron_it_is_silent_and_keeps_a_history,
        a_job_never_overlaps_itself,
        pruning_keeps_to_the_rules_and_to_its_own_snapshots,
        pruning_is_explained_and_n_changes_nothing,
        a_target_that_is_away_keeps_its_base,
        a_chain_of_three,
        a_paused_job_does_nothing,
        programs_run_around_the_snapshot,
        what_a_program_leaves_running_and_a_failure_after_the_snapshot,
        what_others_write_to_is_not_snapshotted,
        what_has_a_property_is_left_out,
        a_source_that_was_renamed_or_made_again,
        a_job_that_names_its_renamed_source_goes_on,
        what_is_deleted_at_the_source_goes_after_its_time,
        a_source_that_comes_back_from_its_copy_costs_no_copy,
        two_hosts_pull_in_the_same_second,
        what_a_peer_prunes_is_granted_and_its_own,
        lag_is_told_to_monitoring,
        kills_at_any_moment_cost_no_base,
    ]
}

/// A site whose east has these jobs. In the text, E and W stand for the pools.
fn site(jobs: &str) -> Site {
    let mut site = Site::quiet();
    site.more = in_pools(jobs, &site);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    site
}

/// Datasets below `E` and `W` as what they are called there; a word that only ends so is none.
pub fn in_pools(text: &str, site: &Site) -> String {
    text.replace("\"E/", &format!("\"{}/", site.east)).replace("\"W/", &format!("\"{}/", site.west))
}

pub fn job(name: &str, target: &str, more: &str) -> String {
    format!(
        "[job.{name}]\ndirection = \"push\"\ndataset = \"E/db\"\npeer = \"west\"\ntarget = \"W/in/{target}\"\nretries = 0\n{more}\n"
    )
}

/// Names are times to the second, so runs in the same second would each take a name a second ahead.
pub fn run(site: &Site, args: &[&str]) -> Done {
    sleep(Duration::from_millis(1100));
    site.start(args).wait(120)
}

pub fn json(done: &Done) -> serde_json::Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.stdout))
}

/// Snapshots of the job's own, oldest first.
pub fn own(dataset: &str) -> Vec<String> {
    let time = "db_2026-11-26T04:00:00Z".len();
    tags(dataset).into_iter().filter(|tag| tag.starts_with("db_2") && tag.len() == time).collect()
}

/// Renames; zfs-fuse takes some seconds to let go of what was mounted.
fn rename(from: &str, to: &str) {
    let _ = crate::common::run("zfs", &["unmount", from]);
    wait_for("a rename", 20, || crate::common::run("zfs", &["rename", from, to]).is_ok());
}

fn from_cron_it_is_silent_and_keeps_a_history() {
    let site = site(&job("db", "db", ""));
    let db = site.source("db", 100_000);
    let done = run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
    assert_eq!(own(&db).len(), 1);
    site.assert_equal(&db, &site.w("in/db"));
    populate(&db, 2, 10_000);
    let done = run(&site, &["job", "run", "db", "--output", "json"]).must(0);
    let report = json(&done);
    assert_eq!((&report["result"], &report["exit_code"], &report["attempts"]), (&"done".into(), &0.into(), &1.into()));
    site.assert_equal(&db, &site.w("in/db"));
    let history = json(&site.start(&["history", "db", "--output", "json"]).wait(20).must(0));
    let runs = history["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2, "{history}");
    assert_eq!((&runs[0]["by"], &runs[1]["by"]), (&"cron".into(), &"person".into()));
    assert!(runs.iter().all(|run| run["result"] == "done" && run["ended"].is_string()), "{history}");
    assert_eq!(runs[0]["steps"].as_array().unwrap().len(), 2, "s1 and the job's own: {history}");
    // The peer is away: it says so, with the exit code, and the snapshot was taken all the same.
    site.signal_daemon(rustix::process::Signal::KILL);
    let base = own(&db).pop().unwrap();
    let done = run(&site, &["job", "run", "db", "--cron"]).must(5).says(&["job db, run", "error:"]);
    assert_eq!(done.stdout, "");
    assert_eq!(own(&db).len(), 3);
    // What the peer has stays known, and what it lacks is counted here.
    let status = json(&site.start(&["status", "--output", "json"]).wait(20).must(0));
    let seen = &status["jobs"][0]["datasets"][0];
    assert_eq!((&seen["common"], &seen["unsent_snapshots"]), (&base.into(), &1.into()), "{seen}");
    let text = site.start(&["history"]).wait(20).must(0).stdout;
    assert!(text.contains("failed") && text.lines().count() >= 5, "{text}");
}

fn a_job_never_overlaps_itself() {
    let site = site(&job("db", "db", "bwlimit = \"2M\"\nmax_lag = \"1s\""));
    site.source("db", SLOW_BYTES);
    let first = site.start(&["job", "run", "db", "--cron"]);
    wait_for("the first run", 10, || !own(&site.e("db")).is_empty());
    let second = site.start(&["job", "run", "db", "--cron"]).wait(20).must(75);
    assert_eq!((second.stdout.as_str(), second.stderr.as_str()), ("", ""), "cron would send a mail");
    site.start(&["job", "run", "db"]).wait(20).must(75).says(&["job db is at work already"]);
    assert_eq!(own(&site.e("db")).len(), 1, "the second one took a snapshot");
    let status = json(&site.start(&["status", "--output", "json"]).wait(20).must(0));
    assert_eq!(status["jobs"][0]["state"], "running", "{status}");
    first.wait(60).must(0);
    // One that was killed leaves no lock, and shows in the history.
    populate(&site.e("db"), 7, SLOW_BYTES);
    let killed = site.start(&["job", "run", "db", "--cron"]);
    wait_for("the third run", 10, || own(&site.e("db")).len() == 2);
    // One went well before, and this one takes longer than the target may lag.
    sleep(Duration::from_millis(2100));
    let hangs = site.start(&["job", "run", "db", "--cron"]).wait(20).must(75);
    assert_eq!(hangs.stdout, "");
    hangs.says(&["job db is at work already", "since", "it may hang"]);
    drop(killed);
    let text = site.start(&["history", "db"]).wait(20).must(0).stdout;
    assert!(text.lines().last().unwrap_or_default().contains("interrupted"), "{text}");
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    site.assert_equal(&site.e("db"), &site.w("in/db"));
}

fn pruning_keeps_to_the_rules_and_to_its_own_snapshots() {
    let site = site(&job("db", "db", "keep = \"last 2\"\nkeep_peer = \"last 3\""));
    let db = site.source("db", 10_000);
    let target = site.w("in/db");
    for (round, foreign) in ["db_manual", "db_2026", "other_2026-01-01T00:00:00Z", "before-upgrade"].iter().enumerate()
    {
        populate(&db, round as u64, 1000);
        run(&site, &["job", "run", "db", "--cron"]).must(0);
        snapshot(&db, foreign);
    }
    let held = own(&db)[0].clone();
    zfs(&["hold", "mine", &format!("{db}@{held}")]);
    for round in 10..13 {
        populate(&db, round, 1000);
        run(&site, &["job", "run", "db", "--cron"]).must(0);
    }
    let (here, there) = (own(&db), own(&target));
    assert_eq!((here.len(), here[0].as_str()), (3, held.as_str()), "two by the rule, one held: {here:?}");
    assert_eq!(there.len(), 3, "{there:?}");
    for foreign in ["s1", "db_manual", "db_2026", "other_2026-01-01T00:00:00Z", "before-upgrade"] {
        for dataset in [&db, &target] {
            assert!(tags(dataset).iter().any(|tag| tag == foreign), "{foreign} is gone from {dataset}");
        }
    }
    let journal = fs::read_to_string(site.dir.join("east.state/journal.jsonl")).unwrap();
    assert!(journal.contains("\"what\":\"prune\"") && journal.contains("\"phase\":\"intent\""), "{journal}");
    // What is left is still a base.
    populate(&db, 20, 1000);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert_eq!(tags(&db).last(), tags(&target).last());
    zfs(&["release", "mine", &format!("{db}@{held}")]);
}

fn pruning_is_explained_and_n_changes_nothing() {
    let site = site(&job("db", "db", "keep = \"last 2\"\nkeep_peer = \"last 1\""));
    let db = site.source("db", 1000);
    // Taken by hand, so that there is something to explain.
    for at in ["db_2026-01-01T00:00:00Z", "db_2026-01-02T00:00:00Z"] {
        snapshot(&db, at);
    }
    site.push("db", "in/db", &[]).must(0);
    let before = (tags(&db), tags(&site.w("in/db")));
    let done = run(&site, &["prune", "-n", "db"]).must(0);
    assert_eq!((tags(&db), tags(&site.w("in/db"))), before);
    pin!(site, done.stdout, @r"
    EAST/db (source): 0 of 3 go
      keep  @s1
            was not made by this job
      keep  @db_[TIME]
            kept by: last 2
      keep  @db_[TIME]
            is the newest
    WEST/in/db (target): 1 of 3 go
      keep  @s1
            was not made by this job
      drop  @db_[TIME]
            no rule keeps it: last 1
      keep  @db_[TIME]
            is the newest
    1 snapshots would go; nothing was changed
    ");
    let explained = json(&run(&site, &["prune", "-n", "db", "--output", "json"]).must(0));
    assert_eq!((&explained["dropped"], &explained["dry_run"]), (&1.into(), &true.into()));
    run(&site, &["prune", "db"]).must(0);
    assert_eq!(tags(&db), before.0);
    assert_eq!(tags(&site.w("in/db")), ["s1", "db_2026-01-02T00:00:00Z"]);
}

/// One dataset to two targets. While the second is away nothing goes that it has not got, and its base stays.
fn a_target_that_is_away_keeps_its_base() {
    let near = job("near", "near", "prefix = \"db\"\nkeep = \"last 1\"\nkeep_peer = \"last 1\"");
    let far = job("far", "far", "prefix = \"db\"\nsnapshot = false");
    let site = site(&format!("{near}{far}"));
    let db = site.source("db", 1000);
    // The second has never run: what it has is not known, so all stays.
    for round in 0..3 {
        populate(&db, round, 1000);
        run(&site, &["job", "run", "near", "--cron"]).must(0);
    }
    assert_eq!(own(&db).len(), 3);
    run(&site, &["job", "run", "far", "--cron"]).must(0);
    let base = own(&db).last().unwrap().clone();
    for round in 3..8 {
        populate(&db, round, 1000);
        run(&site, &["job", "run", "near", "--cron"]).must(0);
    }
    let here = own(&db);
    assert_eq!((here.first(), here.len()), (Some(&base), 6), "the base of the second and what it lacks: {here:?}");
    assert_eq!(own(&site.w("in/near")).len(), 1);
    // It comes back, gets all of it, and then nothing is needed any more.
    run(&site, &["job", "run", "far", "--cron"]).must(0);
    assert_eq!(own(&site.w("in/far")).last(), own(&db).last());
    assert!(here.iter().all(|tag| own(&site.w("in/far")).contains(tag)));
    populate(&db, 9, 1000);
    run(&site, &["job", "run", "near", "--cron"]).must(0);
    assert_eq!(own(&db).len(), 2, "the newest, and the base of the second: {:?}", own(&db));
    run(&site, &["job", "run", "far", "--cron"]).must(0);
}

/// East pushes to west, which pushes on. What the end of the chain has not got stays in the middle, whatever the first
/// job's rules say.
fn a_chain_of_three() {
    let mut site = Site::quiet();
    site.more = in_pools(&job("db", "db", "keep = \"last 1\"\nkeep_peer = \"last 1\""), &site);
    let on = "[job.on]\ndirection = \"push\"\ndataset = \"W/in/db\"\npeer = \"zm://127.0.0.1:PORT\"\ntarget = \"W/end/db\"\nretries = 0\nprefix = \"db\"\nsnapshot = false\nkeep_peer = \"last 2\"\n";
    site.west_more = in_pools(on, &site);
    let grants = format!("{}[grant.west]\npush = [\"{}/end\"]\n", site.default_grant(), site.west);
    site.write_configs(&grants, None);
    let west = site.dir.join("west.toml");
    let with_port = |port: u16| {
        let text = fs::read_to_string(&west).unwrap();
        fs::write(&west, text.replace(":PORT", &format!(":{port}"))).unwrap();
    };
    // The daemon runs no job without a schedule, and one port stands for another until it is known.
    fs::write(&west, fs::read_to_string(&west).unwrap().replace(":PORT", ":1")).unwrap();
    site.start_daemon();
    fs::write(&west, fs::read_to_string(&west).unwrap().replace("zm://127.0.0.1:1\"", "zm://127.0.0.1:PORT\""))
        .unwrap();
    with_port(site.port);
    site.reload();
    let config = west.to_string_lossy().into_owned();
    let on = || zmigrate(&["--config", &config, "job", "run", "on", "--cron"]);
    let (db, middle, end) = (site.source("db", 1000), site.w("in/db"), site.w("end/db"));
    let first = |round: u64| {
        populate(&db, round, 1000);
        run(&site, &["job", "run", "db", "--cron"]).must(0)
    };
    first(0);
    first(1);
    assert_eq!(own(&middle).len(), 2, "the end has nothing yet, so all stays");
    on().must(0);
    let base = own(&end).last().unwrap().clone();
    (2..5).for_each(|round| drop(first(round)));
    assert_eq!(own(&middle).first(), Some(&base), "the base of the end is gone from the middle");
    assert_eq!((own(&db).len(), own(&middle).len()), (1, 4));
    on().must(0);
    assert_eq!(own(&end).len(), 2);
    first(6);
    on().must(0);
    assert_eq!(own(&end).last(), own(&db).last());
    // A snapshot of the middle's own would end the chain, so none is taken.
    let text = fs::read_to_string(&west).unwrap().replace("snapshot = false", "snapshot = true");
    fs::write(&west, text).unwrap();
    on().must(3).says(&["is the target of", "snapshot = false"]);
}

fn a_paused_job_does_nothing() {
    let site = site(&job("db", "db", ""));
    let db = site.source("db", 1000);
    site.start(&["job", "pause", "nope"]).wait(20).must(2).says(&["there is no job nope", "the configuration has: db"]);
    assert!(site.start(&["job", "pause", "db"]).wait(20).must(0).stdout.contains("is paused"));
    let done = run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str(), own(&db).len()), ("", "", 0));
    run(&site, &["job", "run", "db"]).must(3).says(&["is paused", "zmigrate job resume db"]);
    let list = site.start(&["job", "list"]).wait(20).must(0).stdout;
    assert!(list.contains("paused") && list.lines().all(|line| line.chars().count() <= 80), "{list}");
    site.start(&["job", "resume", "db"]).wait(20).must(0);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert_eq!(own(&db).len(), 1);
}

fn programs_run_around_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_string_lossy().into_owned()
    };
    let log = dir.path().join("log");
    let said = format!(
        "echo \"$ZMIGRATE_STAGE $ZMIGRATE_JOB $1 $ZMIGRATE_RESULT ${{ZMIGRATE_SNAPSHOT%%_*}}\" >> {}",
        log.display()
    );
    let hook = script("hook", &said);
    let site =
        site(&job("db", "db", &format!("before = [\"{hook}\", \"a b\"]\nafter = [\"{hook}\"]\nhook_timeout = \"2s\"")));
    let db = site.source("db", 1000);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert_eq!(fs::read_to_string(&log).unwrap(), "before db a b  db\nafter db  ok db\n");
    // One that fails keeps the snapshot from being taken, and nothing is sent.
    script("hook", &format!("{said}\n[ $ZMIGRATE_STAGE = after ] || {{ echo no room for this >&2; exit 3; }}"));
    run(&site, &["job", "run", "db", "--cron"]).must(6).says(&["the program `before` of job db", "no room for this"]);
    assert_eq!(own(&db).len(), 1);
    // What it stopped halfway is started again.
    let ran = fs::read_to_string(&log).unwrap();
    assert!(ran.ends_with("before db a b  db\nafter db  failed db\n"), "{ran}");
    // One that hangs is killed, with what it started.
    script("hook", "sleep 300 & sleep 300");
    run(&site, &["job", "run", "db", "--cron"]).must(6).says(&["took longer than 2s and was killed"]);
    assert_eq!(own(&db).len(), 1);
}

fn what_has_a_property_is_left_out() {
    let site = site(&job(
        "db",
        "db",
        "recursive = true\nexclude = [\"scratch\"]\nexclude_property = \"com.sun:auto-snapshot=false\"",
    ));
    let db = site.source("db", 1000);
    for below in ["a", "a/b", "c", "scratch"] {
        create(&format!("{db}/{below}"));
    }
    zfs(&["set", "com.sun:auto-snapshot=false", &format!("{db}/a")]);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    let there = |below: &str| exists(&site.w(&format!("in/db/{below}")));
    assert!(there("c") && !there("a") && !there("a/b") && !there("scratch"));
    assert!(
        own(&format!("{db}/a")).is_empty()
            && own(&format!("{db}/scratch")).is_empty()
            && own(&format!("{db}/c")).len() == 1
    );
    // A new child, and one that is taken in again.
    create(&format!("{db}/new"));
    zfs(&["inherit", "com.sun:auto-snapshot", &format!("{db}/a")]);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert!(there("new") && there("a/b"));
}

/// A hook's business is done when it ends: whom it started lives on. And what was snapshotted is sent, whatever comes after.
fn what_a_program_leaves_running_and_a_failure_after_the_snapshot() {
    let mut site = site("");
    let hook = site.dir.join("hook.sh");
    fs::write(&hook, "#!/bin/sh\n[ $ZMIGRATE_STAGE = before ] || exit 7\nsleep 300 & echo $! >$0.pid\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let hooks = format!("before = [{hook:?}]\nafter = [{hook:?}]\nhook_timeout = \"60s\"");
    site.more = in_pools(&job("db", "db", &hooks), &site);
    site.write_configs(&site.default_grant(), None);
    let db = site.source("db", 1000);
    let began = std::time::Instant::now();
    run(&site, &["job", "run", "db", "--cron"]).must(6).says(&["`after` of job db", "exit status: 7"]);
    assert!(began.elapsed() < Duration::from_secs(55), "it was waited for whom the program left");
    site.assert_equal(&db, &site.w("in/db"));
    let left = fs::read_to_string(site.dir.join("hook.sh.pid")).unwrap();
    crate::common::run("kill", &[left.trim()]).expect("what the program left was killed with it");
}

fn what_others_write_to_is_not_snapshotted() {
    let site = site(&job("db", "db", "recursive = true"));
    let db = site.source("db", 1000);
    let (own_child, target) = (format!("{db}/own"), format!("{db}/in"));
    create(&own_child);
    create(&target);
    zfs(&["set", "zmigrate:job=0000000000000000", &target]);
    zfs(&["set", "readonly=on", &target]);
    // As what is received is: what is mounted keeps to its mount, whatever the property says.
    zfs(&["unmount", &target]);
    run(&site, &["job", "run", "db"]);
    assert_eq!((own(&own_child).len(), own(&target).len()), (1, 0));
    // Moved away by a cutover: a snapshot of this host's own would keep it from coming home.
    zfs(&["set", "zmigrate:fence=00000001:1", &db]);
    run(&site, &["job", "run", "db", "--cron"]).must(3).says(&["was moved away by a cutover", "00000001:1"]);
    assert_eq!(own(&db).len(), 1);
}

/// Destroys a source as its owner would, who lets go of the holds of the job that writes `target`.
fn destroy_source(source: &str, target: &str) {
    wait_for("the end of the source", 10, || {
        let held = crate::common::run("zfs", &["list", "-H", "-r", "-t", "snapshot", "-o", "name", source])
            .unwrap_or_default();
        let tag = get(target, "zmigrate:job").0;
        held.lines().for_each(|name| drop(crate::common::run("zfs", &["release", &format!("zmigrate:{tag}"), name])));
        let _ = crate::common::run("zfs", &["unmount", source]);
        crate::common::run("zfs", &["destroy", "-r", source]).is_ok()
    });
}

/// Only where the job has a time for it, only after that time, and only what the job itself made.
fn what_is_deleted_at_the_source_goes_after_its_time() {
    let mut site = site(&job("db", "db", "recursive = true"));
    let db = site.source("db", 1000);
    for child in ["a", "a/b", "c", "d"] {
        create(&format!("{db}/{child}"));
        populate(&format!("{db}/{child}"), 1, 1000);
    }
    let target = |child: &str| site.w(&format!("in/db/{child}"));
    let mark = |child: &str| get(&target(child), "zmigrate:gone").0;
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    // Not of the job: it has nothing to do with what is gone at the source.
    create(&target("mine"));
    // Renamed: its snapshots live on.
    rename(&format!("{db}/d"), &format!("{db}/e"));
    destroy_source(&format!("{db}/a"), &target("a"));
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert!(exists(&target("a/b")) && mark("a") == "-", "without destroy_deleted nothing is even marked");

    let more = site.more.replace("recursive = true", "recursive = true\ndestroy_deleted = \"30d\"");
    let (a, a_b, c, d, mine) = (target("a"), target("a/b"), target("c"), target("d"), target("mine"));
    site.more = more;
    site.write_configs(&site.default_grant(), None);
    let gone = |dataset: &str| get(dataset, "zmigrate:gone").0;
    run(&site, &["job", "run", "db"]).must(0).says(&[&format!("{a} is gone at the source since"), "stays for 30d"]);
    let marked = gone(&a);
    assert!(
        marked.ends_with('Z') && gone(&a_b).ends_with('Z') && gone(&c) == "-" && gone(&d) == "-" && gone(&mine) == "-",
        "{marked}"
    );
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert_eq!(gone(&a), marked, "the time began anew");
    // Its time has come, but somebody made a snapshot there.
    let due = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(48);
    for dataset in [&a, &a_b] {
        zfs(&["set", &format!("zmigrate:gone=2026-01-01T00:00:00Z {due:.0}"), dataset]);
    }
    snapshot(&a, "by-hand");
    let said = run(&site, &["prune", "db", "-n"]).must(0).stdout;
    assert!(said.contains(&format!("{a_b} (target): would be destroyed")) && exists(&a_b), "{said}");
    assert!(said.contains("it was renamed and not deleted"), "{said}");
    run(&site, &["job", "run", "db"]).must(0).says(&[
        &format!("{a_b} was destroyed"),
        &format!("{a} is gone at the source for 30d, and stays: @by-hand was not made by this job"),
    ]);
    assert!(!exists(&a_b) && exists(&a));
    destroy(&format!("{a}@by-hand")).unwrap();
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert!(!exists(&a) && exists(&c) && exists(&d) && exists(&mine));
    // A run that cron began is silent about it, and the history is not.
    let history = json(&run(&site, &["history", "db", "--limit", "1", "--output", "json"]).must(0));
    let notes = history["runs"][0]["notes"].to_string();
    assert!(notes.contains(&format!("{a} was destroyed")), "{history}");
    site.assert_equal(&db, &site.w("in/db"));
}

/// After a loss the root is back first: what is below it is on its way, and not deleted.
fn a_source_that_comes_back_from_its_copy_costs_no_copy() {
    let site = site(&job("db", "db", "recursive = true\ndestroy_deleted = \"30d\""));
    let (db, there) = (site.source("db", 1000), site.w("in/db"));
    create(&format!("{db}/a"));
    populate(&format!("{db}/a"), 1, 1000);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    destroy_source(&db, &there);
    let bring_back = |name: &str| {
        let newest = own(&format!("{there}{name}")).pop().unwrap();
        let pipe = format!("zfs send {there}{name}@{newest} | zfs receive {db}{name}");
        crate::common::run("sh", &["-c", &pipe]).unwrap();
    };
    bring_back("");
    run(&site, &["job", "run", "db"]).must(0).says(&["may be on its way back", "nothing of", "counts as gone"]);
    let (a, gone) = (format!("{there}/a"), || get(&format!("{there}/a"), "zmigrate:gone").0);
    assert!(exists(&a) && gone() == "-", "it was marked: {}", gone());
    // When all is back it begins anew, as it was said.
    bring_back("/a");
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    let id = get(&there, "zmigrate:job").0;
    let west = site.dir.join("west.toml").to_string_lossy().into_owned();
    zmigrate(&["--config", &west, "state", "release", &there, "--job", &id, "--yes"]).must(0);
    site.start(&["state", "release", &db, "--job", &id, "--yes"]).wait(30).must(0);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert_ne!(get(&there, "zmigrate:job").0, id);
    destroy_source(&format!("{db}/a"), &there);
    run(&site, &["job", "run", "db"]).must(0).says(&[&format!("{a} is gone at the source since")]);
    assert!(gone().ends_with('Z'));
}

/// The second one's name is taken: it takes the next, and not nothing.
fn two_hosts_pull_in_the_same_second() {
    let mut site = site("");
    let (from, to) = (site.w("in/db"), site.e("copy"));
    create(&site.w("in"));
    create(&from);
    populate(&from, 1, 1000);
    site.more = format!(
        "[job.db]\ndirection = \"pull\"\ndataset = \"{from}\"\npeer = \"west\"\ntarget = \"{to}\"\nretries = 0\nsnapshot = true\n"
    );
    site.write_configs(&site.default_grant(), None);
    let now = jiff::Timestamp::now();
    let tag =
        |second: i64| format!("db_{}", (now + jiff::SignedDuration::from_secs(second)).strftime("%Y-%m-%dT%H:%M:%SZ"));
    // Taken by the other one, for as long as this one may need to come up.
    let taken: Vec<String> = (0..4).map(tag).collect();
    taken.iter().for_each(|tag| snapshot(&from, tag));
    site.start(&["job", "run", "db", "--cron"]).wait(60).must(0);
    let newest = own(&to).pop().unwrap();
    assert!(!taken.contains(&newest) && own(&from).contains(&newest), "{newest} of {:?}", own(&from));
}

fn a_source_that_was_renamed_or_made_again() {
    let site = site(&job("db", "db", "keep = \"last 1\"\nkeep_peer = \"last 1\"\nmax_lag = \"1h\"\nevery = \"1h\""));
    let db = site.source("db", 1000);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    let there = tags(&site.w("in/db"));
    rename(&db, &site.e("old"));
    run(&site, &["job", "run", "db", "--cron"]).must(6).says(&["there is no dataset", "it may have been renamed"]);
    assert_eq!(tags(&site.w("in/db")), there, "the target of a source that is gone was touched");
    // Another dataset of that name has nothing in common with the target, which stays as it is.
    create(&db);
    populate(&db, 5, 1000);
    run(&site, &["job", "run", "db", "--cron"]).must(3);
    assert_eq!(tags(&site.w("in/db")), there);
    let check = site.start(&["check"]).wait(20).must(2);
    assert!(check.stdout.contains("have no snapshot in common"), "{}", check.stdout);
    // The old one comes back, and goes on.
    for tag in tags(&db) {
        destroy(&format!("{db}@{tag}")).unwrap();
    }
    destroy(&db).unwrap();
    rename(&site.e("old"), &db);
    populate(&db, 6, 1000);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    assert_eq!(own(&site.w("in/db")).len(), 1);
    // What somebody made at the target goes only when a person says so, and once.
    snapshot(&site.w("in/db"), "theirs");
    run(&site, &["job", "run", "db", "--cron"]).must(3).says(&["--rollback destroys"]);
    run(&site, &["job", "run", "db", "--rollback"]).must(0).says(&["1 snapshot was destroyed"]);
    assert!(!tags(&site.w("in/db")).contains(&"theirs".to_owned()));
    // Deleted at the source: what is there stays.
    destroy_source(&db, &site.w("in/db"));
    run(&site, &["job", "run", "db", "--cron"]).must(6);
    assert!(own(&site.w("in/db")).len() == 1 && tags(&site.w("in/db")).contains(&"s1".to_owned()));
}

fn a_job_that_names_its_renamed_source_goes_on() {
    let mut site = site(&job("db", "db", "recursive = true\nkeep = \"last 1\"\nkeep_peer = \"last 2\""));
    let (db, there) = (site.source("db", 3_000_000), site.w("in/db"));
    create(&format!("{db}/a"));
    populate(&format!("{db}/a"), 1, 3_000_000);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    let (base, id, guid) = (own(&db).pop().unwrap(), get(&there, "zmigrate:job"), get(&there, "guid"));
    let renamed = site.e("renamed");
    rename(&db, &renamed);
    run(&site, &["job", "run", "db", "--cron"]).must(6).says(&["there is no dataset"]);
    site.more = site.more.replace(&format!("\"{db}\""), &format!("\"{renamed}\""));
    site.write_configs(&site.default_grant(), None);
    for (round, from) in [base, String::new()].into_iter().enumerate() {
        populate(&renamed, 10 + round as u64, 1000);
        populate(&format!("{renamed}/a"), 10 + round as u64, 1000);
        let from = if from.is_empty() { own(&renamed).pop().unwrap() } else { from };
        let report = json(&run(&site, &["job", "run", "db", "--output", "json"]).must(0));
        let datasets = report["replication"]["datasets"].as_array().unwrap();
        assert_eq!(datasets.len(), 2, "{report}");
        for dataset in datasets {
            // One step, from the base: what was sent before was not sent again.
            let steps = dataset["steps"].as_array().unwrap();
            let said: Vec<&str> = steps.iter().filter_map(|step| step["from"].as_str()).collect();
            let alone = steps.len() == 1 && said.len() == 1;
            // Where there are bookmarks, it may be one.
            assert!(alone && (said[0].ends_with(&from) || said[0].contains('#')), "not from {from} alone: {dataset}");
        }
        assert!(report["raw_bytes"].as_u64().unwrap() < 3_000_000, "{report}");
        assert_eq!((get(&there, "zmigrate:job"), get(&there, "guid")), (id.clone(), guid.clone()));
        // Its rules hold under the new name: the former base is let go of.
        let newest = own(&renamed);
        assert_eq!((newest.len(), own(&there).len(), own(&there).pop()), (1, 2, newest.last().cloned()));
    }
    let newest = own(&renamed).pop().unwrap();
    for below in ["", "/a"] {
        site.assert_same_files(&format!("{renamed}{below}@{newest}"), &format!("{there}{below}@{newest}"));
    }
    let bases = zfs(&["get", "-H", "-o", "value", "userrefs", &format!("{renamed}@{newest}")]);
    assert_eq!(bases.trim(), "1", "the base is held, once");
}

fn what_a_peer_prunes_is_granted_and_its_own() {
    let site = site(&job("db", "db", "keep_peer = \"last 1\""));
    let db = site.source("db", 1000);
    for round in 0..2 {
        populate(&db, round, 1000);
        run(&site, &["job", "run", "db", "--cron"]).must(0);
    }
    let target = site.w("in/db");
    assert_eq!(own(&target).len(), 1);
    // Without zmigrate:job it is no target of this job, and nothing goes.
    populate(&db, 3, 1000);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    zfs(&["set", "zmigrate:job=0000000000000000", &target]);
    snapshot(&db, "db_2020-01-01T00:00:00Z");
    let before = tags(&target);
    let done = run(&site, &["prune", "db"]);
    assert_eq!(tags(&target), before, "stdout: {} stderr: {}", done.stdout, done.stderr);
    // Without the grant, nothing at all.
    site.write_configs(&format!("[grant.east]\npull = [\"{}/in\"]\n", site.west), None);
    site.reload();
    run(&site, &["prune", "db"]).must(4);
    assert_eq!(tags(&target), before);
}

fn lag_is_told_to_monitoring() {
    let mut site = site(&job("db", "db", "every = \"1h\"\nmax_lag = \"1h\""));
    site.source("db", 1000);
    let check_at = |site: &Site, args: &[&str], code: i32, part: &str| {
        let done = site.start(&[&["check"], args].concat()).wait(20).must(code);
        assert!(done.stdout.starts_with(part), "{}", done.stdout);
        done.stdout
    };
    let check = |args: &[&str], code: i32, part: &str| check_at(&site, args, code, part);
    check(&[], 2, "ZMIGRATE CRITICAL - job db: nothing has been replicated yet");
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    let said = check(&[], 0, "ZMIGRATE OK - job db: ");
    assert!(said.contains("'db'=") && said.contains(";;3600;0"), "{said}");
    sleep(Duration::from_millis(2100));
    check(&["--max-lag", "1s"], 2, "ZMIGRATE CRITICAL - job db: ");
    check(&["--warn-lag", "1s"], 1, "ZMIGRATE WARNING - job db: ");
    check(&["nope"], 3, "ZMIGRATE UNKNOWN - there is no job nope");
    site.signal_daemon(rustix::process::Signal::KILL);
    run(&site, &["job", "run", "db", "--cron"]).must(5);
    check(&["db"], 1, "ZMIGRATE WARNING - job db: ");
    let status = site.start(&["status"]).wait(20).must(0).stdout;
    assert!(status.contains("failed") && status.lines().all(|line| line.chars().count() <= 80), "{status}");
    // One that cron starts has a limit and no schedule; one with neither is nobody's fault.
    for (without, code, part) in [
        ("every = \"1h\"\n", 1, "ZMIGRATE WARNING - job db: "),
        ("max_lag = \"1h\"", 3, "ZMIGRATE UNKNOWN - no job has"),
    ] {
        site.more = site.more.replace(without, "");
        site.write_configs(&site.default_grant(), None);
        check_at(&site, &[], code, part);
    }
}

/// Two jobs that prune by strict rules, killed at random, also while they prune: afterwards both targets converge, and what
/// was not theirs to prune is there.
fn kills_at_any_moment_cost_no_base() {
    let rules = "prefix = \"db\"\nkeep = \"last 1\"\nkeep_peer = \"last 1\"";
    let far = "prefix = \"db\"\nsnapshot = false\nkeep_peer = \"last 2\"";
    let site = site(&format!("{}{}", job("near", "near", rules), job("far", "far", far)));
    let db = site.source("db", 200_000);
    let seed = std::process::id();
    eprintln!("seed {seed}");
    let mut state = u64::from(seed);
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    // How long a run takes here tells when to kill one.
    let began = std::time::Instant::now();
    site.start(&["job", "run", "near", "--cron"]).wait(120).must(0);
    let takes_ms = began.elapsed().as_millis() as u64;
    let (mut killed, mut foreign) = (0, vec!["s1".to_owned()]);
    for round in 0..14u64 {
        populate(&db, round, 20_000);
        if round % 5 == 0 {
            let tag = format!("db_by-hand-{round}");
            snapshot(&db, &tag);
            foreign.push(tag);
        }
        sleep(Duration::from_millis(1100));
        let name = if draw(3) == 0 { "far" } else { "near" };
        let mut run = site.start(&["job", "run", name, "--cron"]);
        sleep(Duration::from_millis(draw(takes_ms)));
        killed += u32::from(!run.has_ended());
        // Dropped, it is killed if it still runs.
        drop(run);
        assert!(foreign.iter().all(|tag| tags(&db).contains(tag)), "round {round}: {:?}", tags(&db));
    }
    assert!(killed > 1, "only {killed} of 14 runs were killed");
    for name in ["near", "far", "near", "far"] {
        // The peer notices within seconds that an initiator is gone; on a busy machine the rest takes its time.
        wait_for("the lock of a run that was killed", 60, || {
            site.start(&["job", "run", name, "--cron"]).wait(240).code == Some(0)
        });
        sleep(Duration::from_millis(1100));
    }
    let (near, far) = (site.w("in/near"), site.w("in/far"));
    assert_eq!((tags(&near).last(), tags(&far).last()), (tags(&db).last(), tags(&db).last()));
    for dataset in [&db, &near, &far] {
        assert!(foreign.iter().all(|tag| tags(dataset).contains(tag)), "{dataset}: {:?}", tags(dataset));
    }
    let newest = tags(&db).last().unwrap().clone();
    site.assert_same_files(&format!("{db}@{newest}"), &format!("{far}@{newest}"));
    assert!(own(&near).len() <= 2 && own(&far).len() <= 3, "{:?} {:?}", own(&near), own(&far));
    let text = site.start(&["history", "--limit", "100"]).wait(20).must(0).stdout;
    assert!(text.contains("interrupted") && !text.contains("running"), "{text}");
}
