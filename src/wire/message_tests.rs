use super::*;
use crate::{
    types::content::ContentPage,
    wire::{
        codec::{Use, encode},
        verify::VerifyWhat,
    },
};

/// What version 1 had keeps its number; what came later stands behind it.
#[test]
fn requests_keep_their_numbers() {
    let number = |request: Request| encode(&request, Use::Request).unwrap();
    assert_eq!(number(Request::Bye), [14]);
    assert_eq!(number(Request::About), [15]);
    let cutover = Request::Cutover { unit: vec!["a".parse().unwrap()], call: "{}".into() };
    assert_eq!(number(cutover), [18, 1, 1, b'a', 2, b'{', b'}']);
    assert_eq!(encode(&Reply::Cutover("{}".into()), Use::Reply).unwrap(), [8, 2, b'{', b'}']);
    let prune = PruneRequest {
        dataset: "a".parse().unwrap(),
        job: "j".parse().unwrap(),
        prefix: "p".into(),
        snapshots: vec![("t".parse().unwrap(), Guid(7))],
        dry_run: true,
    };
    assert_eq!(hex::encode(number(Request::Prune(prune))), "130161016a01700101740701");
    let retire = RetireRequest {
        dataset: "a".parse().unwrap(),
        job: "j".parse().unwrap(),
        prefix: "p".into(),
        gone: true,
        after_s: 300,
        dry_run: false,
    };
    assert_eq!(hex::encode(number(Request::Retire(retire))), "150161016a017001fb2c0100");
    let retired = |retired| hex::encode(encode(&Reply::Retired(retired), Use::Reply).unwrap());
    assert_eq!(retired(Retired::Waits { since_unix_s: 5 }), "0b000a");
    assert_eq!(retired(Retired::Stays("w".into())), "0b010177");
    assert_eq!(retired(Retired::Destroyed), "0b02");
    assert_eq!(retired(Retired::Back), "0b03");
    let there = Reply::AlreadyReceivedWith(vec!["w".into()]);
    assert_eq!(encode(&there, Use::Reply).unwrap(), [12, 1, 1, b'w']);
    let verify = VerifyAsk {
        snapshot: "a@b".parse().unwrap(),
        guid: Guid(7),
        role: RoleOfDataset::Target,
        what: VerifyWhat::Page { kind: DatasetKind::Volume, after: Some(vec![b'p', 0xff]) },
    };
    assert_eq!(hex::encode(number(Request::Verify(verify))), "140361406207010201010270ff");
    let page = ContentPage { entries: vec![], last: true };
    let answer = Reply::Verified(Box::new(VerifyAnswer::Page(page)));
    assert_eq!(encode(&answer, Use::Reply).unwrap(), [10, 2, 0, 1]);
    let about = About {
        version: ZfsVersion { userland: Some("2".into()), kernel: None },
        grants: vec![(Access::Pull, "a".parse().unwrap())],
        pools: vec![AboutPool {
            status: PoolStatus {
                name: "a".into(),
                health: "ONLINE".into(),
                readonly: Some(false),
                full_percent: Some(7),
                used: Some(1),
                available: None,
            },
            capabilities: None,
        }],
    };
    let bytes = encode(&Reply::About(Box::new(about)), Use::Reply).unwrap();
    assert_eq!(hex::encode(bytes), "060101320001010161010161064f4e4c494e450100010701010000");
    let stream = ProbedStream { to_guid: Guid(5), from_guid: Some(Guid(6)), raw: true, resumes: false };
    assert_eq!(number(Request::OpenProbe { channel: 3, stream }), [16, 3, 5, 1, 6, 1, 0]);
    assert_eq!(number(Request::FinishProbe { channel: 3 }), [17, 3]);
    assert_eq!(number(Request::Prepare { channel: 3 }), [22, 3]);
    assert_eq!(number(Request::Limit { bytes_per_s: None }), [23, 0]);
    assert_eq!(number(Request::Limit { bytes_per_s: Some(5) }), [23, 1, 5]);
    let times = ReceiverTimes { input_us: 1, unpacking_us: 2, judging_us: 3, writing_us: 4 };
    let transferred = Transferred { raw_bytes: 300, wire_bytes: 200, warnings: vec!["w".into()] };
    let bytes = encode(&Reply::Probed { transferred, times }, Use::Reply).unwrap();
    assert_eq!(hex::encode(bytes), "07fb2c01c801017701020304");
}

/// What the first release says, and is told. These bytes may never change: it is understood as long as version 1 is spoken.
#[test]
fn the_first_release_is_understood() {
    let (dataset, snapshot) = ("a".parse::<DatasetName>().unwrap(), "a@s".parse::<SnapshotName>().unwrap());
    let job: JobId = "j".parse().unwrap();
    let requests = [
        Request::List { root: dataset.clone(), depth: Depth::Tree, role: RoleOfDataset::Target },
        Request::Lock { target: dataset.clone() },
        Request::Snapshot(SnapshotRequest {
            root: dataset.clone(),
            tag: "s".parse().unwrap(),
            recursive: true,
            except: vec!["a/x".parse().unwrap()],
        }),
        Request::CreatePlaceholder { dataset: dataset.clone() },
        Request::RemovePlaceholder { dataset: dataset.clone() },
        Request::Rollback { to: snapshot.clone(), to_guid: Guid(7), destroys: vec!["a@t".parse().unwrap()] },
        Request::AbortPartial { dataset },
        Request::Sizes(vec![SendSpec::Incremental {
            base: Base::Bookmark("a#b".parse().unwrap()),
            snapshot: snapshot.clone(),
            flags: SendFlags::default(),
        }]),
        Request::OpenReceive {
            channel: 3,
            step: ReceiveStep {
                snapshot: snapshot.clone(),
                to_guid: Guid(7),
                from_guid: Some(Guid(6)),
                from: Some("a@r".parse().unwrap()),
                kind: DatasetKind::Volume,
                creates: false,
                resumes: true,
                origin: None,
                raw: true,
                properties: vec![("p".into(), "v".into())],
                job: job.clone(),
            },
        },
        Request::FinishReceive { channel: 3 },
        Request::OpenSend {
            channel: 3,
            step: SendStep {
                snapshot: snapshot.clone(),
                to_guid: Guid(7),
                base: Some((Base::Snapshot("a@r".parse().unwrap()), Guid(6))),
                flags: SendFlags::default(),
                resume: Some("1-2".into()),
                job: job.clone(),
                compression: Compression::Zstd(-1),
                bwlimit_bytes_per_s: Some(5),
            },
        },
        Request::FinishSend { channel: 3 },
        Request::Cancel { channel: 3 },
        Request::Acknowledge {
            snapshot: snapshot.clone(),
            guid: Guid(7),
            job,
            superseded: vec![Base::Snapshot("a@r".parse().unwrap())],
        },
        Request::Bye,
    ];
    let replies = [
        Reply::Done,
        Reply::DoneWith(vec!["n".into()]),
        Reply::Sizes(vec![Some(300), None]),
        Reply::AlreadyReceived,
        Reply::Transferred(Transferred { raw_bytes: 300, wire_bytes: 200, warnings: Vec::new() }),
    ];
    let sent: Vec<String> = requests.iter().map(|r| hex::encode(encode(r, Use::Request).unwrap())).collect();
    let told: Vec<String> = replies.iter().map(|r| hex::encode(encode(r, Use::Reply).unwrap())).collect();
    insta::assert_snapshot!([sent, told].concat().join("\n"));
}
