//! What is agreed when a leg begins, and does not change while it lasts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    leg::{CutoverId, Epoch, Leg, Millis, Node, Side},
    proof::Means,
};
use crate::types::DatasetName;

/// What to do when the promoted target does not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnActivateFailure {
    /// Stay there and ask.
    Hold,
    /// Move back, by a leg the other way in the next epoch.
    Return,
}

/// What to do when the passes do not shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotConverging {
    /// Ask.
    Wait,
    /// Go on all the same.
    Go,
    /// Roll back; nothing was changed yet.
    Abort,
}

/// A dataset and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// Read from.
    pub source: DatasetName,
    /// Received into.
    pub target: DatasetName,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// Which leg.
    pub leg: Leg,
    /// The id of the leg that leads back, should one begin by itself. Drawn at the start, as deciding knows no chance.
    pub return_id: CutoverId,
    /// The datasets that move as one unit.
    pub unit: Arc<[Pair]>,
    /// Where the source is.
    pub source_at: Node,
    /// Stop when all is ready, until the operator says go.
    pub hold: bool,
    /// When the target does not come up.
    pub on_activate_failure: OnActivateFailure,
    /// When passes do not shrink.
    pub not_converging: NotConverging,
    /// The downtime that must be predicted before the source is quiesced.
    pub max_downtime: Millis,
    /// The longest outage; after it, and before the decision, it is rolled back.
    pub outage_limit: Millis,
    /// How often one thing is tried before it is given up. At least 1.
    pub tries: u8,
    /// How the two sides are compared before the promotion.
    pub verify: Means,
    /// It moves back to where the cutover began.
    #[serde(default)]
    pub homeward: bool,
    /// The leg that this one returns from because its target did not come up. It is not returned from again.
    pub returns_from: Option<Leg>,
}

impl Terms {
    /// Where the host is that plays `side`.
    pub fn at(&self, side: Side) -> Node {
        match side {
            Side::Source => self.source_at,
            Side::Target => self.source_at.other(),
        }
    }

    /// The roots of the unit at `side`, in their order.
    pub fn roots(&self, side: Side) -> Vec<DatasetName> {
        let of = |p: &Pair| if side == Side::Source { p.source.clone() } else { p.target.clone() };
        self.unit.iter().map(of).collect()
    }

    /// The longest outage where a person, or `--not-converging go`, says go although it is predicted to be longer than
    /// asked: ten times as long.
    pub fn forced_limit(&self) -> Millis {
        Millis(self.max_downtime.0.saturating_mul(10))
    }

    /// The same unit the other way, as `id`, for `epoch`. `by_itself`: because the target did not come up.
    pub fn way_back(&self, id: CutoverId, epoch: Epoch, by_itself: bool) -> Terms {
        let unit = self.unit.iter().map(|p| Pair { source: p.target.clone(), target: p.source.clone() }).collect();
        Terms {
            leg: Leg { id, epoch },
            unit,
            source_at: self.source_at.other(),
            // What returns by itself is down already, and has nobody to wait for.
            hold: self.hold && !by_itself,
            returns_from: by_itself.then_some(self.leg),
            homeward: !self.homeward,
            ..self.clone()
        }
    }

    /// The same leg once more, as `id`: the last one was rolled back, so its epoch never began.
    pub fn again(&self, id: CutoverId) -> Terms {
        Terms { leg: Leg { id, ..self.leg }, returns_from: None, ..self.clone() }
    }
}
