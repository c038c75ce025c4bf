//! A channel: frames in order, exactly once, in both directions, over connections that may come and go.
//!
//! Invariants: a frame handed to [`Channel::send`] is delivered once or the channel ends; what is outstanding never
//! exceeds the window; after [`Channel::close`] nothing waits for ever.

pub mod budget;
pub mod buffers;
mod connection;
mod messages;
mod rate;
mod reach;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

pub use connection::carry;
use rate::Charge;
pub use rate::RateLimit;

use self::{
    budget::{Bounds, Portion},
    buffers::Pool,
    reach::Reach,
};

use crate::{
    types::{Failure, FailureClass},
    wire::{
        frame::{Ack, Frame, FrameKind},
        inbox::Inbox,
        outbox::{ConnectionId, Outbox},
    },
};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// Held while the frames of a message are handed over.
    messages: tokio::sync::Mutex<()>,
    idle_timeout: Duration,
    /// A frame or an acknowledgement waits to be carried, or the channel was closed.
    to_send: Notify,
    /// The window has room again, all was delivered, or the channel was closed.
    room: Notify,
    /// A frame came, or the channel was closed.
    arrived: Notify,
    /// A connection came or went.
    connections: Notify,
    /// Payload bytes carried, without repeats.
    payload_bytes: AtomicU64,
    /// Round-trip time in microseconds, of the last ping; 0 while unknown.
    rtt_us: AtomicU64,
    /// Time that connections spent in writes, in nanoseconds.
    carrying_ns: AtomicU64,
    /// Memory, and what may be outstanding, which it may share with others.
    bounds: Bounds,
}

struct State {
    outbox: Outbox,
    inbox: Inbox,
    /// What it has of the memory.
    portion: Portion,
    /// What it has of what may be outstanding.
    sent: Portion,
    reach: Reach,
    /// The live connections.
    live: BTreeMap<ConnectionId, Live>,
    next_connection: ConnectionId,
    most_connections: u16,
    /// When the last connection went.
    alone_since: Option<Instant>,
    closed: Option<Failure>,
    rate: Option<Arc<RateLimit>>,
}

struct Live {
    /// Which of the parallel connections of the channel it is.
    stripe: u16,
    /// What it told the other side last.
    told: Option<Ack>,
    since: Instant,
}

/// What a connection's writer shall do next.
pub(super) enum Next {
    /// Carry this frame, as soon as the limit lets it through, if there is one.
    Frame(Frame, Option<Charge>),
    /// Tell the other side how far we are.
    Ack(Ack),
    /// Wait: nothing to do.
    Wait,
    /// The channel is closed.
    Closed,
}

impl Channel {
    /// A channel without connections. `send_window` is what the other side is ready to hold, `receive_window` what
    /// this side is, both as cost of frames in bytes. A connection on which nothing is heard for `idle_timeout` is lost.
    pub fn new(send_window: u64, receive_window: u64, idle_timeout: Duration) -> Channel {
        let bounds = Bounds::of_one(send_window.max(receive_window));
        Channel::within(&bounds, send_window, receive_window, idle_timeout)
    }

