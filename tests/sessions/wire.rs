//! Connections in memory that can be cut, silenced and slowed, and the peer behind them, which can be restarted.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use zmigrate::{
    identity::Serial,
    port::link::{Dialled, Link},
    session::{
        engine::Engine,
        registry::{Authority, Registry, RegistryLimits},
    },
    types::{Access, DatasetName, Failure, FailureClass, JobId, PeerName},
    wire::{
        codec::{self, Use},
        hello::{Hello, PREFACE_LEN, encode_hello, features},
    },
};

/// What becomes of one connection. The bytes are those of one direction, from its start, handshake included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// It breaks after that many bytes towards the peer.
    pub cut_sent: Option<u64>,
    /// It breaks after that many bytes from the peer.
    pub cut_heard: Option<u64>,
    /// It swallows everything after that many bytes towards the peer, in both directions.
    pub silent_after: Option<u64>,
    /// Each read waits for so long first.
    pub delay: Option<Duration>,
    /// Who answers has another certificate.
    pub somebody_else: bool,
}

impl Trouble {
    pub fn cut_sent(after: u64) -> Trouble {
        Trouble { cut_sent: Some(after), ..Trouble::default() }
    }

    pub fn cut_heard(after: u64) -> Trouble {
        Trouble { cut_heard: Some(after), ..Trouble::default() }
    }
}

/// The initiator's end of a connection.
struct Wire {
    inner: Option<DuplexStream>,
    trouble: Trouble,
    /// Features that the hello does not name, and so neither does the answer.
    lacks: u64,
    sent: u64,
    heard: u64,
    silent: bool,
    pause: Option<Pin<Box<Sleep>>>,
    dead: Pin<Box<WaitForCancellationFutureOwned>>,
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the test cut the connection")
}

impl Wire {
    /// Fails once the connection is cut; then the peer sees its end, too.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<&mut DuplexStream> {
        let over = |limit: Option<u64>, done: u64| limit.is_some_and(|limit| done >= limit);
        if self.dead.as_mut().poll(cx).is_ready()
            || over(self.trouble.cut_sent, self.sent)
            || over(self.trouble.cut_heard, self.heard)
        {
            self.inner = None;
        }
        self.silent |= over(self.trouble.silent_after, self.sent);
        self.inner.as_mut().ok_or_else(reset)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check(cx)?;
        if this.silent {
            return Poll::Pending;
        }
        if let Some(delay) = this.trouble.delay {
            ready!(this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(delay))).as_mut().poll(cx));
        }
        let most = this.trouble.cut_heard.map_or(u64::MAX, |limit| limit - this.heard);
        let room = buf.remaining().min(usize::try_from(most).unwrap_or(usize::MAX));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        let Some(inner) = &mut this.inner else { return Poll::Ready(Err(reset())) };
        ready!(Pin::new(inner).poll_read(cx, &mut part))?;
        let n = part.filled().len();
        buf.advance(n);
        this.heard += n as u64;
        this.pause = None;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.check(cx)?;
        if this.silent {
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.lacks != 0 && this.sent == 0 {
            let old = hello_without(this.lacks, bytes);
            let Some(inner) = &mut this.inner else { return Poll::Ready(Err(reset())) };
            let n = ready!(Pin::new(inner).poll_write(cx, &old))?;
            assert_eq!(n, old.len(), "an empty pipe takes a hello");
            this.sent += n as u64;
            return Poll::Ready(Ok(bytes.len()));
        }
        let most = this.trouble.cut_sent.map_or(u64::MAX, |limit| limit - this.sent);
        let part = &bytes[..bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
        let Some(inner) = &mut this.inner else { return Poll::Ready(Err(reset())) };
        let n = ready!(Pin::new(inner).poll_write(cx, part))?;
        this.sent += n as u64;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.check(cx)?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.check(cx)?).poll_shutdown(cx)
    }
}

