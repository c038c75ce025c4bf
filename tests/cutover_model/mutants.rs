//! The rules, each broken once. The model has to notice every one of them.

use zmigrate::cutover::{
    leg::{Epoch, Leg},
    message::{Decision, Ruling},
    proof::{Means, Objection, Proof},
    rules::{Actual, Rules},
    source::Stage,
    terms::{OnActivateFailure, Terms},
};

use crate::model::{Budget, Setup};

macro_rules! mutations {
    ($($name:ident),* $(,)?) => {
        /// What is broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutation { $($name),* }
        pub const ALL: &[Mutation] = &[$(Mutation::$name),*];
    };
}

mutations! {
    UnfenceWithoutTheAbort,
    WithdrawThoughFenced,
    PromoteBeforeVerify,
    OldEpochAccepted,
    AbortAcceptedAfterPromote,
    PromoteAcceptedAfterAbort,
    JournalAfterTheEffect,
    FenceSkippedOnRecovery,
    ResumeForgetsTheFence,
    QuiesceSkipped,
    FinalSnapshotBeforeTheFence,
    FenceSkipped,
    WrittenIgnored,
    GuidsIgnored,
    ContentIgnored,
    StaleTakenForNew,
    ActivationBeforeTheRecord,
    ActivationAfterTheAbort,
    HoldReturns,
    ReturnHolds,
    ReturnsForEver,
    UnquiesceBeforeUnfence,
    EpochNotRaisedOnBack,
    BreakWithoutTheWord,
    FormerReadAgain,
    NotSettled,
    NotBroughtUp,
    StartedWhileStopping,
}
use Mutation as M;

pub struct Mutant(pub Mutation);

impl Mutant {
    fn is(&self, any: &[Mutation]) -> bool {
        any.contains(&self.0)
    }
}

