use std::sync::Arc;

use super::*;
use crate::{
    adapter::{journal::FileJournal, locks::FileLocks, zfs::ZfsCommand},
    fake::{FakeZfs, Fault, Op},
    inventory::Standing,
    port::{journal::Phase, locks::Locks, zfs::SnapshotRequest},
    types::SnapshotTag,
};

const JOB_A: &str = "aaaaaaaa11111111";
const JOB_B: &str = "bbbbbbbb22222222";

struct Host {
    zfs: FakeZfs,
    dir: tempfile::TempDir,
    engine: Engine,
}

fn host() -> Host {
    let (zfs, dir) = (FakeZfs::new(1), tempfile::tempdir().unwrap());
    let (locks, journal) = (FileLocks::new(dir.path()), FileJournal::new(dir.path()));
    let engine = Engine::new(Arc::new(zfs.clone()), Arc::new(locks), Arc::new(journal), 1000);
    Host { zfs, dir, engine }
}

fn ds(name: &str) -> DatasetName {
    name.parse().unwrap()
}

impl Host {
    async fn snapshot(&self, dataset: &str, tag: &str) -> SnapshotName {
        self.zfs.create(&ds(dataset));
        let tag: SnapshotTag = tag.parse().unwrap();
        let request = SnapshotRequest { root: ds(dataset), tag: tag.clone(), recursive: false, except: Vec::new() };
        self.engine.zfs.snapshot(&request).await.unwrap();
        ds(dataset).snapshot(&tag).unwrap()
    }

    async fn bookmark(&self, snapshot: &SnapshotName, job: &str) -> String {
        let listing = self.engine.zfs.list(&snapshot.dataset(), Depth::Root).await.unwrap();
        let guid = listing.datasets[0].snapshots.iter().find(|s| s.tag == snapshot.tag()).unwrap().guid;
        let name = format!("{}#zmigrate:{job}:{guid}", snapshot.dataset());
        self.engine.zfs.bookmark(snapshot, &name.parse().unwrap()).await.unwrap();
        name
    }

    async fn hold(&self, tag: &str, snapshot: &SnapshotName) {
        self.engine.zfs.hold(tag, std::slice::from_ref(snapshot)).await.unwrap();
    }

    /// A source with a stale and a current bookmark of one job, one of another, and things that are not ours.
    async fn source(&self) -> (String, String, String) {
        let (one, two) = (self.snapshot("tank/db", "one").await, self.snapshot("tank/db", "two").await);
        let (old, new) = (self.bookmark(&one, JOB_A).await, self.bookmark(&two, JOB_A).await);
        let other = self.bookmark(&one, JOB_B).await;
        self.engine.zfs.bookmark(&one, &"tank/db#mine".parse().unwrap()).await.unwrap();
        self.hold("keep", &one).await;
        self.hold(&format!("zmigrate:{JOB_A}"), &one).await;
        (old, new, other)
    }

    /// A target that holds its newest snapshot.
    async fn target(&self) -> SnapshotName {
        let newest = self.snapshot("tank/in/db", "new").await;
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        self.engine.zfs.set(&ds("tank/in/db"), &[set(JOB, JOB_A), set(HELD, "new")]).await.unwrap();
        self.hold(&format!("zmigrate:{JOB_A}"), &newest).await;
        newest
    }

    async fn names(&self) -> Vec<String> {
        survey(&self.engine, None).await.unwrap().items.into_iter().map(|item| item.name).collect()
    }

