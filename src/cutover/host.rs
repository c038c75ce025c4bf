//! One host's part in moving one unit: the machine that both hosts run, each with its own journal.
//!
//! It takes a question, does what is missing towards it, one action at a time, and answers. [`source`] and [`target`] say
//! what is missing; here is what they have in common: who is admitted, which messages are due, and recovery.
//!
//! Invariant: `kept` changes only by records that are appended to the journal, so it is what recovery reads back.

use std::sync::Arc;

pub use super::kept::{Kept, Owed, Part};
use super::{
    effect::{Action, HostEffect, HostEvent, Outcome},
    leg::{Leg, Millis},
    message::{Answer, Ask, Decision, Refusal, Reply, Request, Ruling},
    record::{Former, HostRecord},
    rules::{Actual, Rules},
    source::{self, Stage},
    target::{self, Register},
};
use crate::types::Guid;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Host {
    kept: Kept,
    memory: Memory,
}

/// What a crash forgets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Memory {
    /// The action under way, and the question it is for.
    pub doing: Option<(Action, Option<Request>)>,
    /// For which question all that can be tried was tried last; a later one is for what has changed since.
    pub prepared: Option<u32>,
    /// `Quiesce` went well.
    pub quiesced: bool,
    /// Something that nobody waits for any more may be stopping the writers: what an earlier process began, or what was broken off.
    pub stopping: bool,
    /// `Fence` went well since this process started.
    pub fenced: bool,
    /// `Unquiesce` went well.
    pub started: bool,
    /// What `ReadFormer` found.
    pub read: Option<Former>,
    /// What `Final` made, for which question.
    pub made: Option<(u32, Arc<[Guid]>)>,
    /// What failed last, and the question that was told so; `None` if none was.
    pub failed: Option<(Option<u32>, String)>,
    /// The newest question of this leg.
    newest: u32,
}

impl Host {
    /// The host as its journal tells. [`HostEvent::Recover`] has to be its first event.
    pub fn read_back<'a>(records: impl IntoIterator<Item = &'a HostRecord>) -> Host {
        let mut kept = Kept::default();
        records.into_iter().for_each(|r| kept.apply(r));
        Host { kept, memory: Memory::default() }
    }

    /// The host as its journal tells, where that was summed up before.
    pub fn from_kept(kept: Kept) -> Host {
        Host { kept, memory: Memory::default() }
    }

    /// What its journal tells once the effects so far are carried out.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The action under way.
    pub fn doing(&self) -> Option<&Action> {
        self.memory.doing.as_ref().map(|(action, _)| action)
    }

    /// Whether a question may be put at once, and need not wait for the action under way.
    pub fn hears(&self, request: &Request) -> bool {
        let stops = matches!(self.kept.part, Part::Source(_, Stage::Quiescing { .. }));
        self.doing().is_none_or(|doing| stops && *doing == Action::Quiesce && request.ask == Ask::Withdraw)
    }

    /// What failed last, if nothing went well since.
    pub fn failed(&self) -> Option<&str> {
        self.memory.failed.as_ref().map(|(_, why)| why.as_str())
    }

    /// The state after `event` at `now`, by this host's clock, and what to do about it, in this order.
    pub fn step(self, event: HostEvent, now: Millis) -> (Host, Vec<HostEffect>) {
        self.step_by(&Actual, event, now)
    }

    /// As [`Host::step`], by other rules. For the model checker.
    pub fn step_by(self, rules: &dyn Rules, event: HostEvent, now: Millis) -> (Host, Vec<HostEffect>) {
        let mut turn = Turn { kept: self.kept, memory: self.memory, rules, now, effects: Vec::new() };
        match event {
            HostEvent::Recover { fence } => turn.recover(fence),
            // One action at a time. Who asks meanwhile asks again; nothing is queued, so nothing can pile up.
            _ if turn.memory.doing.is_some() && !turn.hears(&event) => {}
            HostEvent::Asked(request) => turn.asked(request),
            HostEvent::Ended(outcome) => turn.ended(outcome),
            HostEvent::Tick => turn.tick(),
            HostEvent::Break(leg) => turn.broken(leg),
        }
        (Host { kept: turn.kept, memory: turn.memory }, turn.effects)
    }
}

/// One step being taken.
pub(super) struct Turn<'a> {
    pub kept: Kept,
    pub memory: Memory,
    pub rules: &'a dyn Rules,
    pub now: Millis,
    effects: Vec<HostEffect>,
}

