//! What the coordinator asks of the two hosts, and what they answer.
//!
//! Every question carries its leg and a number that rises with every question of the coordinator, across legs and
//! crashes; its answer carries both. The same number is the same question: repeated, it is answered again, not done again.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    leg::{Epoch, Leg, Millis, Side},
    proof::{Means, Objection, Proof},
};
use crate::types::{DatasetName, Guid};

/// A question to one host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// In which leg.
    pub leg: Leg,
    /// Which question.
    pub number: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked. A host does what is missing towards it, then answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Take part, and try whatever can fail later.
    Arm {
        /// As what.
        side: Side,
        /// With these, on this host.
        datasets: Arc<[DatasetName]>,
        /// What a promotion has to be proved by.
        verify: Means,
    },
    /// Source: stop the writers. If no fence is asked for within this time, let them go by yourself.
    Quiesce {
        /// From when it is asked for.
        within: Millis,
    },
    /// Source: fence.
    Fence,
    /// Source, fenced: sync, take the final snapshot of this question's number, and say its GUIDs.
    Final,
    /// Source: serve again, and never fence for this leg. Needs no ruling as long as there is no fence.
    Withdraw,
    /// Source: serve again, as the target has ruled.
    Unfence {
        /// The target's.
        ruling: Ruling,
    },
    /// Source: serve again, as a person says that the target is destroyed.
    Break,
    /// Source: the target was promoted; stay fenced for good.
    Release {
        /// The target's.
        ruling: Ruling,
    },
    /// Source, released: destroy the datasets.
    Discard,
    /// Target: decide for the target.
    Promote {
        /// Why that is safe.
        proof: Proof,
    },
    /// Target: decide for the source.
    Abort,
    /// Target, promoted: say whether the application is up, or try again.
    Activate,
    /// Target, aborted: close this part. What arming prepared, if anything, is undone.
    Settle,
}

/// The target's decision, as it is recorded there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ruling {
    /// On which leg.
    pub leg: Leg,
    /// Which.
    pub decision: Decision,
}

/// Who serves after the leg. The first one recorded stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The target.
    Promoted,
    /// The source.
    Aborted,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// The question's.
    pub leg: Leg,
    /// The question's.
    pub number: u32,
    /// What is answered.
    pub reply: Reply,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `Arm`.
    Armed,
    /// To `Quiesce`.
    Quiesced,
    /// To `Fence`.
    Fenced,
    /// To `Final`: one GUID of each dataset.
    Final {
        /// In the order of the unit.
        guids: Arc<[Guid]>,
    },
    /// The source serves and takes no further part in this leg.
    Serving,
    /// To `Withdraw`: there is a fence, or half of one, so the target has to rule first.
    NeedsRuling,
    /// To `Release`.
    Released,
    /// To `Discard`.
    Discarded,
    /// To `Promote` and `Abort`: what is recorded, whichever was asked.
    Ruled {
        /// This.
        ruling: Ruling,
    },
    /// To `Promote`: not on this proof. Nothing was decided.
    Objected {
        /// Because.
        objection: Objection,
    },
    /// To `Activate`: mounted, writable, healthy.
    Active,
    /// To `Settle`.
    Settled,
    /// It was tried and did not work.
    Failed {
        /// Operation, subject and cause.
        why: String,
    },
    /// It was not tried.
    Refused {
        /// Because.
        refusal: Refusal,
    },
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// The leg's epoch is not the next one here.
    Epoch {
        /// The last one known here.
        known: Epoch,
    },
    /// Another leg is under way here.
    OtherLeg {
        /// This.
        leg: Leg,
    },
    /// The leg is over here.
    Closed,
    /// This host does not play that part, or not yet.
    NotNow,
    /// The ruling is another leg's, or says the opposite.
    Ruling,
    /// ZFS shows a fence that this host's journal does not know.
    UnknownFence {
        /// This.
        leg: Leg,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Epoch { known } => {
                write!(f, "its epoch does not follow {}, the last one known here", known.0)
            }
            Refusal::OtherLeg { leg } => write!(f, "cutover {} is under way here", leg.id),
            Refusal::Closed => f.write_str("it is over here"),
            Refusal::NotNow => f.write_str("this host is not at that point"),
            Refusal::Ruling => f.write_str("the target's ruling does not permit it"),
            Refusal::UnknownFence { leg } => {
                write!(f, "ZFS shows the fence {leg}, which the journal here does not know")
            }
        }
    }
}
