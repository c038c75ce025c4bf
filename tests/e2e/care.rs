//! What jobs do beside replicating: comparing both sides when it is time, and looking after a dataset of this host alone.

use std::fs;

use crate::{
    Case, cases,
    jobs::{in_pools, job, json, own, run},
    site::{Site, zmigrate},
    zfs::{create, populate, snapshot, tags},
};

pub fn cases() -> Vec<Case> {
    cases![a_verification_that_is_due_is_part_of_a_run, a_job_of_this_host_alone_prunes_what_others_took]
}

/// The `zfs` of west gives a snapshot of another dataset to look into than it is asked for, as long as a file is there.
fn a_verification_that_is_due_is_part_of_a_run() {
    let mut site = Site::quiet();
    site.west_more = site.wrapped_zfs(
        "other",
        "if [ -e \"$DIR/differs\" ] && [ \"$1\" = clone ]; then args=(); for a in \"$@\"; do args+=(\"${a/%in\\/db@s1/other@s1}\"); done; exec zfs \"${args[@]}\"; fi\nexec zfs \"$@\"\n",
    );
    let keys = "snapshot = false\nevery = \"1h\"\nmax_lag = \"1d\"\nverify = \"7d\"\nverify_content = true";
    site.more = in_pools(&job("db", "db", keys), &site);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    site.source("db", 10_000);
    let other = site.w("other");
    create(&other);
    populate(&other, 99, 5000);
    snapshot(&other, "s1");
    let report = json(&run(&site, &["job", "run", "db", "--output", "json"]).must(0));
    assert_eq!(report["verification"]["result"], "equal", "{report}");
    assert_eq!(report["verification"]["datasets"][0]["content"]["equal"], true, "{report}");
    let report = json(&run(&site, &["job", "run", "db", "--output", "json"]).must(0));
    assert!(report.get("verification").is_none(), "it was done just now: {report}");
    // Long ago, as far as the state tells.
    let file = site.dir.join("east.state/jobs/db.json");
    let age = || {
        let mut state: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        for key in ["since", "last", "good"] {
            state["verified"][key] = "2020-01-01T00:00:00Z".into();
        }
        fs::write(&file, state.to_string()).unwrap();
    };
    let check = |code: i32, part: &str| {
        let done = site.start(&["check"]).wait(20).must(code);
        assert!(done.stdout.starts_with(part), "{}", done.stdout);
    };
    check(0, "ZMIGRATE OK - job db: ");
    age();
    check(1, "ZMIGRATE WARNING - job db: ");
    fs::write(site.dir.join("differs"), "").unwrap();
    run(&site, &["job", "run", "db", "--cron"]).must(3).says(&["verification: ", "the content of @s1 differs"]);
    check(2, "ZMIGRATE CRITICAL - job db: the last verification found a difference: ");
    let history = json(&site.start(&["history", "db", "--output", "json"]).wait(20).must(0));
    let words: Vec<_> = history["runs"].as_array().unwrap().iter().map(|run| &run["verified"]).collect();
    assert_eq!(words, [&"equal".into(), &serde_json::Value::Null, &"different".into()], "{history}");
    assert_eq!(history["runs"][2]["result"], "different");
    let status = site.start(&["status"]).wait(20).must(0).stdout;
    assert!(status.contains("! the last verification found a difference"), "{status}");
    assert!(status.lines().all(|line| line.chars().count() <= 80), "{status}");
    // Each run goes on replicating; what was found stays found until somebody looks again.
    populate(&site.e("db"), 2, 1000);
    run(&site, &["job", "run", "db", "--cron"]).must(0);
    check(2, "ZMIGRATE CRITICAL - job db: ");
    fs::remove_file(site.dir.join("differs")).unwrap();
    let done = run(&site, &["job", "run", "db"]).must(0);
    assert!(done.stdout.contains("both sides compared and equal"), "{}", done.stdout);
    check(0, "ZMIGRATE OK - job db: ");
    // The peer is away: it is no verification, and the next run makes one.
    age();
    site.signal_daemon(rustix::process::Signal::KILL);
    run(&site, &["job", "run", "db", "--cron"]).must(5);
    check(1, "ZMIGRATE WARNING - job db: ");
}

fn a_job_of_this_host_alone_prunes_what_others_took() {
    let mut site = Site::quiet();
    let alone = "[job.tidy]\ndirection = \"local\"\ndataset = \"W/in/db\"\nprefix = \"db\"\nsnapshot = false\nkeep = \"last 1\"\n";
    site.west_more = in_pools(alone, &site);
    let pull = "[job.db]\ndirection = \"pull\"\ndataset = \"W/in/db\"\npeer = \"west\"\ntarget = \"E/copy\"\nretries = 0\nsnapshot = true\nkeep = \"last 2\"\n";
    site.more = in_pools(pull, &site);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let config = site.dir.join("west.toml").to_string_lossy().into_owned();
    let on_west = |args: &[&str]| zmigrate(&[&["--config", &config], args].concat());
    let (from, to) = (site.w("in/db"), site.e("copy"));
    create(&site.w("in"));
    create(&from);
    let pull = |round: u64| {
        populate(&from, round, 1000);
        run(&site, &["job", "run", "db", "--cron"]).must(0);
    };
    (0..3).for_each(pull);
    assert_eq!((own(&from).len(), own(&to).len()), (3, 2), "the one that pulls prunes nothing at its source");
    let said = on_west(&["prune", "-n", "tidy"]).must(0).stdout;
    assert!(said.contains("/in/db (local): 2 of 3 go") && own(&from).len() == 3, "{said}");
    let report = json(&on_west(&["job", "run", "tidy", "--output", "json"]).must(0));
    assert_eq!((&report["result"], &report["pruned"]), (&"done".into(), &2.into()), "{report}");
    assert_eq!(own(&from), own(&to)[1..], "the base of the one that pulls");
    pull(3);
    assert_eq!(tags(&from).last(), tags(&to).last());
    // One that it takes itself: the base stays beside it, until the other one has got it.
    let text = fs::read_to_string(&config).unwrap().replace("snapshot = false", "snapshot = true");
    fs::write(&config, text).unwrap();
    let base = own(&to).pop().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    on_west(&["job", "run", "tidy"]).must(0);
    let left = own(&from);
    assert!(left.len() >= 2 && left.contains(&base), "{base} of {left:?}");
    let status = on_west(&["status"]).must(0).stdout;
    assert!(status.contains("(this host alone)"), "{status}");
    let status = json(&on_west(&["status", "--output", "json"]).must(0));
    let job = &status["jobs"][0];
    assert_eq!((&job["direction"], job["peer"].is_null(), job["target"].is_null()), (&"local".into(), true, true));
    let check = on_west(&["check", "tidy"]).must(0).stdout;
    assert!(check.starts_with("ZMIGRATE OK - job tidy: the last run went well"), "{check}");
    on_west(&["job", "run", "tidy", "--rollback"]).must(2).says(&["no target to roll back"]);
}
