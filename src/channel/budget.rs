//! Memory that several channels share, those of one peer as a rule: each may keep some by itself, and more only while all together
//! are within a bound. Who may keep no more takes nothing, neither from its own side nor from a connection, until something has left.
//!
//! Invariant: what the channels keep is never above the budget and, for each of them, [`MIN_WINDOW`] and the frames without which it
//! could not go on: the one that the receiver waits for, or one to send. What a session's channels have outstanding is bounded alike.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{sync::Notify, time::timeout};

use super::{Channel, State, buffers::Pool};
use crate::{
    limits::{MAX_CHUNK, MIN_WINDOW},
    types::{Failure, FailureClass},
    wire::frame::Frame,
};

/// See the module.
pub struct Budget {
    bytes: u64,
    /// Whether one channel leaves half of what is free while others use some.
    leaves_some: bool,
    taken: Mutex<Taken>,
    /// One of the channels keeps less than before, or was closed.
    pub(super) freed: Notify,
    /// Buffers for what comes in, of all of them: so one that has been full keeps none from the others.
    pub(super) pool: Pool,
}

/// What the channels have of a budget.
#[derive(Default)]
struct Taken {
    bytes: u64,
    /// How many of them keep something.
    busy: usize,
}

impl Budget {
    /// For channels that keep at most `bytes` together, beyond what each may keep by itself. Free buffers are kept for one transfer
    /// with a window of `window` bytes.
    pub fn new(bytes: u64, window: u64) -> Arc<Budget> {
        // Twice what a pipeline has in hand, beside the window.
        Arc::new(Budget::with(bytes, false, (window / MAX_CHUNK as u64) as usize + 8))
    }

    fn with(bytes: u64, leaves_some: bool, buffers: usize) -> Budget {
        Budget {
            bytes,
            leaves_some,
            taken: Mutex::default(),
            freed: Notify::new(),
            pool: Pool::new(MAX_CHUNK, buffers),
        }
    }

