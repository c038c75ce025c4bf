//! The words between a cutover's leader and the two hosts: the one here by a function call, the one there over a session
//! that is kept open, so that a question costs one round trip.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{Begun, answer_of};
use crate::{
    cutover::{
        call::{Call, Seen, Setup, State, Told},
        leg::{CutoverId, Node, Side},
        message::{Answer, Ask, Reply as Answered, Request as Question},
        record::Saved,
        terms::{OnActivateFailure, Terms},
    },
    driver::RunContext,
    session::client::Client,
    types::{DatasetName, Failure, FailureClass, SnapshotTag, listing::JOB, printable_lines, transfer::Depth},
    wire::{
        hello::features,
        message::{Reply, Request, RoleOfDataset},
    },
};

/// See the module.
pub struct Talk {
    context: Arc<RunContext>,
    client: Mutex<Option<Arc<Client>>>,
}

fn unexpected() -> Failure {
    Failure::new(FailureClass::Protocol, "the host answered something else than it was asked")
}

impl Talk {
    pub fn new(context: Arc<RunContext>) -> Talk {
        Talk { context, client: Mutex::new(None) }
    }

    /// The session with the peer, opened anew if the last one is over.
    ///
    /// # Errors
    /// When the peer cannot be reached, or does not know cutovers.
    pub async fn client(&self) -> Result<Arc<Client>, Failure> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|c| c.ended().is_none()) {
            return Ok(Arc::clone(client));
        }
        let client = Client::connect(Arc::clone(&self.context.link), &self.context.client).await?;
        if !client.has(features::CUTOVER) {
            let text = format!("{} runs {}, which knows no cutovers", self.context.link, client.agent());
            return Err(Failure::new(FailureClass::Protocol, text).hint("upgrade zmigrated there"));
        }
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Says something about the unit of these roots to the host at `node`.
    ///
    /// # Errors
    /// What the host says, or that it cannot be reached.
    pub async fn tell(&self, node: Node, unit: &[DatasetName], call: Call) -> Result<Told, Failure> {
        if node == Node::Here {
            let hosts = self.context.engine.cutovers.as_ref();
            let hosts = hosts.ok_or_else(|| Failure::new(FailureClass::Internal, "no cutovers here"))?;
            return hosts.handle(unit, call, "a cutover that is led here").await;
        }
        let call = serde_json::to_string(&call).map_err(|e| Failure::new(FailureClass::Internal, e))?;
        let client = self.client().await?;
        match client.call(Request::Cutover { unit: unit.to_vec(), call }).await? {
            Reply::Cutover(told) => serde_json::from_str(&told).map(printable).map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }

    /// Asks a question of `side`, and says its answer, if it has one yet, and what its hooks said.
    ///
    /// # Errors
    /// When the host cannot be reached, or cannot be asked.
    pub async fn ask(
        &self,
        terms: &Terms,
        begun: &Begun,
        side: Side,
        request: Question,
    ) -> Result<(Option<Answer>, Vec<String>), Failure> {
        let setup = match &request.ask {
            Ask::Arm { .. } => {
                self.may_return(terms).await?;
                Some(self.setup(terms, begun, side).await?)
            }
            _ => None,
        };
        let unit = terms.roots(side);
        match self.tell(terms.at(side), &unit, Call::Ask { request, setup }).await? {
            Told::Answer { answer, notes } => Ok((answer, notes)),
            _ => Err(unexpected()),
        }
    }

    /// Whether the peer grants what the way back needs, where that may be gone by itself: it plays the other side then.
    ///
    /// # Errors
    /// When it does not.
    async fn may_return(&self, terms: &Terms) -> Result<(), Failure> {
        if terms.on_activate_failure != OnActivateFailure::Return || terms.returns_from.is_some() {
            return Ok(());
        }
        let (now, role) = match terms.source_at {
            Node::Here => (Side::Target, RoleOfDataset::Source),
            Node::Peer => (Side::Source, RoleOfDataset::Target),
        };
        let client = self.client().await?;
        for root in terms.roots(now) {
            let asked = client.call(Request::List { root, depth: Depth::Root, role }).await;
            asked.map_err(|failure| {
                let text = format!("the way back, which --on-activate-failure return may need: {}", failure.message);
                Failure { message: text, ..failure }
            })?;
        }
        Ok(())
    }

    async fn setup(&self, terms: &Terms, begun: &Begun, side: Side) -> Result<Setup, Failure> {
        let (node, other) = match side {
            Side::Source => (terms.at(side), Side::Target),
            Side::Target => (terms.at(side), Side::Source),
        };
        let hooks = if node == Node::Here { &begun.hooks_here } else { &begun.hooks_there };
        let mut manifest = self.describe(terms, other).await?;
        let mut jobs: Vec<String> = manifest.extract_if(.., |s| s.property == JOB).map(|s| s.value).collect();
        jobs.sort();
        jobs.dedup();
        let mut armed = Vec::new();
        if side == Side::Source {
            manifest.clear();
            armed.extend(self.describe(terms, side).await?.into_iter().map(|s| s.dataset));
            armed.dedup();
        }
        let renamed = |s: Saved| Some(Saved { dataset: target_of(terms, &s.dataset)?, ..s });
        let manifest = manifest.into_iter().filter_map(renamed).collect();
        let (hooks, other) = (hooks.clone(), terms.roots(other));
        Ok(Setup { hooks, kill_busy: begun.kill_busy, jobs, other, manifest, armed })
    }

    async fn describe(&self, terms: &Terms, side: Side) -> Result<Vec<Saved>, Failure> {
        match self.look_at(terms, side, Call::Describe).await? {
            Told::Described { saved } => Ok(saved),
            _ => Err(unexpected()),
        }
    }

    async fn look_at(&self, terms: &Terms, side: Side, call: Call) -> Result<Told, Failure> {
        self.tell(terms.at(side), &terms.roots(side), call).await
    }

    /// What stands at `side` by the snapshots of that tag.
    ///
    /// # Errors
    /// As for [`Talk::tell`].
    pub async fn look(&self, terms: &Terms, side: Side, tag: &SnapshotTag) -> Result<Seen, Failure> {
        match self.look_at(terms, side, Call::Look { tag: tag.clone() }).await? {
            Told::Seen(seen) => Ok(seen),
            _ => Err(unexpected()),
        }
    }

    /// Which part the host at `side` plays.
    ///
    /// # Errors
    /// As for [`Talk::tell`].
    pub async fn state(&self, terms: &Terms, side: Side) -> Result<State, Failure> {
        match self.look_at(terms, side, Call::State).await? {
            Told::State(state) => Ok(state),
            _ => Err(unexpected()),
        }
    }

    /// The datasets below the source's roots.
    ///
    /// # Errors
    /// As for [`Talk::tell`]; also when a root is not there.
    pub async fn children(&self, terms: &Terms) -> Result<Vec<DatasetName>, Failure> {
        let Told::Described { saved } = self.look_at(terms, Side::Source, Call::Describe).await? else {
            return Err(unexpected());
        };
        let mut all: Vec<DatasetName> = saved.into_iter().map(|s| s.dataset).collect();
        all.dedup();
        all.retain(|name| !terms.unit.iter().any(|p| p.source == *name));
        Ok(all)
    }

    /// Destroys the snapshots that these legs made, at both sides, but for `keep`; with `earlier` also those of cutovers of the unit before
    /// this one. A failure is no reason to stop.
    pub async fn tidy(&self, terms: &Terms, legs: &[CutoverId], keep: &SnapshotTag, earlier: bool) {
        for side in [Side::Source, Side::Target] {
            let call = Call::Tidy { legs: legs.to_vec(), keep: keep.clone(), earlier };
            if let Err(failure) = self.look_at(terms, side, call).await {
                tracing::debug!("snapshots of passes stay: {failure}");
            }
        }
    }

    /// Rids what is fenced at the target of the snapshots of others that hold nothing.
    ///
    /// # Errors
    /// When something may have been written there, or a snapshot is in use; `Protocol` from a host that is too old.
    pub async fn shed(&self, terms: &Terms) -> Result<(), Failure> {
        self.look_at(terms, Side::Target, Call::Shed).await.map(drop)
    }

    /// Ends the session.
    pub async fn bye(&self) {
        if let Some(client) = self.client.lock().await.take() {
            client.bye().await;
        }
    }
}

