//! Jobs that run for months, with the clock passed in: two targets of one dataset, of which one is away for three of them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use zmigrate::{
    config::Config,
    driver::{Board, Direction, RunContext, RunOptions, UpkeepOptions, run, upkeep},
    fake::FakeZfs,
    jobs::{
        Job,
        lag::{Lag, recount},
    },
    port::zfs::{Depth, SnapshotRequest, Zfs},
    runner::files::{JobFiles, JobNeeds, JobState, LastRun, place},
    session::{client::ClientOptions, engine::Engine},
    types::{Access, DatasetName},
};

use crate::{
    clock::run_alone,
    wire::{Daemon, Grants, SimLink},
    world::{Host, SOURCE, client_options, ds, limits, peer, run_options, upkeep_options},
};

/// One job takes the snapshots and prunes the source, the other passes them on.
const JOBS: &str = r#"
    [job.near]
    direction = "push"
    dataset = "src/a"
    recursive = true
    peer = "near"
    target = "dst/in/near"
    every = "12h"
    prefix = "db"
    keep = "4x12h, 7x1d"
    keep_peer = "10x1d"
    [job.far]
    direction = "push"
    dataset = "src/a"
    recursive = true
    peer = "far"
    target = "dst/in/far"
    every = "12h"
    prefix = "db"
    snapshot = false
    keep_peer = "10x1d"
"#;
/// Hours between two runs.
const EVERY: i64 = 12;
/// Hours from the start: the far target goes away.
const AWAY: i64 = 10 * 24;
/// It comes back.
const BACK: i64 = 100 * 24;
/// All is over.
const END: i64 = 115 * 24;

struct Target {
    root: DatasetName,
    host: Host,
    link: Arc<SimLink>,
    job: Job,
    state: JobState,
}

impl Target {
    fn new(name: &str, zfs: FakeZfs, config: &Config) -> Target {
        let host = Host::in_one_thread(zfs);
        host.zfs.create(&ds("dst/in"));
        let grants = Grants([(peer("near"), vec![(Access::Push, ds("dst/in"))])].into());
        let daemon = Daemon::new(host.engine(), grants, limits());
        let link = SimLink::new(&daemon, &peer("near"), &peer("far"));
        let job = config.jobs[&name.parse().unwrap()].clone();
        let state = JobState { source: SOURCE.to_owned(), target: place(&job), ..JobState::default() };
        Target { root: ds(&format!("dst/in/{name}")), host, link, job, state }
    }

    /// A run of the job at that time, as `runner` makes it: its exit code.
    async fn replicate(&mut self, engine: &Arc<Engine>, files: &JobFiles, now: Timestamp) -> u8 {
        let context = RunContext {
            link: Arc::clone(&self.link) as _,
            engine: Arc::clone(engine),
            client: ClientOptions { connect_for: Duration::ZERO, ..client_options() },
            identity: peer("near"),
            board: Arc::new(Board::default()),
            stop: CancellationToken::new(),
            limit: None,
        };
        let options =
            RunOptions { target: self.root.clone(), recursive: true, jobs: 1, ..run_options(Direction::Push) };
        let report = run(&context, &options).await;
        if report.exit_code != 0 {
            return report.exit_code;
        }
        let options = UpkeepOptions {
            name: self.job.name.clone(),
            target: self.root.clone(),
            recursive: true,
            prefix: self.job.prefix.clone(),
            keep_source: self.job.keep.clone(),
            keep_target: self.job.keep_peer.clone(),
            now,
            ..upkeep_options(Direction::Push)
        };
        let (job, state) = (&self.job, Mutex::new(&mut self.state));
        let record = |lags: &[Lag]| {
            let mut state = state.lock().unwrap();
            state.lags = lags.to_vec();
            files.save(job, &state)
        };
        let found = upkeep(&context, &options, &record).await.unwrap();
        assert_eq!((found.failure, found.notes), (None, Vec::new()), "{now}");
        0
    }
}

