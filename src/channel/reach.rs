//! How much of its window a sender uses. What waits in a long queue has left the processor's caches when its turn comes: one of 8 MiB
//! took a sixth less processor time than one of 64 MiB, and as much less time. So the whole window is used only where it is of use: for
//! a peer that is far away, and when the receiver takes nothing for a while, as `zfs receive` does while its pool writes.
//!
//! Pure: the time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// What is used for a peer that is near and keeps up.
const NARROW: u64 = 8 << 20;
/// A round trip that is longer is a long way: within it, a fast link carries about [`NARROW`] bytes.
const NEAR: Duration = Duration::from_millis(2);
/// A receiver that takes nothing for so long does not keep up.
const STALL: Duration = Duration::from_millis(20);
/// How long the whole window is used after that: pools write every few seconds.
const WIDE_FOR: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Reach {
    /// The shortest round trip so far: later ones may have waited in a queue.
    round_trip: Option<Duration>,
    /// When the receiver took something last.
    took: Instant,
    wide_until: Option<Instant>,
}

impl Reach {
    pub(super) fn new(now: Instant) -> Reach {
        Reach { round_trip: None, took: now, wide_until: None }
    }

    /// A ping came back after `rtt`.
    pub(super) fn measured(&mut self, rtt: Duration) {
        self.round_trip = Some(self.round_trip.map_or(rtt, |least| least.min(rtt)));
    }

    /// The receiver has consumed something.
    pub(super) fn took(&mut self, now: Instant) {
        self.took = now;
    }

    fn is_wide(&self, now: Instant) -> bool {
        self.round_trip.is_some_and(|rtt| rtt > NEAR) || self.wide_until.is_some_and(|until| now < until)
    }

    /// How many bytes of `window` may be outstanding.
    pub(super) fn of(&self, window: u64, now: Instant) -> u64 {
        if self.is_wide(now) { window } else { window.min(NARROW) }
    }

    /// A frame has been waiting for room since `since`. Gives when there may be more of it though the receiver takes nothing.
    pub(super) fn waits(&mut self, since: Instant, now: Instant) -> Option<Instant> {
        if self.is_wide(now) {
            return None;
        }
        let stalls = since.max(self.took) + STALL;
        if now >= stalls {
            self.wide_until = Some(now + WIDE_FOR);
        }
        Some(stalls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 64 << 20;

    #[test]
    fn a_receiver_that_stalls_gets_the_whole_window_for_a_while() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut reach = Reach::new(start);
        assert_eq!(reach.of(WINDOW, start), NARROW);
        // However long ago it took something: it had nothing to take.
        assert_eq!(reach.waits(at(1000), at(1000)), Some(at(1020)));
        assert_eq!(reach.of(WINDOW, at(1000)), NARROW);
        reach.took(at(1015));
        assert_eq!(reach.waits(at(1000), at(1020)), Some(at(1035)));
        assert_eq!(reach.of(WINDOW, at(1020)), NARROW);
        assert_eq!(reach.waits(at(1000), at(1035)), Some(at(1035)));
        assert_eq!(reach.waits(at(1000), at(1036)), None);
        assert_eq!(reach.of(WINDOW, at(1035)), WINDOW);
        assert_eq!(reach.of(WINDOW, at(11_034)), WINDOW);
        assert_eq!(reach.of(WINDOW, at(11_035)), NARROW);
    }

    #[test]
    fn a_long_way_needs_it_always_and_a_queue_is_no_long_way() {
        let now = Instant::now();
        let mut reach = Reach::new(now);
        reach.measured(Duration::from_millis(3));
        assert_eq!(reach.of(WINDOW, now), WINDOW);
        reach.measured(Duration::from_micros(40));
        reach.measured(Duration::from_millis(50));
        assert_eq!(reach.of(WINDOW, now), NARROW);
        assert_eq!(reach.of(1 << 20, now), 1 << 20);
    }
}
