//! The initiator's end of a session: one control channel for calls, one channel for each transfer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::oneshot, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::{
    engine::{Channels, EngineSession},
    handshake::{initiate, refused},
    keeper::{Dialer, join_large, keep},
};
use crate::{
    channel::{
        Channel,
        budget::{Bounds, Budget},
    },
    limits::{CONTROL_WINDOW, MAX_STREAMS, REDIAL_MAX, WINDOWS_PER_IDENTITY},
    port::link::Link,
    types::{Failure, FailureClass, PeerName, transfer::Streams},
    wire::{
        codec::Use,
        hello::{Hello, Role, features},
        message::{Answer, Call, Reply, Request},
    },
};

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Cost of frames that a transfer may have outstanding at our side, in bytes.
    pub window_bytes: u64,
    /// How long the first connection is tried.
    pub connect_for: Duration,
    /// How long a lost connection is dialled again.
    pub lost_after: Duration,
    /// Silence after which a connection counts as lost.
    pub idle_timeout: Duration,
    /// Connections for each transfer.
    pub streams: Streams,
    /// Our host's name, for "who holds the target".
    pub host: String,
}

/// Who waits for the answer to which call.
type Pending = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Reply, Failure>>>>>;

/// An open session with a peer.
pub struct Client {
    dialer: Dialer,
    control: Channel,
    pending: Pending,
    next_call: AtomicU64,
    next_channel: AtomicU32,
    transfers: Mutex<BTreeMap<u32, Transfer>>,
    /// What bounds them.
    bounds: Bounds,
    send_window: u64,
    window: u64,
    streams: Streams,
    clock_skew_ms: i64,
    version: u16,
    agent: String,
    features: u64,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

struct Transfer {
    channel: Channel,
    keepers: Vec<AbortOnDropHandle<()>>,
}

/// How long a command waits at its end for the peer to have let everything go; the peer does so in any case.
const BYE: Duration = Duration::from_secs(3);

/// Program and version, as the handshake carries them.
pub const AGENT: &str = concat!("zmigrate ", env!("CARGO_PKG_VERSION"));

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Client {
    /// Dials, says hello and opens a session.
    ///
    /// # Errors
    /// `Unreachable` when the peer cannot be reached within `connect_for`, `NotGranted` when one side does not trust
    /// the other, `Protocol` when they have no version in common.
    pub async fn connect(link: Arc<dyn Link>, options: &ClientOptions) -> Result<Arc<Client>, Failure> {
        let hello = Hello {
            agent: AGENT.into(),
            host: options.host.clone(),
            clock_unix_ms: unix_ms(),
            features: features::OURS,
            window: options.window_bytes,
            role: Role::Open,
        };
        let deadline = tokio::time::Instant::now() + options.connect_for;
        let mut pause = Duration::from_millis(200);
        let (dialled, version, welcome) = loop {
            match open(&*link, &hello).await {
                Ok(opened) => break opened,
                Err(failure) if failure.transient && tokio::time::Instant::now() + pause < deadline => {
                    tracing::debug!(peer = %link, "{failure}");
                    sleep(pause).await;
                    pause = (pause * 2).min(REDIAL_MAX);
                }
                Err(failure) => return Err(failure),
            }
        };
        let dialer = Dialer {
            link,
            session: welcome.session,
            identity: dialled.identity.clone(),
            hello,
            lost_after: options.lost_after,
        };
        let control = Channel::new(CONTROL_WINDOW, CONTROL_WINDOW, options.idle_timeout);
        let pending: Pending = Arc::default();
        let first = Some((dialled.connection, welcome.next));
        let tasks = vec![
            spawn(keep(dialer.clone(), control.clone(), 0, 0, first)),
            spawn(read_answers(control.clone(), Arc::clone(&pending), dialled.identity.to_string())),
        ];
        let send_window = welcome.window.min(options.window_bytes);
        let kept = Budget::new(options.window_bytes.saturating_mul(WINDOWS_PER_IDENTITY), options.window_bytes);
        let striping = welcome.features & features::STRIPING != 0;
        Ok(Arc::new(Client {
            dialer,
            control,
            pending,
            next_call: AtomicU64::new(0),
            next_channel: AtomicU32::new(1),
            transfers: Mutex::default(),
            bounds: Bounds::of_session(&kept, send_window),
            send_window,
            window: options.window_bytes,
            streams: if striping { options.streams } else { Streams::Fixed(1) },
            clock_skew_ms: welcome.clock_unix_ms as i64 - unix_ms() as i64,
            version,
            agent: welcome.agent.chars().filter(|c| !c.is_control()).take(64).collect(),
            features: welcome.features,
            _tasks: tasks,
        }))
    }

    /// The identity in the peer's certificate.
    pub fn identity(&self) -> &PeerName {
        &self.dialer.identity
    }

    /// The version of the protocol that was agreed on.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The peer's program and version.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// True if both sides have that feature ([`features`]).
    pub fn has(&self, feature: u64) -> bool {
        self.features & features::OURS & feature == feature
    }

    /// Why the session is over; `None` while it lives.
    pub fn ended(&self) -> Option<Failure> {
        self.control.closed()
    }

    /// The last round-trip time on the control connection.
    pub fn rtt(&self) -> Option<Duration> {
        self.control.rtt()
    }

    /// How far the peer's clock is ahead of ours, in milliseconds, round-trip time included.
    pub fn clock_skew_ms(&self) -> i64 {
        self.clock_skew_ms
    }

    /// Asks the peer to do something and waits for what came of it, across lost connections.
    ///
    /// # Errors
    /// What the peer says, or that the session is lost.
    pub async fn call(&self, request: Request) -> Result<Reply, Failure> {
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        lock(&self.pending).insert(id, tell);
        // After the insertion: if the channel closes in between, either the sweep or this check sees it.
        if let Some(failure) = self.control.closed() {
            lock(&self.pending).remove(&id);
            return Err(failure);
        }
        if let Err(failure) = self.control.send_message(&Call { id, request }, Use::Request).await {
            lock(&self.pending).remove(&id);
            return Err(failure);
        }
        match told.await {
            Ok(result) => result,
            Err(_) => Err(self.control.closed().unwrap_or_else(|| session_lost("the session ended"))),
        }
    }

    /// A number for the next transfer's channel.
    pub fn next_channel(&self) -> u32 {
        self.next_channel.fetch_add(1, Ordering::Relaxed)
    }

    /// Connects a transfer's channel, which both sides have opened by now.
    pub fn attach(&self, number: u32) {
        self.attach_by(number, self.streams);
    }

    fn attach_by(&self, number: u32, streams: Streams) {
        let mut transfers = lock(&self.transfers);
        if let Some(transfer) = transfers.get_mut(&number) {
            let keeper = |stripe| keep(self.dialer.clone(), transfer.channel.clone(), number, stripe, None);
            transfer.keepers = match streams {
                Streams::Fixed(n) => (0..n.clamp(1, MAX_STREAMS)).map(|stripe| spawn(keeper(stripe))).collect(),
                Streams::Auto => {
                    let second = join_large(self.dialer.clone(), transfer.channel.clone(), number);
                    vec![spawn(keeper(0)), spawn(second)]
                }
            };
        }
    }

    /// Opens and connects a channel ahead of the transfer that will use it, so that this costs no round trip then; `None`
    /// where the peer cannot. `local` is our end's engine, which keeps its half.
    ///
    /// # Errors
    /// When one side has no place for another transfer, or the session is lost.
    pub async fn prepare(&self, local: &EngineSession, streams: u16) -> Result<Option<u32>, Failure> {
        if !self.has(features::PREPARE) {
            return Ok(None);
        }
        let channel = self.next_channel();
        self.call(Request::Prepare { channel }).await?;
        if let Err(failure) = local.handle(Request::Prepare { channel }).await {
            let _ = self.call(Request::Cancel { channel }).await;
            return Err(failure);
        }
        let several = self.streams == Streams::Auto && streams > 1;
        self.attach_by(channel, if several { Streams::Fixed(streams) } else { self.streams });
        Ok(Some(channel))
    }

    /// False once the channel of that number is closed.
    pub fn is_open(&self, number: u32) -> bool {
        lock(&self.transfers).get(&number).is_some_and(|transfer| transfer.channel.closed().is_none())
    }

    /// Lets a transfer's channel go.
    pub fn close_channel(&self, number: u32) {
        if let Some(transfer) = lock(&self.transfers).remove(&number) {
            transfer.channel.close(Failure::new(FailureClass::Interrupted, "the transfer has ended"));
            // Its connections say goodbye by themselves.
            transfer.keepers.into_iter().for_each(|keeper| drop(keeper.detach()));
        }
    }

    /// Ends the session so that the peer's locks are free at once. Failing to say so is not an error.
    pub async fn bye(&self) {
        let _ = tokio::time::timeout(BYE, self.call(Request::Bye)).await;
        self.control.close(session_lost("the session has ended"));
    }
}

impl Channels for Client {
    fn open(&self, number: u32) -> Result<Channel, Failure> {
        let channel = Channel::within(&self.bounds, self.send_window, self.window, self.control.idle_timeout());
        lock(&self.transfers).insert(number, Transfer { channel: channel.clone(), keepers: Vec::new() });
        Ok(channel)
    }

