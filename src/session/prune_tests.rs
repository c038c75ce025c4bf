use std::sync::Arc;

use super::*;
use crate::{
    fake::{FakeZfs, Fault, Op},
    jobs::spare::Need,
    port::{
        needs::Needs,
        zfs::{SnapshotRequest, Zfs},
    },
    session::{bare, engine::Engine},
    types::{JobName, listing::HELD},
    wire::message::Request,
};

const JOB_A: &str = "aaaaaaaa11111111";
const JOB_B: &str = "bbbbbbbb22222222";

/// A job of this host that sends the dataset on, and has got so far.
struct SendsOn(Option<Guid>);

impl Needs for SendsOn {
    fn of(&self, _: &DatasetName, _: Option<&JobName>) -> Vec<Need> {
        vec![Need { by: "job on".into(), has: self.0 }]
    }
}

struct Target {
    zfs: FakeZfs,
    engine: Arc<Engine>,
    session: EngineSession,
    dir: tempfile::TempDir,
    all: Vec<(SnapshotTag, Guid)>,
}

fn ds() -> DatasetName {
    "tank/in/db".parse().unwrap()
}

/// A target of job A with five snapshots of its prefix, the newest of which it holds.
async fn target() -> Target {
    let (zfs, dir) = (FakeZfs::new(1), tempfile::tempdir().unwrap());
    let engine = bare::engine(&zfs, dir.path());
    zfs.create(&ds());
    for hour in 0..5 {
        let tag = format!("db_2026-11-26T0{hour}:00:00Z").parse().unwrap();
        zfs.snapshot(&SnapshotRequest { root: ds(), tag, recursive: false, except: Vec::new() }).await.unwrap();
    }
    let listing = zfs.list(&ds(), Depth::Root).await.unwrap();
    let all: Vec<_> = listing.datasets[0].snapshots.iter().map(|s| (s.tag.clone(), s.guid)).collect();
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    zfs.set(&ds(), &[set(JOB, JOB_A), set(HELD, all[4].0.as_str())]).await.unwrap();
    zfs.hold(&format!("zmigrate:{JOB_A}"), &[ds().snapshot(&all[4].0).unwrap()]).await.unwrap();
    let session = bare::session(&engine, "me");
    session.handle(Request::Lock { target: ds() }).await.unwrap();
    Target { zfs, engine, session, dir, all }
}

impl Target {
    fn request(&self, places: &[usize]) -> PruneRequest {
        PruneRequest {
            dataset: ds(),
            job: JOB_A.parse().unwrap(),
            prefix: "db".into(),
            snapshots: places.iter().map(|at| self.all[*at].clone()).collect(),
            dry_run: false,
        }
    }

    /// Why each stays; empty for what is gone.
    async fn prune(&self, request: PruneRequest) -> Result<Vec<String>, Failure> {
        match self.session.handle(Request::Prune(request)).await? {
            Reply::Pruned(pruned) => Ok(pruned.into_iter().map(|p| p.spared.unwrap_or_default()).collect()),
            other => panic!("{other:?}"),
        }
    }

    /// Hours of the snapshots that are there.
    async fn left(&self) -> Vec<usize> {
        let listing = self.zfs.list(&ds(), Depth::Root).await.unwrap();
        let place = |guid| self.all.iter().position(|(_, g)| *g == guid);
        listing.datasets[0].snapshots.iter().filter_map(|s| place(s.guid)).collect()
    }
}

