//! The peer's end of sessions: finds the session that a connection belongs to, and ends sessions that are over.
//!
//! ```text
//! connection ── Open   → new PeerSession, control channel, its calls are served
//!            └─ Attach → the channel of a session of the same identity, or a refusal
//! ```
//!
//! A session without a connection is kept for a while, because its initiator may only have lost the link. If a new run
//! of the same identity wants a target that such a session holds, and nobody comes back to that although the link is there, the
//! old session yields.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    engine::{Channels, Engine, EngineSession, lock},
    handshake::{refuse, welcome},
    peer::PeerSession,
    share::{Crowd, Share, admit},
};
use crate::{
    channel::{Channel, budget::Bounds, carry},
    identity::Serial,
    limits::{
        CONTROL_WINDOW, KNOCKS_WITHIN, MAX_LARGE_REPLIES, MAX_REQUEST_BYTES, MAX_REQUESTS_IN_WORK,
        MAX_REQUESTS_WAITING, MAX_STREAMS, MIN_WINDOW, YIELD_AFTER,
    },
    port::link::Connection,
    types::{Access, DatasetName, Failure, FailureClass, JobId, PeerName},
    wire::{
        codec::Use,
        hello::{Hello, RefusalCode, Role, SessionId, features},
        message::{Answer, Call, Reply, Request, SendStep},
        verify::VerifyWhat,
    },
};

/// What an identity may do; asked anew for each request, so that a reload takes effect at once.
pub trait Authority: Send + Sync {
    /// True if the identity has any grant.
    fn knows(&self, identity: &PeerName) -> bool;
    /// # Errors
    /// A `NotGranted` failure that names what is missing.
    fn check(&self, identity: &PeerName, access: Access, dataset: &DatasetName) -> Result<(), Failure>;
    /// True if the job writes on this node.
    fn is_own(&self, job: &JobId) -> bool;
    /// What that identity is granted.
    fn granted(&self, identity: &PeerName) -> Vec<(Access, DatasetName)>;
}

/// How many of what a peer serves.
#[derive(Clone, Debug)]
pub struct RegistryLimits {
    /// Sessions of one identity at a time.
    pub sessions_per_identity: usize,
    /// Connections of one identity at a time.
    pub connections_per_identity: usize,
    /// Cost of frames that a transfer may have outstanding at this side, in bytes.
    pub window_bytes: u64,
    /// Cost of frames that all transfers of one identity may keep here, in bytes, beyond [`MIN_WINDOW`] for each.
    pub memory_per_identity: u64,
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
    crowd: Arc<Crowd>,
    /// When identities asked in vain for one more session.
    knocking: Mutex<HashMap<PeerName, Instant>>,
    opened: AtomicU64,
    /// Set while the daemon drains: no new sessions.
    draining: std::sync::atomic::AtomicBool,
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
            crowd: Crowd::new(limits.connections_per_identity),
            knocking: Mutex::default(),
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
        let (_place, version, hello) = admit(&self.crowd, &mut connection, identity).await?;
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

