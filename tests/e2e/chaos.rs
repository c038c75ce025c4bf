//! Chaos: pushes and pulls of trees that change, while processes are killed and stopped and connections are cut, at random.
//!
//! ```text
//! round:  change the source, snapshot it ─ slow run, 1 or 2 blows ─ the same command again, at rest ─ look at everything
//! ```
//!
//! After each round: the plain rerun has ended well; both sides have the same newest snapshots and files; what is not
//! zmigrate's is as it was; no hold is left but those that ARCHITECTURE.md lists; no panic in any log; no `zfs send` or
//! `zfs receive` is left over.
//!
//! `ZMIGRATE_ROUNDS` says how many rounds there are (15), `ZMIGRATE_SEED` which (the clock). The dice of a round are made of the seed
//! and its number; what the real processes do between two blows is theirs.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    Case,
    blows::{Blow, Dice, Parts, blow, least_hits, left_over, seed_and_rounds},
    cases,
    common::{noise, run},
    damage::{Bystanders, held},
    process::{Running, children, wait_for, zfs_child},
    proxy::Proxy,
    site::Site,
    zfs::{create, exists, get, mounted, read_files, snapshots, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![whatever_is_killed_or_cut_a_plain_rerun_ends_well]
}

/// What is replicated, and where to.
#[derive(Clone, Copy)]
struct Lane {
    push: bool,
    /// Below the source's pool and the target's.
    from: &'static str,
    to: &'static str,
    /// Datasets below the source; with `-r` if there are any.
    below: &'static [&'static str],
}

const LANES: [Lane; 4] = [
    Lane { push: true, from: "one", to: "in/one", below: &[] },
    Lane { push: true, from: "t", to: "in/t", below: &["a", "a/deep", "b"] },
    Lane { push: false, from: "in/w", to: "back/w", below: &["x"] },
    Lane { push: false, from: "in/solo", to: "back/solo", below: &[] },
];

/// How long the daemon waits for a run that has lost its connections, in seconds.
const LINK_LOST_S: u64 = 60;

/// How long a run may take, in seconds: many sites share a machine, and a hang is for ever.
const PATIENCE_S: u64 = 300;

/// The window is 4 MiB, and each pipe holds one.
const LARGE: usize = 10 << 20;

/// What the rounds amount to.
#[derive(Default)]
struct Tally {
    passed: usize,
    blows: u32,
    /// Blows while a transfer was on its way, which met something that was there.
    hits: u32,
    /// Runs that got over their blows by themselves.
    survived: u32,
    kinds: std::collections::BTreeMap<String, u32>,
    /// Seconds of the parts of a round.
    laps: [f64; 5],
}

impl Tally {
    fn lap(&mut self, part: usize, since: &mut Instant) {
        self.laps[part] += since.elapsed().as_secs_f64();
        *since = Instant::now();
    }
}

struct Chaos {
    site: Site,
    proxy: Proxy,
    bystanders: Bystanders,
    /// Counts snapshots.
    tag: u32,
}

impl Lane {
    fn source(&self, site: &Site) -> String {
        if self.push { site.e(self.from) } else { site.w(self.from) }
    }

    fn target(&self, site: &Site) -> String {
        if self.push { site.w(self.to) } else { site.e(self.to) }
    }

    fn start(&self, site: &Site, options: &[&str]) -> Running {
        let recursive: &[&str] = if self.below.is_empty() { &[] } else { &["-r"] };
        let options = [recursive, options].concat();
        if self.push {
            site.start_push(self.from, self.to, &options)
        } else {
            site.start_pull(self.from, self.to, &options)
        }
    }

    /// The processes that `zfs send` and `zfs receive` are children of.
    fn parents(&self, site: &Site, run: &Running) -> (u32, u32) {
        if self.push { (run.pid(), site.daemon_pid()) } else { (site.daemon_pid(), run.pid()) }
    }

