//! What the contract does not say of the fake: its streams pass the gate of a transfer, and its faults do what they say.

use super::*;
use crate::{
    port::zfs::{Base, Process, ReceiveSpec, SendFlags, SendSpec, SnapshotRequest, Zfs, ZfsErrorKind, ZfsResult},
    stream::{
        Tap,
        gate::{Gate, GatePolicy},
        parser::{Ending, FaultKind},
        token::ResumeToken,
    },
    types::Guid,
};

fn ds(s: &str) -> DatasetName {
    s.parse().unwrap()
}

fn snap(s: &str) -> SnapshotName {
    s.parse().unwrap()
}

async fn take_snapshot(zfs: &FakeZfs, name: &str) -> Guid {
    let name = snap(name);
    let request = SnapshotRequest { root: name.dataset(), tag: name.tag(), recursive: false, except: Vec::new() };
    zfs.snapshot(&request).await.unwrap();
    let found = zfs.list(&name.dataset(), crate::port::zfs::Depth::Root).await.unwrap();
    found.datasets[0].newest().unwrap().guid
}

fn full(name: &str, flags: SendFlags) -> SendSpec {
    SendSpec::Full { snapshot: snap(name), flags }
}

fn into(name: &str) -> ReceiveSpec {
    ReceiveSpec { snapshot: snap(name), resumable: true, origin: None, set: Vec::new() }
}

async fn drain(zfs: &FakeZfs, spec: &SendSpec) -> (Vec<u8>, ZfsResult<()>) {
    let sending = zfs.send(spec).await.unwrap();
    let (mut stream, mut process) = (sending.stream, sending.process);
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    });
    let bytes = read.await.unwrap().unwrap();
    (bytes, process.wait().await)
}

async fn pour(zfs: &FakeZfs, spec: &ReceiveSpec, bytes: Vec<u8>) -> ZfsResult<()> {
    let receiving = zfs.receive(spec).await.unwrap();
    let (mut stream, mut process) = (receiving.stream, receiving.process);
    let written = tokio::task::spawn_blocking(move || stream.write_all(&bytes));
    let verdict = process.wait().await;
    let _ = written.await;
    verdict
}

async fn built() -> (FakeZfs, Guid, Guid) {
    let zfs = FakeZfs::new(7);
    zfs.create_encrypted(&ds("tank/e"));
    zfs.write(&ds("tank/e"), 4, 100, &[9; 100_000]);
    zfs.write(&ds("tank/e"), 77, 0, &[8; 50_000]);
    let one = take_snapshot(&zfs, "tank/e@1").await;
    zfs.write(&ds("tank/e"), 77, 30_000, &[7; 50_000]);
    zfs.write(&ds("tank/e"), 5, 0, b"new");
    let two = take_snapshot(&zfs, "tank/e@2").await;
    (zfs, one, two)
}

fn gate(policy: GatePolicy, bytes: &[u8]) -> Ending {
    let mut tap = Tap::new(Gate::new(policy));
    for piece in bytes.chunks(1000) {
        let _ = tap.feed(piece);
    }
    tap.finish()
}

#[tokio::test]
async fn its_streams_pass_the_gate() {
    let (zfs, one, two) = built().await;
    let all = SendFlags { large_block: true, compressed: true, embed: true, raw: false };
    for flags in [SendFlags::default(), all, SendFlags { raw: true, ..SendFlags::default() }] {
        let policy = GatePolicy { raw: flags.raw, ..GatePolicy::step(None, one) };
        let (bytes, verdict) = drain(&zfs, &full("tank/e@1", flags)).await;
        verdict.unwrap();
        assert_eq!(gate(policy, &bytes), Ending::Complete, "{flags:?}");
        let base = Base::Snapshot(snap("tank/e@1"));
        let step = SendSpec::Incremental { base, snapshot: snap("tank/e@2"), flags };
        let (bytes, verdict) = drain(&zfs, &step).await;
        verdict.unwrap();
        let policy = GatePolicy { raw: flags.raw, ..GatePolicy::step(Some(one), two) };
        assert_eq!(gate(policy, &bytes), Ending::Complete, "{flags:?}");
    }
    let old = FakeZfs::old(1);
    old.create(&ds("tank"));
    old.write(&ds("tank"), 1, 0, &[1; 40_000]);
    let guid = take_snapshot(&old, "tank@1").await;
    let (bytes, _) = drain(&old, &full("tank@1", SendFlags::default())).await;
    assert_eq!(gate(GatePolicy::step(None, guid), &bytes), Ending::Complete);
}

