//! Random sessions: a history, troubles everywhere, a run; then all heals and the same command is given again.
//!
//! Safety is looked at after every single operation of either ZFS, while the run is on; liveness once all has healed. A
//! session is one thread and one clock that leaps, and its dice are made of its seed: the same seed gives the same
//! session, event by event, and [`the_same_seed_gives_the_same_session`] sees to that.
//!
//! `ZMIGRATE_SEEDS` says how many sessions there are, `ZMIGRATE_SEED` runs a single one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;
use zmigrate::{
    driver::{Direction, RunOptions, run as replicate},
    fake::{FakeZfs, Fault, Op},
    plan::History,
    port::zfs::{Depth, Zfs, ZfsErrorKind as K},
    types::{Guid, SnapshotName},
};

use crate::{
    clock::{Dice, run_alone},
    wire::Trouble,
    world::{Host, Ledger, MemoryLocks, OPS, SOURCE, TARGET, World, ds, sn},
};

/// Sessions of a plain `cargo test`.
const SESSIONS: u64 = 10_000;

fn fault(dice: &mut Dice) -> Fault {
    let kind = [K::Io, K::Busy, K::Killed, K::NoSpace, K::Other][dice.below(5) as usize];
    let bytes = dice.below(30_000);
    match dice.below(7) {
        0 => Fault::Refuse(kind),
        1 => Fault::AfterEffect(kind),
        2 => Fault::FailAfter(bytes, kind),
        3 => Fault::KillAfter(bytes),
        4 => Fault::FlipBit(bytes),
        5 => Fault::Truncate(bytes),
        _ => Fault::FlipBit(u64::MAX),
    }
}

fn trouble(dice: &mut Dice) -> Trouble {
    let at = dice.below(30_000);
    let delay = dice.once_in(3).then(|| Duration::from_millis(dice.below(300)));
    let trouble = match dice.below(6) {
        0 | 1 => Trouble::cut_sent(at),
        2 | 3 => Trouble::cut_heard(at),
        4 => Trouble { silent_after: Some(at), ..Trouble::default() },
        _ => Trouble::default(),
    };
    Trouble { delay, ..trouble }
}

/// Some writes, clones and a snapshot.
async fn grow(world: &mut World, dice: &mut Dice, tag: u64) {
    let zfs = world.source.zfs.clone();
    for name in ["src/a/x", "src/a/y", "src/a/y/z"] {
        if dice.once_in(3) {
            zfs.create(&ds(name));
        }
    }
    let all: Vec<_> = zfs.list(&ds(SOURCE), Depth::Tree).await.unwrap().datasets;
    for dataset in &all {
        if dice.once_in(2) {
            let (object, offset, len) = (1 + dice.below(5), dice.below(10_000), 1 + dice.below(10_000));
            let bytes = dice.bytes(len);
            zfs.write(&dataset.name, object, offset, &bytes);
        }
        if dice.once_in(8) && dataset.snapshots.len() > 1 && dataset.name != ds(SOURCE) {
            // An operator prunes; a bookmark may be all that is left. It fails where something needs the snapshot.
            let name = dataset.snapshot_name(&dataset.snapshots[0]).unwrap();
            let _ = zfs.destroy_snapshot(&name).await;
        }
    }
    if let Some(from) = all.get(1).and_then(|d| d.snapshots.last().map(|s| d.snapshot_name(s).unwrap()))
        && dice.once_in(4)
    {
        let clone = ds(&format!("src/a/clone{tag}"));
        zfs.clone_snapshot(&from, &clone);
        zfs.write(&clone, 1, 7, b"of a clone");
    }
    world.snapshot(sn(&format!("src/a@{tag}")).as_str(), true).await;
}

/// Hears of every operation, and judges what it left. Shares nothing with the engine.
#[derive(Clone, Default)]
struct Observer(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// Every snapshot that the target's pool ever had.
    on_target: BTreeMap<Guid, SnapshotName>,
    wrong: Option<String>,
    /// What happened, line by line, if somebody wants to know.
    trace: Option<Vec<String>>,
    since: Option<tokio::time::Instant>,
}

impl Observer {
    /// Writes a line down, if somebody wants to know; else it is not even made.
    fn note(&self, line: impl FnOnce() -> String) {
        let mut seen = self.0.lock().unwrap();
        let at = seen.since.map_or(Duration::ZERO, |since| since.elapsed());
        if let Some(trace) = &mut seen.trace {
            trace.push(format!("{:8} ms  {}", at.as_millis(), line()));
        }
    }

