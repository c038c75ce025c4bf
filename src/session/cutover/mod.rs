//! The hosts of cutovers: one machine for each unit on this host, with its ledger, at the service of whoever leads.
//!
//! ```text
//! Call ─ Hosts ─┬─ Ask, Break ──▶ actor (one for each unit, owns the ledger) ─ actions on ZFS and hooks
//!               └─ Look, Describe, Tidy, Shed, State: answered at once
//! ```
//!
//! Invariants: a record is on disk before what follows from it is done; one process at a time is a unit's host; a unit
//! shares no dataset with another one whose leg is under way.

mod actions;
mod activate;
mod actor;
mod fence;
pub(super) mod later;
mod lines;
mod look;
mod shed;
mod unit;
mod users;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use self::{actor::Message, later::Later};
pub use self::{
    lines::{ReadBack, Said, units},
    look::Looked,
    unit::Unit,
};
use crate::{
    cutover::{
        call::{Call, Setup, State, Told},
        host::{Host, Part},
        leg::{CutoverId, Leg, Side},
        message::{Ask, Decision, Request},
        record::HostRecord,
        source::Stage,
    },
    limits::{ABOUT_WITHIN, ANSWER_WITHIN},
    port::{
        busy::Busy,
        hook::Hooks,
        journal::Journal,
        ledger::{Ledgers, Stamp},
        zfs::Zfs,
    },
    session::patience::in_time,
    types::{
        DatasetName, Failure, FailureClass,
        listing::{FENCE, Listing, PropertySource, SERVING},
    },
};

/// Calls that are answered at once, at a time.
const MAX_LOOKS: usize = 4;

/// What the hosts of all units work with.
pub struct Tools {
    /// This host's ZFS.
    pub zfs: Arc<dyn Zfs>,
    /// The ledgers.
    pub ledgers: Arc<dyn Ledgers>,
    /// What was destroyed, and on whose behalf.
    pub journal: Arc<dyn Journal>,
    /// What stops and starts the programs that use the datasets.
    pub hooks: Mutex<Arc<dyn Hooks>>,
    /// Who keeps a mount busy.
    pub busy: Arc<dyn Busy>,
    /// Why this process cannot mount for the whole host, if it cannot.
    pub cannot_mount: Option<String>,
    /// What was just seen of a unit.
    pub looked: Looked,
}

