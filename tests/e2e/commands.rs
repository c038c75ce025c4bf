//! What a round costs in `zfs` commands, counted on either side by a `zfs` that writes down how it is called.

use std::fs;

use crate::{
    Case, cases,
    process::Done,
    site::Site,
    zfs::{tags, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![a_round_costs_what_has_changed_however_many_there_are]
}

/// Trees of so many datasets, the root not counted.
const FEW: usize = 20;
const MANY: usize = 1000;

/// What so many take, with their snapshots.
const POOL_BYTES: u64 = 1 << 30;

const SIDES: [&str; 2] = ["east", "west"];

/// Calls of `zfs` on east and west.
type Cost = [Vec<String>; 2];

fn counted(side: &str) -> String {
    format!("printf '%s\\n' \"$*\" >>\"$DIR/commands-{side}\"\nexec zfs \"$@\"\n")
}

/// A whole run of a job, to its end, and what it cost.
fn run(site: &Site, job: &str) -> (Done, Cost) {
    let logs = SIDES.map(|side| site.dir.join(format!("commands-{side}")));
    logs.iter().for_each(|log| fs::write(log, "").unwrap());
    let done = site.start(&["job", "run", job]).wait(120).must(0);
    let cost = logs.map(|log| fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect());
    (done, cost)
}

/// A snapshot that the jobs count as theirs, so that `keep` and `keep_peer` judge it.
fn tag(n: usize) -> String {
    format!("p_2020-01-01T00:00:0{n}Z")
}

/// With a snapshot of nothing new, and what it costs to send the news of so many datasets: from none on.
fn costs(site: &Site, tree: &str) -> Vec<Cost> {
    // What each side learns of its ZFS once is known after this.
    run(site, tree);
    let news = |changed: usize| {
        for n in 0..changed {
            zfs(&["snapshot", &format!("{}/d{n}@{}", site.e(tree), tag(changed))]);
        }
        let (done, cost) = run(site, tree);
        let arrived = |n: usize| tags(&site.w(&format!("in/{tree}/d{n}"))).contains(&tag(changed));
        assert!((0..changed).all(arrived), "{changed}: {}{}", done.stdout, done.stderr);
        cost
    };
    (0..4).map(news).collect()
}

fn a_round_costs_what_has_changed_however_many_there_are() {
    let mut site = Site::with_pools(POOL_BYTES);
    let job = |tree: &str| {
        format!(
            "[job.{tree}]\ndirection = \"push\"\nrecursive = true\ndataset = \"{}\"\npeer = \"west\"\ntarget = \"{}\"\n\
             snapshot = false\nretries = 0\nprefix = \"p\"\nkeep = \"last 9\"\nkeep_peer = \"last 9\"\n",
            site.e(tree),
            site.w(&format!("in/{tree}"))
        )
    };
    let jobs = ["few", "many"].map(job).concat();
    site.more = site.wrapped_zfs("east-counts", &counted("east")) + &jobs;
    site.west_more = site.wrapped_zfs("west-counts", &counted("west"));
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let cost = [("few", FEW), ("many", MANY)].map(|(tree, count)| {
        // Not mounted: what counts here is how many they are.
        zfs(&["create", "-o", "mountpoint=none", &site.e(tree)]);
        (0..count).for_each(|n| drop(zfs(&["create", &format!("{}/d{n}", site.e(tree))])));
        zfs(&["snapshot", "-r", &format!("{}@{}", site.e(tree), tag(0))]);
        site.start_push(tree, &format!("in/{tree}"), &["-r", "--jobs", "16"]).wait(300).must(0);
        costs(&site, tree)
    });
    for (at, side) in SIDES.iter().enumerate() {
        let numbers = cost.each_ref().map(|costs| costs.iter().map(|cost| cost[at].len()).collect::<Vec<_>>());
        eprintln!("zfs commands on {side} with 0 to 3 datasets changed, of {FEW} and of {MANY}: {numbers:?}");
        let [few, many] = &numbers;
        let [few_calls, many_calls] = cost.each_ref().map(|costs| costs[0][at].join("\n"));
        assert!(few[0] > 0, "nothing was counted on {side}");
        assert_eq!(few, many, "{side}: of {FEW} datasets:\n{few_calls}\nof {MANY}:\n{many_calls}");
        let [first, second, third] = [few[1] - few[0], few[2] - few[1], few[3] - few[2]];
        assert!(0 < second && second <= first && second == third, "{side}: {few:?}");
    }
}
