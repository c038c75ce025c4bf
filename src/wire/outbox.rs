//! The sending half of a channel: numbers frames, keeps each until the receiver has it, and spends the
//! receiver's credit.
//!
//! ```text
//!   push → [ unsent ] → take(connection) → [ on its way ] → ack → gone
//!                ↑___________ lost(connection) ______|
//! ```
//!
//! Invariants: the cost of the frames in here or unconsumed at the receiver never exceeds the window (one frame may
//! always be pushed when nothing is outstanding), whatever the receiver says; a frame leaves only when it was acknowledged.

use std::collections::VecDeque;

use super::frame::{Ack, Frame};
use crate::limits::SMALL_CHUNKS_UNTIL;

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

/// A receiver's word that cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAck {
    /// An acknowledgement of something that was never sent.
    #[error("the peer acknowledged frame {got}, but only {sent} were sent")]
    NeverSent {
        /// The lowest frame that it says it lacks.
        got: u64,
        /// How many were sent.
        sent: u64,
    },
    /// More was consumed than arrived.
    #[error("the peer says that it consumed {consumed} bytes, but it has acknowledged no more than {has}")]
    NeverArrived {
        /// The cost of the frames that it says have left its memory.
        consumed: u64,
        /// The cost of those that it says it has.
        has: u64,
    },
}

impl Outbox {
    /// An empty outbox that lets at most `window` bytes of cost be outstanding.
    pub fn new(window: u64) -> Self {
        Self { window, first: 0, slots: VecDeque::new(), pushed: 0, consumed: 0, queued: 0, scan_from: 0 }
    }

    /// True if a frame of that [`Frame::cost`] may be pushed now, where no more than `within` shall be outstanding.
    pub fn has_room(&self, cost: u64, within: u64) -> bool {
        let outstanding = self.pushed - self.consumed;
        outstanding == 0 || outstanding + cost <= within.min(self.window)
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
    /// Frames are kept until `next` lets them go, and room for more is made by `consumed`: so neither counts without the
    /// other, or one who only says that it consumes would have everything kept here.
    ///
    /// # Errors
    /// When the receiver claims more than was sent, or that it consumed more than it has. Then nothing was taken.
    pub fn ack(&mut self, ack: Ack) -> Result<(), BadAck> {
        let end = self.first + self.slots.len() as u64;
        if ack.next > end {
            return Err(BadAck::NeverSent { got: ack.next, sent: end });
        }
        let goes = ack.next.saturating_sub(self.first) as usize;
        let freed: u64 = self.slots.iter().take(goes).map(|slot| slot.frame.cost()).sum();
        // A late word is below what came since, in both.
        let has = self.carried() + freed;
        if ack.consumed > has {
            return Err(BadAck::NeverArrived { consumed: ack.consumed, has });
        }
        self.slots.drain(..goes);
        self.queued -= freed;
        self.first += goes as u64;
        self.scan_from = self.scan_from.saturating_sub(goes);
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

    /// Cost of what is kept here, because the other side may not have it.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Cost of all frames that the other side has.
    pub fn carried(&self) -> u64 {
        self.pushed - self.queued
    }

    /// The window.
    pub fn window(&self) -> u64 {
        self.window
    }
}
