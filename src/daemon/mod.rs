//! `zmigrated`: accepts connections, serves sessions, reloads, drains.
//!
//! ```text
//! listener ─ accept ─ TLS (bounded in time and number) ┬ a node        ─ Registry::serve
//!                                                      └ asks to join  ─ Enrolment::serve, and nothing else
//! SIGHUP  → configuration, certificates, grants and revocations are read again; what does not load changes nothing
//! changed files of the identity → the same, without the configuration
//! SIGTERM → no new sessions or runs of jobs; those at work may finish; then receives save their state, and the end
//! each second → a job that is due is begun (jobs.rs)
//! ```

mod authority;
mod cutovers;
pub mod enrol;
mod jobs;
pub mod metrics;
mod watch;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use self::{authority::GrantAuthority, enrol::Enrolment, jobs::Jobs};
use crate::{
    host,
    identity::{IdentityStore, Serial, ca::EnrolDirs},
    limits::{CONNECTIONS_FOR_OTHERS, WINDOWS_PER_IDENTITY},
    port::link::Connection,
    session::{
        live::{LiveConnections, Shown},
        registry::{Registry, RegistryLimits},
    },
    types::{Failure, FailureClass, PeerName},
};

/// How long running sessions may go on after SIGTERM; with what follows below systemd's 90 s, so that it need not kill.
const DRAIN: Duration = Duration::from_secs(60);
/// How long receives may take to save their state at the very end.
const SAVE: Duration = Duration::from_secs(25);

/// A connection whose certificate was verified.
pub struct Accepted {
    /// The bytes.
    pub connection: Box<dyn Connection>,
    /// The name in the certificate.
    pub identity: PeerName,
    /// The certificate's serial number.
    pub serial: Serial,
    /// The certificate, and what it was shown with.
    pub chain: Vec<CertificateDer<'static>>,
}

/// What dialled.
pub enum Arrived {
    /// A node of the fleet.
    Node(Accepted),
    /// Somebody without a certificate who asks to join: for [`Enrolment`] alone.
    Joining(Box<dyn Connection>),
}

