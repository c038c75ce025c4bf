//! Pruning of a job of this host alone: one side, and no peer to ask.
//!
//! Invariant: it spares what a push spares: what targets of any job need, as far as bookmarks, holds and the jobs of this host
//! tell; and of what a cutover moved away, or others write to below the dataset, nothing goes.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{prune::PruneHere, side::Side, stopped, upkeep::Upkeep};
use crate::{
    jobs::{
        names::{Prefix, renamed},
        retention::Retention,
    },
    plan::ExcludePattern,
    session::{
        alone::alone,
        engine::{Engine, EngineSession},
    },
    types::{
        DatasetName, Failure, FailureClass, JobName, SnapshotTag,
        listing::{DatasetInfo, JOB},
        transfer::Depth,
    },
    wire::message::{Request, RoleOfDataset},
};

/// What is looked after.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The job.
    pub name: JobName,
    /// The dataset.
    pub dataset: DatasetName,
    /// All below as well.
    pub recursive: bool,
    /// Left out, each with all below it.
    pub exclude: Vec<ExcludePattern>,
    /// Which snapshots are the job's.
    pub prefix: Prefix,
    /// Which of them stay; `None` for all.
    pub keep: Option<Retention>,
    /// The snapshot that this run took, if it took one.
    pub taken: Option<SnapshotTag>,
    /// By which ages are reckoned.
    pub now: Timestamp,
    /// Destroy nothing.
    pub dry_run: bool,
}

/// Looks at this host's dataset, and prunes it.
///
/// # Errors
/// When it is not there or cannot be looked at, or `stop` is set. What could not be destroyed is in the answer.
pub async fn keep_up_here(
    engine: &Arc<Engine>,
    stop: &CancellationToken,
    options: &LocalOptions,
) -> Result<Upkeep, Failure> {
    let holder = format!("a job on this host (pid {})", std::process::id());
    let session = Arc::new(alone(engine, holder));
    let result = tokio::select! {
        biased;
        result = prune(&session, options) => result,
        () = stop.cancelled() => Err(stopped()),
    };
    session.shut_down().await;
    result
}

async fn prune(session: &Arc<EngineSession>, options: &LocalOptions) -> Result<Upkeep, Failure> {
    let mut found = Upkeep::default();
    let Some(rules) = &options.keep else { return Ok(found) };
    let depth = if options.recursive { Depth::Tree } else { Depth::Root };
    let list = Request::List { root: options.dataset.clone(), depth, role: RoleOfDataset::Source };
    let listing = Side::Local(Arc::clone(session)).list(list).await?.listing;
    let Some(root) = listing.get(&options.dataset) else {
        let text = format!("there is no dataset {} on this host", options.dataset);
        return Err(Failure::new(FailureClass::Zfs, text).hint("it may have been renamed, or its pool is not imported"));
    };
    let takes_part = |name: &DatasetName| {
        let below = name.relative_to(&options.dataset);
        below.is_some_and(|below| !options.exclude.iter().any(|pattern| pattern.excludes(below)))
    };
    found.notes.extend(stranded(root, &options.prefix, &options.name));
    let mut here = PruneHere {
        session,
        root: &options.dataset,
        root_job: root.local(JOB),
        prefix: &options.prefix,
        rules,
        dry_run: options.dry_run,
        side: "local",
        // It writes no target of its own, so each that has a mark is another one.
        own: Some(""),
        kept_for: Vec::new(),
        of_others: Vec::new(),
    };
    for info in listing.datasets.iter().filter(|info| takes_part(&info.name)) {
        here.dataset(info, &session.needs_of(&info.name), judged_at(info, options), &mut found).await?;
    }
    here.conclude(&mut found);
    Ok(found)
}

/// By which time ages are reckoned: no later than that of the job's snapshot before the one of this run, because a clock that jumps ahead
/// for a moment must not make all snapshots old. What may go a little later goes with the next run.
fn judged_at(info: &DatasetInfo, options: &LocalOptions) -> Timestamp {
    let mut before = info.snapshots.iter().rev().filter(|snapshot| options.taken.as_ref() != Some(&snapshot.tag));
    let newest = before.find_map(|snapshot| options.prefix.time_of(&snapshot.tag));
    newest.map_or(options.now, |newest| newest.min(options.now))
}

