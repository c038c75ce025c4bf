use super::*;
use crate::types::{
    CreateTxg,
    listing::{BookmarkInfo, DatasetKind, PLACEHOLDER, Property, PropertySource, SnapshotInfo},
};

/// A dataset with snapshots of these GUIDs, which are their places in time as well.
fn dataset(name: &str, snapshots: &[u64]) -> DatasetInfo {
    let snapshot = |n: &u64| SnapshotInfo {
        tag: format!("s{n}").parse().unwrap(),
        guid: Guid(*n),
        createtxg: CreateTxg(*n),
        creation_unix_s: *n * 100,
    };
    DatasetInfo {
        name: name.parse().unwrap(),
        kind: DatasetKind::Filesystem,
        guid: Guid(9000),
        createtxg: CreateTxg(0),
        origin: None,
        encryption: None,
        resume_token: None,
        inconsistent: false,
        written: Some(4096),
        referenced: 0,
        available: 0,
        properties: Vec::new(),
        snapshots: snapshots.iter().map(snapshot).collect(),
        bookmarks: Vec::new(),
    }
}

fn with(mut dataset: DatasetInfo, name: &str, value: &str) -> DatasetInfo {
    dataset.properties.push(Property { name: name.into(), value: value.into(), source: PropertySource::Local });
    dataset
}

fn bookmark(mut dataset: DatasetInfo, n: u64) -> DatasetInfo {
    let tag = format!("zmigrate:aaaa0001:{n}").parse().unwrap();
    dataset.bookmarks.push(BookmarkInfo { tag, guid: Guid(n), createtxg: CreateTxg(n), creation_unix_s: n * 100 });
    dataset
}

fn seen(source: &[DatasetInfo], target: &[DatasetInfo]) -> Vec<Lag> {
    let (source, target) = (Listing { datasets: source.to_vec() }, Listing { datasets: target.to_vec() });
    let roots: [DatasetName; 2] = ["src/a", "dst/a"].map(|name| name.parse().unwrap());
    lags((&source, &roots[0]), (&target, &roots[1]), |_| true)
}

/// Source, GUID of the common snapshot, snapshots and bytes that are unsent.
type Told<'a> = (&'a str, Option<u64>, Option<usize>, Option<u64>);

fn told(lags: &[Lag]) -> Vec<Told<'_>> {
    lags.iter()
        .map(|lag| {
            let common = lag.common.as_ref().map(|common| common.guid.0);
            (lag.source.as_str(), common, lag.unsent_snapshots, lag.unsent_bytes)
        })
        .collect()
}

#[test]
fn a_dataset_without_snapshots_is_not_behind() {
    let source = [dataset("src/a", &[]), dataset("src/a/db", &[1, 2]), dataset("src/a/new", &[])];
    let placeholder = with(dataset("dst/a", &[]), PLACEHOLDER, "on");
    let db = with(dataset("dst/a/db", &[1, 2]), JOB, "aaaa0001");
    let lags = seen(&source, &[placeholder.clone(), db.clone()]);
    assert_eq!(told(&lags), [("src/a/db", Some(2), Some(0), Some(4096))]);
    // Somebody snapshots the placeholder; one that a job received otherwise is of that name.
    let theirs = with(dataset("dst/a", &[70]), PLACEHOLDER, "on");
    assert_eq!(told(&seen(&source, &[theirs, db.clone()])).len(), 1);
    // With a snapshot it is behind.
    let source = [dataset("src/a", &[5]), dataset("src/a/db", &[1, 2])];
    let lags = seen(&source, &[placeholder, db]);
    assert_eq!(told(&lags)[0], ("src/a", None, Some(1), None));
}

/// What was sent once, and of which the source has nothing left: its copy grows old, and nothing follows.
#[test]
fn a_source_that_lost_all_that_its_copy_has_is_told() {
    let copy = with(dataset("dst/a", &[1, 2]), JOB, "aaaa0001");
    let lags = seen(&[dataset("src/a", &[])], &[copy]);
    assert_eq!(told(&lags), [("src/a", None, Some(0), None)]);
}

#[test]
fn while_the_target_is_away_what_the_source_has_got_since_is_unsent() {
    let target = [with(dataset("dst/a", &[1, 2]), JOB, "aaaa0001")];
    let mut lags = seen(&[dataset("src/a", &[1, 2])], &target);
    let base = lags[0].common.clone();
    let mut again = |source: &[DatasetInfo]| {
        recount(&mut lags, &Listing { datasets: source.to_vec() });
        assert_eq!(lags[0].common, base, "the base is what both had");
        (lags[0].unsent_snapshots, lags[0].unsent_bytes, source.first().and_then(|info| lags[0].missing(info)))
    };
    let spec = |base: Base, to: &str| {
        Some(SendSpec::Incremental { base, snapshot: to.parse().unwrap(), flags: SendFlags::default() })
    };
    let from = Base::Snapshot("src/a@s2".parse().unwrap());
    assert_eq!(again(&[dataset("src/a", &[1, 2, 3, 4, 5])]), (Some(3), None, spec(from, "src/a@s5")));
    // Its own snapshot is gone, and the bookmark of it is there.
    let from = Base::Bookmark("src/a#zmigrate:aaaa0001:2".parse().unwrap());
    let marked = bookmark(dataset("src/a", &[1, 3, 4]), 2);
    assert_eq!(again(&[marked]), (Some(2), None, spec(from, "src/a@s4")));
    // Neither is: how much is newer cannot be told. Nor of a dataset that is gone.
    assert_eq!(again(&[dataset("src/a", &[3, 4])]), (None, None, None));
    assert_eq!(again(&[]), (None, None, None));
    // Nothing new but what was written.
    assert_eq!(again(&[dataset("src/a", &[1, 2])]), (Some(0), Some(4096), None));
}

#[test]
fn what_never_was_in_common_is_unsent_as_a_whole() {
    let mut lags = seen(&[dataset("src/a", &[1, 2])], &[]);
    recount(&mut lags, &Listing { datasets: vec![dataset("src/a", &[1, 2, 3])] });
    assert_eq!(told(&lags), [("src/a", None, Some(3), None)]);
    // Whether there is a copy of it nobody knows.
    recount(&mut lags, &Listing { datasets: vec![dataset("src/a", &[])] });
    assert_eq!(told(&lags), [("src/a", None, None, None)]);
}
