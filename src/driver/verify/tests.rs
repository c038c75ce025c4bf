use super::*;
use crate::{
    fake::{FakeZfs, Fault, Op},
    port::zfs::ZfsErrorKind,
    session::bare,
    types::{
        CreateTxg,
        listing::{BookmarkInfo, DatasetKind, SnapshotInfo},
    },
};

fn options() -> VerifyOptions {
    VerifyOptions {
        direction: Direction::Push,
        source: "a/src".parse().unwrap(),
        target: "b/dst".parse().unwrap(),
        recursive: true,
        content: false,
        most: 10,
        seen: None,
    }
}

fn dataset(name: &str, snapshots: &[(&str, u64)]) -> DatasetInfo {
    let snapshot = |(i, (tag, guid)): (usize, &(&str, u64))| SnapshotInfo {
        tag: tag.parse().unwrap(),
        guid: Guid(*guid),
        createtxg: CreateTxg(i as u64),
        creation_unix_s: 0,
    };
    DatasetInfo {
        name: name.parse().unwrap(),
        kind: DatasetKind::Filesystem,
        guid: Guid(1),
        createtxg: CreateTxg(1),
        origin: None,
        encryption: None,
        resume_token: None,
        inconsistent: false,
        written: Some(0),
        referenced: 0,
        available: 0,
        properties: Vec::new(),
        snapshots: snapshots.iter().enumerate().map(snapshot).collect(),
        bookmarks: Vec::new(),
    }
}

fn judged(source: &[(&str, u64)], target: &[(&str, u64)]) -> DatasetVerified {
    let (source, target) = (dataset("a/src", source), dataset("b/dst", target));
    let mut verified = by_guids(&options(), Some(&source), Some(&target));
    verified.judge();
    verified
}

#[test]
fn snapshots_are_told_apart_by_their_guids_and_not_by_their_names() {
    let same = judged(&[("x", 1), ("y", 2)], &[("renamed", 1), ("y", 2)]);
    assert_eq!(same.result, VerifyResult::Equal);
    assert_eq!(same.common, Some(CommonSnapshot { snapshot: "y".into(), guid: "2".into() }));
    let behind = judged(&[("x", 1), ("y", 2)], &[("x", 1), ("y", 3)]);
    assert_eq!(behind.result, VerifyResult::Different);
    assert_eq!((behind.only_at_source, behind.only_at_target), (vec!["y".to_owned()], vec!["y".to_owned()]));
    assert_eq!(behind.common.unwrap().snapshot, "x");
    let strangers = judged(&[("x", 1)], &[("x", 2)]);
    assert_eq!((strangers.result, strangers.common), (VerifyResult::Different, None));
    assert_eq!(judged(&[], &[]).result, VerifyResult::Different, "two empty ones are no copies of each other");
}

#[test]
fn what_was_written_or_differs_or_is_not_known_is_not_equal() {
    let equal = judged(&[("x", 1)], &[("x", 1)]);
    let with = |change: fn(&mut DatasetVerified)| {
        let mut verified = equal.clone();
        change(&mut verified);
        verified.judge();
        verified.result
    };
    let content = |equal| ContentReport {
        snapshot: "x".into(),
        equal,
        source_digest: "1".into(),
        target_digest: "1".into(),
        entries: 1,
        bytes: 1,
        differences: Vec::new(),
        more_differences: false,
    };
    assert_eq!(with(|v| v.target_written_bytes = Some(0)), VerifyResult::Equal);
    assert_eq!(with(|v| v.target_written_bytes = Some(1)), VerifyResult::Different);
    assert_eq!(with(|v| v.error = Some(Failure::new(FailureClass::Zfs, "x"))), VerifyResult::Failed);
    let wants = VerifyOptions { content: true, ..options() };
    let (source, target) = (dataset("a/src", &[("x", 1)]), dataset("b/dst", &[("x", 1)]));
    for (found, result) in [
        (None, VerifyResult::Failed),
        (Some(content(true)), VerifyResult::Equal),
        (Some(content(false)), VerifyResult::Different),
    ] {
        let mut asked = by_guids(&wants, Some(&source), Some(&target));
        asked.content = found;
        asked.judge();
        assert_eq!(asked.result, result);
    }
}

