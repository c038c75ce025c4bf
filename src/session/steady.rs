//! A clock for limits that a change of the system's time does not move.

use std::time::Instant;

use super::client::unix_ms;

/// The wall clock as it was when this was made, and what has passed since: it never goes back and never leaps. Made anew by whoever takes
/// over a ledger, so that what another process wrote by the wall clock is judged by the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    began: Instant,
    at_ms: u64,
}

impl Steady {
    /// From now on.
    pub fn from_now() -> Steady {
        Steady { began: Instant::now(), at_ms: unix_ms() }
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.at_ms.saturating_add(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
