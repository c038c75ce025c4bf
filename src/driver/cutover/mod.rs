//! The driver of a cutover: carries out what the coordinator says, and keeps its ledger.
//!
//! ```text
//! Lead ─ loop ─┬─ events: answers, ends of work, ticks, the operator's commands
//!              ├─ Append → ledger (synced)          ledger.rs
//!              ├─ Ask    → the host here or there   talk.rs
//!              └─ Work   → pass, sync, verify       work.rs
//! ```
//!
//! Invariant: nothing that follows from a record is begun before it is on disk; if it cannot be written, this ends. Whoever
//! leads next reads the ledger, and asks again what was asked last.

mod content;
mod home;
mod leads;
mod ledger;
mod notice;
mod owed;
mod passes;
mod ready;
mod said;
mod standing;
mod survey;
mod talk;
mod tidy;
mod times;
mod work;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::{
    leads::leads,
    ledger::{Begun, Entry, Line, PassReport, Story, name_of, read, returned, terms_of},
    notice::Notice,
    standing::{Standing, Waiting, standing, stuck},
    survey::{BrokenHere, Survey, abort_here, break_here, survey},
};
use self::{passes::Passes, said::Heard, talk::Talk, work::Worker};
use super::RunContext;
use crate::{
    cutover::{
        coordinator::{Coordinator, Phase},
        effect::{Command, Effect, Event, Work},
        leg::{Millis, Side},
        message::{Answer, Ask},
        record::Record,
        status::Status,
        terms::Terms,
    },
    port::ledger::{Ledger, LedgerError, Ledgers, Opened},
    session::{crash::crash_point, steady::Steady},
    types::{Failure, FailureClass},
};

/// How often what has no answer is asked again.
const TICK: Duration = Duration::from_secs(1);

/// What a person says to a running cutover, and where the word goes that comes back: nothing, or why it is declined.
pub type Said = (Command, oneshot::Sender<Result<(), String>>);

/// How leading came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is over, until a person says more.
    Over,
    /// A person is asked.
    Question,
    /// This process was told to stop; the cutover stands where it is.
    Stopped,
}

/// A cutover that this process leads.
pub struct Lead {
    context: Arc<RunContext>,
    ledger: Box<dyn Ledger>,
    story: Story,
    it: Coordinator,
    talk: Arc<Talk>,
    worker: Arc<Worker>,
    notices: mpsc::UnboundedSender<Notice>,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    asking: Option<(u32, Side, AbortOnDropHandle<()>)>,
    working: Option<(Work, CancellationToken, JoinHandle<()>)>,
    /// Work that was cancelled and is still ending.
    ending: Option<JoinHandle<()>>,
    told_question: bool,
    told_ready: bool,
    /// When whoever watches was last told how far it is.
    told_doing_at: Option<Instant>,
    said: Heard,
    passes: Passes,
    by_command: bool,
    clock: Steady,
}

fn usage(e: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Usage, e)
}

