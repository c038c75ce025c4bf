//! A peer that asks for what it may not have, and more than it may have.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zmigrate::{
    driver::Direction,
    fake::{FakeZfs, Op},
    limits::{
        CONTROL_WINDOW, MAX_LARGE_REPLIES, MAX_LOCKS, MAX_REQUEST, MAX_REQUESTS_WAITING, MAX_SIZES, MAX_STREAMS,
        MAX_TRANSFERS, MIN_WINDOW, YIELD_AFTER,
    },
    port::{
        link::{Connection, Link},
        zfs::{Base, Depth, SendSpec, SnapshotRequest, Zfs},
    },
    session::client::{Client, ClientOptions},
    types::{Access, DatasetName, Failure, FailureClass, Guid, JobId, listing::DatasetKind, transfer::SendFlags},
    wire::{
        codec::{self, Use},
        frame::{FLAG_MORE, Frame, FrameKind},
        hello::{self, Hello, PREFACE_LEN, Preface, RefusalCode, Role, SessionId, Welcome, features},
        message::{Call, Compression, ReceiveStep, Reply, Request, RoleOfDataset, SendStep},
    },
};

use crate::{
    clock::run,
    wire::{Daemon, Grants, SimLink},
    world::{Host, OPS, World, client_options, ds, limits, peer, sn},
};

fn job(owner: &str) -> JobId {
    JobId::for_target(&peer(owner), Guid(1), &ds("dst/in/a")).unwrap()
}

fn receive(dataset: &DatasetName, from: Option<&str>, origin: Option<&str>) -> Request {
    receive_as("far", dataset, from, origin)
}

fn receive_as(owner: &str, dataset: &DatasetName, from: Option<&str>, origin: Option<&str>) -> Request {
    let step = ReceiveStep {
        snapshot: dataset.snapshot(&"1".parse().unwrap()).unwrap(),
        to_guid: Guid(5),
        from_guid: from.map(|_| Guid(4)),
        from: from.map(sn),
        kind: DatasetKind::Filesystem,
        creates: true,
        resumes: false,
        origin: origin.map(sn),
        raw: false,
        properties: Vec::new(),
        job: job(owner),
    };
    Request::OpenReceive { channel: 1, step }
}

fn send(snapshot: &str, base: Option<Base>, owner: &str) -> Request {
    let step = SendStep {
        snapshot: sn(snapshot),
        to_guid: Guid(5),
        base: base.map(|base| (base, Guid(4))),
        flags: SendFlags::default(),
        resume: None,
        job: job(owner),
        compression: Compression::None,
        bwlimit_bytes_per_s: None,
    };
    Request::OpenSend { channel: 1, step }
}

