//! What the journals hold: the decisions and intents from which the state is read back after a crash.
//!
//! A host's journal and a coordinator's each are a list of these, one line of JSON per record. State changes only by
//! `apply`ing a record, both when it is written and when it is read, so the two cannot differ.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    coordinator::{Phase, Question},
    leg::{Leg, Millis, Side},
    proof::{Means, Proof},
    terms::Terms,
};
use crate::types::DatasetName;

/// One property of one dataset as it was before the fence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Saved {
    /// Of this dataset.
    pub dataset: DatasetName,
    /// `readonly`, `canmount`, `volmode`, …
    pub property: String,
    /// The value to set again; `None` where it was not set locally, so that `zfs inherit` brings it back.
    pub local: Option<String>,
    /// The value that counted, wherever it came from.
    #[serde(default)]
    pub value: String,
    /// The value had come in a stream, so that it takes `zfs inherit -S`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub received: bool,
}

/// All that the fence changes, as it was before.
pub type Former = Arc<[Saved]>;

/// A line of a host's journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum HostRecord {
    /// Takes part in this leg. At the target this opens the register, undecided.
    Admitted {
        /// This.
        leg: Leg,
        /// As what.
        side: Side,
        /// With these.
        datasets: Arc<[DatasetName]>,
        /// What a promotion has to be proved by.
        verify: Means,
    },
    /// A leg that never began here, or is not the current one, is over.
    Barred {
        /// This.
        leg: Leg,
    },
    /// Source: the writers will be stopped; if there is no fence by then, they are let go.
    Quiescing {
        /// When.
        until: Millis,
    },
    /// Source: the fence will be set; this is what it changes.
    Fencing {
        /// What was there before.
        former: Former,
    },
    /// Source: the fence is set.
    Fenced,
    /// Source: will serve again without ever having been fenced for this leg.
    Withdrawing,
    /// Source: the fence will be taken away, as the target ruled so, or a person took it on himself.
    Unfencing {
        /// True if a person says that the target is destroyed.
        broken: bool,
    },
    /// Source: the fence is gone; the writers will be started.
    Unfenced,
    /// Source: it serves again, with its original properties.
    Serving,
    /// Source: the target was promoted. This host is the read-only side now.
    Released,
    /// Source, released: the datasets will be destroyed.
    Discarding,
    /// Source, released: the datasets are destroyed.
    Discarded,
    /// Target: **the** decision. This host is the writable side from here on.
    Promoted {
        /// On this.
        proof: Proof,
    },
    /// Target: it is mounted, writable, and its application is healthy.
    Active,
    /// Target: the decision for the source. This leg is never promoted.
    Aborted,
    /// Target: what arming prepared is undone.
    Settled,
    /// Found in ZFS by recovery, and not in the journal.
    UnknownFence {
        /// This.
        leg: Leg,
    },
}

/// A line of a coordinator's journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A leg begins, at this phase.
    Begun {
        /// On these terms.
        terms: Arc<Terms>,
        /// With this.
        phase: Phase,
    },
    /// A phase begins, or is tried again.
    Moved {
        /// This.
        phase: Phase,
        /// By the clock of the coordinator's host.
        at: Millis,
        /// Why, where it is not the usual next one.
        why: Option<String>,
    },
    /// It waits for a person.
    Asked {
        /// This.
        question: Question,
    },
}
