//! A stream that is damaged, cut, killed or stopped, at many places.

use std::{collections::BTreeSet, time::Duration};

use zmigrate::{
    driver::Direction,
    fake::{Fault, Op},
    port::zfs::ZfsErrorKind as K,
};

use crate::{
    clock::{Dice, run},
    world::{SOURCE, World, ds},
};

/// A small dataset with two snapshots; the first is there already if `later`.
async fn small(direction: Direction, later: bool) -> World {
    let mut world = World::new(direction).await;
    world.source.zfs.write(&ds(SOURCE), 7, 0, &Dice::new(9).bytes(40_000));
    world.snapshot("src/a@1", false).await;
    if later {
        assert_eq!(world.run(&world.options()).await.exit_code, 0);
        world.source.zfs.write(&ds(SOURCE), 7, 5_000, &Dice::new(8).bytes(20_000));
        world.source.zfs.write(&ds(SOURCE), 8, 0, &Dice::new(7).bytes(20_000));
        world.snapshot("src/a@2", false).await;
    }
    world
}

async fn stream_len(direction: Direction, later: bool) -> u64 {
    let world = small(direction, later).await;
    let report = world.run(&world.options()).await;
    assert_eq!(report.exit_code, 0);
    report.raw_bytes
}

/// A run with a fault in its stream, then one without. Gives what the first said.
async fn trial(world: World, op: Op, fault: Fault, stalls: bool) -> Result<String, String> {
    let before = world.guids().await;
    let side = if op == Op::Send { &world.source } else { &world.target };
    side.zfs.fail_at(op, fault);
    let options = world.options();
    let first = if stalls {
        let (run, release) = (world.run(&options), async {
            // Longer than any idle timeout: a stream that stands still is no lost link.
            tokio::time::sleep(Duration::from_secs(15)).await;
            world.heal();
        });
        tokio::join!(run, release).0
    } else {
        world.run(&world.options()).await
    };
    world.heal();
    world.safe(&before).await?;
    if first.exit_code == 0 {
        world.complete(false).await.map_err(|why| format!("said to be well: {why}"))?;
    } else if stalls {
        return Err(format!("a stall ended the run: {first:?}"));
    }
    let before = world.guids().await;
    let second = world.run(&world.options()).await;
    world.safe(&before).await.map_err(|why| format!("second run: {why}"))?;
    if second.exit_code != 0 {
        return Err(format!("the second run failed: {second:?}; first: {first:?}"));
    }
    world.complete(false).await.map_err(|why| format!("second run: {why}"))?;
    let said = first.error.iter().chain(first.failures()).map(|f| f.message.clone()).collect::<Vec<_>>().join("; ");
    Ok(format!("{} {said}", first.exit_code))
}

fn at_many(direction: Direction, op: Op, step: u64, fault: impl Fn(u64) -> Fault, check: impl Fn(&str) -> bool) {
    let mut failures = Vec::new();
    for later in [false, true] {
        let len = run(stream_len(direction, later));
        assert!(len > 40_000, "the stream has only {len} bytes");
        let stalls = matches!(fault(0), Fault::StallAfter(_));
        for offset in (0..len).step_by(step as usize).chain([len - 1]) {
            let ended = run(async { trial(small(direction, later).await, op, fault(offset), stalls).await });
            match ended {
                Ok(said) if check(&said) => {}
                other => failures.push(format!("later={later} at {offset} of {len}: {other:?}")),
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_flipped_bit_is_found() {
    at_many(Direction::Push, Op::Send, 997, Fault::FlipBit, |said| said.starts_with("6 "));
}

#[test]
fn a_flipped_bit_is_found_by_a_pull() {
    at_many(Direction::Pull, Op::Send, 1997, Fault::FlipBit, |said| said.starts_with("6 "));
}

#[test]
fn a_stream_that_ends_early_is_found() {
    at_many(Direction::Push, Op::Send, 1499, Fault::Truncate, |said| said.starts_with("6 "));
    at_many(Direction::Pull, Op::Send, 2999, Fault::Truncate, |said| said.starts_with("6 "));
}

#[test]
fn what_was_killed_is_begun_again_by_itself() {
    for direction in [Direction::Push, Direction::Pull] {
        for op in [Op::Send, Op::Receive] {
            at_many(direction, op, 7001, Fault::KillAfter, |said| said.starts_with("0 "));
        }
    }
}

#[test]
fn the_cause_is_named_that_came_first() {
    for direction in [Direction::Push, Direction::Pull] {
        for (op, what) in [(Op::Send, "send src/a@"), (Op::Receive, "receive into dst/in/a@")] {
            at_many(
                direction,
                op,
                7001,
                |n| Fault::FailAfter(n, K::NoSpace),
                |said| said.starts_with("6 ") && said.contains(what) && said.contains("asked for"),
            );
        }
    }
}

#[test]
fn a_stall_is_no_failure() {
    for direction in [Direction::Push, Direction::Pull] {
        for op in [Op::Send, Op::Receive] {
            at_many(direction, op, 20_011, Fault::StallAfter, |said| said.starts_with("0 "));
        }
    }
}

#[test]
fn before_a_first_stream_nothing_is_there() {
    let world = run(small(Direction::Push, false));
    assert_eq!(run(world.guids()), BTreeSet::new());
}