    /// Takes in that an identity asks in vain for one more session. How long ago it did so before, where that is as long as an initiator
    /// needs that dials again, and so short that the link was hardly away meanwhile.
    fn knocked(&self, identity: &PeerName) -> Option<Duration> {
        let mut knocking = lock(&self.knocking);
        let before = knocking.entry(identity.clone()).or_insert_with(Instant::now);
        let ago = before.elapsed();
        if ago >= YIELD_AFTER {
            *before = Instant::now();
        }
        Some(ago).filter(|ago| (YIELD_AFTER..KNOCKS_WITHIN).contains(ago))
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
            let knocked = self.knocked(identity);
            // One that lost its initiator makes room for the next try; one that sends, only if all do. One that holds a target may have
            // an initiator that dials again: only if nobody did although another one got through to here in that time.
            let given_up =
                |alone: Duration, s: &PeerSession| !s.holds_anything() || knocked.is_some_and(|ago| alone > ago);
            let idle = own.iter().filter_map(|s| Some((s.alone_for()?, s)));
            let idle = idle.filter(|(alone, s)| *alone >= YIELD_AFTER && given_up(*alone, s));
            let last = |s: &PeerSession| (s.holds_anything(), s.transfers_anything());
            if let Some((_, oldest)) = idle.max_by_key(|(alone, s)| (std::cmp::Reverse(last(s)), *alone)) {
                oldest.end(&Failure::new(FailureClass::Interrupted, "the session made room for a newer one"));
            }
            return Err((RefusalCode::Busy, format!("{identity} has {limit} sessions open, which is the limit")));
        }
        if hello.window < MIN_WINDOW {
            return Err((RefusalCode::Malformed, format!("a window of {} bytes is below {MIN_WINDOW}", hello.window)));
        }
        let window = self.limits.window_bytes;
        let share = own
            .first()
            .map_or_else(|| Share::new(self.limits.memory_per_identity, window), |first| Arc::clone(&first.share));
        let session = Arc::new(PeerSession {
            id: random_id().map_err(|e| (RefusalCode::Busy, format!("no randomness: {e}")))?,
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            identity: identity.clone(),
            host: hello.host.chars().filter(|c| !c.is_control()).take(64).collect(),
            serial: serial.clone(),
            features: hello.features & features::OURS,
            control: Channel::new(CONTROL_WINDOW, CONTROL_WINDOW, self.limits.idle_timeout),
            transfers: Mutex::default(),
            bounds: Bounds::of_session(&share.memory, hello.window.min(window)),
            share,
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
        let channel = if number == 0 {
            Some(session.control.clone())
        } else {
            lock(&session.transfers).get(&number).map(|transfer| transfer.channel.clone())
        };
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
        match &end {
            End::Broken(failure) => session.end(failure),
            // Whoever says Bye has had all it wanted. The control channel still has to carry the answer.
            End::Bye(_) => session.end_transfers(&reason),
        }
        // Nothing new begins; what is in work ends by itself (a rollback that is cut off is worse than one that is late);
        // receives save their state; only then are the locks let go.
        work.begin_end();
        let answered = async { while requests.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            () = answered => {}
            // Said Bye, and went away without the answers before that.
            failure = self.abandoned(&session) => session.end(&failure),
        }
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
        let room = Arc::new(Semaphore::new(MAX_REQUEST_BYTES));
        let replies = Arc::new(Semaphore::new(MAX_LARGE_REPLIES));
        loop {
            while requests.try_join_next().is_some() {}
            if requests.len() >= MAX_REQUESTS_WAITING {
                // Calls wait in the channel's window, not in memory.
                requests.join_next().await;
                continue;
            }
            let (call, bytes): (Call, usize) = match session.control.receive_sized(Use::Request).await {
                Ok(received) => received,
                Err(failure) => return End::Broken(failure),
            };
            // However few there are: large ones wait in the channel's window, too. The semaphore is never closed.
            let room = tokio::select! {
                biased;
                failure = session.control.until_closed() => return End::Broken(failure),
                room = Arc::clone(&room).acquire_many_owned(bytes as u32) => room.ok(),
            };
            // What was queued before the session was cut, for instance because of a revocation, is not done any more.
            if let Some(failure) = session.control.closed() {
                return End::Broken(failure);
            }
            if call.request == Request::Bye {
                return End::Bye(call.id);
            }
            let (this, session, work) = (Arc::clone(self), Arc::clone(session), Arc::clone(work));
            let (slots, replies) = (Arc::clone(&slots), Arc::clone(&replies));
            requests.spawn(async move {
                // Waiting for the end of a transfer costs nothing, so it takes no place from those that work.
                let waits = match &call.request {
                    Request::FinishReceive { .. }
                    | Request::FinishSend { .. }
                    | Request::FinishProbe { .. }
                    | Request::Cutover { .. } => true,
                    // A look waits for a place of its own.
                    Request::Verify(ask) => ask.what != VerifyWhat::Changed,
                    _ => false,
                };
                let is_large = match &call.request {
                    Request::List { .. } => true,
                    Request::Verify(ask) => matches!(ask.what, VerifyWhat::Page { .. }),
                    _ => false,
                };
                // Until it is sent, and first, so that those who wait for it keep no others from working. Who holds one waits for
                // nobody but the initiator, and nothing that ends a transfer needs one.
                let _reply = if is_large { replies.acquire().await.ok() } else { None };
                let (_room, _slot) = (room, if waits { None } else { slots.acquire().await.ok() });
                // Nor what waited for its turn when it was cut.
                let result = match session.control.closed() {
                    Some(failure) => Err(failure),
                    None => this.answer(&session, &work, call.request).await,
                };
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
        // Otherwise one could let go of the holds that another node has on the same dataset, for which it is a source.
        if let Request::OpenReceive { step, .. } = &request
            && !self.authority.is_own(&step.job)
        {
            let text = format!("the job {} is not one that writes here: its holds are another's", step.job);
            return Err(Failure::new(FailureClass::NotGranted, text));
        }
        if request == Request::About {
            return work.about(self.authority.granted(&session.identity)).await;
        }
        if matches!(request, Request::OpenProbe { .. } | Request::Prepare { .. })
            && !self.authority.knows(&session.identity)
        {
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

    /// Ends sessions of the same identity that hold this target and to which nobody has come back, in more time than an
    /// initiator that lives needs to dial again, so that a new run need not wait for them for long.
    async fn evict_dead_holders(&self, asking: &PeerSession, target: &DatasetName) {
        let dead: Vec<_> = self
            .in_order()
            .into_iter()
            .filter(|s| s.id != asking.id && s.identity == asking.identity && s.holds(target))
            .filter(|s| s.yields_to(asking))
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

fn random_id() -> rustix::io::Result<SessionId> {
    let mut bytes = [0u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(SessionId(u128::from_le_bytes(bytes)))
}
