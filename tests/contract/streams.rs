//! Sending and receiving: contents, resuming, and each way to fail.

use zmigrate::{
    port::zfs::{Base, ReceiveSpec, SendFlags, SendSpec, SnapshotRequest, ZfsErrorKind::*},
    types::{DatasetName, SnapshotName, listing::DatasetKind},
};

use crate::{
    case,
    case::{Case, Traits, bookmarks, resumable},
    world::{World, assert_fails, full, incremental, into, mark, noise, request, resumable_into, snap},
};

pub fn cases() -> Vec<Case> {
    vec![
        case!(full_and_incremental_carry_the_content),
        case!(a_bookmark_is_a_base, bookmarks),
        case!(a_receive_sets, receive_properties),
        case!(a_received_filesystem_is_not_mounted),
        case!(a_diverged_target_is_told),
        case!(a_dirty_target_is_told_and_can_be_rolled_back),
        case!(a_target_with_its_own_snapshot_is_told),
        case!(a_full_stream_overwrites_nothing),
        case!(an_increment_needs_its_target, resumable),
        case!(a_missing_parent_is_told),
        case!(a_truncated_stream_leaves_no_snapshot),
        case!(garbage_is_no_stream),
        case!(a_flipped_bit_is_seen, resumable),
        case!(what_is_not_there_cannot_be_sent),
        case!(a_killed_process_says_so),
        case!(a_sender_ends_when_nobody_reads),
        case!(a_clone_keeps_its_origin, receive_properties),
        case!(a_volume_is_sent_whole, volumes),
        case!(an_interrupted_receive_resumes, resumable),
        case!(a_partial_state_blocks_until_aborted, resumable),
        case!(a_dead_token_is_told, resumable),
        case!(raw_streams_need_no_key, encryption),
        case!(sizes_are_estimated),
    ]
}

fn receive_properties(traits: &Traits) -> Option<&'static str> {
    (!traits.can.receive_properties).then_some("no receive -o")
}

fn volumes(traits: &Traits) -> Option<&'static str> {
    (!traits.volumes).then_some("no volumes")
}

fn encryption(traits: &Traits) -> Option<&'static str> {
    (!traits.can.pool_features.contains("encryption")).then_some("no encryption")
}

/// A source with files and three snapshots that differ.
async fn source(w: &World) -> (DatasetName, [SnapshotName; 3]) {
    let a = w.create("a");
    w.fill(&a, 1, 700, 1);
    w.fill(&a, 2, 3, 2);
    let one = w.snapshot(&a, "one").await;
    w.host.write(&a, 1, 300 << 10, &noise(200 << 10, 3));
    w.fill(&a, 3, 64, 4);
    let two = w.snapshot(&a, "two").await;
    w.fill(&a, 2, 64, 5);
    let three = w.snapshot(&a, "three").await;
    (a, [one, two, three])
}

async fn full_and_incremental_carry_the_content(w: &World) {
    let (a, [one, two, three]) = source(w).await;
    let t = w.ds("target");
    w.transfer(&full(&one), &snap(&t, "one")).await;
    w.transfer(&incremental(&one, &two), &snap(&t, "two")).await;
    w.transfer(&incremental(&two, &three), &snap(&t, "three")).await;
    let (from, to) = (w.look(&a).await.unwrap(), w.look(&t).await.unwrap());
    let ids = |d: &zmigrate::types::listing::DatasetInfo| {
        d.snapshots.iter().map(|s| (s.tag.clone(), s.guid)).collect::<Vec<_>>()
    };
    assert_eq!(ids(&from), ids(&to), "GUIDs travel");
    for tag in ["one", "two", "three"] {
        let (sent, got) = (w.host.read(&snap(&a, tag)), w.host.read(&snap(&t, tag)));
        assert!(sent == got && !sent.is_empty(), "contents of @{tag} differ");
    }
    assert_ne!(w.host.read(&one), w.host.read(&two));
    let skipping = w.ds("skipping");
    w.transfer(&full(&one), &snap(&skipping, "one")).await;
    w.transfer(&incremental(&one, &three), &snap(&skipping, "three")).await;
    assert!(w.host.read(&snap(&skipping, "three")) == w.host.read(&three));
}

