//! The host that becomes writable, and the register in which the decision is made.
//!
//! ```text
//!   Undecided ──▶ Promoted ──▶ Active        the first of promote and abort that is recorded stays;
//!       └───────▶ Aborted ───▶ Settled       whoever asks later, for either, is told what is recorded
//! ```
//!
//! Invariant: nothing here becomes writable before `Promoted` is on disk, and nothing that was `Aborted` ever does.

use serde::{Deserialize, Serialize};

use super::{
    effect::Action,
    host::Turn,
    leg::Leg,
    message::{Ask, Decision, Refusal, Reply, Request, Ruling},
    proof::{Means, Proof},
    record::HostRecord,
};

/// How far the target is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Register {
    /// Open.
    Undecided {
        /// What a promotion has to be proved by.
        verify: Means,
    },
    /// The target serves, or will.
    Promoted {
        /// On this.
        proof: Proof,
    },
    /// It is up.
    Active,
    /// The source serves.
    Aborted,
    /// As above, and the target is as it was before it was armed.
    Settled,
}

impl Register {
    /// What was decided.
    pub fn decision(&self) -> Option<Decision> {
        match self {
            Register::Undecided { .. } => None,
            Register::Promoted { .. } | Register::Active => Some(Decision::Promoted),
            Register::Aborted | Register::Settled => Some(Decision::Aborted),
        }
    }

    /// What a promotion has to be proved by, at least.
    fn agreed(&self) -> Means {
        match self {
            Register::Undecided { verify } => *verify,
            _ => Means::Guid,
        }
    }
}

/// Goes on with what was decided, then does the next thing towards what is asked, or answers.
pub(super) fn next(t: &mut Turn<'_>, leg: Leg, register: &Register, request: Option<Request>) {
    let recorded = register.decision();
    let Some(request) = request else {
        // A promoted target needs nobody to come up.
        if t.rules.may_activate(recorded) && *register != Register::Active {
            let up = up(t);
            t.act(up, None);
        }
        return;
    };
    match (&request.ask, register) {
        (Ask::Arm { .. }, Register::Undecided { .. }) if t.memory.prepared == Some(request.number) => {
            t.answer(&request, Reply::Armed)
        }
        (Ask::Arm { side, .. }, Register::Undecided { .. }) => t.act(Action::Prepare(*side), Some(request)),
        (Ask::Promote { proof }, _) => promote(t, leg, register, proof, &request),
        (Ask::Abort, _) => abort(t, leg, recorded, &request),
        (Ask::Activate, Register::Active) => t.answer(&request, Reply::Active),
        (Ask::Activate, _) if t.rules.may_activate(recorded) => {
            let up = up(t);
            t.act(up, Some(request));
        }
        (Ask::Settle, Register::Aborted) => t.act(Action::Settle, Some(request)),
        (Ask::Settle, Register::Settled) => t.answer(&request, Reply::Settled),
        (_, Register::Aborted | Register::Settled) => t.refuse(&request, Refusal::Closed),
        _ => t.refuse(&request, Refusal::NotNow),
    }
}

fn up(t: &Turn<'_>) -> Action {
    Action::Activate { former: t.kept.former.clone(), anew: false }
}

fn promote(t: &mut Turn<'_>, leg: Leg, register: &Register, proof: &Proof, request: &Request) {
    if let Some(decision) = register.decision()
        && (decision == Decision::Promoted || !t.rules.may_decide(Some(decision), Decision::Promoted))
    {
        return rule(t, leg, decision, request);
    }
    if let Some(objection) = t.rules.objection(leg, register.agreed(), proof) {
        return t.answer(request, Reply::Objected { objection });
    }
    // It comes up at once: each question and answer saved is downtime saved.
    let activate = up(t);
    t.intend(HostRecord::Promoted { proof: proof.clone() }, activate, None);
    rule(t, leg, Decision::Promoted, request);
}

fn abort(t: &mut Turn<'_>, leg: Leg, recorded: Option<Decision>, request: &Request) {
    if let Some(decision) = recorded
        && (decision == Decision::Aborted || !t.rules.may_decide(recorded, Decision::Aborted))
    {
        return rule(t, leg, decision, request);
    }
    t.record(HostRecord::Aborted);
    rule(t, leg, Decision::Aborted, request);
}

fn rule(t: &mut Turn<'_>, leg: Leg, decision: Decision, request: &Request) {
    t.answer(request, Reply::Ruled { ruling: Ruling { leg, decision } });
}
