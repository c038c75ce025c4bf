//! How long a plan takes: a wide tree, and one dataset with a long past.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, criterion_group, criterion_main};
use zmigrate::{
    plan::{EncryptionMode, History, PlanInput, PlanOptions, plan},
    types::{
        CreateTxg, Guid,
        listing::{Capabilities, DatasetInfo, DatasetKind, Listing, SnapshotInfo},
    },
};

fn dataset(name: &str, number: u64, snapshots: u64) -> DatasetInfo {
    let snapshot = |n| SnapshotInfo {
        tag: format!("auto-{n:06}").parse().unwrap(),
        guid: Guid((number << 32) + n + 1),
        createtxg: CreateTxg(n + 1),
        creation_unix_s: n,
    };
    DatasetInfo {
        name: name.parse().unwrap(),
        kind: DatasetKind::Filesystem,
        guid: Guid(number),
        createtxg: CreateTxg(1),
        origin: None,
        encryption: None,
        resume_token: None,
        inconsistent: false,
        written: Some(0),
        referenced: 0,
        available: 0,
        properties: Vec::new(),
        snapshots: (0..snapshots).map(snapshot).collect(),
        bookmarks: Vec::new(),
    }
}

fn tree(root: &str, below: u64, snapshots: u64) -> Listing {
    let children = (1..=below).map(|n| dataset(&format!("{root}/d{n}"), n, snapshots));
    Listing { datasets: std::iter::once(dataset(root, 0, snapshots)).chain(children).collect() }
}

fn bench(c: &mut Criterion) {
    let options = PlanOptions {
        recursive: true,
        exclude: Vec::new(),
        history: History::All,
        upto: None,
        encryption: EncryptionMode::Default,
        rollback: false,
        job: "bench".parse().unwrap(),
        enters: None,
    };
    let above = [dataset("backup", 0, 0)];
    let caps = Capabilities::default();
    let mut run = |name: &str, source: Listing, target: Listing| {
        c.bench_function(name, |b| {
            b.iter(|| {
                plan(&PlanInput {
                    source: &source,
                    source_root: &"tank/db".parse().unwrap(),
                    source_caps: &caps,
                    target: &target,
                    target_root: &"backup/db".parse().unwrap(),
                    target_ancestors: &above,
                    target_caps: &caps,
                    options: &options,
                })
                .unwrap()
            })
        });
    };
    run("1000x20 up to date", tree("tank/db", 999, 20), tree("backup/db", 999, 20));
    run("1000x20 one new each", tree("tank/db", 999, 20), tree("backup/db", 999, 19));
    run("1000x20 to nothing", tree("tank/db", 999, 20), Listing::default());
    run("1x65000 one new", tree("tank/db", 0, 65_000), tree("backup/db", 0, 64_999));
    run("1x65000 to nothing", tree("tank/db", 0, 65_000), Listing::default());
}

criterion_group!(benches, bench);
criterion_main!(benches);