impl Lead {
    /// Begins a cutover: its ledger is on disk when this returns, and nothing else was done.
    ///
    /// # Errors
    /// When the ledger cannot be made.
    pub fn begin(
        context: Arc<RunContext>,
        ledgers: &dyn Ledgers,
        begun: Begun,
        terms: Terms,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Result<Lead, Failure> {
        let name = name_of(terms.leg.id);
        let Opened { ledger, lines } = ledgers.open(&name).map_err(usage)?;
        if !lines.is_empty() {
            return Err(Failure::new(FailureClass::Internal, format!("{} is there already", ledgers.place(&name))));
        }
        let (it, record) = Coordinator::begin(terms);
        let mut lead = Lead::new(context, ledger, Story::new(begun.clone()), it, notices);
        lead.append(Entry::Begun { begun })?;
        lead.append(Entry::Record { of: record })?;
        Ok(lead)
    }

    /// Takes over a cutover from its ledger.
    ///
    /// # Errors
    /// `Locked` when another process leads it; `Usage` when the ledger does not read.
    pub fn take_over(
        context: Arc<RunContext>,
        ledgers: &dyn Ledgers,
        name: &str,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Result<Lead, Failure> {
        let Opened { ledger, lines } = ledgers.open(name).map_err(|e| match e {
            LedgerError::Owned => Failure::new(FailureClass::Locked, format!("{name}: {e}")),
            e @ LedgerError::Io(_) => usage(e),
        })?;
        let (story, it) = read(&lines, &ledgers.place(name))?;
        Ok(Lead::new(context, ledger, story, it, notices))
    }

    /// The time, as far as this leader saw it go.
    fn now(&self) -> Millis {
        Millis(self.clock.now_ms())
    }

    fn new(
        context: Arc<RunContext>,
        ledger: Box<dyn Ledger>,
        story: Story,
        it: Coordinator,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Lead {
        let talk = Arc::new(Talk::new(Arc::clone(&context)));
        let worker = Arc::new(Worker::new(Arc::clone(&context), Arc::clone(&talk), story.begun.clone()));
        Lead {
            passes: Passes::after(&story),
            by_command: false,
            clock: Steady::from_now(),
            context,
            ledger,
            story,
            it,
            talk,
            worker,
            notices,
            events: mpsc::unbounded_channel(),
            asking: None,
            working: None,
            ending: None,
            told_question: false,
            told_ready: false,
            told_doing_at: None,
            said: Heard::default(),
        }
    }

    /// Ends this process' leading when it is cancelled; not while the source is down.
    pub fn stop_token(&self) -> CancellationToken {
        self.context.stop.clone()
    }

    /// A person leads it, who means it when he stops this process: nobody else goes on with it then, unless it has to.
    pub fn by_command(&mut self) {
        self.by_command = true;
    }

    /// What has happened so far.
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// Where it is.
    pub fn coordinator(&self) -> &Coordinator {
        &self.it
    }

    /// What a person is told about it.
    pub fn status(&self) -> Status {
        self.story.status(&self.it)
    }

    /// A person's command before all else: recovery would go on with what the command may end. Says why it is declined.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn say(&mut self, command: Command) -> Result<Result<(), String>, Failure> {
        let declined = self.step(Event::Said(command))?;
        if command == Command::Go {
            self.worker.hurry();
        }
        Ok(declined.map_or(Ok(()), Err))
    }

    /// Goes on from where the ledger ends.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn recover(&mut self) -> Result<(), Failure> {
        self.step(Event::Recover).map(drop)
    }

    /// Leads until it is over, asks a person, or this process is told to stop; after [`Lead::recover`] or [`Lead::say`].
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub async fn run(&mut self, commands: &mut mpsc::Receiver<Said>) -> Result<End, Failure> {
        let end = self.lead(commands).await;
        if end.is_err() {
            // Before the locks on its targets go.
            self.worker.leave().await;
        }
        end
    }

    async fn lead(&mut self, commands: &mut mpsc::Receiver<Said>) -> Result<End, Failure> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let stop = self.context.stop.clone();
        loop {
            if let Some(end) = self.end() {
                self.leave().await;
                return Ok(end);
            }
            let left = self.left_of_outage();
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.it.progress().may_be_down() => {
                    if self.by_command {
                        self.append(Entry::Stopped)?;
                    }
                    self.leave().await;
                    return Ok(End::Stopped);
                }
                event = self.events.1.recv() => if let Some(event) = event {
                    if matches!(event, Event::Answered(_)) {
                        self.asking = None;
                    }
                    if matches!(event, Event::Worked(..)) {
                        self.working = None;
                    }
                    self.step(event)?;
                },
                Some((command, tell)) = commands.recv() => {
                    let told = self.say(command)?;
                    let _ = tell.send(told);
                }
                () = sleep(left.unwrap_or_default()), if left.is_some() => drop(self.step(Event::Tick)?),
                _ = ticks.tick() => {
                    self.step(Event::Tick)?;
                    self.note_doing();
                }
            }
        }
    }

    /// Until the limit ends the outage, if there is one that it ends: ticks come too seldom for that.
    fn left_of_outage(&self) -> Option<Duration> {
        let until = self.it.decide_by()?;
        Some(Duration::from_millis(until.plus(Millis(1)).0.saturating_sub(self.now().0)))
    }

    fn end(&self) -> Option<End> {
        let kept = self.it.progress();
        if kept.phase.is_end() { Some(End::Over) } else { kept.question.is_some().then_some(End::Question) }
    }

    /// Steps, carries out the effects, and says why a command was declined.
    fn step(&mut self, event: Event) -> Result<Option<String>, Failure> {
        if let Event::Worked(_, crate::cutover::effect::Result::Failed(why)) = &event {
            let _ = self.notices.send(Notice::Trouble(why.clone()));
            if matches!(self.it.progress().phase, Phase::Armed { .. }) {
                self.missed(why);
            }
        }
        if let Event::Worked(_, crate::cutover::effect::Result::Passed(_)) = &event
            && let Some(pass) = self.worker.take_report()
        {
            let _ = self.notices.send(Notice::Passed(pass.clone()));
            self.passed(pass)?;
        }
        self.tell_of(&event);
        let before = self.it.progress().phase.clone();
        let prediction = self.it.prediction();
        let said = if let Event::Said(command) = event { Some(command) } else { None };
        let (it, effects) = self.it.clone().step(event, self.now());
        self.it = it;
        // What is declined was not said: it must not end that a person stopped this.
        let is_declined = effects.iter().any(|effect| matches!(effect, Effect::Decline(_)));
        if let Some(command) = said.filter(|_| !is_declined) {
            self.append(Entry::Said { command })?;
        }
        // What the coordinator does not name any more is ended, before anything new begins.
        if self.working.as_ref().is_some_and(|(work, ..)| self.it.working() != Some(*work)) {
            self.cancel_work();
        }
        let mut declined = None;
        for effect in effects {
            match effect {
                Effect::Append(record) => {
                    if let Record::Moved { phase: Phase::Quiesce, .. } = &record
                        && before != Phase::Quiesce
                        && let Some(prediction) = self.it.prediction().or(prediction)
                    {
                        self.append(Entry::Predicted { downtime: prediction.downtime() })?;
                    }
                    self.notice(&record);
                    let is_near = matches!(&record, Record::Moved { phase: Phase::Arm { side: Side::Source }, .. });
                    self.append(Entry::Record { of: record })?;
                    if is_near {
                        let (worker, terms) = (Arc::clone(&self.worker), self.it.progress().terms.clone());
                        tokio::spawn(async move { worker.connect(&terms).await });
                    }
                }
                Effect::Ask(_, request) => self.ask(request),
                Effect::Work(work) => self.begin_work(work)?,
                Effect::Decline(why) => declined = Some(why),
            }
        }
        self.tell_what_waits();
        Ok(declined)
    }

    fn notice(&self, record: &Record) {
        let (phase, why) = match record {
            Record::Moved { phase, why, .. } => (phase, why.clone()),
            Record::Begun { phase, .. } => (phase, None),
            Record::Asked { .. } => return,
        };
        let _ = self.notices.send(Notice::Phase { name: phase.name(), why });
    }

    fn tell_what_waits(&mut self) {
        let needs = self.status().needs;
        let question = self.it.progress().question.is_some();
        if let Some(needs) = needs.clone().filter(|_| question && !self.told_question) {
            let _ = self.notices.send(Notice::Needs(needs));
        }
        self.told_question = question;
        let ready = matches!(self.it.progress().phase, Phase::Armed { go: false });
        if ready && !self.told_ready {
            let downtime = self.story.prediction();
            let _ = self.notices.send(Notice::Ready { downtime });
        }
        self.told_ready = ready;
    }

    fn append(&mut self, entry: Entry) -> Result<(), Failure> {
        let line = Line { said: self.said.take(), ..Line::new(entry, self.now()) };
        let name = line.entry.name();
        crash_point(&format!("lead:before:{name}"));
        let text = serde_json::to_string(&line).map_err(|e| Failure::new(FailureClass::Internal, e))?;
        self.ledger.append(&text).map_err(|e| {
            usage(format!("the ledger of the cutover cannot be written: {e}; it stands still"))
                .hint("free space in state_dir, then `zmigrate cutover resume`")
        })?;
        crash_point(&format!("lead:after:{name}"));
        self.story.hear(&line);
        Ok(())
    }

    fn ask(&mut self, request: crate::cutover::message::Request) {
        let terms = Arc::clone(&self.it.progress().terms);
        let side = side_of(&request.ask);
        // The same question is on its way.
        if self
            .asking
            .as_ref()
            .is_some_and(|(number, at, task)| *number == request.number && *at == side && !task.is_finished())
        {
            return;
        }
        let (talk, begun) = (Arc::clone(&self.talk), self.story.begun.clone());
        let (events, notices, said) = (self.events.0.clone(), self.notices.clone(), self.said.clone());
        let number = request.number;
        let task = tokio::spawn(async move {
            match talk.ask(&terms, &begun, side, request).await {
                Ok((answer, notes)) => {
                    said.extend(notes.iter().cloned());
                    for note in notes {
                        let _ = notices.send(Notice::Hook(note));
                    }
                    if let Some(answer) = answer {
                        let _ = events.send(Event::Answered(answer));
                    }
                }
                Err(failure) => {
                    let _ = notices.send(Notice::Trouble(failure.to_string()));
                    // What a new question could not change either is an answer; what passes by itself is asked again.
                    if let Some(answer) = talk::lasting(&terms, number, &failure) {
                        let _ = events.send(Event::Answered(answer));
                    }
                }
            }
        });
        self.asking = Some((number, side, AbortOnDropHandle::new(task)));
    }

    fn begin_work(&mut self, work: Work) -> Result<(), Failure> {
        self.cancel_work();
        let cancelled = CancellationToken::new();
        let terms = Arc::clone(&self.it.progress().terms);
        let phase = self.it.progress().phase.clone();
        let (worker, events, token) = (Arc::clone(&self.worker), self.events.0.clone(), cancelled.clone());
        let number = if work == Work::Pass { self.next_pass()? } else { 0 };
        let final_number = self.story.final_number;
        let earlier = self.ending.take();
        let task = tokio::spawn(async move {
            if let Some(earlier) = earlier {
                let _ = earlier.await;
            }
            let leg = terms.leg;
            let result = match work {
                Work::Pass => worker.pass(&terms, number, matches!(phase, Phase::Armed { .. }), &token).await,
                Work::Sync => worker.sync(&terms, &token).await,
                Work::Verify => tokio::select! {
                    biased;
                    () = token.cancelled() => return,
                    proof = worker.verify(&terms, final_number) => proof,
                },
            };
            if !token.is_cancelled() {
                let _ = events.send(Event::Worked(leg, result));
            }
        });
        self.working = Some((work, cancelled, task));
        Ok(())
    }

    fn cancel_work(&mut self) {
        if let Some((_, cancelled, task)) = self.working.take() {
            cancelled.cancel();
            self.ending = Some(task);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // Work must not outlive the ledger's lock: whoever leads next would meet it.
        if let Some((_, cancelled, _)) = &self.working {
            cancelled.cancel();
        }
    }
}

/// Which side a question is for.
fn side_of(ask: &Ask) -> Side {
    match ask {
        Ask::Arm { side, .. } => *side,
        Ask::Quiesce { .. }
        | Ask::Fence
        | Ask::Final
        | Ask::Withdraw
        | Ask::Unfence { .. }
        | Ask::Break
        | Ask::Release { .. }
        | Ask::Discard => Side::Source,
        Ask::Promote { .. } | Ask::Abort | Ask::Activate | Ask::Settle => Side::Target,
    }
}

/// An answer that stands for a failure.
fn answer_of(terms: &Terms, number: u32, why: String) -> Answer {
    Answer { leg: terms.leg, number, reply: crate::cutover::message::Reply::Failed { why } }
}