/// Requests that each reach for something outside `src` and `dst/in`, in every place where a name can stand.
fn reaching_out() -> Vec<Request> {
    let flags = SendFlags::default();
    let (secret, bookmark) = (Base::Snapshot(sn("secret/x@1")), Base::Bookmark("secret/x#1".parse().unwrap()));
    let mut all = vec![
        Request::List { root: ds("secret"), depth: Depth::Tree, role: RoleOfDataset::Source },
        Request::List { root: ds("secret"), depth: Depth::Tree, role: RoleOfDataset::Target },
        // The grant is for the other direction.
        Request::List { root: ds("dst/in"), depth: Depth::Tree, role: RoleOfDataset::Source },
        Request::List { root: ds("src"), depth: Depth::Tree, role: RoleOfDataset::Target },
        // Above what is granted, and beside it.
        Request::Lock { target: ds("dst") },
        Request::Lock { target: ds("dst/inside") },
        Request::Snapshot(SnapshotRequest {
            root: ds("secret"),
            tag: "1".parse().unwrap(),
            recursive: true,
            except: vec![],
        }),
        Request::CreatePlaceholder { dataset: ds("dst/other/new") },
        Request::RemovePlaceholder { dataset: ds("dst/other") },
        Request::AbortPartial { dataset: ds("dst/other") },
        Request::Rollback { to: sn("dst/other@theirs"), to_guid: Guid(1), destroys: vec![] },
        Request::Rollback { to: sn("dst/in/a@1"), to_guid: Guid(1), destroys: vec![sn("dst/other@theirs")] },
        Request::Sizes(vec![SendSpec::Full { snapshot: sn("secret/x@1"), flags }]),
        receive(&ds("dst/other"), None, None),
        receive(&ds("dst/in/a"), Some("dst/other@theirs"), None),
        receive(&ds("dst/in/a"), None, Some("dst/other@theirs")),
        send("secret/x@1", None, "near"),
        Request::Acknowledge { snapshot: sn("secret/x@1"), guid: Guid(1), job: job("near"), superseded: vec![] },
        // Its own datasets, in another's name.
        send("src/a@1", None, "other"),
        Request::Acknowledge { snapshot: sn("src/a@1"), guid: Guid(1), job: job("other"), superseded: vec![] },
        // The holds of one that pulls on from here.
        receive_as("other", &ds("dst/in/a"), None, None),
    ];
    for base in [secret, bookmark] {
        let snapshot = sn("src/a@1");
        all.push(Request::Sizes(vec![SendSpec::Incremental { base: base.clone(), snapshot: snapshot.clone(), flags }]));
        all.push(send("src/a@1", Some(base.clone()), "near"));
        all.push(Request::Acknowledge { snapshot, guid: Guid(1), job: job("near"), superseded: vec![base] });
    }
    all
}

fn counts(world: &World) -> BTreeMap<Op, u64> {
    OPS.iter().map(|op| (*op, world.target.zfs.count(*op) + world.source.zfs.count(*op))).collect()
}

fn class<T>(result: Result<T, Failure>) -> Option<FailureClass> {
    result.err().map(|failure| failure.class)
}

#[test]
fn what_is_not_granted_is_not_even_looked_at() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let mut world = World::new(direction).await;
            for host in [&world.source, &world.target] {
                host.zfs.create(&ds("secret/x"));
            }
            world.snapshot("src/a@1", false).await;
            let before = counts(&world);
            let client = world.client().await;
            for request in reaching_out() {
                let answer = client.call(request.clone()).await;
                assert_eq!(class(answer), Some(FailureClass::NotGranted), "{request:?}");
            }
            assert_eq!(counts(&world), before);
        });
    }
}

#[test]
fn a_token_has_no_size_and_an_unlocked_target_is_not_written() {
    run(async {
        let world = World::new(Direction::Push).await;
        let before = counts(&world);
        let client = world.client().await;
        let requests = [
            Request::Sizes(vec![SendSpec::Resume { token: "1-abc-10-00".into() }]),
            receive(&ds("dst/in/a"), None, None),
            Request::CreatePlaceholder { dataset: ds("dst/in/p") },
            Request::RemovePlaceholder { dataset: ds("dst/in/foreign") },
            Request::AbortPartial { dataset: ds("dst/in/foreign") },
            Request::Rollback { to: sn("dst/in/foreign@theirs"), to_guid: Guid(1), destroys: vec![] },
            Request::FinishReceive { channel: 9 },
            Request::FinishSend { channel: 9 },
        ];
        for request in requests {
            assert_eq!(class(client.call(request.clone()).await), Some(FailureClass::Protocol), "{request:?}");
        }
        assert_eq!(counts(&world), before);
        assert_eq!(client.call(Request::Cancel { channel: 9 }).await, Ok(Reply::Done));
    });
}

