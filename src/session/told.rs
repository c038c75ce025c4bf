//! A value that is told once, and that any number of tasks wait for.
//!
//! Those who wait wake in the order in which they came, unlike with `tokio::sync::watch`, which draws lots: what happens
//! in a test is to be the same each time.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Inner<T> {
    value: OnceLock<T>,
    told: CancellationToken,
}

/// Tells the value. Dropped without a word, it leaves those who wait with none.
#[derive(Debug)]
pub struct Teller<T>(Arc<Inner<T>>);

/// Waits for the value. Cheap to clone.
#[derive(Debug)]
pub struct Told<T>(Arc<Inner<T>>);

impl<T> Clone for Told<T> {
    fn clone(&self) -> Self {
        Told(Arc::clone(&self.0))
    }
}

/// A value that is not there yet.
pub fn told<T>() -> (Teller<T>, Told<T>) {
    let inner = Arc::new(Inner { value: OnceLock::new(), told: CancellationToken::new() });
    (Teller(Arc::clone(&inner)), Told(inner))
}

impl<T> Teller<T> {
    /// Tells it; the end of the teller wakes those who wait.
    pub fn tell(self, value: T) {
        // It is the only teller, and is used up by this.
        let _ = self.0.value.set(value);
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        self.0.told.cancel();
    }
}

impl<T: Clone> Told<T> {
    /// The value, once it is told; `None` if nobody will.
    pub async fn wait(&self) -> Option<T> {
        self.0.told.cancelled().await;
        self.0.value.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_hear_it_and_nobody_waits_in_vain() {
        let (teller, told) = told();
        let waiting = tokio::spawn({
            let told = told.clone();
            async move { told.wait().await }
        });
        tokio::task::yield_now().await;
        teller.tell(7);
        assert_eq!((waiting.await.unwrap(), told.wait().await), (Some(7), Some(7)));
        let (teller, told) = super::told::<u8>();
        drop(teller);
        assert_eq!(told.wait().await, None);
    }
}
