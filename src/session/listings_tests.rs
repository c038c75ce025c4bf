use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::{fake::FakeZfs, session::bare, wire::message::Request};

fn list(root: &str) -> Request {
    Request::List { root: root.parse().unwrap(), depth: Depth::Tree, role: RoleOfDataset::Source }
}

/// A host with two pools. Of `sick` all places are taken, as by listings that hang.
async fn host() -> (Arc<EngineSession>, tempfile::TempDir, impl Sized) {
    let (zfs, dir) = (FakeZfs::new(1), tempfile::tempdir().unwrap());
    ["well/a", "sick/a"].iter().for_each(|name| zfs.create(&name.parse().unwrap()));
    let engine = bare::engine(&zfs, dir.path());
    let hang = engine.listings.of("sick").acquire_many_owned(MAX_LISTINGS_AT_A_TIME as u32).await.unwrap();
    (Arc::new(bare::session(&engine, "me")), dir, hang)
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_hangs_keeps_nobody_for_ever_and_no_other_pool() {
    let (session, _dir, _hang) = host().await;
    let began = Instant::now();
    assert!(matches!(session.handle(list("well/a")).await, Ok(Reply::Listed(_))));
    assert_eq!(began.elapsed(), Duration::ZERO);
    let failure = session.handle(list("sick/a")).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Zfs);
    assert!(failure.to_string().contains("list sick/a: no answer within 3600 s"), "{failure}");
    assert!(began.elapsed() <= RUN_LISTING_WITHIN + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_listing_does_not_outlive_its_session() {
    let (session, _dir, _hang) = host().await;
    let began = Instant::now();
    let hangs = tokio::spawn({
        let session = Arc::clone(&session);
        async move { session.handle(list("sick/a")).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    session.begin_end();
    assert_eq!(hangs.await.unwrap().unwrap_err().class, FailureClass::Interrupted);
    assert_eq!(began.elapsed(), Duration::from_secs(1));
}
