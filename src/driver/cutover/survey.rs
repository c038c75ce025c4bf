//! What is asked of both hosts outside of a running cutover.

use std::sync::Arc;

use super::talk::Talk;
use crate::{
    cutover::{
        call::{Call, State, Told},
        host::Part,
        leg::{CutoverId, Leg, Side},
        message::{Ask, Decision, Reply, Request},
        source::Stage,
        status::host_needs,
        target::Register,
        terms::Terms,
    },
    driver::RunContext,
    limits::{ABOUT_WITHIN, LISTING_WITHIN},
    session::{
        cutover::{Hosts, Unit},
        engine::Engine,
        patience::in_time,
    },
    types::{
        DatasetName, Failure, FailureClass,
        listing::{FENCE, PropertySource},
    },
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

/// A host's own word on a unit of it, for a person who is there without the cutover's leader, and that unit, which has been told but need not
/// serve yet; `None` where no unit takes part, and no dataset bears a fence of that cutover: it may, where the ledger is lost, or stayed on the
/// host from which the pool came.
///
/// # Errors
/// When there is nothing to break here.
pub async fn break_here(engine: &Engine, ids: &[CutoverId]) -> Result<Option<(BrokenHere, Unit)>, Failure> {
    let hosts = engine.cutovers.as_ref();
    let hosts = hosts.ok_or_else(|| Failure::new(FailureClass::Internal, "no cutovers here"))?;
    let mut refused: Vec<(&Unit, Failure)> = Vec::new();
    let units = hosts.units()?;
    for (unit, host) in &units {
        let part = &host.kept().part;
        let named = |leg: &Leg| ids.contains(&leg.id);
        // A fence stays through the leg that leads home.
        let Some(leg) = part.leg().filter(named).or(host.kept().fence.filter(named)) else { continue };
        let id = leg.id;
        let broken = match part {
            Part::UnknownFence(_) => BrokenHere::MarkGone,
            Part::Source(..) if host.kept().unfences_unknown() => BrokenHere::MarkGone,
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
                let failure = Failure::new(FailureClass::Refused, text)
                    .hint("break is for the host of a source that is fenced, when its target is destroyed");
                refused.push((unit, failure));
                continue;
            }
        };
        hosts.handle(unit.roots(), Call::Break { leg }, "an operator on this host").await?;
        return Ok(Some((broken, unit.clone())));
    }
    let known: Vec<DatasetName> = refused.iter().flat_map(|(unit, _)| unit.roots().to_vec()).collect();
    let found = marked(engine, ids, &known).await;
    let (leg, roots) = match (found, refused.into_iter().next()) {
        (Ok(Some(found)), _) => found,
        // What a ledger here says of it comes before what could not be looked at.
        (_, Some((_, failure))) => return Err(failure),
        (Ok(None), None) => return Ok(None),
        (Err(failure), None) => return Err(failure),
    };
    // A ledger that is older than the fence names them in its own order.
    let is_it = |unit: &Unit| unit.roots().len() == roots.len() && roots.iter().all(|root| unit.roots().contains(root));
    let unit = match units.iter().find(|(unit, _)| is_it(unit)) {
        Some((unit, _)) => unit.clone(),
        None => Unit::new(&roots)?,
    };
    hosts.handle(unit.roots(), Call::Break { leg }, "an operator on this host").await?;
    Ok(Some((BrokenHere::MarkGone, unit)))
}

