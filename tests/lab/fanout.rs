//! Several who need one dataset: two jobs, a chain behind one of them, and a puller of which the source's host has no job. Each has
//! bases of its own, and while one is away its base stays, whatever the rules say of everybody else.

use serde_json::Value;

use crate::{
    Case,
    guest::{Guest, Said},
    jobs::{configure, zmigrate},
    world::{Pair, World},
};

pub const CASES: &[Case] = &[("jobs_to_two_targets_a_chain_and_a_puller", several_targets)];

const SOURCE: &str = "tank/src/fan";
const NEAR: &str = "tank/dst/fan-near";
const FAR: &str = "tank/dst/fan-far";
/// Behind NEAR, on the first guest.
const END: &str = "tank/dst/fan-end";
const PULLED: &str = "tank/dst/fan-pulled";

/// Runs a job as cron does.
#[track_caller]
fn cron(guest: Guest, config: &str, job: &str, code: i32) -> Said {
    let said = zmigrate(guest, config, &format!("job run {job} --cron"));
    assert_eq!((said.code, said.out.as_str()), (code, ""), "{job}: {}", said.err);
    said
}

/// The report of a command on the source's host.
#[track_caller]
fn report(args: &str) -> Value {
    let said = zmigrate(Guest(1), "fan", &format!("{args} --output json"));
    assert_eq!(said.code, 0, "{args}: {}{}", said.out, said.err);
    serde_json::from_str(&said.out).unwrap()
}

/// The tags of the jobs' snapshots of a dataset, oldest first, after it was seen that a person's is there as well.
#[track_caller]
fn own(guest: Guest, dataset: &str) -> Vec<String> {
    let all = guest.snapshots(dataset);
    let mut tags = all.iter().map(|s| s.split(' ').next().unwrap().to_owned());
    assert_eq!(tags.next().as_deref(), Some("by-hand"), "{dataset}: {all:?}");
    tags.inspect(|tag| assert!(tag.starts_with("fan_2"), "{dataset}: {all:?}")).collect()
}

/// Why a snapshot stays, as `prune -n` says it.
#[track_caller]
fn why(planned: &Value, dataset: &str, tag: &str) -> String {
    let of = planned["datasets"].as_array().unwrap().iter().find(|d| d["dataset"] == dataset);
    let snapshots = of.unwrap_or_else(|| panic!("{planned}"))["snapshots"].as_array().unwrap();
    let told = snapshots.iter().find(|told| told["tag"] == tag).unwrap_or_else(|| panic!("{planned}"));
    assert_eq!(told["keep"], true, "{planned}");
    told["why"].as_str().unwrap().to_owned()
}

fn job(name: &str, source: &str, peer: &str, target: &str, more: &str) -> String {
    format!(
        "[job.{name}]\ndirection = \"push\"\ndataset = \"{source}\"\npeer = \"{peer}\"\ntarget = \"{target}\"\nretries = 0\n\
         prefix = \"fan\"\nkeep_peer = \"last 1\"\n{more}\n"
    )
}

