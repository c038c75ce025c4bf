//! What a host knows after a crash: its part in the newest leg, and what it owes.
//!
//! Invariant: it changes only by records, so what is written is what is read back.

use std::sync::Arc;

use super::{
    leg::{CutoverId, Epoch, Leg, Side},
    message::Refusal,
    record::{Former, HostRecord},
    source::Stage,
    target::Register,
};
use crate::{limits::MAX_BARRED, types::DatasetName};

/// What the journal keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kept {
    /// The last epoch that is known to have begun.
    pub epoch: Epoch,
    /// The part played in the newest leg.
    pub part: Part,
    /// The unit's datasets on this host.
    pub datasets: Arc<[DatasetName]>,
    /// The fence that was set here and not taken away since.
    pub fence: Option<Leg>,
    /// What that fence changed.
    pub former: Option<Former>,
    /// Legs of the coming epoch that are over here; the newest ones.
    pub barred: Vec<CutoverId>,
    /// A promotion after which it has not come up yet, whatever part it plays by now. What makes it serve brings it up.
    pub owed: Option<Owed>,
}

/// An activation that is still to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owed {
    /// Promoted in this leg.
    pub leg: Leg,
    /// What the activation sets back.
    pub former: Former,
}

/// What a host is in a leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Part {
    /// Never took part.
    #[default]
    None,
    /// The side that is left.
    Source(Leg, Stage),
    /// The side that becomes writable, and decides.
    Target(Leg, Register),
    /// ZFS shows this fence, and the journal does not know it: nothing is done until a person looks.
    UnknownFence(Leg),
}

impl Part {
    /// The leg that is taken part in.
    pub fn leg(&self) -> Option<Leg> {
        match self {
            Part::None => None,
            Part::Source(leg, _) | Part::Target(leg, _) | Part::UnknownFence(leg) => Some(*leg),
        }
    }

    /// Why this host cannot begin another leg as `side`, if it cannot.
    pub(super) fn objects_to(&self, side: Side) -> Option<Refusal> {
        let over_as = match self {
            Part::None => return None,
            Part::Source(_, Stage::Closed) => Side::Source,
            Part::Target(_, Register::Promoted { .. } | Register::Active) => Side::Source,
            Part::Source(_, Stage::Released | Stage::Discarded) | Part::Target(_, Register::Settled) => Side::Target,
            Part::UnknownFence(leg) => return Some(Refusal::UnknownFence { leg: *leg }),
            Part::Source(leg, _) | Part::Target(leg, _) => return Some(Refusal::OtherLeg { leg: *leg }),
        };
        (side != over_as).then_some(Refusal::NotNow)
    }
}

impl Kept {
    /// The state after `record`.
    pub fn apply(&mut self, record: &HostRecord) {
        use HostRecord as R;
        match record {
            R::Admitted { leg, side, datasets, verify } => {
                if let Some(old) = self.part.leg().filter(|old| old.epoch > self.epoch) {
                    self.bar(old);
                }
                self.datasets = Arc::clone(datasets);
                self.part = match side {
                    Side::Source => Part::Source(*leg, Stage::Armed),
                    Side::Target => Part::Target(*leg, Register::Undecided { verify: *verify }),
                };
            }
            R::Barred { leg } => self.bar(*leg),
            R::UnknownFence { leg } => {
                self.part = Part::UnknownFence(*leg);
                // What an older fence changed says nothing of this one, nor does what was to come up before it was set.
                (self.fence, self.former, self.owed) = (Some(*leg), None, None);
            }
            R::Quiescing { until } => self.stage(Stage::Quiescing { until: *until }),
            R::Fencing { former } => {
                self.former = Some(Arc::clone(former));
                self.fence = self.part.leg();
                self.stage(Stage::Fencing);
            }
            R::Fenced => self.stage(Stage::Fenced),
            R::Withdrawing => self.stage(Stage::Withdrawing),
            R::Unfencing { broken: true } if matches!(self.part, Part::Target(..)) => self.stay_away(),
            R::Unfencing { broken } => {
                // A target that is gone may have been promoted, so its epoch counts as over.
                if let Some(leg) = self.part.leg().filter(|_| *broken) {
                    self.begin(leg.epoch);
                }
                self.stage(Stage::Unfencing);
            }
            // Nothing is set back, so it is not mounted, its writers must not start, and nobody may take it for what serves.
            R::Unfenced if self.unfences_unknown() => (self.fence, self.part) = (None, Part::None),
            R::Unfenced => {
                (self.fence, self.former) = (None, None);
                self.stage(Stage::Starting);
            }
            R::Serving => {
                self.owed = None;
                self.stage(Stage::Closed);
            }
            R::Released => {
                if let Some(leg) = self.part.leg() {
                    self.begin(leg.epoch);
                }
                self.stage(Stage::Released);
            }
            R::Discarding => self.stage(Stage::Discarding),
            R::Discarded => self.stage(Stage::Discarded),
            R::Promoted { proof } => {
                if let Some(leg) = self.part.leg() {
                    self.begin(leg.epoch);
                    self.owed = Some(Owed { leg, former: self.former.clone().unwrap_or_default() });
                }
                self.register(Register::Promoted { proof: proof.clone() });
            }
            R::Active => {
                (self.fence, self.former, self.owed) = (None, None, None);
                self.register(Register::Active);
            }
            R::Aborted => self.register(Register::Aborted),
            R::Settled => self.register(Register::Settled),
        }
    }

