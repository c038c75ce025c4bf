//! `zmigrated` runs the jobs by itself.
//!
//! Invariants: a run that was begun goes on under the configuration that it was begun with, whatever is reloaded; when the
//! daemon drains, no run begins, and those at work may end; nothing here decides when a job is due (`jobs::schedule`) or
//! what a run is (`runner`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{Semaphore, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    host,
    identity::IdentityStore,
    jobs::Job,
    limits::MAX_JOBS_AT_A_TIME,
    runner::{JobContext, Started, files::JobFiles, run_job, turn::Turn},
    session::{engine::Engine, live::LiveConnections},
    types::{FailureClass, JobName},
};

/// How often it is looked whether a job is due: cron's minute, with room to spare. It also bounds what a clock that was
/// set can do: after so long everything is reckoned anew.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon a job is looked at again that somebody else is running.
const BUSY: SignedDuration = SignedDuration::from_secs(15);

/// See the module.
pub(super) struct Jobs {
    config: watch::Sender<Arc<Config>>,
    store: Arc<IdentityStore>,
    engine: Arc<Engine>,
    live: Arc<LiveConnections>,
    running: AtomicUsize,
    slots: Arc<Semaphore>,
    /// Set when no more runs are to begin.
    draining: CancellationToken,
    /// Set when those at work are to end.
    stop: CancellationToken,
}

/// What is remembered of a job between two looks.
#[derive(Clone, Copy, Default)]
struct Known {
    last: Option<Timestamp>,
    /// Of one that never ran: when it was seen first, maybe by an earlier daemon.
    first_seen: Option<Timestamp>,
    /// Not before this, because another process is at it.
    busy_until: Option<Timestamp>,
    is_read: bool,
}

/// A job that is looked after. A run that is at work holds a receiver more.
struct Watched {
    job: Arc<Job>,
    see: watch::Receiver<Known>,
    tell: watch::Sender<Known>,
}

impl Jobs {
    pub fn new(
        config: &Config,
        store: &Arc<IdentityStore>,
        engine: &Arc<Engine>,
        live: &Arc<LiveConnections>,
    ) -> Arc<Jobs> {
        Arc::new(Jobs {
            config: watch::Sender::new(Arc::new(config.clone())),
            store: Arc::clone(store),
            engine: Arc::clone(engine),
            live: Arc::clone(live),
            running: AtomicUsize::new(0),
            slots: Arc::new(Semaphore::new(MAX_JOBS_AT_A_TIME)),
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
        })
    }

    /// The configuration that is in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// From now on the jobs of this configuration are run, and its hooks called.
    pub fn reload(&self, config: Config) {
        self.engine.set_needs(host::needs(&config));
        if let Some(hosts) = &self.engine.cutovers {
            hosts.set_hooks(host::hooks(&config));
        }
        self.config.send_replace(Arc::new(config));
    }

    /// Runs that are at work.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// No more runs begin.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Ends what is at work, and waits until it has ended, or `within` is over.
    pub async fn end_all(&self, within: Duration) {
        self.drain();
        self.stop.cancel();
        let _ = timeout(within, async {
            while self.running() > 0 {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    /// Looks, for as long as the daemon lives.
    pub async fn watch(self: Arc<Self>) {
        let mut since = Timestamp::now();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watched: BTreeMap<JobName, Watched> = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                () = self.draining.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // A clock that was set back takes the beginning along.
            since = since.min(Timestamp::now());
            let config = self.config();
            // A job that was changed is another one: what it did is read again.
            watched.retain(|name, at| config.jobs.get(name).is_some_and(|now| *now == *at.job));
            for job in config.jobs.values().filter(|job| job.schedule.trigger.is_some()) {
                let at = watched.entry(job.name.clone()).or_insert_with(|| {
                    let (tell, see) = watch::channel(Known::default());
                    Watched { job: Arc::new(job.clone()), see, tell }
                });
                self.look(&config, at, since);
            }
        }
    }

    fn look(self: &Arc<Self>, config: &Arc<Config>, at: &Watched, since: Timestamp) {
        let Watched { job, see, tell } = at;
        // Held by the run that is at work: see `begin`.
        if tell.receiver_count() > 1 {
            return;
        }
        let now = Timestamp::now();
        let mut state = *see.borrow();
        if state.busy_until.is_some_and(|until| now < until && until <= now + BUSY) {
            return;
        }
        let due = |state: Known| {
            // One of the future is of a clock that was set back since.
            let since = state.first_seen.filter(|seen| *seen <= now).unwrap_or(since);
            job.schedule.is_due(state.last, since, now, job.seed())
        };
        if state.is_read && !due(state) {
            return;
        }
        let files = JobFiles::new(&config.state_dir);
        if files.is_paused(&job.name) {
            return;
        }
        // Somebody may have run it by hand meanwhile.
        match files.load(job) {
            Ok(found) => {
                state.last = found.last.map(|last| last.started);
                if state.last.is_none() && state.first_seen.is_none() {
                    let seen = files.first_seen(job, now);
                    state.first_seen = seen.inspect_err(|e| tracing::error!(job = %job.name, "{e}")).ok();
                }
            }
            Err(failure) => tracing::error!(job = %job.name, "{failure}"),
        }
        state.is_read = true;
        tell.send_replace(state);
        if due(state) {
            self.begin(Arc::clone(config), Arc::clone(job), see.clone(), tell.clone());
        }
    }

    /// Starts a run in a task of its own. While it holds its receiver, the job is not looked at.
    fn begin(
        self: &Arc<Self>,
        config: Arc<Config>,
        job: Arc<Job>,
        at_work: watch::Receiver<Known>,
        tell: watch::Sender<Known>,
    ) {
        let this = Arc::clone(self);
        this.running.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let slot = tokio::select! {
                biased;
                () = this.draining.cancelled() => None,
                slot = Turn::take(&this.slots) => Some(slot),
            };
            // It may have waited long: for others of a time that is over now, or somebody paused it meanwhile.
            let files = JobFiles::new(&config.state_dir);
            let may_begin = job.schedule.allows(Timestamp::now()) && !files.is_paused(&job.name);
            if let Some(turn) = slot.filter(|_| may_begin) {
                let context = JobContext {
                    config,
                    store: Arc::clone(&this.store),
                    engine: Arc::clone(&this.engine),
                    live: Arc::clone(&this.live),
                    stop: this.stop.clone(),
                    turn: Some(Arc::new(turn)),
                    rollback: false,
                };
                match run_job(&context, &job, Started::Schedule).await {
                    Ok(report) => tell.send_modify(|known| known.last = Some(report.started)),
                    Err(failure) => {
                        if failure.class != FailureClass::Locked {
                            tracing::error!(job = %job.name, hint = failure.hint, "{failure}");
                        }
                        tell.send_modify(|known| known.busy_until = Some(Timestamp::now() + BUSY));
                    }
                }
            }
            drop(at_work);
            this.running.fetch_sub(1, Ordering::SeqCst);
        });
    }
}