#[tokio::test]
async fn its_tokens_parse_and_its_resumed_streams_pass_the_gate() {
    let (zfs, one, _) = built().await;
    let flags = SendFlags { compressed: true, ..SendFlags::default() };
    let (bytes, _) = drain(&zfs, &full("tank/e@1", flags)).await;
    let broken = pour(&zfs, &into("tank/r@1"), bytes[..bytes.len() / 2].to_vec()).await;
    assert_eq!(broken.unwrap_err().kind, ZfsErrorKind::Transport);
    let text = zfs.datasets(&[ds("tank/r")]).await.unwrap()[0].resume_token.clone().unwrap();
    let token = ResumeToken::parse(&text).unwrap();
    assert_eq!((token.to_name.as_str(), token.to_guid, token.from_guid), ("tank/e@1", one, None));
    assert!(token.compressed && !token.raw && token.bytes > 0 && token.offset > 0);
    let (rest, verdict) = drain(&zfs, &SendSpec::Resume { token: text }).await;
    verdict.unwrap();
    let policy = GatePolicy { resuming: true, ..GatePolicy::step(None, one) };
    assert_eq!(gate(policy, &rest), Ending::Complete);
    pour(&zfs, &into("tank/r@1"), rest).await.unwrap();
    assert_eq!(zfs.snapshot_content(&snap("tank/r@1")), zfs.snapshot_content(&snap("tank/e@1")));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_stream() {
    let (a, b) = (built().await.0, built().await.0);
    let spec = full("tank/e@2", SendFlags::default());
    assert_eq!(drain(&a, &spec).await.0, drain(&b, &spec).await.0);
}

#[tokio::test]
async fn faults_of_a_send() {
    let (zfs, one, _) = built().await;
    let spec = full("tank/e@1", SendFlags::default());
    let (whole, _) = drain(&zfs, &spec).await;
    zfs.fail_at(Op::Send, Fault::Refuse(ZfsErrorKind::Io));
    zfs.fail_at(Op::Send, Fault::FailAfter(5000, ZfsErrorKind::Io));
    zfs.fail_at(Op::Send, Fault::KillAfter(0));
    zfs.fail_at(Op::Send, Fault::Truncate(5000));
    zfs.fail_at(Op::Send, Fault::FlipBit(5000));
    let kind = |v: ZfsResult<()>| v.unwrap_err().kind;
    let (bytes, verdict) = drain(&zfs, &spec).await;
    assert_eq!((bytes.len(), kind(verdict)), (0, ZfsErrorKind::Io));
    let (bytes, verdict) = drain(&zfs, &spec).await;
    assert_eq!((&bytes[..], kind(verdict)), (&whole[..5000], ZfsErrorKind::Io));
    let (bytes, verdict) = drain(&zfs, &spec).await;
    assert_eq!((bytes.len(), kind(verdict)), (0, ZfsErrorKind::Killed));
    let (bytes, verdict) = drain(&zfs, &spec).await;
    assert_eq!((bytes.len(), verdict), (5000, Ok(())));
    let (bytes, verdict) = drain(&zfs, &spec).await;
    assert_eq!((bytes.len(), verdict), (whole.len(), Ok(())));
    assert_ne!(bytes, whole);
    let Ending::Damaged(fault) = gate(GatePolicy::step(None, one), &bytes) else { panic!("the flipped bit passed") };
    assert_eq!(fault.kind, FaultKind::Checksum);
    assert_eq!(zfs.count(Op::Send), 6);
    assert_eq!(drain(&zfs, &spec).await, (whole, Ok(())));
}

#[tokio::test]
async fn faults_of_a_receive() {
    let (zfs, ..) = built().await;
    let (bytes, _) = drain(&zfs, &full("tank/e@1", SendFlags::default())).await;
    zfs.fail_at(Op::Receive, Fault::KillAfter(60_000));
    let killed = pour(&zfs, &into("tank/r@1"), bytes.clone()).await.unwrap_err();
    assert_eq!(killed.kind, ZfsErrorKind::Killed);
    assert!(zfs.datasets(&[ds("tank/r")]).await.unwrap()[0].resume_token.is_some(), "a token survives a kill");
    zfs.abort_receive(&ds("tank/r")).await.unwrap();
    zfs.fail_at(Op::Receive, Fault::AfterEffect(ZfsErrorKind::Io));
    assert!(pour(&zfs, &into("tank/r@1"), bytes.clone()).await.is_err());
    assert!(zfs.snapshot_content(&snap("tank/r@1")).is_some(), "the effect is there, the answer was lost");
    zfs.set_capacity("small", 1);
    zfs.create(&ds("small"));
    let full = pour(&zfs, &into("small/r@1"), bytes).await.unwrap_err();
    assert_eq!(full.kind, ZfsErrorKind::NoSpace);
}

#[tokio::test]
async fn a_stalled_receive_goes_on_or_is_stopped() {
    let (zfs, ..) = built().await;
    let (bytes, _) = drain(&zfs, &full("tank/e@1", SendFlags::default())).await;
    for release in [true, false] {
        let spec = into(if release { "tank/r@1" } else { "tank/s@1" });
        zfs.fail_at(Op::Receive, Fault::StallAfter(20_000));
        let receiving = zfs.receive(&spec).await.unwrap();
        let (mut stream, mut process): (_, Box<dyn Process>) = (receiving.stream, receiving.process);
        let bytes = bytes.clone();
        let written = tokio::task::spawn_blocking(move || stream.write_all(&bytes).is_ok());
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), process.wait()).await;
        assert!(early.is_err(), "it does not stall");
        if release {
            zfs.release_stalled();
            process.wait().await.unwrap();
        } else {
            process.kill();
            assert_eq!(process.wait().await.unwrap_err().kind, ZfsErrorKind::Stopped);
        }
        written.await.unwrap();
    }
}

#[tokio::test]
async fn plain_faults_have_no_effect_or_all_of_it() {
    let zfs = FakeZfs::new(1);
    zfs.create(&ds("tank"));
    zfs.fail_at(Op::CreateFilesystem, Fault::Refuse(ZfsErrorKind::Io));
    zfs.fail_at(Op::CreateFilesystem, Fault::AfterEffect(ZfsErrorKind::Io));
    assert!(zfs.create_filesystem(&ds("tank/a"), &[]).await.is_err());
    assert!(zfs.content(&ds("tank/a")).is_none());
    assert!(zfs.create_filesystem(&ds("tank/a"), &[]).await.is_err());
    assert!(zfs.content(&ds("tank/a")).is_some());
}
