//! A token bucket for `--bwlimit`. The clock comes in as an argument.

use std::time::Duration;

/// Lets bytes through at a rate, with bursts of at most a quarter of a second.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    rate_bytes_per_s: u64,
    /// Bytes that may pass at `at`; negative while a burst is being paid off.
    level: f64,
    at: Duration,
    /// Bytes that were taken in all.
    taken: u64,
}

impl TokenBucket {
    /// A full bucket. `now` counts from any fixed instant. A rate of 0 counts as 1 byte per second.
    pub fn new(rate_bytes_per_s: u64, now: Duration) -> Self {
        let rate_bytes_per_s = rate_bytes_per_s.max(1);
        Self { rate_bytes_per_s, level: rate_bytes_per_s as f64 / 4.0, at: now, taken: 0 }
    }

    /// From now on another rate. What was sent beyond the old one is paid off at the new one.
    pub fn set_rate(&mut self, rate_bytes_per_s: u64, now: Duration) {
        self.fill(now);
        self.rate_bytes_per_s = rate_bytes_per_s.max(1);
        self.level = self.level.min(self.rate_bytes_per_s as f64 / 4.0);
    }

    /// Takes `bytes` out and returns how long to wait before they may be sent, if the rate stays as it is.
    pub fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        self.fill(now);
        self.level -= bytes as f64;
        self.taken = self.taken.saturating_add(bytes);
        self.pause(self.level)
    }

    /// Bytes that were taken so far: the place of those that were taken last.
    pub fn place(&self) -> u64 {
        self.taken
    }

    /// How long those still have to wait whose place that is, at the rate of now. What was taken after them does not count.
    pub fn left(&mut self, place: u64, now: Duration) -> Duration {
        self.fill(now);
        self.pause(self.level + self.taken.saturating_sub(place) as f64)
    }

    fn fill(&mut self, now: Duration) {
        let rate = self.rate_bytes_per_s as f64;
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.level = (self.level + passed * rate).min(rate / 4.0);
    }

    fn pause(&self, level: f64) -> Duration {
        if level >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-level / self.rate_bytes_per_s as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time() {
        let mut now = Duration::ZERO;
        let mut bucket = TokenBucket::new(1000, now);
        for _ in 0..100 {
            now += bucket.take(500, now);
        }
        // 50,000 bytes at 1,000 a second, less the first burst of 250.
        assert!((now.as_secs_f64() - 49.75).abs() < 0.01, "{now:?}");
    }

    #[test]
    fn a_new_rate_holds_from_then_on() {
        let mut now = Duration::ZERO;
        let mut bucket = TokenBucket::new(1000, now);
        let mut send = |bucket: &mut TokenBucket, frames: u32| {
            let began = now;
            (0..frames).for_each(|_| now += bucket.take(500, now));
            ((now - began).as_secs_f64(), now)
        };
        let (_, at) = send(&mut bucket, 10);
        bucket.set_rate(100_000, at);
        // 50,000 bytes.
        let (took, at) = send(&mut bucket, 100);
        assert!((took - 0.5).abs() < 0.05, "{took}");
        // What was saved up at the higher rate is no burst at the lower one.
        bucket.set_rate(1000, at + Duration::from_secs(60));
        assert_eq!(bucket.take(250, at + Duration::from_secs(60)), Duration::ZERO);
        assert_eq!(bucket.take(500, at + Duration::from_secs(60)), Duration::from_millis(500));
    }

    #[test]
    fn idle_time_saves_up_no_more_than_a_burst() {
        let mut bucket = TokenBucket::new(1000, Duration::ZERO);
        let later = Duration::from_secs(3600);
        assert_eq!(bucket.take(250, later), Duration::ZERO);
        assert_eq!(bucket.take(100, later), Duration::from_millis(100));
    }

    #[test]
    fn those_that_wait_already_wait_by_the_new_rate() {
        let mut bucket = TokenBucket::new(1000, Duration::ZERO);
        let mut take = |bytes| (bucket.take(bytes, Duration::ZERO), bucket.place());
        let ((first, a), (second, b)) = (take(1250), take(9000));
        assert_eq!((first, second), (Duration::from_secs(1), Duration::from_secs(10)));
        let half = Duration::from_millis(500);
        assert_eq!((bucket.left(a, half), bucket.left(b, half)), (half, Duration::from_millis(9500)));
        bucket.set_rate(10_000, half);
        assert_eq!((bucket.left(a, half), bucket.left(b, half)), (half / 10, Duration::from_millis(950)));
        bucket.set_rate(100, half);
        assert_eq!((bucket.left(a, half), bucket.left(b, half)), (half * 10, Duration::from_secs(95)));
        // When their time has come they go, and the next one waits for what they took.
        assert_eq!(bucket.left(a, half + half * 10), Duration::ZERO);
        assert_eq!(bucket.take(100, half), Duration::from_secs(91));
    }
}
