//! Two hosts, a coordinator on one of them, and a link that loses, repeats and delays: every order of events within the
//! bounds of a [`Setup`].
//!
//! An event and all effects it leads to are one transition, or the first effects and then a crash. That loses nothing:
//! between two effects of one host the other one can do only what it could have done before the first.

use std::{hash::Hash, sync::Arc};

use stateright::{Model, Property};
use zmigrate::cutover::{
    coordinator::{Coordinator, Phase, Progress},
    effect::{Action, Command, Effect, Event, HostEffect, HostEvent, Outcome, Result as Done, Work},
    host::{Host, Kept, Part},
    leg::{CutoverId, Epoch, Leg, Millis, Node},
    message::{Answer, Decision, Request},
    predict::Pass,
    proof::{Means, Proof},
    record::{HostRecord, Record},
    rules::Rules,
    source::Stage,
    terms::{NotConverging, OnActivateFailure, Pair, Terms},
};
use zmigrate::types::Guid;

use crate::world::{self, Site};

/// What is explored: one arrangement, and how much may go wrong in one run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub name: &'static str,
    /// The coordinator's host: 0, the first source, or 1.
    pub lead_at: usize,
    pub hold: bool,
    pub on_activate_failure: OnActivateFailure,
    pub tries: u8,
    /// Records that the application writes, in all.
    pub writes: u8,
    /// The target's host may be destroyed, and the operator then breaks the fence.
    pub disaster: bool,
    /// The state is compared with what the journal tells. A mutant that departs from it on purpose has to be caught by what comes of that.
    pub journal_counts: bool,
    pub budget: Budget,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            name: "",
            lead_at: 0,
            hold: false,
            on_activate_failure: OnActivateFailure::Hold,
            tries: 1,
            writes: 2,
            disaster: false,
            journal_counts: true,
            budget: Budget::default(),
        }
    }
}

/// How often each may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Crashes of a process, and of a host.
    pub crashes: u8,
    /// Messages lost.
    pub losses: u8,
    /// Messages repeated; the copy arrives at any later time.
    pub repeats: u8,
    /// Hooks, ZFS commands and transfers that fail or do the wrong thing.
    pub failures: u8,
    /// Aborts of the operator.
    pub aborts: u8,
    /// Go, resume, complete.
    pub commands: u8,
    /// Legs back on command.
    pub backs: u8,
    /// The outage takes too long.
    pub delays: u8,
}

impl Budget {
    /// Whether nothing has gone wrong since `at_first`.
    fn is_untroubled(&self, at_first: &Budget) -> bool {
        Budget { commands: at_first.commands, backs: at_first.backs, ..*self } == *at_first
    }
}

/// A process that runs, or what its journal holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Life<Up, Down> {
    Up(Arc<Up>),
    Down(Arc<Down>),
    /// Destroyed.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    Ask(u8, Request),
    Answer(u8, Answer),
}

impl Message {
    fn host(&self) -> usize {
        match self {
            Message::Ask(h, _) | Message::Answer(h, _) => usize::from(*h),
        }
    }

    fn stamp(&self) -> (Leg, u32) {
        match self {
            Message::Ask(_, r) => (r.leg, r.number),
            Message::Answer(_, a) => (a.leg, a.number),
        }
    }

    fn order(&self) -> (bool, u64, u32, u8) {
        let (leg, number) = self.stamp();
        (matches!(self, Message::Ask(..)), leg.epoch.0, number, self.host() as u8)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub sites: [Site; 2],
    pub hosts: [Life<Host, Kept>; 2],
    pub lead: Life<Coordinator, Progress>,
    pub net: Vec<Message>,
    pub left: Budget,
    /// The outage limit has passed since the beginning.
    late: bool,
    /// Records acknowledged to the application's users.
    acked: u8,
    /// Of the last promotion.
    epoch: u64,
    /// The target's host was destroyed.
    lost: bool,
    /// The first rule broken on the way here.
    pub wrong: Option<&'static str>,
}

/// Whose process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Process,
    Reboot,
}

