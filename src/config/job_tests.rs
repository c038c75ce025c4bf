//! What a `[job.NAME]` may hold, and what the errors look like.

use super::*;
use crate::{
    identity::When,
    plan::EncryptionMode,
    types::transfer::{Compression, Streams},
};

fn errors(text: &str) -> String {
    Config::parse(text, "z.toml").expect_err(text).to_string()
}

#[test]
fn a_job_with_every_key() {
    let text = r#"
        [job.db]
        direction = "push"
        dataset = "tank/db"
        recursive = true
        exclude = ["scratch", "*/cache"]
        exclude_property = "com.sun:auto-snapshot=false"
        peer = "dc2"
        target = "tank/in/db"
        cron = "30 2 * * mon-fri"
        time_zone = "Europe/Berlin"
        hours = "22:00-06:00"
        jobs = 4
        streams = 2
        compress = "zstd:7"
        encryption = "plain"
        bwlimit = "100M"
        bwlimit_hours = ["08:00-18:00 20M"]
        retries = 0
        retry_wait = "5s"
        snapshot = false
        prefix = "auto"
        keep = "24x1h"
        keep_peer = "last 3"
        destroy_deleted = "30d"
        verify = "7d"
        verify_content = true
        before = ["/bin/true", "a b"]
        after = "/bin/false"
        hook_timeout = "2m"
        max_lag = "1h"
        [job.plain]
        direction = "pull"
        dataset = "tank/db"
        peer = "zm://dc3:9000"
        target = "tank/copy"
    "#;
    let config = Config::parse(text, "z.toml").unwrap();
    let (db, plain) = (&config.jobs[&"db".parse().unwrap()], &config.jobs[&"plain".parse().unwrap()]);
    assert_eq!((db.exclude.len(), db.schedule.hours.len(), db.retries, db.snapshot), (2, 1, 0, false));
    assert_eq!(
        (db.before.as_slice(), db.after.as_slice()),
        (&["/bin/true".into(), "a b".into()][..], &["/bin/false".to_owned()][..])
    );
    assert_eq!((db.prefix.as_str(), db.keep.as_ref().unwrap().to_string().as_str()), ("auto", "24 × 1h"));
    assert_eq!((db.bandwidth.otherwise, db.bandwidth.by_hour[0].1), (Some(100 << 20), 20 << 20));
    assert_eq!((plain.snapshot, plain.retries, plain.prefix.as_str()), (false, 3, "plain"));
    assert_eq!((db.verify.map(|s| s.to_string()).as_deref(), db.verify_content), (Some("7d"), true));
    assert_eq!((plain.verify, plain.verify_content), (None, false));
    assert_eq!(db.destroy_deleted.map(|s| s.to_string()).as_deref(), Some("30d"));
    assert_eq!(
        (db.jobs, db.streams, db.compress, db.encryption),
        (4, Streams::Fixed(2), Compression::Zstd(7), EncryptionMode::Plain)
    );
    assert_eq!(
        (plain.jobs, plain.streams, plain.compress, plain.encryption),
        (1, Streams::Auto, Compression::Auto, EncryptionMode::Default)
    );
    assert!(plain.schedule.trigger.is_none() && plain.keep.is_none() && plain.destroy_deleted.is_none());
}

