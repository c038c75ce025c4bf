//! What is asked of both hosts outside of a running cutover.

use std::sync::Arc;

use super::talk::Talk;
use crate::{
    cutover::{
        call::{Call, State},
        leg::{CutoverId, Side},
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

/// A host's own word on a unit of it, for a person who is there without the cutover's leader.
///
/// # Errors
/// When there is no such leg there.
pub async fn break_here(engine: &Engine, id: CutoverId) -> Result<bool, Failure> {
    let hosts = engine.cutovers.as_ref();
    let hosts = hosts.ok_or_else(|| Failure::new(FailureClass::Internal, "no cutovers here"))?;
    for (unit, host) in hosts.units()? {
        if let Some(leg) = host.kept().part.leg().filter(|leg| leg.id == id) {
            hosts.handle(unit.roots(), Call::Break { leg }, "an operator on this host").await?;
            return Ok(true);
        }
    }
    Ok(false)
}