/// One transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    Write(usize),
    /// The message at this place arrives. `stays`: a copy of it is still on its way.
    Deliver {
        at: usize,
        stays: bool,
    },
    Lose(usize),
    /// A host's action ends; or fails after so many of its steps.
    Perform {
        host: usize,
        fails: Option<u8>,
    },
    /// What a process that died began to stop has stopped.
    StopEnds(usize),
    /// The coordinator's work ends.
    Worked(Ends),
    Tick,
    HostTick(usize),
    Recover(usize),
    RecoverLead,
    Delay,
    Said(Command),
    BreakAt(usize),
    Destroy,
    CrashLead,
    /// With so many steps of the action under way done.
    Crash {
        host: usize,
        how: Crash,
        steps: u8,
    },
    /// The move, but its machine dies after so many of its effects.
    Cut(Box<Move>, usize, Crash),
}

/// How work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    Well,
    Badly,
    /// `Sync` says that it went well, and left another snapshot at the target.
    Wrong,
    /// As above, under the right GUID.
    Corrupt,
}

pub struct Cutover {
    pub setup: Setup,
    pub rules: Box<dyn Rules + Send + Sync>,
}

const LIMIT: u64 = 100;

fn terms(setup: &Setup) -> Terms {
    let name = "p/d".parse::<zmigrate::types::DatasetName>().unwrap();
    Terms {
        leg: Leg { id: CutoverId(1), epoch: Epoch(1) },
        return_id: CutoverId(2),
        unit: Arc::from([Pair { source: name.clone(), target: name }]),
        source_at: if setup.lead_at == 0 { Node::Here } else { Node::Peer },
        hold: setup.hold,
        on_activate_failure: setup.on_activate_failure,
        not_converging: NotConverging::Wait,
        max_downtime: Millis(10),
        outage_limit: Millis(LIMIT),
        tries: setup.tries,
        verify: Means::Content,
        homeward: false,
        returns_from: None,
    }
}

/// Whether a person can make the source serve there.
fn can_be_broken(kept: &Kept) -> bool {
    match &kept.part {
        Part::Source(_, stage) => matches!(stage, Stage::Fencing | Stage::Fenced | Stage::Released),
        Part::Target(_, register) => kept.fence.is_some() && register.decision() != Some(Decision::Promoted),
        Part::None | Part::UnknownFence(_) => false,
    }
}

impl State {
    fn lead(&self) -> Option<&Arc<Coordinator>> {
        if let Life::Up(lead) = &self.lead { Some(lead) } else { None }
    }

    fn host(&self, h: usize) -> Option<&Arc<Host>> {
        if let Life::Up(host) = &self.hosts[h] { Some(host) } else { None }
    }

    fn now(&self) -> Millis {
        Millis(if self.late { 10 * LIMIT } else { 1 })
    }

    fn blame(&mut self, wrong: &'static str) {
        self.wrong = self.wrong.or(Some(wrong));
    }

    fn look(&mut self) {
        let [a, b] = &self.sites;
        if a.is_writable() && b.is_writable() {
            self.blame("I1: both sides are writable");
        }
    }

    /// Whether nothing but a fault, a person or the application can change this state.
    fn rests(&self, model: &Cutover) -> bool {
        let mut moves = Vec::new();
        model.progress(self, &mut moves);
        moves.is_empty()
    }
}

impl Cutover {
    fn node(&self, node: Node) -> usize {
        if node == Node::Here { self.setup.lead_at } else { 1 - self.setup.lead_at }
    }

    fn source(&self, terms: &Terms) -> usize {
        self.node(terms.source_at)
    }

    /// The moves that need no fault and no person.
    fn progress(&self, s: &State, moves: &mut Vec<Move>) {
        for (at, m) in s.net.iter().enumerate() {
            let up = match m {
                Message::Ask(h, _) => s.host(usize::from(*h)).is_some(),
                Message::Answer(..) => s.lead().is_some(),
            };
            if up {
                moves.push(Move::Deliver { at, stays: false });
            }
        }
        for h in 0..2 {
            if s.sites[h].stopping {
                moves.push(Move::StopEnds(h));
            }
            match &s.hosts[h] {
                Life::Up(host) => {
                    if host.doing().is_some() {
                        moves.push(Move::Perform { host: h, fails: None });
                    }
                    let acts = |host: &Host| !host.clone().step_by(&*self.rules, HostEvent::Tick, s.now()).1.is_empty();
                    if (s.late || host.failed().is_some()) && acts(host) {
                        moves.push(Move::HostTick(h));
                    }
                }
                Life::Down(_) => moves.push(Move::Recover(h)),
                Life::Gone => {}
            }
        }
        match &s.lead {
            Life::Up(lead) => {
                if lead.working().is_some() && s.hosts.iter().all(|h| matches!(h, Life::Up(_))) {
                    moves.push(Move::Worked(Ends::Well));
                }
                if self.tick_matters(s, lead) {
                    moves.push(Move::Tick);
                }
            }
            Life::Down(_) => moves.push(Move::RecoverLead),
            Life::Gone => {}
        }
    }

