//! One unit's host, while there is something to do: owns the ledger, steps the machine, carries out what it says.
//!
//! Invariant: an append that fails ends the actor before anything that follows from it; the next one reads the ledger again, as
//! after a crash.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    Tools, actions,
    activate::Above,
    lines::{Entry, Line, ReadBack, Said, read},
    look::leg_in,
    unit::Unit,
};
use crate::{
    cutover::{
        call::Setup,
        effect::{Action, HostEffect, HostEvent, Outcome},
        host::{Host, Part},
        leg::{Epoch, Leg, Millis, Side},
        message::{Answer, Ask, Request},
        record::HostRecord,
        source::Stage,
        target::Register,
    },
    limits::MAX_HOOKS,
    port::ledger::{Ledger, LedgerError, Opened},
    session::{client::unix_ms, crash::crash_point, steady::Steady},
    types::{
        Failure, FailureClass,
        listing::{FENCE, SERVING},
    },
};

/// How long an actor stays when nobody asks any more.
const IDLE: Duration = Duration::from_secs(2);
/// How long a ledger is waited for that another process owns: it lets go soon after its last question.
const OWNED_FOR: Duration = Duration::from_secs(6);
const TICK: Duration = Duration::from_secs(1);

pub(super) type Answered = Result<(Option<Answer>, Vec<String>), Failure>;

/// What an actor is told.
pub(super) enum Message {
    Ask { request: Request, setup: Option<Box<Setup>>, tell: oneshot::Sender<Answered> },
    Break { leg: Leg, tell: oneshot::Sender<Result<(), Failure>> },
}

/// Whether a machine has something to do although nobody asks.
pub(super) fn needs_ticks(host: &Host) -> bool {
    match &host.kept().part {
        Part::Source(_, stage) => matches!(
            stage,
            Stage::Quiescing { .. } | Stage::Withdrawing | Stage::Unfencing | Stage::Starting | Stage::Discarding
        ),
        Part::Target(_, register) => matches!(register, Register::Promoted { .. }),
        Part::None | Part::UnknownFence(_) => false,
    }
}

struct Actor {
    tools: Arc<Tools>,
    unit: Unit,
    setup: Setup,
    host: Host,
    ledger: Box<dyn Ledger>,
    fresh: bool,
    waiting: Vec<(Leg, u32, oneshot::Sender<Answered>)>,
    /// Asked while an action was under way.
    queued: Option<Request>,
    /// A person's word that came while an action was under way.
    broken: Option<Leg>,
    action: Option<JoinHandle<Outcome>>,
    /// Stopping the writers failed in this process.
    stop_failed: bool,
    /// And was made up for.
    made_up: Arc<AtomicBool>,
    clock: Steady,
    notes: Arc<Mutex<VecDeque<String>>>,
    /// What stands beside the ledger.
    said: Said,
    /// What the unit's roots inherit, as it was when this side was armed.
    above: Arc<Mutex<Option<Above>>>,
}

/// Starts an actor; with `stays` it looks after the unit even if nobody ever asks.
pub(super) fn start(tools: Arc<Tools>, unit: Unit, stays: bool) -> mpsc::Sender<Message> {
    let (sender, mut messages) = mpsc::channel(16);
    tokio::spawn(async move {
        let ended = match Actor::open(tools, unit.clone(), stays).await {
            Ok(Some(mut actor)) => {
                let ended = actor.run(&mut messages).await;
                if let Err(failure) = &ended {
                    // The next actor knows nothing of it: the writers that one starts would be stopped by what is left of this one.
                    if let Some(action) = actor.action.take() {
                        action.abort();
                        let _ = action.await;
                    }
                    // Whoever waits is told why, and does not ask for ever.
                    actor.waiting.drain(..).for_each(|(_, _, tell)| drop(tell.send(Err(failure.clone()))));
                }
                ended
            }
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = &ended {
            tracing::error!(unit = %unit, "the host of a cutover has stopped: {failure}");
        }
        messages.close();
        while let Some(message) = messages.recv().await {
            match message {
                Message::Ask { tell, .. } => {
                    let _ = tell.send(ended.clone().map(|()| (None, Vec::new())));
                }
                Message::Break { tell, .. } => {
                    let _ = tell.send(Err(ended.clone().err().unwrap_or_else(super::gone)));
                }
            }
        }
    });
    sender
}

fn usage(e: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Usage, e)
}

