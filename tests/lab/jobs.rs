//! Jobs on OpenZFS, started as cron does: a tree that is pruned on both sides, a peer that is away, what monitoring is told, and a
//! child that is deleted at the source.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    Case,
    guest::{Guest, Said},
    world::{DIR, Pair, World},
};

pub const CASES: &[Case] = &[("job_of_a_tree_is_pruned_on_both_sides", of_a_tree)];

const SOURCE: &str = "tank/src/jobs";
const TARGET: &str = "tank/dst/jobs";

/// Writes `NAME.toml` in a guest: what all trials share, and these jobs.
pub fn configure(guest: Guest, name: &str, jobs: &str) {
    guest.sh(&format!("cat {DIR}/zmigrate.toml - >{DIR}/{name}.toml <<'END'\n{jobs}\nEND"));
}

/// Runs `zmigrate` under the configuration `NAME.toml`.
pub fn zmigrate(guest: Guest, name: &str, args: &str) -> Said {
    guest.ask(&format!("zmigrate --config {DIR}/{name}.toml {args}"))
}

/// The report of a command that must end with that code.
#[track_caller]
fn report(name: &str, args: &str, code: i32) -> Value {
    let said = zmigrate(Guest(1), name, &format!("{args} --output json"));
    assert_eq!(said.code, code, "{args}: {}{}", said.out, said.err);
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{args}: {e}: {}", said.out))
}

/// Changes the root and runs the job as cron does: what went well is silent.
#[track_caller]
fn cron(name: &str, code: i32) -> Said {
    Guest(1).sh(&format!("head -c 100K /dev/urandom >/{SOURCE}/noise"));
    let said = zmigrate(Guest(1), name, "job run jobs --cron");
    assert_eq!((said.code, said.out.as_str()), (code, ""), "{}", said.err);
    assert_eq!(said.err.is_empty(), code == 0, "{}", said.err);
    said
}

/// `tag guid` of the snapshots of each dataset of a tree, oldest first, by its name below the root.
#[track_caller]
fn snapshots(guest: Guest, root: &str) -> BTreeMap<String, Vec<String>> {
    let mut tree: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in guest.sh(&format!("zfs list -Hp -r -t snapshot -s createtxg -o name,guid {root}")).lines() {
        let (dataset, snapshot) = line.split_once('@').unwrap();
        let below = dataset.strip_prefix(root).unwrap();
        tree.entry(below.to_owned()).or_default().push(snapshot.replace('\t', " "));
    }
    tree
}

/// Both sides' snapshots, after it was seen that nobody's own snapshot is missing and that each dataset has its base: the newest
/// snapshot of the target, held there, is what the one bookmark of the source means.
#[track_caller]
fn both_sides() -> [BTreeMap<String, Vec<String>>; 2] {
    let (one, two) = (Guest(1), Guest(2));
    let sides = [snapshots(one, SOURCE), snapshots(two, TARGET)];
    let job = two.get(TARGET, "zmigrate:job");
    let bookmarks = one.sh(&format!("zfs list -H -r -t bookmark -o name {SOURCE}"));
    let holds = two.sh(&format!("zfs holds -H $(zfs list -H -r -t snapshot -o name {TARGET}) | cut -f 1,2"));
    let (mut bases, mut held) = (Vec::new(), Vec::new());
    for (below, there) in &sides[1] {
        assert!(there[0].starts_with("by-hand "), "{below}: {there:?}");
        let (tag, guid) = there.last().unwrap().split_once(' ').unwrap();
        held.push(format!("{TARGET}{below}@{tag}\tzmigrate:{job}"));
        if let Some(here) = sides[0].get(below) {
            assert!(here[0].starts_with("by-hand "), "{below}: {here:?}");
            bases.push(format!("{SOURCE}{below}#zmigrate:{job}:{guid}"));
        }
    }
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    held.sort();
    bases.sort();
    assert_eq!(sorted(&bookmarks), bases, "bookmarks of the source");
    assert_eq!(sorted(&holds), held, "holds of the target");
    sides
}

/// The tags of the job's own snapshots, oldest first.
fn own(tree: &BTreeMap<String, Vec<String>>, below: &str) -> Vec<String> {
    let of_dataset = tree.get(below).into_iter().flatten();
    of_dataset.filter(|s| s.starts_with("jobs_2")).map(|s| s.split(' ').next().unwrap().to_owned()).collect()
}