    /// Whether asking again could help: nothing of the question is on its way or being worked on; or time is up.
    fn tick_matters(&self, s: &State, lead: &Coordinator) -> bool {
        let p = lead.progress();
        if p.question.is_some() || p.phase.is_end() {
            return false;
        }
        if p.phase.is_outage() && p.since.is_some_and(|since| s.now() > since.plus(Millis(LIMIT))) {
            return true;
        }
        if lead.working().is_some() || matches!(p.phase, Phase::Armed { .. } | Phase::Seed | Phase::CatchUp) {
            return false;
        }
        let on_its_way = s.net.iter().any(|m| m.stamp() == (p.terms.leg, p.number));
        let (_, effects) = lead.clone().step_by(&*self.rules, Event::Tick, s.now());
        let idle = effects.iter().any(|e| match e {
            Effect::Ask(node, _) => s.host(self.node(*node)).is_some_and(|h| h.doing().is_none()),
            _ => false,
        });
        !on_its_way && idle
    }

    fn faults(&self, s: &State, moves: &mut Vec<Move>) {
        let left = &s.left;
        for (at, m) in s.net.iter().enumerate() {
            // A call on one host is not lost, nor made twice.
            if m.host() != self.setup.lead_at {
                if left.losses > 0 {
                    moves.push(Move::Lose(at));
                }
                if left.repeats > 0 && moves.contains(&Move::Deliver { at, stays: false }) {
                    moves.push(Move::Deliver { at, stays: true });
                }
            }
        }
        if left.failures > 0 {
            for h in 0..2 {
                let Some(action) = s.host(h).and_then(|host| host.doing()) else { continue };
                let all = world::steps(action);
                // Not begun, half way, or up and not healthy; or a writer that nobody knew of writes once more.
                let ends: &[u8] = match action {
                    Action::Activate { .. } => &[0, 1, all],
                    Action::Final(..) => &[all],
                    _ => &[all / 2],
                };
                moves.extend(ends.iter().map(|steps| Move::Perform { host: h, fails: Some(*steps) }));
            }
            match s.lead().and_then(|lead| lead.working()) {
                Some(Work::Sync) => {
                    [Ends::Badly, Ends::Wrong, Ends::Corrupt].map(|e| moves.push(Move::Worked(e))).len()
                }
                Some(_) => [Ends::Badly].map(|e| moves.push(Move::Worked(e))).len(),
                None => 0,
            };
        }
        if left.delays > 0 && s.lead().is_some_and(|l| l.progress().since.is_some()) {
            moves.push(Move::Delay);
        }
        if left.crashes > 0 {
            let events = moves.clone();
            for m in events {
                let cut = |k, how| Move::Cut(Box::new(m.clone()), k, how);
                match m {
                    Move::Deliver { stays: false, .. } | Move::Perform { fails: None, .. } => {
                        for k in 1..3 {
                            moves.push(cut(k, Crash::Process));
                            moves.push(cut(k, Crash::Reboot));
                        }
                    }
                    Move::Worked(Ends::Well) | Move::RecoverLead => moves.push(cut(1, Crash::Process)),
                    _ => {}
                }
            }
            for h in 0..2 {
                if let Some(host) = s.host(h) {
                    let most = host.doing().map_or(0, world::steps);
                    for steps in 0..=most {
                        moves.push(Move::Crash { host: h, how: Crash::Process, steps });
                        moves.push(Move::Crash { host: h, how: Crash::Reboot, steps });
                    }
                }
            }
            if s.lead().is_some() {
                moves.push(Move::CrashLead);
            }
        }
    }