    fn journal(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("journal.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn of_job(job: &str, scope: Option<&str>) -> Choice {
    Choice::Job { job: job.parse().unwrap(), scope: scope.map(ds) }
}

#[tokio::test]
async fn stale_lets_go_of_what_is_superseded_and_of_nothing_else() {
    let host = host();
    let (old, new, other) = host.source().await;
    host.target().await;
    let done = release(&host.engine, "me", &Choice::Stale { job: None, scope: None }).await.unwrap();
    let gone: Vec<_> = done.items.iter().map(|r| (r.item.name.as_str(), r.item.standing)).collect();
    assert_eq!(gone, [(old.as_str(), Standing::Stale), ("tank/db@one", Standing::Stale)]);
    let left = host.names().await;
    assert_eq!(left, [other, new, "tank/in/db@new".into(), "tank/in/db".into(), "tank/in/db".into()]);
    let one = "tank/db@one".parse().unwrap();
    assert_eq!(host.engine.zfs.holds(&[one]).await.unwrap()[0].1, "keep", "another's hold stays");
    // Again: nothing is stale, and that is no failure.
    let again = release(&host.engine, "me", &Choice::Stale { job: None, scope: None }).await.unwrap();
    assert!(again.items.is_empty());
}

#[tokio::test]
async fn a_job_is_let_go_as_a_whole_and_alone() {
    let host = host();
    let (.., other) = host.source().await;
    host.target().await;
    let done = release(&host.engine, "me", &of_job(JOB_A, None)).await.unwrap();
    assert!(done.items.iter().all(|r| r.error.is_none()));
    assert_eq!(done.items.len(), 6);
    assert_eq!(host.names().await, [other]);
    let listing = host.engine.zfs.list(&ds("tank/db"), Depth::Root).await.unwrap();
    assert!(listing.datasets[0].bookmarks.iter().any(|b| b.tag.as_str() == "mine"));
    assert_eq!(listing.datasets[0].snapshots.len(), 2, "snapshots stay");
    let nothing = release(&host.engine, "me", &of_job(JOB_A, None)).await.unwrap_err();
    assert_eq!(nothing.class, FailureClass::Usage);
}

#[tokio::test]
async fn what_is_let_go_is_written_down_first() {
    let host = host();
    host.source().await;
    host.zfs.fail_at(Op::DestroyBookmark, Fault::Refuse(ZfsErrorKind::Busy));
    let done = release(&host.engine, "me", &Choice::Stale { job: None, scope: None }).await.unwrap();
    assert!(done.items[0].error.is_some() && done.items[1].error.is_none());
    let lines = host.journal();
    let phases: Vec<_> = lines.iter().map(|l| l["phase"].as_str().unwrap().to_owned()).collect();
    assert_eq!(phases, ["intent", "failed", "intent", "done"]);
    assert_eq!((&lines[0]["what"], &lines[0]["kind"]), (&"release_state".into(), &"bookmark".into()));
    // Where the intent cannot be written, nothing is done.
    let before = host.names().await;
    std::fs::remove_file(host.dir.path().join("journal.jsonl")).unwrap();
    std::fs::create_dir(host.dir.path().join("journal.jsonl")).unwrap();
    let engine = Engine::new(
        Arc::clone(&host.engine.zfs),
        Arc::clone(&host.engine.locks),
        Arc::new(FileJournal::new(host.dir.path())),
        1000,
    );
    let failure = release(&engine, "me", &of_job(JOB_A, None)).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Usage, "{failure}");
    assert_eq!(host.names().await, before);
}

/// A journal whose disk is full by the time of the outcome.
struct OnlyIntents;

impl crate::port::journal::Journal for OnlyIntents {
    fn append(&self, _: &str, phase: &Phase, _: &Entry) -> std::io::Result<()> {
        match phase {
            Phase::Intent => Ok(()),
            _ => Err(std::io::ErrorKind::StorageFull.into()),
        }
    }
}

#[tokio::test]
async fn what_was_let_go_is_told_though_the_outcome_cannot_be_written() {
    let host = host();
    let (.., other) = host.source().await;
    let (zfs, locks) = (Arc::clone(&host.engine.zfs), Arc::clone(&host.engine.locks));
    let engine = Engine::new(zfs, locks, Arc::new(OnlyIntents), 1000);
    let done = release(&engine, "me", &of_job(JOB_A, None)).await.unwrap();
    assert!(done.items.len() > 1 && done.items.iter().all(|r| r.error.is_none()));
    assert_eq!(host.names().await, [other]);
}

#[tokio::test]
async fn a_target_at_work_is_left_alone() {
    let host = host();
    host.source().await;
    host.target().await;
    let before = host.names().await;
    let held = FileLocks::new(host.dir.path()).acquire(&ds("tank/in"), "dc1 on db7").unwrap();
    let failure = release(&host.engine, "me", &of_job(JOB_A, None)).await.unwrap_err();
    assert_eq!((failure.class, failure.class.exit_code()), (FailureClass::Locked, 75));
    assert!(failure.message.contains("dc1 on db7"), "{failure}");
    assert_eq!(host.names().await, before);
    assert!(host.journal().is_empty());
    // What is a source's needs no target.
    release(&host.engine, "me", &of_job(JOB_A, Some("tank/db"))).await.unwrap();
    drop(held);
    release(&host.engine, "me", &of_job(JOB_A, None)).await.unwrap();
}

#[tokio::test]
async fn one_thing_goes_by_its_name() {
    let host = host();
    let (old, new, other) = host.source().await;
    let named = |name: &str| Choice::Named { name: name.into(), job: None };
    release(&host.engine, "me", &named(&new)).await.unwrap();
    // The older one is now the newest that is acknowledged.
    let left = survey(&host.engine, None).await.unwrap().items;
    let left: Vec<_> = left.iter().map(|i| (i.name.as_str(), i.standing)).collect();
    assert_eq!(
        left,
        [(old.as_str(), Standing::Base), (other.as_str(), Standing::Base), ("tank/db@one", Standing::Base)]
    );
    assert!(release(&host.engine, "me", &named("tank/db#mine")).await.is_err());
    release(&host.engine, "me", &named("tank/db@one")).await.unwrap();
    assert_eq!(host.names().await, [old, other]);
}

#[tokio::test]
async fn where_holds_cannot_be_listed_those_of_a_job_go_all_the_same() {
    let host = host();
    let newest = host.target().await;
    for _ in 0..3 {
        host.zfs.fail_at(Op::Holds, Fault::Refuse(ZfsErrorKind::Unsupported));
    }
    let inventory = survey(&host.engine, None).await.unwrap();
    assert!(!inventory.holds_listed && inventory.items.iter().any(|i| i.kind == Kind::Hold && !i.seen));
    let done = release(&host.engine, "me", &of_job(JOB_A, None)).await.unwrap();
    assert_eq!(done.unlisted, std::slice::from_ref(&newest));
    assert!(host.engine.zfs.holds(&[newest]).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_number_of_questions_does_not_grow_with_the_tree() {
    let host = host();
    for n in 0..100 {
        host.snapshot(&format!("tank/many/d{n}"), "s").await;
    }
    survey(&host.engine, None).await.unwrap();
    let asked: Vec<u64> = [Op::Pools, Op::List, Op::Holds, Op::Get, Op::Datasets].map(|op| host.zfs.count(op)).into();
    assert_eq!(asked, [1, 1, 1, 0, 0]);
    assert!(survey(&host.engine, Some(&ds("tank/none"))).await.is_err());
    host.zfs.set_health("tank", "SUSPENDED");
    let inventory = survey(&host.engine, None).await.unwrap();
    assert_eq!(inventory.silent_pools, [("tank".to_owned(), "SUSPENDED".to_owned())]);
    let failure = survey(&host.engine, Some(&ds("tank/many"))).await.unwrap_err();
    let said = (failure.class, &*failure.message);
    assert_eq!(said, (FailureClass::Zfs, "pool tank is SUSPENDED and was not asked for tank/many"));
    assert_eq!(host.zfs.count(Op::List), 1 + 1, "a pool that hangs is not asked");
}

#[test]
fn few_locks_cover_many_targets() {
    let lock = |names: &[String]| {
        let names: Vec<DatasetName> = names.iter().map(|name| ds(name)).collect();
        to_lock(names.iter()).iter().map(DatasetName::to_string).collect::<Vec<_>>()
    };
    assert_eq!(lock(&["a/b/c".into(), "a/b".into(), "a/bc".into()]), ["a/b", "a/bc"]);
    let mut many: Vec<String> = (0..50).map(|n| format!("a/in/x/d{n}")).collect();
    many.push("b/y".into());
    assert_eq!(lock(&many), ["a/in/x", "b/y"]);
    many.push("a/out".into());
    assert_eq!(lock(&many), ["a", "b/y"]);
    assert!(lock(&[]).is_empty());
}

/// Programs that answer what `script` says, as the tools of a host.
fn tools(dir: &std::path::Path, script: &str) -> ZfsCommand {
    use std::os::unix::fs::PermissionsExt;
    let program = dir.join("tool");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    ZfsCommand::new(program.clone(), program)
}

/// The clock leaps while nothing but a process is waited for.
#[tokio::test(start_paused = true)]
async fn a_zfs_that_hangs_is_not_waited_for_without_end() {
    let host = host();
    let (tools, dir) = (tools(host.dir.path(), "exec sleep 1000"), host.dir.path());
    let (locks, journal) = (FileLocks::new(dir), FileJournal::new(dir));
    let engine = Engine::new(Arc::new(tools), Arc::new(locks), Arc::new(journal), 1000);
    let failure = survey(&engine, None).await.unwrap_err();
    assert!(failure.message.contains("list the pools: no answer within 20 s"), "{failure:?}");
    assert!(failure.hint.is_some_and(|hint| hint.contains("zpool status")));
}
