//! Channels that are opened ahead of their transfers: within the same bounds, and given back.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use zmigrate::{
    driver::Direction,
    fake::FakeZfs,
    limits::{MAX_TRANSFERS, MAX_TRANSFERS_IN_ALL},
    session::client::Client,
    types::{Access, Failure, FailureClass, Guid},
    wire::message::{ProbedStream, Reply, Request},
};

use crate::{
    clock::run,
    wire::{Daemon, Grants, SimLink},
    world::{Host, World, client_options, ds, limits, peer},
};

fn no_place(result: Result<Reply, Failure>) {
    assert_eq!(result.unwrap_err().class, FailureClass::Unreachable);
}

#[test]
fn what_is_prepared_has_one_place_until_it_is_given_up() {
    run(async {
        let world = World::new(Direction::Push).await;
        let (one, other) = (world.client().await, world.client().await);
        for channel in (1..=MAX_TRANSFERS as u32).chain([1]) {
            assert_eq!(one.call(Request::Prepare { channel }).await, Ok(Reply::Done), "{channel}");
        }
        no_place(other.call(Request::Prepare { channel: 1 }).await);
        // Given up, it is another's; used, it takes no second one.
        assert_eq!(one.call(Request::Cancel { channel: 7 }).await, Ok(Reply::Done));
        assert_eq!(other.call(Request::Prepare { channel: 1 }).await, Ok(Reply::Done));
        let stream = ProbedStream { to_guid: Guid(5), from_guid: None, raw: false, resumes: false };
        assert_eq!(one.call(Request::OpenProbe { channel: 2, stream }).await, Ok(Reply::Done));
        no_place(other.call(Request::Prepare { channel: 2 }).await);
        // A session that ends gives all of them back.
        one.bye().await;
        assert_eq!(other.call(Request::Prepare { channel: 2 }).await, Ok(Reply::Done));
    });
}

#[test]
fn the_end_of_a_receive_waits_for_its_beginning() {
    run(async {
        let world = World::new(Direction::Push).await;
        let client = world.client().await;
        assert_eq!(client.call(Request::Prepare { channel: 1 }).await, Ok(Reply::Done));
        let end = client.call(Request::FinishReceive { channel: 1 });
        tokio::pin!(end);
        assert!(timeout(Duration::from_secs(5), &mut end).await.is_err(), "it was not waited for");
        assert_eq!(client.call(Request::Cancel { channel: 1 }).await, Ok(Reply::Done));
        assert_eq!(end.await.unwrap_err().class, FailureClass::Protocol);
        // Of a channel that nobody prepared it is told at once.
        let end = timeout(Duration::from_secs(60), client.call(Request::FinishReceive { channel: 2 })).await;
        assert_eq!(end.unwrap().unwrap_err().class, FailureClass::Protocol);
    });
}

/// However many sessions it has.
#[test]
fn one_peer_leaves_places_for_others() {
    run(async {
        let host = Host::new(FakeZfs::new(5));
        let grant = |name| (peer(name), vec![(Access::Pull, ds("src"))]);
        let daemon = Daemon::new(host.engine(), Grants([grant("near"), grant("other")].into()), limits());
        let client = async |name| {
            let link = SimLink::new(&daemon, &peer(name), &peer("far"));
            Client::connect(link, &client_options()).await.unwrap()
        };
        let (one, two, other) = (client("near").await, client("near").await, client("other").await);
        for channel in 1..=MAX_TRANSFERS as u32 {
            let who = if channel % 2 == 0 { &one } else { &two };
            assert_eq!(who.call(Request::Prepare { channel }).await, Ok(Reply::Done), "{channel}");
        }
        let refused = one.call(Request::Prepare { channel: 100 }).await.unwrap_err();
        assert!(refused.transient && refused.message.contains("its share"), "{refused:?}");
        for channel in 1..=(MAX_TRANSFERS_IN_ALL - MAX_TRANSFERS) as u32 {
            assert_eq!(other.call(Request::Prepare { channel }).await, Ok(Reply::Done), "{channel}");
        }
        // Nor is the share of one that has left forgotten while another of its sessions lives.
        one.bye().await;
        let again = client("near").await;
        for channel in 1..=MAX_TRANSFERS as u32 / 2 {
            assert_eq!(again.call(Request::Prepare { channel }).await, Ok(Reply::Done), "{channel}");
        }
        no_place(again.call(Request::Prepare { channel: 100 }).await);
    });
}

#[test]
fn a_run_that_finds_no_place_tries_again() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let mut world = World::new(direction).await;
            world.source.zfs.write(&ds("src/a"), 7, 0, b"something");
            world.snapshot("src/a@1", false).await;
            let busy = world.client().await;
            for channel in 1..=MAX_TRANSFERS as u32 {
                assert_eq!(busy.call(Request::Prepare { channel }).await, Ok(Reply::Done));
            }
            let ends = async {
                sleep(Duration::from_secs(4)).await;
                busy.bye().await;
            };
            let options = world.options();
            let (report, ()) = tokio::join!(world.run(&options), ends);
            assert_eq!(report.exit_code, 0, "{report:?}");
            world.complete(false).await.unwrap();
            // Where nobody leaves, it does not try for ever.
            let busy = world.client().await;
            for channel in 1..=MAX_TRANSFERS as u32 {
                assert_eq!(busy.call(Request::Prepare { channel }).await, Ok(Reply::Done));
            }
            world.source.zfs.write(&ds("src/a"), 7, 0, b"something else");
            world.snapshot("src/a@2", false).await;
            let report = timeout(Duration::from_secs(300), world.run(&options)).await.unwrap();
            assert_ne!(report.exit_code, 0, "{report:?}");
        });
    }
}