async fn a_bookmark_is_a_base(w: &World) {
    let (a, [one, two, _]) = source(w).await;
    let t = w.ds("target");
    w.transfer(&full(&one), &snap(&t, "one")).await;
    w.zfs.bookmark(&one, &mark(&a, "one")).await.unwrap();
    w.zfs.destroy_snapshot(&one).await.unwrap();
    let base = Base::Bookmark(mark(&a, "one"));
    let spec = SendSpec::Incremental { base, snapshot: two.clone(), flags: SendFlags::default() };
    w.transfer(&spec, &snap(&t, "two")).await;
    assert!(w.host.read(&snap(&t, "two")) == w.host.read(&two));
    let base = Base::Bookmark(mark(&a, "none"));
    assert_fails(
        w.stream(&SendSpec::Incremental { base, snapshot: two, flags: SendFlags::default() }).await,
        &[NotFound],
    );
}

async fn a_receive_sets(w: &World) {
    let (_, [one, two, _]) = source(w).await;
    let t = w.ds("target");
    let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
    let set = vec![pair("readonly", "on"), pair("canmount", "noauto"), pair("zmigrate:job", "j")];
    let spec = ReceiveSpec { set: set.clone(), ..into(&snap(&t, "one")) };
    w.take(&spec, &w.stream(&full(&one)).await.unwrap()).await.unwrap();
    let spec = ReceiveSpec { set: set[..1].to_vec(), ..into(&snap(&t, "two")) };
    w.take(&spec, &w.stream(&incremental(&one, &two)).await.unwrap()).await.unwrap();
    let found = w.look(&t).await.unwrap();
    assert_eq!(found.local("readonly"), Some("on"));
    assert_eq!(found.local("canmount"), Some("noauto"));
    assert_eq!(found.local("zmigrate:job"), Some("j"));
    let spec = ReceiveSpec { set: vec![pair("copies", "9")], ..into(&snap(&w.ds("bad"), "one")) };
    assert!(w.take(&spec, &w.stream(&full(&one)).await.unwrap()).await.is_err());
}

async fn a_received_filesystem_is_not_mounted(w: &World) {
    let (_, [one, two, _]) = source(w).await;
    let t = w.ds("target");
    w.transfer(&full(&one), &snap(&t, "one")).await;
    w.transfer(&incremental(&one, &two), &snap(&t, "two")).await;
    assert!(!w.host.is_mounted(&t));
}

async fn a_diverged_target_is_told(w: &World) {
    let (_, [one, two, three]) = source(w).await;
    let t = w.ds("target");
    w.transfer(&full(&one), &snap(&t, "one")).await;
    let bytes = w.stream(&incremental(&two, &three)).await.unwrap();
    assert_fails(w.take(&into(&snap(&t, "three")), &bytes).await, &[Diverged]);
    assert_eq!(w.tags(&t).await, ["one"]);
}

async fn a_dirty_target_is_told_and_can_be_rolled_back(w: &World) {
    let (_, [one, two, _]) = source(w).await;
    let t = w.ds("target");
    w.transfer(&full(&one), &snap(&t, "one")).await;
    w.fill(&t, 9, 8, 9);
    let bytes = w.stream(&incremental(&one, &two)).await.unwrap();
    assert_fails(w.take(&into(&snap(&t, "two")), &bytes).await, &[DirtyTarget]);
    w.zfs.rollback(&snap(&t, "one")).await.unwrap();
    w.take(&into(&snap(&t, "two")), &bytes).await.unwrap();
    assert!(w.host.read(&snap(&t, "two")) == w.host.read(&two));
}

