//! What an outage would cost, by what a pass measured: a pass takes the way of the final sync, and what only the outage has is made up
//! from things like it.

use std::time::Duration;

/// How much of an outage compares with keeping the base of each dataset, which is done after a pass: each takes some commands that wait for
/// the disk. At the source it is unmounted, and three properties are set: so many parts of five. Measured, as the next two are; the looks of an
/// outage are within what they say, as its commands run side by side where those of a pass do not.
const SOURCE_FIFTHS: u32 = 3;
/// At the target it is marked, up to five properties are set back, and it is mounted: of one dataset, and of each of several, which are
/// mounted one after the other, while bases are kept at the same time.
const TARGET_CHANGES: (u32, u32) = (1, 3);
/// What that takes by itself is more, by this, than it adds to an outage whose transfer is quicker than that of a pass.
const ALSO_COMING_UP: u32 = 1;
/// The same of a transfer of next to nothing, which is nearly all done by the target. Until a pass has shown what that costs, the source
/// stands for it; then it shows how slow the target's disk is.
const TRANSFER_CHANGES: u32 = 3;
/// Bytes that are sent in no time, also over a long link, so that all of what a pass of so few takes is what any takes.
const SMALL_PASS: u64 = 64 << 10;
/// What more bytes than that show of it depends on the rate, so it counts only up to this many, and if they explain a quarter of the time at
/// most.
const MEDIUM_PASS: u64 = 16 << 20;
/// Round trips of an outage that a pass does not have: the look at both sides, the promotion, the word that it is active.
const QUESTIONS: u32 = 3;
/// Round trips of a pass that an outage does not have, because its channels are connected before: opening the receive, TCP, TLS, hello.
const DIALS: u32 = 4;

/// What was measured in one pass, and after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Of all streams.
    pub bytes: u64,
    /// Those of the dataset that took most: more than one where other snapshots came along.
    pub steps: u32,
    /// In the unit.
    pub datasets: usize,
    /// The whole pass, from before its snapshot.
    pub took: Duration,
    /// Of that, while datasets were worked off.
    pub transfers: Duration,
    /// Of that, for what an outage does not need, as it is done before.
    pub preparing: Duration,
    /// Keeping the bases of all datasets, without its way.
    pub changes: Duration,
    /// To the peer.
    pub round_trip: Duration,
    /// The outage finds its channels connected.
    pub is_prepared: bool,
}

/// What passes have shown of those that follow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// What a transfer costs whatever its size.
    least: Option<Duration>,
    /// The highest rate of a pass, in bytes per second.
    rate: f64,
}

impl Known {
    fn learn(&mut self, pass: &Times) {
        let seconds = pass.transfers.as_secs_f64();
        if seconds > 0.0 {
            self.rate = self.rate.max(pass.bytes as f64 / seconds);
        }
        // What brings other snapshots along shows nothing of one transfer.
        if pass.steps > 1 {
            return;
        }
        let of_bytes = if pass.bytes <= SMALL_PASS { 0.0 } else { pass.bytes as f64 / self.rate.max(1.0) };
        if pass.bytes <= MEDIUM_PASS && of_bytes <= seconds / 4.0 {
            let rest = pass.transfers.saturating_sub(Duration::try_from_secs_f64(of_bytes).unwrap_or_default());
            self.least = Some(self.least.map_or(rest, |least| least.min(rest)));
        }
    }
}

/// What an outage would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Costs {
    /// What depends on the bytes.
    pub sending: Duration,
    /// All else.
    pub fixed: Duration,
    /// Of that, from the decision until the target serves.
    pub coming_up: Duration,
}

impl Times {
    pub fn costs(&self, known: &mut Known) -> Costs {
        known.learn(self);
        let least = known.least.unwrap_or(self.changes * TRANSFER_CHANGES).min(self.transfers);
        let sending = self.transfers - least;
        let at_target = if self.datasets == 1 { TARGET_CHANGES.0 } else { TARGET_CHANGES.1 };
        let change_there = self.changes.max(least / TRANSFER_CHANGES);
        let fixed = self.took.saturating_sub(sending).saturating_sub(self.preparing)
            + self.changes * SOURCE_FIFTHS / 5
            + change_there * at_target
            + self.round_trip * QUESTIONS;
        let coming_up = change_there * (at_target + ALSO_COMING_UP) + self.round_trip;
        let saved = if self.is_prepared && self.bytes > 0 { DIALS } else { 0 };
        Costs { sending, fixed: fixed.saturating_sub(self.round_trip * saved), coming_up }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pass(bytes: u64, transfers: u32) -> Times {
        Times {
            bytes,
            steps: 1,
            datasets: 1,
            took: MS * (transfers + 20),
            transfers: MS * transfers,
            preparing: MS * 5,
            changes: MS * 10,
            round_trip: Duration::ZERO,
            is_prepared: true,
        }
    }

    /// A fixed cost of the length of a transfer would stay the largest for many passes, and the cutover never become ready.
    #[test]
    fn no_large_pass_is_a_fixed_cost() {
        let mut known = Known::default();
        for bytes in [20 << 30, 5 << 30, 5 << 30] {
            let Costs { sending, fixed, .. } = pass(bytes, 50_000).costs(&mut known);
            assert!(sending > MS * 49_900 && fixed < MS * 200, "{sending:?} {fixed:?}");
        }
        // A small one shows what a transfer costs; what is beyond that depends on the bytes.
        assert_eq!(pass(1000, 60).costs(&mut known).sending, Duration::ZERO);
        assert_eq!(known.least, Some(MS * 60));
        assert_eq!(pass(4 << 20, 90).costs(&mut known).sending, MS * 30);
        // One that brought five snapshots along does not.
        assert_eq!(Times { steps: 5, ..pass(1000, 30) }.costs(&mut known).sending, Duration::ZERO);
        assert_eq!(known.least, Some(MS * 60));
    }

    /// A source that is written to all the time has no small passes; what a slow target takes for each is no matter of bytes all the same.
    #[test]
    fn what_the_rate_does_not_explain_is_a_fixed_cost() {
        let mut known = Known::default();
        pass(100 << 30, 1_000_000).costs(&mut known);
        let Costs { sending, fixed, .. } = pass(1 << 20, 900).costs(&mut known);
        assert!(sending < MS * 20 && fixed > MS * 900, "{sending:?} {fixed:?}");
        // Where that is how fast the link is, it is the bytes.
        let mut known = Known::default();
        pass(2 << 20, 1800).costs(&mut known);
        assert!(pass(1 << 20, 900).costs(&mut known).sending > MS * 800);
    }

    #[test]
    fn an_outage_has_what_a_pass_has_and_more() {
        let mut known = Known::default();
        let one = pass(1000, 60).costs(&mut known).fixed;
        // Of 80 ms 5 are done before; most of a change of 10 ms at the source, and one of 20 ms, a third of a transfer, at the target.
        assert_eq!(one, MS * (75 + 6 + 20));
        assert_eq!(pass(1000, 60).costs(&mut known).coming_up, MS * 40);
        let tree = Times { datasets: 50, ..pass(1000, 60) }.costs(&mut known).fixed;
        assert_eq!(tree, one + MS * 40);
        // Over a link of 100 ms its dials are saved, as it finds its channels connected.
        let far = Times { round_trip: MS * 100, took: MS * 1000, ..pass(1000, 60) };
        let (prepared, not) =
            (far.costs(&mut known).fixed, Times { is_prepared: false, ..far }.costs(&mut known).fixed);
        assert_eq!(not - prepared, MS * 100 * DIALS);
    }
}
