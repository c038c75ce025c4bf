use std::sync::Arc;

use super::*;
use crate::{
    fake::FakeZfs,
    jobs::spare::Need,
    port::{
        needs::Needs,
        zfs::{SnapshotRequest, Zfs},
    },
    session::{bare, engine::Engine},
    types::{DatasetName, JobName, listing::HELD},
    wire::message::Request,
};

const JOB_A: &str = "aaaaaaaa11111111";
const JOB_B: &str = "bbbbbbbb22222222";
const DAY_S: u64 = 86_400;

struct SendsOn;

impl Needs for SendsOn {
    fn of(&self, _: &DatasetName, _: Option<&JobName>) -> Vec<Need> {
        vec![Need { by: "job on".into(), has: None }]
    }
}

fn ds(name: &str) -> DatasetName {
    name.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A target `tank/in` of job A with `tank/in/db`, which has two snapshots of the job.
struct Target {
    zfs: FakeZfs,
    engine: Arc<Engine>,
    session: EngineSession,
    dir: tempfile::TempDir,
}

async fn target() -> Target {
    let (zfs, dir) = (FakeZfs::new(1), tempfile::tempdir().unwrap());
    let engine = bare::engine(&zfs, dir.path());
    let session = bare::session(&engine, "me");
    let target = Target { zfs, engine, session, dir };
    for name in ["tank/in", "tank/in/db"] {
        target.zfs.create(&ds(name));
        target.set(name, JOB, JOB_A).await;
        target.set(name, "readonly", "on").await;
    }
    target.zfs.set_mounted(&ds("tank/in/db"), false);
    for hour in 0..2 {
        target.snapshot("tank/in/db", &format!("db_2026-11-26T0{hour}:00:00Z")).await;
    }
    target.set("tank/in/db", HELD, "db_2026-11-26T01:00:00Z").await;
    let held = "tank/in/db@db_2026-11-26T01:00:00Z".parse().unwrap();
    target.zfs.hold(&format!("zmigrate:{JOB_A}"), &[held]).await.unwrap();
    target.session.handle(Request::Lock { target: ds("tank/in") }).await.unwrap();
    target
}

impl Target {
    async fn set(&self, name: &str, property: &str, value: &str) {
        self.zfs.set(&ds(name), &[(property.to_owned(), value.to_owned())]).await.unwrap();
    }

    async fn snapshot(&self, name: &str, tag: &str) {
        let request =
            SnapshotRequest { root: ds(name), tag: tag.parse().unwrap(), recursive: false, except: Vec::new() };
        self.zfs.snapshot(&request).await.unwrap();
    }

    fn request(&self) -> RetireRequest {
        RetireRequest {
            dataset: ds("tank/in/db"),
            job: JOB_A.parse().unwrap(),
            prefix: "db".into(),
            gone: true,
            after_s: 30 * DAY_S,
            dry_run: false,
        }
    }

    async fn ask(&self, request: RetireRequest, now: &str) -> Result<Retired, Failure> {
        match self.session.retire(request, at(now)).await? {
            Reply::Retired(retired) => Ok(retired),
            other => panic!("{other:?}"),
        }
    }

    /// What is said long after it was marked.
    async fn when_due(&self) -> Result<Retired, Failure> {
        self.set("tank/in/db", GONE, "2026-01-01T00:00:00Z 2026-11-24T00:00:00Z").await;
        self.ask(self.request(), "2026-11-26T00:00:00Z").await
    }

    fn mark(&self) -> Option<String> {
        let properties = self.zfs.local_properties(&ds("tank/in/db"));
        let mark = properties.into_iter().find(|(name, _)| name == GONE);
        mark.map(|(_, value)| value.trim_end_matches(" (Local)").to_owned())
    }

    fn is_there(&self) -> bool {
        self.zfs.kind(&ds("tank/in/db")).is_some() && self.zfs.snapshots_below(&ds("tank/in/db")).len() >= 2
    }
}

fn waits(since: &str) -> Retired {
    Retired::Waits { since_unix_s: at(since).as_second() }
}

#[tokio::test]
async fn it_is_marked_waits_and_goes_and_the_journal_says_so_first() {
    let target = target().await;
    let t0 = "2026-10-01T12:00:00Z";
    assert_eq!(target.ask(target.request(), t0).await.unwrap(), waits(t0));
    assert_eq!(target.mark().as_deref(), Some(t0));
    // The mark stands: the time does not begin anew.
    for now in ["2026-10-02T00:00:00Z", "2026-10-31T11:59:59Z"] {
        assert_eq!(target.ask(target.request(), now).await.unwrap(), waits(t0));
    }
    assert_eq!(target.mark().as_deref(), Some(t0));
    // Its time has come: a day later it is looked at once more.
    for now in ["2026-10-31T12:00:00Z", "2026-11-01T11:59:59Z"] {
        assert_eq!(target.ask(target.request(), now).await.unwrap(), waits(t0));
        assert_eq!(target.mark().unwrap(), format!("{t0} 2026-10-31T12:00:00Z"));
    }
    let dry = RetireRequest { dry_run: true, ..target.request() };
    assert_eq!(target.ask(dry.clone(), "2026-11-01T12:00:00Z").await.unwrap(), Retired::Destroyed);
    // Who only looks needs no lock.
    let looks = bare::session(&target.engine, "you").retire(dry, at("2026-11-01T12:00:00Z")).await;
    assert_eq!(looks.unwrap(), Reply::Retired(Retired::Destroyed));
    assert!(target.is_there());
    assert_eq!(target.ask(target.request(), "2026-11-01T12:00:00Z").await.unwrap(), Retired::Destroyed);
    assert_eq!(target.zfs.kind(&ds("tank/in/db")), None);
    assert!(target.zfs.kind(&ds("tank/in")).is_some());
    let journal = std::fs::read_to_string(target.dir.path().join("journal.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let phases: Vec<_> = lines.iter().map(|l| (l["phase"].as_str().unwrap(), l["what"].as_str().unwrap())).collect();
    assert_eq!(phases, [("intent", "retire"), ("done", "retire")]);
    assert_eq!(lines[0]["snapshots"].as_array().unwrap().len(), 2);
    // Again: what is gone is gone.
    assert_eq!(target.ask(target.request(), "2026-11-02T00:00:00Z").await.unwrap(), Retired::Destroyed);
}

#[tokio::test]
async fn what_comes_back_begins_anew() {
    let target = target().await;
    target.ask(target.request(), "2026-10-01T00:00:00Z").await.unwrap();
    let back = RetireRequest { gone: false, ..target.request() };
    assert_eq!(target.ask(back, "2026-10-02T00:00:00Z").await.unwrap(), Retired::Back);
    assert_eq!(target.mark(), None);
    let now = "2026-12-01T00:00:00Z";
    assert_eq!(target.ask(target.request(), now).await.unwrap(), waits(now));
}

/// The clock of this host is a year ahead for an hour, in which a run looks twice.
#[tokio::test]
async fn a_clock_that_jumps_and_is_set_right_destroys_nothing() {
    let target = target().await;
    let t0 = "2026-10-01T00:00:00Z";
    target.ask(target.request(), t0).await.unwrap();
    for ahead in ["2027-10-01T01:00:00Z", "2027-10-01T02:00:00Z"] {
        assert_eq!(target.ask(target.request(), ahead).await.unwrap(), waits(t0));
    }
    // Set right, the time goes on as if nothing had been: what was due in the future is not.
    for now in ["2026-10-01T03:00:00Z", "2026-10-30T00:00:00Z", "2026-10-31T00:00:00Z"] {
        assert_eq!(target.ask(target.request(), now).await.unwrap(), waits(t0));
    }
    assert_eq!(target.ask(target.request(), "2026-11-01T00:00:00Z").await.unwrap(), Retired::Destroyed);
    // First seen while the clock was ahead: anew, once it is right.
    let target = self::target().await;
    target.ask(target.request(), "2027-10-01T00:00:00Z").await.unwrap();
    assert_eq!(target.ask(target.request(), t0).await.unwrap(), waits(t0));
}

#[tokio::test]
async fn a_clock_that_was_set_back_and_a_mark_that_is_none_begin_anew() {
    let target = target().await;
    let now = "2026-11-01T00:00:00Z";
    for mark in ["2027-01-01T00:00:00Z", "on", "-"] {
        target.set("tank/in/db", GONE, mark).await;
        assert_eq!(target.ask(target.request(), now).await.unwrap(), waits(now), "{mark}");
    }
}

/// Whatever the other side asks for.
#[tokio::test]
async fn a_day_is_the_least() {
    let target = target().await;
    let at_once = RetireRequest { after_s: 0, ..target.request() };
    let t0 = "2026-10-01T00:00:00Z";
    target.ask(at_once.clone(), t0).await.unwrap();
    for now in ["2026-10-01T23:59:59Z", "2026-10-02T00:00:00Z", "2026-10-02T23:59:59Z"] {
        assert_eq!(target.ask(at_once.clone(), now).await.unwrap(), waits(t0));
    }
    assert!(target.is_there());
    assert_eq!(target.ask(at_once, "2026-10-03T00:00:00Z").await.unwrap(), Retired::Destroyed);
}

#[tokio::test]
async fn only_below_a_held_root_and_only_the_jobs_own() {
    let target = target().await;
    let root = RetireRequest { dataset: ds("tank/in"), ..target.request() };
    target.set("tank/in", GONE, "2026-01-01T00:00:00Z").await;
    assert_eq!(target.ask(root, "2026-11-26T00:00:00Z").await.unwrap_err().class, FailureClass::Protocol);
    let stranger = bare::session(&target.engine, "you");
    let failure = stranger.handle(Request::Retire(target.request())).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Protocol);
    let other = RetireRequest { job: JOB_B.parse().unwrap(), ..target.request() };
    target.set("tank/in/db", GONE, "2026-01-01T00:00:00Z").await;
    assert_eq!(target.ask(other, "2026-11-26T00:00:00Z").await.unwrap_err().class, FailureClass::Refused);
    target.zfs.inherit(&ds("tank/in/db"), JOB).await.unwrap();
    assert_eq!(target.when_due().await.unwrap_err().class, FailureClass::Refused);
    assert!(target.is_there());
}

/// Each by itself keeps the dataset; without it, it goes.
#[tokio::test]
async fn what_somebody_may_want_stays() {
    async fn stays(target: &Target, part: &str) {
        match target.when_due().await.unwrap() {
            Retired::Stays(why) => assert!(why.contains(part), "{part}: {why}"),
            other => panic!("{part}: {other:?}"),
        }
        assert!(target.is_there(), "{part}");
    }
    let target = target().await;
    target.zfs.create(&ds("tank/in/db/child"));
    stays(&target, "tank/in/db/child is below it").await;
    target.zfs.destroy(&ds("tank/in/db/child"));

    target.snapshot("tank/in/db", "by-hand").await;
    stays(&target, "@by-hand was not made by this job").await;
    target.zfs.destroy_snapshot(&"tank/in/db@by-hand".parse().unwrap()).await.unwrap();

    let snapshot: SnapshotName = "tank/in/db@db_2026-11-26T00:00:00Z".parse().unwrap();
    let bookmark = "tank/in/db#mark".parse().unwrap();
    target.zfs.bookmark(&snapshot, &bookmark).await.unwrap();
    stays(&target, "#mark").await;
    target.zfs.destroy_bookmark(&bookmark).await.unwrap();

    target.zfs.hold("mine", std::slice::from_ref(&snapshot)).await.unwrap();
    stays(&target, "is held (mine)").await;
    target.zfs.release("mine", std::slice::from_ref(&snapshot)).await.unwrap();

    for mark in [SERVING, FENCE] {
        target.set("tank/in/db", mark, "x:1").await;
        stays(&target, mark).await;
        target.zfs.inherit(&ds("tank/in/db"), mark).await.unwrap();
    }

    target.engine.set_needs(Arc::new(SendsOn));
    stays(&target, "job on sends it on").await;
    target.engine.set_needs(Arc::new(crate::port::needs::NoNeeds));

    // Of the newest, so that the older one would be gone if it were not looked for first.
    let clone = ds("tank/clone");
    target.zfs.clone_snapshot(&"tank/in/db@db_2026-11-26T01:00:00Z".parse().unwrap(), &clone);
    stays(&target, "tank/clone is a clone of it").await;
    target.zfs.destroy(&clone);

    target.set("tank/in/db", "readonly", "off").await;
    stays(&target, "not read-only").await;
    assert!(target.zfs.write(&ds("tank/in/db"), 1, 0, b"news"));
    target.set("tank/in/db", "readonly", "on").await;
    stays(&target, "were written to it").await;
    target.zfs.set_mounted(&ds("tank/in/db"), true);
    target.zfs.set_busy(&ds("tank/in/db"), true);
    target.zfs.rollback(&"tank/in/db@db_2026-11-26T01:00:00Z".parse().unwrap()).await.unwrap();
    // Somebody looks into it.
    stays(&target, "it is mounted").await;
    target.zfs.set_busy(&ds("tank/in/db"), false);

    assert_eq!(target.when_due().await.unwrap(), Retired::Destroyed);
}

/// A mark of a time when the job had the key, and a longer time than the one that was found to be over.
#[tokio::test]
async fn a_wish_of_long_ago_begins_its_last_day_anew() {
    let target = target().await;
    target.set("tank/in/db", GONE, "2026-01-01T00:00:00Z 2026-02-01T00:00:00Z").await;
    let now = "2026-11-26T00:00:00Z";
    assert_eq!(target.ask(target.request(), now).await.unwrap(), waits("2026-01-01T00:00:00Z"));
    assert_eq!(target.mark().unwrap(), format!("2026-01-01T00:00:00Z {now}"));
    let longer = RetireRequest { after_s: 365 * DAY_S, ..target.request() };
    assert_eq!(target.ask(longer, "2026-11-28T00:00:00Z").await.unwrap(), waits("2026-01-01T00:00:00Z"));
    assert!(target.is_there());
    assert_eq!(target.ask(target.request(), "2026-11-28T00:00:00Z").await.unwrap(), Retired::Destroyed);
}

/// A run that died between the hold on what it received and the record of that.
#[tokio::test]
async fn every_hold_of_the_job_is_let_go() {
    let target = target().await;
    target.set("tank/in/db", HELD, "db_2026-11-26T00:00:00Z").await;
    let older = "tank/in/db@db_2026-11-26T00:00:00Z".parse().unwrap();
    target.zfs.hold(&format!("zmigrate:{JOB_A}"), &[older]).await.unwrap();
    assert_eq!(target.when_due().await.unwrap(), Retired::Destroyed);
    assert_eq!(target.zfs.kind(&ds("tank/in/db")), None);
}

#[tokio::test]
async fn nothing_is_destroyed_that_cannot_be_written_down() {
    let target = target().await;
    std::fs::create_dir(target.dir.path().join("journal.jsonl")).unwrap();
    assert!(target.when_due().await.is_err());
    assert!(target.is_there());
}
