//! What a side does when asked: the one place where requests become ZFS operations, for the local side of a run and
//! for a peer alike.
//!
//! Invariants: nothing is destroyed but by [`Request::Rollback`], [`Request::AbortPartial`] and
//! [`Request::RemovePlaceholder`], each checked here again against what is really there and written to the journal
//! first; a target is only touched under its lock.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::transfer::{Transfer, open_receive, open_send};
use crate::{
    channel::{Channel, RateLimit},
    limits::{MAX_LISTINGS_AT_A_TIME, MAX_LOCKS, MAX_SIZES, MAX_TRANSFERS_IN_ALL},
    port::{
        journal::{Entry, Journal, Phase},
        locks::{LockError, LockGuard, Locks},
        zfs::{Base, Depth, SendSpec, Zfs, ZfsError, ZfsErrorKind, ZfsResult},
    },
    types::{
        DatasetName, Failure, FailureClass, Guid, JobId, SnapshotName,
        listing::{Capabilities, JOB, PLACEHOLDER, PropertySource},
    },
    wire::message::{Listed, Reply, Request, RoleOfDataset},
};

/// What an engine works with; one for each process.
pub struct Engine {
    /// This host's ZFS.
    pub zfs: Arc<dyn Zfs>,
    /// Locks on targets.
    pub locks: Arc<dyn Locks>,
    /// What was destroyed, and on whose behalf.
    pub journal: Arc<dyn Journal>,
    /// Datasets that a listing may hold.
    pub max_datasets: usize,
    /// Transfers of all sessions together: each takes memory, threads and a process.
    transfers: Arc<Semaphore>,
    /// Listings at a time: each may take a hundred megabytes while it is parsed.
    listings: Semaphore,
}

impl Engine {
    /// An engine without sessions.
    pub fn new(zfs: Arc<dyn Zfs>, locks: Arc<dyn Locks>, journal: Arc<dyn Journal>, max_datasets: usize) -> Engine {
        Engine {
            zfs,
            locks,
            journal,
            max_datasets,
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS_IN_ALL)),
            listings: Semaphore::new(MAX_LISTINGS_AT_A_TIME),
        }
    }
}

/// Makes and ends the channels of transfers; the two ends of a session do it differently.
pub trait Channels: Send + Sync {
    /// A new channel of that number.
    ///
    /// # Errors
    /// When there are too many, or the number is in use.
    fn open(&self, number: u32) -> Result<Channel, Failure>;
    /// Lets a channel go.
    fn close(&self, number: u32);
}

/// One session's work: its locks and transfers.
pub struct EngineSession {
    pub(super) engine: Arc<Engine>,
    /// What others are told when they meet our locks.
    holder: String,
    pub(super) channels: Arc<dyn Channels>,
    locks: Mutex<Vec<(DatasetName, Box<dyn LockGuard>)>>,
    transfers: Mutex<HashMap<u32, Arc<Transfer>>>,
    rate: OnceCell<Arc<RateLimit>>,
    /// Set when the session ends: nothing new is begun.
    ending: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl From<ZfsError> for Failure {
    fn from(e: ZfsError) -> Failure {
        use ZfsErrorKind as K;
        let hint = match e.kind {
            K::Diverged => Some("the target changed while the run was planned; run it again, or look at it with -n"),
            // A ZFS without the property `written` says so only now.
            K::DirtyTarget => Some(
                "--rollback throws away what was written on the target since its newest snapshot; or rename the target to keep it",
            ),
            K::NoSpace => {
                Some("free space in the target's pool or raise its quota, then run it again: what has arrived is kept")
            }
            K::Permission => {
                Some("run as root, or see `zfs allow` in the documentation for the permissions that are needed")
            }
            K::NoTool => Some("install ZFS, or set [zfs] command in the configuration"),
            K::Io => Some("look at `zpool status` on that host"),
            K::Busy => Some("something else uses the dataset; run the command again later"),
            K::Ambiguous => Some("the target may hold a stale interrupted receive; look at its receive_resume_token"),
            K::Killed => Some("run the same command again; it goes on where it stopped"),
            _ => None,
        };
        let transient = matches!(e.kind, K::Busy | K::Killed);
        let class = match e.kind {
            K::BadStream => FailureClass::BadStream,
            // A person must decide what the target's own data are worth.
            K::Diverged | K::DirtyTarget => FailureClass::Refused,
            _ => FailureClass::Zfs,
        };
        let mut failure = Failure::new(class, &e);
        failure.hint = hint.map(str::to_owned);
        failure.transient = transient;
        failure.exists = e.kind == K::Exists;
        // A broken pipe or an early end only says that the other end of the stream failed.
        failure.consequence = matches!(e.kind, K::Transport | K::Stopped);
        failure
    }
}

impl From<LockError> for Failure {
    fn from(e: LockError) -> Failure {
        let class = match e {
            LockError::Held { .. } => FailureClass::Locked,
            LockError::Failed { .. } => FailureClass::Usage,
        };
        Failure::new(class, e)
    }
}

fn refused(text: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Refused, text)
}