/// What is said where a job meets snapshots that look like its own but for their prefix, as after it was renamed.
pub(super) fn stranded(root: &DatasetInfo, prefix: &Prefix, name: &JobName) -> Option<String> {
    let tags: Vec<&SnapshotTag> = root.snapshots.iter().map(|snapshot| &snapshot.tag).collect();
    let (old, n) = renamed(prefix, &tags)?;
    Some(format!(
        "{n} snapshots of {} are called {old}_…, and job {name} has the prefix {prefix}: its rules prune none of them; if it was \
         renamed, set prefix = \"{old}\" in [job.{name}]",
        root.name
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        fake::FakeZfs,
        jobs::spare::Need,
        port::{
            needs::Needs,
            zfs::{SnapshotRequest, Zfs},
        },
        session::bare,
        types::{Guid, listing::FENCE},
    };

    struct Host {
        zfs: FakeZfs,
        engine: Arc<Engine>,
        _dir: tempfile::TempDir,
    }

    /// A job of this host that sends the dataset of that name, and has got so far.
    struct Sends(DatasetName, Mutex<Option<Guid>>);

    impl Needs for Sends {
        fn of(&self, dataset: &DatasetName, _: Option<&JobName>) -> Vec<Need> {
            let has = *self.1.lock().unwrap();
            if *dataset == self.0 { vec![Need { by: "job on".into(), has }] } else { Vec::new() }
        }
    }

    fn ds(name: &str) -> DatasetName {
        name.parse().unwrap()
    }

    fn hour(hour: usize) -> SnapshotTag {
        format!("db_2026-11-26T0{hour}:00:00Z").parse().unwrap()
    }

    /// A tree with five snapshots of the prefix on each dataset, and one by hand.
    async fn host() -> Host {
        let (zfs, dir) = (FakeZfs::new(1), tempfile::tempdir().unwrap());
        let engine = bare::engine(&zfs, dir.path());
        zfs.create(&ds("tank/db"));
        zfs.create(&ds("tank/db/a"));
        let tags = (0..5).map(hour).chain(["by-hand".parse().unwrap()]);
        for tag in tags {
            let root = ds("tank/db");
            zfs.snapshot(&SnapshotRequest { root, tag, recursive: true, except: Vec::new() }).await.unwrap();
        }
        Host { zfs, engine, _dir: dir }
    }

    fn options(keep: Option<&str>) -> LocalOptions {
        LocalOptions {
            name: "db".parse().unwrap(),
            dataset: ds("tank/db"),
            recursive: true,
            exclude: Vec::new(),
            prefix: "db".parse().unwrap(),
            keep: keep.map(|rules| rules.parse().unwrap()),
            taken: None,
            now: "2026-11-26T12:00:00Z".parse().unwrap(),
            dry_run: false,
        }
    }

    impl Host {
        async fn keep_up(&self, options: &LocalOptions) -> Result<Upkeep, Failure> {
            keep_up_here(&self.engine, &CancellationToken::new(), options).await
        }

        /// Hours of the snapshots that are there; 9 stands for the one by hand.
        async fn left(&self, name: &str) -> Vec<usize> {
            let listing = self.zfs.list(&ds(name), Depth::Root).await.unwrap();
            let place = |tag: &SnapshotTag| (0..5).find(|at| hour(*at) == *tag).unwrap_or(9);
            listing.datasets[0].snapshots.iter().map(|s| place(&s.tag)).collect()
        }

        async fn guid(&self, name: &str, at: usize) -> Guid {
            let listing = self.zfs.list(&ds(name), Depth::Root).await.unwrap();
            listing.datasets[0].snapshots.iter().find(|s| s.tag == hour(at)).unwrap().guid
        }
    }

    #[tokio::test]
    async fn it_prunes_by_its_rules_without_any_peer() {
        let host = host().await;
        let said = host.keep_up(&LocalOptions { dry_run: true, ..options(Some("last 2")) }).await.unwrap();
        assert_eq!((said.destroyed(), host.left("tank/db").await), (6, vec![0, 1, 2, 3, 4, 9]));
        assert!(said.pruned.iter().all(|report| report.side == "local" && report.snapshots.len() == 6));
        let found = host.keep_up(&options(Some("last 2"))).await.unwrap();
        assert_eq!((found.destroyed(), found.failure, found.notes), (6, None, Vec::new()));
        assert_eq!((host.left("tank/db").await, host.left("tank/db/a").await), (vec![3, 4, 9], vec![3, 4, 9]));
        assert_eq!(host.keep_up(&options(None)).await.unwrap().pruned.len(), 0, "without rules all stays");
    }

    #[tokio::test]
    async fn it_spares_what_a_push_spares() {
        let host = host().await;
        // Somebody pulls the root and got the one of two o'clock; another one was cut off at one o'clock, of the child.
        let bookmark = "tank/db#zmigrate:aaaaaaaa11111111:7".parse().unwrap();
        host.zfs.bookmark(&ds("tank/db").snapshot(&hour(2)).unwrap(), &bookmark).await.unwrap();
        let held = ds("tank/db/a").snapshot(&hour(1)).unwrap();
        host.zfs.hold("zmigrate:bbbbbbbb22222222", &[held]).await.unwrap();
        let found = host.keep_up(&options(Some("last 1"))).await.unwrap();
        assert_eq!((host.left("tank/db").await, host.left("tank/db/a").await), (vec![2, 3, 4, 9], vec![1, 2, 3, 4, 9]));
        let why: Vec<_> = found.pruned[0].snapshots.iter().filter(|s| s.keep).map(|s| s.why.as_str()).collect();
        assert!(why[0].contains("is the base of the target of aaaaaaaa11111111"), "{why:?}");
    }

    #[tokio::test]
    async fn it_spares_what_a_push_of_this_host_lacks_and_what_was_left_out() {
        let host = host().await;
        let sends = Arc::new(Sends(ds("tank/db"), Mutex::new(None)));
        host.engine.set_needs(Arc::clone(&sends) as _);
        let options = LocalOptions { exclude: vec!["a".parse().unwrap()], ..options(Some("last 1")) };
        host.keep_up(&options).await.unwrap();
        assert_eq!(host.left("tank/db").await, [0, 1, 2, 3, 4, 9], "nobody knows what that target has");
        *sends.1.lock().unwrap() = Some(host.guid("tank/db", 3).await);
        host.keep_up(&options).await.unwrap();
        assert_eq!((host.left("tank/db").await, host.left("tank/db/a").await.len()), (vec![3, 4, 9], 6));
    }

    #[tokio::test]
    async fn what_a_cutover_moved_away_and_what_is_not_there() {
        let host = host().await;
        host.zfs.set(&ds("tank/db/a"), &[(FENCE.to_owned(), "00000001:1".to_owned())]).await.unwrap();
        let found = host.keep_up(&options(Some("last 1"))).await.unwrap();
        assert_eq!((host.left("tank/db").await, host.left("tank/db/a").await.len()), (vec![4, 9], 6));
        assert!(found.notes[0].starts_with("tank/db/a was moved away"), "{:?}", found.notes);
        let gone = LocalOptions { dataset: ds("tank/no"), ..options(Some("last 1")) };
        let failure = host.keep_up(&gone).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Zfs, "{failure}");
    }

    /// That is pruned by whoever writes it, by other rules and under its lock.
    #[tokio::test]
    async fn the_copy_of_another_job_below_is_left_alone_and_one_that_is_named_is_not() {
        let host = host().await;
        let properties =
            [(JOB, "cccccccc33333333"), ("readonly", "on")].map(|(name, value)| (name.into(), value.into()));
        host.zfs.set(&ds("tank/db/a"), &properties).await.unwrap();
        let found = host.keep_up(&options(Some("last 1"))).await.unwrap();
        assert_eq!((host.left("tank/db").await, host.left("tank/db/a").await), (vec![4, 9], vec![0, 1, 2, 3, 4, 9]));
        assert_eq!(found.notes, ["nothing of tank/db/a is pruned: another job or host writes there"]);
        // Where it has nothing that the rules would judge, nothing is said.
        let other = LocalOptions { prefix: "other".parse().unwrap(), ..options(Some("last 1")) };
        let notes = host.keep_up(&other).await.unwrap().notes;
        assert!(!notes.iter().any(|note| note.contains("writes there")), "{notes:?}");
        // What is written there by one job is meant as a whole.
        host.zfs.set(&ds("tank/db"), &properties).await.unwrap();
        assert_eq!(host.keep_up(&options(Some("last 1"))).await.unwrap().destroyed(), 4);
        assert_eq!(host.left("tank/db/a").await, [4, 9]);
    }

    #[tokio::test]
    async fn a_clock_that_jumps_ahead_makes_no_snapshot_old() {
        let host = host().await;
        let ahead = "2030-11-26T04:30:00Z".parse().unwrap();
        let tag: SnapshotTag = "db_2030-11-26T04:30:00Z".parse().unwrap();
        let root = ds("tank/db");
        let request = SnapshotRequest { root, tag: tag.clone(), recursive: true, except: Vec::new() };
        host.zfs.snapshot(&request).await.unwrap();
        let run = LocalOptions { now: ahead, taken: Some(tag), ..options(Some("all within 2h")) };
        host.keep_up(&run).await.unwrap();
        // By the snapshot of four o'clock, which is the newest before this run's; 9 is that of 2030, too.
        assert_eq!(host.left("tank/db").await, [2, 3, 4, 9, 9]);
        // A clock that is right is not held back by a snapshot of the future.
        let right = LocalOptions { now: "2026-11-26T05:30:00Z".parse().unwrap(), ..options(Some("all within 2h")) };
        host.keep_up(&right).await.unwrap();
        assert_eq!(host.left("tank/db").await, [4, 9, 9]);
    }

    #[tokio::test]
    async fn snapshots_of_a_former_name_are_told() {
        let host = host().await;
        let found = host.keep_up(&LocalOptions { prefix: "new".parse().unwrap(), ..options(Some("last 1")) }).await;
        let notes = found.unwrap().notes;
        assert!(notes.len() == 1 && notes[0].contains("5 snapshots of tank/db are called db_"), "{notes:?}");
        assert!(notes[0].contains("set prefix = \"db\" in [job.db]"), "{notes:?}");
    }
}
