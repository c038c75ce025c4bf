use super::*;
use crate::types::{
    CreateTxg, Guid,
    listing::{DatasetKind, SnapshotInfo},
};

fn options() -> VerifyOptions {
    VerifyOptions {
        direction: Direction::Push,
        source: "a/src".parse().unwrap(),
        target: "b/dst".parse().unwrap(),
        recursive: true,
        content: false,
        most: 10,
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
