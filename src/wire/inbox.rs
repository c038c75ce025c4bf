//! The receiving half of a channel: puts frames back in order and drops those that came twice.
//!
//! Invariants: frames come out once each, in the order of their numbers; the cost of those that came in and were not
//! consumed never exceeds the window (a single frame may always come), or the sender is at fault.

use std::collections::BTreeMap;

use super::frame::{Ack, Frame};

/// See the module.
#[derive(Debug)]
pub struct Inbox {
    window: u64,
    next_out: u64,
    next_in: u64,
    waiting: BTreeMap<u64, Frame>,
    held: u64,
    consumed: u64,
}

/// The sender ignored its credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent frame {sequence} beyond its credit of {window} bytes")]
pub struct Overrun {
    sequence: u64,
    window: u64,
}

impl Inbox {
    /// An empty inbox for a sender that was granted `window` payload bytes.
    pub fn new(window: u64) -> Self {
        Self { window, next_out: 0, next_in: 0, waiting: BTreeMap::new(), held: 0, consumed: 0 }
    }

    /// Takes a frame that arrived. A repeated one is dropped in silence.
    ///
    /// # Errors
    /// When it does not fit into the sender's credit.
    pub fn put(&mut self, frame: Frame) -> Result<(), Overrun> {
        let sequence = frame.header.sequence;
        if !self.lacks(sequence) {
            return Ok(());
        }
        let cost = frame.cost();
        if self.held > 0 && self.held + cost > self.window {
            return Err(Overrun { sequence, window: self.window });
        }
        self.held += cost;
        self.waiting.insert(sequence, frame);
        while self.waiting.contains_key(&self.next_in) {
            self.next_in += 1;
        }
        Ok(())
    }

    /// True if that frame has not come yet.
    pub fn lacks(&self, sequence: u64) -> bool {
        sequence >= self.next_in && !self.waiting.contains_key(&sequence)
    }

    /// True if that is the frame without which nothing more comes out.
    pub fn waits_for(&self, sequence: u64) -> bool {
        sequence == self.next_out
    }