/// Where the daemon's configuration comes from, so that it can be read again.
#[derive(Clone, Debug)]
pub struct Sources {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--identity-dir`.
    pub identity_dir: Option<PathBuf>,
}

struct Daemon {
    sources: Sources,
    store: Arc<IdentityStore>,
    authority: Arc<GrantAuthority>,
    registry: Arc<Registry>,
    jobs: Arc<Jobs>,
    live: Arc<LiveConnections>,
    /// Where this host has the authority's directory, as the configuration says now.
    enrolment: ArcSwapOption<Enrolment>,
    handshake_timeout: Duration,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the configuration or the identity does not load, or an address cannot be listened on.
pub async fn run(sources: Sources) -> Result<(), Failure> {
    let config = host::config(sources.config.as_deref(), sources.identity_dir.as_deref())?;
    let store = host::identity(&config)?;
    let authority = Arc::new(GrantAuthority::new(config.grants.clone(), Arc::clone(&store)));
    let most = config.limits.max_connections;
    let limits = RegistryLimits {
        sessions_per_identity: config.limits.max_sessions_per_identity as usize,
        connections_per_identity: (most - most / CONNECTIONS_FOR_OTHERS) as usize,
        window_bytes: config.limits.window_bytes,
        memory_per_identity: config.limits.window_bytes * WINDOWS_PER_IDENTITY,
        lost_after: Duration::from_secs(config.limits.link_lost_after_s),
        idle_timeout: Duration::from_secs(config.limits.idle_timeout_s),
    };
    let engine = host::engine(&config);
    let live = Arc::default();
    let jobs = Jobs::new(&config, &store, &engine, &live);
    let registry = Registry::new(Arc::clone(&engine), Arc::clone(&authority) as _, limits);
    let handshake_timeout = Duration::from_secs(config.limits.handshake_timeout_s);
    let enrolment = ArcSwapOption::empty();
    let daemon = Arc::new(Daemon { sources, store, authority, registry, jobs, live, enrolment, handshake_timeout });
    daemon.follow_authority(config.ca_dir.as_deref());
    let mut listeners = Vec::new();
    for address in &config.listen {
        listeners.push(listen(*address).await?);
    }
    let connections = Arc::new(Semaphore::new(most as usize));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(Arc::clone(&daemon).accept(listener, Arc::clone(&connections)));
    }
    accepting.spawn(watch::watch(Arc::clone(&daemon)));
    if let Some(address) = config.metrics_listen {
        accepting.spawn(metrics::serve(Arc::clone(&daemon), address).await?);
    }
    accepting.spawn(Arc::clone(&daemon.jobs).watch());
    let leading = CancellationToken::new();
    let cutovers = tokio::spawn(cutovers::look_after(Arc::clone(&daemon), engine, config, leading.clone()));
    tracing::info!(identity = %daemon.store.own().name, "zmigrated {} is ready", env!("CARGO_PKG_VERSION"));
    notify(&[sd_notify::NotifyState::Ready]);
    daemon.until_stopped(&leading, &cutovers).await?;
    notify(&[sd_notify::NotifyState::Stopping]);
    if !cutovers.is_finished() {
        tracing::error!(
            "a cutover that is led from here has not ended, and its source may be down: start zmigrated again, or `zmigrate cutover resume`"
        );
    }
    drop(accepting);
    tracing::info!("zmigrated has stopped");
    Ok(())
}

/// Tells systemd, where it listens. Nothing depends on it.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    listen_on(address, "listening on").await
}

async fn listen_on(address: SocketAddr, words: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        // Not the class of a configuration that is wrong, with which systemd gives up: an address may come up later.
        Failure::new(FailureClass::Unreachable, format!("cannot listen on {address}: {e}"))
            .hint("another zmigrated may run already; or set `listen` in the configuration")
    })?;
    // Also tells a script that chose port 0 which one it is.
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!("{words} {bound}");
    Ok(listener)
}

impl Daemon {
    async fn accept(self: Arc<Self>, listener: TcpListener, connections: Arc<Semaphore>) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Mostly: out of file descriptors. It passes when connections end.
                    tracing::warn!("cannot accept: {e}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            match Arc::clone(&connections).try_acquire_owned() {
                Ok(permit) => {
                    let daemon = Arc::clone(&self);
                    tokio::spawn(async move {
                        daemon.serve(stream, from).await;
                        drop(permit);
                    });
                }
                Err(_) => tracing::warn!(%from, "too many connections; this one is dropped"),
            }
        }
    }

    async fn serve(&self, stream: TcpStream, from: SocketAddr) {
        // One for the whole of it: another may come meanwhile.
        let enrolment = self.enrolment.load_full();
        let shaken = host::accept(&self.store, stream, enrolment.as_ref());
        let arrived = match timeout(self.handshake_timeout, shaken).await {
            Ok(Ok(arrived)) => arrived,
            Ok(Err(failure)) => {
                tracing::warn!(%from, hint = failure.hint, "handshake refused: {failure}");
                return;
            }
            Err(_) => {
                tracing::warn!(%from, "no handshake within {} s", self.handshake_timeout.as_secs());
                return;
            }
        };
        let Accepted { connection, identity, serial, chain } = match (arrived, &enrolment) {
            (Arrived::Node(accepted), _) => accepted,
            (Arrived::Joining(connection), Some(enrolment)) => {
                enrolment.serve(connection, from).await;
                return;
            }
            (Arrived::Joining(_), None) => return,
        };
        let shown = Shown { chain, peer_dialled: true };
        let connection = match self.live.watch(&self.store, connection, &identity, shown) {
            Ok(watched) => watched,
            Err(refusal) => {
                tracing::warn!(%from, hint = refusal.hint(), "handshake refused: {refusal}");
                return;
            }
        };
        if let Err(failure) = self.registry.serve(connection, &identity, &serial).await {
            if failure.class == FailureClass::Protocol {
                tracing::warn!(%from, %identity, hint = failure.hint, "connection refused: {failure}");
                return;
            }
            tracing::debug!(%from, %identity, "connection ended: {failure}");
        }
    }

    /// Serves until a signal comes, and then until what is at work has ended, or has had its time. `leads` ends by itself once `leading` is
    /// cancelled: a cutover whose source is down goes on to its end if it can; its ledger lets the next start go on.
    async fn until_stopped(&self, leading: &CancellationToken, leads: &JoinHandle<()>) -> Result<(), Failure> {
        let handler = |kind| signal(kind).map_err(|e| Failure::new(FailureClass::Internal, format!("signals: {e}")));
        let (mut hangup, mut terminate, mut interrupt) =
            (handler(SignalKind::hangup())?, handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
        loop {
            tokio::select! {
                _ = hangup.recv() => self.reload(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        let (open, at_work) = (self.registry.open_sessions(), self.jobs.running());
        self.registry.drain();
        self.jobs.drain();
        leading.cancel();
        if open + at_work > 0 {
            let (drain, jobs) =
                (DRAIN.as_secs(), if at_work > 0 { format!(" and {at_work} jobs") } else { String::new() });
            tracing::info!("draining: {open} sessions{jobs} may go on for {drain} s; a second signal ends them");
        }
        let drained = async {
            while self.registry.open_sessions() + self.jobs.running() > 0 || !leads.is_finished() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = timeout(DRAIN, drained) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::join!(self.registry.end_all(SAVE), self.jobs.end_all(SAVE));
        Ok(())
    }

    /// Reads everything again. What does not load leaves in place what was there.
    fn reload(&self) {
        notify(&[sd_notify::NotifyState::Reloading]);
        match host::config(self.sources.config.as_deref(), self.sources.identity_dir.as_deref()) {
            Ok(config) => {
                self.authority.replace(config.grants.clone());
                self.follow_authority(config.ca_dir.as_deref());
                self.jobs.reload(config);
                tracing::info!(
                    "the grants, hooks and jobs were read again, and [ca]; other settings take effect at the next start"
                );
            }
            Err(failure) => tracing::error!("the configuration does not load, so it stays as it was: {failure}"),
        }
        match self.store.reload() {
            Ok(reloaded) => {
                tracing::info!(identity = %reloaded.own.name, new = reloaded.new_certificate, "certificates and revocations were read again");
            }
            Err(e) => tracing::error!("the identity does not load, so it stays as it was: {e}"),
        }
        self.cut_refused();
        notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Lets nodes join with tokens of the authority in that directory, and of no other.
    fn follow_authority(&self, ca: Option<&Path>) {
        let dirs = ca.map(|ca| EnrolDirs { ca: ca.to_owned(), beside: Some(self.store.dir().to_owned()) });
        if self.enrolment.load().as_ref().map(|now| now.dirs()) == dirs.as_ref() {
            return;
        }
        match ca {
            Some(ca) => tracing::info!("nodes may join here with tokens of the authority in {}", ca.display()),
            None => tracing::info!("no node may join here any more"),
        }
        self.enrolment.store(dirs.map(Enrolment::new));
    }

    /// Ends the sessions of revoked certificates, and the connections of those that would be refused today, also those that jobs
    /// and cutovers of this host have dialled.
    fn cut_refused(&self) {
        self.registry.cut_revoked(|serial| self.store.is_revoked(serial));
        self.live.cut_refused(&self.store);
    }
}
