//! Two hosts, and a judge of what a run has done to them that shares nothing with the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use zmigrate::{
    driver::{Board, Direction, Report, RunContext, RunOptions, UpkeepOptions, run},
    fake::{FakeZfs, Op},
    plan::{EncryptionMode, History},
    port::{
        journal::{Entry, Journal, Phase},
        locks::{LockError, LockGuard, Locks},
        zfs::{Depth, SnapshotRequest, Zfs},
    },
    session::{
        client::{Client, ClientOptions},
        engine::Engine,
        registry::RegistryLimits,
    },
    types::{
        Access, DatasetName, Guid, PeerName, SnapshotName,
        listing::{Listing, PropertySource},
        transfer::Streams,
    },
    wire::message::Compression,
};

use crate::wire::{Daemon, Grants, SimLink};

/// All that can fail.
pub const OPS: [Op; 20] = [
    Op::Capabilities,
    Op::List,
    Op::Datasets,
    Op::Snapshot,
    Op::Bookmark,
    Op::DestroyBookmark,
    Op::DestroySnapshot,
    Op::Hold,
    Op::Release,
    Op::Holds,
    Op::Get,
    Op::Set,
    Op::Inherit,
    Op::CreateFilesystem,
    Op::DestroyFilesystem,
    Op::Rollback,
    Op::AbortReceive,
    Op::SendSize,
    Op::Send,
    Op::Receive,
];

/// Of the dataset alone, two at a time.
pub fn run_options(direction: Direction) -> RunOptions {
    RunOptions {
        direction,
        source: ds(SOURCE),
        target: ds(TARGET),
        recursive: false,
        exclude: Vec::new(),
        history: History::All,
        upto: None,
        encryption: EncryptionMode::Default,
        rollback: false,
        enters: None,
        estimates: true,
        snapshot: None,
        dry_run: false,
        jobs: 2,
        compression: Compression::Auto,
        bwlimit_bytes_per_s: None,
    }
}

/// Of the dataset alone, without rules, of the job `db` with that prefix.
pub fn upkeep_options(direction: Direction) -> UpkeepOptions {
    UpkeepOptions {
        name: "db".parse().unwrap(),
        direction,
        source: ds(SOURCE),
        target: ds(TARGET),
        recursive: false,
        exclude: Vec::new(),
        prefix: "db".parse().unwrap(),
        keep_source: None,
        keep_target: None,
        destroy_deleted: None,
        renamed: Default::default(),
        now: "2026-11-26T05:00:00Z".parse().unwrap(),
        dry_run: false,
    }
}

/// Locks of one host, which outlive its daemon.
#[derive(Clone, Default)]
pub struct MemoryLocks(Arc<Mutex<Vec<(DatasetName, String)>>>);

struct Guard(MemoryLocks, DatasetName);

impl LockGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().retain(|(held, _)| *held != self.1);
    }
}

impl MemoryLocks {
    /// True if somebody holds exactly this target.
    pub fn holds(&self, target: &DatasetName) -> bool {
        self.0.lock().unwrap().iter().any(|(held, _)| held == target)
    }
}

impl Locks for MemoryLocks {
    fn acquire(&self, target: &DatasetName, holder: &str) -> Result<Box<dyn LockGuard>, LockError> {
        let mut all = self.0.lock().unwrap();
        if let Some((_, by)) = all.iter().find(|(h, _)| h.is_at_or_below(target) || target.is_at_or_below(h)) {
            return Err(LockError::Held { target: target.clone(), by: by.clone() });
        }
        all.push((target.clone(), holder.to_owned()));
        Ok(Box::new(Guard(self.clone(), target.clone())))
    }
}

/// What was written down before something was destroyed.
#[derive(Clone, Default)]
pub struct MemoryJournal(pub Arc<Mutex<Vec<(Phase, Entry)>>>);

impl Journal for MemoryJournal {
    fn append(&self, _by: &str, phase: &Phase, entry: &Entry) -> std::io::Result<()> {
        self.0.lock().unwrap().push((phase.clone(), entry.clone()));
        Ok(())
    }
}