/// The same hello, with the features of the first release alone.
fn hello_without(lacks: u64, bytes: &[u8]) -> Vec<u8> {
    let hello: Hello = codec::decode(&bytes[PREFACE_LEN..], Use::Hello).expect("the client writes its hello at once");
    encode_hello(&Hello { features: hello.features & !lacks, ..hello }).unwrap()
}

/// Grants in memory.
#[derive(Default)]
pub struct Grants(pub HashMap<PeerName, Vec<(Access, DatasetName)>>);

impl Authority for Grants {
    fn knows(&self, identity: &PeerName) -> bool {
        self.0.contains_key(identity)
    }

    fn is_own(&self, job: &JobId) -> bool {
        job.belongs_to(&"far".parse().unwrap())
    }

    fn granted(&self, identity: &PeerName) -> Vec<(Access, DatasetName)> {
        self.0.get(identity).cloned().unwrap_or_default()
    }

    fn check(&self, identity: &PeerName, access: Access, dataset: &DatasetName) -> Result<(), Failure> {
        let granted = self
            .0
            .get(identity)
            .is_some_and(|list| list.iter().any(|(granted, root)| *granted == access && dataset.is_at_or_below(root)));
        let refusal = || Failure::new(FailureClass::NotGranted, format!("{access} of {dataset} is not granted"));
        if granted { Ok(()) } else { Err(refusal()) }
    }
}

/// Two ends between which everything takes so long, however much it is.
fn long_link(latency: Duration) -> (DuplexStream, DuplexStream) {
    let (ours, near) = tokio::io::duplex(64 << 10);
    let (far, theirs) = tokio::io::duplex(64 << 10);
    let ((near_out, near_in), (far_out, far_in)) = (tokio::io::split(near), tokio::io::split(far));
    tokio::spawn(carry_late(near_out, far_in, latency));
    tokio::spawn(carry_late(far_out, near_in, latency));
    (ours, theirs)
}

async fn carry_late(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, latency: Duration) {
    let (departs, mut arrives) = tokio::sync::mpsc::unbounded_channel();
    let out = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let _ = departs.send((tokio::time::Instant::now() + latency, buffer[..n].to_vec()));
        }
    };
    let into = async move {
        while let Some((at, bytes)) = arrives.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(out, into);
}

/// A daemon in memory: the registry of the moment.
pub struct Daemon {
    engine: Arc<Engine>,
    authority: Arc<dyn Authority>,
    limits: RegistryLimits,
    now: Mutex<(Arc<Registry>, CancellationToken)>,
}

impl Daemon {
    pub fn new(engine: Arc<Engine>, authority: impl Authority + 'static, limits: RegistryLimits) -> Arc<Daemon> {
        let authority: Arc<dyn Authority> = Arc::new(authority);
        let registry = Registry::new(Arc::clone(&engine), Arc::clone(&authority), limits.clone());
        Arc::new(Daemon { engine, authority, limits, now: Mutex::new((registry, CancellationToken::new())) })
    }

    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.now.lock().unwrap().0)
    }

    /// How many hold the engine: each session does while it lives.
    pub fn holders_of_the_engine(&self) -> usize {
        Arc::strong_count(&self.engine)
    }

    /// Stops as on SIGTERM and starts again at once; the old one still has to end what it had in work.
    pub fn restart(&self) {
        let new = Registry::new(Arc::clone(&self.engine), Arc::clone(&self.authority), self.limits.clone());
        let (old, connections) = std::mem::replace(&mut *self.now.lock().unwrap(), (new, CancellationToken::new()));
        connections.cancel();
        tokio::spawn(async move { old.end_all(Duration::from_secs(60)).await });
    }

    /// A connection to the daemon of this moment.
    fn connect(
        &self,
        identity: &PeerName,
        trouble: Trouble,
        lacks: u64,
        dead: &CancellationToken,
        latency: Duration,
    ) -> Wire {
        let (ours, theirs) = if latency.is_zero() { tokio::io::duplex(64 << 10) } else { long_link(latency) };
        let (registry, alive) = self.now.lock().unwrap().clone();
        let (identity, serial) = (identity.clone(), Serial::try_from("0a".to_owned()).unwrap());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = registry.serve(Box::new(theirs), &identity, &serial) => {}
                () = alive.cancelled() => {}
            }
        });
        Wire {
            inner: Some(ours),
            trouble,
            lacks,
            sent: 0,
            heard: 0,
            silent: false,
            pause: None,
            dead: Box::pin(dead.clone().cancelled_owned()),
        }
    }
}