#[test]
fn what_is_foreign_is_not_destroyed_under_a_lock_either() {
    run(async {
        let world = World::new(Direction::Push).await;
        let client = world.client().await;
        client.call(Request::Lock { target: ds("dst/in") }).await.unwrap();
        let foreign = world.target.zfs.list(&ds("dst/in/foreign"), Depth::Root).await.unwrap();
        let guid = foreign.datasets[0].snapshots[0].guid;
        world
            .target
            .zfs
            .snapshot(&SnapshotRequest {
                root: ds("dst/in/foreign"),
                tag: "later".parse().unwrap(),
                recursive: false,
                except: vec![],
            })
            .await
            .unwrap();
        let requests = [
            Request::RemovePlaceholder { dataset: ds("dst/in/foreign") },
            // A snapshot that the operator was not shown; another GUID.
            Request::Rollback { to: sn("dst/in/foreign@theirs"), to_guid: guid, destroys: vec![] },
            Request::Rollback {
                to: sn("dst/in/foreign@theirs"),
                to_guid: Guid(1),
                destroys: vec![sn("dst/in/foreign@later")],
            },
        ];
        for request in requests {
            assert_eq!(class(client.call(request.clone()).await), Some(FailureClass::Refused), "{request:?}");
        }
        assert_eq!(world.target.zfs.count(Op::Rollback) + world.target.zfs.count(Op::DestroyFilesystem), 0);
        world.safe(&Default::default()).await.unwrap();
    });
}

#[test]
fn a_channel_has_one_transfer() {
    run(async {
        let world = World::new(Direction::Push).await;
        let client = world.client().await;
        client.call(Request::Lock { target: ds("dst/in/a") }).await.unwrap();
        assert_eq!(client.call(receive(&ds("dst/in/a"), None, None)).await, Ok(Reply::Done));
        let again = client.call(receive(&ds("dst/in/a/b"), None, None)).await;
        assert_eq!(class(again), Some(FailureClass::Protocol));
        assert_eq!(world.target.zfs.count(Op::Receive), 1);
        // The first is still there, and can be given up.
        assert_eq!(client.call(Request::Cancel { channel: 1 }).await, Ok(Reply::Done));
        client.bye().await;
        assert_eq!(world.daemon.registry().open_sessions(), 0);
    });
}

#[test]
fn windows_and_sessions_have_bounds() {
    run(async {
        let world = World::new(Direction::Push).await;
        let narrow = ClientOptions { window_bytes: MIN_WINDOW - 1, ..client_options() };
        let refused = Client::connect(Arc::clone(&world.link) as _, &narrow).await;
        assert_eq!(class(refused), Some(FailureClass::Protocol));
        let mut open = Vec::new();
        for _ in 0..16 {
            open.push(world.client().await);
        }
        let impatient = ClientOptions { connect_for: Duration::ZERO, ..client_options() };
        let refused = Client::connect(Arc::clone(&world.link) as _, &impatient).await.err().unwrap();
        assert!(refused.transient && refused.message.contains("16 sessions"), "{refused:?}");
        open[0].bye().await;
        world.client().await;
        let nobody = SimLink::new(&world.daemon, &peer("nobody"), &peer("far"));
        assert_eq!(class(Client::connect(nobody, &impatient).await), Some(FailureClass::NotGranted));
    });
}

/// Requests that had come, and waited, when the certificate was revoked.
#[test]
fn what_waits_when_a_session_is_cut_is_not_done() {
    run(async {
        let world = World::new(Direction::Pull).await;
        let client = world.client().await;
        let registry = world.daemon.registry();
        world.source.zfs.watch(move |op, _, _| {
            if op == Op::Snapshot {
                registry.cut_revoked(|_| true);
            }
        });
        let mut all = tokio::task::JoinSet::new();
        for n in 0..100 {
            let tag = format!("s{n}").parse().unwrap();
            let request = SnapshotRequest { root: ds("src/a"), tag, recursive: false, except: vec![] };
            let client = Arc::clone(&client);
            all.spawn(async move { client.call(Request::Snapshot(request)).await });
        }
        while let Some(answer) = all.join_next().await {
            assert!(answer.unwrap().is_err());
        }
        assert_eq!(world.source.zfs.count(Op::Snapshot), 1);
    });
}

