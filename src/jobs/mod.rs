//! Jobs: what is replicated again and again, when, and which of its snapshots stay. Pure: the time comes in.
//!
//! ```text
//! [job.NAME] ─ Job ─┬─ schedule ─ when it starts
//!                   ├─ names ──── what its snapshots are called, and so which are its own
//!                   ├─ retention ─ which of them its rules keep
//!                   └─ spare ───── which must stay whatever the rules say
//! ```
//!
//! Invariant: of two answers to "may this snapshot go?", the one that keeps it counts.

pub mod cron;
pub mod gone;
mod job;
pub mod lag;
pub mod names;
pub mod retention;
pub mod schedule;
pub mod span;
pub mod spare;
#[cfg(test)]
mod tests;

pub use job::{Direction, Job, Remote, UserProperty, UserPropertyError};
