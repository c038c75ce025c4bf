//! Where a transfer spends its time, and so what holds it back.
//!
//! ```text
//! read ─ judge ─→ (input) pack (credit) ─→ carry ═══ (input) unpack ─ judge ─ write
//! ```
//!
//! Each stage's time is measured on the thread that does it; in brackets, what that thread waits for. The verdict follows
//! the stream from its source to the first stage that is busy while the next one waits for it. It is pure.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::wire::message::ReceiverTimes;

/// What a thread of a transfer is busy with, or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In `read`, on the stream of `zfs send`.
    Read,
    /// Parser, checksums and gate; at the sender also hashing.
    Judge,
    /// Waiting for the stage before.
    Input,
    /// Compressing.
    Pack,
    /// Waiting for room in the window.
    Credit,
    /// Decompressing and hashing.
    Unpack,
    /// In `write`, to `zfs receive`.
    Write,
}

/// The time spent in each stage by one half of a transfer. Costs two looks at the clock for each read, chunk and stage.
#[derive(Debug, Default)]
pub struct Times([AtomicU64; 7]);

impl Times {
    /// Does `work`, and counts its time.
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.add(stage, started.elapsed());
        result
    }

    /// Counts time.
    pub fn add(&self, stage: Stage, spent: Duration) {
        self.0[stage as usize].fetch_add(spent.as_nanos() as u64, Ordering::Relaxed);
    }

    fn of(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.0[stage as usize].load(Ordering::Relaxed))
    }

    /// As those of a sender whose connections have spent `carrying` in writes.
    pub fn sender(&self, carrying: Duration) -> SenderTimes {
        SenderTimes {
            reading_s: self.of(Stage::Read).as_secs_f64(),
            judging_s: self.of(Stage::Judge).as_secs_f64(),
            input_s: self.of(Stage::Input).as_secs_f64(),
            packing_s: self.of(Stage::Pack).as_secs_f64(),
            credit_s: self.of(Stage::Credit).as_secs_f64(),
            carrying_s: carrying.as_secs_f64(),
        }
    }

    /// As those of a receiver.
    pub fn receiver(&self) -> ReceiverTimes {
        let us = |stage| self.of(stage).as_micros() as u64;
        ReceiverTimes {
            input_us: us(Stage::Input),
            unpacking_us: us(Stage::Unpack),
            judging_us: us(Stage::Judge),
            writing_us: us(Stage::Write),
        }
    }
}

/// Seconds that the sending half spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SenderTimes {
    /// Reading the stream.
    pub reading_s: f64,
    /// Parsing, verifying and hashing it.
    pub judging_s: f64,
    /// The packing thread waiting for a chunk.
    pub input_s: f64,
    /// Compressing.
    pub packing_s: f64,
    /// Waiting until the receiver had room.
    pub credit_s: f64,
    /// In writes to the network, encryption included; the sum over all connections.
    pub carrying_s: f64,
}

/// What held a transfer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBack {
    /// The source gives the stream no faster.
    Reading,
    /// The sender's processor: parsing and verifying.
    Judging,
    /// The sender's processor: compressing.
    Compressing,
    /// The limit that the operator set.
    Limit,
    /// The network, or encrypting what goes over it.
    Network,
    /// The window: it is smaller than what is on its way during one round trip.
    Window,
    /// The receiver's processor: decompressing, parsing and verifying.
    Unpacking,
    /// The target takes the stream no faster.
    Writing,
}

impl HeldBack {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            HeldBack::Reading => "reading the stream: the source gives it no faster",
            HeldBack::Judging => "the sender's processor: verifying the stream",
            HeldBack::Compressing => {
                "the sender's processor: compressing; --compress none or a lower level may be faster"
            }
            HeldBack::Limit => "the limit that was set with --bwlimit",
            HeldBack::Network => "the network, or encrypting what goes over it",
            HeldBack::Window => "the window: limits.window_bytes is small for this round-trip time",
            HeldBack::Unpacking => "the receiver's processor: decompressing and verifying",
            HeldBack::Writing => "writing: the target takes the stream no faster",
        }
    }
}

/// The way that a transfer took.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Its connections.
    pub streams: u16,
    /// Seconds that the limit leaves for what went over the wire, at the least; `None` without a limit.
    pub limit_s: Option<f64>,
    /// Seconds that the window leaves for it, at the least: as many round trips as it fills windows. `None` where the round-trip time is
    /// not known.
    pub windows_s: Option<f64>,
}

