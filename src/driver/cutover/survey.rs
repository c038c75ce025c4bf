//! What is asked of both hosts outside of a running cutover.

use std::sync::Arc;

use super::talk::Talk;
use crate::{
    cutover::{
        call::{Call, State},
        host::Part,
        leg::{CutoverId, Leg, Side},
        source::Stage,
        target::Register,
        terms::Terms,
    },
    driver::RunContext,
    session::engine::Engine,
    types::{DatasetName, Failure, FailureClass},
};

/// What both hosts say before anything begins.
pub struct Survey {
    /// The source's host.
    pub source: State,
    /// The target's host.
    pub target: State,
    /// Datasets below the source's roots.
    pub children: Vec<DatasetName>,
}

/// Asks both hosts which part they play.
///
/// # Errors
/// When one cannot be reached, or does not grant it, or the source is not there.
pub async fn survey(context: &Arc<RunContext>, terms: &Terms) -> Result<Survey, Failure> {
    let talk = Talk::new(Arc::clone(context));
    let asked = async {
        let source = talk.state(terms, Side::Source).await?;
        let target = talk.state(terms, Side::Target).await?;
        let children = talk.children(terms).await?;
        Ok(Survey { source, target, children })
    };
    let result = asked.await;
    talk.bye().await;
    result
}

/// What a person's word on this host alone came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenHere {
    /// The source will serve, as it was.
    Serves,
    /// Only the mark of the fence goes: what the datasets were before is not known here.
    MarkGone,
}

/// A host's own word on a unit of it, for a person who is there without the cutover's leader; `None` where no unit takes part.
///
/// # Errors
/// When there is nothing to break here.
pub async fn break_here(engine: &Engine, ids: &[CutoverId]) -> Result<Option<BrokenHere>, Failure> {
    let hosts = engine.cutovers.as_ref();
    let hosts = hosts.ok_or_else(|| Failure::new(FailureClass::Internal, "no cutovers here"))?;
    for (unit, host) in hosts.units()? {
        let part = &host.kept().part;
        let named = |leg: &Leg| ids.contains(&leg.id);
        // A fence stays through the leg that leads home.
        let Some(leg) = part.leg().filter(named).or(host.kept().fence.filter(named)) else { continue };
        let id = leg.id;
        let broken = match part {
            Part::UnknownFence(_) => BrokenHere::MarkGone,
            Part::Source(
                _,
                Stage::Quiescing { .. }
                | Stage::Fencing
                | Stage::Fenced
                | Stage::Withdrawing
                | Stage::Unfencing
                | Stage::Starting
                | Stage::Released,
            ) => BrokenHere::Serves,
            Part::Source(_, Stage::Armed) if host.kept().owed.is_some() => BrokenHere::Serves,
            Part::Target(_, Register::Undecided { .. } | Register::Aborted | Register::Settled)
                if host.kept().fence.is_some() =>
            {
                BrokenHere::Serves
            }
            Part::None | Part::Source(..) | Part::Target(..) => {
                let (side, stage, _) = part.summary();
                let side =
                    side.map_or("not part", |side| if side == Side::Source { "the source" } else { "the target" });
                let text = format!(
                    "{unit} on this host is {side} of cutover {id} ({stage}): it has no fence that could be broken"
                );
                return Err(Failure::new(FailureClass::Refused, text)
                    .hint("break is for the host of a source that is fenced, when its target is destroyed"));
            }
        };
        hosts.handle(unit.roots(), Call::Break { leg }, "an operator on this host").await?;
        return Ok(Some(broken));
    }
    Ok(None)
}
