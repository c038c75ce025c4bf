//! The host that is left: quiesce, fence, final snapshot; and the way back from each.
//!
//! ```text
//!   Armed ──▶ Quiescing ──▶ Fencing ──▶ Fenced ──▶ Released ──▶ Discarding ──▶ Discarded
//!     │           │            └────┬──────┘          │
//!     │  no fence │                 │ the target's    │ a person says that
//!     │  yet      ▼                 ▼ recorded abort  │ the target is destroyed
//!     │      Withdrawing        Unfencing ◀───────────┘
//!     │           │                 ▼
//!     │           │             Starting
//!     ▼           ▼                 ▼
//!   Closed ◀──────┴─────────────────┘   it serves again, and this leg is over here
//! ```
//!
//! A source that was promoted and never came up leaves `Armed` by `Withdrawing`, too, and comes up where others start their writers.
//!
//! Invariants: from `Fencing` on, the source serves again only by the target's recorded abort of this leg, or by a person's word;
//! and it is over only once it serves.

use serde::{Deserialize, Serialize};

use super::{
    effect::Action,
    host::{Owed, Turn},
    leg::{Leg, Millis},
    message::{Ask, Refusal, Reply, Request},
    record::HostRecord,
};

/// How far the source is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It serves.
    Armed,
    /// Its writers are stopped, or being stopped.
    Quiescing {
        /// If there is no fence by then, they are let go.
        until: Millis,
    },
    /// It may be fenced, in part.
    Fencing,
    /// It is fenced.
    Fenced,
    /// Its writers are being started; it was never fenced for this leg, and never will be.
    Withdrawing,
    /// Its fence is being taken away.
    Unfencing,
    /// Its writers are being started.
    Starting,
    /// It serves.
    Closed,
    /// It is the read-only side, and stays fenced until a later leg promotes it.
    Released,
    /// Its datasets are being destroyed.
    Discarding,
    /// They are destroyed.
    Discarded,
}

/// Goes on with what was begun, then does the next thing towards what is asked, or answers.
pub(super) fn next(t: &mut Turn<'_>, leg: Leg, stage: &Stage, request: Option<Request>) {
    let serve = matches!(request.as_ref().map(|r| &r.ask), Some(Ask::Unfence { .. } | Ask::Break));
    match stage {
        Stage::Unfencing if !t.rules.unfences_first() && !t.memory.started => {
            return t.act(Action::Unquiesce { anew: false }, request);
        }
        Stage::Unfencing => {
            let former = t.kept.former.clone().unwrap_or_default();
            return t.act(Action::Unfence(former), request);
        }
        Stage::Starting | Stage::Withdrawing => {
            let action = serving(t);
            return t.act(action, request);
        }
        Stage::Discarding => return t.act(Action::Destroy(leg), request),
        // After a start, what is recorded is made true first.
        Stage::Fenced | Stage::Released if !t.memory.fenced && !serve && t.rules.fences_again() => {
            return t.act(Action::Fence(leg), request);
        }
        _ => {}
    }
    let Some(request) = request else { return };
    match (&request.ask, stage) {
        (Ask::Arm { .. }, Stage::Armed) if t.memory.prepared == Some(request.number) => {
            t.answer(&request, Reply::Armed)
        }
        (Ask::Arm { side, .. }, Stage::Armed) => t.act(Action::Prepare(*side), Some(request)),

        (Ask::Quiesce { within }, Stage::Armed) => {
            let until = t.now.plus(*within);
            t.intend(HostRecord::Quiescing { until }, Action::Quiesce, Some(request));
        }
        (Ask::Quiesce { .. }, Stage::Quiescing { .. }) if !t.memory.quiesced => t.act(Action::Quiesce, Some(request)),
        (Ask::Quiesce { .. }, Stage::Quiescing { .. } | Stage::Fencing | Stage::Fenced) => {
            t.answer(&request, Reply::Quiesced);
        }

        (Ask::Fence, Stage::Quiescing { .. } | Stage::Fencing) => fence(t, leg, stage, request),
        (Ask::Fence, Stage::Fenced) => t.answer(&request, Reply::Fenced),
        (Ask::Final, _) if t.rules.may_snapshot(*stage == Stage::Fenced) && *stage != Stage::Closed => {
            match &t.memory.made {
                Some((number, guids)) if *number == request.number => {
                    let guids = guids.clone();
                    t.answer(&request, Reply::Final { guids });
                }
                _ => t.act(Action::Final(leg, request.number), Some(request)),
            }
        }

        (Ask::Withdraw | Ask::Unfence { .. } | Ask::Break, Stage::Armed) if owed(t).is_some() => {
            withdraw(t, Some(request));
        }
        (Ask::Withdraw | Ask::Unfence { .. } | Ask::Break, Stage::Armed) => {
            t.record(HostRecord::Serving);
            t.answer(&request, Reply::Serving);
        }
        (Ask::Withdraw | Ask::Unfence { .. }, Stage::Quiescing { .. }) => withdraw(t, Some(request)),
        (Ask::Withdraw, _) if t.rules.may_withdraw(stage) => withdraw(t, Some(request)),
        (Ask::Withdraw, Stage::Fencing | Stage::Fenced) => t.answer(&request, Reply::NeedsRuling),
        (Ask::Unfence { ruling }, Stage::Fencing | Stage::Fenced) => {
            if t.rules.may_unfence(leg, *ruling) {
                unfence(t, false, Some(request));
            } else {
                t.refuse(&request, Refusal::Ruling);
            }
        }
        (Ask::Break, Stage::Quiescing { .. } | Stage::Fencing | Stage::Fenced | Stage::Released) => {
            broken(t, stage, Some(request));
        }
        (_, Stage::Closed) if !matches!(request.ask, Ask::Arm { .. }) => t.answer(&request, Reply::Serving),

        (Ask::Release { ruling }, Stage::Fenced) if t.rules.may_release(leg, *ruling) => {
            t.record(HostRecord::Released);
            t.answer(&request, Reply::Released);
        }
        (Ask::Release { .. }, Stage::Released) => t.answer(&request, Reply::Released),
        (Ask::Release { .. } | Ask::Unfence { .. }, _) => t.refuse(&request, Refusal::Ruling),
        (Ask::Discard, Stage::Discarded) => t.answer(&request, Reply::Discarded),
        (Ask::Discard, _) if t.rules.may_discard(stage) => {
            t.intend(HostRecord::Discarding, Action::Destroy(leg), Some(request));
        }
        (_, Stage::Closed) => t.refuse(&request, Refusal::Closed),
        _ => t.refuse(&request, Refusal::NotNow),
    }
}

