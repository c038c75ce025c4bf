//! What a side does when asked: the one place where requests become ZFS operations, for the local side of a run and
//! for a peer alike.
//!
//! Invariants: nothing is destroyed but by [`Request::Rollback`], [`Request::AbortPartial`] and
//! [`Request::RemovePlaceholder`], each checked here again against what is really there and written to the journal
//! first; a target is only touched under its lock.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::OnceCell;

use super::{
    channel::{Channel, RateLimit},
    transfer::{Transfer, open_receive, open_send},
};
use crate::{
    limits::MAX_DATASETS,
    port::{
        journal::{Entry, Journal, Phase},
        locks::{LockError, LockGuard, Locks},
        zfs::{Base, Depth, Zfs, ZfsError, ZfsErrorKind, ZfsResult},
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
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl From<ZfsError> for Failure {
    fn from(e: ZfsError) -> Failure {
        use ZfsErrorKind as K;
        let hint = match e.kind {
            K::Diverged | K::DirtyTarget => {
                Some("the target changed while the run was planned; run it again, or look at it with -n")
            }
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
        let class = if matches!(e.kind, K::BadStream) { FailureClass::BadStream } else { FailureClass::Zfs };
        let mut failure = Failure::new(class, &e);
        failure.hint = hint.map(str::to_owned);
        failure.transient = transient;
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

    /// Cancels all transfers, waits for their ends, then lets the locks go.
    pub async fn shut_down(&self) {
        let transfers: Vec<_> = lock(&self.transfers).drain().map(|(_, transfer)| transfer).collect();
        transfers.iter().for_each(|transfer| transfer.cancel());
        for transfer in transfers {
            let _ = transfer.outcome().await;
        }
        lock(&self.locks).clear();
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
        lock(&self.transfers).insert(channel, Arc::new(transfer));
        Ok(())
    }

    fn forget(&self, channel: u32) {
        lock(&self.transfers).remove(&channel);
        self.channels.close(channel);
    }

    async fn list(&self, root: &DatasetName, depth: Depth, role: RoleOfDataset) -> Result<Reply, Failure> {
        let zfs = self.zfs();
        let (listing, capabilities) = tokio::try_join!(zfs.list(root, depth), zfs.capabilities(root.pool()))?;
        if listing.datasets.len() > MAX_DATASETS {
            return Err(refused(format!(
                "{root} has more than {MAX_DATASETS} datasets below it; replicate parts of it"
            )));
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
        let guard = self.engine.locks.acquire(&target, &self.holder)?;
        lock(&self.locks).push((target, guard));
        Ok(Reply::Done)
    }

    fn must_hold(&self, dataset: &DatasetName) -> Result<(), Failure> {
        if lock(&self.locks).iter().any(|(held, _)| dataset.is_at_or_below(held)) {
            return Ok(());
        }
        Err(Failure::new(FailureClass::Protocol, format!("{dataset} is not under a lock of this session")))
    }

    async fn create_placeholder(&self, dataset: &DatasetName) -> Result<Reply, Failure> {
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
        // What was the newest common snapshot is held by the job itself. A hold of anybody else stays, and as `zfs
        // rollback` would find it only halfway through, it is looked for first.
        let ours = found.local(JOB).and_then(|job| job.parse().ok()).map(|job: JobId| hold_tag(&job));
        let newer: Vec<_> = found.snapshots[at + 1..].iter().filter_map(|s| found.snapshot_name(s).ok()).collect();
        let mut held = Vec::new();
        if !newer.is_empty() && self.capabilities(&dataset).await?.holds {
            held = self.zfs().holds(&newer).await?;
        }
        if let Some((snapshot, tag)) = held.iter().find(|(_, tag)| Some(tag) != ours.as_ref()) {
            return Err(refused(format!("{snapshot} is held ({tag}), so nothing was rolled back"))
                .hint(format!("`zfs release {tag} {snapshot}` there, if nobody needs it")));
        }
        let held: Vec<SnapshotName> = held.into_iter().map(|(snapshot, _)| snapshot).collect();
        let entry = Entry::Rollback { to: to.clone(), destroys: destroys.to_vec() };
        let act = async {
            if let Some(tag) = ours.filter(|_| !held.is_empty()) {
                self.zfs().release(&tag, &held).await?;
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
        write(match &result {
            Ok(()) => Phase::Done,
            Err(e) => Phase::Failed { cause: e.to_string() },
        })?;
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
        let zfs = self.zfs();
        let capabilities = zfs.capabilities(snapshot.dataset().pool()).await?;
        let tag = hold_tag(job);
        let keeps_bookmark = capabilities.bookmarks && {
            let bookmark = bookmark_name(snapshot, guid, job).map_err(|e| Failure::new(FailureClass::Usage, e))?;
            match zfs.bookmark(snapshot, &bookmark).await {
                Ok(()) => true,
                // The snapshot itself is gone, renamed or another by now: the target has it, so nothing is lost yet.
                Err(e) if e.kind == ZfsErrorKind::NotFound => {
                    return Ok(Reply::DoneWith(vec![format!(
                        "{snapshot} was destroyed while it was sent; the next run needs another common snapshot"
                    )]));
                }
                Err(e) => return Err(e.into()),
            }
        };
        let mut release: Vec<SnapshotName> = Vec::new();
        if keeps_bookmark {
            release.push(snapshot.clone());
        }
        for base in superseded {
            match base {
                Base::Snapshot(old) if old != snapshot => release.push(old.clone()),
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
        if capabilities.holds && !release.is_empty() {
            zfs.release(&tag, &release).await?;
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
