//! What a side does when asked: the one place where requests become ZFS operations, for the local side of a run and
//! for a peer alike.
//!
//! Invariants: nothing is destroyed but by [`Request::Rollback`], [`Request::AbortPartial`],
//! [`Request::RemovePlaceholder`] (destructive.rs), [`Request::Prune`] (prune.rs) and [`Request::Retire`] (retire.rs); a target is
//! only touched under its lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{OnceCell, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{
    cutover::{Hosts, later::Turn},
    listings::{Places, Shown},
    prepared::Prepared,
    probe,
    transfer::{Opened, Transfer, open_receive, open_send},
};
use crate::{
    channel::{Channel, RateLimit},
    limits::{MAX_LOCKS, MAX_TRANSFERS_IN_ALL, MAX_VIEWS},
    port::{
        journal::Journal,
        locks::{LockError, LockGuard, Locks},
        needs::{Needs, NoNeeds},
        view::Views,
        zfs::{Zfs, ZfsError, ZfsErrorKind},
    },
    types::{DatasetName, Failure, FailureClass, Guid, listing::Capabilities},
    wire::message::{Reply, Request},
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
    /// This host's part in cutovers.
    pub cutovers: Option<Arc<Hosts>>,
    /// What the jobs of this host need; see [`Engine::set_needs`].
    needs: Mutex<Arc<dyn Needs>>,
    /// Opens this host's snapshots for reading.
    pub views: Option<Arc<dyn Views>>,
    /// See [`Engine::in_one_thread`].
    pub(super) in_one_thread: bool,
    /// Transfers of all sessions together: each takes memory, threads and a process.
    pub(super) transfers: Arc<Semaphore>,
    /// Places for listings.
    pub(super) listings: Places,
    /// Snapshots that are looked into at a time: each keeps a thread and a disk busy.
    pub(super) looks: Arc<Semaphore>,
}

