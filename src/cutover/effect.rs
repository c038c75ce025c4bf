//! What the two machines tell their driver to do, and what it tells them.
//!
//! Effects are carried out in order. A driver that cannot write a record does nothing that comes after it. Whatever was
//! begun and has no outcome when a process dies may have happened, in full or in part, or not; each can be done again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    leg::{CutoverId, Leg, Node, Side},
    message::{Answer, Request},
    predict::Pass,
    proof::Proof,
    record::{Former, HostRecord, Record},
};
use crate::types::Guid;

/// What a host has to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostEffect {
    /// Append to this host's journal, and sync it.
    Append(HostRecord),
    /// Begin this; its end comes back as [`HostEvent::Ended`]. One at a time: one that is under way is broken off first, and its
    /// end is not told.
    Act(Action),
    /// Answer the coordinator.
    Answer(Answer),
}

/// Work on one host's ZFS and hooks. Each may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Try whatever can fail later: keys, mount points, hooks, space. Hooks are asked to try; nothing else is changed.
    Prepare(Side),
    /// Stop the writers by the hooks, within their time limits.
    Quiesce,
    /// Read the properties that the fence changes, with their sources. Of one that was promoted and never came up: what they
    /// would be if it had, which is this list, or, without an entry in it, what the manifest says.
    ReadFormer(Option<Former>),
    /// Unmount without force (zvol: close it, and see its node go), then `readonly=on`, `canmount=noauto` (`volmode=none`),
    /// `zmigrate:fence=<leg>`.
    Fence(Leg),
    /// `zpool sync`, one atomic snapshot named after the leg and the number; then its GUIDs. Made already: its GUIDs.
    Final(Leg, u32),
    /// Set back every property of the list, remove `zmigrate:fence`, mount.
    Unfence(Former),
    /// Start the writers by the hooks.
    Unquiesce {
        /// Stop them first: what was begun to stop them may be under way still, and would stop what is started.
        anew: bool,
    },
    /// Undo `Prepare(Target)`, which changes nothing today. Snapshots stay.
    Settle,
    /// Set the list back if there is one, else what the manifest says; remove `zmigrate:fence`; `readonly=off`; mount; start
    /// hooks; health check.
    Activate {
        /// The list.
        former: Option<Former>,
        /// As in `Unquiesce`, before the hooks start anything.
        anew: bool,
    },
    /// Destroy the datasets of the unit, which carry the fence of this leg.
    Destroy(Leg),
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done.
    Done,
    /// `ReadFormer`: this.
    Former(Former),
    /// `Final`: these.
    Final(Arc<[Guid]>),
    /// Not done, or partly.
    Failed(String),
}

/// What happens to a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostEvent {
    /// The process has started and read its journal; first of all events.
    Recover {
        /// The fence that ZFS shows on the unit.
        fence: Option<Leg>,
    },
    /// The coordinator asks.
    Asked(Request),
    /// The action under way has ended.
    Ended(Outcome),
    /// Some seconds have passed.
    Tick,
    /// The operator at this host swears that the target of this leg is destroyed.
    Break(Leg),
}

/// What a coordinator has to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Append to the coordinator's journal, and sync it.
    Append(Record),
    /// Ask a host; the one here by a function call.
    Ask(Node, Request),
    /// Begin this; its end comes back as [`Event::Worked`]. What was begun before is cancelled first.
    Work(Work),
    /// Tell the operator that a command does not apply now, and why.
    Decline(String),
}

/// Work across both hosts. Each may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Snapshot, and send what is new.
    Pass,
    /// Send up to the final snapshot.
    Sync,
    /// Look at both sides: fence, `written`, GUIDs; compare as agreed.
    Verify,
}

/// What work came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Result {
    /// `Pass`: measured so.
    Passed(Pass),
    /// `Sync`.
    Synced,
    /// `Verify`: seen so.
    Verified(Proof),
    /// It did not work.
    Failed(String),
}

/// What happens to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The cutover begins, or the process has started and read its journal.
    Recover,
    /// A host answers.
    Answered(Answer),
    /// Work of this leg has ended.
    Worked(Leg, Result),
    /// Some seconds have passed: ask again.
    Tick,
    /// The operator says.
    Said(Command),
}

/// The operator's commands, possible at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Go on from where it was to wait.
    Go,
    /// Roll back.
    Abort,
    /// Try again what it asks about.
    Resume,
    /// The target is destroyed; let the source serve.
    Break,
    /// Destroy the released source.
    Complete,
    /// Move home.
    Back {
        /// The new leg's id.
        id: CutoverId,
    },
}
