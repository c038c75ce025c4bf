//! One host's part in moving one unit: the machine that both hosts run, each with its own journal.
//!
//! It takes a question, does what is missing towards it, one action at a time, and answers. [`source`] and [`target`] say
//! what is missing; here is what they have in common: who is admitted, which messages are due, and recovery.
//!
//! Invariant: `kept` changes only by records that are appended to the journal, so it is what recovery reads back.

use std::sync::Arc;

use super::{
    effect::{Action, HostEffect, HostEvent, Outcome},
    leg::{CutoverId, Epoch, Leg, Millis, Side},
    message::{Answer, Ask, Decision, Refusal, Reply, Request, Ruling},
    record::{Former, HostRecord},
    rules::{Actual, Rules},
    source::{self, Stage},
    target::{self, Register},
};
use crate::{
    limits::MAX_BARRED,
    types::{DatasetName, Guid},
};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Host {
    kept: Kept,
    memory: Memory,
}

/// What the journal keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kept {
    /// The last epoch that is known to have begun.
    pub epoch: Epoch,
    /// The part played in the newest leg.
    pub part: Part,
    /// The unit's datasets on this host.
    pub datasets: Arc<[DatasetName]>,
    /// The fence that was set here and not taken away since.
    pub fence: Option<Leg>,
    /// What that fence changed.
    pub former: Option<Former>,
    /// Legs of the coming epoch that are over here; the newest ones.
    pub barred: Vec<CutoverId>,
}

/// What a host is in a leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Part {
    /// Never took part.
    #[default]
    None,
    /// The side that is left.
    Source(Leg, Stage),
    /// The side that becomes writable, and decides.
    Target(Leg, Register),
    /// ZFS shows this fence, and the journal does not know it: nothing is done until a person looks.
    UnknownFence(Leg),
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

impl Part {
    /// The leg that is taken part in.
    pub fn leg(&self) -> Option<Leg> {
        match self {
            Part::None => None,
            Part::Source(leg, _) | Part::Target(leg, _) | Part::UnknownFence(leg) => Some(*leg),
        }
    }

    /// Why this host cannot begin another leg as `side`, if it cannot.
    fn objects_to(&self, side: Side) -> Option<Refusal> {
        let over_as = match self {
            Part::None => return None,
            Part::Source(_, Stage::Closed) => Side::Source,
            Part::Target(_, Register::Promoted { .. } | Register::Active) => Side::Source,
            Part::Source(_, Stage::Released | Stage::Discarded) | Part::Target(_, Register::Settled) => Side::Target,
            Part::UnknownFence(leg) => return Some(Refusal::UnknownFence { leg: *leg }),
            Part::Source(leg, _) | Part::Target(leg, _) => return Some(Refusal::OtherLeg { leg: *leg }),
        };
        (side != over_as).then_some(Refusal::NotNow)
    }
}

impl Kept {
    /// The state after `record`.
    pub fn apply(&mut self, record: &HostRecord) {
        use HostRecord as R;
        match record {
            R::Admitted { leg, side, datasets, verify } => {
                if let Some(old) = self.part.leg().filter(|old| old.epoch > self.epoch) {
                    self.bar(old);
                }
                self.datasets = Arc::clone(datasets);
                self.part = match side {
                    Side::Source => Part::Source(*leg, Stage::Armed),
                    Side::Target => Part::Target(*leg, Register::Undecided { verify: *verify }),
                };
            }
            R::Barred { leg } => self.bar(*leg),
            R::UnknownFence { leg } => {
                self.part = Part::UnknownFence(*leg);
                self.fence = Some(*leg);
            }
            R::Quiescing { until } => self.stage(Stage::Quiescing { until: *until }),
            R::Fencing { former } => {
                self.former = Some(Arc::clone(former));
                self.fence = self.part.leg();
                self.stage(Stage::Fencing);
            }
            R::Fenced => self.stage(Stage::Fenced),
            R::Withdrawing => self.stage(Stage::Withdrawing),
            R::Unfencing { broken } => {
                // A target that is gone may have been promoted, so its epoch counts as over.
                if let Some(leg) = self.part.leg().filter(|_| *broken) {
                    self.begin(leg.epoch);
                }
                self.stage(Stage::Unfencing);
            }
            R::Unfenced => {
                (self.fence, self.former) = (None, None);
                self.stage(Stage::Starting);
            }
            R::Serving => self.stage(Stage::Closed),
            R::Released => {
                if let Some(leg) = self.part.leg() {
                    self.begin(leg.epoch);
                }
                self.stage(Stage::Released);
            }
            R::Discarding => self.stage(Stage::Discarding),
            R::Discarded => self.stage(Stage::Discarded),
            R::Promoted { proof } => {
                if let Some(leg) = self.part.leg() {
                    self.begin(leg.epoch);
                }
                self.register(Register::Promoted { proof: proof.clone() });
            }
            R::Active => {
                (self.fence, self.former) = (None, None);
                self.register(Register::Active);
            }
            R::Aborted => self.register(Register::Aborted),
            R::Settled => self.register(Register::Settled),
        }
    }

