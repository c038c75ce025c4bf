//! Where a coordinator is, and what a person may have to decide there.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    leg::{CutoverId, Side},
    message::Ruling,
    proof::Proof,
};
use crate::types::Guid;

/// One phase, with all that is needed to go on from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The first pass, which may be the whole dataset.
    Seed,
    /// Further passes, until the predicted outage is short enough.
    CatchUp,
    /// Each side tries whatever can fail later.
    Arm {
        /// This one now.
        side: Side,
    },
    /// All is ready. Passes go on.
    Armed {
        /// Whether the operator has said go, while a pass was still under way.
        go: bool,
    },
    /// The source's writers are being stopped. The outage begins.
    Quiesce,
    /// The source is being fenced.
    Fence,
    /// Its final snapshot is being taken.
    Final,
    /// The final snapshot is being sent.
    Sync {
        /// This one.
        guids: Arc<[Guid]>,
    },
    /// Both sides are being compared.
    Verify {
        /// By this snapshot.
        guids: Arc<[Guid]>,
    },
    /// The target is asked to decide for itself.
    Promote {
        /// On this.
        proof: Proof,
    },
    /// The target comes up. The decision is made.
    Activate,
    /// The source learns that it is the read-only side now.
    Release {
        /// Then it goes back, by this leg, because the target did not come up.
        back: Option<CutoverId>,
    },
    /// The target serves.
    Done,
    /// The source's datasets are being destroyed, as the operator said.
    Discard,
    /// They are.
    Completed,

    /// Rolling back: the source, which was not fenced, serves again.
    Withdraw,
    /// Rolling back: the target is asked to decide for the source.
    Retract {
        /// Whether the source serves already.
        served: bool,
    },
    /// Rolling back: the source is told the target's decision, and serves again.
    Unfence {
        /// This.
        ruling: Ruling,
    },
    /// Rolling back: the target undoes what arming prepared.
    Settle,
    /// The source serves, and the target is as it was before.
    RolledBack,
    /// The source serves again, by the operator's word that the target is destroyed.
    Break,
    /// It serves; the target was given up.
    Broken,
}

impl Phase {
    /// The phase's name, as `status` shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Seed => "seed",
            Phase::CatchUp => "catch-up",
            Phase::Arm { .. } => "arming",
            Phase::Armed { .. } => "armed",
            Phase::Quiesce => "quiesce",
            Phase::Fence => "fence",
            Phase::Final | Phase::Sync { .. } => "final sync",
            Phase::Verify { .. } => "verify",
            Phase::Promote { .. } => "promote",
            Phase::Activate => "activate",
            Phase::Release { .. } => "release",
            Phase::Done => "done",
            Phase::Discard => "discarding the source",
            Phase::Completed => "completed",
            Phase::Withdraw | Phase::Retract { .. } | Phase::Unfence { .. } | Phase::Settle => "rolling back",
            Phase::RolledBack => "rolled back",
            Phase::Break => "breaking",
            Phase::Broken => "broken",
        }
    }

    /// Whether the cutover is over, until the operator says more.
    pub fn is_end(&self) -> bool {
        matches!(self, Phase::Done | Phase::Completed | Phase::RolledBack | Phase::Broken)
    }

    /// Whether the source is down and nothing is decided that this coordinator knows of.
    pub fn is_outage(&self) -> bool {
        matches!(self, Phase::Quiesce) || self.is_fenced_outage()
    }

    /// As above, and the source was asked to fence.
    pub fn is_fenced_outage(&self) -> bool {
        matches!(self, Phase::Fence | Phase::Final | Phase::Sync { .. } | Phase::Verify { .. } | Phase::Promote { .. })
    }

    /// Whether the source may be down, or what was begun has to come to its end before one side serves for good.
    pub fn may_be_down(&self) -> bool {
        !self.is_end()
            && !matches!(self, Phase::Seed | Phase::CatchUp | Phase::Arm { .. } | Phase::Armed { .. } | Phase::Discard)
    }

    /// Whether it is on its way back to where it was.
    pub fn rolls_back(&self) -> bool {
        matches!(
            self,
            Phase::Withdraw | Phase::Retract { .. } | Phase::Unfence { .. } | Phase::Settle | Phase::RolledBack
        )
    }

    /// Whether the source may be fenced, so that a person may have to break that.
    pub fn may_be_fenced(&self) -> bool {
        self.is_fenced_outage()
            || matches!(
                self,
                Phase::Retract { served: false }
                    | Phase::Unfence { .. }
                    | Phase::Activate
                    | Phase::Release { .. }
                    | Phase::Done
            )
    }
}

/// What only a person can answer. There is never more than one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case")]
pub enum Question {
    /// What the phase does has failed as often as agreed.
    Failed {
        /// The last time so.
        why: String,
    },
    /// The passes do not shrink.
    Stalled,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Failed { why } => f.write_str(why),
            Question::Stalled => f.write_str("the passes do not shrink any more"),
        }
    }
}