/// Dials a [`Daemon`]. Each connection meets the trouble that waits for it.
pub struct SimLink {
    daemon: Arc<Daemon>,
    /// The name in our certificate.
    us: PeerName,
    /// The name in the daemon's.
    them: PeerName,
    troubles: Mutex<VecDeque<Trouble>>,
    dials: AtomicU64,
    down: AtomicBool,
    /// Of each connection, in either direction.
    latency: Mutex<Duration>,
    lacks: AtomicU64,
    live: Mutex<CancellationToken>,
}

impl SimLink {
    pub fn new(daemon: &Arc<Daemon>, us: &PeerName, them: &PeerName) -> Arc<SimLink> {
        Arc::new(SimLink {
            daemon: Arc::clone(daemon),
            us: us.clone(),
            them: them.clone(),
            troubles: Mutex::default(),
            dials: AtomicU64::new(0),
            down: AtomicBool::new(false),
            latency: Mutex::default(),
            lacks: AtomicU64::new(0),
            live: Mutex::default(),
        })
    }

    /// For the next connections, in the order in which they are dialled.
    pub fn expect(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.troubles.lock().unwrap().extend(troubles);
    }

    pub fn heal(&self) {
        self.troubles.lock().unwrap().clear();
        self.down.store(false, Ordering::SeqCst);
    }

    /// From now on whatever is sent arrives so much later.
    pub fn is_long(&self, latency: Duration) {
        *self.latency.lock().unwrap() = latency;
    }

    /// From now on either side takes the other for one of the first release.
    pub fn of_the_first_release(&self) {
        self.lacks(!features::STRIPING);
    }

    /// From now on either side takes the other for one without these features.
    pub fn lacks(&self, features: u64) {
        self.lacks.store(features, Ordering::SeqCst);
    }

    /// Troubles that no connection has met yet.
    pub fn left(&self) -> usize {
        self.troubles.lock().unwrap().len()
    }

    pub fn dials(&self) -> u64 {
        self.dials.load(Ordering::SeqCst)
    }

    /// Cuts what is open.
    pub fn cut(&self) {
        std::mem::take(&mut *self.live.lock().unwrap()).cancel();
    }

    /// Cuts what is open, for good: as if this initiator's host had vanished.
    pub fn vanish(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.cut();
    }
}

impl fmt::Display for SimLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.them)
    }
}

#[async_trait]
impl Link for SimLink {
    async fn dial(&self) -> Result<Dialled, Failure> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return Err(Failure::new(FailureClass::Unreachable, "no route to the peer").transient());
        }
        let trouble = self.troubles.lock().unwrap().pop_front().unwrap_or_default();
        let dead = self.live.lock().unwrap().clone();
        let latency = *self.latency.lock().unwrap();
        // What TCP and TLS say to each other first, two round trips.
        tokio::time::sleep(4 * latency).await;
        let lacks = self.lacks.load(Ordering::SeqCst);
        let connection = Box::new(self.daemon.connect(&self.us, trouble, lacks, &dead, latency));
        let identity = if trouble.somebody_else { "somebody-else".parse().unwrap() } else { self.them.clone() };
        Ok(Dialled { connection, identity, chain: Vec::new() })
    }
}