    /// A person breaks a fence that the journal did not know: its mark goes, and what it changed stays as it is.
    pub fn unfences_unknown(&self) -> bool {
        self.former.is_none() && matches!(self.part, Part::Source(_, Stage::Unfencing))
    }

    fn begin(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
        self.barred.clear();
    }

    /// It was to come home and does not: that leg is over, and it is once more the source of the one that fenced it.
    fn stay_away(&mut self) {
        if let (Some(home), Some(fence)) = (self.part.leg(), self.fence) {
            self.begin(fence.epoch);
            self.bar(home);
            self.part = Part::Source(fence, Stage::Unfencing);
        }
    }

    fn bar(&mut self, leg: Leg) {
        self.barred.retain(|id| *id != leg.id);
        if self.barred.len() >= MAX_BARRED {
            self.barred.remove(0);
        }
        self.barred.push(leg.id);
    }

    fn stage(&mut self, stage: Stage) {
        if let Some(leg) = self.part.leg() {
            self.part = Part::Source(leg, stage);
        }
    }

    fn register(&mut self, register: Register) {
        if let Some(leg) = self.part.leg() {
            self.part = Part::Target(leg, register);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cutover::proof::Means;

    #[test]
    fn of_an_unknown_fence_nothing_is_set_back_and_nothing_started() {
        let leg = |epoch| Leg { id: CutoverId(epoch), epoch: Epoch(epoch) };
        let datasets: Arc<[DatasetName]> = Arc::from(["p/d".parse().unwrap()]);
        let admitted = HostRecord::Admitted { leg: leg(1), side: Side::Source, datasets, verify: Means::Guid };
        let known = [admitted, HostRecord::Fencing { former: Arc::from([]) }, HostRecord::Fenced];
        let broken = [HostRecord::Unfencing { broken: true }, HostRecord::Unfenced];
        let after = |records: &[HostRecord]| {
            let mut kept = Kept::default();
            records.iter().for_each(|record| kept.apply(record));
            (kept.unfences_unknown(), kept.part)
        };
        let part = |epoch, stage| Part::Source(leg(epoch), stage);
        assert_eq!(after(&[&known[..], &broken[..1]].concat()), (false, part(1, Stage::Unfencing)));
        assert_eq!(after(&[&known[..], &broken].concat()), (false, part(1, Stage::Starting)));
        // The ledger is older than what ZFS shows.
        let unknown = [&known[..], &[HostRecord::UnknownFence { leg: leg(3) }]].concat();
        assert_eq!(after(&[&unknown[..], &broken[..1]].concat()), (true, part(3, Stage::Unfencing)));
        assert_eq!(after(&[&unknown[..], &broken].concat()), (false, Part::None));
    }
}