/// The next of: stop the writers, note the former properties, fence.
fn fence(t: &mut Turn<'_>, leg: Leg, stage: &Stage, request: Request) {
    if !t.rules.may_fence(t.memory.quiesced) {
        return t.act(Action::Quiesce, Some(request));
    }
    if t.memory.read.is_none() && t.rules.reads_former(*stage == Stage::Fencing) {
        let owed = owed(t).map(|owed| owed.former.clone());
        return t.act(Action::ReadFormer(owed), Some(request));
    }
    match t.memory.read.take() {
        Some(former) => t.intend(HostRecord::Fencing { former }, Action::Fence(leg), Some(request)),
        None => t.act(Action::Fence(leg), Some(request)),
    }
}

/// An activation that is still to be done.
fn owed<'a>(t: &'a Turn<'_>) -> Option<&'a Owed> {
    t.kept.owed.as_ref().filter(|_| t.rules.brings_up())
}

/// What makes it serve once it is not fenced: its writers start. One that was promoted and never came up is what has to come up.
fn serving(t: &mut Turn<'_>) -> Action {
    t.memory.stopping |= matches!(t.memory.doing, Some((Action::Quiesce, _)));
    let anew = t.memory.stopping && t.rules.stops_again();
    match owed(t) {
        Some(owed) => Action::Activate { former: Some(owed.former.clone()), anew },
        None => Action::Unquiesce { anew },
    }
}

fn withdraw(t: &mut Turn<'_>, request: Option<Request>) {
    let action = serving(t);
    t.intend(HostRecord::Withdrawing, action, request);
}

pub(super) fn unfence(t: &mut Turn<'_>, broken: bool, request: Option<Request>) {
    let former = t.kept.former.clone().unwrap_or_default();
    let first = if t.rules.unfences_first() { Action::Unfence(former) } else { Action::Unquiesce { anew: false } };
    t.intend(HostRecord::Unfencing { broken }, first, request);
}

/// A person says that the target is destroyed.
pub(super) fn broken(t: &mut Turn<'_>, stage: &Stage, request: Option<Request>) {
    match stage {
        Stage::Quiescing { .. } => withdraw(t, request),
        Stage::Armed if owed(t).is_some() => withdraw(t, request),
        Stage::Fencing | Stage::Fenced | Stage::Released => unfence(t, true, request),
        _ => {}
    }
}

/// What the source does when nobody asks.
pub(super) fn overdue(t: &mut Turn<'_>, stage: &Stage) {
    match stage {
        // Nothing was promised to the target yet, so the source need not stay down for it.
        Stage::Quiescing { until } if t.now > *until => withdraw(t, None),
        Stage::Fencing | Stage::Fenced if t.rules.may_break_unasked() => unfence(t, true, None),
        _ => {}
    }
}
