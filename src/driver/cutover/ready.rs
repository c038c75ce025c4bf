//! The session for transfers, and what is kept ready in it between them, so that an outage costs few round trips: the lock, what
//! the target holds, channels that are connected, and what the source is only told when there is time for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;

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
/// Channels that are ready at most.
const MAX_READY: usize = 32;
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

    /// Looks at the targets for the next run of each pair. Nobody else writes to them: the session has their locks. What changes
    /// there all the same, that run stumbles over, and looks for itself.
    ///
    /// # Errors
    /// When the target cannot be listed; the next run does it.
    pub async fn look_at_targets(&mut self, terms: &Terms) -> Result<(), Failure> {
        let (_, target) = self.sides(terms);
        for pair in terms.unit.iter() {
            let root = pair.target.clone();
            let listed = target.list(Request::List { root, depth: Depth::Tree, role: RoleOfDataset::Target }).await?;
            self.targets.insert(target_of(terms, pair), listed);
        }
        Ok(())
    }

    /// Connects channels for the next run: one for each dataset, as far as there are so many.
    pub async fn connect(&mut self, terms: &Terms) {
        let listed = terms.unit.iter().filter_map(|pair| self.targets.get(&target_of(terms, pair)));
        let wanted = listed.map(|listed| listed.listing.datasets.len()).sum::<usize>().clamp(1, MAX_READY);
        let is_far = self.client.rtt().is_some_and(|rtt| rtt > FAR);
        let streams = if is_far { (FAR_STREAMS / wanted.min(16) as u16).max(1) } else { 1 };
        let missing = self.channels.len()..wanted;
        let prepared = join_all(missing.map(|_| self.client.prepare(&self.local, streams))).await;
        for channel in prepared {
            match channel {
                Ok(channel) => self.channels.extend(channel),
                // It is dialled when it is needed.
                Err(failure) => tracing::debug!("a channel is not ready: {failure}"),
            }
        }
    }

    /// Lets the channels go that are ready: each takes a place from other transfers.
    pub async fn disconnect(&mut self) {
        let (here, there) = (self.host(Node::Here), self.host(Node::Peer));
        for channel in mem::take(&mut self.channels) {
            let cancel = || Request::Cancel { channel };
            let _ = tokio::join!(here.ask(cancel()), there.ask(cancel()));
            self.client.close_channel(channel);
        }
    }
}
