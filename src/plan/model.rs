//! What goes into a plan and what comes out.

use serde::{Deserialize, Serialize};

use super::{ExcludePattern, Refusal, SnapshotRef};
use crate::{
    stream::token::ResumeToken,
    types::{
        DatasetName, Guid, JobId, SnapshotName, SnapshotTag,
        listing::{Capabilities, DatasetInfo, DatasetKind, Listing},
        transfer::{Base, SendFlags, SendSpec},
    },
};

/// All that a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The source's root and, if the run is recursive, all below it.
    pub source: &'a Listing,
    /// The dataset that is sent.
    pub source_root: &'a DatasetName,
    /// What the source's ZFS can do.
    pub source_caps: &'a Capabilities,
    /// The target's root and all below it; empty where there is none yet.
    pub target: &'a Listing,
    /// The dataset that will exist, as with `zfs receive NAME`.
    pub target_root: &'a DatasetName,
    /// Those datasets above `target_root` that exist. The root of the pool is one of them.
    pub target_ancestors: &'a [DatasetInfo],
    /// What the target's ZFS can do.
    pub target_caps: &'a Capabilities,
    /// What the operator wants.
    pub options: &'a PlanOptions,
}

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOptions {
    /// `-r`: all below the root as well.
    pub recursive: bool,
    /// `--exclude`: left out, each with all below it.
    pub exclude: Vec<ExcludePattern>,
    /// `-I` or `-i`.
    pub history: History,
    /// `DATASET@SNAP`: go as far as this snapshot, and not to the newest.
    pub upto: Option<SnapshotTag>,
    /// `--raw`, `--no-raw` or neither.
    pub encryption: EncryptionMode,
    /// `--rollback`: a target that went its own way may be rolled back to the newest common snapshot.
    pub rollback: bool,
    /// Where several bookmarks would do as a base, the one of this job is taken.
    pub job: JobId,
    /// The fence that may be received into: by the cutover that moves back to what it fenced.
    pub enters: Option<String>,
}

/// Which snapshots are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// All of them, as `zfs send -I` does.
    #[default]
    All,
    /// The newest alone, as `zfs send -i` does, and the origins of clones that are sent.
    Newest,
}

/// How encrypted datasets are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncryptionMode {
    /// Encrypted ones go raw.
    #[default]
    Default,
    /// `--raw`: the same, said aloud.
    Raw,
    /// `--no-raw`: their plain text is sent.
    Plain,
}

/// What a run will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Datasets to be made on the target only because something below them needs a parent. Parents first.
    ///
    /// Not all can be made at the start: one may stand below a dataset that this run receives, which is received
    /// only where nothing is. Before a dataset is worked on, those that [`Plan::placeholders_of`] gives are made.
    pub placeholders: Vec<DatasetName>,
    /// One entry for each dataset that takes part, in an order in which they can be worked off.
    pub datasets: Vec<DatasetPlan>,
    /// What concerns datasets that take no part: without snapshots, without the wanted tag, excluded.
    pub notes: Vec<String>,
    /// Datasets below the target's root that have no counterpart on the source. They are never touched.
    pub only_on_target: usize,
}

/// What happens with one dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetPlan {
    /// On the source.
    pub source: DatasetName,
    /// On the target. For a dataset that is refused because its name there would not be one
    /// ([`Refusal::NameTooLong`]), the nearest dataset above it that can be named.
    pub target: DatasetName,
    /// Filesystem or volume.
    pub kind: DatasetKind,
    /// The GUID of the dataset on the source. It changes when a dataset is destroyed and made anew.
    pub source_guid: Guid,
    /// Indices of the datasets that must be done first: a parent made in this run, the origin of a clone.
    /// Each is smaller than the index of this one.
    pub after: Vec<usize>,
    /// What to do.
    pub decision: Decision,
    /// For people.
    pub notes: Vec<String>,
}

/// What to do with a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The target has all that is wanted.
    UpToDate {
        /// The newest wanted snapshot, by its name on the source. The target has it, or (then a note says so)
        /// is already at a newer one, of which the source has only a bookmark left.
        newest: SnapshotName,
        /// Its GUID.
        guid: Guid,
        /// The newest that both have, if the source has more of it than a bookmark. This, and nothing older, is what the next step
        /// starts from: a run that was asked for less must not move the base back.
        common: Option<SnapshotRef>,
    },
    /// These, in order. Never empty.
    Work(Vec<Action>),
    /// Nothing, before the operator decides.
    Refused(Refusal),
}

