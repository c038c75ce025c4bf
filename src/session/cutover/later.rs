//! What a receive of a cutover leaves to do when its snapshot is safe already: no outage waits for it, and nothing takes its time from one.
//! It is done after a while, or as soon as somebody wants to touch its dataset again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard},
    time::timeout,
};

use crate::{session::engine::lock, types::DatasetName};

/// Longer than most outages go on when the last bytes have come.
const AFTER: Duration = Duration::from_secs(2);

/// What is left of one dataset.
#[derive(Default)]
struct Left {
    /// Held while something is.
    turn: Arc<AsyncMutex<()>>,
    hurry: Notify,
}

/// See the module.
#[derive(Default)]
pub(in crate::session) struct Later(Mutex<BTreeMap<DatasetName, Arc<Left>>>);

/// The right to leave something of a dataset; it counts as done when this is dropped.
pub(in crate::session) struct Turn {
    left: Arc<Left>,
    _turn: OwnedMutexGuard<()>,
}

impl Turn {
    /// Until it is time for what is left.
    pub async fn comes(&self) {
        // What was said before anybody waited is remembered.
        let _ = timeout(AFTER, self.left.hurry.notified()).await;
    }
}

impl Later {
    /// The turn of that dataset, when what was left of it is done.
    pub async fn turn(&self, dataset: &DatasetName) -> Turn {
        let left = Arc::clone(lock(&self.0).entry(dataset.clone()).or_default());
        left.hurry_up();
        Turn { _turn: Arc::clone(&left.turn).lock_owned().await, left }
    }

    /// Has done at once what is left of that dataset, and waits for it. Of one of which nothing is, nothing is kept.
    pub async fn nothing_is_left_of(&self, dataset: &DatasetName) {
        let Some(left) = lock(&self.0).get(dataset).map(Arc::clone) else { return };
        left.hurry_up();
        drop(Arc::clone(&left.turn).lock_owned().await);
        drop(left);
        lock(&self.0).retain(|name, left| name != dataset || Arc::strong_count(left) > 1);
    }

    /// Has done at once what is left of all that is at or below these, and waits for it.
    pub async fn is_done(&self, roots: &[DatasetName]) {
        let is_below = |dataset: &DatasetName| roots.iter().any(|root| dataset.is_at_or_below(root));
        let all: Vec<_> = lock(&self.0).iter().filter(|(d, _)| is_below(d)).map(|(_, left)| Arc::clone(left)).collect();
        all.iter().for_each(|left| left.hurry_up());
        for left in all {
            drop(Arc::clone(&left.turn).lock_owned().await);
        }
        // Who waits, or does it, has a share of it.
        lock(&self.0).retain(|dataset, left| !is_below(dataset) || Arc::strong_count(left) > 1);
    }
}

impl Left {
    /// Does not let anything be left any longer.
    fn hurry_up(&self) {
        if self.turn.try_lock().is_err() {
            self.hurry.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn named(name: &str) -> DatasetName {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_waits_until_somebody_touches_it_and_holds_nobody_else_up() {
        let later = Arc::new(Later::default());
        let turn = later.turn(&named("p/a")).await;
        let since = Instant::now();
        drop(later.turn(&named("q/a")).await);
        later.is_done(&[named("q")]).await;
        let waiting = [named("p"), named("p/a")].map(|root| {
            let later = Arc::clone(&later);
            tokio::spawn(async move { later.is_done(&[root]).await })
        });
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|task| !task.is_finished()));
        turn.comes().await;
        assert_eq!(since.elapsed(), Duration::ZERO, "somebody waits");
        drop(turn);
        for task in waiting {
            task.await.unwrap();
        }
        later.is_done(&[named("p")]).await;
        assert!(lock(&later.0).is_empty(), "what is over is not kept");
        // Who only asks leaves nothing behind, and waits for what is left.
        later.nothing_is_left_of(&named("p/a")).await;
        assert!(lock(&later.0).is_empty(), "what was asked for is kept");
        let turn = later.turn(&named("p/a")).await;
        let asks = {
            let later = Arc::clone(&later);
            tokio::spawn(async move { later.nothing_is_left_of(&named("p/a")).await })
        };
        tokio::task::yield_now().await;
        turn.comes().await;
        assert!(!asks.is_finished() && since.elapsed() == Duration::ZERO, "somebody waits");
        drop(turn);
        asks.await.unwrap();
        assert!(lock(&later.0).is_empty(), "what is over is not kept");
        // A turn that nobody waits for comes by itself.
        let turn = later.turn(&named("p/a")).await;
        turn.comes().await;
        assert_eq!(since.elapsed(), AFTER);
    }
}
