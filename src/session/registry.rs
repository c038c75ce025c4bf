//! The peer's end of sessions: finds the session that a connection belongs to, and ends sessions that are over.
//!
//! ```text
//! connection ── Open   → new PeerSession, control channel, its calls are served
//!            └─ Attach → the channel of a session of the same identity, or a refusal
//! ```
//!
//! A session without a connection is kept for a while, because its initiator may only have lost the link. If a new run
//! of the same identity wants a target that such a session holds, the old session yields.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    client::{AGENT, unix_ms},
    engine::{Channels, Engine, EngineSession},
    handshake::{accept, refuse, welcome},
};
use crate::{
    channel::{Channel, carry},
    identity::Serial,
    limits::{
        CONTROL_WINDOW, MAX_REQUESTS_IN_WORK, MAX_REQUESTS_WAITING, MAX_STREAMS, MAX_TRANSFERS, MIN_WINDOW, YIELD_AFTER,
    },
    port::link::Connection,
    types::{Access, DatasetName, Failure, FailureClass, PeerName},
    wire::{
        codec::Use,
        hello::{Hello, RefusalCode, Role, SessionId, Welcome, features},
        message::{Answer, Call, Reply, Request, SendStep},
    },
};

/// What an identity may do; asked anew for each request, so that a reload takes effect at once.
pub trait Authority: Send + Sync {
    /// True if the identity has any grant.
    fn knows(&self, identity: &PeerName) -> bool;
    /// # Errors
    /// A `NotGranted` failure that names what is missing.
    fn check(&self, identity: &PeerName, access: Access, dataset: &DatasetName) -> Result<(), Failure>;
    /// What that identity is granted.
    fn granted(&self, identity: &PeerName) -> Vec<(Access, DatasetName)>;
}

/// How many of what a peer serves.
#[derive(Clone, Debug)]
pub struct RegistryLimits {
    /// Sessions of one identity at a time.
    pub sessions_per_identity: usize,
    /// Cost of frames that a transfer may have outstanding at this side, in bytes.
    pub window_bytes: u64,
    /// How long a session without a connection is kept.
    pub lost_after: Duration,
    /// Silence after which a connection counts as lost.
    pub idle_timeout: Duration,
}

/// All sessions of one daemon.
pub struct Registry {
    engine: Arc<Engine>,
    authority: Arc<dyn Authority>,
    limits: RegistryLimits,
    sessions: Mutex<HashMap<SessionId, Arc<PeerSession>>>,
    opened: AtomicU64,
    /// Set while the daemon drains: no new sessions.
    draining: std::sync::atomic::AtomicBool,
}

/// One session, as the daemon lists it.
pub struct PeerSession {
    id: SessionId,
    /// Rises with each session.
    number: u64,
    identity: PeerName,
    host: String,
    /// The certificate that opened it.
    serial: Serial,
    /// What both sides named.
    features: u64,
    control: Channel,
    transfers: Mutex<BTreeMap<u32, Channel>>,
    /// What the session does and holds. Weak, for that holds this: whoever serves the session keeps it alive.
    work: OnceLock<Weak<EngineSession>>,
    send_window: u64,
    window: u64,
    idle_timeout: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Channels for PeerSession {
    fn open(&self, number: u32) -> Result<Channel, Failure> {
        if let Some(reason) = self.control.closed() {
            return Err(reason);
        }
        let mut transfers = lock(&self.transfers);
        if transfers.len() >= MAX_TRANSFERS {
            return Err(Failure::new(FailureClass::Refused, format!("a session may have {MAX_TRANSFERS} transfers")));
        }
        if number == 0 || transfers.contains_key(&number) {
            return Err(Failure::new(FailureClass::Protocol, format!("channel {number} is in use")));
        }
        let channel = Channel::new(self.send_window, self.window, self.idle_timeout);
        transfers.insert(number, channel.clone());
        Ok(channel)
    }

    fn close(&self, number: u32) {
        if let Some(channel) = lock(&self.transfers).remove(&number) {
            channel.close(Failure::new(FailureClass::Interrupted, "the transfer has ended"));
        }
    }
}

impl PeerSession {
    /// For how long no connection of it has lived; `None` while one does.
    fn alone_for(&self) -> Option<Duration> {
        let transfers = lock(&self.transfers);
        let mut shortest = self.control.alone_since()?.elapsed();
        for channel in transfers.values() {
            shortest = shortest.min(channel.alone_since()?.elapsed());
        }
        Some(shortest)
    }

    fn holds(&self, target: &DatasetName) -> bool {
        self.work.get().and_then(Weak::upgrade).is_some_and(|work| work.holds(target))
    }