impl Engine {
    /// An engine without sessions.
    pub fn new(zfs: Arc<dyn Zfs>, locks: Arc<dyn Locks>, journal: Arc<dyn Journal>, max_datasets: usize) -> Engine {
        Engine {
            zfs,
            locks,
            journal,
            max_datasets,
            cutovers: None,
            needs: Mutex::new(Arc::new(NoNeeds)),
            views: None,
            in_one_thread: false,
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS_IN_ALL)),
            listings: Places::default(),
            looks: Arc::new(Semaphore::new(MAX_VIEWS)),
        }
    }

    /// With a part in cutovers.
    pub fn with_cutovers(self, hosts: Arc<Hosts>) -> Engine {
        Engine { cutovers: Some(hosts), ..self }
    }

    /// From now on nothing is pruned that these need.
    pub fn set_needs(&self, needs: Arc<dyn Needs>) {
        *lock(&self.needs) = needs;
    }

    /// What the jobs of this host need.
    pub fn needs(&self) -> Arc<dyn Needs> {
        Arc::clone(&lock(&self.needs))
    }

    /// With a way to look into snapshots.
    pub fn with_views(self, views: Arc<dyn Views>) -> Engine {
        Engine { views: Some(views), ..self }
    }

    /// From now on transfers start no threads, so that in a runtime of one thread the same always happens in the same
    /// order. For tests, with a ZFS whose streams never block.
    pub fn in_one_thread(self) -> Engine {
        Engine { in_one_thread: true, ..self }
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
    pub(super) holder: String,
    pub(super) channels: Arc<dyn Channels>,
    locks: Mutex<Vec<(DatasetName, Box<dyn LockGuard>)>>,
    transfers: Mutex<BTreeMap<u32, Arc<Transfer>>>,
    /// Channels of transfers to come.
    pub(super) prepared: Prepared,
    rate: OnceCell<Arc<RateLimit>>,
    /// Set when the session ends: nothing new is begun.
    pub(super) ending: CancellationToken,
    /// What of a target was shown to whoever leads.
    pub(super) shown: Mutex<Shown>,
    /// What goes to its end, whoever waits for it or not.
    acts: TaskTracker,
    /// Set when what goes on by itself has to come to its end, too.
    closing: CancellationToken,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

pub(super) fn ending() -> Failure {
    Failure::new(FailureClass::Interrupted, "the session is ending").consequence()
}

pub(super) fn refused(text: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Refused, text)
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
            prepared: Prepared::default(),
            rate: OnceCell::new(),
            ending: CancellationToken::new(),
            shown: Mutex::default(),
            acts: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// A session of the same engine without locks or transfers, for work that goes on by itself.
    pub(super) fn worker(&self) -> EngineSession {
        let new = EngineSession::new(Arc::clone(&self.engine), self.holder.clone(), Arc::clone(&self.channels));
        EngineSession { acts: self.acts.clone(), closing: self.closing.clone(), ..new }
    }

    pub(super) fn zfs(&self) -> &dyn Zfs {
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
                self.must_go_on()?;
                match self.engine.snapshot_source(request).await? {
                    notes if notes.is_empty() => Ok(Reply::Done),
                    notes => Ok(Reply::DoneWith(notes)),
                }
            }
            Request::CreatePlaceholder { dataset } => self.create_placeholder(&dataset).await,
            Request::RemovePlaceholder { dataset } => self.remove_placeholder(&dataset).await,
            Request::Rollback { to, to_guid, destroys } => self.rollback(&to, to_guid, &destroys).await,
            Request::AbortPartial { dataset } => self.abort_partial(dataset).await,
            Request::Sizes(specs) => self.sizes(&specs).await,
            Request::OpenReceive { channel, step } => {
                let _opening = self.opens(channel);
                self.must_hold(&step.snapshot.dataset())?;
                match open_receive(self, channel, step).await? {
                    Opened::Runs(transfer) => {
                        self.keep(channel, transfer)?;
                        Ok(Reply::Done)
                    }
                    Opened::IsThere(notes) if notes.is_empty() => Ok(Reply::AlreadyReceived),
                    Opened::IsThere(notes) => {
                        // Whoever leads may be too old to be told.
                        notes.iter().for_each(|note| tracing::warn!("{note}"));
                        Ok(Reply::AlreadyReceivedWith(notes))
                    }
                }
            }
            Request::OpenSend { channel, step } => {
                let rate = match step.bwlimit_bytes_per_s {
                    // What the whole session was told counts for more: the step may have been planned before.
                    limit @ Some(_) => Some(self.rate.get_or_init(async || RateLimit::new(limit)).await),
                    None => self.rate.get(),
                };
                let rate = rate.map(Arc::clone);
                let transfer = open_send(self, channel, step, rate).await?;
                self.keep(channel, transfer)?;
                Ok(Reply::Done)
            }
            Request::FinishReceive { channel } => {
                self.until_opened(channel).await;
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
                } else {
                    self.let_go(channel);
                }
                Ok(Reply::Done)
            }
            Request::Prepare { channel } => {
                self.prepare(channel)?;
                Ok(Reply::Done)
            }
            Request::OpenProbe { channel, stream } => {
                self.keep(channel, probe::open_receive(self, channel, stream)?)?;
                Ok(Reply::Done)
            }
            Request::FinishProbe { channel } => {
                let transfer = self.transfer(channel)?;
                let transferred = transfer.outcome().await;
                self.forget(channel);
                Ok(Reply::Probed { transferred: transferred?, times: transfer.counters().times().receiver() })
            }
            Request::Acknowledge { snapshot, guid, job, superseded } => {
                self.acknowledge(&snapshot, guid, &job, &superseded).await
            }
            Request::Limit { bytes_per_s } => {
                self.rate.get_or_init(async || RateLimit::new(bytes_per_s)).await.set(bytes_per_s);
                Ok(Reply::Done)
            }
            Request::Prune(request) => self.prune_target(request).await,
            Request::Retire(request) => self.retire(request, jiff::Timestamp::now()).await,
            Request::Bye => {
                self.shut_down().await;
                Ok(Reply::Done)
            }
            Request::Cutover { unit, call } => self.cutover(&unit, &call).await,
            Request::Verify(ask) => self.verify(&ask, None).await,
            // The registry knows who asks, and what that one is granted.
            Request::About => self.about(Vec::new()).await,
        }
    }

    /// Does something that must not be cut off halfway: dropped, it goes on, and [`EngineSession::shut_down`] waits for it.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let done = self.acts.spawn(work.in_current_span()).await;
        done.unwrap_or_else(|e| Err(Failure::new(FailureClass::Internal, e)))
    }

    /// Does `work` when its turn comes, or the session closes. Nobody waits for it but [`EngineSession::shut_down`], and who touches
    /// that dataset next.
    pub(super) fn by_itself(&self, turn: Turn, work: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        let work = async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = turn.comes() => {}
            }
            work.await;
            drop(turn);
        };
        self.acts.spawn(work.in_current_span());
    }

    /// Has done what a receive into this dataset left to do.
    pub(super) async fn nothing_is_left_of(&self, dataset: &DatasetName) {
        if let Some(hosts) = &self.engine.cutovers {
            hosts.later.nothing_is_left_of(dataset).await;
        }
    }

    /// From now on nothing new is begun; transfers are told to end.
    pub fn begin_end(&self) {
        self.ending.cancel();
        lock(&self.transfers).values().for_each(|transfer| transfer.cancel());
    }

    /// Ends all transfers, waits for them and for what goes to its end, then lets the locks go. Whoever calls has waited for the requests in work.
    pub async fn shut_down(&self) {
        self.begin_end();
        self.closing.cancel();
        self.acts.close();
        self.acts.wait().await;
        let transfers: Vec<_> = lock(&self.transfers).values().cloned().collect();
        for transfer in transfers {
            let _ = transfer.outcome().await;
        }
        // What the last of them left to do.
        self.acts.wait().await;
        lock(&self.transfers).clear();
        self.let_all_go();
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
        if self.ending.is_cancelled() {
            return Err(ending());
        }
        Ok(())
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

    pub(super) fn transfer(&self, channel: u32) -> Result<Arc<Transfer>, Failure> {
        let unknown = || Failure::new(FailureClass::Protocol, format!("there is no transfer on channel {channel}"));
        lock(&self.transfers).get(&channel).cloned().ok_or_else(unknown)
    }

    pub(super) fn keep(&self, channel: u32, transfer: Transfer) -> Result<(), Failure> {
        let mut transfers = lock(&self.transfers);
        if self.ending.is_cancelled() {
            // It began while the session was ending; nobody will ask for it.
            transfer.cancel();
        }
        transfers.insert(channel, Arc::new(transfer));
        Ok(())
    }

    pub(super) fn forget(&self, channel: u32) {
        lock(&self.transfers).remove(&channel);
        self.channels.close(channel);
    }

    async fn cutover(&self, unit: &[DatasetName], call: &str) -> Result<Reply, Failure> {
        let bad = |e: serde_json::Error| Failure::new(FailureClass::Protocol, format!("not a cutover's call: {e}"));
        let Some(hosts) = &self.engine.cutovers else { return Err(refused("this side takes no part in cutovers")) };
        let told = hosts.handle(unit, serde_json::from_str(call).map_err(bad)?, &self.holder).await?;
        serde_json::to_string(&told).map(Reply::Cutover).map_err(|e| Failure::new(FailureClass::Internal, e))
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

    pub(super) fn must_hold(&self, dataset: &DatasetName) -> Result<(), Failure> {
        self.must_go_on()?;
        if lock(&self.locks).iter().any(|(held, _)| dataset.is_at_or_below(held)) {
            return Ok(());
        }
        Err(Failure::new(FailureClass::Protocol, format!("{dataset} is not under a lock of this session")))
    }

    /// The same, of a dataset that is itself no target of the session, but lies below one.
    pub(super) fn must_hold_above(&self, dataset: &DatasetName) -> Result<(), Failure> {
        self.must_hold(dataset)?;
        if lock(&self.locks).iter().any(|(held, _)| held != dataset && dataset.is_at_or_below(held)) {
            return Ok(());
        }
        Err(Failure::new(FailureClass::Protocol, format!("{dataset} is a target itself, not one below it")))
    }

    /// The GUID of a snapshot or bookmark, `None` if there is none.
    pub(super) async fn guid_of(&self, name: &str) -> Result<Option<Guid>, Failure> {
        match self.zfs().get(name, &["guid"]).await {
            Ok(properties) => Ok(properties.first().and_then(|p| p.value.parse().ok())),
            Err(e) if e.kind == ZfsErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) async fn capabilities(&self, dataset: &DatasetName) -> Result<Capabilities, Failure> {
        Ok(self.zfs().capabilities(dataset.pool()).await?)
    }
}
