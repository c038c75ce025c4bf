//! The initiator's machine: it leads both hosts through the phases, one question or piece of work at a time.
//!
//! It decides nothing about who is writable: the target's register does. If this machine is lost, the hosts stay safe;
//! if it comes back, it reads its journal and asks again what it asked last.
//!
//! Invariant: a phase is in the journal before anything of it is asked or begun.

use std::sync::Arc;

use super::{
    effect::{Effect, Event, Result, Work},
    leg::{Millis, Side},
    message::{Answer, Ask, Decision, Refusal, Reply, Request, Ruling},
    operator,
    predict::{Meter, Prediction, Verdict},
    proof::{Objection, Proof},
    record::Record,
    rules::{Actual, Rules},
    terms::{NotConverging, Terms},
};
pub use super::{
    phase::{Phase, Question},
    progress::Progress,
};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    kept: Progress,
    /// What the passes since the last start measured.
    meter: Meter,
    /// The newest pass since the last start went well: what an outage will take is known, and that it can be taken.
    fresh: bool,
    /// The work under way. A driver cancels what runs and is not this.
    working: Option<Work>,
}

impl Coordinator {
    /// A new cutover, and the record that has to be in the journal before its first event, [`Event::Recover`].
    pub fn begin(terms: Terms) -> (Coordinator, Record) {
        let terms = Arc::new(terms);
        let kept = Progress::begun(Arc::clone(&terms), Phase::Seed, 1);
        (Self::from_progress(kept), Record::Begun { terms, phase: Phase::Seed })
    }

    /// The cutover as its journal tells; `None` if that does not start with a beginning.
    pub fn read_back<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Coordinator> {
        let mut records = records.into_iter();
        let Some(Record::Begun { terms, phase }) = records.next() else { return None };
        let mut kept = Progress::begun(Arc::clone(terms), phase.clone(), 1);
        records.for_each(|r| kept.apply(r));
        Some(Self::from_progress(kept))
    }

    /// The cutover as its journal tells, where that was summed up before.
    pub fn from_progress(kept: Progress) -> Coordinator {
        Coordinator { kept, meter: Meter::default(), fresh: false, working: None }
    }

    /// What its journal tells once the effects so far are carried out.
    pub fn progress(&self) -> &Progress {
        &self.kept
    }

    /// The work under way.
    pub fn working(&self) -> Option<Work> {
        self.working
    }

    /// When this outage is rolled back, unless the target has decided before: so early that the target can still come up within the limit,
    /// as far as passes measured what that takes. `None` outside of an outage.
    pub fn decide_by(&self) -> Option<Millis> {
        let kept = &self.kept;
        Some(kept.since.filter(|_| kept.phase.is_outage())?.plus(kept.outage_limit().minus(self.coming_up())))
    }

    /// What of the limit is left for the target to come up; whatever was measured, half of it is for what comes before.
    fn coming_up(&self) -> Millis {
        self.meter.coming_up().min(Millis(self.kept.outage_limit().0 / 2))
    }

    /// The outage if it began now, as far as passes measured it.
    pub fn prediction(&self) -> Option<Prediction> {
        self.meter.predict()
    }

    /// The state after `event` at `now`, and what to do about it, in this order.
    pub fn step(self, event: Event, now: Millis) -> (Coordinator, Vec<Effect>) {
        self.step_by(&Actual, event, now)
    }

    /// As [`Coordinator::step`], by other rules. For the model checker.
    pub fn step_by(self, rules: &dyn Rules, event: Event, now: Millis) -> (Coordinator, Vec<Effect>) {
        let mut turn = Turn { it: self, rules, now, effects: Vec::new() };
        match event {
            Event::Recover => turn.recover(),
            Event::Tick => turn.tick(),
            Event::Answered(answer) => turn.answered(answer),
            Event::Worked(leg, result) if rules.same_leg(turn.it.kept.terms.leg, leg) => turn.worked(result),
            Event::Worked(..) => {}
            Event::Said(command) => operator::said(&mut turn, command),
        }
        (turn.it, turn.effects)
    }
}

/// One step being taken.
pub(super) struct Turn<'a> {
    it: Coordinator,
    rules: &'a dyn Rules,
    now: Millis,
    effects: Vec<Effect>,
}

