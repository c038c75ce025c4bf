//! What a person is told about a cutover: what it waits for, and what each command, or none, would do now.

use super::{
    coordinator::Coordinator,
    host::{Host, Part},
    leg::{CutoverId, Leg, Millis},
    phase::{Phase, Question},
    source::Stage,
    target::Register,
};

/// See the module. All of it can be shown as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The cutover.
    pub id: CutoverId,
    /// Its phase.
    pub phase: &'static str,
    /// What it waits for.
    pub waits: String,
    /// The one question that only a person can answer, if there is one.
    pub needs: Option<String>,
    /// What `cutover go` would do.
    pub go: String,
    /// What `cutover abort` would do.
    pub abort: String,
    /// What happens if nobody says anything.
    pub nothing: String,
}

/// What to tell about `coordinator`, whose cutover people know as `id`, that of its first leg, whose outage is predicted to be that
/// long, and why its newest pass failed, if it did.
pub fn status(coordinator: &Coordinator, id: CutoverId, predicted: Option<Millis>, missed: Option<&str>) -> Status {
    let kept = coordinator.progress();
    let needs = needs(coordinator, id, predicted, missed);
    Status {
        id,
        phase: kept.phase.name(),
        waits: if needs.is_some() { "a person".to_owned() } else { waits(&kept.phase).to_owned() },
        needs,
        go: go(coordinator),
        abort: abort(coordinator).to_owned(),
        nothing: nothing(coordinator),
    }
}

/// The one question that only a person can answer.
fn needs(coordinator: &Coordinator, id: CutoverId, predicted: Option<Millis>, missed: Option<&str>) -> Option<String> {
    let kept = coordinator.progress();
    let text = match (&kept.phase, &kept.question) {
        (Phase::Armed { go: false }, None) => {
            let outage = predicted.map_or("not measured yet".to_owned(), |p| p.to_string());
            match missed {
                None => {
                    format!("all is ready; predicted downtime {outage}: `cutover go {id}` or `cutover abort {id}`?")
                }
                Some(why) => format!(
                    "all was ready, but the newest pass failed ({why}); the next tries again. Repair that; `cutover go {id}`, which begins with a pass, or `cutover abort {id}`?"
                ),
            }
        }
        (_, Some(Question::Stalled)) => {
            format!(
                "the passes do not shrink: `cutover go {id}`, `cutover resume {id}` for more passes, or `cutover abort {id}`?"
            )
        }
        (Phase::Activate, Some(Question::Failed { why })) => format!(
            "the target is promoted and does not come up ({why}): repair it and `cutover resume {id}`, or `cutover back {id}`?"
        ),
        (phase, Some(Question::Failed { why })) if can_abort(phase) => {
            format!("{why}: repair that and `cutover resume {id}`, or `cutover abort {id}`?")
        }
        (_, Some(Question::Failed { why })) => format!("{why}: repair that, then `cutover resume {id}`"),
        (_, None) => return None,
    };
    Some(text)
}

/// The one question that a host has by itself, when no coordinator is left to ask it.
pub fn host_needs(host: &Host) -> Option<String> {
    let breaks = |leg: Leg| {
        format!("`cutover break {} --i-have-destroyed-the-target` is for a target that is lost for ever", leg.id)
    };
    match &host.kept().part {
        Part::UnknownFence(leg) => Some(format!(
            "ZFS shows the fence {leg}, which the journal here does not know: restore the journal; {}",
            breaks(*leg)
        )),
        Part::Source(leg, Stage::Fencing | Stage::Fenced) => Some(format!(
            "fenced by cutover {}: `cutover resume {}` where it was started asks the target again; {}",
            leg.id,
            leg.id,
            breaks(*leg)
        )),
        _ => None,
    }
}

/// What a host has not brought about by itself although it is due, and why it `failed` last, if that is known. It is no question as long as
/// it is under way; a person has to know of it once it has lasted.
pub fn host_is_stuck(host: &Host, failed: Option<&str>) -> Option<String> {
    let why = failed.unwrap_or("nothing has failed, or no zmigrated runs here");
    match &host.kept().part {
        Part::Target(leg, Register::Promoted { .. }) => Some(format!(
            "promoted by cutover {}, and not up ({why}): repair it, zmigrated here tries again by itself; or `cutover back {}` where it was started",
            leg.id, leg.id
        )),
        Part::Source(leg, Stage::Withdrawing | Stage::Unfencing | Stage::Starting) => Some(format!(
            "it is to serve again after cutover {}, and does not yet ({why}): repair it, zmigrated here tries again by itself",
            leg.id
        )),
        _ => None,
    }
}

