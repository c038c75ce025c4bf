//! What one identity takes with many connections and channels, and what is left for others.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};
use zmigrate::{
    fake::FakeZfs,
    limits::{MAX_CHUNK, MIN_WINDOW},
    port::link::Connection,
    session::{
        client::{Client, ClientOptions},
        registry::RegistryLimits,
    },
    types::{Access, FailureClass},
    wire::{
        codec::{self, Use},
        frame::{Frame, FrameKind},
        hello::{RefusalCode, Role},
        message::{Call, Request},
    },
};

use crate::{
    clock::run,
    hostile::by_hand,
    wire::{Daemon, Grants, SimLink},
    world::{Host, client_options, ds, limits, peer},
};

/// A daemon, and the links of two identities to it.
fn daemon(limits: RegistryLimits) -> (Arc<Daemon>, Arc<SimLink>, Arc<SimLink>) {
    let host = Host::new(FakeZfs::new(5));
    let grant = |name| (peer(name), vec![(Access::Pull, ds("src"))]);
    let daemon = Daemon::new(host.engine(), Grants([grant("greedy"), grant("other")].into()), limits);
    let link = |name| SimLink::new(&daemon, &peer(name), &peer("far"));
    let links = (link("greedy"), link("other"));
    (daemon, links.0, links.1)
}

#[test]
fn one_identity_has_its_share_of_the_connections_and_no_more() {
    run(async {
        let (_daemon, greedy, other) = daemon(RegistryLimits { connections_per_identity: 6, ..limits() });
        let (first, welcome) = by_hand(&greedy, Role::Open).await;
        let session = welcome.unwrap().1.session;
        let stripe = |stripe| Role::Attach { session, channel: 0, stripe, next: 0 };
        let mut held = vec![first];
        for n in 1..6 {
            let (connection, welcome) = by_hand(&greedy, stripe(n)).await;
            assert!(welcome.is_ok(), "{n}");
            held.push(connection);
        }
        let refusal = async |role| {
            let (_, refused) = by_hand(&greedy, role).await;
            let refused = refused.unwrap_err();
            assert_eq!(refused.code, Some(RefusalCode::Busy));
            refused.text
        };
        assert_eq!(refusal(stripe(6)).await, "greedy has 6 connections open, which is its share");
        // What a session cannot do without comes before more of the same; but not without end.
        let (replaced, welcome) = by_hand(&greedy, stripe(0)).await;
        assert!(welcome.is_ok(), "the first one of a session dials again");
        held.push(replaced);
        drop(held.remove(0));
        sleep(Duration::from_secs(1)).await;
        let (opened, welcome) = by_hand(&greedy, Role::Open).await;
        assert!(welcome.is_ok());
        for role in [stripe(0), stripe(6), Role::Open] {
            assert_eq!(refusal(role).await, "greedy has 7 connections open, which is its share");
        }
        // An initiator is told, and that it is worth another try.
        let impatient = ClientOptions { connect_for: Duration::ZERO, ..client_options() };
        let refused = Client::connect(Arc::clone(&greedy) as _, &impatient).await.err().unwrap();
        assert!(refused.transient && refused.class == FailureClass::Unreachable, "{refused:?}");
        assert!(refused.message.contains("which is its share"), "{refused:?}");
        // Others do not notice.
        let client = Client::connect(other as _, &impatient).await.unwrap();
        client.bye().await;
        // What ends is room for what comes.
        drop((opened, held.drain(3..)));
        sleep(Duration::from_secs(1)).await;
        assert!(by_hand(&greedy, stripe(4)).await.1.is_ok());
    });
}

/// Sends data until nothing more is taken; the cost of what was.
async fn fill(connection: &mut dyn Connection) -> u64 {
    let mut frame = Frame::plain(FrameKind::Data, 0, Bytes::from(vec![7; MAX_CHUNK]));
    // The first one is left out, so whoever is behind that takes none.
    for n in 1..1000 {
        frame.header.sequence = n;
        let sent = async {
            connection.write_all(&frame.header.encode()).await?;
            connection.write_all(&frame.payload).await
        };
        match timeout(Duration::from_secs(1), sent).await {
            Ok(Ok(())) => {}
            _ => return (n - 1) * frame.cost(),
        }
    }
    panic!("everything was taken");
}

#[test]
fn many_full_channels_take_no_more_than_the_share_of_their_identity() {
    const CHANNELS: u64 = 4;
    const MEMORY: u64 = 6 << 20;
    run(async {
        let bounded = RegistryLimits { window_bytes: 16 << 20, memory_per_identity: MEMORY, ..limits() };
        let (_daemon, greedy, other) = daemon(bounded);
        let mut taken = 0;
        let mut held = Vec::new();
        for _ in 0..2 {
            // Its sessions together.
            let (mut control, welcome) = by_hand(&greedy, Role::Open).await;
            let session = welcome.unwrap().1.session;
            for channel in 1..=CHANNELS as u32 / 2 {
                let call = Call { id: channel.into(), request: Request::Prepare { channel } };
                let mut frame = Frame::plain(FrameKind::Message, 0, codec::encode(&call, Use::Request).unwrap().into());
                frame.header.sequence = u64::from(channel) - 1;
                control.write_all(&[&frame.header.encode()[..], &frame.payload].concat()).await.unwrap();
                sleep(Duration::from_millis(500)).await;
                let (mut data, welcome) = by_hand(&greedy, Role::Attach { session, channel, stripe: 0, next: 0 }).await;
                assert!(welcome.is_ok(), "{channel}");
                taken += fill(&mut *data).await;
                held.push(data);
            }
            held.push(control);
        }
        // One frame of each connection has been read and waits; what is not read yet is in the link's buffer.
        let on_its_way = CHANNELS * (MAX_CHUNK as u64 + (64 << 10));
        assert!(taken <= CHANNELS * MIN_WINDOW + MEMORY + on_its_way, "{taken} bytes");
        assert!(taken >= CHANNELS * (MIN_WINDOW - MAX_CHUNK as u64) + MEMORY, "{taken} bytes: less than its share");
        // Another identity has its own.
        let (mut control, welcome) = by_hand(&other, Role::Open).await;
        let session = welcome.unwrap().1.session;
        let call = Call { id: 1, request: Request::Prepare { channel: 1 } };
        let frame = Frame::plain(FrameKind::Message, 0, codec::encode(&call, Use::Request).unwrap().into());
        control.write_all(&[&frame.header.encode()[..], &frame.payload].concat()).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        let (mut data, _) = by_hand(&other, Role::Attach { session, channel: 1, stripe: 0, next: 0 }).await;
        assert!(fill(&mut *data).await >= MIN_WINDOW + MEMORY - MAX_CHUNK as u64);
    });
}
