//! A clock for limits that a change of the system's time does not move.

use std::{sync::OnceLock, time::Instant};

use super::client::unix_ms;

static BEGAN: OnceLock<(Instant, u64)> = OnceLock::new();

/// Milliseconds since 1970 as this process saw them when it first asked, and what has passed since. Within one process it never
/// goes back and never leaps; two processes may differ by whatever was set between their beginnings.
pub fn steady_ms() -> u64 {
    let (began, at) = BEGAN.get_or_init(|| (Instant::now(), unix_ms()));
    at.saturating_add(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
}
