//! What a plan costs does not depend on the size of the tree.

use std::collections::BTreeMap;

use zmigrate::{
    driver::{Direction, RunOptions},
    fake::{FakeZfs, Op},
    plan::History,
    port::zfs::{SnapshotRequest, Zfs},
};

use crate::{
    clock::run,
    world::{OPS, SOURCE, World, ds},
};

fn counts(zfs: &FakeZfs) -> BTreeMap<Op, u64> {
    OPS.iter().map(|op| (*op, zfs.count(*op))).collect()
}

/// The operations of each side for a run over a tree of that many datasets that is up to date.
async fn planned(datasets: usize, snapshots: usize) -> [BTreeMap<Op, u64>; 2] {
    let world = World::new(Direction::Push).await;
    for n in 1..datasets {
        world.source.zfs.create(&ds(&format!("{SOURCE}/d{n:04}")));
    }
    for n in 0..snapshots {
        world.source.zfs.write(&ds(SOURCE), 7, 0, &[n as u8]);
        let tag = format!("{n}").parse().unwrap();
        let request = SnapshotRequest { root: ds(SOURCE), tag, recursive: true, except: Vec::new() };
        world.source.zfs.snapshot(&request).await.unwrap();
    }
    let options = RunOptions { history: History::Newest, ..world.recursive() };
    let report = world.run(&options).await;
    assert_eq!(report.exit_code, 0, "{:?}", report.error);
    let before = [counts(&world.source.zfs), counts(&world.target.zfs)];
    let report = world.run(&options).await;
    assert_eq!((report.exit_code, report.result), (0, "up_to_date"), "{:?}", report.error);
    assert_eq!(report.datasets.len(), datasets);
    let after = [counts(&world.source.zfs), counts(&world.target.zfs)];
    [0, 1].map(|side| after[side].iter().map(|(op, n)| (*op, n - before[side][op])).collect())
}

#[test]
fn a_tree_that_is_up_to_date_costs_the_same_at_any_size() {
    let small = run(planned(10, 3));
    let large = run(planned(1000, 20));
    assert_eq!(small, large);
    assert!(small.iter().all(|side| side.values().sum::<u64>() <= 6), "{small:?}");
}
