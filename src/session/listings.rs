//! Listings and sizes: what is read of this side's ZFS before anything is decided.
//!
//! Invariants: a pool that hangs keeps nobody for ever, and nobody at all who asks of another pool; what only reads does not
//! outlive its session; of a target it is remembered what was shown, so that nothing else is rolled away.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::{sync::Semaphore, time::timeout};

use super::{
    engine::{Engine, EngineSession, ending, lock, refused},
    patience::in_time,
};
use crate::{
    limits::{LISTING_WITHIN, MAX_LISTINGS_AT_A_TIME, MAX_SIZES, RUN_LISTING_WITHIN},
    port::zfs::{Depth, SendSpec, ZfsResult},
    types::{DatasetName, Failure, FailureClass, Guid, listing::Listing},
    wire::message::{Listed, Reply, RoleOfDataset},
};

/// Places for listings, by pool. Pools are those of grants and of the configuration, so they are few.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<String, Arc<Semaphore>>>);

impl Places {
    pub fn of(&self, pool: &str) -> Arc<Semaphore> {
        let mut all = lock(&self.0);
        Arc::clone(all.entry(pool.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(MAX_LISTINGS_AT_A_TIME))))
    }
}

/// The GUIDs of the snapshots in the last listing of a target, in order: 8 bytes for each.
#[derive(Default)]
pub(super) struct Shown(Box<[Guid]>);

impl Shown {
    fn of(listing: &Listing) -> Shown {
        let mut all: Vec<Guid> = listing.datasets.iter().flat_map(|d| &d.snapshots).map(|s| s.guid).collect();
        all.sort_unstable();
        Shown(all.into())
    }
}

impl Engine {
    /// Something is changed on this host: what was just seen or listed for a cutover does not count any more.
    pub(super) fn forget_what_was_seen(&self) {
        if let Some(hosts) = &self.cutovers {
            hosts.forget_what_was_seen();
        }
    }
}

impl EngineSession {
    pub(super) async fn list(&self, root: &DatasetName, depth: Depth, role: RoleOfDataset) -> Result<Reply, Failure> {
        let (zfs, places) = (self.zfs(), self.engine.listings.of(root.pool()));
        let read = async {
            // The semaphore is never closed.
            let _one_of_few = places.acquire().await;
            let is_source = role == RoleOfDataset::Source && depth == Depth::Tree;
            let just_listed =
                self.engine.cutovers.as_ref().filter(|_| is_source).and_then(|hosts| hosts.just_listed(root));
            let listing = async {
                match just_listed {
                    Some(listing) => Ok(listing),
                    None => zfs.list(root, depth).await,
                }
            };
            let (listing, capabilities) = tokio::try_join!(listing, zfs.capabilities(root.pool()))?;
            let ancestors = match role {
                RoleOfDataset::Target => zfs.datasets(&root.ancestors()).await?,
                RoleOfDataset::Source => Vec::new(),
            };
            Ok(Listed { listing, ancestors, capabilities })
        };
        let listed = self.while_it_lasts(in_time(&format!("list {root}"), RUN_LISTING_WITHIN, read)).await?;
        let most = self.engine.max_datasets;
        if listed.listing.datasets.len() > most {
            return Err(refused(format!("{root} has more than {most} datasets below it"))
                .hint("replicate parts of it, or raise max_datasets under [limits] there"));
        }
        if role == RoleOfDataset::Target {
            *lock(&self.shown) = Shown::of(&listed.listing);
        }
        Ok(Reply::Listed(Box::new(listed)))
    }

    /// True for a snapshot that was in this session's last listing of a target.
    pub(super) fn was_shown(&self, guid: Guid) -> bool {
        lock(&self.shown).0.binary_search(&guid).is_ok()
    }

    pub(super) async fn sizes(&self, specs: &[SendSpec]) -> Result<Reply, Failure> {
        if specs.len() > MAX_SIZES || specs.iter().any(|spec| matches!(spec, SendSpec::Resume { .. })) {
            // A token names whatever it likes, so no grant covers it.
            let text = "sizes were asked of too many streams, or of a token";
            return Err(Failure::new(FailureClass::Protocol, text));
        }
        let ask = async {
            let mut sizes = Vec::with_capacity(specs.len());
            for spec in specs {
                // An estimate that fails is no reason not to show the rest; where one gets no answer, no other will.
                match timeout(LISTING_WITHIN, self.zfs().send_size(spec)).await {
                    Ok(size) => sizes.push(size.ok().flatten()),
                    Err(_) => break,
                }
            }
            sizes.resize(specs.len(), None);
            Ok(sizes)
        };
        self.while_it_lasts(ask).await.map(Reply::Sizes)
    }

    /// Waits for what only reads, but no longer than the session lasts: nothing is lost with it.
    pub(super) async fn while_it_lasts<T>(&self, read: impl Future<Output = ZfsResult<T>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.ending.cancelled() => Err(ending()),
            read = read => Ok(read?),
        }
    }
}

#[cfg(test)]
#[path = "listings_tests.rs"]
mod tests;