/// One thing to do on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly all actions are steps")]
pub enum Action {
    /// Throw away the state of an interrupted receive (`zfs receive -A`).
    AbortPartial {
        /// Why it cannot be used, in words.
        reason: String,
    },
    /// Destroy an empty placeholder, because a full stream is received only where nothing is. To be
    /// done without `-r`, and only if it is still marked, `canmount=off`, and has no snapshot and no child.
    ReplacePlaceholder {
        /// The placeholder.
        target: DatasetName,
    },
    /// `zfs rollback -r`; only with [`PlanOptions::rollback`].
    Rollback {
        /// The newest common snapshot, by its name on the target.
        to: SnapshotName,
        /// Its GUID.
        to_guid: Guid,
        /// The snapshots of the target that are newer, oldest first. What was written since the newest is lost too.
        destroys: Vec<SnapshotName>,
    },
    /// Send and receive one snapshot.
    Step(Step),
}

/// One send stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is sent.
    pub snapshot: SnapshotName,
    /// Its GUID: what the target's newest snapshot has afterwards.
    pub to_guid: Guid,
    /// Where it is received.
    pub target: DatasetName,
    /// The snapshot that will exist there.
    pub target_snapshot: SnapshotName,
    /// What it starts from; `None` for a full stream.
    pub from: Option<StepBase>,
    /// Flags of the send. For a resumed step, those in the token.
    pub flags: SendFlags,
    /// The target's resume token as text and parsed, if the step goes on where an earlier run stopped.
    pub resume: Option<(String, ResumeToken)>,
    /// The target's own copy of a clone's origin, for `receive -o origin=`.
    pub origin: Option<SnapshotName>,
    /// True if the target does not exist before, or holds only the state of an interrupted first receive.
    pub creates_target: bool,
    /// Filesystem or volume.
    pub kind: DatasetKind,
}

/// What a step starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepBase {
    /// A snapshot or bookmark on the source.
    pub base: Base,
    /// Its GUID: the newest snapshot of the target, or the origin of a clone.
    pub guid: Guid,
}

impl Step {
    /// The step as the port takes it.
    pub fn send_spec(&self) -> SendSpec {
        if let Some((token, _)) = &self.resume {
            return SendSpec::Resume { token: token.clone() };
        }
        let (snapshot, flags) = (self.snapshot.clone(), self.flags);
        match &self.from {
            Some(from) => SendSpec::Incremental { base: from.base.clone(), snapshot, flags },
            None => SendSpec::Full { snapshot, flags },
        }
    }
}

impl DatasetPlan {
    /// The steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        let actions = match &self.decision {
            Decision::Work(actions) => actions.as_slice(),
            _ => &[],
        };
        actions.iter().filter_map(|action| match action {
            Action::Step(step) => Some(step),
            _ => None,
        })
    }

    /// The refusal, if it is refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.decision {
            Decision::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// What a plan amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanTotals {
    /// Datasets that take part.
    pub datasets: usize,
    /// Datasets with nothing to do.
    pub up_to_date: usize,
    /// Datasets with something to do.
    pub with_work: usize,
    /// Datasets that are refused.
    pub refused: usize,
    /// Send streams.
    pub steps: usize,
    /// Snapshots of the target that rollbacks destroy.
    pub destroyed_snapshots: usize,
}

impl Plan {
    /// True if there is nothing to do and nothing is refused.
    pub fn is_up_to_date(&self) -> bool {
        self.placeholders.is_empty() && self.datasets.iter().all(|d| matches!(d.decision, Decision::UpToDate { .. }))
    }

    /// The placeholders that must stand before the work on this dataset begins. Parents first.
    /// Several datasets may need the same one.
    pub fn placeholders_of(&self, dataset: &DatasetPlan) -> impl Iterator<Item = &DatasetName> {
        let needs = matches!(dataset.decision, Decision::Work(_));
        self.placeholders.iter().filter(move |p| needs && dataset.target.is_at_or_below(p))
    }

    /// The refused datasets.
    pub fn refusals(&self) -> impl Iterator<Item = (&DatasetPlan, &Refusal)> {
        self.datasets.iter().filter_map(|d| d.refusal().map(|refusal| (d, refusal)))
    }

    /// Adds it all up.
    pub fn totals(&self) -> PlanTotals {
        let mut totals = PlanTotals { datasets: self.datasets.len(), ..PlanTotals::default() };
        for dataset in &self.datasets {
            match &dataset.decision {
                Decision::UpToDate { .. } => totals.up_to_date += 1,
                Decision::Refused(_) => totals.refused += 1,
                Decision::Work(actions) => {
                    totals.with_work += 1;
                    for action in actions {
                        match action {
                            Action::Step(_) => totals.steps += 1,
                            Action::Rollback { destroys, .. } => totals.destroyed_snapshots += destroys.len(),
                            Action::AbortPartial { .. } | Action::ReplacePlaceholder { .. } => {}
                        }
                    }
                }
            }
        }
        totals
    }
}