/// What `prune` reports as gone, taken away from what there was.
fn without(side: usize, tree: &BTreeMap<String, Vec<String>>, report: &Value) -> BTreeMap<String, Vec<String>> {
    let root = [SOURCE, TARGET][side];
    let mut left = tree.clone();
    for dataset in report["datasets"].as_array().unwrap().iter().filter(|d| d["side"] == ["source", "target"][side]) {
        let below = dataset["dataset"].as_str().unwrap().strip_prefix(root).unwrap();
        let snapshots = dataset["snapshots"].as_array().unwrap();
        let gone = |s: &String| {
            snapshots
                .iter()
                .any(|told| told["keep"] == false && s.starts_with(&format!("{} ", told["tag"].as_str().unwrap())))
        };
        left.get_mut(below).unwrap().retain(|s| !gone(s));
    }
    left
}

fn of_a_tree(w: &World) {
    let below = ["", "/a", "/vol"];
    let job = |more: &str| {
        format!(
            "[job.jobs]\ndirection = \"push\"\ndataset = \"{SOURCE}\"\nrecursive = true\npeer = \"node2\"\ntarget = \"{TARGET}\"\nretries = 0\n{more}"
        )
    };
    w.pair("jobs", 1);
    w.one.sh(&format!("zfs create {SOURCE}/a; zfs create -V 8M {SOURCE}/vol; zfs snapshot -r {SOURCE}@by-hand"));
    configure(w.one, "jobs", &job(""));
    // Without rules all of it stays. Of the first snapshot somebody wants to keep the root's.
    for _ in 0..3 {
        cron("jobs", 0);
    }
    let [here, there] = both_sides();
    let taken = own(&here, "");
    assert_eq!(taken.len(), 3, "{here:?}");
    assert_eq!(here, there);
    assert!(below.iter().all(|name| own(&here, name) == taken), "one name for the whole tree: {here:?}");
    w.one.sh(&format!("zfs hold mine {SOURCE}@{}", taken[0]));

    // What prune -n says is what goes, and it changes nothing itself.
    configure(w.one, "jobs", &job("keep = \"last 2\"\nkeep_peer = \"last 1\""));
    let planned = report("jobs", "prune -n jobs", 0);
    assert_eq!(both_sides(), [here.clone(), there.clone()]);
    // The first of two children here, as the root's is held; the first two of all three there.
    assert_eq!((&planned["dropped"], &planned["dry_run"]), (&8.into(), &true.into()), "{planned}");
    let left = [without(0, &here, &planned), without(1, &there, &planned)];
    assert_eq!(report("jobs", "prune jobs", 0)["dropped"], 8);
    let [here, there] = both_sides();
    assert_eq!([&here, &there], [&left[0], &left[1]]);
    assert_eq!((own(&here, ""), own(&here, "/vol")), (taken.clone(), taken[1..].to_vec()));
    assert_eq!(own(&there, "/a"), taken[2..]);

    // So does each run.
    cron("jobs", 0);
    let [here, there] = both_sides();
    let newest = own(&here, "").pop().unwrap();
    assert_eq!(own(&here, ""), [&taken[0], &taken[2], &newest].map(Clone::clone));
    for name in below {
        assert_eq!(own(&there, name), std::slice::from_ref(&newest), "{name}");
        assert_eq!(own(&here, name).len(), if name.is_empty() { 3 } else { 2 }, "{name}: {here:?}");
    }

    // The peer is away for longer than the rules keep anything: what it has not got stays, and its base.
    w.one.sh(&format!("sed 's|172.31.0.2:8551|172.31.0.2:1|' {DIR}/jobs.toml >{DIR}/away.toml"));
    for _ in 0..2 {
        let said = cron("away", 5);
        assert!(said.err.contains("job jobs, run") && said.err.contains("error:"), "{}", said.err);
    }
    report("away", "prune jobs", 5);
    let [here, still] = both_sides();
    assert_eq!(still, there);
    for name in below {
        let own = own(&here, name);
        assert!(own.contains(&newest) && own.len() >= 3, "{name}: {own:?}");
    }
    // What the last run came to is worth a warning, and a lag beyond the limit more than that.
    let checked = |args: &str, code: i32, level: &str| {
        let said = zmigrate(w.one, "jobs", &format!("check jobs {args}"));
        assert_eq!(said.code, code, "{}{}", said.out, said.err);
        assert!(
            said.out.starts_with(&format!("ZMIGRATE {level} - job jobs: ")) && said.out.contains(" | "),
            "{}",
            said.out
        );
    };
    checked("--max-lag 1h", 1, "WARNING");
    checked("--max-lag 1s", 2, "CRITICAL");
    cron("jobs", 0);
    checked("--max-lag 1h", 0, "OK");
    let [here, there] = both_sides();
    let newest = own(&here, "").pop().unwrap();
    for name in below {
        assert_eq!(own(&there, name), std::slice::from_ref(&newest), "{name}");
        assert_eq!(own(&here, name).len(), if name.is_empty() { 3 } else { 2 }, "{name}: {here:?}");
        assert_eq!(here[name].last(), there[name].last(), "{name}");
    }
    w.same(&Pair { source: SOURCE.into(), target: TARGET.into() }, &newest);
    told(&newest, &below);
    a_child_is_deleted(w, &job("keep = \"last 2\"\nkeep_peer = \"last 1\"\ndestroy_deleted = \"1d\""));
}

