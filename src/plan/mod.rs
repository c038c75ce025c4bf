//! The planner: two listings in, a plan or refusals out.
//!
//! ```text
//! source Listing ─┐                         ┌─ placeholders, parents first
//! target Listing ─┼─ select ─ order ─ decide┼─ datasets: up to date | work | refused
//! options ────────┘                         └─ notes
//! ```
//!
//! Snapshots are matched by GUID alone and ordered by createtxg; names and dates decide nothing.
//!
//! Invariants, each with a test:
//! - nothing on a target is destroyed unless [`PlanOptions::rollback`] is set, but for the state of an
//!   interrupted receive and for an empty dataset that zmigrate itself made as a placeholder;
//! - the base of each step is the newest snapshot of the target at that time, so no `receive -F` is needed;
//! - a plan made after its own plan was carried out has nothing to do;
//! - a dataset stands after all that it needs: every index in [`DatasetPlan::after`] is smaller than its own.

#![allow(clippy::result_large_err, reason = "a refusal is made once for a dataset, and its fields are matched on")]

mod clones;
mod dataset;
mod exclude;
mod flags;
mod fresh;
mod history;
mod model;
mod refusal;
mod render;
mod resume;
mod steps;
mod tree;

#[cfg(test)]
mod tests;

pub use exclude::{ExcludeError, ExcludePattern};
pub use model::{
    Action, DatasetPlan, Decision, EncryptionMode, History, Plan, PlanInput, PlanOptions, PlanTotals, Step, StepBase,
};
pub use refusal::{Dependency, PlaceholderState, Refusal, Side, SnapshotRef};
pub use render::RenderOptions;
pub use tree::plan;