async fn a_target_with_its_own_snapshot_is_told(w: &World) {
    let (_, [one, two, _]) = source(w).await;
    let t = w.ds("target");
    w.transfer(&full(&one), &snap(&t, "one")).await;
    w.fill(&t, 9, 8, 9);
    w.snapshot(&t, "own").await;
    let bytes = w.stream(&incremental(&one, &two)).await.unwrap();
    // OpenZFS looks for the base further back, and then sees the change.
    assert_fails(w.take(&into(&snap(&t, "two")), &bytes).await, &[Diverged, DirtyTarget]);
    assert_eq!(w.tags(&t).await, ["one", "own"]);
}

async fn a_full_stream_overwrites_nothing(w: &World) {
    let (_, [one, ..]) = source(w).await;
    let t = w.create("target");
    w.fill(&t, 7, 8, 7);
    let kept = w.snapshot(&t, "kept").await;
    let before = w.host.read(&kept);
    let bytes = w.stream(&full(&one)).await.unwrap();
    assert_fails(w.take(&into(&snap(&t, "one")), &bytes).await, &[Exists]);
    assert_eq!(w.tags(&t).await, ["kept"]);
    assert!(w.host.read(&kept) == before);
}

async fn an_increment_needs_its_target(w: &World) {
    let (_, [one, two, _]) = source(w).await;
    let bytes = w.stream(&incremental(&one, &two)).await.unwrap();
    assert_fails(w.take(&into(&snap(&w.ds("none"), "two")), &bytes).await, &[NotFound]);
    assert!(w.look(&w.ds("none")).await.is_none());
}

async fn a_missing_parent_is_told(w: &World) {
    let (_, [one, ..]) = source(w).await;
    let bytes = w.stream(&full(&one)).await.unwrap();
    assert_fails(w.take(&into(&snap(&w.ds("none/below"), "one")), &bytes).await, &[NotFound]);
}

async fn a_truncated_stream_leaves_no_snapshot(w: &World) {
    let (_, [one, two, _]) = source(w).await;
    let (t, n) = (w.ds("target"), w.ds("new"));
    let bytes = w.stream(&full(&one)).await.unwrap();
    w.take(&into(&snap(&t, "one")), &bytes).await.unwrap();
    for cut in [1, 200, 312, 5000, bytes.len() / 2, bytes.len() - 312, bytes.len() - 1] {
        // zfs-fuse calls a stream that ends early an invalid one.
        assert_fails(w.take(&into(&snap(&n, "one")), &bytes[..cut]).await, &[Transport, BadStream]);
        assert!(w.tags(&n).await.is_empty(), "cut at {cut}");
    }
    let bytes = w.stream(&incremental(&one, &two)).await.unwrap();
    for cut in [1000, bytes.len() - 1] {
        assert_fails(w.take(&into(&snap(&t, "two")), &bytes[..cut]).await, &[Transport, BadStream]);
        assert_eq!(w.tags(&t).await, ["one"], "cut at {cut}");
    }
    w.take(&into(&snap(&t, "two")), &bytes).await.unwrap();
}

async fn garbage_is_no_stream(w: &World) {
    for len in [0, 5, 312, 100_000] {
        let result = w.take(&into(&snap(&w.ds("target"), "one")), &noise(len, 1)).await;
        assert_fails(result, &[Transport, BadStream]);
        assert!(w.look(&w.ds("target")).await.is_none(), "{len} bytes");
    }
}

async fn a_flipped_bit_is_seen(w: &World) {
    let (_, [one, ..]) = source(w).await;
    let mut bytes = w.stream(&full(&one)).await.unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    assert_fails(w.take(&into(&snap(&w.ds("target"), "one")), &bytes).await, &[Transport, BadStream]);
    assert!(w.tags(&w.ds("target")).await.is_empty());
}

async fn what_is_not_there_cannot_be_sent(w: &World) {
    let (a, [one, ..]) = source(w).await;
    assert_fails(w.stream(&full(&snap(&a, "none"))).await, &[NotFound]);
    assert_fails(w.stream(&full(&snap(&w.ds("none"), "none"))).await, &[NotFound]);
    assert_fails(w.stream(&incremental(&snap(&a, "none"), &one)).await, &[NotFound]);
}