fn several_targets(w: &World) {
    w.pair("fan", 2);
    w.one.sh(&format!("zfs snapshot {SOURCE}@by-hand"));
    let follows = "snapshot = false";
    let jobs = |port: u16| {
        format!("[peer.far]\naddress = \"172.31.0.2:{port}\"\nidentity = \"node2\"\n")
            + &job("near", SOURCE, "node2", NEAR, "keep = \"last 1\"")
            + &job("far", SOURCE, "far", FAR, follows)
    };
    configure(w.one, "fan", &jobs(8551));
    configure(w.one, "fan-away", &jobs(1));
    configure(w.two, "fan", &job("on", NEAR, "node1", END, follows));
    let near = || {
        w.one.sh(&format!("head -c 100K /dev/urandom >/{SOURCE}/more"));
        cron(w.one, "fan", "near", 0)
    };
    let far = || cron(w.one, "fan", "far", 0);
    let on = || cron(w.two, "fan", "on", 0);
    let pull = || w.zmigrate(w.two, &format!("pull node1:{SOURCE} {PULLED}")).must_be(0);
    let id = |guest: Guest, target: &str| guest.get(target, "zmigrate:job");

    near();
    far();
    on();
    pull();
    let first = own(w.one, SOURCE);
    assert_eq!(first.len(), 1);
    for (guest, dataset) in [(w.two, NEAR), (w.two, FAR), (w.one, END), (w.two, PULLED)] {
        assert_eq!(own(guest, dataset), first, "{dataset}");
    }

    // One target is away, and neither the end of the chain nor the puller asks for anything.
    near();
    assert!(cron(w.one, "fan-away", "far", 5).err.contains("job far"));
    near();
    let taken = own(w.one, SOURCE);
    assert_eq!((taken.len(), &taken[..1]), (3, &first[..]), "what the others have not got stays at the source");
    assert_eq!(own(w.two, NEAR), taken, "what the end of the chain has not got stays in the middle");
    let planned = report("prune -n near");
    assert_eq!(planned["dropped"], 0, "{planned}");
    assert_eq!(why(&planned, NEAR, &taken[0]), format!("is the base of the target of {}", id(w.one, END)));
    assert!(why(&planned, NEAR, &taken[1]).starts_with("is not yet replicated to "), "{planned}");
    assert!(why(&planned, SOURCE, &taken[0]).starts_with("is the base of "), "{planned}");

    // It is back, and goes on from its base, as does the chain. Now the puller alone is behind.
    far();
    let runs = report("history far --limit 1");
    let steps = runs["runs"][0]["steps"].as_array().unwrap();
    assert!(steps.len() == 2 && steps.iter().all(|step| step["from"].is_string()), "{runs}");
    on();
    assert_eq!((own(w.two, FAR), own(w.one, END)), (taken[2..].to_vec(), taken[2..].to_vec()));
    // Of its base there is only the bookmark left.
    w.one.sh(&format!("zfs destroy {SOURCE}@{}", taken[0]));
    near();
    let four = own(w.one, SOURCE);
    assert_eq!((four.len(), &four[..2]), (3, &taken[1..]), "what the puller has not got stays");
    let whom = why(&report("prune -n near"), SOURCE, &four[0]);
    assert_eq!(whom, format!("is not yet replicated to the target of {}", id(w.two, PULLED)));
    assert_eq!(own(w.two, NEAR), four[1..], "the middle has the base of the end, and its own newest");
    let run = pull();
    let from: Vec<&str> = run.steps().iter().filter_map(|step| step["from"].as_str()).collect();
    assert!(from.len() == 3 && from[0].contains('#'), "{}", run.out);

    // Nobody lacks anything any more: nothing stays that no rule keeps.
    far();
    on();
    assert_eq!(report("prune near")["dropped"], 3);
    let newest = &four[2..];
    for (guest, dataset) in [(w.one, SOURCE), (w.two, NEAR), (w.two, FAR), (w.one, END)] {
        assert_eq!(own(guest, dataset), newest, "{dataset}");
    }
    let guid = w.one.get(&format!("{SOURCE}@{}", newest[0]), "guid");
    let mut bases =
        [id(w.two, NEAR), id(w.two, FAR), id(w.two, PULLED)].map(|id| format!("{SOURCE}#zmigrate:{id}:{guid}"));
    bases.sort();
    let mut bookmarks = w.one.bookmarks(SOURCE);
    bookmarks.sort();
    assert_eq!(bookmarks, bases);
    assert_eq!(w.two.bookmarks(NEAR), [format!("{NEAR}#zmigrate:{}:{guid}", id(w.one, END))]);
    w.same(&Pair { source: SOURCE.into(), target: FAR.into() }, &newest[0]);
    let content = w.two.digest(&format!("{PULLED}@{}", newest[0]));
    assert_eq!(w.one.digest(&format!("{END}@{}", newest[0])), content);
}
