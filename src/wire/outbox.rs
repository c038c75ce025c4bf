//! The sending half of a channel: numbers frames, keeps each until the receiver has it, and spends the
//! receiver's credit.
//!
//! ```text
//!   push → [ unsent ] → take(connection) → [ on its way ] → ack → gone
//!                ↑___________ lost(connection) ______|
//! ```
//!
//! What is in here is limited to less than the window at first: more of it than the link needs to be kept busy only pushes what is worked on
//! out of the processor's caches. A limit that was reached, and was too little all the same, doubles.
//!
//! Invariants: the cost of the frames in here or unconsumed at the receiver never exceeds the window (one frame may
//! always be pushed when nothing is outstanding); a frame leaves only when it was acknowledged.

use std::collections::VecDeque;

use super::frame::{Ack, Frame};
use crate::limits::{FIRST_QUEUE, SMALL_CHUNKS_UNTIL};

/// Names one connection of a channel.
pub type ConnectionId = u64;

#[derive(Debug)]
struct Slot {
    frame: Frame,
    on: Option<ConnectionId>,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    window: u64,
    /// What of it may wait here until the receiver has it.
    limit: u64,
    /// Something had to wait for that limit since it was set.
    reached: bool,
    /// Sequence number of `slots[0]`.
    first: u64,
    slots: VecDeque<Slot>,
    /// Cost of all that was ever pushed, and of what the receiver has consumed.
    pushed: u64,
    consumed: u64,
    /// Cost of the slots.
    queued: u64,
    /// No slot before this index is unsent.
    scan_from: usize,
}

/// An acknowledgement of something that was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer acknowledged frame {got}, but only {sent} were sent")]
pub struct BadAck {
    got: u64,
    sent: u64,
}

impl Outbox {
    /// An empty outbox that lets at most `window` bytes of cost be outstanding.
    pub fn new(window: u64) -> Self {
        let limit = window.min(FIRST_QUEUE);
        Self {
            window,
            limit,
            reached: false,
            first: 0,
            slots: VecDeque::new(),
            pushed: 0,
            consumed: 0,
            queued: 0,
            scan_from: 0,
        }
    }

    /// True if a frame of that [`Frame::cost`] may be pushed now; whoever asks in vain waits.
    pub fn has_room(&mut self, cost: u64) -> bool {
        let outstanding = self.pushed - self.consumed;
        if outstanding == 0 {
            return true;
        }
        let in_limit = self.queued == 0 || self.queued + cost <= self.limit;
        self.reached |= !in_limit;
        in_limit && outstanding + cost <= self.window
    }

    /// To be called when a connection has nothing to carry. If something waited for the limit, the link could have carried more, or what
    /// gives the frames came to a stop for longer than these lasted: the limit is doubled, and true is returned.
    pub fn ran_dry(&mut self) -> bool {
        let all_carried = self.slots.iter().skip(self.scan_from).all(|slot| slot.on.is_some());
        let grows = all_carried && self.reached && self.limit < self.window;
        if grows {
            (self.limit, self.reached) = ((self.limit * 2).min(self.window), false);
        }
        grows
    }

    /// Numbers a frame and keeps it. The caller asks [`Self::has_room`] first.
    pub fn push(&mut self, mut frame: Frame) {
        frame.header.sequence = self.first + self.slots.len() as u64;
        self.pushed += frame.cost();
        self.queued += frame.cost();
        self.slots.push_back(Slot { frame, on: None });
    }

    /// The next frame for that connection to carry, if any waits.
    pub fn take(&mut self, connection: ConnectionId) -> Option<Frame> {
        let at = (self.scan_from..self.slots.len()).find(|i| self.slots[*i].on.is_none())?;
        self.scan_from = at + 1;
        let slot = &mut self.slots[at];
        slot.on = Some(connection);
        Some(slot.frame.clone())
    }