    /// The same, for one that shares its bounds with others.
    pub fn within(bounds: &Bounds, send_window: u64, receive_window: u64, idle_timeout: Duration) -> Channel {
        Channel {
            inner: Arc::new(Inner {
                state: Mutex::new(State {
                    outbox: Outbox::new(send_window),
                    inbox: Inbox::new(receive_window),
                    portion: Portion::of(&bounds.kept),
                    sent: Portion::of(&bounds.outstanding),
                    reach: Reach::new(Instant::now()),
                    live: BTreeMap::new(),
                    next_connection: 0,
                    most_connections: 0,
                    alone_since: Some(Instant::now()),
                    closed: None,
                    rate: None,
                }),
                messages: tokio::sync::Mutex::new(()),
                idle_timeout,
                to_send: Notify::new(),
                room: Notify::new(),
                arrived: Notify::new(),
                connections: Notify::new(),
                payload_bytes: AtomicU64::new(0),
                rtt_us: AtomicU64::new(0),
                carrying_ns: AtomicU64::new(0),
                bounds: bounds.clone(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The lock is held for a few instructions that do not panic; if one did, its state is still whole.
        self.inner.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Keeps the data of this channel to a rate that others may share.
    pub fn limit_rate(&self, rate: Arc<RateLimit>) {
        self.state().rate = Some(rate);
    }

    /// Waits for room in the window, then hands a frame over.
    ///
    /// # Errors
    /// When the channel is closed.
    pub async fn send(&self, frame: Frame) -> Result<(), Failure> {
        let mut waits_since = None;
        loop {
            let Bounds { kept, outstanding } = &self.inner.bounds;
            let (room, freed, consumed) =
                (self.inner.room.notified(), kept.freed.notified(), outstanding.freed.notified());
            tokio::pin!(room, freed, consumed);
            room.as_mut().enable();
            freed.as_mut().enable();
            consumed.as_mut().enable();
            let look_again = {
                let mut state = self.state();
                if let Some(failure) = &state.closed {
                    return Err(failure.clone());
                }
                let (now, cost) = (Instant::now(), frame.cost());
                let within = state.reach.of(state.outbox.window(), state.live.len(), now);
                let has_room = state.outbox.has_room(cost, within);
                if has_room && state.may_send(cost) {
                    let is_dry = state.outbox.outstanding() == 0;
                    state.reach.hands_over(is_dry, now);
                    self.inner.payload_bytes.fetch_add(frame.payload.len() as u64, Ordering::Relaxed);
                    state.outbox.push(frame);
                    self.inner.to_send.notify_waiters();
                    return Ok(());
                }
                // Of several connections, one may have brought what another's frames keep from being counted as there.
                let receiver_has = state.outbox.outstanding() > state.outbox.queued() || state.live.len() > 1;
                let since = *waits_since.get_or_insert(now);
                // What others have does not come by looking again.
                if has_room { None } else { state.reach.waits(since, receiver_has, now) }
            };
            tokio::select! {
                biased;
                () = room => {}
                () = freed => {}
                () = consumed => {}
                () = sleep_until(look_again.unwrap_or_else(Instant::now)), if look_again.is_some() => {}
            }
        }
    }

    /// The next frame in order. Its cost stays charged until [`Self::consumed`] is called.
    ///
    /// # Errors
    /// When the channel is closed and all that came before is taken.
    pub async fn receive(&self) -> Result<Frame, Failure> {
        loop {
            let arrived = self.inner.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(frame) = state.inbox.pop() {
                    // Another is waited for now.
                    state.settle();
                    return Ok(frame);
                }
                if let Some(failure) = &state.closed {
                    return Err(failure.clone());
                }
            }
            arrived.await;
        }
    }

    /// Says that a received frame of that cost has left memory, which lets the other side send as much again.
    pub fn consumed(&self, cost: u64) {
        let mut state = self.state();
        state.inbox.consumed(cost);
        state.settle();
        drop(state);
        self.inner.to_send.notify_waiters();
    }

    /// Waits until the other side has everything that was sent.
    ///
    /// # Errors
    /// When the channel is closed before.
    pub async fn delivered(&self) -> Result<(), Failure> {
        loop {
            let room = self.inner.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = self.state();
                if state.outbox.is_delivered() {
                    return Ok(());
                }
                if let Some(failure) = &state.closed {
                    return Err(failure.clone());
                }
            }
            room.await;
        }
    }

    /// Ends the channel: what waits on it gets this failure, connections are let go. The first reason stays.
    pub fn close(&self, reason: Failure) {
        let mut state = self.state();
        state.closed.get_or_insert(reason);
        state.settle();
        drop(state);
        let Inner { to_send, room, arrived, connections, bounds: Bounds { kept, outstanding }, .. } = &*self.inner;
        [to_send, room, arrived, connections, &kept.freed, &outstanding.freed]
            .into_iter()
            .for_each(Notify::notify_waiters);
    }

    /// Why the channel is closed, if it is.
    pub fn closed(&self) -> Option<Failure> {
        self.state().closed.clone()
    }

    /// Waits until the channel is closed.
    pub async fn until_closed(&self) -> Failure {
        self.until(|state| state.closed.clone()).await
    }

    async fn until<T>(&self, ready: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.inner.connections.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready(&self.state()) {
                return value;
            }
            changed.await;
        }
    }

    /// Since when the channel has had no connection; `None` while it has one.
    pub fn alone_since(&self) -> Option<Instant> {
        self.state().alone_since
    }

    /// Since when the oldest of its connections has lived.
    pub fn connected_since(&self) -> Option<Instant> {
        self.state().live.values().map(|live| live.since).min()
    }

    /// The lowest frame that this side does not have: what to tell the other side when attaching.
    pub fn next_expected(&self) -> u64 {
        self.state().inbox.ack().next
    }

    /// The share of the sending window, 0 to 1, that the link has not carried yet, and the cost of all that it has. Near 1 the link is the
    /// bottleneck; what waits at the receiver for `zfs receive` does not count. Where less than the window is used, it is of that.
    pub fn backlog(&self) -> (f32, u64) {
        let state = self.state();
        let most = state.reach.of(state.outbox.window(), state.live.len(), Instant::now());
        let most = most.min(state.portion.most()).min(state.sent.most());
        ((state.outbox.queued() as f32 / most as f32).min(1.0), state.outbox.carried())
    }

    /// Payload bytes handed over for sending so far.
    pub fn payload_bytes(&self) -> u64 {
        self.inner.payload_bytes.load(Ordering::Relaxed)
    }

    /// Silence after which a connection of this channel counts as lost.
    pub fn idle_timeout(&self) -> Duration {
        self.inner.idle_timeout
    }

    /// A number that rises whenever a frame gets through, in either direction.
    pub fn frames_through(&self) -> u64 {
        let state = self.state();
        state.outbox.acknowledged() + state.inbox.ack().next
    }

    /// The last round-trip time that was measured.
    pub fn rtt(&self) -> Option<Duration> {
        let us = self.inner.rtt_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    /// The time that its connections spent in writes, added up.
    pub fn carrying(&self) -> Duration {
        Duration::from_nanos(self.inner.carrying_ns.load(Ordering::Relaxed))
    }

    /// What the other side is ready to hold, as cost of frames in bytes.
    pub fn send_window(&self) -> u64 {
        self.state().outbox.window()
    }

    /// The most connections that it has had at a time.
    pub fn most_connections(&self) -> u16 {
        self.state().most_connections
    }

    /// The cost of the frames that the other side has, and of those that this side has taken.
    pub fn bytes_through(&self) -> u64 {
        let state = self.state();
        state.outbox.carried() + state.inbox.ack().consumed
    }

    // What follows is for connections (connection.rs).

    /// Registers a connection of which the other side said that `their_next` is the lowest frame it lacks. It takes the
    /// place of an older one of the same stripe, which the other side has given up even if we have not noticed.
    pub(super) fn attach(&self, stripe: u16, their_next: u64) -> Result<ConnectionId, Failure> {
        let mut state = self.state();
        if let Some(failure) = &state.closed {
            return Err(failure.clone());
        }
        // Attaching says which frames arrived; what was consumed, the next Ack will say.
        state.outbox.ack(Ack { next: their_next, consumed: 0 }).map_err(|e| Failure::new(FailureClass::Protocol, e))?;
        state.settle();
        let old: Vec<_> = state.live.iter().filter(|(_, live)| live.stripe == stripe).map(|(id, _)| *id).collect();
        for id in old {
            state.live.remove(&id);
            state.outbox.lost(id);
        }
        let id = state.next_connection;
        state.next_connection += 1;
        state.live.insert(id, Live { stripe, told: None, since: Instant::now() });
        state.most_connections = state.most_connections.max(state.live.len() as u16);
        state.alone_since = None;
        drop(state);
        self.inner.to_send.notify_waiters();
        self.inner.room.notify_waiters();
        self.inner.connections.notify_waiters();
        Ok(id)
    }

    /// A connection is gone: what it carried and was not acknowledged is carried again.
    pub(super) fn detach(&self, id: ConnectionId) {
        let mut state = self.state();
        state.live.remove(&id);
        state.outbox.lost(id);
        if state.live.is_empty() && state.alone_since.is_none() {
            state.alone_since = Some(Instant::now());
        }
        drop(state);
        self.inner.to_send.notify_waiters();
        self.inner.connections.notify_waiters();
    }

    /// What the writer of a connection shall do next.
    pub(super) fn next(&self, id: ConnectionId) -> Next {
        let mut state = self.state();
        let ack = state.inbox.ack();
        match state.live.get_mut(&id) {
            None => return Next::Closed,
            // Told on every stripe, on purpose: one of them may be dead without anybody knowing yet, and must not have the
            // only copy. It costs some forty bytes a stripe for a frame of up to a megabyte, and those of a burst are one.
            Some(live) if live.told != Some(ack) => {
                live.told = Some(ack);
                return Next::Ack(ack);
            }
            Some(_) => {}
        }
        // After the last Ack, so that the other side need not wait for it.
        if state.closed.is_some() {
            return Next::Closed;
        }
        let State { outbox, live, .. } = &mut *state;
        let Some(frame) = outbox.take_in_turn(id, live.keys().copied()) else { return Next::Wait };
        self.turn_changes(&state);
        let rate = state.rate.as_ref().filter(|_| frame.header.kind == FrameKind::Data);
        let charge = rate.map(|rate| rate.charge(frame.wire_len()));
        Next::Frame(frame, charge)
    }

    /// Which of the connections is loaded least may have changed.
    fn turn_changes(&self, state: &State) {
        if state.live.len() > 1 && state.outbox.takes_turns() {
            self.inner.to_send.notify_waiters();
        }
    }

    /// Resolves when [`Self::next`] may have something new to say.
    pub(super) fn something_to_send(&self) -> tokio::sync::futures::Notified<'_> {
        self.inner.to_send.notified()
    }

    /// The other side said how far it is.
    pub(super) fn acknowledged(&self, ack: Ack) -> Result<(), Failure> {
        let mut state = self.state();
        let outstanding = state.outbox.outstanding();
        let result = state.outbox.ack(ack);
        if state.outbox.outstanding() < outstanding {
            state.reach.took(Instant::now());
        }
        state.settle();
        self.turn_changes(&state);
        drop(state);
        self.inner.room.notify_waiters();
        result.map_err(|e| Failure::new(FailureClass::Protocol, e))
    }

    /// Where buffers for full chunks come from.
    pub fn pool(&self) -> &Pool {
        &self.inner.bounds.kept.pool
    }

    /// A connection spent that time in a write.
    pub(super) fn has_carried(&self, spent: Duration) {
        self.inner.carrying_ns.fetch_add(spent.as_nanos() as u64, Ordering::Relaxed);
    }

    /// A ping came back.
    pub(super) fn measured_rtt(&self, rtt: Duration) {
        self.state().reach.measured(rtt);
        self.inner.rtt_us.store(rtt.as_micros().clamp(1, u128::from(u64::MAX)) as u64, Ordering::Relaxed);
    }
}