/// After the link was away for a moment, or for longer, whoever dials first does not push out those that come back.
#[test]
fn room_is_made_only_by_those_to_whom_nobody_came_back() {
    run(async {
        let world = World::new(Direction::Pull).await;
        let mut open = Vec::new();
        for _ in 0..16 {
            open.push(world.client().await);
        }
        let impatient = ClientOptions { connect_for: Duration::ZERO, ..client_options() };
        let another = async || Client::connect(Arc::clone(&world.link) as _, &impatient).await;
        world.link.vanish();
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.link.heal();
        assert!(another().await.err().unwrap().message.contains("16 sessions"));
        tokio::time::sleep(Duration::from_secs(10)).await;
        for client in &open {
            client.call(Request::About).await.unwrap();
        }
        // Its initiator is dead.
        drop(open.pop());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(another().await.is_err());
        tokio::time::sleep(YIELD_AFTER).await;
        assert!(another().await.is_err());
        tokio::time::sleep(Duration::from_secs(1)).await;
        another().await.unwrap();
    });
}

/// A host that died with all its runs comes back: each of them holds a target, and its new runs must not wait until the old ones
/// are given up.
#[test]
fn room_is_made_by_those_that_hold_targets_if_nobody_came_back_to_them() {
    run(async {
        let world = World::new(Direction::Pull).await;
        let mut open = Vec::new();
        for n in 0..16 {
            let client = world.client().await;
            client.call(Request::Lock { target: ds(&format!("dst/in/l{n}")) }).await.unwrap();
            open.push(client);
        }
        let impatient = ClientOptions { connect_for: Duration::ZERO, ..client_options() };
        let another = async || Client::connect(Arc::clone(&world.link) as _, &impatient).await;
        // All were away for long, and one knocks before they are back.
        assert!(another().await.is_err());
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.link.vanish();
        tokio::time::sleep(YIELD_AFTER * 2).await;
        world.link.heal();
        assert!(another().await.is_err());
        tokio::time::sleep(Duration::from_secs(10)).await;
        for client in &open {
            client.call(Request::About).await.unwrap();
        }
        // Now two of them are dead.
        drop(open.drain(..2));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(another().await.is_err(), "the link may have come back this moment");
        tokio::time::sleep(YIELD_AFTER).await;
        assert!(another().await.is_err());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let first = another().await.unwrap();
        assert!(another().await.is_err(), "one made room for one");
        tokio::time::sleep(YIELD_AFTER).await;
        assert!(another().await.is_err());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let second = another().await.unwrap();
        for client in open.iter().chain([&first, &second]) {
            client.call(Request::About).await.unwrap();
        }
    });
}

/// What is no handshake, or a frame over the limit, ends the connection and nothing else.
#[test]
fn bytes_that_are_no_protocol_end_their_connection() {
    run(async {
        let world = World::new(Direction::Push).await;
        let mut huge = b"ZMIG\x01\x00\x01\x00".to_vec();
        huge.extend(u32::MAX.to_le_bytes());
        for bytes in
            [b"GET / HTTP/1.1\r\n\r\n".to_vec(), huge, b"ZMIG\x01\x00\x01\x00\x04\x00\x00\x00\xff\xff\xff\xff".to_vec()]
        {
            let mut connection = world.link.dial().await.unwrap().connection;
            connection.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(60), connection.read_to_end(&mut answer)).await.unwrap();
            assert!(answer.len() < 1000);
        }
        assert_eq!(world.daemon.registry().open_sessions(), 0);
    });
}

