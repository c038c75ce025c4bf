//! Probes: that they go the way of a transfer, are judged on it, and touch no ZFS.

use std::{
    fmt,
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use zmigrate::{
    driver::{Direction, ProbeOptions, RunContext, probe},
    limits::MAX_TRANSFERS,
    pipe::{
        probe::{around, repeated},
        sample,
    },
    port::link::{Connection, Dialled, Link},
    session::{client::Client, handshake, registry::Authority},
    types::{Access, DatasetName, Failure, FailureClass, Guid, JobId, PeerName},
    wire::{
        hello::{SessionId, Welcome, features},
        message::{Compression, ProbedStream, Reply, Request},
    },
};

use crate::{
    clock::run,
    wire::{Daemon, SimLink, Trouble},
    world::{OPS, World, client_options, limits, peer},
};

fn options(bytes: u64) -> ProbeOptions {
    ProbeOptions {
        stream: repeated(sample::text(1 << 20, 1), bytes),
        name: "an input".into(),
        size_bytes: Some(bytes),
        compression: Compression::Zstd(1),
        bwlimit_bytes_per_s: None,
    }
}

fn used(world: &World) -> u64 {
    OPS.iter().map(|op| world.target.zfs.count(*op) + world.source.zfs.count(*op)).sum()
}

const OPEN: ProbedStream = ProbedStream { to_guid: Guid(5), from_guid: None, raw: false, resumes: false };

#[test]
fn a_probe_gets_there_whole_and_touches_no_zfs() {
    run(async {
        let world = World::new(Direction::Push).await;
        let before = used(&world);
        const BYTES: u64 = 9 << 20;
        // Its connection breaks once on the way.
        world.link.expect([Trouble::default(), Trouble::cut_sent(1 << 20)]);
        let report = probe(&world.context(), options(BYTES)).await.unwrap();
        // BEGIN, the file, 72 blocks, END.
        assert_eq!(report.raw_bytes, BYTES + (72 + 3) * 312);
        assert!(report.wire_bytes < BYTES / 2, "{report:?}");
        assert_eq!(used(&world), before);
        assert_eq!(world.daemon.registry().open_sessions(), 0);
    });
}

#[test]
fn a_stream_that_is_not_what_it_says_fails_the_probe() {
    run(async {
        let world = World::new(Direction::Push).await;
        let (stream, probed) = repeated(vec![1; 1 << 20], 1 << 20);
        let lie = ProbedStream { to_guid: Guid(99), ..probed };
        let failure = probe(&world.context(), ProbeOptions { stream: (stream, lie), ..options(0) }).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::BadStream, "{failure:?}");
        // The same, but the peer alone is to find it: what the initiator judges is a stream of its own choice.
        let client = world.client().await;
        client.call(Request::OpenProbe { channel: 1, stream: OPEN }).await.unwrap();
        let channel = zmigrate::session::engine::Channels::open(&*client, 1).unwrap();
        client.attach(1);
        let sending = zmigrate::pipe::probe::sending(repeated(vec![1; 1 << 20], 1 << 20).0);
        let tap = |to| {
            use zmigrate::stream::gate::{Gate, GatePolicy};
            zmigrate::stream::Tap::new(Gate::new(GatePolicy::step(None, to)))
        };
        let options = zmigrate::pipe::source::SourceOptions {
            origin: zmigrate::pipe::source::Origin::Given("a made-up stream".into()),
            compression: Compression::None,
            chunk_bytes: 1 << 20,
            cancelled: Default::default(),
            receiver_ended: Default::default(),
            in_one_thread: false,
        };
        let sent =
            zmigrate::pipe::source::send_stream(sending, tap(probed.to_guid), channel, Default::default(), options);
        // The sender may be done before the peer has judged the end.
        let (_, finished) = tokio::join!(sent, client.call(Request::FinishProbe { channel: 1 }));
        assert_eq!(finished.unwrap_err().class, FailureClass::BadStream);
    });
}

