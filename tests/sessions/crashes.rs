//! A failure at every operation of either side, before its effect and after it; then the same command again.

use std::collections::BTreeSet;

use zmigrate::{
    driver::Direction,
    fake::{FakeZfs, Fault, Op},
    port::zfs::ZfsErrorKind as K,
};

use crate::{
    clock::run,
    transfers::{history, more_history},
    world::{OPS, World},
};

/// One that changes nothing, whatever operation meets it: there is no such byte.
const NONE: Fault = Fault::FlipBit(u64::MAX);

fn at(zfs: &FakeZfs, op: Op, nth: u64, fault: Fault) {
    (1..nth).for_each(|_| zfs.fail_at(op, NONE));
    zfs.fail_at(op, fault);
}

#[derive(Clone, Copy)]
struct Setting {
    direction: Direction,
    old: bool,
    /// The target has the first part of the history already.
    later: bool,
}

impl Setting {
    async fn world(self) -> World {
        let mut world = if self.old { World::old(self.direction).await } else { World::new(self.direction).await };
        history(&mut world).await;
        if self.later {
            assert_eq!(world.run(&world.recursive()).await.exit_code, 0);
            more_history(&mut world).await;
        }
        world
    }

    /// How often a run without faults calls each operation of a side.
    async fn counts(self, of_source: bool) -> Vec<(Op, u64)> {
        let world = self.world().await;
        let zfs = if of_source { &world.source.zfs } else { &world.target.zfs };
        let before: Vec<u64> = OPS.iter().map(|op| zfs.count(*op)).collect();
        assert_eq!(world.run(&world.recursive()).await.exit_code, 0);
        OPS.iter().zip(before).map(|(op, n)| (*op, zfs.count(*op) - n)).filter(|(_, n)| *n > 0).collect()
    }

    /// One run with the fault, and one without.
    async fn trial(self, of_source: bool, op: Op, nth: u64, fault: Fault) -> Result<(), String> {
        let mut world = self.world().await;
        let before = if self.later { world.guids().await } else { BTreeSet::new() };
        at(if of_source { &world.source.zfs } else { &world.target.zfs }, op, nth, fault);
        let first = world.run(&world.recursive()).await;
        world.heal();
        world.safe(&before).await.map_err(|why| format!("after the fault: {why}\n{first:?}"))?;
        if first.exit_code == 0 {
            world.complete(true).await.map_err(|why| format!("the run said that all is well, but {why}"))?;
        }
        let before = world.guids().await;
        let second = world.run(&world.recursive()).await;
        world.safe(&before).await.map_err(|why| format!("after the second run: {why}"))?;
        if second.exit_code != 0 {
            return Err(format!("the second run ended with {}: {second:?}\nfirst: {first:?}", second.exit_code));
        }
        world
            .complete(true)
            .await
            .map_err(|why| format!("after the second run: {why}\nfirst: {first:?}\nsecond: {second:?}"))?;
        world.tidy().await.map_err(|why| format!("in the end: {why}\nfirst: {first:?}"))
    }
}

fn everywhere(direction: Direction, old: bool) {
    let mut failures = Vec::new();
    let mut trials = 0;
    for later in [false, true] {
        let setting = Setting { direction, old, later };
        for of_source in [true, false] {
            for (op, n) in run(setting.counts(of_source)) {
                for nth in 1..=n {
                    for fault in [
                        Fault::Refuse(K::Io),
                        Fault::AfterEffect(K::Io),
                        Fault::Refuse(K::Killed),
                        Fault::AfterEffect(K::Busy),
                    ] {
                        trials += 1;
                        if let Err(why) = run(setting.trial(of_source, op, nth, fault)) {
                            let side = if of_source { "source" } else { "target" };
                            failures.push(format!("later={later} {side} {op:?} #{nth} {fault:?}: {why}"));
                        }
                    }
                }
            }
        }
    }
    assert!(trials > 200, "only {trials} trials");
    assert!(failures.is_empty(), "{} of {trials} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_operation_of_a_push_may_fail() {
    everywhere(Direction::Push, false);
}

#[test]
fn every_operation_of_a_pull_may_fail() {
    everywhere(Direction::Pull, false);
}

#[test]
fn every_operation_of_a_push_between_old_ones_may_fail() {
    everywhere(Direction::Push, true);
}

#[test]
fn every_operation_of_a_pull_between_old_ones_may_fail() {
    everywhere(Direction::Pull, true);
}