/// Each bound on what one session may have or ask for, with one more than that. The session itself goes on.
#[test]
fn a_session_that_asks_for_more_than_its_share_is_told_so() {
    run(async {
        let world = World::new(Direction::Push).await;
        let client = world.client().await;
        for n in 0..MAX_LOCKS {
            client.call(Request::Lock { target: ds(&format!("dst/in/l{n}")) }).await.unwrap();
        }
        let refused = client.call(Request::Lock { target: ds("dst/in/more") }).await.unwrap_err();
        assert!(refused.message.contains("may hold 16 targets"), "{refused:?}");
        // What it holds already costs nothing more.
        client.call(Request::Lock { target: ds("dst/in/l3/below") }).await.unwrap();
        let full = SendSpec::Full { snapshot: sn("src/a@1"), flags: SendFlags::default() };
        let sizes = |n| Request::Sizes(vec![full.clone(); n]);
        assert_eq!(class(client.call(sizes(MAX_SIZES + 1)).await), Some(FailureClass::Protocol));
        assert_eq!(world.target.zfs.count(Op::SendSize), 0);
        assert_eq!(client.call(sizes(1)).await, Ok(Reply::Sizes(vec![None])));
        // Transfers, of all its sessions.
        let open = |n: usize| {
            let Request::OpenReceive { step, .. } = receive(&ds(&format!("dst/in/l0/t{n}")), None, None) else {
                unreachable!("it is one")
            };
            Request::OpenReceive { channel: 1 + n as u32, step }
        };
        for n in 0..MAX_TRANSFERS {
            assert_eq!(client.call(open(n)).await, Ok(Reply::Done), "transfer {n}");
        }
        let refused = client.call(open(MAX_TRANSFERS)).await.unwrap_err();
        assert!(refused.message.contains("near has 48 transfers") && refused.transient, "{refused:?}");
        assert_eq!(world.target.zfs.count(Op::Receive), MAX_TRANSFERS as u64);
        client.call(Request::Cancel { channel: 1 }).await.unwrap();
        client.bye().await;
        assert_eq!(world.daemon.registry().open_sessions(), 0);
    });
}

#[test]
fn a_listing_over_the_limit_is_refused_and_a_flood_of_requests_waits() {
    run(async {
        let host = Host::new(FakeZfs::new(5));
        for n in 0..4 {
            host.zfs.create(&ds(&format!("src/d{n}")));
        }
        let engine = host.engine_for(4);
        let grants = Grants([(peer("near"), vec![(Access::Pull, ds("src"))])].into());
        let daemon = Daemon::new(engine, grants, limits());
        let link = SimLink::new(&daemon, &peer("near"), &peer("far"));
        let client = Client::connect(link, &client_options()).await.unwrap();
        let list = |root: &str| Request::List { root: ds(root), depth: Depth::Tree, role: RoleOfDataset::Source };
        // src itself is the fifth.
        let refused = client.call(list("src")).await.unwrap_err();
        assert!(refused.message.contains("more than 4 datasets"), "{refused:?}");
        assert!(refused.hint.is_some_and(|hint| hint.contains("max_datasets")));
        let mut flood = tokio::task::JoinSet::new();
        for n in 0..2 * MAX_REQUESTS_WAITING {
            let (client, request) = (Arc::clone(&client), list(&format!("src/d{}", n % 4)));
            flood.spawn(async move { client.call(request).await });
        }
        while let Some(answer) = flood.join_next().await {
            assert!(matches!(answer.unwrap(), Ok(Reply::Listed(_))));
        }
        client.bye().await;
    });
}

/// Opens a session by hand; gives the connection after its welcome.
pub async fn by_hand(link: &SimLink, role: Role) -> (Box<dyn Connection>, Result<(u16, Welcome), hello::Refusal>) {
    let mut connection = link.dial().await.unwrap().connection;
    let (agent, host) = ("test".to_owned(), "near".to_owned());
    let hello = Hello { agent, host, clock_unix_ms: 0, features: features::OURS, window: 4 << 20, role };
    connection.write_all(&hello::encode_hello(&hello).unwrap()).await.unwrap();
    let mut head = [0; PREFACE_LEN];
    connection.read_exact(&mut head).await.unwrap();
    let preface = Preface::decode(&head).unwrap();
    let mut body = vec![0; preface.body_len as usize];
    connection.read_exact(&mut body).await.unwrap();
    (connection, hello::decode_answer(preface, &body).unwrap())
}