    fn wrong(&self, why: String) {
        self.note(|| why.clone());
        self.0.lock().unwrap().wrong.get_or_insert(why);
    }

    fn watch(&self, world: &World) {
        self.0.lock().unwrap().since = Some(tokio::time::Instant::now());
        let observer = self.clone();
        world.source.zfs.watch(move |op, what, ended| {
            observer.note(|| format!("source {op:?} {what}: {ended:?}"));
            // Replication only ever reads what it replicates.
            if matches!(op, Op::Rollback | Op::DestroyFilesystem | Op::CreateFilesystem | Op::Set | Op::Receive) {
                observer.wrong(format!("the source had a {op:?}: {what}"));
            }
        });
        let (observer, zfs) = (self.clone(), world.target.zfs.clone());
        let (ledger, locks) = (Arc::clone(&world.ledger), world.target.locks.clone());
        world.target.zfs.watch(move |op, what, ended| {
            observer.note(|| format!("target {op:?} {what}: {ended:?}"));
            observer.look(&zfs, &ledger, &locks, op, what);
        });
        self.look(&world.target.zfs, &world.ledger, &world.target.locks, Op::List, "at first");
    }

    /// On the target nothing ever vanishes, what comes is what the source had, and all is done under the lock.
    fn look(&self, zfs: &FakeZfs, ledger: &Ledger, locks: &MemoryLocks, op: Op, what: &str) {
        let now: BTreeMap<Guid, SnapshotName> =
            zfs.snapshots_below(&ds("dst")).into_iter().map(|(name, guid)| (guid, name)).collect();
        let mut seen = self.0.lock().unwrap();
        let mut wrong = Vec::new();
        for (guid, name) in &seen.on_target {
            if now.get(guid) != Some(name) {
                wrong.push(format!("{name} vanished with {op:?} {what}"));
            }
        }
        for (guid, name) in &now {
            if seen.on_target.contains_key(guid) || !name.dataset().is_at_or_below(&ds(TARGET)) {
                continue;
            }
            let ledger = ledger.lock().unwrap();
            if ledger.get(guid) != zfs.snapshot_content(name).as_ref() {
                wrong.push(format!("{name} is not what was sent, after {op:?} {what}"));
            }
        }
        seen.on_target = now;
        drop(seen);
        let changes = matches!(op, Op::Receive | Op::Rollback | Op::AbortReceive | Op::DestroyFilesystem | Op::Set);
        if changes && !locks.holds(&ds(TARGET)) {
            wrong.push(format!("{op:?} {what} without the lock"));
        }
        wrong.into_iter().for_each(|why| self.wrong(why));
    }

    fn verdict(&self) -> Result<(), String> {
        self.0.lock().unwrap().wrong.clone().map_or(Ok(()), Err)
    }
}