async fn a_killed_process_says_so(w: &World) {
    let (a, [one, ..]) = source(w).await;
    w.fill(&a, 1, 4000, 1);
    let big = w.snapshot(&a, "big").await;
    let mut sending = w.zfs.send(&full(&big)).await.unwrap();
    let mut first = [0; 312];
    sending.stream.read_exact(&mut first).unwrap();
    // The pipe is full by now, and the stream still open: the sender must end all the same.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    sending.process.kill();
    let verdict = tokio::time::timeout(std::time::Duration::from_secs(60), sending.process.wait()).await;
    assert_fails(verdict.expect("the sender does not end"), &[Stopped]);
    assert_fails(sending.process.wait().await, &[Stopped]);
    sending.process.kill();
    assert!(std::io::copy(&mut sending.stream, &mut std::io::sink()).is_err(), "the stream looks complete");
    let mut receiving = w.zfs.receive(&into(&snap(&w.ds("target"), "one"))).await.unwrap();
    receiving.process.kill();
    let verdict = tokio::time::timeout(std::time::Duration::from_secs(60), receiving.process.wait()).await;
    assert_fails(verdict.expect("the receiver does not end"), &[Stopped]);
    assert!(w.tags(&w.ds("target")).await.is_empty());
    drop(w.zfs.send(&full(&one)).await.unwrap());
    w.transfer(&full(&one), &snap(&w.ds("again"), "one")).await;
}

async fn a_sender_ends_when_nobody_reads(w: &World) {
    let (a, _) = source(w).await;
    w.fill(&a, 1, 4000, 1);
    let big = w.snapshot(&a, "big").await;
    let sending = w.zfs.send(&full(&big)).await.unwrap();
    let mut process = sending.process;
    drop(sending.stream);
    let verdict = tokio::time::timeout(std::time::Duration::from_secs(60), process.wait()).await;
    assert_fails(verdict.expect("the sender hangs"), &[Transport]);
}

async fn a_clone_keeps_its_origin(w: &World) {
    let (_, [one, ..]) = source(w).await;
    let (clone, t, tc) = (w.ds("clone"), w.ds("target"), w.ds("target-clone"));
    w.host.clone_snapshot(&one, &clone);
    w.fill(&clone, 5, 64, 6);
    let changed = w.snapshot(&clone, "changed").await;
    w.transfer(&full(&one), &snap(&t, "one")).await;
    let spec = ReceiveSpec { origin: Some(snap(&t, "one")), ..into(&snap(&tc, "changed")) };
    let bytes = w.stream(&incremental(&one, &changed)).await.unwrap();
    w.take(&spec, &bytes).await.unwrap();
    assert_eq!(w.look(&tc).await.unwrap().origin, Some(snap(&t, "one")));
    assert!(w.host.read(&snap(&tc, "changed")) == w.host.read(&changed));
    let spec = ReceiveSpec { origin: Some(snap(&t, "none")), ..into(&snap(&w.ds("other"), "changed")) };
    assert!(w.take(&spec, &bytes).await.is_err());
}

async fn a_volume_is_sent_whole(w: &World) {
    let (v, t) = (w.ds("v"), w.ds("target"));
    w.host.create_volume(&v, 4 << 20);
    w.host.write(&v, 0, 1 << 20, &noise(512 << 10, 1));
    let one = w.snapshot(&v, "one").await;
    w.host.write(&v, 0, 0, &noise(64 << 10, 2));
    let two = w.snapshot(&v, "two").await;
    w.transfer(&full(&one), &snap(&t, "one")).await;
    w.transfer(&incremental(&one, &two), &snap(&t, "two")).await;
    let found = w.look(&t).await.unwrap();
    assert_eq!((found.kind, found.property("volsize").unwrap().value.as_str()), (DatasetKind::Volume, "4194304"));
    for tag in ["one", "two"] {
        let (sent, got) = (w.host.read(&snap(&v, tag)), w.host.read(&snap(&t, tag)));
        assert!(sent == got && sent[&0].len() == 4 << 20, "contents of @{tag} differ");
    }
}