/// What bears a fence of one of these in ZFS, was not received with it, and is not at or below one of `but`: the topmost of them.
async fn marked(
    engine: &Engine,
    ids: &[CutoverId],
    but: &[DatasetName],
) -> Result<Option<(Leg, Vec<DatasetName>)>, Failure> {
    let mut marks: Vec<(Leg, DatasetName)> = Vec::new();
    let mut silent = None;
    for pool in in_time("list the pools", ABOUT_WITHIN, engine.zfs.pools()).await? {
        let Some(root) = pool.name.parse().ok().filter(|_| pool.answers()) else {
            silent.get_or_insert(pool);
            continue;
        };
        let tree = in_time(&format!("list {root}"), LISTING_WITHIN, engine.zfs.tree(&root)).await?;
        marks.extend(tree.into_iter().filter_map(|info| {
            let fence = info.property(FENCE).filter(|fence| fence.source == PropertySource::Local)?;
            let leg: Leg = fence.value.parse().ok().filter(|leg: &Leg| ids.contains(&leg.id))?;
            (!but.iter().any(|root| info.name.is_at_or_below(root))).then_some((leg, info.name))
        }));
    }
    let Some(leg) = marks.iter().map(|(leg, _)| *leg).max_by_key(|leg| leg.epoch) else {
        let Some(pool) = silent else { return Ok(None) };
        let text = format!("no fence of it is seen, and pool {} is {} and was not asked", pool.name, pool.health);
        return Err(Failure::new(FailureClass::Zfs, text).hint("look at `zpool status` on this host"));
    };
    let all: Vec<DatasetName> = marks.into_iter().filter(|(of, _)| *of == leg).map(|(_, name)| name).collect();
    let is_below = |name: &DatasetName| all.iter().any(|other| other != name && name.is_at_or_below(other));
    let roots = all.iter().filter(|name| !is_below(name)).cloned().collect();
    Ok(Some((leg, roots)))
}

/// How often a host is asked that is still at something.
const ASKED: u32 = 6;

/// Ends this host's part in a leg that is not decided, without the cutover's leader: a source that is not fenced serves, and a target never
/// will by that leg. Always safe: whoever leads after all is told so, and rolls back. `None` where no unit takes part.
///
/// # Errors
/// When this part cannot be ended so, and what helps instead; or when it fails.
pub async fn abort_here(engine: &Engine, id: CutoverId) -> Result<Option<Side>, Failure> {
    let hosts = engine.cutovers.as_ref();
    let hosts = hosts.ok_or_else(|| Failure::new(FailureClass::Internal, "no cutovers here"))?;
    for (unit, host) in hosts.units()? {
        let part = &host.kept().part;
        let Some(leg) = part.leg().filter(|leg| leg.id == id) else { continue };
        let (side, asks): (Side, &[Ask]) = match part {
            Part::Source(_, Stage::Armed | Stage::Quiescing { .. } | Stage::Withdrawing | Stage::Starting) => {
                (Side::Source, &[Ask::Withdraw])
            }
            Part::Target(_, Register::Undecided { .. } | Register::Aborted) => {
                (Side::Target, &[Ask::Abort, Ask::Settle])
            }
            _ => {
                let (_, stage, _) = part.summary();
                let text = format!("{unit} on this host is {stage} in cutover {id}: that cannot be aborted from here");
                return Err(Failure::new(FailureClass::Refused, text).hint(host_needs(&host).unwrap_or_else(|| {
                    "`zmigrate cutover status` on the host where it was started says what can be done".to_owned()
                })));
            }
        };
        for (number, ask) in (1..).zip(asks) {
            let request = Request { leg, number, ask: ask.clone() };
            answered(hosts, &unit, request).await?;
        }
        return Ok(Some(side));
    }
    Ok(None)
}

/// Puts a question to a host here until it is answered well.
async fn answered(hosts: &Hosts, unit: &Unit, request: Request) -> Result<(), Failure> {
    for _ in 0..ASKED {
        let call = Call::Ask { request: request.clone(), setup: None };
        let Told::Answer { answer: Some(answer), .. } =
            hosts.handle(unit.roots(), call, "an operator on this host").await?
        else {
            continue;
        };
        let why = match answer.reply {
            Reply::Serving | Reply::Settled => return Ok(()),
            Reply::Ruled { ruling } if ruling.decision == Decision::Aborted => return Ok(()),
            Reply::Failed { why } => why,
            other => format!("it answers {other:?}"),
        };
        return Err(Failure::new(FailureClass::Zfs, format!("{unit}: {why}")).hint("repair that, and say it again"));
    }
    Err(Failure::new(FailureClass::Locked, format!("{unit} is still at something else"))
        .hint("say it again in a minute"))
}
