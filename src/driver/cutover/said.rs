//! What is told while a cutover runs and decides nothing: what hooks and comparisons say, which goes into the ledger with the next line, and how far
//! the work under way has come, which is noted beside it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Entry, Lead, Line, Notice, ledger::MAX_SAID};
use crate::{
    cutover::{
        coordinator::Phase,
        effect::{Event, Result as Worked},
    },
    types::human_bytes,
};

/// How often whoever watches is told how far a comparison has come.
const TOLD_EVERY: Duration = Duration::from_secs(5);
/// Of a line that a peer's hook said.
const MAX_CHARS: usize = 300;

/// What was said since the last line of the ledger.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<VecDeque<String>>>);

impl Heard {
    /// Keeps the newest ones, each as far as it is not too long.
    pub fn extend(&self, lines: impl IntoIterator<Item = String>) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            if said.len() >= MAX_SAID {
                said.pop_front();
            }
            said.push_back(line.chars().take(MAX_CHARS).collect());
        }
    }

    /// All of it, once.
    pub fn take(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

impl Lead {
    /// Tells what work came to that the machine has no use for.
    pub(super) fn tell_of(&self, event: &Event) {
        if let Event::Worked(_, Worked::Verified(proof)) = event
            && !proof.equal
            && let Some(differs) = self.worker.take_difference()
        {
            self.said.extend([differs.clone()]);
            let _ = self.notices.send(Notice::Trouble(differs));
        }
    }

    /// Notes how far the work under way has come, where it may be long.
    pub(super) fn note_doing(&mut self) {
        let doing = match self.it.progress().phase {
            _ if self.working.is_none() => None,
            // Later on the newest pass stands in the note.
            Phase::Seed | Phase::CatchUp => self.sending(),
            Phase::Verify { .. } => self.worker.comparing(),
            _ => None,
        };
        let Some(what) = doing.filter(|what| self.story.doing.as_ref() != Some(what)) else { return };
        let is_comparison = matches!(self.it.progress().phase, Phase::Verify { .. });
        // Of what is sent the board tells.
        if is_comparison && self.told_doing_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            self.told_doing_at = Some(Instant::now());
            let _ = self.notices.send(Notice::Doing(what.clone()));
        }
        let line = Line::new(Entry::Doing { what }, self.now());
        self.story.hear(&line);
        self.note(&line);
    }

    /// What the board says of the pass under way.
    fn sending(&self) -> Option<String> {
        let active = self.context.board.read().active;
        let bytes: u64 = active.iter().map(|step| step.raw_bytes).sum();
        let first = &active.first()?.label;
        let more = if active.len() > 1 { format!(" and {} more", active.len() - 1) } else { String::new() };
        Some(format!("sending {first}{more}: {} so far", human_bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_bounded_and_taken_once() {
        let said = Heard::default();
        said.extend((0..50).map(|n| format!("{n} {}", "x".repeat(1000))));
        let taken = said.take();
        assert_eq!((taken.len(), taken[0].chars().count()), (MAX_SAID, MAX_CHARS));
        assert!(taken[0].starts_with("30 ") && said.take().is_empty());
    }
}