    fn people(&self, s: &State, moves: &mut Vec<Move>) {
        let home = s.lead().is_some_and(|lead| lead.progress().terms.homeward);
        if self.setup.disaster && !s.lost && (s.epoch == 0 || (s.epoch == 1 && home)) {
            moves.push(Move::Destroy);
        }
        if s.lost
            && let Some(host) = s.host(0)
            && can_be_broken(host.kept())
            && host.doing().is_none()
        {
            moves.push(Move::BreakAt(0));
        }
        let Some(lead) = s.lead() else { return };
        let p = lead.progress();
        let before = matches!(p.phase, Phase::Seed | Phase::CatchUp | Phase::Arm { .. } | Phase::Armed { .. });
        if s.left.aborts > 0 && (before || p.phase.is_outage()) {
            moves.push(Move::Said(Command::Abort));
        }
        if s.left.commands > 0 {
            if p.phase == (Phase::Armed { go: false }) {
                moves.push(Move::Said(Command::Go));
            }
            if p.question.is_some() {
                moves.push(Move::Said(Command::Resume));
            }
            if p.phase == Phase::Done {
                moves.push(Move::Said(Command::Complete));
            }
        }
        if s.left.backs > 0 && (p.phase == Phase::Done || (p.phase == Phase::Activate && p.question.is_some())) {
            moves.push(Move::Said(Command::Back { id: CutoverId(3) }));
        }
        // On the way home it is the other side that would be gone.
        if s.lost && p.phase.may_be_fenced() && !p.terms.homeward {
            moves.push(Move::Said(Command::Break));
        }
    }

    /// A host takes an event; after `cut` of its effects it dies.
    fn host_event(&self, s: &mut State, h: usize, event: HostEvent, cut: Option<(usize, Crash)>) -> Option<()> {
        let Life::Up(host) = &s.hosts[h] else { return None };
        let before = host.kept().clone();
        let ended = matches!(event, HostEvent::Ended(_));
        let stopping = host.doing() == Some(&Action::Quiesce);
        let (host, effects) = Host::clone(host).step_by(&*self.rules, event, s.now());
        if cut.is_some_and(|(k, _)| k >= effects.len()) {
            return None;
        }
        let mut kept = before;
        for effect in effects.iter().take(cut.map_or(usize::MAX, |(k, _)| k)) {
            match effect {
                HostEffect::Append(record) => {
                    self.witness(s, h, &kept, record);
                    kept.apply(record);
                }
                // What was broken off may go on elsewhere.
                HostEffect::Act(Action::Unquiesce { .. } | Action::Activate { .. }) => {
                    s.sites[h].stopping |= stopping && !ended
                }
                HostEffect::Act(_) => {}
                HostEffect::Answer(answer) => s.net.push(Message::Answer(h as u8, answer.clone())),
            }
        }
        match cut {
            None => {
                if self.setup.journal_counts && kept != *host.kept() {
                    s.blame("the journal does not tell the state");
                }
                let fenced = matches!(kept.part, Part::Source(_, Stage::Fenced | Stage::Released));
                if fenced && host.doing().is_none() && host.failed().is_none() && s.sites[h].mounted {
                    s.blame("F: a fence that is recorded was not made true after a start");
                }
                s.hosts[h] = Life::Up(Arc::new(host));
            }
            Some((k, how)) => {
                // What was begun may have been done before the crash.
                if let Some(HostEffect::Act(action)) = effects[..k].last() {
                    let steps = world::steps(action);
                    self.perform(s, h, &action.clone(), steps);
                }
                self.die(s, h, how, kept);
            }
        }
        Some(())
    }

    /// Watches what is decided.
    fn witness(&self, s: &mut State, h: usize, kept: &Kept, record: &HostRecord) {
        match record {
            HostRecord::Promoted { .. } => {
                let epoch = kept.part.leg().map_or(0, |leg| leg.epoch.0);
                if epoch != s.epoch + 1 {
                    s.blame("E: the epoch of a promotion does not follow the last one");
                }
                if s.sites[h].data != s.acked {
                    s.blame("I2: the promoted target lacks what the source acknowledged");
                }
                s.epoch = epoch;
            }
            HostRecord::Admitted { leg, .. } if leg.epoch.0 <= s.epoch => {
                s.blame("E: a leg of an epoch that is over was admitted");
            }
            HostRecord::Unfencing { broken: true } if !s.lost => {
                s.blame("B: the fence was broken without a person's word");
            }
            _ => {}
        }
    }