/// The tag of this job's holds.
pub fn hold_tag(job: &JobId) -> String {
    format!("zmigrate:{job}")
}

/// The bookmark that this job keeps of a snapshot.
///
/// # Errors
/// When the dataset's name leaves no room for it.
pub fn bookmark_name(
    snapshot: &SnapshotName,
    guid: Guid,
    job: &JobId,
) -> Result<crate::types::BookmarkName, crate::types::NameError> {
    format!("{}#zmigrate:{job}:{guid}", snapshot.dataset()).parse()
}

impl EngineSession {
    /// A session without locks or transfers. `holder` is what other runs are told.
    pub fn new(engine: Arc<Engine>, holder: String, channels: Arc<dyn Channels>) -> EngineSession {
        EngineSession {
            engine,
            holder,
            channels,
            locks: Mutex::default(),
            transfers: Mutex::default(),
            rate: OnceCell::new(),
            ending: AtomicBool::new(false),
        }
    }

    /// A session of the same engine without locks or transfers, for work that goes on by itself.
    pub(super) fn worker(&self) -> EngineSession {
        EngineSession::new(Arc::clone(&self.engine), self.holder.clone(), Arc::clone(&self.channels))
    }

    fn zfs(&self) -> &dyn Zfs {
        &*self.engine.zfs
    }

