//! A limit on what goes over the link.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::wire::bucket::TokenBucket;

/// A rate that all transfers of a run or session keep to together.
pub struct RateLimit {
    bucket: Mutex<TokenBucket>,
    epoch: Instant,
}

impl RateLimit {
    /// A limit in bytes on the wire per second.
    pub fn new(rate_bytes_per_s: u64) -> Arc<RateLimit> {
        Arc::new(RateLimit {
            bucket: Mutex::new(TokenBucket::new(rate_bytes_per_s, Duration::ZERO)),
            epoch: Instant::now(),
        })
    }

    pub(super) fn pause_for(&self, bytes: u64) -> Duration {
        let mut bucket = self.bucket.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        bucket.take(bytes, self.epoch.elapsed())
    }
}