#[test]
fn mistakes_in_jobs_have_their_place() {
    const GOOD: &str = "[job.a]\ndirection = \"push\"\ndataset = \"t/a\"\npeer = \"b\"\ntarget = \"t/b\"\n";
    Config::parse(GOOD, "z.toml").unwrap();
    for (line, at, part) in [
        ("evry = \"1h\"", "6:1", "did you mean every?"),
        ("every = \"1 h\"", "6:9", "is not a time"),
        ("every = \"1h\"\ncron = \"@daily\"", "6:1", "cannot stand beside cron"),
        ("jitter = \"1m\"", "6:1", "belongs to every"),
        ("cron = \"* * *\"", "6:8", "has 3 fields"),
        ("time_zone = \"Mars/Olympus\"", "6:13", "no time zone"),
        ("hours = [\"8-18\"]", "6:10", "no range of hours"),
        ("keep = \"a lot\"", "6:8", "no rule for keeping"),
        ("snapshot = \"yes\"", "6:12", "true or false, not a string"),
        ("before = [\"true\"]", "6:10", "absolute path"),
        ("retries = 1000", "6:11", "must be 0 to 100"),
        ("streams = 17", "6:11", "write auto, or a number from 1 to 16"),
        ("streams = \"many\"", "6:11", "write auto, or a number from 1 to 16"),
        ("exclude = [\"a\"]", "6:1", "only recursive = true"),
        ("destroy_deleted = \"30d\"", "6:19", "only recursive = true"),
        ("recursive = true\ndestroy_deleted = \"23h\"", "7:19", "a day at least"),
        ("verify = \"59m\"", "6:10", "an hour at least"),
        ("verify_content = true", "6:1", "belongs to verify"),
        ("bwlimit = \"0\"", "6:11", "lets nothing through"),
        ("bwlimit_hours = [\"20M\"]", "6:18", "is not like"),
        ("prefix = \"a/b\"", "6:10", "prefix"),
        ("exclude_property = \"plain=1\"", "6:20", "no user property"),
    ] {
        let text = format!("{GOOD}{line}\n");
        let errors = errors(&text);
        assert!(errors.starts_with(&format!("z.toml:{at}: ")) && errors.contains(part), "{line}: {errors}");
    }
    for (text, part) in [
        (GOOD.replace("peer = \"b\"\n", ""), "[job.a] has no peer"),
        (GOOD.replace("\"push\"", "\"up\""), "must be \"push\", \"pull\" or \"local\""),
        (GOOD.replace("[job.a]", "[job.\"a/b\"]"), "job name"),
        (GOOD.replace("push", "pull") + "keep_peer = \"last 1\"\n", "is for jobs that push"),
        ("job = 1\n".to_owned(), "job must be a table"),
    ] {
        let errors = errors(&text);
        assert!(errors.contains(part), "{text}: {errors}");
    }
}

#[test]
fn a_job_of_this_host_alone_has_no_other_side() {
    const LOCAL: &str = "[job.a]\ndirection = \"local\"\ndataset = \"t/a\"\n";
    let job = |text: &str| Config::parse(text, "z.toml").unwrap().jobs.into_values().next().unwrap();
    let plain = job(LOCAL);
    assert!(plain.remote.is_none() && plain.snapshot && plain.word() == "local");
    assert!(!plain.sends(&plain.dataset), "it needs nothing of the dataset");
    let keys = "recursive = true\nexclude = \"x\"\nexclude_property = \"a:b=c\"\nsnapshot = false\nprefix = \"p\"\nkeep = \"last 1\"\nafter = \"/bin/true\"\nmax_lag = \"1d\"\n";
    let all = job(&format!("{LOCAL}{keys}"));
    assert_eq!((all.snapshot, all.max_lag.map(|span| span.as_s())), (false, Some(86_400)));
    // Whatever another side would be needed for is refused, each by its name, also beside what is missing of it.
    for line in [
        "peer = \"b\"",
        "target = \"t/b\"",
        "jobs = 1",
        "streams = 1",
        "compress = \"none\"",
        "encryption = \"raw\"",
        "bwlimit = \"1M\"",
        "bwlimit_hours = [\"08:00-18:00 20M\"]",
        "retries = 1",
        "retry_wait = \"1s\"",
        "keep_peer = \"last 1\"",
        "destroy_deleted = \"30d\"",
        "verify = \"7d\"",
        "verify_content = true",
    ] {
        let key = line.split(' ').next().unwrap();
        let errors = errors(&format!("{LOCAL}recursive = true\n{line}\n"));
        let said = format!("z.toml:5:1: job.a.{key} is nothing for direction = \"local\"");
        assert!(errors.contains(&said), "{line}: {errors}");
    }
    assert!(errors(&format!("{LOCAL}snapshot = false\n")).contains("[job.a] does nothing"));
    assert!(errors("[job.a]\ndirection = \"local\"\n").contains("[job.a] has no dataset"));
}