    fn datasets(&self, root: &str) -> Vec<String> {
        let below = self.below.iter().map(|b| format!("{root}/{b}"));
        [root.to_owned()].into_iter().chain(below).collect()
    }
}

impl Chaos {
    fn new() -> Chaos {
        let mut site = Site::quiet();
        site.limits.push_str(&format!("\nidle_timeout_s = 5\nlink_lost_after_s = {LINK_LOST_S}"));
        site.write_configs(&site.default_grant(), None);
        site.start_daemon();
        let proxy = Proxy::to(site.port, &[]);
        site.write_configs(&site.default_grant(), Some(proxy.port));
        for lane in LANES {
            for dataset in lane.datasets(&lane.source(&site)) {
                create(&dataset);
                fs::write(mounted(&dataset).join("first"), noise(30_000, 1)).unwrap();
            }
        }
        // Beside the targets on both sides, and right between them.
        let bystanders = [site.w("in"), site.w("in/theirs"), site.w("other"), site.e("mine"), site.e("back/mine")];
        let bystanders = Bystanders::new(&bystanders);
        Chaos { site, proxy, bystanders, tag: 0 }
    }

    /// Writes, deletes, and takes one snapshot of all of it.
    fn change(&mut self, lane: Lane, large: bool, dice: &mut Dice) {
        let source = lane.source(&self.site);
        let datasets = lane.datasets(&source);
        for (n, dataset) in datasets.iter().enumerate() {
            // The root has always news, the others often.
            if n > 0 && dice.once_in(3) {
                continue;
            }
            let at = mounted(dataset);
            let len = if n == 0 { 250_000 } else { 60_000 } + dice.below(150_000) as usize;
            // More than the window and the pipes hold, so that `zfs send` is there for a while.
            let len = if large && n == 0 { LARGE } else { len };
            fs::write(at.join(format!("f{}", dice.below(2))), noise(len, dice.below(1 << 40))).unwrap();
            match dice.below(4) {
                0 => drop(fs::remove_file(at.join("first"))),
                1 => drop(fs::rename(at.join("f0"), at.join("f2"))),
                _ => {}
            }
        }
        self.tag += 1;
        let recursive: &[&str] = if lane.below.is_empty() { &[] } else { &["-r"] };
        zfs(&[&["snapshot"], recursive, &[&format!("{source}@r{}", self.tag)]].concat());
    }

    /// Away with the target, so that the next run is a full one.
    fn retire(&self, lane: Lane) {
        let target = lane.target(&self.site);
        if !exists(&target) {
            return;
        }
        let hold = format!("zmigrate:{}", get(&target, "zmigrate:job").0);
        for dataset in lane.datasets(&target) {
            for tag in held(&dataset) {
                zfs(&["release", &hold, &format!("{dataset}@{tag}")]);
            }
        }
        let gone = (0..20).any(|i| {
            sleep(Duration::from_millis(50 * i));
            run("zfs", &["destroy", "-r", &target]).is_ok()
        });
        assert!(gone, "{target} cannot be destroyed");
    }

    /// Old snapshots go, on both sides: two are enough, and held ones stay.
    fn prune(&self, lane: Lane) {
        for root in [lane.source(&self.site), lane.target(&self.site)] {
            let all = snapshots(&root);
            for (tag, _) in &all[..all.len().saturating_sub(2)] {
                let recursive: &[&str] = if lane.below.is_empty() { &[] } else { &["-r"] };
                zfs(&[&["destroy"], recursive, &[&format!("{root}@{tag}")]].concat());
            }
        }
    }