impl Turn<'_> {
    /// Where it is.
    pub fn kept(&self) -> &Progress {
        &self.it.kept
    }

    /// Whether work is under way.
    pub fn is_working(&self) -> bool {
        self.it.working.is_some()
    }

    /// Whether the newest pass of this process went well.
    pub fn is_fresh(&self) -> bool {
        self.it.fresh
    }

    /// Tells the operator that his command does not apply.
    pub fn decline(&mut self, why: impl Into<String>) {
        self.effects.push(Effect::Decline(why.into()));
    }

    fn record(&mut self, record: Record) {
        self.it.kept.apply(&record);
        self.effects.push(Effect::Append(record));
    }

    /// Enters a phase, or tries it again, because of `why` if something went wrong.
    pub fn enter(&mut self, phase: Phase, why: Option<String>) {
        let working = self.it.working.filter(|_| matches!(phase, Phase::Armed { .. }));
        self.it.working = working;
        self.record(Record::Moved { phase, at: self.now, why });
        self.pursue();
    }

    fn begin_back(&mut self, terms: Terms, phase: Phase) {
        self.record(Record::Begun { terms: Arc::new(terms), phase });
        (self.it.meter, self.it.fresh, self.it.working) = (Meter::default(), false, None);
        self.pursue();
    }

    /// The leg the other way, as the operator says.
    pub fn go_back(&mut self, id: super::leg::CutoverId) {
        let terms = &self.kept().terms;
        let epoch = self.rules.epoch_after(terms.leg.epoch);
        self.begin_back(terms.way_back(id, epoch, false), Phase::CatchUp);
    }

    /// The same leg once more, after it was rolled back.
    pub fn go_again(&mut self, id: super::leg::CutoverId) {
        let terms = self.kept().terms.again(id);
        self.begin_back(terms, Phase::CatchUp);
    }

    fn question(&mut self, question: Question) {
        self.it.working = None;
        self.record(Record::Asked { question });
    }

    fn ask(&mut self, side: Side, ask: Ask) {
        let Progress { terms, number, .. } = &self.it.kept;
        let request = Request { leg: terms.leg, number: *number, ask };
        self.effects.push(Effect::Ask(terms.at(side), request));
    }

    fn work(&mut self, work: Work) {
        if self.it.working != Some(work) {
            self.it.working = Some(work);
            self.effects.push(Effect::Work(work));
        }
    }

    /// Does what the phase is for, or asks for it again.
    pub fn pursue(&mut self) {
        if self.kept().question.is_some() {
            return;
        }
        let terms = Arc::clone(&self.kept().terms);
        match self.kept().phase.clone() {
            Phase::Seed | Phase::CatchUp | Phase::Armed { go: false } => self.work(Work::Pass),
            Phase::Armed { go: true } if self.is_working() => {}
            // Nobody may have led it for days, or passes may have failed: the source is not stopped for what is known to be long, or to fail.
            Phase::Armed { go: true } if !self.it.fresh => self.work(Work::Pass),
            // Once more, for it may have held for days: what came into being meanwhile has to come up as well, and what would fail
            // by now fails before the source is stopped.
            Phase::Armed { go: true } => self.enter(Phase::Arm { side: Side::Source }, None),
            Phase::Arm { side } => {
                let datasets = terms.roots(side).into();
                self.ask(side, Ask::Arm { side, datasets, verify: terms.verify });
            }
            Phase::Quiesce => self.ask(Side::Source, Ask::Quiesce { within: self.kept().outage_limit() }),
            Phase::Fence => self.ask(Side::Source, Ask::Fence),
            Phase::Final => self.ask(Side::Source, Ask::Final),
            Phase::Sync { .. } => self.work(Work::Sync),
            Phase::Verify { .. } => self.work(Work::Verify),
            Phase::Promote { proof } => self.ask(Side::Target, Ask::Promote { proof }),
            Phase::Activate => self.ask(Side::Target, Ask::Activate),
            Phase::Release { .. } => {
                let ruling = Ruling { leg: terms.leg, decision: Decision::Promoted };
                self.ask(Side::Source, Ask::Release { ruling });
            }
            Phase::Discard => self.ask(Side::Source, Ask::Discard),
            Phase::Withdraw => self.ask(Side::Source, Ask::Withdraw),
            Phase::Retract { .. } => self.ask(Side::Target, Ask::Abort),
            Phase::Unfence { ruling } => self.ask(Side::Source, Ask::Unfence { ruling }),
            Phase::Settle => self.ask(Side::Target, Ask::Settle),
            Phase::Break => self.ask(Side::Source, Ask::Break),
            Phase::Done | Phase::Completed | Phase::RolledBack | Phase::Broken => {}
        }
    }

    fn recover(&mut self) {
        (self.it.meter, self.it.fresh, self.it.working) = (Meter::default(), false, None);
        self.pursue();
    }

    fn tick(&mut self) {
        // Before it began: the clock was set back since, and how long it lasts is not known.
        let is_set_back = self.kept().since.is_some_and(|since| self.now < since);
        if let Some(by) = self.it.decide_by()
            && (self.now > by || is_set_back)
        {
            let limit = self.kept().outage_limit();
            let is_over = is_set_back || self.kept().since.is_some_and(|since| self.now > since.plus(limit));
            let why = if is_over {
                format!("the outage took longer than {limit}")
            } else {
                let coming_up = self.it.coming_up();
                format!(
                    "the outage would have taken longer than {limit}: {coming_up} of that is for the target to come up"
                )
            };
            return self.roll_back(why);
        }
        self.pursue();
    }

    /// Begins to roll back: the source serves at once if it was not asked to fence; else the target is asked first.
    pub fn roll_back(&mut self, why: String) {
        let phase = &self.kept().phase;
        let fenced = phase.is_fenced_outage();
        let begin = match phase {
            Phase::Seed | Phase::CatchUp if !self.kept().armed => Phase::RolledBack,
            _ if self.rules.asks_target_first(fenced) => Phase::Retract { served: false },
            _ => Phase::Withdraw,
        };
        self.enter(begin, Some(why));
    }

    /// Tries `phase` again after something went wrong, or gives up as the phase demands.
    fn again(&mut self, phase: Phase, why: String) {
        let kept = self.kept();
        if kept.failures.saturating_add(1) < kept.terms.tries {
            return self.enter(phase, Some(why));
        }
        match kept.phase {
            _ if kept.phase.is_outage() => self.roll_back(why),
            Phase::Activate if self.rules.returns(&kept.terms) => {
                let back = Some(kept.terms.return_id);
                self.enter(Phase::Release { back }, Some(why));
            }
            _ => self.question(Question::Failed { why }),
        }
    }

    /// As above, where both sides are down until it is answered: then no person is asked, as long as it may pass by itself. The
    /// next tick asks again.
    fn keep_asking(&mut self, phase: Phase, why: String) {
        // Once at least, for a host that was told of a failure tries again only for a new question.
        if self.kept().failures.saturating_add(1) < self.kept().terms.tries.max(2) {
            self.enter(phase, Some(why));
        }
    }

    fn answered(&mut self, answer: Answer) {
        let Progress { terms, number, question, .. } = self.kept();
        let due = self.rules.same_leg(terms.leg, answer.leg) && self.rules.answers(*number, answer.number);
        if !due || question.is_some() {
            return;
        }
        let terms = Arc::clone(terms);
        let phase = self.kept().phase.clone();
        match (phase, answer.reply) {
            (Phase::Arm { side: Side::Source }, Reply::Armed) => self.enter(Phase::Arm { side: Side::Target }, None),
            (Phase::Arm { side: Side::Target }, Reply::Armed) if terms.hold && !self.kept().going => {
                self.enter(Phase::Armed { go: false }, None);
            }
            (Phase::Arm { side: Side::Target }, Reply::Armed) => self.enter(Phase::Quiesce, None),
            (Phase::Quiesce, Reply::Quiesced) => self.enter(self.after_quiesce(), None),
            (Phase::Fence, Reply::Fenced) => self.enter(Phase::Final, None),
            (Phase::Final, Reply::Final { guids }) => self.enter(Phase::Sync { guids }, None),

            (Phase::Promote { .. } | Phase::Retract { .. }, Reply::Ruled { ruling }) => self.ruled(ruling),
            (Phase::Promote { .. }, Reply::Objected { objection }) => self.objected(&objection),
            (Phase::Activate, Reply::Active) => self.enter(Phase::Release { back: None }, None),
            (Phase::Release { back: None }, Reply::Released) => self.enter(Phase::Done, None),
            (Phase::Release { back: Some(id) }, Reply::Released) => {
                let epoch = self.rules.epoch_after(terms.leg.epoch);
                self.begin_back(terms.way_back(id, epoch, true), Phase::Arm { side: Side::Source });
            }
            (Phase::Discard, Reply::Discarded) => self.enter(Phase::Completed, None),

            // It let its writers go by itself, as no fence was asked for in time.
            (phase, Reply::Serving) if phase.is_outage() => {
                let why = "the source serves again: it was not asked to fence in time".to_owned();
                self.enter(Phase::Retract { served: true }, Some(why));
            }
            // The target is promoted. A person broke the fence on the source's host.
            (Phase::Release { .. } | Phase::Discard, Reply::Serving) => {
                let why =
                    "the source serves again, by hand, and the target serves as well: two sides may be written to";
                self.question(Question::Failed { why: why.to_owned() });
            }
            (Phase::Withdraw, Reply::Serving) => self.enter(Phase::Retract { served: true }, None),
            (Phase::Withdraw, Reply::NeedsRuling) => self.enter(Phase::Retract { served: false }, None),
            (Phase::Unfence { .. }, Reply::Serving) => self.enter(self.after_serving(), None),
            (Phase::Settle, Reply::Settled) => self.enter(Phase::RolledBack, None),
            (Phase::Break, Reply::Serving) => self.enter(Phase::Broken, None),

            // A leg that cannot begin any more has left nothing to undo.
            (Phase::Withdraw, Reply::Refused { refusal: Refusal::Epoch { .. } }) => {
                self.enter(Phase::Retract { served: true }, None);
            }
            (Phase::Retract { served: true } | Phase::Settle, Reply::Refused { refusal: Refusal::Epoch { .. } }) => {
                self.enter(Phase::RolledBack, None);
            }
            (phase @ (Phase::Retract { served: false } | Phase::Release { back: Some(_) }), Reply::Failed { why }) => {
                self.keep_asking(phase, why);
            }
            (phase, Reply::Failed { why }) => self.again(phase, why),
            (phase, Reply::Refused { refusal }) => {
                let why = format!("{} was refused: {refusal}", phase.name());
                self.again(phase, why);
            }
            _ => {}
        }
    }

    fn after_quiesce(&self) -> Phase {
        if self.rules.may_snapshot(false) { Phase::Final } else { Phase::Fence }
    }

    fn after_serving(&self) -> Phase {
        if self.rules.settles() { Phase::Settle } else { Phase::RolledBack }
    }

    /// The target has decided, whatever it was asked.
    fn ruled(&mut self, ruling: Ruling) {
        let leg = self.kept().terms.leg;
        let served = matches!(self.kept().phase, Phase::Retract { served: true });
        if self.rules.may_unfence(leg, ruling) {
            self.enter(if served { self.after_serving() } else { Phase::Unfence { ruling } }, None);
        } else {
            self.enter(Phase::Activate, None);
        }
    }

    fn objected(&mut self, objection: &Objection) {
        let why = objection.to_string();
        // With the same content a new final snapshot changes nothing, and all of it would be read again; for all else it is the way.
        if *objection == Objection::Content { self.roll_back(why) } else { self.again(Phase::Final, why) }
    }

    fn worked(&mut self, result: Result) {
        let Some(work) = self.it.working.take() else { return };
        match (self.kept().phase.clone(), work, result) {
            (phase @ (Phase::Seed | Phase::CatchUp | Phase::Armed { .. }), Work::Pass, Result::Passed(pass)) => {
                self.it.meter.add(pass);
                self.it.fresh = true;
                self.passed(&phase);
            }
            (Phase::Sync { guids }, Work::Sync, Result::Synced) if self.rules.verifies() => {
                self.enter(Phase::Verify { guids }, None);
            }
            (Phase::Sync { guids }, Work::Sync, Result::Synced) => {
                let Progress { terms, .. } = self.kept();
                let (leg, means) = (terms.leg, terms.verify);
                let target = Arc::clone(&guids);
                let proof = Proof { fence: Some(leg), written: 0, source: guids, target, means, equal: true };
                self.enter(Phase::Promote { proof }, None);
            }
            (Phase::Verify { guids }, Work::Verify, Result::Verified(proof)) => {
                let terms = Arc::clone(&self.kept().terms);
                match self.rules.objection(terms.leg, terms.verify, &proof) {
                    Some(objection) => self.objected(&objection),
                    None if proof.source != guids => self.objected(&Objection::Guids),
                    None => self.enter(Phase::Promote { proof }, None),
                }
            }
            // While it holds, nobody waits for this pass; the next one tries again.
            (Phase::Armed { go: false }, Work::Pass, Result::Failed(_)) => self.it.fresh = false,
            (phase, work, Result::Failed(why)) => {
                self.it.fresh &= work != Work::Pass;
                self.again(phase, why);
            }
            _ => {}
        }
    }

    fn passed(&mut self, phase: &Phase) {
        let terms = Arc::clone(&self.kept().terms);
        match (phase, self.it.meter.verdict(terms.max_downtime)) {
            (Phase::Armed { go: true }, _) => self.pursue(),
            // The next one begins with the next tick, so that passes without data do not chase each other.
            (Phase::Armed { go: false }, _) => {}
            (Phase::Seed, _) => self.enter(Phase::CatchUp, None),
            (_, Verdict::Ready) => self.enter(Phase::Arm { side: Side::Source }, None),
            (_, Verdict::Another) => self.pursue(),
            (_, Verdict::Stalled) => match terms.not_converging {
                NotConverging::Wait => self.question(Question::Stalled),
                NotConverging::Go => self.enter(Phase::Arm { side: Side::Source }, None),
                NotConverging::Abort => self.roll_back(Question::Stalled.to_string()),
            },
        }
    }
}
