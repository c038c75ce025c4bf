//! What a plan costs does not depend on the size of the tree.

use std::collections::BTreeMap;

use zmigrate::{
    driver::{Direction, RunOptions, UpkeepOptions, upkeep},
    fake::{FakeZfs, Op},
    jobs::lag::Lag,
    plan::History,
    port::zfs::{SnapshotRequest, Zfs},
};

use crate::{
    clock::run,
    world::{OPS, SOURCE, World, ds, upkeep_options},
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

/// The operations of each side for looking after a tree of that many datasets, with something to prune in some of them.
async fn kept_up(datasets: usize, with_news: usize) -> [BTreeMap<Op, u64>; 2] {
    let world = World::new(Direction::Push).await;
    for n in 1..datasets {
        world.source.zfs.create(&ds(&format!("{SOURCE}/d{n:04}")));
    }
    let take = async |root: &str, hour: usize, recursive: bool| {
        let tag = format!("db_2026-11-26T{hour:02}:00:00Z").parse().unwrap();
        let request = SnapshotRequest { root: ds(root), tag, recursive, except: Vec::new() };
        world.source.zfs.snapshot(&request).await.unwrap();
    };
    take(SOURCE, 0, true).await;
    for n in 1..=with_news {
        for hour in 1..3 {
            take(&format!("{SOURCE}/d{n:04}"), hour, false).await;
        }
    }
    let report = world.run(&world.recursive()).await;
    assert_eq!(report.exit_code, 0, "{:?}", report.error);
    let keep = Some("last 1".parse().unwrap());
    let options = UpkeepOptions {
        recursive: true,
        keep_source: keep.clone(),
        keep_target: keep,
        now: "2026-11-26T04:00:00Z".parse().unwrap(),
        ..upkeep_options(Direction::Push)
    };
    let before = [counts(&world.source.zfs), counts(&world.target.zfs)];
    let record = |lags: &[Lag]| {
        assert!(
            lags.len() == datasets && lags.iter().all(|lag| lag.common.is_some() && lag.unsent_snapshots == Some(0))
        );
        Ok(())
    };
    let done = upkeep(&world.context(), &options, &record).await.unwrap();
    // Of three snapshots on each side, the newest stays.
    assert_eq!(done.destroyed(), with_news * 4, "{:?}", done.pruned);
    let after = [counts(&world.source.zfs), counts(&world.target.zfs)];
    [0, 1].map(|side| after[side].iter().map(|(op, n)| (*op, n - before[side][op])).collect())
}

#[test]
fn looking_after_a_tree_without_news_costs_the_same_at_any_size() {
    let small = run(kept_up(10, 0));
    let large = run(kept_up(1000, 0));
    assert_eq!(small, large);
    assert!(small.iter().all(|side| side.values().sum::<u64>() <= 3), "{small:?}");
}

#[test]
fn pruning_costs_what_is_pruned() {
    let (one, two) = (run(kept_up(100, 1)), run(kept_up(100, 2)));
    let sum = |counts: &[BTreeMap<Op, u64>; 2]| counts.iter().flat_map(BTreeMap::values).sum::<u64>();
    let none = sum(&run(kept_up(100, 0)));
    assert_eq!(sum(&two) - none, 2 * (sum(&one) - none));
    assert!(sum(&one) - none <= 8 + 4, "two looks on each side, and four snapshots: {one:?}");
}