impl Actor {
    /// Takes the ledger and recovers; `None` if another process has it and it is only to be looked after.
    async fn open(tools: Arc<Tools>, unit: Unit, stays: bool) -> Result<Option<Actor>, Failure> {
        let name = unit.ledger();
        let since = Instant::now();
        // Whoever is asked comes first.
        if stays && tools.ledgers.is_wanted(&name) {
            return Ok(None);
        }
        let mut wants = None;
        let Opened { ledger, lines } = loop {
            match tools.ledgers.open(&name) {
                Ok(opened) => break opened,
                Err(LedgerError::Owned) if stays => return Ok(None),
                Err(LedgerError::Owned) if since.elapsed() < OWNED_FOR => {
                    wants = wants.or_else(|| tools.ledgers.want(&name));
                    sleep(Duration::from_millis(50)).await;
                }
                Err(e @ LedgerError::Owned) => {
                    return Err(Failure::new(FailureClass::Locked, format!("{unit}: {e}")).transient());
                }
                Err(e) => return Err(usage(e)),
            }
        };
        drop(wants);
        let told = read(&lines, &tools.ledgers.place(&name))?;
        let fresh = told.is_none();
        let (setup, host, said) = (Setup::default(), Host::default(), Said::default());
        let nothing = || ReadBack { unit: unit.clone(), setup, host, at_ms: 0, said };
        let told = told.unwrap_or_else(nothing);
        let said = Said::of(tools.ledgers.noted(&name).as_deref(), &told.host);
        if told.unit != unit {
            return Err(usage(format!("{} is another unit's", tools.ledgers.place(&name))));
        }
        let mut actor = Actor {
            tools,
            unit,
            setup: told.setup.clone(),
            host: told.host_at(unix_ms()),
            ledger,
            fresh,
            waiting: Vec::new(),
            queued: None,
            broken: None,
            action: None,
            stop_failed: false,
            made_up: Arc::default(),
            clock: Steady::from_now(),
            notes: Arc::default(),
            said,
            above: Arc::default(),
        };
        let fence = actor.in_zfs(FENCE).await?;
        if !fresh || fence.is_some() {
            if fresh {
                actor.begin(Epoch(0)).await?;
            }
            actor.step(HostEvent::Recover { fence }).await?;
        }
        Ok(Some(actor))
    }

    /// The leg that ZFS shows in a property of the unit.
    async fn in_zfs(&self, property: &str) -> Result<Option<Leg>, Failure> {
        let infos = self.tools.zfs.datasets(self.unit.roots()).await?;
        Ok(infos.iter().find_map(|info| leg_in(info, property)))
    }

    async fn run(&mut self, messages: &mut mpsc::Receiver<Message>) -> Result<(), Failure> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle_at = Instant::now() + IDLE;
        loop {
            let busy = self.action.is_some() || !self.waiting.is_empty() || needs_ticks(&self.host);
            let acting = async {
                match &mut self.action {
                    Some(action) => action.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                outcome = acting => {
                    self.action = None;
                    let outcome = outcome.unwrap_or_else(|e| Outcome::Failed(format!("it ended unexpectedly: {e}")));
                    crash_point("host:ended");
                    let stops = self.host.doing().is_some_and(|action| *action == Action::Quiesce);
                    self.stop_failed |= stops && matches!(outcome, Outcome::Failed(_));
                    self.note(&outcome);
                    self.step(HostEvent::Ended(outcome)).await?;
                    if self.action.is_none() && let Some(leg) = self.broken.take() {
                        self.step(HostEvent::Break(leg)).await?;
                    }
                    if self.action.is_none() && let Some(request) = self.queued.take() {
                        self.step(HostEvent::Asked(request)).await?;
                    }
                }
                message = messages.recv() => match message {
                    Some(message) => self.hear(message).await?,
                    None => return Ok(()),
                },
                _ = ticks.tick(), if busy => {
                    if self.yields() {
                        return Ok(());
                    }
                    self.step(HostEvent::Tick).await?;
                }
                () = sleep_until(idle_at), if !busy => return Ok(()),
            }
            self.waiting.retain(|(_, _, tell)| !tell.is_closed());
            if busy {
                idle_at = Instant::now() + IDLE;
            }
        }
    }