/// Which stage held a transfer back.
pub fn held_back(sender: &SenderTimes, receiver: &ReceiverTimes, way: &Way) -> HeldBack {
    let upstream = sender.input_s;
    if upstream >= sender.packing_s && upstream >= sender.credit_s {
        return if sender.reading_s >= sender.judging_s { HeldBack::Reading } else { HeldBack::Judging };
    }
    if sender.packing_s >= sender.credit_s {
        return HeldBack::Compressing;
    }
    let s = |us: u64| us as f64 / 1e6;
    let (writing, unpacking) = (s(receiver.writing_us), s(receiver.unpacking_us) + s(receiver.judging_us));
    if writing.max(unpacking) >= s(receiver.input_us) {
        return if writing >= unpacking { HeldBack::Writing } else { HeldBack::Unpacking };
    }
    let explains = |seconds: f64, share: f64| seconds >= share * sender.credit_s;
    // A pause for the limit is no write: where writes take the time, the limit was not reached.
    if explains(sender.carrying_s / f64::from(way.streams.max(1)), 0.5) {
        return HeldBack::Network;
    }
    // Either would be the least time that it takes; less than the whole, because it also takes time to begin and to end.
    let limit_s = way.limit_s.unwrap_or(0.0);
    let windows_s = way.windows_s.unwrap_or(if way.limit_s.is_some() { 0.0 } else { sender.credit_s });
    if !explains(limit_s.max(windows_s), 0.67) {
        // Buffers of either host, or between them, took all that the window let out, so no write had to wait for the network.
        return HeldBack::Network;
    }
    if limit_s >= windows_s { HeldBack::Limit } else { HeldBack::Window }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a limit, and with a window that would take a tenth of a second.
    const WIDE: Way = Way { streams: 1, limit_s: None, windows_s: Some(0.1) };

    fn verdict(sender: [f64; 6], receiver: [u64; 4], way: Way) -> HeldBack {
        let [reading_s, judging_s, input_s, packing_s, credit_s, carrying_s] = sender;
        let [input_us, unpacking_us, judging_us, writing_us] = receiver.map(|tenths| tenths * 100_000);
        let sender = SenderTimes { reading_s, judging_s, input_s, packing_s, credit_s, carrying_s };
        held_back(&sender, &ReceiverTimes { input_us, unpacking_us, judging_us, writing_us }, &way)
    }

    #[test]
    fn the_first_stage_that_is_busy_while_the_next_waits_holds_it_back() {
        // Of ten seconds each, in the order of the stages.
        let waits_for_input = [90, 5, 5, 0];
        let (narrow, limited) = (Way { windows_s: Some(8.0), ..WIDE }, Way { limit_s: Some(8.0), ..WIDE });
        assert_eq!(verdict([9.0, 1.0, 8.0, 1.5, 0.5, 2.0], waits_for_input, WIDE), HeldBack::Reading);
        assert_eq!(verdict([1.0, 9.0, 8.0, 1.5, 0.5, 2.0], waits_for_input, WIDE), HeldBack::Judging);
        assert_eq!(verdict([1.0, 1.0, 0.2, 9.5, 0.3, 2.0], waits_for_input, WIDE), HeldBack::Compressing);
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 9.5], waits_for_input, WIDE), HeldBack::Network);
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 0.5], waits_for_input, narrow), HeldBack::Window);
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 0.5], waits_for_input, limited), HeldBack::Limit);
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 9.0], [5, 50, 40, 5], WIDE), HeldBack::Unpacking);
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 9.0], [5, 5, 5, 85], WIDE), HeldBack::Writing);
        // Several connections write at the same time.
        let striped = Way { streams: 4, ..narrow };
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 9.5], waits_for_input, striped), HeldBack::Window);
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 36.0], waits_for_input, striped), HeldBack::Network);
        // A limit that was set held nothing back where something else took the time.
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 9.5], waits_for_input, limited), HeldBack::Network);
        assert_eq!(verdict([1.0, 1.0, 0.1, 1.0, 8.9, 9.0], [5, 5, 5, 85], limited), HeldBack::Writing);
    }

    /// A slow network with buffers that hold a whole window: no write waits for it, and neither a larger window nor another limit would
    /// change anything.
    #[test]
    fn what_waits_in_buffers_waits_for_the_network() {
        let (sender, receiver) = ([1.0, 1.0, 0.1, 1.0, 8.9, 0.5], [90, 5, 5, 0]);
        assert_eq!(verdict(sender, receiver, WIDE), HeldBack::Network);
        assert_eq!(verdict(sender, receiver, Way { limit_s: Some(1.0), ..WIDE }), HeldBack::Network);
        // A limit that was not reached, and a window that is small for a long way.
        let both = Way { limit_s: Some(1.0), windows_s: Some(8.0), ..WIDE };
        assert_eq!(verdict(sender, receiver, both), HeldBack::Window);
        assert_eq!(verdict(sender, receiver, Way { windows_s: None, ..WIDE }), HeldBack::Window);
        // A network that carries 60 of the 100 that a limit, or the window, would let through.
        assert_eq!(verdict(sender, receiver, Way { limit_s: Some(5.3), ..WIDE }), HeldBack::Network);
        assert_eq!(verdict(sender, receiver, Way { windows_s: Some(5.3), ..WIDE }), HeldBack::Network);
        // A window that carries 60 of the 100 of a limit.
        let both = Way { limit_s: Some(5.3), windows_s: Some(8.8), ..WIDE };
        assert_eq!(verdict(sender, receiver, both), HeldBack::Window);
    }

    #[test]
    fn times_add_up_by_stage() {
        let times = Times::default();
        times.add(Stage::Read, Duration::from_millis(1500));
        times.add(Stage::Read, Duration::from_millis(500));
        times.add(Stage::Write, Duration::from_micros(7));
        assert_eq!(times.time(Stage::Pack, || 3), 3);
        let sender = times.sender(Duration::from_secs(1));
        assert_eq!((sender.reading_s, sender.judging_s, sender.carrying_s), (2.0, 0.0, 1.0));
        assert_eq!(times.receiver().writing_us, 7);
    }
}