    /// Strikes once; true if a transfer was on its way and something was met.
    fn strike(&mut self, lane: Lane, run: &mut Running, blow: Blow, dice: &mut Dice) -> bool {
        let (sender, receiver) = lane.parents(&self.site, run);
        // What is to be hit decides: a short stream has left its `zfs send` long before it has arrived.
        let of_send = blow.is_of_send();
        let on_its_way =
            || zfs_child(receiver, "receive").is_some() && (!of_send || zfs_child(sender, "send").is_some());
        if !dice.once_in(6) {
            let patience = Instant::now() + Duration::from_secs(10);
            while !run.has_ended() && !on_its_way() && Instant::now() < patience {
                sleep(Duration::from_millis(5));
            }
        }
        sleep(Duration::from_millis(dice.below(150)));
        let in_time = on_its_way();
        let parts = Parts { daemon: self.site.daemon_pid(), sender, receiver, proxy: &self.proxy };
        let site = &mut self.site;
        let met = blow.strike(run, &parts, || {
            site.signal_daemon(Signal::KILL);
            site.reap_daemon(5);
            sleep(Duration::from_millis(dice.below(200)));
            site.start_daemon();
        });
        in_time && met
    }

    fn round(&mut self, dice: &mut Dice, tally: &mut Tally) {
        let mut since = Instant::now();
        let lane = LANES[dice.below(LANES.len() as u64) as usize];
        if dice.once_in(5) {
            self.retire(lane);
        }
        let blows: Vec<Blow> = (0..1 + dice.below(2)).map(|_| blow(dice)).collect();
        let large = blows.iter().any(|blow| blow.is_of_send());
        for n in 0..1 + dice.below(2) {
            self.change(lane, large && n == 0, dice);
        }
        let log = self.site.log().len();
        eprintln!("a round: {} of {}, {blows:?}", if lane.push { "push" } else { "pull" }, lane.source(&self.site));
        tally.lap(0, &mut since);
        let rate = if large { "8M" } else { ["500K", "700K", "1M"][dice.below(3) as usize] };
        let jobs = ["1", "2", "4"][dice.below(3) as usize];
        let streams = ["1", "1", "3"][dice.below(3) as usize];
        let mut run =
            lane.start(&self.site, &["--bwlimit", rate, "--compress", "none", "--jobs", jobs, "--streams", streams]);
        for blow in blows {
            if run.has_ended() {
                break;
            }
            let hit = self.strike(lane, &mut run, blow, dice);
            tally.blows += 1;
            tally.hits += u32::from(hit);
            *tally.kinds.entry(blow.kind()).or_default() += u32::from(hit);
        }
        tally.lap(1, &mut since);
        let first = run.wait(PATIENCE_S);
        tally.lap(2, &mut since);
        assert!(!first.stderr.contains("panicked"), "{}", first.stderr);
        // Killed, done, or with an error that says why.
        assert!(matches!(first.code, None | Some(0)) || first.stderr.contains("error: "), "{first:?}");
        tally.survived += u32::from(first.code == Some(0));
        self.bystanders.are_untouched();
        // What the daemon has started is its own; what nobody is the parent of any more, a person waits for.
        wait_for("the end of orphans", 30, || {
            let of_daemon: Vec<u32> = children(self.site.daemon_pid()).into_iter().map(|(pid, _)| pid).collect();
            left_over(&[&self.site.east, &self.site.west]).iter().all(|pid| of_daemon.contains(pid))
        });
        let again = lane.start(&self.site, &[]).wait(PATIENCE_S);
        tally.lap(3, &mut since);
        assert_eq!(
            again.code,
            Some(0),
            "the rerun: {}\nthe run before: {:?} {}",
            again.stderr,
            first.code,
            first.stderr
        );
        self.look(lane, &first.stderr);
        let said = self.site.log()[log..].to_owned();
        assert!(!said.contains("panicked"), "{said}");
        self.bystanders.are_untouched();
        self.prune(lane);
        tally.lap(4, &mut since);
    }