    fn close(&self, number: u32) {
        self.close_channel(number);
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    // What it says belongs to the run.
    AbortOnDropHandle::new(tokio::spawn(task.in_current_span()))
}

fn session_lost(what: &str) -> Failure {
    Failure::new(FailureClass::SessionLost, what)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn open(
    link: &dyn Link,
    hello: &Hello,
) -> Result<(crate::port::link::Dialled, u16, crate::wire::hello::Welcome), Failure> {
    let mut dialled = link.dial().await?;
    match initiate(&mut dialled.connection, hello).await? {
        Ok((version, welcome)) => Ok((dialled, version, welcome)),
        Err(refusal) => Err(refused(&link.to_string(), refusal)),
    }
}

/// A failure there speaks of paths and processes of that host, whose identity is `place`.
async fn read_answers(control: Channel, pending: Pending, place: String) {
    loop {
        match control.receive_message::<Answer>(Use::Reply).await {
            Ok(answer) => {
                if let Some(tell) = lock(&pending).remove(&answer.id) {
                    // The caller may have stopped waiting.
                    let result = answer.result.map(Reply::printable);
                    let _ = tell.send(result.map_err(|failure| failure.printable().at(&place)));
                }
            }
            Err(failure) => {
                control.close(failure.clone());
                for tell in std::mem::take(&mut *lock(&pending)).into_values() {
                    let _ = tell.send(Err(failure.clone()));
                }
                return;
            }
        }
    }
}
