//! Channels that are opened ahead of their transfers: within the same bounds, and given back.

use std::time::Duration;

use tokio::time::timeout;
use zmigrate::{
    driver::Direction,
    limits::MAX_TRANSFERS,
    types::{Failure, FailureClass, Guid},
    wire::message::{ProbedStream, Reply, Request},
};

use crate::{clock::run, world::World};

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