async fn an_interrupted_receive_resumes(w: &World) {
    let a = w.create("a");
    w.fill(&a, 1, 3000, 1);
    let one = w.snapshot(&a, "one").await;
    w.fill(&a, 1, 3000, 2);
    let two = w.snapshot(&a, "two").await;
    let t = w.ds("target");
    for (spec, tag) in [(full(&one), "one"), (incremental(&one, &two), "two")] {
        let to = resumable_into(&snap(&t, tag));
        let bytes = w.stream(&spec).await.unwrap();
        assert_fails(w.take(&to, &bytes[..bytes.len() / 3]).await, &[Transport]);
        let found = w.look(&t).await.unwrap();
        let first = found.resume_token.clone().expect("a token");
        assert_eq!(found.inconsistent, tag == "one");
        assert_eq!(w.zfs.datasets(std::slice::from_ref(&t)).await.unwrap()[0].resume_token, Some(first.clone()));
        let rest = w.stream(&SendSpec::Resume { token: first.clone() }).await.unwrap();
        assert!(rest.len() < bytes.len() * 3 / 4, "{} of {} bytes again", rest.len(), bytes.len());
        // And once more: a resumed stream breaks off, too.
        assert_fails(w.take(&to, &rest[..rest.len() / 2]).await, &[Transport]);
        let second = w.look(&t).await.unwrap().resume_token.expect("a token");
        assert_ne!(first, second);
        let rest = w.stream(&SendSpec::Resume { token: second }).await.unwrap();
        w.take(&to, &rest).await.unwrap();
        let found = w.look(&t).await.unwrap();
        assert_eq!((found.resume_token.as_ref(), found.inconsistent), (None, false));
        assert!(w.host.read(&snap(&t, tag)) == w.host.read(&snap(&a, tag)), "contents of @{tag} differ");
    }
}

async fn a_partial_state_blocks_until_aborted(w: &World) {
    let a = w.create("a");
    w.fill(&a, 1, 64, 1);
    let one = w.snapshot(&a, "one").await;
    w.fill(&a, 1, 3000, 2);
    let two = w.snapshot(&a, "two").await;
    let t = w.ds("target");
    w.transfer(&full(&one), &snap(&t, "one")).await;
    let bytes = w.stream(&incremental(&one, &two)).await.unwrap();
    let to = snap(&t, "two");
    assert_fails(w.take(&resumable_into(&to), &bytes[..bytes.len() / 2]).await, &[Transport]);
    assert_eq!(w.zfs.list(&w.root, zmigrate::port::zfs::Depth::Tree).await.unwrap().datasets.len(), 3, "no %recv");
    assert_fails(w.take(&into(&to), &bytes).await, &[PartialState]);
    assert_fails(w.take(&resumable_into(&to), &bytes).await, &[PartialState]);
    w.zfs.abort_receive(&t).await.unwrap();
    w.zfs.abort_receive(&t).await.unwrap();
    assert_eq!(w.look(&t).await.unwrap().resume_token, None);
    assert_eq!(w.tags(&t).await, ["one"]);
    w.take(&into(&to), &bytes).await.unwrap();
    // Aborting a first receive takes the whole new dataset away.
    let n = w.ds("new");
    let bytes = w.stream(&full(&two)).await.unwrap();
    assert_fails(w.take(&resumable_into(&snap(&n, "two")), &bytes[..bytes.len() / 2]).await, &[Transport]);
    // A half-received dataset is in nobody's way.
    let all = SnapshotRequest { recursive: true, except: vec![a.clone()], ..request(&w.root, "around") };
    w.zfs.snapshot(&all).await.unwrap();
    assert!(w.tags(&n).await.is_empty());
    w.zfs.abort_receive(&n).await.unwrap();
    assert!(w.look(&n).await.is_none());
}

