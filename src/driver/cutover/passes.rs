//! What is written down of passes: enough that no number is used twice and that a prediction can be shown, and so little that a
//! cutover which is held for months leaves its ledger room for what it must not lack. The newest, if it is not in the ledger, stands in a
//! note beside it, for who asks how it goes.

use std::time::Duration;

use tokio::time::Instant;

use super::{Entry, Lead, Line, PassReport, Story};
use crate::{cutover::coordinator::Phase, types::Failure};

/// While it is held, a pass every ten seconds: so many numbers are announced at once, and one pass in this time is written down.
/// Half a megabyte a day, so the half of the ledger that they may fill lasts two months.
const HELD_NUMBERS: u32 = 6;
const HELD_REPORTS: Duration = Duration::from_secs(60);
/// Once that half is full: numbers for three years.
const LAST_NUMBERS: u32 = 10_000_000;

/// What of the passes so far is in the ledger.
pub struct Passes {
    /// The newest number that was used.
    newest: u32,
    written_at: Option<Instant>,
    /// The newest report is in a note alone.
    in_note: bool,
}

impl Passes {
    /// After what the ledger tells.
    pub fn after(story: &Story) -> Passes {
        Passes { newest: story.passes_begun, written_at: None, in_note: false }
    }
}

impl Lead {
    /// A number for a pass that no snapshot bears.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub(super) fn next_pass(&mut self) -> Result<u32, Failure> {
        let number = self.passes.newest.saturating_add(1);
        if number > self.story.passes_begun {
            let more = match self.it.progress().phase {
                _ if self.ledger.is_half_full() => LAST_NUMBERS,
                Phase::Armed { .. } => HELD_NUMBERS - 1,
                _ => 0,
            };
            self.append(Entry::Passing { number: number.saturating_add(more) })?;
        }
        self.passes.newest = number;
        Ok(number)
    }

    /// Takes a pass that ended well into account.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub(super) fn passed(&mut self, pass: PassReport) -> Result<(), Failure> {
        let held = matches!(self.it.progress().phase, Phase::Armed { .. });
        let just_now = self.passes.written_at.is_some_and(|at| at.elapsed() < HELD_REPORTS);
        if std::mem::take(&mut self.passes.in_note) {
            // Of those that are not written down, one is kept in memory, too, and the others are counted.
            if let Some(pass) = self.story.passes.pop() {
                self.story.others.0 += 1;
                self.story.others.1 += pass.bytes;
            }
        }
        if self.ledger.is_half_full() || (held && just_now) {
            let line = Line::new(Entry::Passed { pass }, self.now());
            self.story.hear(&line);
            self.passes.in_note = true;
            self.note(&line);
            return Ok(());
        }
        self.passes.written_at = Some(Instant::now());
        self.append(Entry::Passed { pass })
    }

    /// Takes into account that a pass failed while it is held: nobody waits for it, and who asks how it goes is to know.
    pub(super) fn missed(&mut self, why: &str) {
        let line = Line::new(Entry::Missed { why: why.to_owned() }, self.now());
        self.story.hear(&line);
        self.note(&line);
    }

    /// Leaves a line beside the ledger.
    pub(super) fn note(&mut self, line: &Line) {
        let noted = serde_json::to_string(line).map_err(std::io::Error::from).and_then(|text| self.ledger.note(&text));
        if let Err(e) = noted {
            tracing::debug!("`cutover status` will not know of the newest pass: {e}");
        }
    }
}