    fn holds_anything(&self) -> bool {
        self.work.get().is_none_or(|work| work.upgrade().is_some_and(|work| work.holds_locks()))
    }

    fn end(&self, reason: &Failure) {
        self.control.close(reason.clone());
        for channel in lock(&self.transfers).values() {
            channel.close(reason.clone());
        }
    }
}

/// How serving a session's calls ended.
enum End {
    /// The run is over; this call waits for its answer.
    Bye(u64),
    /// Something else.
    Broken(Failure),
}

impl Registry {
    /// A registry without sessions.
    pub fn new(engine: Arc<Engine>, authority: Arc<dyn Authority>, limits: RegistryLimits) -> Arc<Registry> {
        Arc::new(Registry {
            engine,
            authority,
            limits,
            sessions: Mutex::default(),
            opened: AtomicU64::new(0),
            draining: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Serves one connection, whose certificate said `identity` and has that serial number, until it ends.
    ///
    /// # Errors
    /// Why the connection was not served or was lost; for the log.
    pub async fn serve(
        self: &Arc<Self>,
        mut connection: Box<dyn Connection>,
        identity: &PeerName,
        serial: &Serial,
    ) -> Result<(), Failure> {
        let (version, hello) = accept(&mut connection).await?;
        match hello.role {
            Role::Open => match self.open(&hello, identity, serial) {
                Ok(session) => {
                    // Before the welcome: if that fails, the session must still come to its end.
                    tokio::spawn(Arc::clone(self).run(Arc::clone(&session)));
                    welcome(&mut connection, version, &session.welcome(&session.control)).await?;
                    carry(&session.control, connection, 0, 0).await
                }
                Err((code, text)) => {
                    refuse(&mut connection, code, &text).await?;
                    Err(Failure::new(FailureClass::Refused, text))
                }
            },
            Role::Attach { session, channel, stripe, next } => match self.find(session, channel, stripe, identity) {
                Ok((session, channel)) => {
                    welcome(&mut connection, version, &session.welcome(&channel)).await?;
                    carry(&channel, connection, stripe, next).await
                }
                Err((code, text)) => {
                    refuse(&mut connection, code, text).await?;
                    Err(Failure::new(FailureClass::Refused, text))
                }
            },
        }
    }

    fn open(
        &self,
        hello: &Hello,
        identity: &PeerName,
        serial: &Serial,
    ) -> Result<Arc<PeerSession>, (RefusalCode, String)> {
        if self.draining.load(std::sync::atomic::Ordering::Relaxed) {
            return Err((RefusalCode::Draining, "zmigrated is being stopped".into()));
        }
        if !self.authority.knows(identity) {
            return Err((RefusalCode::NotGranted, format!("the identity {identity} has no grant here")));
        }
        let mut sessions = lock(&self.sessions);
        let limit = self.limits.sessions_per_identity;
        let mut own: Vec<_> = sessions.values().filter(|s| s.identity == *identity).collect();
        own.sort_by_key(|s| s.number);
        if own.len() >= limit {
            // One that lost its initiator and holds nothing makes room for the next try.
            let idle = own.iter().filter(|s| !s.holds_anything()).filter_map(|s| Some((s.alone_for()?, s)));
            if let Some((_, oldest)) = idle.max_by_key(|(alone, _)| *alone) {
                oldest.end(&Failure::new(FailureClass::Interrupted, "the session made room for a newer one"));
            }
            return Err((RefusalCode::Busy, format!("{identity} has {limit} sessions open, which is the limit")));
        }
        if hello.window < MIN_WINDOW {
            return Err((RefusalCode::Malformed, format!("a window of {} bytes is below {MIN_WINDOW}", hello.window)));
        }
        let window = self.limits.window_bytes;
        let session = Arc::new(PeerSession {
            id: random_id().map_err(|e| (RefusalCode::Busy, format!("no randomness: {e}")))?,
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            identity: identity.clone(),
            host: hello.host.chars().filter(|c| !c.is_control()).take(64).collect(),
            serial: serial.clone(),
            features: hello.features & features::OURS,
            control: Channel::new(CONTROL_WINDOW, CONTROL_WINDOW, self.limits.idle_timeout),
            transfers: Mutex::default(),
            work: OnceLock::new(),
            send_window: hello.window.min(window),
            window,
            idle_timeout: self.limits.idle_timeout,
        });
        sessions.insert(session.id, Arc::clone(&session));
        Ok(session)
    }

    fn find(
        &self,
        id: SessionId,
        number: u32,
        stripe: u16,
        identity: &PeerName,
    ) -> Result<(Arc<PeerSession>, Channel), (RefusalCode, &'static str)> {
        if stripe >= MAX_STREAMS {
            return Err((RefusalCode::Malformed, "a channel has no that many connections"));
        }
        let unknown =
            (RefusalCode::UnknownSession, "this session is not known here; zmigrated was restarted or gave up");
        let sessions = lock(&self.sessions);
        // Another identity learns nothing of the session's existence.
        let session = sessions.get(&id).filter(|s| s.identity == *identity).ok_or(unknown)?;
        let channel =
            if number == 0 { Some(session.control.clone()) } else { lock(&session.transfers).get(&number).cloned() };
        match channel {
            Some(channel) if channel.closed().is_none() => Ok((Arc::clone(session), channel)),
            Some(channel) if channel.closed().is_some_and(|f| f.class == FailureClass::Locked) => {
                Err((RefusalCode::Superseded, "a newer run has taken over this session's target"))
            }
            _ => Err((RefusalCode::UnknownChannel, "the transfer has ended here")),
        }
    }

    /// Serves a session's calls until it is over, then undoes what it holds.
    async fn run(self: Arc<Self>, session: Arc<PeerSession>) {
        let holder = format!("{} on {}", session.identity, session.host);
        let channels: Arc<dyn Channels> = Arc::clone(&session) as _;
        let work = Arc::new(EngineSession::new(Arc::clone(&self.engine), holder, channels));
        let _ = session.work.set(Arc::downgrade(&work));
        tracing::info!(identity = %session.identity, host = %session.host, "session opened");
        let mut requests = JoinSet::new();
        let end = tokio::select! {
            biased;
            end = self.serve_calls(&session, &work, &mut requests) => end,
            failure = self.abandoned(&session) => End::Broken(failure),
        };
        let reason = match &end {
            End::Bye(_) => Failure::new(FailureClass::Interrupted, "the run has ended"),
            End::Broken(failure) => failure.clone(),
        };
        if let End::Broken(failure) = &end {
            session.end(failure);
        }
        // Nothing new begins; what is in work ends by itself (a rollback that is cut off is worse than one that is late);
        // receives save their state; only then are the locks let go.
        work.begin_end();
        while requests.join_next().await.is_some() {}
        work.shut_down().await;
        if let End::Bye(id) = end {
            let answer = Answer { id, result: Ok(Reply::Done) };
            let _ = timeout(Duration::from_secs(2), async {
                session.control.send_message(&answer, Use::Reply).await?;
                session.control.delivered().await
            })
            .await;
        }
        session.end(&reason);
        lock(&self.sessions).remove(&session.id);
        tracing::info!(identity = %session.identity, host = %session.host, "session closed: {reason}");
    }

    async fn serve_calls(
        self: &Arc<Self>,
        session: &Arc<PeerSession>,
        work: &Arc<EngineSession>,
        requests: &mut JoinSet<()>,
    ) -> End {
        let slots = Arc::new(Semaphore::new(MAX_REQUESTS_IN_WORK));
        loop {
            while requests.try_join_next().is_some() {}
            if requests.len() >= MAX_REQUESTS_WAITING {
                // Calls wait in the channel's window, not in memory.
                requests.join_next().await;
                continue;
            }
            let call: Call = match session.control.receive_message(Use::Request).await {
                Ok(call) => call,
                Err(failure) => return End::Broken(failure),
            };
            // What was queued before the session was cut, for instance because of a revocation, is not done any more.
            if let Some(failure) = session.control.closed() {
                return End::Broken(failure);
            }
            if call.request == Request::Bye {
                return End::Bye(call.id);
            }
            let (this, session, work, slots) =
                (Arc::clone(self), Arc::clone(session), Arc::clone(work), Arc::clone(&slots));
            requests.spawn(async move {
                // Waiting for the end of a transfer costs nothing, so it takes no place from those that work.
                let waits = matches!(
                    call.request,
                    Request::FinishReceive { .. }
                        | Request::FinishSend { .. }
                        | Request::FinishProbe { .. }
                        | Request::Cutover { .. }
                        | Request::Verify(_)
                );
                // The semaphore is never closed.
                let _slot = if waits { None } else { slots.acquire().await.ok() };
                let result = this.answer(&session, &work, call.request).await;
                let answer = Answer { id: call.id, result };
                if let Err(failure) = session.control.send_message(&answer, Use::Reply).await {
                    // Too large to be sent: say so instead.
                    let answer = Answer { id: call.id, result: Err(failure) };
                    let _ = session.control.send_message(&answer, Use::Reply).await;
                }
            });
        }
    }

    async fn answer(&self, session: &PeerSession, work: &EngineSession, request: Request) -> Result<Reply, Failure> {
        if request.feature().is_some_and(|feature| session.features & feature == 0) {
            let text = "a request came that the two sides have not agreed on";
            return Err(Failure::new(FailureClass::Protocol, text));
        }
        for (access, dataset) in request.needs() {
            self.authority.check(&session.identity, access, &dataset)?;
        }
        if let Request::OpenSend { step: SendStep { job, .. }, .. } | Request::Acknowledge { job, .. } = &request
            && !job.belongs_to(&session.identity)
        {
            let text =
                format!("the job {job} is not one of {}: its bookmarks and holds are another's", session.identity);
            return Err(Failure::new(FailureClass::NotGranted, text));
        }
        if request == Request::About {
            return work.about(self.authority.granted(&session.identity)).await;
        }
        if matches!(request, Request::OpenProbe { .. }) && !self.authority.knows(&session.identity) {
            let text = format!("the identity {} has no grant here any more", session.identity);
            return Err(Failure::new(FailureClass::NotGranted, text));
        }
        let Request::Lock { target } = &request else {
            return match work.handle(request).await {
                Ok(Reply::AlreadyReceivedWith(_)) if session.features & features::NOTES == 0 => {
                    Ok(Reply::AlreadyReceived)
                }
                result => result,
            };
        };
        let target = target.clone();
        self.evict_dead_holders(session, &target).await;
        work.handle(request).await.map_err(|failure| {
            // An earlier run of the same identity that has lost its connections will have yielded soon.
            let yields = |s: &&Arc<PeerSession>| {
                s.id != session.id && s.identity == session.identity && s.holds(&target) && s.alone_for().is_some()
            };
            match lock(&self.sessions).values().find(yields) {
                Some(_) if failure.class == FailureClass::Locked => failure.transient(),
                _ => failure,
            }
        })
    }

    /// Ends sessions of the same identity that hold this target and have lost all connections for longer than an
    /// initiator that lives needs to dial again, so that a new run need not wait for them.
    async fn evict_dead_holders(&self, asking: &PeerSession, target: &DatasetName) {
        let dead: Vec<_> = self
            .in_order()
            .into_iter()
            .filter(|s| s.id != asking.id && s.identity == asking.identity && s.holds(target))
            .filter(|s| s.alone_for().is_some_and(|alone| alone >= YIELD_AFTER))
            .collect();
        for session in &dead {
            tracing::info!(identity = %session.identity, %target, "an earlier session without a connection yields to a new run");
            session.end(&Failure::new(FailureClass::Locked, "a newer run has taken over this session's target"));
        }
        // Bounded: a receive that does not end in time keeps its lock, and the new run is told who has it.
        for _ in 0..50 {
            if dead.iter().all(|s| !lock(&self.sessions).contains_key(&s.id)) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Those that are open, the oldest first.
    fn in_order(&self) -> Vec<Arc<PeerSession>> {
        let mut all: Vec<_> = lock(&self.sessions).values().cloned().collect();
        all.sort_by_key(|session| session.number);
        all
    }

    /// Returns when a session has had no connection for too long.
    async fn abandoned(&self, session: &PeerSession) -> Failure {
        loop {
            if session.alone_for().is_some_and(|alone| alone >= self.limits.lost_after) {
                return Failure::new(FailureClass::Unreachable, "the initiator did not come back");
            }
            sleep(Duration::from_secs(1).min(self.limits.lost_after)).await;
        }
    }

    /// Ends every session whose certificate `is_revoked` says is revoked, by serial number.
    pub fn cut_revoked(&self, is_revoked: impl Fn(&Serial) -> bool) {
        for session in self.in_order().iter().filter(|s| is_revoked(&s.serial)) {
            tracing::warn!(identity = %session.identity, "its certificate was revoked: the session is cut");
            session.end(&Failure::new(FailureClass::NotGranted, "the certificate was revoked"));
        }
    }

    /// From now on no new sessions are opened; those that are open go on.
    pub fn drain(&self) {
        self.draining.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// How many sessions are open.
    pub fn open_sessions(&self) -> usize {
        lock(&self.sessions).len()
    }

    /// Ends all sessions and waits until what they hold is undone, or `within` is over.
    pub async fn end_all(&self, within: Duration) {
        let reason = Failure::new(FailureClass::Interrupted, "zmigrated is being stopped");
        self.in_order().iter().for_each(|session| session.end(&reason));
        let _ = tokio::time::timeout(within, async {
            while self.open_sessions() > 0 {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

impl PeerSession {
    fn welcome(&self, channel: &Channel) -> Welcome {
        Welcome {
            agent: AGENT.into(),
            clock_unix_ms: unix_ms(),
            features: self.features,
            window: self.window,
            session: self.id,
            next: channel.next_expected(),
        }
    }
}

fn random_id() -> rustix::io::Result<SessionId> {
    let mut bytes = [0u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(SessionId(u128::from_le_bytes(bytes)))
}
