//! The session for transfers, and what is kept ready in it between them, so that an outage costs few round trips: the lock, what
//! the target holds, channels that are connected, and what the source is only told when there is time for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
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
    /// Shared: one that becomes ready in the middle of a run is used in it.
    channels: Arc<Mutex<Vec<u32>>>,
    /// Those that are being asked for.
    asked: Arc<AtomicUsize>,
}

impl Open {
    pub fn new(client: Arc<Client>, local: Arc<EngineSession>) -> Open {
        Open {
            client,
            local,
            locked: BTreeSet::new(),
            targets: BTreeMap::new(),
            channels: Arc::default(),
            asked: Arc::default(),
        }
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

    /// What is ready for a run of that pair, which takes it. Channels are for the final sync: passes dial theirs, so that what they
    /// measure does not depend on whether one was ready in time.
    pub fn take(&mut self, terms: &Terms, pair: &Pair, is_final: bool) -> Arc<Ready> {
        let target = target_of(terms, pair);
        Arc::new(Ready {
            locked: self.locked.contains(&target),
            target: self.targets.remove(&target),
            channels: if is_final { Arc::clone(&self.channels) } else { Arc::default() },
            owed: Some(Mutex::default()),
        })
    }

    /// After a run of that pair that ended well.
    pub fn holds(&mut self, terms: &Terms, pair: &Pair) {
        self.locked.insert(target_of(terms, pair));
    }

    /// Makes ready what the next run needs. `held`: it may be months until the outage, and a channel takes a place from others.
    pub async fn get_ready(&mut self, terms: &Terms, held: bool) {
        if let Err(failure) = self.look_at_targets(terms).await {
            tracing::debug!("the target is looked at again: {failure}");
        }
        if held { self.disconnect().await } else { self.connect(terms) }
    }

    /// Looks at the targets for the next run of each pair. Nobody else writes to them: the session has their locks. What changes
    /// there all the same, that run stumbles over, and looks for itself.
    ///
    /// # Errors
    /// When the target cannot be listed; the next run does it.
    async fn look_at_targets(&mut self, terms: &Terms) -> Result<(), Failure> {
        let (_, target) = self.sides(terms);
        for pair in terms.unit.iter().filter(|pair| self.locked.contains(&target_of(terms, pair))) {
            let root = pair.target.clone();
            let listed = target.list(Request::List { root, depth: Depth::Tree, role: RoleOfDataset::Target }).await?;
            self.targets.insert(target_of(terms, pair), listed);
        }
        Ok(())
    }

    /// Begins to connect channels for the next run: one for each dataset, as far as there are so many. What is not ready by then is
    /// dialled when it is needed.
    pub fn connect(&self, terms: &Terms) {
        let listed = terms.unit.iter().filter_map(|pair| self.targets.get(&target_of(terms, pair)));
        let wanted = listed.map(|listed| listed.listing.datasets.len()).sum::<usize>().clamp(1, MAX_READY);
        let is_far = self.client.rtt().is_some_and(|rtt| rtt > FAR);
        let streams = if is_far { (FAR_STREAMS / wanted.min(16) as u16).max(1) } else { 1 };
        for _ in self.channels().len() + self.asked.load(Ordering::SeqCst)..wanted {
            let (client, local) = (Arc::clone(&self.client), Arc::clone(&self.local));
            let (channels, asked) = (Arc::clone(&self.channels), Arc::clone(&self.asked));
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                match client.prepare(&local, streams).await {
                    Ok(channel) => channels.lock().unwrap_or_else(PoisonError::into_inner).extend(channel),
                    Err(failure) => tracing::debug!("a channel is not ready: {failure}"),
                }
                asked.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn channels(&self) -> MutexGuard<'_, Vec<u32>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the channels go that are ready: each takes a place from other transfers.
    async fn disconnect(&self) {
        let (here, there) = (self.host(Node::Here), self.host(Node::Peer));
        let unused = mem::take(&mut *self.channels());
        for channel in unused {
            let cancel = || Request::Cancel { channel };
            let _ = tokio::join!(here.ask(cancel()), there.ask(cancel()));
        }
    }
}