    /// What the channels have of it, in bytes.
    pub fn taken(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What bounds the channels of one session.
#[derive(Clone)]
pub struct Bounds {
    /// Memory for what is kept here, sent or received, which sessions of one peer may share.
    pub kept: Arc<Budget>,
    /// What this side has sent and the other has not consumed. The receivers of several transfers may stall together, and each has
    /// granted a window: so a sender that holds back keeps the memory of the *other* side within one, whatever it would be ready for.
    /// None takes more than half of what is free while others use some: so those that keep up are not left with the least by the first
    /// that stalls.
    pub outstanding: Arc<Budget>,
}

impl Bounds {
    /// For a session whose transfers have windows of `window` bytes: they have one of them outstanding in sum, beside [`MIN_WINDOW`] each.
    pub fn of_session(kept: &Arc<Budget>, window: u64) -> Bounds {
        Bounds { kept: Arc::clone(kept), outstanding: Arc::new(Budget::with(window, true, 0)) }
    }

    /// For one channel whose windows alone bound it.
    pub(super) fn of_one(window: u64) -> Bounds {
        let (kept, outstanding) = (Budget::new(u64::MAX, window), Arc::new(Budget::with(u64::MAX, false, 0)));
        Bounds { kept, outstanding }
    }
}

/// What one channel has of a budget. It goes back when dropped.
pub(super) struct Portion {
    of: Arc<Budget>,
    taken: u64,
    is_busy: bool,
}

impl Portion {
    pub(super) fn of(budget: &Arc<Budget>) -> Portion {
        Portion { of: Arc::clone(budget), taken: 0, is_busy: false }
    }

    /// What the channel may keep at most, as things are.
    pub(super) fn most(&self) -> u64 {
        self.free(&self.of.lock()).saturating_add(MIN_WINDOW)
    }

    /// What of it the channel may have.
    fn free(&self, all: &Taken) -> u64 {
        let free = self.of.bytes.saturating_sub(all.bytes - self.taken);
        let is_alone = all.busy == usize::from(self.is_busy);
        if self.of.leaves_some && !is_alone { free / 2 } else { free }
    }

    /// Takes what is lacking for a channel that keeps `kept` bytes, or gives back what is too much. False if there is not so much;
    /// then nothing was taken.
    fn cover(&mut self, kept: u64) -> bool {
        let wanted = kept.saturating_sub(MIN_WINDOW);
        let mut all = self.of.lock();
        if wanted > self.taken && wanted > self.free(&all) {
            return false;
        }
        all.bytes = all.bytes - self.taken + wanted;
        all.busy = all.busy - usize::from(self.is_busy) + usize::from(kept > 0);
        (self.taken, self.is_busy) = (wanted, kept > 0);
        true
    }

    /// The same for what the channel has in any case; tells the others if that is less than before.
    fn settle(&mut self, kept: u64) {
        let before = (self.taken, self.is_busy);
        let _ = self.cover(kept);
        if (self.taken, self.is_busy) < before {
            self.of.freed.notify_waiters();
        }
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.cover(0);
        self.of.freed.notify_waiters();
    }
}

impl State {
    fn kept(&self) -> u64 {
        self.inbox.held() + self.outbox.queued()
    }

    /// True if a frame of that cost may be kept as well.
    pub(super) fn may_keep(&mut self, cost: u64) -> bool {
        let kept = self.kept();
        self.portion.cover(kept + cost)
    }

    /// True if a frame of that cost may be sent as well, and kept until the other side has it.
    pub(super) fn may_send(&mut self, cost: u64) -> bool {
        let outstanding = self.outbox.outstanding();
        if !self.sent.cover(outstanding + cost) {
            return false;
        }
        // The other side has it all: then one more is kept in any case.
        let may_keep = self.may_keep(cost) || self.outbox.is_delivered();
        if !may_keep {
            // Nobody is told: this channel, which waits, would be told first. Whom it was refused meanwhile has acknowledgements to come.
            let _ = self.sent.cover(outstanding);
        }
        may_keep
    }

    /// Gives back what has left.
    pub(super) fn settle(&mut self) {
        let kept = self.kept();
        // What could not be covered is a frame without which nothing would go on.
        let _ = self.portion.cover(kept);
        self.portion.of.freed.notify_waiters();
        // Nothing is sent any more over one that is closed, and what was is nobody's concern.
        self.sent.settle(if self.closed.is_some() { 0 } else { self.outbox.outstanding() });
    }
}

impl Channel {
    /// A sequenced frame came in. Waits while there is no memory for it.
    ///
    /// # Errors
    /// When the other side breaks the protocol, or there was none for too long: nothing else that this connection carries can be heard
    /// meanwhile, so it counts as lost.
    pub(super) async fn deliver(&self, frame: Frame) -> Result<(), Failure> {
        let Some(frame) = self.put(frame)? else { return Ok(()) };
        let idle = self.inner.idle_timeout;
        match timeout(idle, self.put_when_there_is_room(frame)).await {
            Ok(result) => result,
            Err(_) => {
                let text =
                    format!("the connection was given up: for {} s there was no memory for more", idle.as_secs());
                Err(Failure::new(FailureClass::Unreachable, text).transient())
            }
        }
    }

    async fn put_when_there_is_room(&self, mut frame: Frame) -> Result<(), Failure> {
        loop {
            let freed = self.inner.bounds.kept.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.put(frame)? {
                Some(again) => frame = again,
                None => return Ok(()),
            }
            freed.await;
        }
    }

    /// The frame comes back if there is no room for it.
    fn put(&self, frame: Frame) -> Result<Option<Frame>, Failure> {
        let mut state = self.state();
        let sequence = frame.header.sequence;
        // What came before is no news; what is waited for makes room itself.
        let in_any_case = !state.inbox.lacks(sequence) || state.inbox.waits_for(sequence) || state.closed.is_some();
        if !in_any_case && !state.may_keep(frame.cost()) {
            return Ok(Some(frame));
        }
        let result = state.inbox.put(frame);
        state.settle();
        drop(state);
        self.inner.arrived.notify_waiters();
        self.inner.to_send.notify_waiters();
        result.map(|()| None).map_err(|e| Failure::new(FailureClass::Protocol, e))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::wire::frame::{Ack, FrameKind};

    /// How long is waited for what must not happen.
    const A_WHILE: Duration = Duration::from_millis(200);
    const WINDOW: u64 = 64 << 20;
    const BUDGET: u64 = 8 << 20;

    fn channels(n: usize) -> (Arc<Budget>, Vec<Channel>) {
        let budget = Budget::new(BUDGET, WINDOW);
        let bounds = Bounds::of_session(&budget, 8 * WINDOW);
        let one = || Channel::within(&bounds, WINDOW, WINDOW, Duration::from_secs(5));
        let channels = (0..n).map(|_| one()).collect();
        (budget, channels)
    }

    fn frame(sequence: u64) -> Frame {
        let mut frame = Frame::plain(FrameKind::Data, 0, Bytes::from(vec![1; MAX_CHUNK]));
        frame.header.sequence = sequence;
        frame
    }

    /// Takes frames from `first` on until none is taken any more, and says how many those were.
    async fn fill(channel: &Channel, first: u64) -> u64 {
        for n in 0.. {
            match timeout(A_WHILE, channel.deliver(frame(first + n))).await {
                Ok(delivered) => delivered.unwrap(),
                Err(_) => return n,
            }
        }
        unreachable!()
    }

    #[tokio::test(start_paused = true)]
    async fn many_channels_keep_no_more_than_the_budget_and_their_own_each() {
        let (budget, channels) = channels(6);
        let mut taken = 0;
        for channel in &channels {
            // Frame 0 is left out, so none of them can be consumed.
            taken += fill(channel, 1).await;
        }
        let cost = frame(0).cost();
        assert!(taken * cost <= BUDGET + 6 * MIN_WINDOW, "{taken} MiB");
        assert!(taken * cost > BUDGET + 6 * (MIN_WINDOW - cost) - cost, "{taken} MiB: less than may be kept");
        // What is waited for comes in all the same, and once it is consumed, so does the next.
        let last = channels.last().unwrap();
        last.deliver(frame(0)).await.unwrap();
        let mut late = Box::pin(last.deliver(frame(100)));
        assert!(timeout(A_WHILE, &mut late).await.is_err(), "there was no room");
        for _ in 0..4 {
            last.consumed(last.receive().await.unwrap().cost());
        }
        late.await.unwrap();
        drop(channels);
        assert_eq!(budget.taken(), 0, "what has ended keeps a part of the budget");
    }

    #[tokio::test(start_paused = true)]
    async fn one_channel_alone_has_its_whole_window_and_a_full_one_gives_back() {
        let (budget, channels) = channels(2);
        let roomy = Channel::new(WINDOW, WINDOW, Duration::from_secs(5));
        let most = WINDOW / frame(0).cost();
        for n in 1..=most {
            timeout(A_WHILE, roomy.deliver(frame(n))).await.unwrap().unwrap();
        }
        // What is sent counts as what comes in does, until the other side has it.
        let (one, other) = (&channels[0], &channels[1]);
        one.measured_rtt(Duration::from_millis(10));
        let mut sent = 0;
        while timeout(A_WHILE, one.send(frame(0))).await.is_ok() {
            sent += 1;
        }
        assert_eq!(sent, (BUDGET + MIN_WINDOW) / frame(0).cost());
        let left = BUDGET - budget.taken() + MIN_WINDOW;
        assert_eq!(fill(other, 1).await, left / frame(0).cost());
        let mut waiting = Box::pin(other.deliver(frame(50)));
        assert!(timeout(A_WHILE, &mut waiting).await.is_err(), "there was no room");
        one.acknowledged(Ack { next: sent, consumed: 0 }).unwrap();
        timeout(A_WHILE, waiting).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_finds_no_memory_for_long_is_given_up() {
        let (_budget, channels) = channels(3);
        for channel in &channels {
            fill(channel, 1).await;
        }
        let refused = channels[0].deliver(frame(99)).await.unwrap_err();
        assert!(refused.transient && refused.message.contains("no memory"), "{refused:?}");
        // Nobody waits at a channel that is closed.
        let mut waiting = Box::pin(channels[1].deliver(frame(99)));
        assert!(timeout(A_WHILE, &mut waiting).await.is_err());
        channels[1].close(Failure::new(FailureClass::Interrupted, "over"));
        timeout(A_WHILE, waiting).await.unwrap().unwrap();
    }

    /// Sends frames until none is taken any more, and says how many those were; so many were before. All of them arrive at once, and
    /// stay at the receiver.
    async fn send_to_a_stalled(channel: &Channel, sent: u64) -> u64 {
        channel.measured_rtt(Duration::from_millis(10));
        for n in 0.. {
            match timeout(A_WHILE, channel.send(frame(0))).await {
                Ok(sent) => sent.unwrap(),
                Err(_) => return n,
            }
            channel.acknowledged(Ack { next: sent + n + 1, consumed: 0 }).unwrap();
        }
        unreachable!()
    }

    #[tokio::test(start_paused = true)]
    async fn several_receivers_that_stall_have_one_window_in_sum() {
        let bounds = Bounds::of_session(&Budget::new(8 * WINDOW, WINDOW), WINDOW);
        let channels = [(); 4].map(|()| Channel::within(&bounds, WINDOW, WINDOW, Duration::from_secs(5)));
        let (cost, mut each) = (frame(0).cost(), Vec::new());
        for channel in &channels {
            each.push(send_to_a_stalled(channel, 0).await);
        }
        // The first was alone. Whatever came before, each can go on.
        assert_eq!(each, [WINDOW / cost, 6, 5, 4]);
        assert!(each.iter().sum::<u64>() * cost <= WINDOW + 4 * MIN_WINDOW, "{each:?}");
        // What one receiver takes, another may be sent.
        let mut waiting = Box::pin(channels[1].send(frame(0)));
        assert!(timeout(A_WHILE, &mut waiting).await.is_err(), "there was no room");
        channels[0].acknowledged(Ack { next: each[0], consumed: 3 * cost }).unwrap();
        timeout(A_WHILE, waiting).await.unwrap().unwrap();
        // What is closed has no part, though somebody may not have let go of it.
        channels.iter().for_each(|channel| channel.close(Failure::new(FailureClass::Interrupted, "over")));
        channels[2].acknowledged(Ack { next: 1, consumed: 0 }).unwrap();
        assert_eq!(bounds.outstanding.taken(), 0, "what has ended keeps a part");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_stalls_leaves_the_others_more_than_the_least() {
        let bounds = Bounds::of_session(&Budget::new(8 * WINDOW, WINDOW), WINDOW);
        let channels = [(); 3].map(|()| Channel::within(&bounds, WINDOW, WINDOW, Duration::from_secs(5)));
        let mut each = Vec::new();
        for channel in &channels {
            channel.send(frame(0)).await.unwrap();
        }
        for channel in &channels {
            channel.acknowledged(Ack { next: 1, consumed: 0 }).unwrap();
            each.push(1 + send_to_a_stalled(channel, 1).await);
        }
        // Half of 64 MiB, half of what is left, and so on; beside 4 MiB each.
        assert_eq!(each, [35, 20, 12]);
    }
}