impl Rules for Mutant {
    fn same_leg(&self, mine: Leg, named: Leg) -> bool {
        self.is(&[M::StaleTakenForNew]) || Actual.same_leg(mine, named)
    }
    fn answers(&self, open: u32, answered: u32) -> bool {
        self.is(&[M::StaleTakenForNew]) || Actual.answers(open, answered)
    }
    fn admits(&self, known: Epoch, leg: Leg) -> bool {
        self.is(&[M::OldEpochAccepted]) || Actual.admits(known, leg)
    }
    fn epoch_after(&self, last: Epoch) -> Epoch {
        if self.is(&[M::EpochNotRaisedOnBack]) { last } else { Actual.epoch_after(last) }
    }
    fn journal_first(&self) -> bool {
        !self.is(&[M::JournalAfterTheEffect])
    }
    fn may_fence(&self, quiesced: bool) -> bool {
        self.is(&[M::QuiesceSkipped]) || Actual.may_fence(quiesced)
    }
    fn reads_former(&self, known: bool) -> bool {
        self.is(&[M::FormerReadAgain]) || Actual.reads_former(known)
    }
    fn may_snapshot(&self, fenced: bool) -> bool {
        self.is(&[M::FinalSnapshotBeforeTheFence, M::FenceSkipped]) || Actual.may_snapshot(fenced)
    }
    fn verifies(&self) -> bool {
        !self.is(&[M::PromoteBeforeVerify])
    }
    fn unfences_first(&self) -> bool {
        !self.is(&[M::UnquiesceBeforeUnfence])
    }
    fn objection(&self, leg: Leg, agreed: Means, proof: &Proof) -> Option<Objection> {
        let found = Actual.objection(leg, agreed, proof);
        let blind = match found {
            Some(Objection::Written(_)) => self.is(&[M::WrittenIgnored]),
            Some(Objection::Guids) => self.is(&[M::GuidsIgnored]),
            Some(Objection::Content) => self.is(&[M::ContentIgnored]),
            Some(Objection::NotFenced) => self.is(&[M::FenceSkipped]),
            _ => false,
        };
        found.filter(|_| !blind)
    }
    fn may_decide(&self, recorded: Option<Decision>, new: Decision) -> bool {
        match (recorded, new) {
            (Some(Decision::Promoted), Decision::Aborted) => self.is(&[M::AbortAcceptedAfterPromote]),
            (Some(Decision::Aborted), Decision::Promoted) => self.is(&[M::PromoteAcceptedAfterAbort]),
            _ => Actual.may_decide(recorded, new),
        }
    }
    fn may_activate(&self, recorded: Option<Decision>) -> bool {
        match recorded {
            None if self.is(&[M::ActivationBeforeTheRecord]) => true,
            Some(Decision::Aborted) if self.is(&[M::ActivationAfterTheAbort]) => true,
            _ => Actual.may_activate(recorded),
        }
    }
    fn may_unfence(&self, leg: Leg, ruling: Ruling) -> bool {
        self.is(&[M::UnfenceWithoutTheAbort]) || Actual.may_unfence(leg, ruling)
    }
    fn may_withdraw(&self, stage: &Stage) -> bool {
        let fenced = matches!(stage, Stage::Fencing | Stage::Fenced);
        (fenced && self.is(&[M::WithdrawThoughFenced])) || Actual.may_withdraw(stage)
    }
    fn asks_target_first(&self, fence_was_asked: bool) -> bool {
        !self.is(&[M::WithdrawThoughFenced]) && Actual.asks_target_first(fence_was_asked)
    }
    fn may_break_unasked(&self) -> bool {
        self.is(&[M::BreakWithoutTheWord])
    }
    fn returns(&self, terms: &Terms) -> bool {
        match self.0 {
            M::HoldReturns if terms.on_activate_failure == OnActivateFailure::Hold => terms.returns_from.is_none(),
            M::ReturnHolds => false,
            M::ReturnsForEver => terms.on_activate_failure == OnActivateFailure::Return,
            _ => Actual.returns(terms),
        }
    }
    fn settles(&self) -> bool {
        !self.is(&[M::NotSettled])
    }
    fn brings_up(&self) -> bool {
        !self.is(&[M::NotBroughtUp])
    }
    fn stops_again(&self) -> bool {
        !self.is(&[M::StartedWhileStopping])
    }
    fn recovered(&self, recorded: Stage) -> Stage {
        if self.is(&[M::ResumeForgetsTheFence]) && recorded == Stage::Fenced { Stage::Armed } else { recorded }
    }
    fn fences_again(&self) -> bool {
        !self.is(&[M::FenceSkippedOnRecovery])
    }
}

/// Bounds in which the mutant has room to do harm; the same for every mutant of a kind.
pub fn setup(mutation: Mutation) -> Setup {
    let mut s = Setup { name: "mutant", ..Setup::default() };
    let b = &mut s.budget;
    match mutation {
        M::OldEpochAccepted | M::StaleTakenForNew => *b = Budget { backs: 1, repeats: 2, ..*b },
        M::EpochNotRaisedOnBack => b.backs = 1,
        M::PromoteAcceptedAfterAbort
        | M::FormerReadAgain
        | M::ActivationAfterTheAbort
        | M::JournalAfterTheEffect
        | M::StartedWhileStopping => (b.aborts, b.crashes) = (1, 1),
        M::AbortAcceptedAfterPromote | M::UnquiesceBeforeUnfence | M::NotSettled | M::WithdrawThoughFenced => {
            b.aborts = 1
        }
        M::BreakWithoutTheWord => b.delays = 1,
        M::ReturnsForEver => b.failures = 2,
        M::NotBroughtUp => (b.failures, b.aborts) = (1, 1),
        M::WrittenIgnored | M::GuidsIgnored | M::ContentIgnored | M::PromoteBeforeVerify => b.failures = 1,
        M::HoldReturns | M::ReturnHolds => b.failures = 1,
        _ => b.crashes = 1,
    }
    s.journal_counts = mutation != M::ResumeForgetsTheFence;
    if matches!(mutation, M::ReturnHolds | M::ReturnsForEver | M::NotBroughtUp) {
        s.on_activate_failure = OnActivateFailure::Return;
    }
    s
}
