//! How much of its window a sender uses. What waits in a long queue has left the processor's caches when its turn comes: one of 8 MiB
//! took a sixth less processor time than one of 64 MiB, and as much less time. So the whole window is used only where it is of use: for
//! a peer that is far away, when the receiver takes nothing for a while, as `zfs receive` does while its pool writes, and when the
//! source gives nothing for a while and the receiver has run dry.
//!
//! Pure: the time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::MAX_CHUNK;

/// What is used for a peer that is near and keeps up.
const NARROW: u64 = 8 << 20;
/// What each connection has of it at least: a frame that it carries, and the next.
const OF_EACH: u64 = 2 * MAX_CHUNK as u64;
/// A round trip that is longer is a long way: within it, a fast link carries about [`NARROW`] bytes.
const NEAR: Duration = Duration::from_millis(2);
/// A receiver that takes nothing for so long does not keep up; a source that gives nothing for so long comes in bursts.
const STALL: Duration = Duration::from_millis(20);
/// How long before the pause of a source there was more than could be sent, if a longer queue would have bridged it.
const HELD_WITHIN: Duration = Duration::from_secs(1);
/// How long the whole window is used after that: pools write every few seconds.
const WIDE_FOR: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Reach {
    /// The shortest round trip so far: later ones may have waited in a queue.
    round_trip: Option<Duration>,
    /// When the receiver took something last.
    took: Instant,
    /// When a frame was handed over last.
    handed_over: Instant,
    /// When one last waited because less than the window is used.
    held: Option<Instant>,
    wide_until: Option<Instant>,
}

impl Reach {
    pub(super) fn new(now: Instant) -> Reach {
        Reach { round_trip: None, took: now, handed_over: now, held: None, wide_until: None }
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

    /// How many bytes of `window` may be outstanding on so many connections.
    pub(super) fn of(&self, window: u64, connections: usize, now: Instant) -> u64 {
        if self.is_wide(now) { window } else { window.min(NARROW.max(OF_EACH * connections as u64)) }
    }

    /// A frame is handed over. `is_dry`: nothing was outstanding.
    pub(super) fn hands_over(&mut self, is_dry: bool, now: Instant) {
        let paused = now - self.handed_over >= STALL;
        if is_dry && paused && self.held.is_some_and(|at| self.handed_over - at < HELD_WITHIN) {
            self.wide_until = Some(now + WIDE_FOR);
        }
        self.handed_over = now;
    }

    /// A frame has been waiting for room since `since`. `receiver_has`: some of what is outstanding is with the receiver, and not all on
    /// the link. Gives when there may be more room though nothing is taken.
    pub(super) fn waits(&mut self, since: Instant, receiver_has: bool, now: Instant) -> Option<Instant> {
        if self.is_wide(now) {
            return None;
        }
        self.held = Some(now);
        let stalls = since.max(self.took) + STALL;
        if now < stalls {
            return Some(stalls);
        }
        if !receiver_has {
            return Some(now + STALL);
        }
        self.wide_until = Some(now + WIDE_FOR);
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 64 << 20;

    fn clock() -> (Reach, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Reach::new(start), move |ms| start + Duration::from_millis(ms))
    }

    #[test]
    fn a_receiver_that_stalls_gets_the_whole_window_for_a_while() {
        let (mut reach, at) = clock();
        assert_eq!(reach.of(WINDOW, 1, at(0)), NARROW);
        // However long ago it took something: it had nothing to take.
        assert_eq!(reach.waits(at(1000), true, at(1000)), Some(at(1020)));
        assert_eq!(reach.of(WINDOW, 1, at(1000)), NARROW);
        reach.took(at(1015));
        assert_eq!(reach.waits(at(1000), true, at(1020)), Some(at(1035)));
        assert_eq!(reach.of(WINDOW, 1, at(1020)), NARROW);
        assert_eq!(reach.waits(at(1000), true, at(1035)), Some(at(1035)));
        assert_eq!(reach.waits(at(1000), true, at(1036)), None);
        assert_eq!(reach.of(WINDOW, 1, at(1035)), WINDOW);
        assert_eq!(reach.of(WINDOW, 1, at(11_034)), WINDOW);
        assert_eq!(reach.of(WINDOW, 1, at(11_035)), NARROW);
    }

    #[test]
    fn a_slow_link_is_no_stall() {
        let (mut reach, at) = clock();
        // It is looked at again later, and not at once, for ever.
        assert_eq!(reach.waits(at(0), false, at(50)), Some(at(70)));
        assert_eq!(reach.waits(at(0), false, at(70)), Some(at(90)));
        assert_eq!(reach.of(WINDOW, 1, at(90)), NARROW);
    }

    #[test]
    fn a_source_in_bursts_that_left_the_receiver_dry_gets_it_too() {
        let (mut reach, at) = clock();
        reach.hands_over(false, at(100));
        reach.waits(at(101), true, at(101));
        reach.hands_over(false, at(105));
        // Dry without a pause, and a pause without running dry.
        reach.hands_over(true, at(110));
        reach.hands_over(false, at(200));
        assert_eq!(reach.of(WINDOW, 1, at(200)), NARROW);
        reach.hands_over(true, at(230));
        assert_eq!(reach.of(WINDOW, 1, at(230)), WINDOW);
        // A source that is slow all the time was never held up.
        let (mut reach, at) = clock();
        (1..100).for_each(|n| reach.hands_over(true, at(n * 50)));
        assert_eq!(reach.of(WINDOW, 1, at(5000)), NARROW);
    }

    #[test]
    fn a_long_way_needs_it_always_and_a_queue_is_no_long_way() {
        let (mut reach, at) = clock();
        reach.measured(Duration::from_millis(3));
        assert_eq!(reach.of(WINDOW, 1, at(0)), WINDOW);
        reach.measured(Duration::from_micros(40));
        reach.measured(Duration::from_millis(50));
        assert_eq!(reach.of(WINDOW, 1, at(0)), NARROW);
        assert_eq!(reach.of(1 << 20, 1, at(0)), 1 << 20);
        assert_eq!(reach.of(WINDOW, 2, at(0)), NARROW);
        assert_eq!(reach.of(WINDOW, 16, at(0)), 32 << 20);
    }
}
