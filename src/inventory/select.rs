//! What `state release` takes, and what its going means.

use super::{Item, Kind, Side, Standing};
use crate::types::{DatasetName, JobId, human_bytes};

/// What is to be let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All of a job: bookmarks, holds, and the properties that name it. Not an interrupted receive.
    Job {
        /// The job.
        job: JobId,
        /// On this dataset and below; everywhere if `None`.
        scope: Option<DatasetName>,
    },
    /// What is stale, and nothing else.
    Stale {
        /// Of this job only.
        job: Option<JobId>,
        /// On this dataset and below; everywhere if `None`.
        scope: Option<DatasetName>,
    },
    /// One thing, by the name that the list gives it.
    Named {
        /// The name.
        name: String,
        /// Of this job only.
        job: Option<JobId>,
    },
}

/// Nothing fits the choice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("zmigrate left nothing of that here")]
pub struct NothingChosen;

impl Choice {
    /// True if the choice takes that item. None takes a mark of a cutover, by whatever name.
    pub fn takes(&self, item: &Item) -> bool {
        if item.kind.is_of_a_cutover() {
            return false;
        }
        let within = |scope: &Option<DatasetName>| scope.as_ref().is_none_or(|s| item.dataset.is_at_or_below(s));
        let of = |job: &Option<JobId>| job.is_none() || item.job == *job;
        match self {
            Choice::Job { job, scope } => {
                let of_job = matches!(item.kind, Kind::Bookmark | Kind::Hold | Kind::Job | Kind::Held);
                of_job && item.job.as_ref() == Some(job) && within(scope)
            }
            Choice::Stale { job, scope } => item.standing == Standing::Stale && of(job) && within(scope),
            Choice::Named { name, job } => item.name == *name && of(job),
        }
    }

    /// The items that go, in an order that is safe to break off: what keeps data first, what names the job last.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(&self, items: &[Item]) -> Result<Vec<Item>, NothingChosen> {
        let mut chosen: Vec<Item> = items.iter().filter(|item| self.takes(item)).cloned().collect();
        chosen.sort_by_key(|item| item.kind);
        if chosen.is_empty() { Err(NothingChosen) } else { Ok(chosen) }
    }

    /// The smallest part of the tree that has to be listed; `None` for all pools.
    pub fn root(&self) -> Option<DatasetName> {
        match self {
            Choice::Job { scope, .. } | Choice::Stale { scope, .. } => scope.clone(),
            Choice::Named { name, .. } => {
                let name = name.strip_suffix("/%recv").unwrap_or(name);
                name[..name.find(['@', '#']).unwrap_or(name.len())].parse().ok()
            }
        }
    }
}

impl Item {
    /// True if letting it go changes what a target is or keeps, so that no run may be at work on it.
    pub fn needs_lock(&self) -> bool {
        self.side == Side::Target
    }

    /// What will be different once it is gone; one sentence without a full stop.
    pub fn meaning(&self) -> String {
        let dataset = &self.dataset;
        match (self.kind, self.standing) {
            (_, Standing::Stale) => "nothing is lost: a newer base of this job stands".to_owned(),
            (Kind::Bookmark | Kind::Hold, Standing::InFlight) => {
                "a run is at work on it, or one stopped before the other side acknowledged it; the next run holds it again"
                    .to_owned()
            }
            (Kind::Bookmark | Kind::Hold, standing) => {
                let run = match self.side {
                    Side::Source => format!("the next run of this job from {dataset}"),
                    Side::Target => format!("the next run into {dataset}"),
                };
                let if_base = if standing == Standing::Unclear { "if it is the base: " } else { "" };
                let kept = match (self.kind, &self.snapshot) {
                    (Kind::Hold, Some(tag)) => format!("@{tag} can then be destroyed; without it "),
                    (_, Some(tag)) => format!("once @{tag} is destroyed too, "),
                    (_, None) => String::new(),
                };
                format!("{if_base}{kept}{run} needs another common snapshot, or starts over")
            }
            (Kind::Job, _) => format!(
                "zmigrate forgets which job writes {dataset}; the next run into it makes the id anew, a different one if \
                 a dataset was renamed since, and then finds no bookmark of its own"
            ),
            (Kind::Held, _) => format!("the next run into {dataset} finishes its last step once more"),
            (Kind::Placeholder, _) => {
                format!("{dataset} is an ordinary dataset from then on; zmigrate puts nothing received in its place")
            }
            (Kind::Fence | Kind::Serving, _) => format!("nothing would keep a second side of {dataset} from being writable"),
            (Kind::Partial, _) => {
                let arrived = self.bytes.map_or_else(|| "what".to_owned(), |bytes| format!("the {} that", human_bytes(bytes)));
                let whole = if self.whole_dataset { format!(", and {dataset} with it, which holds nothing else") } else { String::new() };
                format!("{arrived} arrived is thrown away{whole}; the next run sends that stream anew")
            }
        }
    }
}
