//! What each of the operator's commands does in each phase, or why it does nothing.

use super::{
    coordinator::{Phase, Question, Turn},
    effect::Command,
    leg::Side,
};

/// Carries out a command, or declines it with the reason and what can be said instead.
pub(super) fn said(turn: &mut Turn<'_>, command: Command) {
    match command {
        Command::Go => go(turn),
        Command::Abort => abort(turn),
        Command::Resume => resume(turn),
        Command::Break => break_fence(turn),
        Command::Complete => complete(turn),
        Command::Back { id } => back(turn, id),
    }
}

fn go(turn: &mut Turn<'_>) {
    match (&turn.kept().phase, &turn.kept().question) {
        (Phase::CatchUp, Some(Question::Stalled)) if turn.is_fresh() => {
            turn.enter(Phase::Arm { side: Side::Source }, None);
        }
        // It may have stood for days: first another pass.
        (Phase::CatchUp, Some(Question::Stalled)) => turn.enter(Phase::Armed { go: true }, None),
        // A pass that is under way is waited for: it shortens the outage, and holds the target.
        (Phase::Armed { go: false }, _) => turn.enter(Phase::Armed { go: true }, None),
        // It was heard already, and who heard it may be gone.
        (Phase::Armed { go: true }, None) => turn.pursue(),
        _ => turn.decline("it does not wait for go"),
    }
}

fn abort(turn: &mut Turn<'_>) {
    let phase = &turn.kept().phase;
    match phase {
        Phase::Seed | Phase::CatchUp | Phase::Arm { .. } | Phase::Armed { .. } => {
            turn.roll_back("the operator aborted it".to_owned());
        }
        // In `Promote`, too: the target takes whichever reaches it first.
        _ if phase.is_outage() => turn.roll_back("the operator aborted it".to_owned()),
        Phase::Activate | Phase::Release { .. } | Phase::Done => {
            turn.decline("the target is promoted; `cutover back` moves home without losing what it took since");
        }
        Phase::Withdraw | Phase::Retract { .. } | Phase::Unfence { .. } | Phase::Settle => {
            turn.decline("it is being rolled back already");
        }
        _ => turn.decline("it is over"),
    }
}

fn resume(turn: &mut Turn<'_>) {
    if turn.kept().question.is_some() {
        let phase = match turn.kept().phase.clone() {
            // It may have stood for days: first what was written meanwhile, and where it holds, a new go.
            // What returns has a source that nobody wrote to.
            Phase::Arm { .. } | Phase::Armed { .. } if turn.kept().terms.returns_from.is_none() => Phase::CatchUp,
            phase => phase,
        };
        turn.enter(phase, None);
    } else if turn.kept().phase.is_end() {
        turn.decline("it is over");
    } else {
        turn.pursue();
    }
}

fn break_fence(turn: &mut Turn<'_>) {
    if turn.kept().phase.may_be_fenced() {
        turn.enter(Phase::Break, Some("the operator swears that the target is destroyed".to_owned()));
    } else {
        turn.decline("the source is not fenced; there is nothing to break");
    }
}

fn complete(turn: &mut Turn<'_>) {
    match turn.kept().phase {
        Phase::Done => turn.enter(Phase::Discard, None),
        Phase::Discard | Phase::Completed => turn.decline("the source is destroyed, or being destroyed, already"),
        _ => turn.decline("the target does not serve yet; the source is the only copy that counts"),
    }
}

fn back(turn: &mut Turn<'_>, id: super::leg::CutoverId) {
    match (&turn.kept().phase, &turn.kept().question) {
        (Phase::Done, _) => turn.go_back(id),
        (Phase::RolledBack, _) if turn.kept().terms.homeward => turn.go_again(id),
        (Phase::RolledBack, _) => turn.decline("it was rolled back: the source serves where it always did"),
        (Phase::Activate, Some(_)) => turn.enter(Phase::Release { back: Some(id) }, None),
        (Phase::Discard | Phase::Completed, _) => turn.decline("the source is destroyed; start a new cutover instead"),
        _ => turn.decline("the target does not serve yet; abort instead"),
    }
}