async fn a_dead_token_is_told(w: &World) {
    let a = w.create("a");
    w.fill(&a, 1, 64, 1);
    let one = w.snapshot(&a, "one").await;
    w.fill(&a, 1, 3000, 2);
    let two = w.snapshot(&a, "two").await;
    let t = w.ds("target");
    w.transfer(&full(&one), &snap(&t, "one")).await;
    let bytes = w.stream(&incremental(&one, &two)).await.unwrap();
    assert_fails(w.take(&resumable_into(&snap(&t, "two")), &bytes[..bytes.len() / 2]).await, &[Transport]);
    let token = w.look(&t).await.unwrap().resume_token.unwrap();
    let resume = SendSpec::Resume { token: token.clone() };
    w.stream(&resume).await.unwrap();
    if w.can.send_estimate {
        assert!(w.zfs.send_size(&resume).await.unwrap().is_some());
    }
    w.zfs.destroy_snapshot(&one).await.unwrap();
    assert_fails(w.stream(&resume).await, &[DeadToken]);
    w.zfs.destroy_snapshot(&two).await.unwrap();
    assert_fails(w.stream(&resume).await, &[DeadToken]);
    if w.can.send_estimate {
        assert_fails(w.zfs.send_size(&resume).await, &[DeadToken]);
    }
    let damaged = token.replace("-789c", "-789d");
    for token in [damaged.as_str(), "1-a-b-c", "nonsense", "--saved", ""] {
        assert_fails(w.stream(&SendSpec::Resume { token: token.into() }).await, &[DeadToken]);
    }
}

async fn raw_streams_need_no_key(w: &World) {
    let (e, t) = (w.ds("e"), w.ds("target"));
    w.host.create_encrypted(&e);
    w.fill(&e, 1, 300, 1);
    let one = w.snapshot(&e, "one").await;
    w.fill(&e, 2, 300, 2);
    let two = w.snapshot(&e, "two").await;
    let flags = SendFlags { raw: true, ..SendFlags::default() };
    w.transfer(&SendSpec::Full { snapshot: one.clone(), flags }, &snap(&t, "one")).await;
    let base = Base::Snapshot(one);
    w.transfer(&SendSpec::Incremental { base, snapshot: two.clone(), flags }, &snap(&t, "two")).await;
    let (from, to) = (w.look(&e).await.unwrap().encryption.unwrap(), w.look(&t).await.unwrap().encryption.unwrap());
    assert_eq!((from.root, from.key_loaded), (Some(e.clone()), true));
    assert_eq!((to.root, to.key_loaded), (Some(t.clone()), false));
    assert_eq!(from.suite, to.suite);
    // Nothing to read it with, so nothing to send it in plain text with.
    assert_fails(w.stream(&full(&snap(&t, "one"))).await, &[Crypto]);
    w.host.load_key(&t);
    assert!(w.host.read(&snap(&t, "two")) == w.host.read(&two));
    let plain = w.create("plain");
    w.snapshot(&plain, "x").await;
    assert_eq!(w.look(&plain).await.unwrap().encryption, None);
}

async fn sizes_are_estimated(w: &World) {
    let (a, [one, two, _]) = source(w).await;
    let sizes = (w.zfs.send_size(&full(&one)).await.unwrap(), w.zfs.send_size(&incremental(&one, &two)).await.unwrap());
    if !w.can.send_estimate {
        assert_eq!(sizes, (None, None));
        return;
    }
    let (whole, step) = (sizes.0.unwrap(), sizes.1.unwrap());
    let real = w.stream(&full(&one)).await.unwrap().len() as u64;
    assert!(whole > real / 2 && whole < real * 2, "{whole} for {real}");
    assert!(step < whole && step > 0);
    assert_fails(w.zfs.send_size(&full(&snap(&a, "none"))).await, &[NotFound]);
}