    /// Watches what the coordinator does of itself.
    fn witness_lead(&self, s: &mut State, progress: &Progress, record: &Record) {
        let terms = &progress.terms;
        let returns = self.setup.on_activate_failure == OnActivateFailure::Return && terms.returns_from.is_none();
        match record {
            Record::Moved { phase: Phase::Release { back: Some(id) }, .. } if *id == terms.return_id && !returns => {
                s.blame("P: it returned by itself though it was to hold");
            }
            Record::Asked { .. } if progress.phase == Phase::Activate && returns => {
                s.blame("P: it held though it was to return");
            }
            Record::Asked { .. } if s.left.is_untroubled(&self.setup.budget) && !s.lost => {
                s.blame("L: a person was asked though nothing had gone wrong");
            }
            _ => {}
        }
    }

    fn perform(&self, s: &mut State, h: usize, action: &Action, steps: u8) -> Outcome {
        let mut site = s.sites[h];
        let mut seen = Vec::new();
        let outcome = world::act(&mut site, action, steps, &mut |site, wrong| seen.push((*site, wrong)));
        for (site, wrong) in seen {
            s.sites[h] = site;
            s.look();
            if let Some(wrong) = wrong {
                s.blame(wrong);
            }
        }
        outcome
    }

    fn die(&self, s: &mut State, h: usize, how: Crash, kept: Kept) {
        s.hosts[h] = Life::Down(Arc::new(kept));
        if how == Crash::Reboot {
            s.sites[h].reboot();
            s.look();
            if h == self.setup.lead_at {
                self.lead_dies(s);
            }
        }
        if h == self.setup.lead_at {
            // Calls on one host die with either end.
            s.net.retain(|m| m.host() != h);
        }
    }

    fn lead_dies(&self, s: &mut State) {
        if let Life::Up(lead) = &s.lead {
            s.lead = Life::Down(Arc::new(lead.progress().clone()));
        }
        s.net.retain(|m| m.host() != self.setup.lead_at);
    }

    fn lead_event(&self, s: &mut State, event: Event, cut: Option<usize>) -> Option<()> {
        let Life::Up(lead) = &s.lead else { return None };
        let mut progress = lead.progress().clone();
        let (lead, effects) = Coordinator::clone(lead).step_by(&*self.rules, event, s.now());
        if cut.is_some_and(|k| k >= effects.len()) {
            return None;
        }
        for effect in effects.iter().take(cut.unwrap_or(usize::MAX)) {
            match effect {
                Effect::Append(record) => {
                    self.witness_lead(s, &progress, record);
                    progress.apply(record);
                }
                Effect::Ask(node, request) => {
                    let to = self.node(*node);
                    let there = !matches!(s.hosts[to], Life::Gone)
                        && (to != self.setup.lead_at || matches!(s.hosts[to], Life::Up(_)));
                    if there {
                        s.net.push(Message::Ask(to as u8, request.clone()));
                    }
                }
                Effect::Work(_) | Effect::Decline(_) => {}
            }
        }
        if cut.is_some() {
            s.lead = Life::Down(Arc::new(progress));
            s.net.retain(|m| m.host() != self.setup.lead_at);
        } else {
            if progress != *lead.progress() {
                s.blame("the journal does not tell the state");
            }
            s.lead = Life::Up(Arc::new(lead));
        }
        Some(())
    }

    fn work(&self, s: &mut State, ends: Ends) -> Option<(Leg, Done)> {
        let lead = s.lead()?;
        let terms = Arc::clone(&lead.progress().terms);
        let work = lead.working()?;
        let from = self.source(&terms);
        let source = s.sites[from];
        let target = &mut s.sites[1 - from];
        if ends == Ends::Badly {
            return Some((terms.leg, Done::Failed("x".into())));
        }
        // What is written to cannot be received into.
        let open = target.exists && source.exists && !target.is_writable();
        let result = match work {
            _ if !open => Done::Failed("x".into()),
            Work::Pass => {
                target.data = source.data;
                Done::Passed(Pass { bytes: 1, sending: Millis(1), fixed: Millis(1), coming_up: Millis(0), left: 0 })
            }
            Work::Sync => {
                match ends {
                    Ends::Wrong => target.newest.0 = 7,
                    Ends::Corrupt => target.newest.0 = source.newest.0,
                    _ => (target.newest, target.data) = (source.newest, source.newest.1),
                }
                Done::Synced
            }
            Work::Verify => Done::Verified(Proof {
                fence: source.fence,
                written: u64::from(source.data - source.newest.1),
                source: Arc::from([Guid(source.newest.0)]),
                target: Arc::from([Guid(target.newest.0)]),
                means: Means::Content,
                equal: target.data == source.newest.1,
            }),
        };
        Some((terms.leg, result))
    }