impl Tools {
    /// What stops and starts the programs that use the datasets, by the configuration that is in force.
    pub fn hooks(&self) -> Arc<dyn Hooks> {
        Arc::clone(&self.hooks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A unit with its machine; or why its ledger cannot be read, and the unit if at least that can.
type UnitRead = Result<(Unit, Host), (Option<Unit>, Failure)>;

/// See the module.
pub struct Hosts {
    tools: Arc<Tools>,
    actors: Mutex<HashMap<String, mpsc::Sender<Message>>>,
    /// What is answered at once starts processes of its own.
    looks: Semaphore,
    /// What receives left to do.
    pub(super) later: Later,
    /// What ledgers told when they were read last: each receive on a way home asks all of them.
    told: Mutex<HashMap<String, (Stamp, Unit, Host)>>,
}

impl Hosts {
    /// Hosts without any unit loaded.
    pub fn new(tools: Tools) -> Arc<Hosts> {
        Arc::new(Hosts {
            tools: Arc::new(tools),
            actors: Mutex::default(),
            looks: Semaphore::new(MAX_LOOKS),
            later: Later::default(),
            told: Mutex::default(),
        })
    }

    /// From now on these hooks are called; a call that is under way goes on.
    pub fn set_hooks(&self, hooks: Arc<dyn Hooks>) {
        *self.tools.hooks.lock().unwrap_or_else(PoisonError::into_inner) = hooks;
    }

    /// Does what `who` says about the unit of these roots. Whoever calls has checked that it is granted.
    ///
    /// # Errors
    /// What went wrong. A machine's refusal is no error but an answer.
    pub async fn handle(&self, roots: &[DatasetName], call: Call, who: &str) -> Result<Told, Failure> {
        let unit = Unit::new(roots)?;
        // The semaphore is never closed.
        let _one_of_few = match call {
            Call::Look { .. } | Call::Describe | Call::Tidy { .. } | Call::Shed | Call::State => {
                self.looks.acquire().await.ok()
            }
            Call::Ask { .. } | Call::Break { .. } => None,
        };
        match call {
            Call::Ask { request, setup } => self.ask(unit, request, setup, who).await,
            Call::Look { tag } => look::look(&*self.tools.zfs, &self.tools.looked, &unit, &tag).await.map(Told::Seen),
            Call::Describe => look::describe(&*self.tools.zfs, &unit).await.map(|saved| Told::Described { saved }),
            Call::Tidy { mut legs, keep, earlier } => {
                self.later.is_done(unit.roots()).await;
                if earlier {
                    legs.extend(self.over(&unit, &legs)?);
                }
                self.tools.looked.forget();
                look::tidy(&*self.tools.zfs, &unit, &legs, &keep).await?;
                Ok(Told::Done)
            }
            Call::Shed => shed::shed(&self.tools, &unit, who).await.map(|()| Told::Done),
            Call::State => self.state(&unit).await.map(Told::State),
            Call::Break { leg } => {
                tracing::warn!(unit = %unit, by = who, "a person swears that the target of {leg} is destroyed");
                let (tell, told) = oneshot::channel();
                self.send(&unit, Message::Break { leg, tell }).await?;
                told.await.unwrap_or_else(|_| Err(gone()))?;
                Ok(Told::Done)
            }
        }
    }

    /// The listing of this root and all below it that was just made for a cutover's final sync, once.
    pub(super) fn just_listed(&self, root: &DatasetName) -> Option<Listing> {
        self.tools.looked.take_tree(root)
    }

    /// Something is changed here: what was just seen or listed does not count any more.
    pub(super) fn forget_what_was_seen(&self) {
        self.tools.looked.forget();
    }

    /// The legs of the unit that are over here, where the one that it takes part in now is one of these. Unless that has moved the unit,
    /// not those that have: one can go home from where they brought it.
    fn over(&self, unit: &Unit, mine: &[CutoverId]) -> Result<Vec<CutoverId>, Failure> {
        let is_mine = |host: &Host| host.kept().part.leg().is_none_or(|leg| mine.contains(&leg.id));
        let host = self.near(unit)?.into_iter().find(|(other, _)| other == unit);
        if !host.is_some_and(|(_, host)| is_mine(&host)) {
            return Ok(Vec::new());
        }
        let legs = lines::legs_of(&*self.tools.ledgers, &unit.ledger());
        let moved_now = legs.iter().any(|(leg, moved)| *moved && mine.contains(leg));
        Ok(legs.into_iter().filter(|(_, moved)| moved_now || !moved).map(|(leg, _)| leg).collect())
    }

    async fn ask(&self, unit: Unit, request: Request, setup: Option<Setup>, who: &str) -> Result<Told, Failure> {
        if let Ask::Arm { datasets, .. } = &request.ask {
            if **datasets != *unit.roots() {
                return Err(Failure::new(FailureClass::Protocol, "the question names other datasets than the call"));
            }
            let overlaps = self.overlaps(&unit)?;
            if let Some((other, leg)) = overlaps.first() {
                return Err(Failure::new(
                    FailureClass::Refused,
                    format!("{unit} shares datasets with {other}, which cutover {} moves or moved away", leg.id),
                )
                .hint("let that one end first, or name the same datasets as it does"));
            }
        }
        tracing::debug!(unit = %unit, by = who, leg = %request.leg, number = request.number, "asked: {:?}", request.ask);
        let (tell, told) = oneshot::channel();
        let setup = setup.map(Box::new);
        self.send(&unit, Message::Ask { request, setup, tell }).await?;
        match timeout(ANSWER_WITHIN, told).await {
            Ok(Ok(answered)) => answered.map(|(answer, notes)| Told::Answer { answer, notes }),
            // It is still at it, or it ended: whoever asked asks again.
            Ok(Err(_)) | Err(_) => Ok(Told::Answer { answer: None, notes: Vec::new() }),
        }
    }

    async fn send(&self, unit: &Unit, message: Message) -> Result<(), Failure> {
        let mut message = message;
        // The actor may just be ending; the next one takes it.
        for _ in 0..3 {
            let sender = self.actor(unit, false);
            match sender.send(message).await {
                Ok(()) => return Ok(()),
                Err(back) => message = back.0,
            }
        }
        Err(gone())
    }

    fn actor(&self, unit: &Unit, stays: bool) -> mpsc::Sender<Message> {
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = actors.get(&unit.ledger()).filter(|sender| !sender.is_closed()) {
            return sender.clone();
        }
        let sender = actor::start(Arc::clone(&self.tools), unit.clone(), stays);
        actors.insert(unit.ledger(), sender.clone());
        sender
    }

    /// True if a dataset that bears this fence may be received into: the leg that set it is over for this host, so what comes
    /// is on its way home. Before that the dataset may have to serve again as it is.
    ///
    /// # Errors
    /// When the ledgers cannot be read.
    pub fn is_way_home(&self, dataset: &DatasetName, fence: &str) -> Result<bool, Failure> {
        let is_over = |host: &Host| match &host.kept().part {
            Part::None | Part::UnknownFence(_) => false,
            Part::Source(_, stage) => matches!(stage, Stage::Released),
            Part::Target(_, register) => register.decision() != Some(Decision::Promoted),
        };
        let bears = |host: &Host| host.kept().fence.is_some_and(|leg| leg.to_string() == fence);
        let of_it = |(unit, host): &(Unit, Host)| unit.place(dataset).is_some() && bears(host) && is_over(host);
        // One that cannot be read says nothing for it.
        Ok(self.each_unit()?.into_iter().flatten().any(|told| of_it(&told)))
    }

    /// The units of this host that have a ledger, with the machines as the ledgers tell.
    ///
    /// # Errors
    /// When a ledger cannot be read or understood.
    pub fn units(&self) -> Result<Vec<(Unit, Host)>, Failure> {
        self.each_unit()?.into_iter().map(|told| told.map_err(|(_, failure)| failure)).collect()
    }

    /// This unit and those that share datasets with it, or may.
    ///
    /// # Errors
    /// When a ledger cannot be read that may be one of theirs.
    fn near(&self, unit: &Unit) -> Result<Vec<(Unit, Host)>, Failure> {
        let is_near = |other: &Unit| other == unit || other.overlaps(unit);
        let mut near = Vec::new();
        for told in self.each_unit()? {
            match told {
                Ok(told) if is_near(&told.0) => near.push(told),
                Err((other, failure)) if other.as_ref().is_none_or(is_near) => return Err(failure),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(near)
    }

    /// The same, each for itself: one that cannot be read need not keep the others from being looked after.
    fn each_unit(&self) -> Result<Vec<UnitRead>, Failure> {
        let ledgers = &*self.tools.ledgers;
        let names = ledgers.names("host-").map_err(|e| Failure::new(FailureClass::Usage, e))?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|name, _| names.contains(name));
        let mut read = |name: String| {
            // Before it is read: what is written meanwhile changes it once more.
            let stamp = ledgers.stamp(&name);
            if let Some((_, unit, host)) = told.get(&name).filter(|(of, ..)| Some(*of) == stamp) {
                return Ok(Some((unit.clone(), host.clone())));
            }
            let told_now = lines::read_of(ledgers, &name);
            let told_now = told_now.map_err(|failure| (lines::unit_of(ledgers, &name), failure))?;
            let new = told_now.map(|told| (told.unit, told.host));
            if let (Some(stamp), Some((unit, host))) = (stamp, &new) {
                told.insert(name, (stamp, unit.clone(), host.clone()));
            }
            Ok(new)
        };
        Ok(names.iter().filter_map(|name| read(name.clone()).transpose()).collect())
    }

    /// Other units with a leg under way, or fenced for good, that share datasets with this one.
    fn overlaps(&self, unit: &Unit) -> Result<Vec<(Unit, Leg)>, Failure> {
        let units = self.near(unit)?.into_iter().filter(|(other, _)| *other != *unit);
        Ok(units
            .filter_map(|(other, host)| {
                let (_, stage, open) = host.kept().part.summary();
                let leg = host.kept().part.leg()?;
                (open || stage == "released").then_some((other, leg))
            })
            .collect())
    }

    async fn state(&self, unit: &Unit) -> Result<State, Failure> {
        let told = self.near(unit)?.into_iter().find(|(other, _)| other == unit).map(|(_, host)| host);
        // The ledger may be lost or old, or be on the host from which the pool came.
        let asked = self.tools.zfs.datasets(unit.roots());
        let shown = in_time(&format!("look at {unit}"), ABOUT_WITHIN, asked).await?;
        let leg_in = |property| shown.iter().find_map(|info| look::leg_in(info, property));
        let (fence, serving, is_fresh) = (leg_in(FENCE), leg_in(SERVING), told.is_none());
        let mut host = told.unwrap_or_default();
        let mut epoch = host.kept().epoch;
        if let Some(leg) = fence.filter(|leg| host.kept().fence != Some(*leg)) {
            host = Host::read_back([&HostRecord::UnknownFence { leg }]);
            epoch = epoch.max(leg.epoch);
        }
        let (side, stage, open) = host.kept().part.summary();
        let overlaps = self.overlaps(unit)?.into_iter().flat_map(|(other, _)| other.roots().to_vec()).collect();
        let needs = match shown
            .iter()
            .find(|info| info.property(FENCE).is_some_and(|p| p.source == PropertySource::Received))
        {
            Some(info) if matches!(host.kept().part, Part::UnknownFence(_)) => Some(format!(
                "{0} is a copy of what was fenced: the mark came in a stream; `zfs inherit {FENCE} {0}` if this copy is to be used",
                info.name
            )),
            _ => crate::cutover::status::host_needs(&host),
        };
        let state = State {
            epoch,
            leg: host.kept().part.leg(),
            side,
            stage: stage.to_owned(),
            open,
            fence: host.kept().fence,
            needs,
            overlaps,
        };
        Ok(match serving {
            Some(leg) if is_fresh && fence.is_none() => {
                State { epoch: leg.epoch, side: Some(Side::Target), stage: "active".to_owned(), ..state }
            }
            _ => state,
        })
    }

    /// Looks after the units that nobody looks after: what is recorded is made true, a promoted target comes up, and writers
    /// that were stopped for nothing are started. With `all`, as at a start, also those whose record asks for nothing, so
    /// that a fence is set again.
    ///
    /// # Errors
    /// When a ledger cannot be read or understood: the first of those, after all others were looked after.
    pub fn look_after(&self, all: bool) -> Result<(), Failure> {
        let mut unread = Ok(());
        for unit in self.each_unit()? {
            let (unit, host) = match unit {
                Ok(unit) => unit,
                Err((_, failure)) => {
                    unread = unread.and(Err(failure));
                    continue;
                }
            };
            let part = &host.kept().part;
            let fenced = matches!(part.summary(), (_, "fenced" | "released" | "fencing", _));
            if actor::needs_ticks(&host) || (all && (fenced || matches!(part, Part::UnknownFence(_)))) {
                drop(self.actor(&unit, true));
            }
        }
        unread
    }
}

fn gone() -> Failure {
    Failure::new(FailureClass::Internal, "the unit's host ended unexpectedly")
}