/// `status` and `history`, of four runs that went well, two that did not, and one more.
fn told(newest: &str, below: &[&str]) {
    let status = report("jobs", "status", 0);
    let job = status["jobs"].as_array().unwrap().iter().find(|job| job["job"] == "jobs").unwrap();
    assert_eq!((&job["state"], &job["runs"], &job["failed_runs"]), (&"idle".into(), &7.into(), &2.into()), "{job}");
    let datasets = job["datasets"].as_array().unwrap();
    let named: Vec<_> = datasets.iter().map(|d| d["source"].as_str().unwrap().strip_prefix(SOURCE).unwrap()).collect();
    assert_eq!(named, below);
    for dataset in datasets {
        assert_eq!((&dataset["common"], &dataset["unsent_snapshots"]), (&newest.into(), &0.into()), "{dataset}");
        assert!(dataset["lag_s"].as_u64().is_some_and(|lag| lag < 3600), "{dataset}");
    }
    let history = report("jobs", "history jobs", 0);
    let runs = history["runs"].as_array().unwrap();
    let results: Vec<_> =
        runs.iter().map(|run| (run["result"].as_str().unwrap(), run["exit_code"].as_u64().unwrap())).collect();
    let (good, bad) = (("done", 0), ("failed", 5));
    assert_eq!(results, [good, good, good, good, bad, bad, good], "{history}");
    assert!(runs.iter().all(|run| run["by"] == "cron" && run["ended"].is_string()), "{history}");
    assert_eq!(runs[6]["snapshot"], newest);
    // What a person pruned is no run's. The fourth one took one of each dataset on either side, the last one what had piled up.
    let pruned: Vec<_> = runs.iter().map(|run| run["pruned"].as_u64().unwrap_or(0)).collect();
    assert_eq!(pruned, [0, 0, 0, 6, 0, 0, 18]);
}

/// Its copy goes when its time has come, unless somebody may want it.
fn a_child_is_deleted(w: &World, job: &str) {
    let (a, look) = (format!("{TARGET}/a"), "tank/dst/jobs-look");
    let gone = || w.two.get(&a, "zmigrate:gone");
    let notes = || report("jobs", "history jobs --limit 1", 0)["runs"][0]["notes"].to_string();
    configure(w.one, "jobs", job);
    w.one.sh(&format!("zfs destroy -r {SOURCE}/a"));
    cron("jobs", 0);
    let since = gone();
    assert!(since.ends_with('Z') && !since.contains(' '), "{since}");
    assert!(notes().contains(&format!("{a} is gone at the source since")), "{}", notes());
    // As if that had been long ago. But one of its snapshots was made by hand, and then somebody looks into it.
    let kept = snapshots(w.two, TARGET)["/a"].clone();
    let tag = kept.last().unwrap().split(' ').next().unwrap().to_owned();
    w.two.sh(&format!("zfs set zmigrate:gone=\"2026-01-01T00:00:00Z $(date -u -d '2 days ago' +%FT%TZ)\" {a}"));
    let would = |result: &str| {
        let planned = report("jobs", "prune -n jobs", 0);
        let told = &planned["deleted"][0];
        assert_eq!((told["dataset"].as_str(), told["result"].as_str()), (Some(&*a), Some(result)), "{planned}");
        told["why"].to_string()
    };
    let why = would("stays");
    assert!(why.contains("@by-hand was not made by this job"), "{why}");
    w.two.sh(&format!("zfs destroy {a}@by-hand; zfs clone -o canmount=off {a}@{tag} {look}"));
    cron("jobs", 0);
    assert!(notes().contains(&format!("{look} is a clone of it")), "{}", notes());
    w.two.sh(&format!("zfs destroy {look}"));
    would("destroyed");
    assert_eq!(snapshots(w.two, TARGET)["/a"], kept[1..]);
    cron("jobs", 0);
    assert!(notes().contains(&format!("{a} was destroyed")), "{}", notes());
    assert_eq!(w.two.sh(&format!("zfs list -H -r -o name {TARGET}")), format!("{TARGET}\n{TARGET}/vol"));
    w.two.sh(&format!("grep '\"what\":\"retire\"' {DIR}/state/journal.jsonl | grep -q '{a}'"));
    let [here, there] = both_sides();
    assert!(here.keys().eq(["", "/vol"]) && there.keys().eq(["", "/vol"]));
}