fn can_abort(phase: &Phase) -> bool {
    matches!(phase, Phase::Seed | Phase::CatchUp | Phase::Arm { .. } | Phase::Armed { .. }) || phase.is_outage()
}

fn waits(phase: &Phase) -> &'static str {
    match phase {
        Phase::Seed => "the first pass",
        Phase::CatchUp => "passes, until the predicted downtime is short enough",
        Phase::Arm { .. } => "both sides to try what can fail later",
        Phase::Armed { .. } => "the pass that is under way",
        Phase::Quiesce => "the source's writers to stop",
        Phase::Fence => "the source to be fenced",
        Phase::Final => "the source's final snapshot",
        Phase::Sync { .. } => "the final snapshot to arrive",
        Phase::Verify { .. } => "the comparison of both sides",
        Phase::Promote { .. } => "the target's decision",
        Phase::Activate => "the target's application",
        Phase::Release { .. } => "the source to learn that it is the read-only side",
        Phase::Discard => "the source's datasets to be destroyed",
        Phase::Withdraw => "the source to serve again",
        Phase::Retract { served: false } => "the target's decision; until then the source stays fenced",
        Phase::Retract { served: true } => "the target's decision; the source serves already",
        Phase::Unfence { .. } | Phase::Break => "the source to serve again",
        Phase::Settle => "the target to close its part",
        Phase::Done | Phase::Completed | Phase::RolledBack | Phase::Broken => "nothing; it is over",
    }
}

fn go(coordinator: &Coordinator) -> String {
    let kept = coordinator.progress();
    match (&kept.phase, &kept.question) {
        (Phase::Armed { go: false }, _) => "stops the source's writers and moves the unit".to_owned(),
        (Phase::CatchUp, Some(Question::Stalled)) => "goes on though the downtime will be longer than asked".to_owned(),
        _ => "does nothing now".to_owned(),
    }
}

fn abort(coordinator: &Coordinator) -> &'static str {
    let kept = coordinator.progress();
    match &kept.phase {
        Phase::Arm { .. } | Phase::Quiesce if kept.terms.returns_from.is_some() => {
            "ends it; the source, which did not come up, is brought up where it is"
        }
        Phase::Seed | Phase::CatchUp => "ends it; nothing was changed",
        Phase::Arm { .. } | Phase::Armed { .. } => "ends it; the source has not been stopped",
        Phase::Quiesce => "starts the source's writers again at once",
        Phase::Promote { .. } => "asks the target to give up; if it is promoted already, the cutover goes on",
        phase if phase.is_outage() => "asks the target to give up, then unfences the source",
        Phase::Activate | Phase::Release { .. } | Phase::Done => {
            "is refused: the target is promoted; `cutover back` moves home"
        }
        Phase::Withdraw | Phase::Retract { .. } | Phase::Unfence { .. } | Phase::Settle => "is under way",
        _ => "is refused: it is over",
    }
}

fn nothing(coordinator: &Coordinator) -> String {
    let kept = coordinator.progress();
    let limit = kept.outage_limit();
    match &kept.phase {
        _ if kept.question.is_some() => "it stays as it is".to_owned(),
        Phase::Seed | Phase::CatchUp if kept.terms.hold => "it goes on, and stops when all is ready".to_owned(),
        Phase::Seed | Phase::CatchUp => {
            "it goes on, and moves the unit when the predicted downtime is short enough".to_owned()
        }
        Phase::Armed { go: false } => "passes go on; the source serves".to_owned(),
        phase if phase.is_outage() => {
            format!("it goes on; if the outage would last longer than {limit}, it is rolled back")
        }
        Phase::Retract { served: false } => {
            "it asks again until the target answers; if the target is lost for ever, only `cutover break` helps"
                .to_owned()
        }
        phase if phase.is_end() => "it stays as it is".to_owned(),
        _ => "it goes on".to_owned(),
    }
}
