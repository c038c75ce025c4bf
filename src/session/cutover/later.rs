//! What a receive of a cutover leaves to do when its snapshot is safe already: it goes on beside what follows, so that no outage waits
//! for it. What touches that dataset next does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{session::engine::lock, types::DatasetName};

/// See the module. Held while something of that dataset is left.
#[derive(Default)]
pub(in crate::session) struct Later(Mutex<BTreeMap<DatasetName, Arc<AsyncMutex<()>>>>);

impl Later {
    /// The turn of that dataset, when what was left of it is done; who has it may leave something.
    pub async fn turn(&self, dataset: &DatasetName) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(lock(&self.0).entry(dataset.clone()).or_default());
        turn.lock_owned().await
    }

    /// Waits until nothing is left of what is at or below these.
    pub async fn is_done(&self, roots: &[DatasetName]) {
        let is_below = |dataset: &DatasetName| roots.iter().any(|root| dataset.is_at_or_below(root));
        let turns: Vec<_> =
            lock(&self.0).iter().filter(|(d, _)| is_below(d)).map(|(_, turn)| Arc::clone(turn)).collect();
        for turn in turns {
            drop(turn.lock_owned().await);
        }
        // Who waits has a share of his turn.
        lock(&self.0).retain(|dataset, turn| !is_below(dataset) || Arc::strong_count(turn) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_of_a_dataset_is_waited_for_and_holds_nobody_else_up() {
        let later = Arc::new(Later::default());
        let [above, one, other] = ["p", "p/a", "q/a"].map(|name| name.parse::<DatasetName>().unwrap());
        let turn = later.turn(&one).await;
        drop(later.turn(&other).await);
        later.is_done(std::slice::from_ref(&other)).await;
        let waiting = [
            tokio::spawn({
                let later = Arc::clone(&later);
                async move { later.is_done(&[above]).await }
            }),
            tokio::spawn({
                let later = Arc::clone(&later);
                async move { drop(later.turn(&one).await) }
            }),
        ];
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|task| !task.is_finished()));
        drop(turn);
        for task in waiting {
            task.await.unwrap();
        }
        later.is_done(&["p".parse().unwrap()]).await;
        assert!(lock(&later.0).is_empty(), "what is over is not kept");
    }
}