    /// Whether it lets go of the unit: what it does by itself has failed, and another process of this host, which a person may have
    /// told to move the unit on, waits for it.
    fn yields(&self) -> bool {
        let nobody_asks = self.waiting.is_empty() && self.queued.is_none() && self.broken.is_none();
        let rests = self.action.is_none() && self.host.failed().is_some();
        nobody_asks && rests && self.tools.ledgers.is_wanted(&self.unit.ledger())
    }

    async fn hear(&mut self, message: Message) -> Result<(), Failure> {
        match message {
            Message::Ask { request, setup, tell } => {
                self.waiting.push((request.leg, request.number, tell));
                self.let_epochs_pass(&request).await?;
                if let (Ask::Arm { .. }, Some(setup)) = (&request.ask, setup) {
                    self.take_setup(request.leg, *setup).await?;
                }
                if !self.host.hears(&request) {
                    let newer = self.queued.as_ref().is_none_or(|q| q.leg != request.leg || q.number <= request.number);
                    if newer {
                        self.queued = Some(request);
                    }
                    return Ok(());
                }
                self.step(HostEvent::Asked(request)).await
            }
            Message::Break { leg, tell } => {
                let _ = tell.send(Ok(()));
                // The machine hears nothing while it acts; a fence that is being set again is waited for.
                if self.host.doing().is_some() {
                    self.broken = Some(leg);
                    return Ok(());
                }
                self.step(HostEvent::Break(leg)).await
            }
        }
    }