#[test]
fn an_input_that_breaks_off_fails_the_probe() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is gone"))
        }
    }
    run(async {
        let world = World::new(Direction::Push).await;
        let stream = around(Box::new(std::io::Read::chain(Cursor::new(vec![1; 3 << 20]), Broken)));
        let failure = probe(&world.context(), ProbeOptions { stream, ..options(0) }).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Usage, "{failure:?}");
        assert!(failure.message.contains("reading from an input: the disk is gone"), "{failure:?}");
    });
}

#[test]
fn probes_are_transfers_within_the_same_bounds() {
    run(async {
        let world = World::new(Direction::Push).await;
        let client = world.client().await;
        for channel in 1..=MAX_TRANSFERS as u32 {
            assert_eq!(client.call(Request::OpenProbe { channel, stream: OPEN }).await, Ok(Reply::Done));
        }
        // The places are those of the identity, so another session of it has none either.
        let other = world.client().await;
        let failure = other.call(Request::OpenProbe { channel: 1, stream: OPEN }).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Unreachable, "{failure:?}");
        // A session that ends gives its places back.
        client.bye().await;
        assert_eq!(other.call(Request::OpenProbe { channel: 1, stream: OPEN }).await, Ok(Reply::Done));
    });
}

/// Grants that a reload takes away.
#[derive(Default)]
struct Revocable(Arc<AtomicBool>);

impl Authority for Revocable {
    fn knows(&self, _: &PeerName) -> bool {
        !self.0.load(Ordering::SeqCst)
    }

    fn check(&self, _: &PeerName, _: Access, _: &DatasetName) -> Result<(), Failure> {
        Ok(())
    }

    fn is_own(&self, _: &JobId) -> bool {
        true
    }

    fn granted(&self, _: &PeerName) -> Vec<(Access, DatasetName)> {
        Vec::new()
    }
}

#[test]
fn who_has_no_grant_any_more_probes_no_more() {
    run(async {
        let world = World::new(Direction::Push).await;
        let gone = Arc::new(AtomicBool::new(false));
        let daemon = Daemon::new(world.target.engine(), Revocable(Arc::clone(&gone)), limits());
        let link = SimLink::new(&daemon, &peer("near"), &peer("far"));
        let client = Client::connect(link, &client_options()).await.unwrap();
        assert_eq!(client.call(Request::OpenProbe { channel: 1, stream: OPEN }).await, Ok(Reply::Done));
        gone.store(true, Ordering::SeqCst);
        for request in [Request::OpenProbe { channel: 2, stream: OPEN }, Request::Prepare { channel: 3 }] {
            assert_eq!(client.call(request).await.unwrap_err().class, FailureClass::NotGranted);
        }
    });
}

/// A peer of a version that has no probes.
struct Older;

impl fmt::Display for Older {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("older")
    }
}

#[async_trait]
impl Link for Older {
    async fn dial(&self) -> Result<Dialled, Failure> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            let mut theirs: Box<dyn Connection> = Box::new(theirs);
            let (version, hello) = handshake::accept(&mut theirs).await.unwrap();
            let welcome = Welcome {
                agent: "zmigrate 0.0.9".into(),
                clock_unix_ms: hello.clock_unix_ms,
                features: features::STRIPING,
                window: hello.window,
                session: SessionId(1),
                next: 0,
            };
            handshake::welcome(&mut theirs, version, &welcome).await.unwrap();
            std::future::pending::<()>().await;
        });
        Ok(Dialled { connection: Box::new(ours), identity: peer("older"), chain: Vec::new() })
    }
}

#[test]
fn a_peer_without_probes_is_told_apart() {
    run(async {
        let world = World::new(Direction::Push).await;
        let context = RunContext { link: Arc::new(Older), ..world.context() };
        let failure = probe(&context, options(1 << 20)).await.unwrap_err();
        assert_eq!(failure.message, "older (zmigrate 0.0.9) has no probes");
        assert!(failure.hint.is_some_and(|hint| hint.contains("newer")));
    });
}