#[test]
fn datasets_of_one_side_are_told() {
    let listing = |datasets: Vec<DatasetInfo>| Listing { datasets };
    let source = listing(vec![dataset("a/src", &[]), dataset("a/src/x", &[]), dataset("a/src/z", &[])]);
    let target = listing(vec![dataset("b/dst", &[]), dataset("b/dst/y", &[]), dataset("b/dst/z", &[])]);
    let shown: Vec<String> = pairs(&options(), &source, &target)
        .into_iter()
        .map(|(a, b)| {
            let name = |info: Option<DatasetInfo>| info.map_or("-".to_owned(), |info| info.name.to_string());
            format!("{} {}", name(a), name(b))
        })
        .collect();
    assert_eq!(shown, ["a/src b/dst", "a/src/x -", "a/src/z b/dst/z", "- b/dst/y"]);
}

/// A job's verification is about what its run has replicated, however the sides went on since.
#[test]
fn what_came_or_went_since_the_run_is_no_difference_and_what_the_target_lost_is_one() {
    let seen = |below: &str| Seen {
        source: format!("a/src{below}").parse().unwrap(),
        target: format!("b/dst{below}").parse().unwrap(),
        common: Guid(2),
    };
    let of_job = |seen: Vec<Seen>| VerifyOptions { seen: Some(seen), ..options() };
    let judge = |source: &[(&str, u64)], target: &[(&str, u64)]| {
        let (source, target) = (dataset("a/src", source), dataset("b/dst", target));
        let mut verified = by_guids(&of_job(vec![seen("")]), Some(&source), Some(&target));
        verified.judge();
        (verified.result, verified.only_at_source)
    };
    let same = judge(&[("x", 1), ("y", 2), ("z", 3)], &[("x", 1), ("y", 2)]);
    assert_eq!(same, (VerifyResult::Equal, Vec::new()), "z was taken since");
    let pruned = judge(&[("y", 2), ("z", 3)], &[("x", 1), ("y", 2)]);
    assert_eq!(pruned.0, VerifyResult::Equal);
    let lost = judge(&[("x", 1), ("y", 2), ("z", 3)], &[("x", 1)]);
    assert_eq!(lost, (VerifyResult::Different, vec!["y".to_owned()]), "the target had y");
    assert_eq!(judge(&[("x", 1), ("y", 2)], &[("x", 1), ("y", 2), ("own", 9)]).0, VerifyResult::Different);
    assert_eq!(judge(&[("y", 2)], &[("y", 4)]).0, VerifyResult::Different);
    // The source has y no more but as a bookmark; what the target has after it is its own.
    let bookmarked = |target: &[(&str, u64)]| {
        let (mut source, target) = (dataset("a/src", &[("x", 1)]), dataset("b/dst", target));
        let tag = "zmigrate:0:2".parse().unwrap();
        source.bookmarks.push(BookmarkInfo { tag, guid: Guid(2), createtxg: CreateTxg(1), creation_unix_s: 0 });
        let of_x = Seen { common: Guid(1), ..seen("") };
        let mut verified = by_guids(&of_job(vec![of_x]), Some(&source), Some(&target));
        verified.judge();
        (verified.result, verified.only_at_target)
    };
    assert_eq!(bookmarked(&[("x", 1), ("t", 7), ("y", 2)]), (VerifyResult::Equal, Vec::new()));
    let own = bookmarked(&[("x", 1), ("y", 2), ("own", 9)]);
    assert_eq!(own, (VerifyResult::Different, vec!["own".to_owned()]));
    // Of the datasets: b and d were not seen, c was deleted at the source long ago, e is gone from the target, f from the source.
    let listing = |names: &[&str]| Listing { datasets: names.iter().map(|name| dataset(name, &[])).collect() };
    let source = listing(&["a/src", "a/src/b", "a/src/d", "a/src/e"]);
    let target = listing(&["b/dst", "b/dst/c", "b/dst/d"]);
    let pairs = pairs(&of_job(vec![seen(""), seen("/e"), seen("/f")]), &source, &target);
    let shown: Vec<_> = pairs.iter().map(|(a, b)| (a.as_ref().unwrap().name.as_str(), b.is_some())).collect();
    assert_eq!(shown, [("a/src", true), ("a/src/e", false)]);
}