    /// A unit changes hands between other hosts, too: what this one does not know of is over when it is asked to take part in
    /// a later epoch, as long as it has no part in an earlier one that is under way.
    async fn let_epochs_pass(&mut self, request: &Request) -> Result<(), Failure> {
        let before = Epoch(request.leg.epoch.0.saturating_sub(1));
        if self.fresh {
            // What ZFS itself says counts where there is no journal.
            let serving = self.in_zfs(SERVING).await?.map_or(Epoch(0), |leg| leg.epoch);
            return self.begin(before.max(serving)).await;
        }
        let (_, _, open) = self.host.kept().part.summary();
        if matches!(request.ask, Ask::Arm { .. }) && !open && self.host.kept().epoch < before {
            self.begin(before).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, epoch: Epoch) -> Result<(), Failure> {
        self.append(Entry::Unit { datasets: self.unit.roots().to_vec(), epoch })?;
        self.fresh = false;
        let mut kept = self.host.kept().clone();
        kept.epoch = kept.epoch.max(epoch);
        self.host = Host::from_kept(kept);
        Ok(())
    }

    async fn take_setup(&mut self, leg: Leg, mut setup: Setup) -> Result<(), Failure> {
        if self.host.kept().owed.is_some() && setup.manifest.is_empty() {
            // As a source it is told of none, and what it has to come up as is in the one it was promoted with.
            setup.manifest.clone_from(&self.setup.manifest);
        }
        if setup == self.setup {
            return Ok(());
        }
        if setup.hooks.len() > MAX_HOOKS {
            return Err(usage(format!("more than {MAX_HOOKS} hooks")));
        }
        // Once it is under way nothing about it changes, and nothing ever by a leg that is about to be refused.
        let (_, stage, open) = self.host.kept().part.summary();
        let is_current = self.host.kept().part.leg() == Some(leg);
        if open && !(is_current && matches!(stage, "armed" | "undecided")) {
            return Ok(());
        }
        self.append(Entry::Setup { setup: setup.clone() })?;
        self.setup = setup;
        Ok(())
    }

    fn append(&mut self, entry: Entry) -> Result<(), Failure> {
        let line = Line { at: jiff::Timestamp::now().to_string(), pid: std::process::id(), entry };
        let text = serde_json::to_string(&line).map_err(|e| Failure::new(FailureClass::Internal, e))?;
        let place = self.tools.ledgers.place(&self.unit.ledger());
        self.ledger.append(&text).map_err(|e| {
            usage(format!("{place} cannot be written: {e}; the cutover stands still"))
                .hint("free space there, then resume")
        })
    }

    /// Leaves for people how an action ended, before it is told to whoever asked.
    fn note(&mut self, outcome: &Outcome) {
        let Some(leg) = self.host.kept().part.leg() else { return };
        let failed = if let Outcome::Failed(why) = outcome { Some(why.clone()) } else { None };
        let hooks = self.notes.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let before = self.said.clone();
        self.said.hear(leg, failed, hooks);
        if self.said != before {
            let noted = serde_json::to_string(&self.said).map_err(std::io::Error::from);
            if let Err(e) = noted.and_then(|text| self.ledger.note(&text)) {
                tracing::debug!(unit = %self.unit, "`cutover status` will not know how that ended: {e}");
            }
        }
    }

    async fn step(&mut self, event: HostEvent) -> Result<(), Failure> {
        let (next, effects) = std::mem::take(&mut self.host).step(event, Millis(self.clock.now_ms()));
        self.host = next;
        for effect in effects {
            match effect {
                HostEffect::Append(record) => {
                    let name = name_of(&record);
                    tracing::info!(unit = %self.unit, leg = ?self.host.kept().part.leg(), "{name}");
                    crash_point(&format!("host:before:{name}"));
                    self.append(Entry::Record { of: record })?;
                    crash_point(&format!("host:after:{name}"));
                }
                HostEffect::Act(action) => self.begin_action(action),
                HostEffect::Answer(answer) => self.answer(&answer),
            }
        }
        Ok(())
    }

    fn begin_action(&mut self, action: Action) {
        let kept = self.host.kept();
        let leg = kept.part.leg().unwrap_or(Leg { id: crate::cutover::leg::CutoverId(0), epoch: Epoch(0) });
        let side = kept.part.summary().0.unwrap_or(Side::Source);
        // Also in a later leg it comes up as what it was promoted to.
        let (leg, side) = match (&action, &kept.owed) {
            (Action::Activate { .. }, Some(owed)) => (owed.leg, Side::Target),
            _ => (leg, side),
        };
        let mut doer = actions::Doer {
            tools: Arc::clone(&self.tools),
            unit: self.unit.clone(),
            setup: self.setup.clone(),
            leg,
            side,
            notes: Arc::clone(&self.notes),
            above: Arc::clone(&self.above),
            former: kept.former.clone(),
            broke_off: self.stop_failed,
            made_up: Arc::clone(&self.made_up),
        };
        if action == Action::Quiesce {
            self.made_up.store(false, Ordering::Relaxed);
        }
        let earlier = self.action.take();
        doer.broke_off |= earlier.is_some();
        self.action = Some(tokio::spawn(async move {
            if let Some(earlier) = earlier {
                earlier.abort();
                let _ = earlier.await;
            }
            let what = format!("{action:?}");
            let what = what.split(['(', ' ']).next().unwrap_or_default().to_lowercase();
            crash_point(&format!("act:before:{what}"));
            let since = Instant::now();
            let outcome = doer.act(&action).await;
            let took = since.elapsed();
            match &outcome {
                Outcome::Failed(why) => tracing::warn!(unit = %doer.unit, %leg, "{what} failed after {took:?}: {why}"),
                _ => tracing::info!(unit = %doer.unit, %leg, "{what} done in {took:?}"),
            }
            crash_point(&format!("act:after:{what}"));
            outcome
        }));
    }

    fn answer(&mut self, answer: &Answer) {
        // Each is told once.
        let notes: Vec<String> = self.notes.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        for (leg, number, tell) in std::mem::take(&mut self.waiting) {
            if leg != answer.leg || number > answer.number {
                self.waiting.push((leg, number, tell));
                continue;
            }
            // An older question of the same leader: nobody waits for its answer any more.
            let told = (number == answer.number).then(|| answer.clone());
            let _ = tell.send(Ok((told, notes.clone())));
        }
    }
}

/// The record's name in the ledger.
fn name_of(record: &HostRecord) -> String {
    let value = serde_json::to_value(record).unwrap_or_default();
    value["record"].as_str().unwrap_or("record").to_owned()
}
