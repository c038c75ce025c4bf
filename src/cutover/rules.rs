//! The rules that keep at most one side writable, all on one page.
//!
//! Wherever the machines could do harm, they ask here first. [`Actual`] is the one implementation in the program, and
//! overrides nothing. The trait exists so that the model checker can be run with one rule broken at a time, and has to
//! notice: `tests/cutover_model` breaks all of them but
//! `may_release` and `may_discard`, whose breach needs a coordinator that lies; `tests.rs` beside this has those.

use super::{
    leg::{Epoch, Leg},
    message::{Decision, Ruling},
    proof::{Means, Objection, Proof},
    source::Stage,
    terms::{OnActivateFailure, Terms},
};

/// The rules. The defaults are the rules; see [`Actual`].
pub trait Rules {
    // Which messages count.

    /// Whether a message or a ruling about `named` is about `mine`. Id and epoch must both be equal.
    fn same_leg(&self, mine: Leg, named: Leg) -> bool {
        mine == named
    }

    /// Whether a host that last knew epoch `known` may take part in `leg`: only in the very next one.
    fn admits(&self, known: Epoch, leg: Leg) -> bool {
        leg.epoch == known.next()
    }

    /// Whether an answer is to the question that is open. An older one may tell of a world that is gone.
    fn answers(&self, open: u32, answered: u32) -> bool {
        open == answered
    }

    /// The epoch of a leg that follows one of epoch `last`, which was promoted.
    fn epoch_after(&self, last: Epoch) -> Epoch {
        last.next()
    }

    // The order of things.

    /// Whether a record is on disk before the effect that it announces begins.
    fn journal_first(&self) -> bool {
        true
    }

    /// Whether the source may be fenced: its writers are known to be stopped, by this process.
    fn may_fence(&self, quiesced: bool) -> bool {
        quiesced
    }

    /// Whether the properties have to be read before the fence changes them: once. A second reading would take the fence's own values
    /// for the original ones.
    fn reads_former(&self, known: bool) -> bool {
        !known
    }

    /// Whether the final snapshot may be taken: after the fence only, or writes could follow it.
    fn may_snapshot(&self, fenced: bool) -> bool {
        fenced
    }

    /// Whether the coordinator verifies before it asks for the promotion.
    fn verifies(&self) -> bool {
        true
    }

    /// Whether the writers are started only after the fence is gone.
    fn unfences_first(&self) -> bool {
        true
    }

    // The decision.

    /// What speaks against promoting on `proof`. Judged by the coordinator, and again by the target.
    fn objection(&self, leg: Leg, agreed: Means, proof: &Proof) -> Option<Objection> {
        proof.objection(leg, agreed)
    }

    /// Whether the register may take a decision: only its first.
    fn may_decide(&self, recorded: Option<Decision>, _new: Decision) -> bool {
        recorded.is_none()
    }

    /// Whether the target may become writable: only once its promotion is recorded.
    fn may_activate(&self, recorded: Option<Decision>) -> bool {
        recorded == Some(Decision::Promoted)
    }

    /// Whether a fenced source may serve again: only with the target's recorded abort of exactly this leg.
    fn may_unfence(&self, leg: Leg, ruling: Ruling) -> bool {
        ruling.leg == leg && ruling.decision == Decision::Aborted
    }

    /// Whether the source may serve again without a ruling: only while it never began to fence, so that there can be no
    /// proof to promote on.
    fn may_withdraw(&self, stage: &Stage) -> bool {
        matches!(stage, Stage::Armed | Stage::Quiescing { .. })
    }

    /// Whether a fenced source may serve because nobody answers: never. Only a person may say so.
    fn may_break_unasked(&self) -> bool {
        false
    }

    /// Whether the source may be told that it is the read-only side for good: only with the recorded promotion.
    fn may_release(&self, leg: Leg, ruling: Ruling) -> bool {
        ruling.leg == leg && ruling.decision == Decision::Promoted
    }

    /// Whether the source's datasets may be destroyed: only once it is released.
    fn may_discard(&self, stage: &Stage) -> bool {
        *stage == Stage::Released
    }

    /// Whether an abort goes to the target before the source: once the source may be fenced.
    fn asks_target_first(&self, fence_was_asked: bool) -> bool {
        fence_was_asked
    }

    /// Whether a target that does not come up is left again. Once only: two sides that both fail would be left for ever.
    fn returns(&self, terms: &Terms) -> bool {
        terms.on_activate_failure == OnActivateFailure::Return && terms.returns_from.is_none()
    }

    /// Whether an abort undoes what arming prepared at the target.
    fn settles(&self) -> bool {
        true
    }

    /// Whether a source that was promoted and never came up is brought up where another one would serve already.
    fn brings_up(&self) -> bool {
        true
    }

    // After a crash.

    /// Whether writers whose stopping nobody saw the end of are stopped to the end before they are started.
    fn stops_again(&self) -> bool {
        true
    }

    /// The stage in which a source goes on: the recorded one.
    fn recovered(&self, recorded: Stage) -> Stage {
        recorded
    }

    /// Whether a fence that is recorded is set again before anything else.
    fn fences_again(&self) -> bool {
        true
    }
}

/// The rules of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Actual;

impl Rules for Actual {}
