//! A limit on what goes over the link.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::wire::bucket::TokenBucket;

/// A rate that all transfers of a run or session keep to together. It may change while they run.
pub struct RateLimit {
    /// `None` while there is no limit.
    bucket: Mutex<Option<TokenBucket>>,
    epoch: Instant,
}

impl RateLimit {
    /// A limit in bytes on the wire per second; `None` for none as yet.
    pub fn new(rate_bytes_per_s: Option<u64>) -> Arc<RateLimit> {
        let limit = RateLimit { bucket: Mutex::new(None), epoch: Instant::now() };
        limit.set(rate_bytes_per_s);
        Arc::new(limit)
    }

    /// From now on another limit, or none, also for what waits already.
    pub fn set(&self, rate_bytes_per_s: Option<u64>) {
        let (mut bucket, now) = (self.lock(), self.epoch.elapsed());
        match (&mut *bucket, rate_bytes_per_s) {
            (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
            (bucket, rate) => *bucket = rate.map(|rate| TokenBucket::new(rate, now)),
        }
    }

    /// Counts what is about to be sent.
    pub(super) fn charge(self: &Arc<Self>, bytes: u64) -> Charge {
        let (mut bucket, now) = (self.lock(), self.epoch.elapsed());
        let place = bucket.as_mut().map(|bucket| {
            bucket.take(bytes, now);
            bucket.place()
        });
        Charge { limit: Arc::clone(self), place }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<TokenBucket>> {
        self.bucket.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What waits until the limit lets it through.
pub(crate) struct Charge {
    limit: Arc<RateLimit>,
    /// In the bucket; `None` if there was no limit.
    place: Option<u64>,
}

impl Charge {
    /// How long it still has to wait, by the limit of now.
    pub(super) fn left(&self) -> Duration {
        let (mut bucket, now) = (self.limit.lock(), self.limit.epoch.elapsed());
        bucket.as_mut().zip(self.place).map_or(Duration::ZERO, |(bucket, place)| bucket.left(place, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds that so many frames of 1000 bytes take.
    async fn send(limit: &Arc<RateLimit>, frames: u32) -> f64 {
        let began = Instant::now();
        for _ in 0..frames {
            tokio::time::sleep(limit.charge(1000).left()).await;
        }
        began.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_comes_changes_and_goes_while_it_is_in_use() {
        let limit = RateLimit::new(None);
        assert_eq!(send(&limit, 10_000).await, 0.0);
        limit.set(Some(10_000));
        let took = send(&limit, 100).await;
        assert!((9.5..10.5).contains(&took), "{took} s for 100,000 bytes at 10,000 a second");
        limit.set(Some(1000));
        let took = send(&limit, 100).await;
        assert!((98.0..102.0).contains(&took), "{took} s for 100,000 bytes at 1,000 a second");
        limit.set(None);
        assert_eq!(send(&limit, 10_000).await, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_already_hears_of_another_limit() {
        let limit = RateLimit::new(Some(10));
        let frame = limit.charge(1000);
        assert!(frame.left() > Duration::from_secs(99), "{:?}", frame.left());
        limit.set(Some(1000));
        assert!(frame.left() < Duration::from_secs(1), "{:?}", frame.left());
        limit.set(Some(10));
        assert!(frame.left() > Duration::from_secs(99), "{:?}", frame.left());
        limit.set(None);
        assert_eq!(frame.left(), Duration::ZERO);
    }
}