/// Who asks for large replies and takes none of them.
#[test]
fn replies_that_nobody_takes_do_not_pile_up() {
    run(async {
        let world = World::new(Direction::Pull).await;
        // More than the window of 4 MiB: 12,000 names of 222 bytes, and as much of properties.
        for n in 0..12_000 {
            world.source.zfs.create(&ds(&format!("src/{n:0>218}")));
        }
        let (mut connection, welcome) = by_hand(&world.link, Role::Open).await;
        assert!(welcome.is_ok());
        let mut ask = async |id: u64, request: Request| {
            let bytes = codec::encode(&Call { id, request }, Use::Request).unwrap();
            let mut frame = Frame::plain(FrameKind::Message, 0, Bytes::from(bytes));
            frame.header.sequence = id;
            connection.write_all(&frame.header.encode()).await.unwrap();
            connection.write_all(&frame.payload).await.unwrap();
        };
        for id in 0..10 {
            let (root, depth, role) = (ds("src"), Depth::Tree, RoleOfDataset::Source);
            ask(id, Request::List { root, depth, role }).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.source.zfs.count(Op::List), MAX_LARGE_REPLIES as u64);
        // What is small, or ends something, does not wait for them.
        let tag = "meanwhile".parse().unwrap();
        ask(10, Request::Snapshot(SnapshotRequest { root: ds("src/a"), tag, recursive: false, except: vec![] })).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.source.zfs.count(Op::Snapshot), 1);
        // And the session comes to its end all the same.
        drop(connection);
        world.daemon.registry().cut_revoked(|_| true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.daemon.registry().open_sessions(), 0);
    });
}

/// Sends a frame under numbers from `first` on until the peer has had enough; how often it took it.
async fn pour(connection: &mut dyn Connection, first: u64, frame: &Frame) -> u64 {
    let mut frame = frame.clone();
    for n in 0..1000 {
        frame.header.sequence = first + n;
        let sent = async {
            connection.write_all(&frame.header.encode()).await?;
            connection.write_all(&frame.payload).await
        };
        match tokio::time::timeout(Duration::from_secs(20), sent).await {
            Ok(Ok(())) => {}
            _ => return n,
        }
    }
    panic!("the peer took everything");
}

#[test]
fn messages_without_end_and_frames_beyond_the_credit_end_the_session() {
    run(async {
        let world = World::new(Direction::Push).await;
        let other = world.client().await;
        // A message of ever more parts; then a request that decodes to more than it may.
        let part = Bytes::from(vec![0u8; 1 << 20]);
        let (mut connection, welcome) = by_hand(&world.link, Role::Open).await;
        assert!(welcome.is_ok());
        let endless = Frame::plain(FrameKind::Message, FLAG_MORE, part.clone());
        let taken = pour(&mut *connection, 0, &endless).await;
        assert!(taken <= 2 + (MAX_REQUEST >> 20) as u64, "{taken} MiB of one message were taken");
        // Frames that are never in turn fill no more than the window.
        let (mut connection, _) = by_hand(&world.link, Role::Open).await;
        let taken = pour(&mut *connection, 1, &Frame::plain(FrameKind::Message, 0, part)).await;
        assert!(taken <= 2 + (CONTROL_WINDOW >> 20), "{taken} MiB were taken");
        // Decoding claims no more than the message has: a list of 2^60 names in a few bytes.
        let list = [&[0u8, 7, 253][..], &(1u64 << 60).to_le_bytes()].concat();
        assert!(codec::decode::<zmigrate::wire::message::Call>(&list, Use::Request).is_err());
        // The other session has noticed nothing.
        assert_eq!(class(other.call(Request::Lock { target: ds("dst/in/a") }).await), None);
        other.bye().await;
    });
}

#[test]
fn what_attaches_to_nothing_is_refused() {
    run(async {
        let world = World::new(Direction::Push).await;
        let (_open, welcome) = by_hand(&world.link, Role::Open).await;
        let session = welcome.unwrap().1.session;
        let attach = |session, channel, stripe| Role::Attach { session, channel, stripe, next: 0 };
        for (role, code) in [
            (attach(session, 0, MAX_STREAMS), RefusalCode::Malformed),
            (attach(session, 7, 0), RefusalCode::UnknownChannel),
            (attach(SessionId(session.0 ^ 1), 0, 0), RefusalCode::UnknownSession),
        ] {
            let (_, answer) = by_hand(&world.link, role.clone()).await;
            assert_eq!(answer.unwrap_err().code, Some(code), "{role:?}");
        }
    });
}
