//! The crash-safe cutover: how the writable side of a unit of datasets moves from one host to the other. Pure machines;
//! a driver carries out what they say.
//!
//! # Invariants
//!
//! - **I1** At most one side is writable, at every instant, whatever crashes, is cut off, is repeated or arrives late.
//! - **I2** A promoted target holds every write that the source acknowledged.
//! - **I3** When both hosts and the link are back, it ends done or rolled back, or asks exactly one question.
//! - **I4** Rolled back means: the source serves with its original properties, and the target is as before, less the new
//!   snapshots.
//!
//! `tests/cutover_model` runs these machines through every order of events within bounds, and with each rule broken.
//!
//! # The machines
//!
//! ```text
//!        initiator                     either host                        the other host
//!  ┌────────────────────┐  Request  ┌─────────────────────┐           ┌─────────────────────┐
//!  │ Coordinator        │ ────────▶ │ Host, as the source │           │ Host, as the target │
//!  │ phases, questions, │ ◀──────── │ quiesce, fence,     │           │ the register:       │
//!  │ passes, final sync │   Answer  │ final snapshot      │           │ promote or abort    │
//!  └─────────┬──────────┘           └──────────┬──────────┘           └──────────┬──────────┘
//!       its journal                     its journal                        its journal
//! ```
//!
//! The coordinator leads but decides nothing: *the decision is made at the target*, by the first of promote and abort that is
//! recorded there. The source, once it began to fence, serves again only with the target's recorded abort of exactly this
//! id and epoch, or by a person's word that the target is destroyed. Without an answer it stays fenced, and the question is asked again.
//!
//! # How to drive them
//!
//! A driver owns one [`host::Host`] for each unit on its host, and the initiator's owns a [`coordinator::Coordinator`], too.
//! For both, in a loop of one task:
//!
//! 1. At the start, read the journal with `read_back`, look at `zmigrate:fence` of the unit in ZFS, cancel or wait for whatever
//!    an earlier process left running, and give `Recover` as the first event. Do so at boot, whether or not anybody asks.
//! 2. `let (next, effects) = it.step(event, now)`, and carry out the effects in their order: an `Append` is written and synced
//!    before the next one begins. If it cannot be, the process ends.
//! 3. Host actions and coordinator's work are begun and not waited for; their ends come back as events. Work that
//!    [`coordinator::Coordinator::working`] does not name any more is cancelled.
//! 4. `Tick` both every second or so. It asks again what has no answer, and is how a lost message, or a peer that was away, is got over.
//! 5. Requests travel in both directions as they are; they may be lost, repeated, or late. `now` is the clock of the machine's own host.
//!
//! To read on: [`rules`] first, then [`source`], [`target`], [`coordinator`]. People read `docs/cutover.md`.

pub mod call;
pub mod coordinator;
pub mod effect;
pub mod host;
mod kept;
pub mod leg;
pub mod message;
mod operator;
pub mod phase;
pub mod predict;
mod progress;
pub mod proof;
pub mod record;
pub mod rules;
pub mod source;
pub mod status;
pub mod target;
pub mod terms;

#[cfg(test)]
mod tests;
