//! Snapshots of trees: atomic, and with exceptions that harm nothing.

use zmigrate::{
    port::zfs::{Depth, SnapshotRequest, ZfsErrorKind::*},
    types::{CreateTxg, DatasetName},
};

use crate::{
    case,
    case::Case,
    world::{World, assert_fails, request},
};

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_tree_is_one_moment),
        case!(an_existing_tag_stops_the_whole_tree),
        case!(what_is_excluded_gets_no_snapshot),
        case!(an_excluded_snapshot_of_the_same_tag_survives),
    ]
}

fn tree(root: &DatasetName, tag: &str, except: &[DatasetName]) -> SnapshotRequest {
    SnapshotRequest { recursive: true, except: except.to_vec(), ..request(root, tag) }
}

/// Who has a snapshot of that tag, and from when.
async fn tagged(w: &World, tag: &str) -> Vec<(String, CreateTxg)> {
    let listing = w.zfs.list(&w.root, Depth::Tree).await.unwrap();
    let one = |d: &zmigrate::types::listing::DatasetInfo| {
        let s = d.snapshots.iter().find(|s| s.tag.as_str() == tag)?;
        Some((d.name.relative_to(&w.root).unwrap().to_owned(), s.createtxg))
    };
    listing.datasets.iter().filter_map(one).collect()
}

fn build(w: &World) -> DatasetName {
    let a = w.create("a");
    for name in ["a/x", "a/x/deep", "a/xy", "b"] {
        w.create(name);
    }
    a
}

async fn a_tree_is_one_moment(w: &World) {
    let a = build(w);
    w.zfs.snapshot(&tree(&a, "t", &[])).await.unwrap();
    let found = tagged(w, "t").await;
    assert_eq!(found.iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), ["a", "a/x", "a/x/deep", "a/xy"]);
    assert!(found.iter().all(|f| f.1 == found[0].1), "not one transaction group: {found:?}");
}

async fn an_existing_tag_stops_the_whole_tree(w: &World) {
    let a = build(w);
    w.snapshot(&w.ds("a/x"), "t").await;
    assert_fails(w.zfs.snapshot(&tree(&a, "t", &[])).await, &[Exists]);
    assert_eq!(tagged(w, "t").await.len(), 1);
}

async fn what_is_excluded_gets_no_snapshot(w: &World) {
    let a = build(w);
    w.zfs.snapshot(&tree(&a, "t", &[w.ds("a/x")])).await.unwrap();
    let found = tagged(w, "t").await;
    assert_eq!(found.iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), ["a", "a/x/deep", "a/xy"], "each by itself");
    assert_eq!(found[0].1, found[1].1);
    assert_fails(w.zfs.snapshot(&tree(&a, "u", std::slice::from_ref(&a))).await, &[NotFound]);
    assert!(tagged(w, "u").await.is_empty());
}

async fn an_excluded_snapshot_of_the_same_tag_survives(w: &World) {
    let a = build(w);
    w.snapshot(&w.ds("a/x/deep"), "t").await;
    let before = tagged(w, "t").await;
    match w.zfs.snapshot(&tree(&a, "t", &[w.ds("a/x"), w.ds("a/x/deep")])).await {
        Ok(()) => assert!(w.can.snapshot_many && tagged(w, "t").await.len() == 3),
        Err(e) => assert!(!w.can.snapshot_many && e.kind == Exists, "{e}"),
    }
    let after = tagged(w, "t").await;
    assert!(before.iter().all(|b| after.contains(b)), "{before:?} {after:?}");
}