    /// What must be so when all is at rest.
    fn look(&self, lane: Lane, first: &str) {
        let (source, target) = (lane.source(&self.site), lane.target(&self.site));
        for (here, there) in lane.datasets(&source).iter().zip(lane.datasets(&target)) {
            let (ours, theirs) = (snapshots(here), snapshots(&there));
            let newest = ours.last().unwrap();
            assert_eq!(Some(newest), theirs.last(), "the newest of {here} and {there}; {first}");
            assert!(theirs.iter().all(|s| ours.contains(s)), "{there} has {theirs:?}, of {ours:?}");
            for dataset in [here, &there] {
                let held = held(dataset);
                assert!(
                    held == [newest.0.clone()],
                    "{dataset} has holds on {held:?}, and its newest is {}; {first}",
                    newest.0
                );
            }
            assert_eq!(get(&there, "readonly"), ("on".into(), "local".into()), "{there}");
        }
        // From the top, so that there is a place for each mountpoint; the source's are mounted anyway.
        let targets = lane.datasets(&target);
        targets.iter().for_each(|dataset| drop(mounted(dataset)));
        let (ours, theirs) = (read_files(&mounted(&source)), read_files(&mounted(&target)));
        for dataset in targets.iter().rev() {
            let unmounted = (0..20).any(|i| {
                sleep(Duration::from_millis(20 * i));
                run("zfs", &["unmount", dataset]).is_ok()
            });
            assert!(unmounted, "{dataset} cannot be unmounted");
        }
        assert!(!ours.is_empty());
        let differ: Vec<_> = ours.keys().chain(theirs.keys()).filter(|n| ours.get(*n) != theirs.get(*n)).collect();
        assert!(differ.is_empty(), "{source} and {target} differ in {differ:?}");
        // A pull that was killed looks like one that will dial again: the daemon keeps its `zfs send` until the link counts as lost.
        wait_for("the end of every zfs send and zfs receive", LINK_LOST_S + 15, || {
            left_over(&[&self.site.east, &self.site.west]).is_empty()
        });
    }
}

fn whatever_is_killed_or_cut_a_plain_rerun_ends_well() {
    let (seed, rounds) = seed_and_rounds(15);
    eprintln!("chaos: ZMIGRATE_SEED={seed} ZMIGRATE_ROUNDS={rounds}");
    let (mut tally, since) = (Tally::default(), Instant::now());
    let mut chaos = None;
    let mut failures = Vec::new();
    for n in 0..rounds {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(n));
        let began = catch_unwind(AssertUnwindSafe(|| {
            chaos.get_or_insert_with(Chaos::new).round(&mut dice, &mut tally);
        }));
        if let Err(panic) = began {
            eprintln!("chaos: round {n} of seed {seed} FAILED");
            let text = panic.downcast::<String>().map_or_else(|_| "a panic without a text".into(), |text| *text);
            failures.push(format!("round {n}: {text}"));
            if let Some(broken) = chaos.take() {
                let log = broken.site.log();
                eprintln!("zmigrated said:\n{}", &log[log.len().saturating_sub(4000)..]);
            }
            if failures.len() >= 5 {
                eprintln!("chaos: enough");
                break;
            }
        } else {
            tally.passed += 1;
        }
        if (n + 1) % 50 == 0 {
            eprintln!("chaos: {} rounds, {} failed, {:.0} s", n + 1, failures.len(), since.elapsed().as_secs_f64());
        }
    }
    drop(chaos);
    let Tally { passed, blows, hits, survived, kinds, laps } = tally;
    let [change, strike, run, rerun, look] = laps.map(|s| s.round());
    eprintln!("chaos: seconds: change {change}, strike {strike}, run {run}, rerun {rerun}, look {look}");
    eprintln!(
        "chaos: {hits} of {blows} blows hit a transfer on its way: {kinds:?}; {survived} runs got over it by themselves; \
         {:.0} s",
        since.elapsed().as_secs_f64()
    );
    eprintln!("chaos: {passed} passed, {} failed", failures.len());
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n"));
    assert!(hits * 2 >= blows, "only {hits} of {blows} blows hit a transfer, so this proves little");
    if rounds >= 100 {
        for (kind, least) in least_hits(rounds) {
            let hits = kinds.get(&kind).copied().unwrap_or(0);
            assert!(u64::from(hits) >= least, "only {hits} hits of {kind} in {rounds} rounds: {kinds:?}");
        }
    }
}