#[tokio::test]
async fn what_was_asked_for_goes_and_is_in_the_journal_first() {
    let target = target().await;
    assert_eq!(target.prune(target.request(&[0, 2])).await.unwrap(), ["", ""]);
    assert_eq!(target.left().await, [1, 3, 4]);
    // Again: what is gone is gone.
    assert_eq!(target.prune(target.request(&[0, 2])).await.unwrap(), ["", ""]);
    let journal = std::fs::read_to_string(target.dir.path().join("journal.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let phases: Vec<_> = lines.iter().map(|l| (l["phase"].as_str().unwrap(), l["what"].as_str().unwrap())).collect();
    assert_eq!(phases, [("intent", "prune"), ("done", "prune"), ("intent", "prune"), ("done", "prune")]);
    assert_eq!(lines[0]["snapshot"], "tank/in/db@db_2026-11-26T00:00:00Z");
}

#[tokio::test]
async fn a_dry_run_says_the_same_and_changes_nothing() {
    let target = target().await;
    let request = PruneRequest { dry_run: true, ..target.request(&[0, 4]) };
    let said = target.prune(request.clone()).await.unwrap();
    assert!(said[0].is_empty() && !said[1].is_empty(), "{said:?}");
    // A run has the target: who only looks neither needs it nor waits.
    let looks = bare::session(&target.engine, "you");
    let Reply::Pruned(pruned) = looks.handle(Request::Prune(request)).await.unwrap() else { panic!() };
    assert_eq!(pruned.into_iter().map(|p| p.spared.unwrap_or_default()).collect::<Vec<_>>(), said);
    assert!(!looks.holds_locks());
    assert_eq!(target.left().await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn only_a_target_of_this_job_under_the_lock_of_its_session() {
    let target = target().await;
    let other = PruneRequest { job: JOB_B.parse().unwrap(), ..target.request(&[0]) };
    assert_eq!(target.prune(other).await.unwrap_err().class, FailureClass::Refused);
    let stranger = bare::session(&target.engine, "you");
    let failure = stranger.handle(Request::Prune(target.request(&[0]))).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Protocol);
    target.zfs.inherit(&ds(), JOB).await.unwrap();
    assert_eq!(target.prune(target.request(&[0])).await.unwrap_err().class, FailureClass::Refused);
    assert_eq!(target.left().await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_base_the_newest_and_what_has_another_name_stay_whoever_asks() {
    let mut target = target().await;
    let said = target.prune(target.request(&[4])).await.unwrap();
    assert!(said[0].starts_with("is held"), "{said:?}");
    let tag: SnapshotTag = "by-hand".parse().unwrap();
    let request = SnapshotRequest { root: ds(), tag: tag.clone(), recursive: false, except: Vec::new() };
    target.zfs.snapshot(&request).await.unwrap();
    let listing = target.zfs.list(&ds(), Depth::Root).await.unwrap();
    target.all.push((tag, listing.datasets[0].newest().unwrap().guid));
    assert_eq!(target.prune(target.request(&[5])).await.unwrap(), ["was not made by this job"]);
    let request = PruneRequest { prefix: "by-hand".into(), ..target.request(&[5]) };
    assert_eq!(target.prune(request).await.unwrap(), ["was not made by this job"]);
    let request = PruneRequest { prefix: "a/b".into(), ..target.request(&[0]) };
    assert_eq!(target.prune(request).await.unwrap_err().class, FailureClass::Protocol);
    assert_eq!(target.left().await, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_snapshot_of_that_name_and_another_guid_stays() {
    let target = target().await;
    let request = PruneRequest { snapshots: vec![(target.all[0].0.clone(), Guid(7))], ..target.request(&[]) };
    assert_eq!(target.prune(request).await.unwrap(), ["is another snapshot of that name by now"]);
    assert_eq!(target.left().await, [0, 1, 2, 3, 4]);
}

/// In a chain the middle spares what the end lacks: by its bookmarks, and by what its own jobs saw.
#[tokio::test]
async fn what_the_next_target_lacks_stays() {
    let target = target().await;
    let (tag, guid) = &target.all[2];
    let bookmark = format!("{}#zmigrate:{JOB_B}:{guid}", ds()).parse().unwrap();
    target.zfs.bookmark(&ds().snapshot(tag).unwrap(), &bookmark).await.unwrap();
    let said = target.prune(target.request(&[1, 2, 3])).await.unwrap();
    assert!(said[0].is_empty() && said[1].starts_with("is the base of") && said[2].contains("not yet replicated"));
    assert_eq!(target.left().await, [0, 2, 3, 4]);
    target.zfs.destroy_bookmark(&bookmark).await.unwrap();
    target.engine.set_needs(Arc::new(SendsOn(Some(*guid))));
    let said = target.prune(target.request(&[2, 3])).await.unwrap();
    assert!(said.iter().all(|why| why.contains("job on")), "{said:?}");
    target.engine.set_needs(Arc::new(SendsOn(None)));
    let said = target.prune(target.request(&[0])).await.unwrap();
    assert!(said[0].contains("is not known"), "{said:?}");
    assert_eq!(target.left().await, [0, 2, 3, 4]);
}

#[tokio::test]
async fn one_that_is_busy_is_spared_and_the_rest_goes_on() {
    let target = target().await;
    let clone: DatasetName = "tank/clone".parse().unwrap();
    target.zfs.clone_snapshot(&ds().snapshot(&target.all[1].0).unwrap(), &clone);
    let said = target.prune(target.request(&[0, 1, 2])).await.unwrap();
    assert_eq!(said, ["", "is held, cloned or in use", ""]);
    assert_eq!(target.left().await, [1, 3, 4]);
}

#[tokio::test]
async fn nothing_is_destroyed_that_cannot_be_written_down() {
    let target = target().await;
    std::fs::create_dir(target.dir.path().join("journal.jsonl")).unwrap();
    assert!(target.prune(target.request(&[0])).await.is_err());
    assert_eq!(target.left().await, [0, 1, 2, 3, 4]);
    // Nor while the state is not known.
    target.zfs.fail_at(Op::List, Fault::Refuse(ZfsErrorKind::Io));
    assert!(target.prune(target.request(&[0])).await.is_err());
}
