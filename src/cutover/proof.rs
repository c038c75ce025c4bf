//! The proof that the target holds all that the source acknowledged, and the judgement on it.
//!
//! It is taken while the source is fenced, and judged twice: by the coordinator, and by the target before it decides.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::leg::Leg;
use crate::types::Guid;

/// How the two sides were compared, from weak to strong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// The GUIDs of the final snapshots.
    Guid,
    /// And the digests of the last streams.
    Digest,
    /// And every file or block.
    Content,
}

/// What was seen of both sides after the final sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proof {
    /// The leg that the source's `zmigrate:fence` names.
    pub fence: Option<Leg>,
    /// Bytes written on the source since its final snapshots: the sum of `written`.
    pub written: u64,
    /// The source's newest snapshots, one of each dataset of the unit.
    pub source: Arc<[Guid]>,
    /// The target's newest snapshots, in the same order.
    pub target: Arc<[Guid]>,
    /// What the comparison went by.
    pub means: Means,
    /// Whether it found both sides equal.
    pub equal: bool,
}

/// Why a proof does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objection {
    /// The source is not fenced for this leg.
    NotFenced,
    /// So many bytes came after the final snapshot.
    Written(u64),
    /// The newest snapshots differ, or there are none.
    Guids,
    /// The comparison found a difference.
    Content,
    /// It was compared by less than agreed.
    Means,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::NotFenced => f.write_str("the source is not fenced for this cutover"),
            Objection::Written(n) => write!(f, "{n} bytes were written on the source after its final snapshot"),
            Objection::Guids => f.write_str("the newest snapshots of both sides are not the same"),
            Objection::Content => f.write_str("the two sides differ in content"),
            Objection::Means => f.write_str("the two sides were compared by less than was agreed"),
        }
    }
}

impl Proof {
    /// What speaks against promoting on this proof.
    pub fn objection(&self, leg: Leg, agreed: Means) -> Option<Objection> {
        if self.fence != Some(leg) {
            Some(Objection::NotFenced)
        } else if self.written > 0 {
            Some(Objection::Written(self.written))
        } else if self.source.is_empty() || self.source != self.target {
            Some(Objection::Guids)
        } else if !self.equal {
            Some(Objection::Content)
        } else if self.means < agreed {
            Some(Objection::Means)
        } else {
            None
        }
    }
}
