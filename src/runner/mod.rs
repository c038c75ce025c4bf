//! Running jobs: what `zmigrate job run` and `zmigrated` share.
//!
//! ```text
//! lock ─ history "begun" ─ before ─ snapshot ─ after ─ driver::run, again where that may help ─ driver::upkeep ─ verification, if due ─ history "ended"
//! ```
//!
//! Invariants: a job never overlaps itself, in whatever process, because its lock is the kernel's; nothing is pruned on a
//! source before what its target has is on disk; a run that was begun is in the history, also if it never ended.

mod bandwidth;
pub mod files;
pub mod history;
mod hooks;
mod local;
pub mod overview;
mod recount;
mod report;
mod retry;
mod run;
mod snapshot;
pub mod turn;
mod verify;

pub use report::{JobReport, Started};
pub use run::{JobContext, preview, run_job};
pub use verify::Verified;