impl Turn<'_> {
    /// Writes `record`, and changes the state by it.
    pub fn record(&mut self, record: HostRecord) {
        self.kept.apply(&record);
        self.effects.push(HostEffect::Append(record));
    }

    /// Begins `action`, for `request` if there is one.
    pub fn act(&mut self, action: Action, request: Option<Request>) {
        self.effects.push(HostEffect::Act(action.clone()));
        self.memory.doing = Some((action, request));
    }

    /// Writes the intent, then acts on it.
    pub fn intend(&mut self, record: HostRecord, action: Action, request: Option<Request>) {
        if self.rules.journal_first() {
            self.record(record);
            self.act(action, request);
        } else {
            self.act(action, request);
            self.record(record);
        }
    }

    /// Answers `request`.
    pub fn answer(&mut self, request: &Request, reply: Reply) {
        self.effects.push(HostEffect::Answer(Answer { leg: request.leg, number: request.number, reply }));
    }

    /// Refuses `request`.
    pub fn refuse(&mut self, request: &Request, refusal: Refusal) {
        self.answer(request, Reply::Refused { refusal });
    }

    /// Whether an event is taken although an action is under way: its end; and what ends an outage, while the writers are being
    /// stopped. The action after that takes its place.
    fn hears(&self, event: &HostEvent) -> bool {
        let until = match (&self.kept.part, &self.memory.doing) {
            (Part::Source(_, Stage::Quiescing { until }), Some((Action::Quiesce, _))) => Some(*until),
            _ => None,
        };
        match event {
            HostEvent::Ended(_) => true,
            HostEvent::Tick => until.is_some_and(|until| self.now > until),
            HostEvent::Asked(request) => until.is_some() && request.ask == Ask::Withdraw,
            HostEvent::Recover { .. } | HostEvent::Break(_) => false,
        }
    }

    fn recover(&mut self, fence: Option<Leg>) {
        self.memory = Memory::default();
        if let Some(leg) = fence.filter(|leg| self.kept.fence != Some(*leg)) {
            self.record(HostRecord::UnknownFence { leg });
        }
        if let Part::Source(leg, stage) = &self.kept.part {
            self.memory.stopping = *stage != Stage::Armed;
            self.kept.part = Part::Source(*leg, self.rules.recovered(stage.clone()));
        }
        self.pursue(None);
    }

    fn asked(&mut self, request: Request) {
        let Some(mine) = self.kept.part.leg().filter(|mine| self.rules.same_leg(*mine, request.leg)) else {
            return self.stranger(request);
        };
        if let Part::UnknownFence(_) = self.kept.part {
            return self.refuse(&request, Refusal::UnknownFence { leg: mine });
        }
        if request.number < self.memory.newest {
            // Its answer would not be waited for any more.
            return;
        }
        self.memory.newest = request.number;
        // Whatever failed since, what is decided is told.
        let decided = matches!(&self.kept.part, Part::Target(_, register) if register.decision().is_some());
        if decided && matches!(request.ask, Ask::Abort | Ask::Promote { .. }) {
            return self.pursue(Some(request));
        }
        if let Some((told, why)) = &mut self.memory.failed {
            // A release is asked for until it is done: its source is fenced already, and nothing else waits for a person.
            let first = *told.get_or_insert(request.number) == request.number;
            if first && !matches!(request.ask, Ask::Release { .. }) {
                let why = why.clone();
                return self.answer(&request, Reply::Failed { why });
            }
            // A new question is a new try.
            self.memory.failed = None;
        }
        self.pursue(Some(request));
    }

    /// Goes on with what was begun, then towards what is asked.
    fn pursue(&mut self, request: Option<Request>) {
        match self.kept.part.clone() {
            Part::Source(leg, stage) => source::next(self, leg, &stage, request),
            Part::Target(leg, register) => target::next(self, leg, &register, request),
            Part::None | Part::UnknownFence(_) => {}
        }
    }

    /// A question about a leg that is not the current one here.
    fn stranger(&mut self, request: Request) {
        let leg = request.leg;
        if !self.rules.admits(self.kept.epoch, leg) {
            return self.refuse(&request, Refusal::Epoch { known: self.kept.epoch });
        }
        let over = self.kept.barred.contains(&leg.id);
        match &request.ask {
            Ask::Arm { .. } if over => self.refuse(&request, Refusal::Closed),
            Ask::Arm { side, datasets, verify } => match self.kept.part.objects_to(*side) {
                Some(refusal) => self.refuse(&request, refusal),
                None => {
                    self.memory = Memory { newest: request.number, ..Memory::default() };
                    let (side, datasets) = (*side, Arc::clone(datasets));
                    let admitted = HostRecord::Admitted { leg, side, datasets, verify: *verify };
                    self.intend(admitted, Action::Prepare(side), Some(request));
                }
            },
            // One that was promoted and never came up does not serve only because that leg does not begin.
            Ask::Withdraw | Ask::Unfence { .. } if self.brings_up() => {
                if !over {
                    self.record(HostRecord::Barred { leg });
                }
                let former = self.kept.former.clone();
                self.act(Action::Activate { former, anew: false }, Some(request));
            }
            // A leg that did not begin here is ended by making sure that it never does.
            Ask::Withdraw | Ask::Unfence { .. } | Ask::Abort => {
                if !over {
                    self.record(HostRecord::Barred { leg });
                }
                let ruling = Ruling { leg, decision: Decision::Aborted };
                let ended = if request.ask == Ask::Abort { Reply::Ruled { ruling } } else { Reply::Serving };
                self.answer(&request, ended);
            }
            Ask::Settle => self.answer(&request, Reply::Settled),
            _ => self.refuse(&request, if over { Refusal::Closed } else { Refusal::NotNow }),
        }
    }

    fn brings_up(&self) -> bool {
        matches!(self.kept.part, Part::Target(_, Register::Promoted { .. })) && self.rules.brings_up()
    }

    fn ended(&mut self, outcome: Outcome) {
        let Some((action, request)) = self.memory.doing.take() else { return };
        if let Outcome::Failed(why) = outcome {
            self.memory.failed = Some((request.as_ref().map(|r| r.number), why.clone()));
            // The writers may have been told to stop, and do so later.
            self.memory.stopping |= action == Action::Quiesce;
            if let Some(request) = request {
                self.answer(&request, Reply::Failed { why });
            }
            return;
        }
        self.memory.failed = None;
        match (action, outcome) {
            (Action::Prepare(_), _) => self.memory.prepared = request.as_ref().map(|r| r.number),
            (Action::Quiesce, _) => (self.memory.quiesced, self.memory.stopping) = (true, false),
            (Action::ReadFormer(_), Outcome::Former(former)) => self.memory.read = Some(former),
            (Action::Fence(_), _) => {
                self.memory.fenced = true;
                if let Part::Source(_, Stage::Fencing) = self.kept.part {
                    self.record(HostRecord::Fenced);
                }
            }
            (Action::Final(_, number), Outcome::Final(guids)) => self.memory.made = Some((number, guids)),
            (Action::Unfence(_), _) => self.record(HostRecord::Unfenced),
            (Action::Activate { .. }, _) if matches!(self.kept.part, Part::Target(..)) => {
                self.record(HostRecord::Active)
            }
            (Action::Unquiesce { .. } | Action::Activate { .. }, _) => {
                (self.memory.started, self.memory.stopping) = (true, false);
                if !matches!(self.kept.part, Part::Source(_, Stage::Unfencing)) {
                    self.record(HostRecord::Serving);
                }
            }
            (Action::Settle, _) => self.record(HostRecord::Settled),
            (Action::Destroy(_), _) => self.record(HostRecord::Discarded),
            (Action::ReadFormer(_) | Action::Final(..), _) => return,
        }
        match request {
            Some(request) if !self.kept.part.leg().is_some_and(|mine| self.rules.same_leg(mine, request.leg)) => {
                self.stranger(request);
            }
            request => self.pursue(request),
        }
    }

    fn tick(&mut self) {
        // What nobody asked for has nobody who asks again; and a source that may serve must not wait for anybody.
        let serves_soon =
            matches!(self.kept.part, Part::Source(_, Stage::Withdrawing | Stage::Unfencing | Stage::Starting));
        if self.memory.failed.as_ref().is_some_and(|(told, _)| told.is_none() || serves_soon) {
            self.memory.failed = None;
            return self.pursue(None);
        }
        if let Part::Source(_, stage) = self.kept.part.clone() {
            source::overdue(self, &stage);
        }
    }

    fn broken(&mut self, leg: Leg) {
        match self.kept.part.clone() {
            Part::Source(mine, stage) if mine == leg => source::broken(self, &stage, None),
            // It was to come home, and bears the fence of the leg by which it was left.
            Part::Target(mine, register)
                if register.decision() != Some(Decision::Promoted)
                    && self.kept.fence.is_some_and(|fence| leg == fence || leg == mine) =>
            {
                source::unfence(self, true, None);
            }
            Part::UnknownFence(mine) if mine == leg => {
                let former = Former::default();
                self.intend(HostRecord::Unfencing { broken: true }, Action::Unfence(former), None);
            }
            _ => {}
        }
    }
}
