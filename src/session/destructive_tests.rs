use super::*;
use crate::{
    fake::FakeZfs,
    port::zfs::{SnapshotRequest, Zfs},
    session::bare,
    types::listing::{DatasetKind, FENCE, SERVING},
    wire::message::{ReceiveStep, Request, RoleOfDataset},
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
        take(&zfs, tag).await;
    }
    zfs.hold(&format!("zmigrate:{OURS}"), &[snapshot("c")]).await.unwrap();
    session.handle(Request::Lock { target: ds("tank/in") }).await.unwrap();
    show(&session).await;
    (zfs, session, dir)
}

/// Lists the target, as a run does before it plans.
async fn show(session: &EngineSession) {
    let list = Request::List { root: ds("tank/in"), depth: Depth::Tree, role: RoleOfDataset::Target };
    session.handle(list).await.unwrap();
}

/// Back to a.
async fn back(zfs: &FakeZfs) -> Request {
    let listing = zfs.list(&ds("tank/in/db"), Depth::Root).await.unwrap();
    let to_guid = listing.datasets[0].snapshots[0].guid;
    Request::Rollback { to: snapshot("a"), to_guid, destroys: vec![snapshot("b"), snapshot("c")] }
}

async fn take(zfs: &FakeZfs, tag: &str) {
    let request =
        SnapshotRequest { root: ds("tank/in/db"), tag: tag.parse().unwrap(), recursive: false, except: Vec::new() };
    zfs.snapshot(&request).await.unwrap();
}

#[tokio::test]
async fn what_somebody_holds_is_found_before_a_rollback_begins() {
    let (zfs, session, _dir) = target().await;
    let back = back(&zfs).await;
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

/// A script of the target may keep a snapshot of one name and make it anew each hour.
#[tokio::test]
async fn what_has_the_name_that_was_shown_and_is_another_is_not_destroyed() {
    let (zfs, session, _dir) = target().await;
    zfs.release(&format!("zmigrate:{OURS}"), &[snapshot("c")]).await.unwrap();
    zfs.destroy_snapshot(&snapshot("c")).await.unwrap();
    take(&zfs, "c").await;
    let failure = session.handle(back(&zfs).await).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Refused);
    assert!(failure.to_string().contains("@c is another snapshot now"), "{failure}");
    assert_eq!(zfs.snapshots_below(&ds("tank/in/db")).len(), 3);
    show(&session).await;
    session.handle(back(&zfs).await).await.unwrap();
    assert_eq!(zfs.snapshots_below(&ds("tank/in/db")).len(), 1);
}

/// Whatever the side that leads has planned.
#[tokio::test]
async fn what_serves_or_is_fenced_is_neither_rolled_back_nor_received_into() {
    let (zfs, session, _dir) = target().await;
    let step = |dataset: &str| ReceiveStep {
        snapshot: format!("{dataset}@c").parse().unwrap(),
        to_guid: Guid(7),
        from_guid: None,
        from: None,
        kind: DatasetKind::Filesystem,
        creates: true,
        resumes: false,
        origin: None,
        raw: false,
        properties: Vec::new(),
        job: OURS.parse().unwrap(),
    };
    let before = (zfs.snapshots_below(&ds("tank/in/db")), zfs.get("tank/in/db", &["readonly"]).await.unwrap());
    for (mark, part) in [(SERVING, "is the writable side since cutover 00000001:1"), (FENCE, "is fenced by cutover")] {
        zfs.set(&ds("tank/in/db"), &[(mark.to_owned(), "00000001:1".to_owned())]).await.unwrap();
        let requests = [
            back(&zfs).await,
            Request::OpenReceive { channel: 1, step: step("tank/in/db") },
            Request::OpenReceive { channel: 1, step: step("tank/in/db/new/below") },
        ];
        for request in requests {
            let failure = session.handle(request.clone()).await.unwrap_err();
            assert_eq!(failure.class, FailureClass::Refused, "{request:?}");
            assert!(failure.to_string().contains(part), "{request:?}: {failure}");
        }
        zfs.inherit(&ds("tank/in/db"), mark).await.unwrap();
    }
    let after = (zfs.snapshots_below(&ds("tank/in/db")), zfs.get("tank/in/db", &["readonly"]).await.unwrap());
    assert_eq!(before, after);
    session.handle(back(&zfs).await).await.unwrap();
}
