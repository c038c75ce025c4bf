use super::*;
use crate::{
    fake::FakeZfs,
    port::zfs::{SnapshotRequest, Zfs},
    session::bare,
    wire::message::Request,
};

const OURS: &str = "aaaaaaaa11111111";

fn ds(name: &str) -> DatasetName {
    name.parse().unwrap()
}

fn snapshot(tag: &str) -> SnapshotName {
    format!("tank/in/db@{tag}").parse().unwrap()
}

/// A session that holds `tank/in`, and `tank/in/db` with the snapshots a, b and c, of which the job holds c.
async fn target() -> (FakeZfs, EngineSession, tempfile::TempDir) {
    let (zfs, dir) = (FakeZfs::new(1), tempfile::tempdir().unwrap());
    let session = bare::session(&bare::engine(&zfs, dir.path()), "me");
    zfs.create(&ds("tank/in/db"));
    zfs.set(&ds("tank/in/db"), &[(JOB.to_owned(), OURS.to_owned())]).await.unwrap();
    for tag in ["a", "b", "c"] {
        let request =
            SnapshotRequest { root: ds("tank/in/db"), tag: tag.parse().unwrap(), recursive: false, except: Vec::new() };
        zfs.snapshot(&request).await.unwrap();
    }
    zfs.hold(&format!("zmigrate:{OURS}"), &[snapshot("c")]).await.unwrap();
    session.handle(Request::Lock { target: ds("tank/in") }).await.unwrap();
    (zfs, session, dir)
}

#[tokio::test]
async fn what_somebody_holds_is_found_before_a_rollback_begins() {
    let (zfs, session, _dir) = target().await;
    let listing = zfs.list(&ds("tank/in/db"), Depth::Root).await.unwrap();
    let back = Request::Rollback {
        to: snapshot("a"),
        to_guid: listing.datasets[0].snapshots[0].guid,
        destroys: vec![snapshot("b"), snapshot("c")],
    };
    zfs.hold("mine", &[snapshot("b")]).await.unwrap();
    let held = zfs.holds(&[snapshot("a"), snapshot("b"), snapshot("c")]).await.unwrap();
    let failure = session.handle(back.clone()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Refused);
    assert!(failure.to_string().contains("tank/in/db@b is held (mine), so nothing was rolled back"), "{failure}");
    assert_eq!(zfs.snapshots_below(&ds("tank/in/db")).len(), 3);
    // Nor was anything let go of on the way.
    assert_eq!(zfs.holds(&[snapshot("a"), snapshot("b"), snapshot("c")]).await.unwrap(), held);
    zfs.release("mine", &[snapshot("b")]).await.unwrap();
    session.handle(back).await.unwrap();
    assert_eq!(zfs.snapshots_below(&ds("tank/in/db")).len(), 1);
    assert_eq!(zfs.holds(&[snapshot("a")]).await.unwrap(), [(snapshot("a"), format!("zmigrate:{OURS}"))]);
}

#[tokio::test]
async fn a_session_that_is_ending_makes_no_placeholder() {
    let (zfs, session, _dir) = target().await;
    session.handle(Request::CreatePlaceholder { dataset: ds("tank/in/x") }).await.unwrap();
    session.begin_end();
    let failure = session.handle(Request::CreatePlaceholder { dataset: ds("tank/in/y") }).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Interrupted);
    assert!(zfs.kind(&ds("tank/in/x")).is_some() && zfs.kind(&ds("tank/in/y")).is_none());
}