/// What is for people, without what a terminal would take for commands.
fn printable(mut told: Told) -> Told {
    match &mut told {
        Told::Answer { answer, notes } => {
            notes.iter_mut().for_each(|note| *note = printable_lines(note));
            if let Some(Answer { reply: Answered::Failed { why }, .. }) = answer {
                *why = printable_lines(why);
            }
        }
        Told::State(state) => {
            state.stage = printable_lines(&state.stage);
            state.needs = state.needs.as_deref().map(printable_lines);
        }
        _ => {}
    }
    told
}

/// Where a dataset of the source is at the target.
fn target_of(terms: &Terms, source: &DatasetName) -> Option<DatasetName> {
    let pair = terms.unit.iter().find(|p| source.is_at_or_below(&p.source))?;
    match source.relative_to(&pair.source).unwrap_or_default() {
        "" => Some(pair.target.clone()),
        below => format!("{}/{below}", pair.target).parse().ok(),
    }
}

/// The answer that a failure amounts to, if asking again would not change it: the host does not permit it, or cannot.
pub fn lasting(terms: &Terms, number: u32, failure: &Failure) -> Option<Answer> {
    let passes = failure.transient
        || matches!(
            failure.class,
            FailureClass::Unreachable | FailureClass::SessionLost | FailureClass::Interrupted | FailureClass::Locked
        );
    (!passes).then(|| answer_of(terms, number, failure.in_one()))
}