async fn months(make: fn(u64) -> FakeZfs) {
    let (config, dir) = (Config::parse(JOBS, "z").unwrap(), tempfile::tempdir().unwrap());
    let files = JobFiles::new(dir.path());
    let source = Host::in_one_thread(make(1));
    let child = ds(&format!("{SOURCE}/child"));
    source.zfs.create(&ds(SOURCE));
    source.zfs.create(&child);
    let engine = source.engine();
    engine.set_needs(Arc::new(JobNeeds::new(config.jobs.clone(), files.clone())));
    let mut targets = [Target::new("near", make(2), &config), Target::new("far", make(3), &config)];
    let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let mut most = 0;
    for hour in (0..END).step_by(EVERY as usize) {
        let now = start + SignedDuration::from_hours(hour);
        match hour {
            AWAY => targets[1].link.vanish(),
            BACK => targets[1].link.heal(),
            _ => {}
        }
        source.zfs.write(&ds(SOURCE), 7, 0, &hour.to_le_bytes());
        source.zfs.write(&child, 7, 0, &(hour / 72).to_le_bytes());
        let tag = targets[0].job.prefix.tag_at(now).unwrap();
        let request = SnapshotRequest { root: ds(SOURCE), tag, recursive: true, except: Vec::new() };
        source.zfs.snapshot(&request).await.unwrap();
        for (at, target) in targets.iter_mut().enumerate() {
            let last = target.state.last.as_ref().map(|last| last.started);
            assert!(target.job.schedule.is_due(last, start, now, target.job.seed()), "{now}");
            target.state.begin(LastRun { started: now, ended: Some(now), ..LastRun::default() });
            let is_away = at == 1 && (AWAY..BACK).contains(&hour);
            let code = target.replicate(&engine, &files, now).await;
            assert_eq!(code, if is_away { 5 } else { 0 }, "{} at {now}", target.root);
        }
        let here = source.zfs.list(&ds(SOURCE), Depth::Tree).await.unwrap();
        most = most.max(here.datasets[0].snapshots.len());
        for (at, target) in targets.iter_mut().enumerate() {
            // Both datasets, once they were sent; while it is away, all of them since.
            let missed = if at == 1 && (AWAY..BACK).contains(&hour) { (hour - AWAY) / EVERY + 1 } else { 0 };
            let missed = usize::try_from(missed).unwrap();
            assert_eq!(target.state.lags.len(), 2);
            recount(&mut target.state.lags, &here);
            for lag in &target.state.lags {
                let (info, base) = (here.get(&lag.source).unwrap(), lag.common.as_ref().unwrap().guid);
                let place = info.snapshots.iter().position(|s| s.guid == base);
                let place = place.unwrap_or_else(|| panic!("{now}: the base of {} is gone", lag.target));
                assert_eq!(info.snapshots.len() - 1 - place, missed, "{now}: what {} has not got", lag.target);
                assert_eq!(lag.unsent_snapshots, Some(missed), "{now}: {}", lag.target);
            }
        }
    }
    let missed = usize::try_from((BACK - AWAY) / EVERY).unwrap();
    assert!(most > missed, "{most} snapshots while it was away");
    // All is as if it had never been away: both targets have the newest and what it holds, and no more than the rules keep.
    let here = source.zfs.list(&ds(SOURCE), Depth::Tree).await.unwrap();
    for info in &here.datasets {
        assert!(info.snapshots.len() <= 4 + 7 + 1, "{}: {} are left", info.name, info.snapshots.len());
        for target in &targets {
            let copy = target.root.join(info.name.relative_to(&ds(SOURCE)).unwrap()).unwrap();
            let there = target.host.zfs.list(&copy, Depth::Root).await.unwrap();
            assert_eq!(there.datasets[0].newest().unwrap().guid, info.newest().unwrap().guid, "{copy}");
            assert!(there.datasets[0].snapshots.len() <= 10 + 1, "{copy}: {}", there.datasets[0].snapshots.len());
            assert_eq!(target.host.zfs.content(&copy), source.zfs.content(&info.name), "{copy}");
        }
    }
}

#[test]
fn a_target_away_for_three_months_finds_its_base_and_converges() {
    run_alone(months(FakeZfs::new));
}

/// There, holds alone are what keeps a base.
#[test]
fn the_same_without_bookmarks() {
    run_alone(months(FakeZfs::old));
}
