//! Costs that must not grow with the tree.

use zmigrate::port::zfs::{Depth, SnapshotRequest};

use crate::{
    case,
    case::Case,
    world::{World, request},
};

const SNAPSHOTS: usize = 5;

/// 200, or `ZMIGRATE_DATASETS`: where the processor is emulated, fewer show the same.
fn datasets() -> usize {
    std::env::var("ZMIGRATE_DATASETS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

pub fn cases() -> Vec<Case> {
    vec![case!(a_large_tree_takes_as_many_commands_as_a_small_one)]
}

async fn a_large_tree_takes_as_many_commands_as_a_small_one(w: &World) {
    let datasets = datasets();
    let off = [("canmount".to_owned(), "off".to_owned())];
    w.zfs.create_filesystem(&w.ds("d000"), &off).await.unwrap();
    let cost = async |depth| {
        let before = w.host.commands_run();
        let listing = w.zfs.list(&w.root, depth).await.unwrap();
        (w.host.commands_run().zip(before).map(|(after, before)| after - before), listing)
    };
    // The first listing also finds out what this ZFS can do.
    cost(Depth::Tree).await;
    let (small, _) = cost(Depth::Tree).await;
    for i in 1..datasets {
        w.zfs.create_filesystem(&w.ds(&format!("d{i:03}")), &off).await.unwrap();
    }
    for i in 0..SNAPSHOTS {
        let all = SnapshotRequest { recursive: true, ..request(&w.root, &format!("s{i}")) };
        w.zfs.snapshot(&all).await.unwrap();
    }
    let (large, listing) = cost(Depth::Tree).await;
    assert_eq!(listing.datasets.len(), datasets + 1);
    assert_eq!(listing.datasets.iter().map(|d| d.snapshots.len()).sum::<usize>(), (datasets + 1) * SNAPSHOTS);
    assert_eq!(large, small);
    assert!(large.is_none_or(|n| n <= 3), "{large:?} commands");
    assert!(cost(Depth::Root).await.0.is_none_or(|n| n <= 3));
    let names: Vec<_> = listing.datasets.iter().map(|d| d.name.clone()).collect();
    let before = w.host.commands_run();
    assert_eq!(w.zfs.datasets(&names).await.unwrap().len(), names.len());
    assert!(w.host.commands_run().zip(before).is_none_or(|(after, before)| after - before == 1));
}
