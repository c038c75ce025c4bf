//! How fast the link carries, as far as it can be told: only while more waits for it than it takes.
//!
//! Pure: the time comes in as an argument.

use std::time::Duration;

/// The shortest time over which a rate is taken.
const SPAN: Duration = Duration::from_millis(20);
/// The share of the window that has to wait for the link.
const BUSY: f32 = 0.5;
/// What is left of an earlier, higher rate after each span: it halves in about 70 of them.
const FADE: f32 = 0.99;

/// See the module.
#[derive(Debug, Default)]
pub struct LinkRate {
    /// When the link was last seen busy, and what it had carried by then.
    since: Option<(Duration, u64)>,
    bytes_per_s: f32,
}

impl LinkRate {
    /// Takes note of what the link has carried by `now`, and of the share of the window that waits for it. Gives the
    /// highest rate of late, in bytes per second; 0 while the link was never busy.
    pub fn update(&mut self, now: Duration, carried: u64, backlog: f32) -> f32 {
        if backlog < BUSY {
            self.since = None;
            return self.bytes_per_s;
        }
        let (at, before) = *self.since.get_or_insert((now, carried));
        let span = now.saturating_sub(at);
        if span >= SPAN {
            let rate = carried.saturating_sub(before) as f32 / span.as_secs_f32();
            self.bytes_per_s = rate.max(self.bytes_per_s * FADE);
            self.since = Some((now, carried));
        }
        self.bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_busy_link_has_a_rate_and_an_old_one_fades() {
        let mut link = LinkRate::default();
        let ms = Duration::from_millis;
        assert_eq!(link.update(ms(0), 0, 0.4), 0.0);
        assert_eq!(link.update(ms(100), 50_000_000, 0.4), 0.0);
        assert_eq!(link.update(ms(200), 60_000_000, 0.9), 0.0);
        assert_eq!(link.update(ms(210), 65_000_000, 0.9), 0.0);
        assert_eq!(link.update(ms(300), 160_000_000, 0.9), 1e9);
        // What was not busy all the time says nothing.
        assert_eq!(link.update(ms(350), 160_000_000, 0.1), 1e9);
        assert_eq!(link.update(ms(400), 160_000_000, 0.9), 1e9);
        let mut rate = 1e9;
        for n in 0..500u64 {
            rate = link.update(ms(500 + 100 * n), 170_000_000 + 10_000_000 * n, 0.9);
        }
        assert!((0.9e8..1.1e8).contains(&rate), "{rate}");
    }
}
