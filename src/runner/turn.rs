//! A place among the runs that a daemon has at work, given back while a run only waits.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Debug)]
pub struct Turn {
    places: Arc<Semaphore>,
    mine: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Waits for a place.
    pub async fn take(places: &Arc<Semaphore>) -> Turn {
        // The semaphore is never closed.
        let mine = Arc::clone(places).acquire_owned().await.ok();
        Turn { places: Arc::clone(places), mine: Mutex::new(mine) }
    }

    /// Lets others have the place until `waiting` has ended, then waits for one again.
    pub async fn give_way<T>(&self, waiting: impl Future<Output = T>) -> T {
        drop(self.mine.lock().unwrap_or_else(PoisonError::into_inner).take());
        let waited = waiting.await;
        let again = Arc::clone(&self.places).acquire_owned().await.ok();
        *self.mine.lock().unwrap_or_else(PoisonError::into_inner) = again;
        waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_holds_up_nobody() {
        let places = Arc::new(Semaphore::new(1));
        let one = Turn::take(&places).await;
        assert_eq!(places.available_permits(), 0);
        one.give_way(async { drop(Turn::take(&places).await) }).await;
        assert_eq!(places.available_permits(), 0);
        drop(one);
        assert_eq!(places.available_permits(), 1);
    }
}