    /// As [`Self::take`], but at the beginning only if none of the connections in `all` has fewer frames on its way: so a short
    /// stream is spread evenly, whatever the buffers of the first socket would take. Later a slow connection must hold no other up.
    pub fn take_in_turn(
        &mut self,
        connection: ConnectionId,
        mut all: impl Iterator<Item = ConnectionId>,
    ) -> Option<Frame> {
        if !self.takes_turns() {
            return self.take(connection);
        }
        let load = |id: ConnectionId| self.slots.iter().filter(|slot| slot.on == Some(id)).count();
        let own = load(connection);
        if own > 0 && all.any(|other| load(other) < own) {
            return None;
        }
        self.take(connection)
    }

    /// True at the beginning, while [`Self::take_in_turn`] asks who carries least.
    pub fn takes_turns(&self) -> bool {
        self.pushed < SMALL_CHUNKS_UNTIL
    }

    /// Puts back what that connection carried and was not acknowledged.
    pub fn lost(&mut self, connection: ConnectionId) {
        for slot in self.slots.iter_mut().filter(|s| s.on == Some(connection)) {
            slot.on = None;
        }
        self.scan_from = 0;
    }

    /// Takes the receiver's word for what it has and what it has consumed. Late and repeated words do no harm.
    ///
    /// # Errors
    /// When the receiver claims more than was sent.
    pub fn ack(&mut self, ack: Ack) -> Result<(), BadAck> {
        let end = self.first + self.slots.len() as u64;
        if ack.next > end || ack.consumed > self.pushed {
            return Err(BadAck { got: ack.next, sent: end });
        }
        while self.first < ack.next {
            self.queued -= self.slots.pop_front().map_or(0, |slot| slot.frame.cost());
            self.first += 1;
            self.scan_from = self.scan_from.saturating_sub(1);
        }
        self.consumed = self.consumed.max(ack.consumed);
        Ok(())
    }

    /// How many frames the other side has.
    pub fn acknowledged(&self) -> u64 {
        self.first
    }

    /// True when the receiver has everything that was pushed.
    pub fn is_delivered(&self) -> bool {
        self.slots.is_empty()
    }

    /// Cost of what waits here or at the receiver.
    pub fn outstanding(&self) -> u64 {
        self.pushed - self.consumed
    }

    /// Cost of all frames that the other side has.
    pub fn carried(&self) -> u64 {
        self.pushed - self.queued
    }

    /// The share of what may wait here, 0 to 1, that has not reached the other side: near 1 the link is the bottleneck, whereas
    /// what waits at the receiver for `zfs receive` does not count.
    pub fn backlog(&self) -> f32 {
        self.queued as f32 / self.limit as f32
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::frame::{FRAME_COST, FrameKind};

    const FRAME: u64 = 1 << 20;

    fn fill(outbox: &mut Outbox) -> u64 {
        let frame = || Frame::plain(FrameKind::Data, 0, Bytes::from(vec![0; (FRAME - FRAME_COST) as usize]));
        let mut pushed = 0;
        while outbox.has_room(FRAME) {
            outbox.push(frame());
            pushed += 1;
        }
        pushed
    }

    #[test]
    fn a_queue_is_short_until_the_link_runs_dry() {
        let mut outbox = Outbox::new(4 * FIRST_QUEUE);
        let first = FIRST_QUEUE / FRAME;
        assert!(!outbox.ran_dry(), "nothing waits");
        assert_eq!(fill(&mut outbox), first);
        assert!(outbox.take(1).is_some() && !outbox.ran_dry(), "the link has more to carry");
        while outbox.take(1).is_some() {}
        // All is on its way, as over a long link, and more has to wait.
        assert!(outbox.ran_dry() && !outbox.ran_dry(), "once for each time that it is reached");
        assert_eq!(fill(&mut outbox), first);
        // A receiver that takes its time is no reason for more of it.
        while outbox.take(1).is_some() {}
        outbox.ack(Ack { next: 2 * first, consumed: 0 }).unwrap();
        assert!(outbox.ran_dry());
        assert_eq!(fill(&mut outbox), 2 * first, "the window is full");
        while outbox.take(1).is_some() {}
        outbox.ack(Ack { next: 4 * first, consumed: 0 }).unwrap();
        assert!(!outbox.has_room(FRAME) && !outbox.ran_dry());
    }
}
