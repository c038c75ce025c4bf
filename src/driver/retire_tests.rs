use super::*;
use crate::{
    driver::Direction,
    types::{
        CreateTxg,
        listing::{DatasetKind, Property, PropertySource, SnapshotInfo},
    },
};

const ROOT: Guid = Guid(1);

fn west() -> PeerName {
    "west".parse().unwrap()
}

fn job(root: Guid) -> String {
    JobId::for_target(&west(), root, &"in/db".parse().unwrap()).unwrap().to_string()
}

fn options() -> UpkeepOptions {
    UpkeepOptions {
        name: "db".parse().unwrap(),
        direction: Direction::Push,
        source: "tank/db".parse().unwrap(),
        target: "in/db".parse().unwrap(),
        recursive: true,
        exclude: Vec::new(),
        prefix: "db".parse().unwrap(),
        keep_source: None,
        keep_target: None,
        destroy_deleted: Some("30d".parse().unwrap()),
        renamed: Default::default(),
        now: "2026-11-26T04:00:00Z".parse().unwrap(),
        dry_run: false,
    }
}

/// A dataset of that GUID, whose snapshots have these.
fn dataset(name: &str, guid: u64, snapshots: &[u64], job: Option<&str>) -> DatasetInfo {
    let snapshot = |n: &u64| SnapshotInfo {
        tag: format!("s{n}").parse().unwrap(),
        guid: Guid(*n),
        createtxg: CreateTxg(*n),
        creation_unix_s: 0,
    };
    let property = |job: &str| Property { name: JOB.into(), value: job.into(), source: PropertySource::Local };
    DatasetInfo {
        name: name.parse().unwrap(),
        kind: DatasetKind::Filesystem,
        guid: Guid(guid),
        createtxg: CreateTxg(0),
        origin: None,
        encryption: None,
        resume_token: None,
        inconsistent: false,
        written: None,
        referenced: 0,
        available: 0,
        properties: job.map(property).into_iter().collect(),
        snapshots: snapshots.iter().map(snapshot).collect(),
        bookmarks: Vec::new(),
    }
}

fn listing(datasets: Vec<DatasetInfo>) -> Listing {
    Listing { datasets }
}

/// What is asked of the target, by name, and what is known to be renamed after that.
fn asked(options: &UpkeepOptions, source: &Listing, target: &Listing) -> (Vec<(String, String)>, Vec<u64>) {
    let renamed = renamed(options, source, target);
    let all = wishes(options, source, target, &renamed, |_| true);
    let mut known: Vec<u64> = renamed.keys().map(|guid| guid.0).collect();
    known.sort_unstable();
    (all.iter().map(|wish| (wish.info.name.to_string(), format!("{:?}", wish.what))).collect(), known)
}

/// The copies of `tank/db` with a child `a`, and of `b` that is gone.
fn copies(root: Guid) -> Listing {
    let job = job(root);
    listing(vec![
        dataset("in/db", 101, &[10], Some(&job)),
        dataset("in/db/a", 102, &[20], Some(&job)),
        dataset("in/db/b", 103, &[30], Some(&job)),
    ])
}

#[test]
fn what_the_source_lacks_is_gone() {
    let source = listing(vec![dataset("tank/db", ROOT.0, &[10], None), dataset("tank/db/a", 2, &[20], None)]);
    let gone = [("in/db/b".to_owned(), "Gone".to_owned())];
    assert_eq!(asked(&options(), &source, &copies(ROOT)), (gone.to_vec(), Vec::new()));
    assert_eq!(tells_nothing(&west(), &options(), ROOT, &job(ROOT)), None);
}

/// A root that was received back has the snapshots of its copy, and a GUID of its own; its children come later.
#[test]
fn a_source_that_comes_back_from_its_copy_tells_of_nothing_that_is_gone() {
    let why = tells_nothing(&west(), &options(), Guid(77), &job(ROOT)).unwrap();
    assert!(why.contains("may be on its way back") && why.contains(&format!("--job {}", job(ROOT))), "{why}");
    // Nor where it cannot be told: the target has another name now, or is on a host of another name.
    assert!(tells_nothing(&"east".parse().unwrap(), &options(), ROOT, &job(ROOT)).is_some());
    let moved = UpkeepOptions { target: "in/other".parse().unwrap(), ..options() };
    assert!(tells_nothing(&west(), &moved, ROOT, &job(ROOT)).is_some());
}

#[test]
fn what_was_renamed_stays_when_the_last_snapshot_in_common_is_gone() {
    let mut target = copies(ROOT);
    // b is called c now, and its new copy has what the old one had; the source has pruned that.
    target.datasets.push(dataset("in/db/c", 104, &[30, 31], Some(&job(ROOT))));
    let mut source = listing(vec![
        dataset("tank/db", ROOT.0, &[10], None),
        dataset("tank/db/a", 2, &[20], None),
        dataset("tank/db/c", 3, &[31], None),
    ]);
    let renamed = |now: &str| (vec![("in/db/b".to_owned(), format!("Renamed({now})"))], vec![103]);
    assert_eq!(asked(&options(), &source, &target), renamed("Some(\"in/db/c\")"));
    // The new copy was pruned as well; it is remembered.
    target.datasets[3].snapshots.remove(0);
    assert_eq!(asked(&options(), &source, &target).0, [("in/db/b".to_owned(), "Gone".to_owned())]);
    let known = UpkeepOptions { renamed: [Guid(103)].into(), ..options() };
    assert_eq!(asked(&known, &source, &target), renamed("None"));
    // It is called b again, and deleted after that.
    source.datasets.push(dataset("tank/db/b", 3, &[31], None));
    assert_eq!(asked(&known, &source, &target), (Vec::new(), Vec::new()));
}

/// Two copies that are gone both do not keep each other.
#[test]
fn what_is_gone_as_well_tells_of_no_new_name() {
    let mut target = copies(ROOT);
    target.datasets.push(dataset("in/db/c", 104, &[30], Some(&job(ROOT))));
    let source = listing(vec![dataset("tank/db", ROOT.0, &[10], None), dataset("tank/db/a", 2, &[20], None)]);
    let gone = ["in/db/c", "in/db/b"].map(|name| (name.to_owned(), "Gone".to_owned()));
    assert_eq!(asked(&options(), &source, &target), (gone.to_vec(), Vec::new()));
}
