//! The session for transfers, and what is kept ready in it between them, so that an outage costs few round trips: the lock, what
//! the target holds, channels that are connected, and what the source is only told when there is time for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    cutover::{
        leg::{Node, Side},
        terms::{Pair, Terms},
    },
    driver::{attempt::Ready, side::Side as Where},
    session::{client::Client, engine::EngineSession},
    types::{DatasetName, Failure, transfer::Depth},
    wire::message::{Listed, Request, RoleOfDataset},
};

/// Connections of a channel that is ready, where a round trip is long: with each of them TCP begins with some packets more.
const FAR_STREAMS: u16 = 16;
/// What a long round trip is.
const FAR: Duration = Duration::from_millis(5);

/// A root, and the host that it is a target on: on the way home, the other one.
type Target = (Node, DatasetName);

fn target_of(terms: &Terms, pair: &Pair) -> Target {
    (terms.at(Side::Target), pair.target.clone())
}

/// See the module.
pub(super) struct Open {
    pub client: Arc<Client>,
    pub local: Arc<EngineSession>,
    locked: BTreeSet<Target>,
    targets: BTreeMap<Target, Listed>,
    channels: Vec<u32>,
}

impl Open {
    pub fn new(client: Arc<Client>, local: Arc<EngineSession>) -> Open {
        Open { client, local, locked: BTreeSet::new(), targets: BTreeMap::new(), channels: Vec::new() }
    }

    /// The source and the target of these terms.
    pub fn sides(&self, terms: &Terms) -> (Where, Where) {
        (self.host(terms.at(Side::Source)), self.host(terms.at(Side::Target)))
    }

    pub fn host(&self, node: Node) -> Where {
        match node {
            Node::Here => Where::Local(Arc::clone(&self.local)),
            Node::Peer => Where::Remote(Arc::clone(&self.client)),
        }
    }

    /// What is ready for a run of that pair, which takes it.
    pub fn take(&mut self, terms: &Terms, pair: &Pair) -> Arc<Ready> {
        let target = target_of(terms, pair);
        Arc::new(Ready {
            locked: self.locked.contains(&target),
            target: self.targets.remove(&target),
            channels: Mutex::new(mem::take(&mut self.channels)),
            owed: Some(Mutex::default()),
        })
    }

    /// After a run of that pair that ended well.
    pub fn give_back(&mut self, terms: &Terms, pair: &Pair, ready: &Ready) {
        self.locked.insert(target_of(terms, pair));
        self.channels.append(&mut ready.channels.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes all ready for a run of each pair, `jobs` datasets at a time. Nobody else writes to the targets: the session has their
    /// locks. What changes there all the same, the next run stumbles over and looks for itself.
    ///
    /// # Errors
    /// When a side fails, or has no place for another transfer. What is not ready then costs round trips later.
    pub async fn make_ready(&mut self, terms: &Terms, jobs: usize) -> Result<(), Failure> {
        let (_, target) = self.sides(terms);
        let mut datasets = 0;
        for pair in terms.unit.iter() {
            let root = pair.target.clone();
            let listed = target.list(Request::List { root, depth: Depth::Tree, role: RoleOfDataset::Target }).await?;
            datasets += listed.listing.datasets.len();
            self.targets.insert(target_of(terms, pair), listed);
        }
        let wanted = jobs.min(datasets).max(1);
        let is_far = self.client.rtt().is_some_and(|rtt| rtt > FAR);
        let streams = if is_far { FAR_STREAMS / wanted.min(16) as u16 } else { 1 };
        while self.channels.len() < wanted {
            match self.client.prepare(&self.local, streams.max(1)).await? {
                Some(channel) => self.channels.push(channel),
                None => break,
            }
        }
        Ok(())
    }
}