    fn go(&self, s: &mut State, m: &Move, cut: Option<(usize, Crash)>) -> Option<()> {
        match m {
            Move::Write(h) => {
                let site = &mut s.sites[*h];
                let lacks = site.data != s.acked;
                site.data = s.acked + 1;
                s.acked += 1;
                if lacks {
                    s.blame("I2: an acknowledged record was lost");
                }
            }
            Move::Deliver { at, stays } => {
                let message = if *stays { s.net.get(*at)?.clone() } else { s.net.remove(*at) };
                s.left.repeats -= u8::from(*stays);
                match message {
                    Message::Ask(h, request) => {
                        self.host_event(s, usize::from(h), HostEvent::Asked(request), cut)?;
                    }
                    Message::Answer(_, answer) => self.lead_event(s, Event::Answered(answer), cut.map(|c| c.0))?,
                }
            }
            Move::Lose(at) => {
                s.left.losses -= 1;
                s.net.remove(*at);
            }
            Move::Perform { host, fails } => {
                let action = s.host(*host)?.doing()?.clone();
                let all = world::steps(&action);
                let outcome = if let Some(steps) = fails {
                    s.left.failures -= 1;
                    match &action {
                        // A writer that nobody knew of writes once more, and the snapshot lacks it.
                        Action::Final(..) => {
                            let outcome = self.perform(s, *host, &action, all);
                            if s.sites[*host].data == s.acked && s.acked < self.setup.writes {
                                s.acked += 1;
                                s.sites[*host].data += 1;
                                outcome
                            } else {
                                Outcome::Failed("x".into())
                            }
                        }
                        _ => {
                            self.perform(s, *host, &action, *steps);
                            Outcome::Failed("x".into())
                        }
                    }
                } else {
                    self.perform(s, *host, &action, all)
                };
                self.host_event(s, *host, HostEvent::Ended(outcome), cut)?;
            }
            Move::StopEnds(h) => (s.sites[*h].app, s.sites[*h].stopping) = (false, false),
            Move::Worked(ends) => {
                s.left.failures -= u8::from(*ends != Ends::Well);
                let (leg, result) = self.work(s, *ends)?;
                self.lead_event(s, Event::Worked(leg, result), cut.map(|c| c.0))?;
            }
            Move::Tick => self.lead_event(s, Event::Tick, None)?,
            Move::HostTick(h) => self.host_event(s, *h, HostEvent::Tick, cut)?,
            Move::Recover(h) => {
                let Life::Down(kept) = &s.hosts[*h] else { return None };
                s.hosts[*h] = Life::Up(Arc::new(Host::from_kept(Kept::clone(kept))));
                let fence = s.sites[*h].fence;
                self.host_event(s, *h, HostEvent::Recover { fence }, cut)?;
            }
            Move::RecoverLead => {
                let Life::Down(progress) = &s.lead else { return None };
                s.lead = Life::Up(Arc::new(Coordinator::from_progress(Progress::clone(progress))));
                self.lead_event(s, Event::Recover, cut.map(|c| c.0))?;
            }
            Move::Delay => {
                s.left.delays -= 1;
                s.late = true;
            }
            Move::Said(command) => {
                match command {
                    Command::Abort => s.left.aborts -= 1,
                    Command::Back { .. } => s.left.backs -= 1,
                    Command::Break => {}
                    _ => s.left.commands -= 1,
                }
                self.lead_event(s, Event::Said(*command), None)?;
            }
            Move::BreakAt(h) => {
                let kept = s.host(*h)?.kept();
                let leg = kept.fence.or(kept.part.leg())?;
                self.host_event(s, *h, HostEvent::Break(leg), None)?;
            }
            Move::Destroy => {
                s.lost = true;
                s.sites[1].forget();
                s.hosts[1] = Life::Gone;
                s.net.retain(|m| m.host() != 1);
                if self.setup.lead_at == 1 {
                    s.lead = Life::Gone;
                    s.net.clear();
                }
            }
            Move::CrashLead => {
                s.left.crashes -= 1;
                self.lead_dies(s);
            }
            Move::Crash { host, how, steps } => {
                s.left.crashes -= 1;
                let up = Arc::clone(s.host(*host)?);
                if let Some(action) = up.doing() {
                    self.perform(s, *host, action, *steps);
                    s.sites[*host].stopping |= *action == Action::Quiesce && *steps == 0;
                }
                self.die(s, *host, *how, up.kept().clone());
            }
            Move::Cut(inner, k, how) => {
                s.left.crashes -= 1;
                self.go(s, inner, Some((*k, *how)))?;
            }
        }
        Some(())
    }