#[test]
fn a_difference_is_told_in_one_line() {
    let differs = |change: fn(&mut DatasetVerified)| {
        let mut verified = judged(&[("x", 1)], &[("x", 1)]);
        change(&mut verified);
        verified.judge();
        verified.difference()
    };
    assert_eq!(differs(|_| {}), None);
    assert_eq!(differs(|v| v.error = Some(Failure::new(FailureClass::Zfs, "x"))), None, "nobody knows");
    let written = differs(|v| v.target_written_bytes = Some(7)).unwrap();
    assert_eq!(written, "a/src and b/dst: the target was written to since its newest snapshot (7 B)");
    assert!(differs(|v| v.common = None).unwrap().contains("no snapshot is on both sides"));
    assert!(
        differs(|v| v.only_at_target = vec!["o".into(), "p".into()]).unwrap().contains("2 snapshots, such as @o, ")
    );
    assert_eq!(differs(|v| (v.target, v.common) = (None, None)).unwrap(), "a/src: the target does not have it");
}

#[test]
fn what_differs_is_told_also_where_the_rest_was_not_looked_at() {
    let conclude = |target: &[(&str, u64)]| {
        let mut report = VerifyReport::new(&options(), "west");
        report.datasets.push(judged(&[("x", 1)], target));
        report.conclude(Some(given_up()), Duration::ZERO);
        assert!(report.error.is_some());
        (report.result, report.exit_code)
    };
    assert_eq!(conclude(&[("x", 2)]), (VerifyResult::Different, FailureClass::Refused.exit_code()));
    assert_eq!(conclude(&[("x", 1)]), (VerifyResult::Failed, FailureClass::Interrupted.exit_code()));
}

/// What came to both sides between two looks would look like the target's own.
#[tokio::test]
async fn of_what_a_run_has_seen_the_target_is_looked_at_before_the_source() {
    let (a, b, dir) = (FakeZfs::new(1), FakeZfs::new(2), tempfile::tempdir().unwrap());
    a.create(&"a/src".parse().unwrap());
    b.create(&"b/dst".parse().unwrap());
    let side = |zfs: &FakeZfs| Side::Local(Arc::new(bare::session(&bare::engine(zfs, dir.path()), "a test")));
    let sides = Sides { source: side(&a), target: side(&b), progress: Arc::default() };
    let of_job = VerifyOptions { seen: Some(Vec::new()), ..options() };
    b.fail_at(Op::List, Fault::Refuse(ZfsErrorKind::Io));
    assert!(sides.listings(&of_job).await.is_err());
    assert_eq!((a.count(Op::List), b.count(Op::List)), (0, 1));
    let (source, target) = sides.listings(&of_job).await.unwrap();
    assert_eq!((source.listing.datasets.len(), target.listing.datasets.len()), (1, 1));
    assert_eq!((a.count(Op::List), b.count(Op::List)), (1, 2));
}

#[test]
fn the_json_is_as_documented() {
    let mut report = VerifyReport::new(&options(), "west");
    let mut verified = judged(&[("x", 1), ("y", 2)], &[("x", 1)]);
    verified.target_written_bytes = Some(7);
    verified.content = Some(ContentReport {
        snapshot: "x".into(),
        equal: false,
        source_digest: "aa".into(),
        target_digest: "bb".into(),
        entries: 3,
        bytes: 10,
        differences: vec![DifferenceReport { path: "a/b".into(), what: "the content differs (5 bytes)".into() }],
        more_differences: true,
    });
    report.datasets.push(verified);
    report.conclude(None, Duration::from_millis(1500));
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
    {
      "result": "different",
      "exit_code": 3,
      "peer": "west",
      "source": "a/src",
      "target": "b/dst",
      "content": false,
      "seconds": 1.5,
      "datasets": [
        {
          "source": "a/src",
          "target": "b/dst",
          "result": "different",
          "common": {
            "snapshot": "x",
            "guid": "1"
          },
          "only_at_source": [
            "y"
          ],
          "only_at_target": [],
          "target_written_bytes": 7,
          "content": {
            "snapshot": "x",
            "equal": false,
            "source_digest": "aa",
            "target_digest": "bb",
            "entries": 3,
            "bytes": 10,
            "differences": [
              {
                "path": "a/b",
                "what": "the content differs (5 bytes)"
              }
            ],
            "more_differences": true
          }
        }
      ]
    }
    "#);
}