pub fn ds(name: &str) -> DatasetName {
    name.parse().unwrap()
}

pub fn sn(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

pub fn peer(name: &str) -> PeerName {
    name.parse().unwrap()
}

/// One host.
#[derive(Clone)]
pub struct Host {
    pub zfs: FakeZfs,
    pub locks: MemoryLocks,
    pub journal: MemoryJournal,
    /// Transfers start no threads.
    pub in_one_thread: bool,
}

impl Host {
    pub fn new(zfs: FakeZfs) -> Host {
        Host { zfs, locks: MemoryLocks::default(), journal: MemoryJournal::default(), in_one_thread: false }
    }

    /// One without any threads.
    pub fn in_one_thread(zfs: FakeZfs) -> Host {
        Host { in_one_thread: true, ..Host::new(zfs.in_one_thread()) }
    }

    pub fn engine(&self) -> Arc<Engine> {
        self.engine_for(20_000)
    }

    /// With that limit on the datasets of a listing.
    pub fn engine_for(&self, max_datasets: usize) -> Arc<Engine> {
        let (locks, journal) = (Arc::new(self.locks.clone()), Arc::new(self.journal.clone()));
        let engine = Engine::new(Arc::new(self.zfs.clone()), locks, journal, max_datasets);
        Arc::new(if self.in_one_thread { engine.in_one_thread() } else { engine })
    }
}

pub type Content = BTreeMap<u64, Vec<u8>>;
/// What every snapshot of the source held when it was taken.
pub type Ledger = Arc<Mutex<BTreeMap<Guid, Content>>>;

/// Two hosts; the data go from `src/a` on one to `dst/in/a` on the other.
pub struct World {
    pub direction: Direction,
    pub source: Host,
    pub target: Host,
    pub daemon: Arc<Daemon>,
    pub link: Arc<SimLink>,
    pub ledger: Ledger,
    /// What is on the target and not ours.
    foreign: Vec<SnapshotName>,
}

pub const SOURCE: &str = "src/a";
pub const TARGET: &str = "dst/in/a";

pub fn limits() -> RegistryLimits {
    RegistryLimits {
        sessions_per_identity: 16,
        connections_per_identity: 192,
        window_bytes: 4 << 20,
        memory_per_identity: 32 << 20,
        lost_after: Duration::from_secs(120),
        idle_timeout: Duration::from_secs(10),
    }
}

pub fn client_options() -> ClientOptions {
    ClientOptions {
        window_bytes: 4 << 20,
        connect_for: Duration::from_secs(5),
        lost_after: Duration::from_secs(120),
        idle_timeout: Duration::from_secs(10),
        streams: Streams::Fixed(1),
        host: "near".into(),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.source.zfs.unwatch();
        self.target.zfs.unwatch();
    }
}

impl World {
    pub async fn new(direction: Direction) -> World {
        World::on(direction, FakeZfs::new(1), FakeZfs::new(2)).await
    }

    pub async fn old(direction: Direction) -> World {
        World::on(direction, FakeZfs::old(1), FakeZfs::old(2)).await
    }

    pub async fn on(direction: Direction, source: FakeZfs, target: FakeZfs) -> World {
        World::between(direction, Host::new(source), Host::new(target)).await
    }

    pub async fn between(direction: Direction, source: Host, target: Host) -> World {
        let far = match direction {
            Direction::Push => &target,
            Direction::Pull => &source,
        };
        let grants = vec![(Access::Push, ds("dst/in")), (Access::Pull, ds("src"))];
        let all = Grants([(peer("near"), grants), (peer("stranger"), Vec::new())].into());
        let daemon = Daemon::new(far.engine(), all, limits());
        let link = SimLink::new(&daemon, &peer("near"), &peer("far"));
        let foreign = vec![sn("dst/in/foreign@theirs"), sn("dst/other@theirs")];
        for name in &foreign {
            target.zfs.create(&name.dataset());
            target.zfs.write(&name.dataset(), 7, 0, b"not ours");
            target.zfs.snapshot(&request(name, false)).await.unwrap();
        }
        source.zfs.create(&ds(SOURCE));
        World { direction, source, target, daemon, link, ledger: Ledger::default(), foreign }
    }

    /// Takes a snapshot of the source, and notes what it holds.
    pub async fn snapshot(&mut self, name: &str, recursive: bool) {
        let name = sn(name);
        self.source.zfs.snapshot(&request(&name, recursive)).await.unwrap();
        let listing = self.source.zfs.list(&ds("src"), Depth::Tree).await.unwrap();
        for dataset in &listing.datasets {
            for snapshot in &dataset.snapshots {
                let content = self.source.zfs.snapshot_content(&dataset.snapshot_name(snapshot).unwrap()).unwrap();
                self.ledger.lock().unwrap().entry(snapshot.guid).or_insert(content);
            }
        }
    }

    pub fn options(&self) -> RunOptions {
        run_options(self.direction)
    }

    pub fn recursive(&self) -> RunOptions {
        RunOptions { recursive: true, ..self.options() }
    }

    /// A session of the near host's, without a run.
    pub async fn client(&self) -> Arc<Client> {
        Client::connect(Arc::clone(&self.link) as _, &client_options()).await.unwrap()
    }

    /// What a run on the near host works with.
    pub fn context(&self) -> RunContext {
        let near = match self.direction {
            Direction::Push => &self.source,
            Direction::Pull => &self.target,
        };
        RunContext {
            link: Arc::clone(&self.link) as _,
            engine: near.engine(),
            client: client_options(),
            identity: peer("near"),
            board: Arc::new(Board::default()),
            stop: CancellationToken::new(),
            limit: None,
        }
    }

    pub async fn run(&self, options: &RunOptions) -> Report {
        run(&self.context(), options).await
    }

    /// No more faults anywhere.
    pub fn heal(&self) {
        self.link.heal();
        for host in [&self.source, &self.target] {
            host.zfs.clear_faults();
            host.zfs.release_stalled();
        }
    }

    /// The GUIDs of the target's snapshots. Call it without faults.
    pub async fn guids(&self) -> BTreeSet<Guid> {
        let listing = self.target.zfs.list(&ds(TARGET), Depth::Tree).await.unwrap();
        listing.datasets.iter().flat_map(|d| &d.snapshots).map(|s| s.guid).collect()
    }

    /// Safety: what must be so at every moment, whatever went wrong. `before` is what the target had.
    pub async fn safe(&self, before: &BTreeSet<Guid>) -> Result<(), String> {
        let there = self.target.zfs.list(&ds(TARGET), Depth::Tree).await.unwrap();
        for dataset in &there.datasets {
            for snapshot in &dataset.snapshots {
                let name = dataset.snapshot_name(snapshot).unwrap();
                let has = self.target.zfs.snapshot_content(&name).unwrap();
                match self.ledger.lock().unwrap().get(&snapshot.guid) {
                    None => return Err(format!("{name} was never on the source")),
                    Some(content) if *content != has => return Err(format!("{name} holds something else")),
                    Some(_) => {}
                }
            }
        }
        if let Some(lost) = before.difference(&self.guids().await).next() {
            return Err(format!("the target has lost the snapshot {lost}"));
        }
        for name in &self.foreign {
            if self.target.zfs.snapshot_content(name).is_none_or(|c| c[&7][..8] != *b"not ours") {
                return Err(format!("{name} is gone or changed"));
            }
            if self.target.zfs.content(&name.dataset()).is_none() {
                return Err(format!("{} is gone", name.dataset()));
            }
        }
        Ok(())
    }

    /// Completeness: the target has every newest snapshot of the source, as it is, protected and held.
    pub async fn complete(&self, recursive: bool) -> Result<(), String> {
        let depth = if recursive { Depth::Tree } else { Depth::Root };
        let here = self.source.zfs.list(&ds(SOURCE), depth).await.unwrap();
        let there = self.target.zfs.list(&ds(TARGET), Depth::Tree).await.unwrap();
        for dataset in &here.datasets {
            let Some(newest) = dataset.newest() else { continue };
            let below = dataset.name.relative_to(&ds(SOURCE)).unwrap();
            let target = if below.is_empty() { ds(TARGET) } else { ds(TARGET).join(below).unwrap() };
            let found = there.get(&target).ok_or_else(|| format!("{target} is not there"))?;
            let last = found.newest().ok_or_else(|| format!("{target} has no snapshot"))?;
            if last.guid != newest.guid {
                return Err(format!("{target} is at @{}, and not at @{}", last.tag, newest.tag));
            }
            if self.target.zfs.content(&target).as_ref() != self.ledger.lock().unwrap().get(&newest.guid) {
                return Err(format!("{target} itself holds something else than its newest snapshot"));
            }
            if found.resume_token.is_some() {
                return Err(format!("{target} still has the state of an interrupted receive"));
            }
            protected(&there, &target)?;
            self.bases(&dataset.name, &target, newest.guid).await?;
        }
        Ok(())
    }

    /// The newest common snapshot is held on the target and kept as a base on the source, and nothing else is. Where there
    /// are bookmarks, a hold that an earlier run did not come to release may stay beside them until the next step does it, see
    /// [`World::tidy`].
    async fn bases(&self, source: &DatasetName, target: &DatasetName, newest: Guid) -> Result<(), String> {
        let held = held(&self.target.zfs, target).await;
        if held != BTreeSet::from([newest]) {
            return Err(format!("{target}: held are {held:?}, and not just {newest}"));
        }
        let kept = self.kept(source).await;
        let listing = self.source.zfs.list(source, Depth::Root).await.unwrap();
        let marked = listing.datasets[0].bookmarks.iter().any(|b| b.guid == newest);
        let alone = kept == BTreeSet::from([newest]) || (marked && kept.contains(&newest));
        if alone { Ok(()) } else { Err(format!("{source}: kept are {kept:?}, and not just {newest}")) }
    }

    /// What the source keeps for the next run: bookmarks and holds.
    async fn kept(&self, source: &DatasetName) -> BTreeSet<Guid> {
        let listing = self.source.zfs.list(source, Depth::Root).await.unwrap();
        let marks: BTreeSet<Guid> = listing.datasets[0].bookmarks.iter().map(|b| b.guid).collect();
        &marks | &held(&self.source.zfs, source).await
    }

    /// After one more snapshot of everything and a run, no dataset of the source keeps anything but that snapshot.
    pub async fn tidy(&mut self) -> Result<(), String> {
        self.snapshot(&format!("{SOURCE}@last"), true).await;
        let report = self.run(&self.recursive()).await;
        if report.exit_code != 0 {
            return Err(format!("the last run failed: {report:?}"));
        }
        self.complete(true).await?;
        let here = self.source.zfs.list(&ds(SOURCE), Depth::Tree).await.unwrap();
        for dataset in &here.datasets {
            let kept = self.kept(&dataset.name).await;
            if kept != dataset.newest().map(|s| s.guid).into_iter().collect() {
                return Err(format!("{}: kept are {kept:?}", dataset.name));
            }
        }
        Ok(())
    }
}

async fn held(zfs: &FakeZfs, dataset: &DatasetName) -> BTreeSet<Guid> {
    let listing = zfs.list(dataset, Depth::Root).await.unwrap();
    let info = &listing.datasets[0];
    let names: Vec<_> = info.snapshots.iter().map(|s| info.snapshot_name(s).unwrap()).collect();
    let holds = zfs.holds(&names).await.unwrap();
    holds.iter().filter_map(|(name, _)| Some(info.snapshots.iter().find(|s| s.tag == name.tag())?.guid)).collect()
}

fn protected(there: &Listing, target: &DatasetName) -> Result<(), String> {
    let found = there.get(target).ok_or("not there")?;
    let readonly = found.property("readonly").filter(|p| p.source == PropertySource::Local && p.value == "on");
    readonly.map(drop).ok_or_else(|| format!("{target} is not protected"))
}

fn request(name: &SnapshotName, recursive: bool) -> SnapshotRequest {
    SnapshotRequest { root: name.dataset(), tag: name.tag(), recursive, except: Vec::new() }
}
