//! Jobs that prune on both sides of three targets, while a program writes to their source and they are killed, cut and stopped at any
//! moment: of a run that sends, of one that has nothing to do, and of a prune.
//!
//! ```text
//! east E/db ─┬─ near ──▶ west W/in/near ── chain ──▶ north N/in/chain
//!            └─ far ───────────────────────────────▶ north N/in/far
//! ```
//!
//! After each round, of which the bases are the point: whatever a job wrote down as common is there on both its sides; what is gone was
//! of a job's making, and in a journal before it went; what strangers have made is there, on every side that ever had it. After the last
//! one every job runs plainly, and then all three targets hold what the source holds, with the same files.
//!
//! `ZMIGRATE_ROUNDS` says how many rounds there are (14), `ZMIGRATE_SEED` which (the clock). The dice of a round are made of the seed and
//! its number; what the real processes do between two blows is theirs. In the first twelve each kind of blow has its turn (`turns`), and what
//! has met nothing by the end is tried again.

mod hosts;
pub mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use hosts::{Hosts, Job, Writer};
use turns::{Phase, Tally, of_round};

use crate::{
    Case,
    blows::{Blow, Dice, Parts, left_over, one_of_each, seed_and_rounds},
    cases,
    common::noise,
    damage::{Bystanders, held},
    process::{Done, Running, children, wait_for, zfs_child},
    zfs::{create, mounted, snapshot, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![whatever_strikes_its_jobs_a_fleet_converges_and_keeps_every_base]
}

/// How long a run may take, in seconds: a hang is for ever.
const PATIENCE_S: u64 = 300;

/// More than the window and the pipes hold, so that `zfs send` is there for a while.
const LARGE: usize = 10 << 20;

/// Snapshots by dataset and GUID.
type Seen = BTreeMap<(String, String), String>;

struct Fleet {
    // Gone first: it writes to what the hosts hold.
    writer: Option<Writer>,
    bystanders: Bystanders,
    hosts: Hosts,
    /// Everything that ever was there at rest.
    seen: Seen,
    /// A job's own snapshot that a stranger holds on every side.
    mine: String,
    /// Counts snapshots that look like a job's.
    piled: u32,
    /// How long a run takes that has something to do, and one that has not.
    full_ms: [u64; 3],
    idle_ms: [u64; 3],
}

/// Like `db_2026-11-26T04:00:00Z`.
fn is_own(tag: &str) -> bool {
    tag.starts_with("db_2") && tag.len() == "db_2026-11-26T04:00:00Z".len()
}

fn ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

impl Fleet {
    fn new(rounds: u64) -> Fleet {
        let hosts = Hosts::new(rounds);
        let db = hosts.roots()[0].clone();
        for (n, dataset) in hosts.datasets()[..2].iter().enumerate() {
            create(dataset);
            fs::write(mounted(dataset).join("first"), noise(50_000, n as u64)).unwrap();
        }
        zfs(&["snapshot", "-r", &format!("{db}@db_by-hand")]);
        // What looks like a job's, of datasets that are none of its targets.
        let names = [hosts.site.w("in"), hosts.site.w("in/theirs"), hosts.site.e("theirs"), hosts.north.n("theirs")];
        for name in &names {
            create(name);
            snapshot(name, "db_2020-01-01T00:00:00Z");
        }
        let mut fleet = Fleet {
            writer: None,
            bystanders: Bystanders::new(&names),
            hosts,
            seen: Seen::new(),
            mine: String::new(),
            piled: 0,
            full_ms: [0; 3],
            idle_ms: [0; 3],
        };
        for job in Job::ALL {
            fleet.plainly(job);
            let (full_ms, since) = (fleet.full_ms, Instant::now());
            fleet.plainly(job);
            // Of near there is none: each has a snapshot of its own.
            (fleet.idle_ms[job as usize], fleet.full_ms) = (ms(since), full_ms);
        }
        fleet.plainly(Job::Chain);
        let seen = fleet.look();
        let of = |root: &str| -> BTreeSet<String> {
            seen.iter().filter(|((d, _), tag)| d == root && is_own(tag)).map(|(_, tag)| tag.clone()).collect()
        };
        let roots = fleet.hosts.roots();
        let everywhere = roots.iter().map(|root| of(root)).reduce(|a, b| &a & &b).unwrap();
        fleet.mine = everywhere.first().expect("a snapshot that all sides have").clone();
        roots.iter().for_each(|root| drop(zfs(&["hold", "mine", &format!("{root}@{}", fleet.mine)])));
        fleet.writer = Some(Writer::start(&fleet.hosts.datasets()[..2]));
        fleet
    }

    /// Runs a job until it has ended well: that another one still holds the target is all that may come between.
    #[track_caller]
    fn plainly(&mut self, job: Job) {
        for _ in 0..60 {
            let since = Instant::now();
            let done = self.hosts.start(job).wait(PATIENCE_S);
            match done.code {
                Some(0) => {
                    self.full_ms[job as usize] = ms(since);
                    return;
                }
                Some(75) => sleep(Duration::from_secs(2)),
                code => panic!("{job:?} ended with {code:?}: {}", done.stderr),
            }
        }
        panic!("{job:?} finds its target held for ever");
    }

    /// What a job would prune by its rules: old names, new snapshots.
    fn pile(&mut self, count: u32) {
        for _ in 0..count {
            self.piled += 1;
            let (minute, second) = (self.piled / 60, self.piled % 60);
            let name = format!("{}@db_2020-02-01T00:{minute:02}:{second:02}Z", self.hosts.roots()[0]);
            zfs(&["snapshot", "-r", &name]);
        }
    }

    /// With this blow alone, if one is given.
    fn round(&mut self, n: u64, mut phase: Phase, blow: Option<Blow>, dice: &mut Dice, tally: &mut Tally) {
        let job = match phase {
            Phase::Idle => [Job::Far, Job::Chain][dice.below(2) as usize],
            _ => Job::ALL[dice.below(3) as usize],
        };
        let blows = blow.map_or_else(|| of_round(n, phase, dice), |blow| vec![blow]);
        if dice.once_in(4) {
            zfs(&["snapshot", "-r", &format!("{}@db_by-hand-{n}", self.hosts.roots()[0])]);
        }
        // Of what is dealt, each kind has to meet something.
        let is_dealt = phase == Phase::Full && (n < turns::DEALT || blow.is_some());
        let large = is_dealt || blows.iter().any(|blow| blow.is_of_send());
        if large {
            fs::write(mounted(&self.hosts.roots()[0]).join("large"), noise(LARGE, dice.below(1 << 40))).unwrap();
        }
        match phase {
            Phase::Full => self.pile(u32::from(large || job != Job::Near)),
            Phase::Prune => self.pile(3),
            Phase::Idle => {}
        }
        if job == Job::Chain && phase != Phase::Idle {
            // Its source has what this brings.
            self.plainly(Job::Near);
        }
        if phase == Phase::Idle {
            let first = self.hosts.start(job).wait(PATIENCE_S);
            // What was struck before may leave it something to wait for.
            if first.code != Some(0) {
                phase = Phase::Full;
            }
        }
        eprintln!("fleet: round {n}: {job:?}, {phase:?}, {blows:?}");
        let marks = self.hosts.journals();
        let mut beside = Vec::new();
        if phase != Phase::Idle && dice.once_in(2) {
            let other = Job::ALL[(job as usize + 1 + dice.below(2) as usize) % 3];
            beside.push((other, self.hosts.start(other)));
        }
        let mut run = self.hosts.start(job);
        for blow in blows {
            if run.has_ended() {
                break;
            }
            let met = self.strike(job, phase, &mut run, blow, &marks, dice);
            tally.count(blow, met);
        }
        for (job, run) in beside.into_iter().chain([(job, run)]) {
            ended_as_it_may(job, &run.wait(PATIENCE_S));
        }
        // What a daemon has started is its own; what nobody is the parent of any more, a person waits for.
        wait_for("the end of orphans", 30, || {
            let daemons = [self.hosts.site.daemon_pid(), self.hosts.north.pid()];
            let theirs: Vec<u32> = daemons.into_iter().flat_map(children).map(|(pid, _)| pid).collect();
            left_over(&self.hosts.pools()).iter().all(|pid| theirs.contains(pid))
        });
        self.check();
    }

    /// Waits for its moment and strikes once; what it met, if anything was there.
    fn strike(
        &mut self,
        job: Job,
        phase: Phase,
        run: &mut Running,
        blow: Blow,
        marks: &[usize; 3],
        dice: &mut Dice,
    ) -> Option<&'static str> {
        let receiver = self.hosts.daemon_of(job);
        let sender = run.pid();
        let sends = || zfs_child(sender, "send").is_some() || zfs_child(receiver, "receive").is_some();
        let stream = blow.is_of_send() || blow.is_of_receive();
        let ready = |hosts: &Hosts| match phase {
            Phase::Full if blow.is_of_send() => zfs_child(sender, "send").is_some(),
            Phase::Full => zfs_child(receiver, "receive").is_some(),
            Phase::Prune => hosts.prunes(job, marks),
            Phase::Idle => true,
        };
        let (wait, at_most) = match phase {
            Phase::Full if stream || dice.once_in(2) => (true, 150),
            Phase::Full => (false, self.full_ms[job as usize]),
            Phase::Prune => (true, [10, 60][dice.below(2) as usize]),
            Phase::Idle => (false, self.idle_ms[job as usize]),
        };
        let patience = Instant::now() + Duration::from_secs(60);
        while wait && !run.has_ended() && !ready(&self.hosts) && Instant::now() < patience {
            sleep(Duration::from_millis(2));
        }
        sleep(Duration::from_millis(dice.below(at_most.max(1))));
        let moment = match (run.has_ended(), self.hosts.prunes(job, marks)) {
            (true, _) => None,
            (false, true) => Some(Phase::Prune.word()),
            (false, false) if sends() => Some(Phase::Full.word()),
            (false, false) if phase == Phase::Idle => Some(Phase::Idle.word()),
            (false, false) => Some("rest"),
        };
        let daemon = receiver;
        let (hosts, pause) = (&mut self.hosts, Duration::from_millis(dice.below(200)));
        let Hosts { site, north, proxies, .. } = hosts;
        let parts = Parts { daemon, sender, receiver, proxy: &proxies[job as usize] };
        let met = blow.strike(run, &parts, || match job {
            Job::Near => {
                site.signal_daemon(rustix::process::Signal::KILL);
                site.reap_daemon(5);
                sleep(pause);
                site.start_daemon();
            }
            Job::Far | Job::Chain => north.kill_and_start(pause),
        });
        moment.filter(|_| met)
    }

    /// All snapshots of the datasets of jobs.
    fn look(&self) -> Seen {
        let pools = self.hosts.pools();
        let all = zfs(&[&["get", "-Hp", "-r", "-o", "name,value", "guid"][..], &pools].concat());
        let datasets = self.hosts.datasets();
        let one = |line: &str| {
            let (name, guid) = line.split_once('\t')?;
            let (dataset, tag) = name.split_once('@')?;
            datasets.iter().any(|d| d == dataset).then(|| ((dataset.to_owned(), guid.to_owned()), tag.to_owned()))
        };
        all.lines().filter_map(one).collect()
    }

    /// What must be so whenever nothing runs.
    #[track_caller]
    fn check(&mut self) {
        let now = self.look();
        let pruned = self.hosts.pruned();
        for (key, tag) in &self.seen {
            let (dataset, guid) = key;
            if now.contains_key(key) {
                continue;
            }
            assert!(is_own(tag), "{dataset}@{tag} is gone, and is of no job's making");
            assert!(
                *tag != self.mine || !self.hosts.roots().contains(dataset),
                "{dataset}@{tag} is gone, and was held"
            );
            assert!(pruned.contains(&(format!("{dataset}@{tag}"), guid.clone())), "{dataset}@{tag} went unrecorded");
        }
        for job in Job::ALL {
            for (source, target, guid) in self.hosts.bases(job) {
                for dataset in [source, target] {
                    let there = now.contains_key(&(dataset.clone(), guid.clone()));
                    assert!(there, "{job:?}: the base {guid} is gone from {dataset}");
                }
            }
        }
        self.seen.extend(now);
        self.bystanders.are_untouched();
        self.hosts.nobody_panicked();
    }

    /// After the last blow: every job plainly, and then all is as if nothing had been.
    fn converge(&mut self) {
        self.writer.take().unwrap().stop();
        for job in [Job::Near, Job::Chain, Job::Far, Job::Chain] {
            self.plainly(job);
        }
        // Far has what near would have spared for it.
        self.hosts.prune(Job::Near);
        self.check();
        let now = self.look();
        let newest = |dataset: &str| crate::zfs::snapshots(dataset).pop().unwrap();
        let datasets = self.hosts.datasets();
        for (n, source) in datasets[..2].iter().enumerate() {
            let (here, base) = (of(&now, source), newest(source));
            let own = here.values().filter(|tag| is_own(tag) && **tag != self.mine).count();
            assert_eq!(own, 2, "keep is last 2, nobody lacks any: {here:?}");
            for target in datasets[2..].iter().skip(n).step_by(2) {
                let there = of(&now, target);
                assert_eq!(newest(target), base, "the newest of {target}");
                let lacks: Vec<_> = here.iter().filter(|(guid, _)| !there.contains_key(*guid)).collect();
                assert!(lacks.is_empty(), "{target} lacks {lacks:?}");
                assert!(there.keys().all(|guid| self.seen.contains_key(&(source.clone(), (*guid).to_owned()))));
                let own = there.values().filter(|tag| is_own(tag) && **tag != self.mine).count();
                assert!((2..=5).contains(&own), "{target}: {there:?}");
                let oldest = here
                    .iter()
                    .find(|(_, tag)| **tag == "db_by-hand")
                    .map(|(_, tag)| *tag)
                    .expect("the first one by hand");
                for tag in [base.0.as_str(), oldest] {
                    self.hosts.site.assert_same_files(&format!("{source}@{tag}"), &format!("{target}@{tag}"));
                }
            }
        }
        for job in Job::ALL {
            let bases = self.hosts.bases(job);
            assert_eq!(bases.len(), 2, "{job:?} knows its base of each dataset: {bases:?}");
            assert!(bases.iter().all(|(source, _, guid)| *guid == newest(source).1), "{job:?}: {bases:?}");
        }
        // Who holds what: at the source both jobs, at the middle the one that writes and the one that reads, and nothing of dead runs.
        for (root, jobs) in self.hosts.roots().iter().zip([2, 2, 1, 1]) {
            let base = newest(root).0;
            let (mut expected, mut found) = ([vec![self.mine.clone()], vec![base.clone(); jobs]].concat(), held(root));
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "what is held of {root}");
            assert_eq!(held(&format!("{root}/a")), vec![base; jobs], "what is held of {root}/a");
        }
    }
}

