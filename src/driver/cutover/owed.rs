//! What a source is told when there is time for it: which snapshot of each dataset is the base now, and what it can let go of.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::stream::{self, StreamExt};

use super::{ready::Open, work::AT_ONCE};
use crate::{
    cutover::leg::Node,
    types::{Failure, SnapshotName, transfer::Base},
    wire::message::Request,
};

/// See the module; until it is told, the source keeps the older base as well.
#[derive(Default)]
pub(super) struct Owed(Mutex<VecDeque<(Node, Request)>>);

impl Owed {
    fn queue(&self) -> MutexGuard<'_, VecDeque<(Node, Request)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    pub fn extend(&self, more: impl Iterator<Item = (Node, Request)>) {
        self.queue().extend(more);
    }

    /// Tells all of it. What was told is not told again.
    ///
    /// # Errors
    /// When a host does not take it: the rest stays owed.
    pub async fn tell_all(&self, open: &Open) -> Result<(), Failure> {
        let due: Vec<(Node, Request)> = self.queue().iter().cloned().collect();
        let (mut of_each, mut last) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        // The origin of a clone is let go of only when it is kept as its own dataset's base; and what follows of the clone comes after that.
        let mut waits = BTreeSet::new();
        for owed in due {
            match &owed.1 {
                Request::Acknowledge { snapshot, superseded, .. } => {
                    let dataset = snapshot.dataset();
                    if superseded.iter().any(|base| is_of_another(base, snapshot)) {
                        waits.insert(dataset.clone());
                    }
                    let list = if waits.contains(&dataset) { &mut last } else { of_each.entry(dataset).or_default() };
                    list.push(owed);
                }
                _ => last.push(owed),
            }
        }
        // Of one dataset in their order; those of others at the same time, as they wait for the same disk.
        let of_each = of_each.into_values().map(|due| self.tell(open, due));
        let told: Vec<_> = stream::iter(of_each).buffer_unordered(AT_ONCE).collect().await;
        told.into_iter().collect::<Result<(), Failure>>()?;
        self.tell(open, last).await
    }

    async fn tell(&self, open: &Open, due: Vec<(Node, Request)>) -> Result<(), Failure> {
        for owed in due {
            let notes = open.host(owed.0).tell(owed.1.clone()).await?;
            notes.iter().for_each(|note| tracing::warn!("{note}"));
            self.queue().retain(|other| *other != owed);
        }
        Ok(())
    }
}

/// Whether it is the origin of a clone, and a snapshot of another dataset than `snapshot`.
fn is_of_another(base: &Base, snapshot: &SnapshotName) -> bool {
    matches!(base, Base::Snapshot(origin) if origin.dataset() != snapshot.dataset())
}
