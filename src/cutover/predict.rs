//! How long the outage would be if it began now, from what passes measured.
//!
//! With small deltas the fixed costs are nearly all of it: stopping, unmounting, starting `zfs send`, round trips, the commit. So
//! they are measured apart from the bytes, and their 95th percentile counts rather than their mean.

use serde::{Deserialize, Serialize};

use super::leg::Millis;
use crate::limits::{MAX_FIXED_COSTS, MAX_PASSES};

/// What one pass measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pass {
    /// Sent.
    pub bytes: u64,
    /// From first to last byte.
    pub sending: Millis,
    /// All of it that does not depend on the bytes, with what a rehearsal measured of the steps that a pass does not have.
    pub fixed: Millis,
    /// Of that, what comes after the decision: the target comes up.
    pub coming_up: Millis,
    /// Written on the source since the pass' snapshot: still to send.
    pub left: u64,
}

/// The passes that count: the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Meter {
    passes: Vec<Pass>,
    fixed: Vec<Millis>,
}

/// An outage that would begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prediction {
    /// The 95th percentile of the fixed costs.
    pub fixed: Millis,
    /// The bytes that are left, at the measured rate.
    pub sending: Millis,
    /// Those bytes.
    pub left: u64,
}

impl Prediction {
    /// The whole outage.
    pub fn downtime(&self) -> Millis {
        self.fixed.plus(self.sending)
    }
}

/// What follows from the passes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The outage would be short enough.
    Ready,
    /// Another pass may bring it down.
    Another,
    /// Passes do not shrink any more.
    Stalled,
}

impl Meter {
    /// Takes a pass into account; the oldest goes when there are too many.
    pub fn add(&mut self, pass: Pass) {
        if self.passes.len() >= MAX_PASSES {
            self.passes.remove(0);
        }
        self.passes.push(pass);
        if self.fixed.len() >= MAX_FIXED_COSTS {
            self.fixed.remove(0);
        }
        self.fixed.push(pass.fixed);
    }

    /// The outage if it began now; `None` before the first pass.
    pub fn predict(&self) -> Option<Prediction> {
        let left = self.passes.last()?.left;
        let bytes: u128 = self.passes.iter().map(|p| u128::from(p.bytes)).sum();
        let took: u128 = self.passes.iter().map(|p| u128::from(p.sending.0)).sum();
        // A pass of no bytes measures no rate; then what is left is taken to need the time of a slow modem.
        let sending = match u128::from(left) {
            0 => 0,
            left if bytes == 0 => left,
            left => (left * took.max(1)).div_ceil(bytes),
        };
        let fixed = percentile_95(&self.fixed)?;
        Some(Prediction { fixed, sending: Millis(u64::try_from(sending).unwrap_or(u64::MAX)), left })
    }

    /// What the target will need to come up once it is promoted, by the newest pass; nothing before the first.
    pub fn coming_up(&self) -> Millis {
        self.passes.last().map_or(Millis(0), |pass| pass.coming_up)
    }

    /// Whether the source may be quiesced for an outage of at most `max_downtime`.
    pub fn verdict(&self, max_downtime: Millis) -> Verdict {
        match self.predict() {
            Some(p) if p.downtime() <= max_downtime => Verdict::Ready,
            Some(_) if self.stalled() => Verdict::Stalled,
            _ => Verdict::Another,
        }
    }

    /// Three passes in a row that each left nine tenths of what the one before left, or more.
    fn stalled(&self) -> bool {
        let left: Vec<u128> = self.passes.iter().rev().take(4).map(|p| u128::from(p.left)).collect();
        left.len() == 4 && left.windows(2).all(|w| w[0] * 10 >= w[1] * 9)
    }
}

/// By the nearest rank: of 20 values, the second largest.
fn percentile_95(values: &[Millis]) -> Option<Millis> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * 95).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(bytes: u64, ms: u64, fixed: u64, left: u64) -> Pass {
        Pass { bytes, sending: Millis(ms), fixed: Millis(fixed), coming_up: Millis(fixed / 4), left }
    }

    fn meter(passes: &[Pass]) -> Meter {
        let mut meter = Meter::default();
        passes.iter().for_each(|p| meter.add(*p));
        meter
    }

    #[test]
    fn fixed_costs_and_bytes_add_up() {
        assert_eq!(meter(&[]).predict(), None);
        // 1000 bytes in 10 ms; 250 left take 2.5 ms, rounded up.
        let p = meter(&[pass(1000, 10, 700, 250)]).predict().unwrap();
        assert_eq!((p.fixed, p.sending, p.downtime()), (Millis(700), Millis(3), Millis(703)));
        // The rate is that of all passes that count, so that one small one does not decide.
        let p = meter(&[pass(1_000_000, 1000, 100, 9), pass(10, 500, 100, 2000)]).predict().unwrap();
        assert_eq!(p.sending, Millis(3));
    }

    #[test]
    fn without_a_rate_what_is_left_is_not_taken_for_free() {
        assert_eq!(meter(&[pass(0, 0, 5, 100_000)]).predict().unwrap().sending, Millis(100_000));
        assert_eq!(meter(&[pass(0, 0, 5, 0)]).predict().unwrap().sending, Millis(0));
        assert_eq!(meter(&[pass(1, u64::MAX, 5, u64::MAX)]).predict().unwrap().downtime(), Millis(u64::MAX));
    }

    #[test]
    fn the_95th_percentile_is_by_nearest_rank() {
        let values: Vec<Millis> = (1..=20).map(Millis).collect();
        assert_eq!(percentile_95(&values), Some(Millis(19)));
        assert_eq!(percentile_95(&values[..3]), Some(Millis(3)));
        assert_eq!(percentile_95(&[]), None);
    }

    #[test]
    fn passes_converge_or_stall() {
        let max = Millis(100);
        let shrinking = [pass(1000, 1000, 50, 500), pass(500, 500, 50, 200)];
        assert_eq!(meter(&shrinking).verdict(max), Verdict::Another);
        assert_eq!(meter(&[shrinking[0], pass(500, 500, 50, 50)]).verdict(max), Verdict::Ready);
        let flat = pass(500, 500, 50, 500);
        assert_eq!(meter(&[flat; 3]).verdict(max), Verdict::Another);
        assert_eq!(meter(&[flat; 4]).verdict(max), Verdict::Stalled);
        // Fixed costs alone above the limit never get better, either.
        assert_eq!(meter(&[pass(1, 1, 101, 0); 4]).verdict(max), Verdict::Stalled);
        assert_eq!(meter(&[flat, flat, flat, pass(500, 500, 50, 400)]).verdict(max), Verdict::Another);
    }

    #[test]
    fn only_the_newest_passes_count() {
        let mut meter = meter(&[pass(1, 1_000_000, 9_000_000, 1)]);
        (0..MAX_FIXED_COSTS.max(MAX_PASSES)).for_each(|_| meter.add(pass(1000, 1, 10, 1000)));
        assert_eq!(meter.predict().unwrap().downtime(), Millis(11));
    }
}