/// The snapshots of one dataset: GUIDs and tags.
fn of<'a>(seen: &'a Seen, dataset: &str) -> BTreeMap<&'a str, &'a str> {
    let own = seen.iter().filter(|((d, _), _)| d == dataset);
    own.map(|((_, guid), tag)| (guid.as_str(), tag.as_str())).collect()
}

/// Killed, done, another one at it, or with an error that says why.
#[track_caller]
fn ended_as_it_may(job: Job, done: &Done) {
    assert!(!done.stderr.contains("panicked"), "{job:?}: {}", done.stderr);
    assert!(matches!(done.code, None | Some(0 | 75)) || done.stderr.contains("error: "), "{job:?}: {done:?}");
}

fn whatever_strikes_its_jobs_a_fleet_converges_and_keeps_every_base() {
    let (seed, rounds) = seed_and_rounds(14);
    eprintln!("fleet: ZMIGRATE_SEED={seed} ZMIGRATE_ROUNDS={rounds}");
    let since = Instant::now();
    let mut tally = Tally::default();
    let mut fleet = Fleet::new(rounds);
    // What has met nothing by then is tried for some more rounds.
    for n in 0..2 * rounds {
        let turn = if n < rounds { Some((Phase::ALL[n as usize % 3], None)) } else { tally.lacks(rounds) };
        let Some((phase, blow)) = turn else { break };
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(n));
        fleet.round(n, phase, blow, &mut dice, &mut tally);
        tally.passed += 1;
        if (n + 1) % 25 == 0 {
            eprintln!("fleet: {} rounds, {:.0} s", n + 1, since.elapsed().as_secs_f64());
        }
    }
    fleet.converge();
    eprintln!("fleet: {:.0} s", since.elapsed().as_secs_f64());
    for phase in Phase::ALL {
        let (met, word) = (tally.met(phase), phase.word());
        assert!(met >= rounds / 12, "{met} of {} blows met {word}: this proves little", tally.blows);
    }
    if rounds >= turns::DEALT {
        let least = (rounds / 100).max(1);
        for kind in one_of_each().into_iter().map(Blow::kind) {
            let met = tally.of_kind(&kind);
            assert!(met >= least, "{met} of {kind} met anything in {rounds} rounds: {:?}", tally.kinds);
        }
        let met = tally.met(Phase::Full);
        assert!(tally.has_hit_transfers(), "only {met} of {} blows hit a transfer on its way", tally.blows);
    }
}
