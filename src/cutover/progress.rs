//! What a leader's journal keeps of a cutover: where it is, and what led there.

use std::sync::Arc;

use super::{
    leg::Millis,
    phase::{Phase, Question},
    record::Record,
    terms::Terms,
};

/// What the journal keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Of the leg under way, or the last one.
    pub terms: Arc<Terms>,
    /// Where it is.
    pub phase: Phase,
    /// Of the open question to a host: the number of records so far, so it rises with each.
    pub number: u32,
    /// Since when the source is down.
    pub since: Option<Millis>,
    /// What went wrong in this leg, since a person last looked, or since it rolls back or releases the source.
    pub failures: u8,
    /// Why the phase is not the usual next one.
    pub why: Option<String>,
    /// What a person is asked.
    pub question: Option<Question>,
    /// The hosts may take part: what they prepared has to be undone.
    pub armed: bool,
    /// A person said go where it held.
    pub going: bool,
    /// A person said go although the downtime is predicted to be longer than asked.
    pub forced: bool,
}

impl Progress {
    pub(super) fn begun(terms: Arc<Terms>, phase: Phase, number: u32) -> Progress {
        Progress {
            terms,
            phase,
            number,
            since: None,
            failures: 0,
            why: None,
            question: None,
            armed: false,
            going: false,
            forced: false,
        }
    }

    /// The longest outage; after it, and before the decision, it is rolled back.
    pub fn outage_limit(&self) -> Millis {
        if self.forced { self.terms.outage_limit.max(self.terms.forced_limit()) } else { self.terms.outage_limit }
    }

    /// Whether no side may serve, so that it has to go on. A leg that returns by itself begins with a source that did not come up.
    pub fn may_be_down(&self) -> bool {
        let returns = self.terms.returns_from.is_some() && !self.phase.is_end() && self.phase != Phase::Discard;
        self.phase.may_be_down() || returns
    }

    /// The state after `record`.
    pub fn apply(&mut self, record: &Record) {
        let number = self.number.saturating_add(1);
        match record {
            Record::Begun { terms, phase } => *self = Progress::begun(Arc::clone(terms), phase.clone(), number),
            Record::Moved { phase, at, why } => {
                self.number = number;
                match phase {
                    Phase::Arm { .. } => self.armed = true,
                    Phase::Armed { go } => self.going = *go,
                    Phase::CatchUp => self.going = false,
                    _ => {}
                }
                if *phase == Phase::Quiesce {
                    self.since = self.since.or(Some(*at));
                }
                if why.is_some() {
                    self.failures = self.failures.saturating_add(1);
                    self.why.clone_from(why);
                }
                // What was tried in vain on the way forward leaves no tries the fewer for what has to end well.
                let releases = |phase: &Phase| matches!(phase, Phase::Release { .. });
                if phase.rolls_back() && !self.phase.rolls_back() || releases(phase) && !releases(&self.phase) {
                    self.failures = 0;
                }
                if let Some(question) = self.question.take() {
                    self.failures = 0;
                    let goes = matches!(phase, Phase::Arm { .. } | Phase::Armed { go: true });
                    self.forced |= question == Question::Stalled && goes;
                }
                self.phase = phase.clone();
            }
            Record::Asked { question } => {
                self.number = number;
                self.question = Some(question.clone());
            }
        }
    }
}
