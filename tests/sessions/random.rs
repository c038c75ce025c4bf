//! Random sessions: a history, troubles everywhere, a run; then all heals and the same command is given again.

use zmigrate::{
    driver::{Direction, RunOptions},
    fake::Fault,
    plan::History,
    port::zfs::{Zfs, ZfsErrorKind as K},
};

use crate::{
    clock::{Dice, run},
    wire::Trouble,
    world::{OPS, SOURCE, World, ds, sn},
};

fn fault(dice: &mut Dice) -> Fault {
    let kind = [K::Io, K::Busy, K::Killed, K::NoSpace, K::Other][dice.below(5) as usize];
    let bytes = dice.below(60_000);
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
    let at = dice.below(60_000);
    match dice.below(6) {
        0 | 1 => Trouble::cut_sent(at),
        2 | 3 => Trouble::cut_heard(at),
        4 => Trouble { silent_after: Some(at), ..Trouble::default() },
        _ => Trouble::default(),
    }
}

/// Some writes, clones and a snapshot.
async fn grow(world: &mut World, dice: &mut Dice, tag: u64) {
    let zfs = world.source.zfs.clone();
    for name in ["src/a/x", "src/a/y", "src/a/y/z"] {
        if dice.once_in(3) {
            zfs.create(&ds(name));
        }
    }
    let all: Vec<_> = zfs.list(&ds(SOURCE), zmigrate::port::zfs::Depth::Tree).await.unwrap().datasets;
    for dataset in &all {
        if dice.once_in(2) {
            let (object, offset, len) = (1 + dice.below(5), dice.below(20_000), 1 + dice.below(20_000));
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

async fn session(seed: u64) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let direction = if dice.once_in(2) { Direction::Push } else { Direction::Pull };
    let mut world = if dice.once_in(3) { World::old(direction).await } else { World::new(direction).await };
    let options = RunOptions {
        jobs: 1 + dice.below(3) as usize,
        history: if dice.once_in(3) { History::Newest } else { History::All },
        ..world.recursive()
    };
    let mut tag = 0;
    for round in 0..1 + dice.below(3) {
        for _ in 0..1 + dice.below(2) {
            tag += 1;
            grow(&mut world, &mut dice, tag).await;
        }
        let before = world.guids().await;
        for _ in 0..dice.below(5) {
            let zfs = if dice.once_in(2) { &world.source.zfs } else { &world.target.zfs };
            let op = OPS[dice.below(OPS.len() as u64) as usize];
            (0..dice.below(4)).for_each(|_| zfs.fail_at(op, Fault::FlipBit(u64::MAX)));
            zfs.fail_at(op, fault(&mut dice));
        }
        let troubles: Vec<_> = (0..dice.below(6)).map(|_| trouble(&mut dice)).collect();
        world.link.expect(troubles);
        let first = world.run(&options).await;
        world.heal();
        world.safe(&before).await.map_err(|why| format!("round {round}: unsafe: {why}; {first:?}"))?;
        if first.exit_code == 0 {
            world.complete(true).await.map_err(|why| format!("round {round}: said to be done: {why}; {first:?}"))?;
        }
        let before = world.guids().await;
        let second = world.run(&options).await;
        world.safe(&before).await.map_err(|why| format!("round {round}: unsafe after healing: {why}"))?;
        if second.exit_code != 0 {
            return Err(format!("round {round}: does not heal: {second:?}; first: {first:?}"));
        }
        let whole = world.complete(true).await;
        whole.map_err(|why| format!("round {round}: healed, but {why}: {second:?}; first: {first:?}"))?;
    }
    world.tidy().await
}

#[test]
fn whatever_happens_is_safe_and_heals() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("ZMIGRATE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ZMIGRATE_SEEDS").unwrap_or(200)).collect(),
    };
    let failures: Vec<_> =
        seeds.iter().filter_map(|seed| run(session(*seed)).err().map(|why| format!("seed {seed}: {why}"))).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), seeds.len(), failures.join("\n"));
}