#[test]
fn jobs_that_are_in_each_others_way_are_found() {
    let job = |name: &str, target: &str, more: &str| {
        format!("[job.{name}]\ndirection = \"push\"\ndataset = \"t/a\"\npeer = \"b\"\ntarget = \"{target}\"\n{more}\n")
    };
    let found = |text: &str| {
        let findings = check(&Config::parse(text, "z").unwrap(), When::from_unix_s(1_767_225_600));
        findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let same = found(&(job("one", "t/x", "") + &job("two", "t/x/y", "")));
    assert!(same.contains("jobs one and two write into each other's target"), "{same}");
    assert!(same.contains("job one: there is no [peer.b]"), "{same}");
    let prune = |keep: &str| {
        job("one", "t/x", "prefix = \"p\"\nkeep = \"last 1\"") + &job("two", "t/y", &format!("prefix = \"p\"\n{keep}"))
    };
    assert!(found(&prune("keep = \"last 2\"")).contains("prune the same snapshots here by different rules"));
    for fine in ["keep = \"last 1\"", ""] {
        assert!(!found(&prune(fine)).contains("prune the same"), "{fine}");
    }
    // What each sends of the other's, nobody prunes at its target.
    let two = |of_one: &str, of_two: &str| found(&(job("one", "t/x", of_one) + &job("two", "t/y", of_two)));
    let grows = "they grow in number without end";
    assert!(two("keep_peer = \"last 2\"", "").contains(grows));
    assert!(two("keep_peer = \"last 2\"", "").contains("give both one prefix, with keep in one of them alone"));
    for (one, other) in [
        ("keep_peer = \"last 2\"\nprefix = \"p\"", "prefix = \"p\""),
        ("keep_peer = \"last 2\"", "snapshot = false"),
        ("", ""),
    ] {
        assert!(!two(one, other).contains(grows), "{one} {other}");
    }
    // One of this host alone: what it takes goes to the target of the other, and both prune here.
    let local = |of_one: &str, of_local: &str| {
        found(
            &(job("one", "t/x", of_one) + &format!("[job.l]\ndirection = \"local\"\ndataset = \"t/a\"\n{of_local}\n")),
        )
    };
    let grown = local("keep_peer = \"last 2\"", "");
    assert!(grown.contains(grows) && grown.contains("a target also gets those of l"), "{grown}");
    for (one, other) in [("keep_peer = \"last 2\"", "prefix = \"one\""), ("", "")] {
        assert!(!local(one, other).contains(grows), "{one} {other}");
    }
    let both = local("keep = \"last 2\"", "prefix = \"one\"\nkeep = \"last 1\"");
    assert!(both.contains("jobs l and one prune the same snapshots here by different rules"), "{both}");
    assert!(!both.contains("job l: ") && !both.contains("write into each other"), "{both}");
    // What one pulls, another one may prune: itself, or below it.
    let pulled = |recursive: &str, dataset: &str| {
        let pull = job("one", "t/x", &format!("recursive = {recursive}\nprefix = \"p\"\nkeep = \"last 1\""));
        let local = format!(
            "[job.l]\ndirection = \"local\"\ndataset = \"{dataset}\"\nrecursive = true\nsnapshot = false\nprefix = \"p\"\nkeep = \"last 2\"\n"
        );
        found(&(pull.replace("\"push\"", "\"pull\"") + &local)).contains("jobs l and one prune the same snapshots here")
    };
    assert!(pulled("false", "t/x") && pulled("true", "t/x/y"));
    // One above leaves it alone; and what is read there is on another host.
    assert!(!pulled("false", "t/x/y") && !pulled("true", "t") && !pulled("true", "t/a"));
    // A child that only one of them takes along.
    let below = |recursive: &str| {
        let two = job("two", "t/y", "").replace("\"t/a\"", "\"t/a/b\"");
        found(&(job("one", "t/x", &format!("keep_peer = \"last 2\"\nrecursive = {recursive}")) + &two))
    };
    assert!(below("true").contains(grows) && !below("false").contains(grows));
}