    /// Does what was asked. Whoever calls has checked that it is granted.
    ///
    /// # Errors
    /// What went wrong, with a hint.
    pub async fn handle(&self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::List { root, depth, role } => self.list(&root, depth, role).await,
            Request::Lock { target } => self.lock_target(target),
            Request::Snapshot(request) => {
                self.zfs().snapshot(&request).await?;
                Ok(Reply::Done)
            }
            Request::CreatePlaceholder { dataset } => self.create_placeholder(&dataset).await,
            Request::RemovePlaceholder { dataset } => self.remove_placeholder(&dataset).await,
            Request::Rollback { to, to_guid, destroys } => self.rollback(&to, to_guid, &destroys).await,
            Request::AbortPartial { dataset } => self.abort_partial(dataset).await,
            Request::Sizes(specs) => {
                if specs.len() > MAX_SIZES || specs.iter().any(|spec| matches!(spec, SendSpec::Resume { .. })) {
                    // A token names whatever it likes, so no grant covers it.
                    return Err(Failure::new(
                        FailureClass::Protocol,
                        "sizes were asked of too many streams, or of a token",
                    ));
                }
                let mut sizes = Vec::with_capacity(specs.len());
                for spec in &specs {
                    // An estimate that fails is no reason not to show the rest.
                    sizes.push(self.zfs().send_size(spec).await.ok().flatten());
                }
                Ok(Reply::Sizes(sizes))
            }
            Request::OpenReceive { channel, step } => {
                self.must_hold(&step.snapshot.dataset())?;
                match open_receive(self, channel, step).await? {
                    Some(transfer) => {
                        self.keep(channel, transfer)?;
                        Ok(Reply::Done)
                    }
                    None => Ok(Reply::AlreadyReceived),
                }
            }
            Request::OpenSend { channel, step } => {
                let rate = match step.bwlimit_bytes_per_s {
                    Some(rate) => Some(Arc::clone(self.rate.get_or_init(async || RateLimit::new(rate)).await)),
                    None => None,
                };
                let transfer = open_send(self, channel, step, rate).await?;
                self.keep(channel, transfer)?;
                Ok(Reply::Done)
            }
            Request::FinishReceive { channel } => {
                let transferred = self.transfer(channel)?.outcome().await;
                self.forget(channel);
                transferred.map(Reply::Transferred)
            }
            Request::FinishSend { channel } => {
                let transfer = self.transfer(channel)?;
                // The receiver has ended, so the send has nothing more to wait for.
                transfer.receiver_has_ended();
                let transferred = transfer.outcome().await;
                self.forget(channel);
                transferred.map(Reply::Transferred)
            }
            Request::Cancel { channel } => {
                if let Ok(transfer) = self.transfer(channel) {
                    transfer.cancel();
                    let _ = transfer.outcome().await;
                    self.forget(channel);
                }
                Ok(Reply::Done)
            }
            Request::Acknowledge { snapshot, guid, job, superseded } => {
                self.acknowledge(&snapshot, guid, &job, &superseded).await
            }
            Request::Bye => {
                self.shut_down().await;
                Ok(Reply::Done)
            }
        }
    }

    /// From now on nothing new is begun; transfers are told to end.
    pub fn begin_end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        lock(&self.transfers).values().for_each(|transfer| transfer.cancel());
    }

    /// Ends all transfers, waits for them, then lets the locks go. Whoever calls has waited for the requests in work.
    pub async fn shut_down(&self) {
        self.begin_end();
        let transfers: Vec<_> = lock(&self.transfers).values().cloned().collect();
        for transfer in transfers {
            let _ = transfer.outcome().await;
        }
        lock(&self.transfers).clear();
        lock(&self.locks).clear();
    }

    /// True while the session holds any target.
    pub fn holds_locks(&self) -> bool {
        !lock(&self.locks).is_empty()
    }

    /// True if the session holds a target that `target` would meet.
    pub fn holds(&self, target: &DatasetName) -> bool {
        lock(&self.locks).iter().any(|(held, _)| held.is_at_or_below(target) || target.is_at_or_below(held))
    }

    /// # Errors
    /// When the session is ending. To be asked right before something is started.
    pub(super) fn must_go_on(&self) -> Result<(), Failure> {
        if self.ending.load(Ordering::SeqCst) {
            return Err(Failure::new(FailureClass::Interrupted, "the session is ending").consequence());
        }
        Ok(())
    }

    /// A place among the transfers of this process.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn transfer_permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.engine.transfers).try_acquire_owned().map_err(|_| {
            Failure::new(FailureClass::Unreachable, format!("this side has {MAX_TRANSFERS_IN_ALL} transfers in work"))
                .hint("use fewer --jobs, or run it again later")
        })
    }

    /// Resolves when a transfer of this side has failed; never if it ends well.
    pub async fn failed(&self, channel: u32) {
        if let Ok(transfer) = self.transfer(channel)
            && transfer.outcome().await.is_err()
        {
            return;
        }
        std::future::pending().await
    }

    /// How far a transfer has come: raw and wire bytes.
    pub fn progress(&self, channel: u32) -> Option<(u64, u64)> {
        lock(&self.transfers).get(&channel).map(|transfer| transfer.progress())
    }

    fn transfer(&self, channel: u32) -> Result<Arc<Transfer>, Failure> {
        let unknown = || Failure::new(FailureClass::Protocol, format!("there is no transfer on channel {channel}"));
        lock(&self.transfers).get(&channel).cloned().ok_or_else(unknown)
    }

    fn keep(&self, channel: u32, transfer: Transfer) -> Result<(), Failure> {
        let mut transfers = lock(&self.transfers);
        if self.ending.load(Ordering::SeqCst) {
            // It began while the session was ending; nobody will ask for it.
            transfer.cancel();
        }
        transfers.insert(channel, Arc::new(transfer));
        Ok(())
    }

    fn forget(&self, channel: u32) {
        lock(&self.transfers).remove(&channel);
        self.channels.close(channel);
    }

    async fn list(&self, root: &DatasetName, depth: Depth, role: RoleOfDataset) -> Result<Reply, Failure> {
        // The semaphore is never closed.
        let _one_of_few = self.engine.listings.acquire().await;
        let zfs = self.zfs();
        let (listing, capabilities) = tokio::try_join!(zfs.list(root, depth), zfs.capabilities(root.pool()))?;
        let most = self.engine.max_datasets;
        if listing.datasets.len() > most {
            return Err(refused(format!("{root} has more than {most} datasets below it"))
                .hint("replicate parts of it, or raise max_datasets under [limits] there"));
        }
        let ancestors = match role {
            RoleOfDataset::Target => zfs.datasets(&root.ancestors()).await?,
            RoleOfDataset::Source => Vec::new(),
        };
        Ok(Reply::Listed(Box::new(Listed { listing, ancestors, capabilities })))
    }

    fn lock_target(&self, target: DatasetName) -> Result<Reply, Failure> {
        if lock(&self.locks).iter().any(|(held, _)| target.is_at_or_below(held)) {
            return Ok(Reply::Done);
        }
        self.must_go_on()?;
        if lock(&self.locks).len() >= MAX_LOCKS {
            return Err(Failure::new(FailureClass::Protocol, format!("a session may hold {MAX_LOCKS} targets")));
        }
        let guard = self.engine.locks.acquire(&target, &self.holder)?;
        lock(&self.locks).push((target, guard));
        Ok(Reply::Done)
    }

    fn must_hold(&self, dataset: &DatasetName) -> Result<(), Failure> {
        self.must_go_on()?;
        if lock(&self.locks).iter().any(|(held, _)| dataset.is_at_or_below(held)) {
            return Ok(());
        }
        Err(Failure::new(FailureClass::Protocol, format!("{dataset} is not under a lock of this session")))
    }

    async fn create_placeholder(&self, dataset: &DatasetName) -> Result<Reply, Failure> {
        self.must_go_on()?;
        if !self.holds(dataset) {
            return Err(Failure::new(
                FailureClass::Protocol,
                format!("{dataset} has nothing to do with this session's targets"),
            ));
        }
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let properties = [set("canmount", "off"), set("readonly", "on"), set(PLACEHOLDER, "on")];
        match self.zfs().create_filesystem(dataset, &properties).await {
            Ok(()) => Ok(Reply::Done),
            // Somebody else made it, or an earlier try did: a parent is all that is needed.
            Err(e) if e.kind == ZfsErrorKind::Exists => Ok(Reply::Done),
            Err(e) => Err(e.into()),
        }
    }

    async fn remove_placeholder(&self, dataset: &DatasetName) -> Result<Reply, Failure> {
        self.must_hold(dataset)?;
        let listing = self.zfs().list(dataset, Depth::Tree).await?;
        let Some(found) = listing.get(dataset) else { return Ok(Reply::Done) };
        if !found.is_placeholder() || listing.datasets.len() != 1 || found.local("canmount") != Some("off") {
            return Err(refused(format!("{dataset} is no empty placeholder any more, so it is not touched")));
        }
        let entry = Entry::RemovePlaceholder { dataset: dataset.clone() };
        self.journalled(entry, self.zfs().destroy_filesystem(dataset)).await?;
        Ok(Reply::Done)
    }

    async fn rollback(&self, to: &SnapshotName, to_guid: Guid, destroys: &[SnapshotName]) -> Result<Reply, Failure> {
        let dataset = to.dataset();
        self.must_hold(&dataset)?;
        let listing = self.zfs().list(&dataset, Depth::Root).await?;
        let changed = |what: &str| {
            refused(format!("{dataset} changed since the run was planned ({what}); nothing was rolled back"))
        };
        let found = listing.get(&dataset).ok_or_else(|| changed("it is gone"))?;
        let at = found
            .snapshots
            .iter()
            .position(|s| s.guid == to_guid && s.tag == to.tag())
            .ok_or_else(|| changed("the snapshot to go back to is gone"))?;
        for newer in &found.snapshots[at + 1..] {
            if !destroys.iter().any(|d| d.dataset() == dataset && d.tag() == newer.tag) {
                return Err(changed(&format!("it has a new snapshot @{}", newer.tag)));
            }
        }
        let ours = found.local(JOB).and_then(|job| job.parse().ok()).map(|job: JobId| hold_tag(&job));
        let newer: Vec<_> = found.snapshots[at + 1..].iter().filter_map(|s| found.snapshot_name(s).ok()).collect();
        let can_hold = self.capabilities(&dataset).await?.holds;
        if can_hold && !newer.is_empty() {
            // `zfs rollback` would find a hold of somebody else only halfway through, so it is looked for first.
            let held = match self.zfs().holds(&newer).await {
                // Some have holds and cannot list them.
                Err(e) if e.kind == ZfsErrorKind::Unsupported => Vec::new(),
                held => held?,
            };
            if let Some((snapshot, tag)) = held.iter().find(|(_, tag)| Some(tag) != ours.as_ref()) {
                return Err(refused(format!("{snapshot} is held ({tag}), so nothing was rolled back"))
                    .hint(format!("`zfs release {tag} {snapshot}` there, if nobody needs it")));
            }
        }
        let entry = Entry::Rollback { to: to.clone(), destroys: destroys.to_vec() };
        let act = async {
            // What was the newest common snapshot is held by the job itself; the one that will be takes its place.
            if let Some(tag) = ours.filter(|_| can_hold) {
                self.zfs().hold(&tag, std::slice::from_ref(to)).await?;
                if !newer.is_empty() {
                    self.zfs().release(&tag, &newer).await?;
                }
            }
            self.zfs().rollback(to).await
        };
        self.journalled(entry, act).await?;
        Ok(Reply::Done)
    }

    async fn abort_partial(&self, dataset: DatasetName) -> Result<Reply, Failure> {
        self.must_hold(&dataset)?;
        let entry = Entry::AbortPartial { dataset: dataset.clone() };
        self.journalled(entry, self.zfs().abort_receive(&dataset)).await?;
        Ok(Reply::Done)
    }

    /// Writes the intent, acts, writes the outcome.
    async fn journalled(&self, entry: Entry, act: impl Future<Output = ZfsResult<()>>) -> Result<(), Failure> {
        let write = |phase: Phase| {
            self.engine.journal.append(&self.holder, &phase, &entry).map_err(|e| {
                Failure::new(FailureClass::Usage, format!("the journal cannot be written: {e}"))
                    .hint("check state_dir in the configuration; nothing is destroyed before it is written down")
            })
        };
        write(Phase::Intent)?;
        let result = act.await;
        let outcome = write(match &result {
            Ok(()) => Phase::Done,
            Err(e) => Phase::Failed { cause: e.to_string() },
        });
        if let Err(failure) = outcome {
            // It is done, or failed, all the same; the intent stands in the journal.
            tracing::error!("{failure}");
        }
        Ok(result?)
    }

    /// Keeps the snapshot as a base (a bookmark, or a hold where there are none), then lets go of older ones.
    async fn acknowledge(
        &self,
        snapshot: &SnapshotName,
        guid: Guid,
        job: &JobId,
        superseded: &[Base],
    ) -> Result<Reply, Failure> {
        self.must_go_on()?;
        let zfs = self.zfs();
        let capabilities = zfs.capabilities(snapshot.dataset().pool()).await?;
        let tag = hold_tag(job);
        if self.guid_of(snapshot.as_str()).await? != Some(guid) {
            // The target has it, so nothing is lost yet; what was kept before stays.
            return Ok(Reply::DoneWith(vec![format!(
                "{snapshot} was destroyed or renamed while it was sent; the next run needs another common snapshot"
            )]));
        }
        let keeps_bookmark = match bookmark_name(snapshot, guid, job) {
            Ok(bookmark) if capabilities.bookmarks => {
                zfs.bookmark(snapshot, &bookmark).await?;
                true
            }
            // No bookmarks here, or the name is too long for one: the hold stays instead.
            _ => false,
        };
        let mut release: Vec<SnapshotName> = Vec::new();
        if keeps_bookmark {
            release.push(snapshot.clone());
        }
        release.extend(superseded.iter().filter_map(|base| match base {
            Base::Snapshot(old) if old != snapshot => Some(old.clone()),
            _ => None,
        }));
        // Before the bookmarks: one that is left over shows in a listing, and so brings all of this about again.
        if capabilities.holds && !release.is_empty() {
            zfs.release(&tag, &release).await?;
        }
        for base in superseded {
            match base {
                Base::Snapshot(_) => {}
                // Only this job's own bookmarks, and never the one just made.
                Base::Bookmark(old)
                    if old.tag().as_str().starts_with(&format!("zmigrate:{job}:"))
                        && !old.tag().as_str().ends_with(&format!(":{guid}")) =>
                {
                    zfs.destroy_bookmark(old).await?;
                }
                Base::Bookmark(_) => {}
            }
        }
        Ok(Reply::Done)
    }

    /// The GUID of a snapshot or bookmark, `None` if there is none.
    pub(super) async fn guid_of(&self, name: &str) -> Result<Option<Guid>, Failure> {
        match self.zfs().get(name, &["guid"]).await {
            Ok(properties) => Ok(properties.first().and_then(|p| p.value.parse().ok())),
            Err(e) if e.kind == ZfsErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Sets `wanted` on `dataset` where it is not set on it already, and says what had to be set.
    ///
    /// Setting them in the receive has failed silently in several releases, so they are read back with their sources.
    pub(super) async fn ensure(
        &self,
        dataset: &DatasetName,
        wanted: &[(String, String)],
    ) -> Result<Vec<String>, Failure> {
        let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        let missing = |found: &[crate::types::listing::Property]| -> Vec<(String, String)> {
            let is_set = |name: &str, value: &str| {
                found.iter().any(|p| p.name == name && p.value == value && p.source == PropertySource::Local)
            };
            wanted.iter().filter(|(name, value)| !is_set(name, value)).cloned().collect()
        };
        let unset = missing(&self.zfs().get(dataset.as_str(), &names).await?);
        if unset.is_empty() {
            return Ok(Vec::new());
        }
        self.zfs().set(dataset, &unset).await?;
        let still = missing(&self.zfs().get(dataset.as_str(), &names).await?);
        if let Some((name, value)) = still.first() {
            return Err(Failure::new(FailureClass::Zfs, format!("{dataset} does not take {name}={value}")));
        }
        Ok(unset.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    pub(super) async fn capabilities(&self, dataset: &DatasetName) -> Result<Capabilities, Failure> {
        Ok(self.zfs().capabilities(dataset.pool()).await?)
    }
}