    /// Cost of what came in and was not consumed.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The next frame in order, if it is there.
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = self.waiting.remove(&self.next_out)?;
        self.next_out += 1;
        Some(frame)
    }

    /// Says that a popped frame of that [`Frame::cost`] has left memory.
    pub fn consumed(&mut self, cost: u64) {
        self.consumed += cost;
        self.held = self.held.saturating_sub(cost);
    }

    /// What to tell the sender.
    pub fn ack(&self) -> Ack {
        Ack { next: self.next_in, consumed: self.consumed }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{
        frame::FrameKind,
        outbox::{ConnectionId, Outbox},
    };

    fn frame(n: u16) -> Frame {
        Frame::plain(FrameKind::Data, 0, Bytes::from(vec![n as u8; 100 + usize::from(n % 50)]))
    }

    #[test]
    fn a_sender_without_credit_is_found_out() {
        let mut inbox = Inbox::new(1300);
        for n in 0..3 {
            let mut f = frame(0);
            f.header.sequence = n;
            assert_eq!(inbox.put(f).is_err(), n == 2, "frame {n}");
        }
    }

    #[test]
    fn an_ack_for_the_future_is_refused() {
        let mut outbox = Outbox::new(1000);
        outbox.push(frame(1));
        assert!(outbox.ack(Ack { next: 2, consumed: 0 }).is_err());
        assert!(outbox.ack(Ack { next: 1, consumed: 10_000 }).is_err());
        assert!(!outbox.is_delivered());
    }

    /// What is kept never grows over the window, and nothing of such a word counts.
    #[test]
    fn a_receiver_that_only_consumes_is_found_out() {
        let mut outbox = Outbox::new(2000);
        let cost = frame(0).cost();
        (0..3).for_each(|_| outbox.push(frame(0)));
        assert!(!outbox.has_room(cost, u64::MAX));
        for (next, consumed) in [(0, cost), (0, 3 * cost), (1, cost + 1), (2, 3 * cost)] {
            assert!(outbox.ack(Ack { next, consumed }).is_err(), "{next} {consumed}");
            assert!(!outbox.has_room(cost, u64::MAX) && outbox.acknowledged() == 0);
        }
        assert_eq!(outbox.ack(Ack { next: 2, consumed: cost }), Ok(()));
        // An older word, over another connection.
        assert_eq!(outbox.ack(Ack { next: 1, consumed: cost }), Ok(()));
        assert_eq!(outbox.ack(Ack { next: 0, consumed: 0 }), Ok(()));
        assert_eq!((outbox.acknowledged(), outbox.outstanding(), outbox.carried()), (2, 2 * cost, 2 * cost));
    }

    #[test]
    fn who_carries_least_is_next() {
        let mut outbox = Outbox::new(10_000);
        (0..5).for_each(|n| outbox.push(frame(n)));
        let mut next = |on| outbox.take_in_turn(on, 0..2).map(|f| f.header.sequence);
        assert_eq!([next(0), next(0), next(1), next(1), next(0)], [Some(0), None, Some(1), Some(2), Some(3)]);
        // What was lost is nobody's load.
        outbox.lost(1);
        let mut next = |on| outbox.take_in_turn(on, 0..2).map(|f| f.header.sequence);
        assert_eq!([next(0), next(1)], [None, Some(1)]);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Push,
        Carry(ConnectionId),
        Arrive(usize),
        Cut(ConnectionId),
        Consume,
        Ack,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Push),
            4 => (0..3u64).prop_map(Event::Carry),
            4 => any::<usize>().prop_map(Event::Arrive),
            1 => (0..3u64).prop_map(Event::Cut),
            3 => Just(Event::Consume),
            3 => Just(Event::Ack),
        ]
    }

    proptest! {
        /// Whatever is cut, repeated or reordered between three connections, the receiver gets each frame once, in
        /// order, and neither side holds more than the window.
        #[test]
        fn in_order_exactly_once_within_the_window(events in prop::collection::vec(event(), 1..400)) {
            const WINDOW: u64 = 5000;
            let mut outbox = Outbox::new(WINDOW);
            let mut inbox = Inbox::new(WINDOW);
            let mut on_the_way: Vec<(ConnectionId, Frame)> = Vec::new();
            let (mut pushed, mut got, mut popped) = (0u16, 0u16, Vec::new());
            let finish = [Event::Cut(0), Event::Cut(1), Event::Cut(2)].into_iter().chain(
                (0..600).flat_map(|_| [Event::Carry(0), Event::Arrive(0), Event::Consume, Event::Ack]),
            );
            for event in events.into_iter().chain(finish) {
                match event {
                    Event::Push => if outbox.has_room(frame(pushed).cost(), u64::MAX) {
                        outbox.push(frame(pushed));
                        pushed += 1;
                    },
                    Event::Carry(on) => if let Some(f) = outbox.take_in_turn(on, 0..3) { on_the_way.push((on, f)) },
                    Event::Arrive(at) => if !on_the_way.is_empty() {
                        let (_, f) = on_the_way.remove(at % on_the_way.len());
                        inbox.put(f).unwrap();
                    },
                    Event::Cut(on) => {
                        // What was on its way may or may not arrive: here half of it does.
                        let mut keep = false;
                        on_the_way.retain(|(c, _)| { keep = !keep; *c != on || keep });
                        outbox.lost(on);
                    }
                    Event::Consume => {
                        popped.extend(inbox.pop());
                        if let Some(f) = popped.pop() {
                            prop_assert_eq!(&f.payload, &frame(got).payload);
                            got += 1;
                            inbox.consumed(f.cost());
                        }
                    }
                    Event::Ack => outbox.ack(inbox.ack()).unwrap(),
                }
                prop_assert!(outbox.outstanding() <= WINDOW && inbox.held <= WINDOW && outbox.queued() <= WINDOW);
            }
            prop_assert_eq!(got, pushed);
            prop_assert!(outbox.is_delivered());
        }

        /// Whatever a receiver says, no more is kept for it than the window.
        #[test]
        fn no_word_makes_the_sender_keep_more_than_the_window(
            words in prop::collection::vec((0..4u64, 0..4u64), 1..200)
        ) {
            let (mut outbox, cost) = (Outbox::new(5000), frame(0).cost());
            let mut word = Ack { next: 0, consumed: 0 };
            for (frames, consumed) in words {
                while outbox.has_room(cost, u64::MAX) {
                    outbox.push(frame(0));
                }
                let said = Ack { next: word.next + frames, consumed: word.consumed + consumed * cost };
                if outbox.ack(said).is_ok() {
                    word = said;
                }
                prop_assert!(outbox.queued() <= outbox.window(), "after {said:?}");
            }
        }
    }
}