/// A run that troubles meet, and perhaps a restart of the peer, or its own sudden death. Says what came of it.
async fn troubled(world: &World, options: &RunOptions, dice: &mut Dice, observer: &Observer) -> Option<i32> {
    let restart_after = dice.once_in(4).then(|| Duration::from_millis(dice.below(2000)));
    let dies_after = (world.direction == Direction::Push && dice.once_in(6)).then(|| dice.below(2000));
    let context = world.context();
    let run = replicate(&context, options);
    let restart = async {
        match restart_after {
            Some(after) => {
                sleep(after).await;
                observer.note(|| "the peer is restarted".to_owned());
                world.daemon.restart();
            }
            None => std::future::pending().await,
        }
    };
    let death = async {
        match dies_after {
            Some(after) => sleep(Duration::from_millis(after)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(run, restart, death);
    let mut restarted = false;
    let report = loop {
        tokio::select! {
            biased;
            report = &mut run => break Some(report),
            () = &mut death => break None,
            () = &mut restart, if !restarted => restarted = true,
        }
    };
    observer.note(|| format!("{report:?}"));
    if report.is_none() {
        world.link.vanish();
    }
    report.map(|report| i32::from(report.exit_code))
}

async fn session(seed: u64, observer: &Observer) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let direction = if dice.once_in(2) { Direction::Push } else { Direction::Pull };
    let (source, target) = match dice.once_in(3) {
        true => (FakeZfs::old(1), FakeZfs::old(2)),
        false => (FakeZfs::new(1), FakeZfs::new(2)),
    };
    let mut world = World::between(direction, Host::in_one_thread(source), Host::in_one_thread(target)).await;
    observer.watch(&world);
    let options = RunOptions {
        jobs: 1 + dice.below(3) as usize,
        history: if dice.once_in(3) { History::Newest } else { History::All },
        // A slow link costs the clock of the test nothing, and so restarts and deaths come in the middle of transfers.
        bwlimit_bytes_per_s: (!dice.once_in(3)).then(|| 10_000 + dice.below(100_000)),
        ..world.recursive()
    };
    let mut tag = 0;
    for round in 0..1 + dice.below(3) {
        for _ in 0..1 + dice.below(2) {
            tag += 1;
            grow(&mut world, &mut dice, tag).await;
        }
        for _ in 0..dice.below(5) {
            let zfs = if dice.once_in(2) { &world.source.zfs } else { &world.target.zfs };
            let op = OPS[dice.below(OPS.len() as u64) as usize];
            (0..dice.below(4)).for_each(|_| zfs.fail_at(op, Fault::FlipBit(u64::MAX)));
            zfs.fail_at(op, fault(&mut dice));
        }
        let troubles: Vec<_> = (0..dice.below(6)).map(|_| trouble(&mut dice)).collect();
        world.link.expect(troubles);
        let first = troubled(&world, &options, &mut dice, observer).await;
        world.heal();
        let none = BTreeSet::new();
        observer.verdict().map_err(|why| format!("round {round}: unsafe: {why}; ended with {first:?}"))?;
        world.safe(&none).await.map_err(|why| format!("round {round}: unsafe: {why}; ended with {first:?}"))?;
        if first == Some(0) {
            world.complete(true).await.map_err(|why| format!("round {round}: said to be done: {why}"))?;
        }
        let second = world.run(&options).await;
        observer.note(|| format!("{second:?}"));
        observer.verdict().map_err(|why| format!("round {round}: unsafe after healing: {why}"))?;
        world.safe(&none).await.map_err(|why| format!("round {round}: unsafe after healing: {why}"))?;
        if second.exit_code != 0 {
            return Err(format!("round {round}: does not heal: {second:?}; the first ended with {first:?}"));
        }
        let whole = world.complete(true).await;
        whole.map_err(|why| format!("round {round}: healed, but {why}: {second:?}; the first ended with {first:?}"))?;
    }
    world.tidy().await
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok())
}

#[test]
fn whatever_happens_is_safe_and_heals() {
    let seeds = match number("ZMIGRATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ZMIGRATE_SEEDS").unwrap_or(SESSIONS),
    };
    let (next, failures, since) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()), Instant::now());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let ended = std::panic::catch_unwind(|| run_alone(session(seed, &Observer::default())));
                    match ended {
                        Ok(Ok(())) => {}
                        Ok(Err(why)) => failures.lock().unwrap().push(format!("ZMIGRATE_SEED={seed}: {why}")),
                        Err(_) => failures.lock().unwrap().push(format!("ZMIGRATE_SEED={seed}: it panicked")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("seeds {seeds:?}: {} failed, in {:.1} s", failures.len(), since.elapsed().as_secs_f64());
    let some: Vec<_> = failures.iter().take(20).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} of {seeds:?} failed:\n{}", failures.len(), some.join("\n"));
}

fn trace(seed: u64) -> Vec<String> {
    let observer = Observer::default();
    observer.0.lock().unwrap().trace = Some(Vec::new());
    let ended = run_alone(session(seed, &observer));
    let mut trace = observer.0.lock().unwrap().trace.take().unwrap_or_default();
    trace.push(format!("{ended:?}"));
    trace
}

#[test]
fn the_same_seed_gives_the_same_session() {
    let mut lines = 0;
    for seed in 0..60 {
        let (one, other) = (trace(seed), trace(seed));
        let differs = one.iter().zip(&other).position(|(a, b)| a != b);
        if let Some(at) = differs {
            panic!("seed {seed}, event {at} of {}:\n{}\n{}", one.len(), one[at], other[at]);
        }
        assert_eq!(one.len(), other.len(), "seed {seed}");
        lines += one.len();
    }
    // Else it would prove little; and other seeds give other sessions.
    assert!(lines > 60 * 50, "only {lines} events");
    assert_ne!(trace(1), trace(2));
}