    fn begin(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
        self.barred.clear();
    }

    fn bar(&mut self, leg: Leg) {
        self.barred.retain(|id| *id != leg.id);
        if self.barred.len() >= MAX_BARRED {
            self.barred.remove(0);
        }
        self.barred.push(leg.id);
    }

    fn stage(&mut self, stage: Stage) {
        if let Some(leg) = self.part.leg() {
            self.part = Part::Source(leg, stage);
        }
    }

    fn register(&mut self, register: Register) {
        if let Some(leg) = self.part.leg() {
            self.part = Part::Target(leg, register);
        }
    }
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
            _ if turn.memory.doing.is_some() && !matches!(event, HostEvent::Ended(_)) => {}
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

    fn recover(&mut self, fence: Option<Leg>) {
        self.memory = Memory::default();
        if let Some(leg) = fence.filter(|leg| self.kept.fence != Some(*leg)) {
            self.record(HostRecord::UnknownFence { leg });
        }
        if let Part::Source(leg, stage) = &self.kept.part {
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
        if let Some((told, why)) = &mut self.memory.failed {
            if *told.get_or_insert(request.number) == request.number {
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

    fn ended(&mut self, outcome: Outcome) {
        let Some((action, request)) = self.memory.doing.take() else { return };
        if let Outcome::Failed(why) = outcome {
            self.memory.failed = Some((request.as_ref().map(|r| r.number), why.clone()));
            if let Some(request) = request {
                self.answer(&request, Reply::Failed { why });
            }
            return;
        }
        self.memory.failed = None;
        match (action, outcome) {
            (Action::Prepare(_), _) => self.memory.prepared = request.as_ref().map(|r| r.number),
            (Action::Quiesce, _) => self.memory.quiesced = true,
            (Action::ReadFormer, Outcome::Former(former)) => self.memory.read = Some(former),
            (Action::Fence(_), _) => {
                self.memory.fenced = true;
                if let Part::Source(_, Stage::Fencing) = self.kept.part {
                    self.record(HostRecord::Fenced);
                }
            }
            (Action::Final(_, number), Outcome::Final(guids)) => self.memory.made = Some((number, guids)),
            (Action::Unfence(_), _) => self.record(HostRecord::Unfenced),
            (Action::Unquiesce, _) => {
                self.memory.started = true;
                if !matches!(self.kept.part, Part::Source(_, Stage::Unfencing)) {
                    self.record(HostRecord::Serving);
                }
            }
            (Action::Settle, _) => self.record(HostRecord::Settled),
            (Action::Activate(_), _) => self.record(HostRecord::Active),
            (Action::Destroy(_), _) => self.record(HostRecord::Discarded),
            (Action::ReadFormer | Action::Final(..), _) => return,
        }
        self.pursue(request);
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
            Part::UnknownFence(mine) if mine == leg => {
                let former = Former::default();
                self.intend(HostRecord::Unfencing { broken: true }, Action::Unfence(former), None);
            }
            _ => {}
        }
    }
}