    /// What an end has to look like.
    fn judge_rest(&self, s: &State) -> Option<&'static str> {
        // Both hosts will not be back. The source serves, or a person can break the fence, or its own timer will let it go.
        if s.lost {
            let own = s.host(0).is_some_and(|h| {
                can_be_broken(h.kept()) || matches!(h.kept().part, Part::Source(_, Stage::Quiescing { .. }))
            });
            let by_lead = s
                .lead()
                .map(|l| l.progress())
                .is_some_and(|p| p.question.is_some() || (p.phase.may_be_fenced() && !p.terms.homeward));
            return (!s.sites[0].serves() && !own && !by_lead).then_some("I3: the target is lost, the source down");
        }
        let lead = s.lead()?;
        let p = lead.progress();
        let from = self.source(&p.terms);
        let (source, target) = (&s.sites[from], &s.sites[1 - from]);
        match &p.phase {
            _ if p.question.is_some() => None,
            Phase::Armed { go: false } => None,
            Phase::Done if target.serves() && !source.is_writable() && source.exists => None,
            Phase::Completed if target.serves() && !source.exists => None,
            Phase::Done | Phase::Completed => Some("I3: done, and the target does not serve"),
            Phase::RolledBack if !source.serves() => Some("I4: rolled back, and the source does not serve as before"),
            Phase::RolledBack if target.prepared || target.app || !target.readonly => {
                Some("I4: rolled back, and the target is not as before")
            }
            Phase::RolledBack => None,
            _ => Some("I3: it stopped without an end or a question"),
        }
    }
}

impl Model for Cutover {
    type State = State;
    type Action = Move;

    fn init_states(&self) -> Vec<State> {
        let (lead, _) = Coordinator::begin(terms(&self.setup));
        let host = || Life::Up(Arc::new(Host::default()));
        let mut state = State {
            sites: [Site::serving(), Site::standby()],
            hosts: [host(), host()],
            lead: Life::Up(Arc::new(lead)),
            net: Vec::new(),
            left: self.setup.budget,
            late: false,
            acked: 0,
            epoch: 0,
            lost: false,
            wrong: None,
        };
        self.lead_event(&mut state, Event::Recover, None);
        vec![state]
    }

    fn actions(&self, s: &State, moves: &mut Vec<Move>) {
        if s.wrong.is_some() {
            return;
        }
        self.progress(s, moves);
        self.faults(s, moves);
        self.people(s, moves);
        for h in 0..2 {
            if s.sites[h].app && s.sites[h].is_writable() && s.acked < self.setup.writes && !s.lost {
                moves.push(Move::Write(h));
            }
        }
    }

    fn next_state(&self, last: &State, m: Move) -> Option<State> {
        let mut s = last.clone();
        self.go(&mut s, &m, None)?;
        s.net.sort_by_key(Message::order);
        if s.wrong.is_none() && s.rests(self) {
            s.wrong = self.judge_rest(&s);
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no rule is broken", |_, s: &State| s.wrong.is_none()),
            Property::sometimes("a cutover ends done", |_, s: &State| {
                s.lead().is_some_and(|l| l.progress().phase == Phase::Done)
            }),
            Property::sometimes("a cutover is rolled back", |_, s: &State| {
                s.lead().is_some_and(|l| l.progress().phase == Phase::RolledBack)
            }),
        ]
    }
}
