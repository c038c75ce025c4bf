//! The `Journal` port: what is about to be destroyed is written down first, durably.

use serde::Serialize;

use crate::types::{DatasetName, Guid, JobId, SnapshotName};

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    /// A rollback, which the operator asked for.
    Rollback {
        /// To this snapshot.
        to: SnapshotName,
        /// These are destroyed.
        destroys: Vec<SnapshotName>,
    },
    /// The state of an interrupted receive is thrown away.
    AbortPartial {
        /// Of this dataset.
        dataset: DatasetName,
    },
    /// An empty placeholder is removed.
    RemovePlaceholder {
        /// This one.
        dataset: DatasetName,
    },
    /// A source that a cutover left, with its snapshots, as the operator said.
    DestroyReleased {
        /// This dataset and all below it.
        dataset: DatasetName,
        /// The leg by which it was left.
        leg: String,
    },
    /// A snapshot that something else took of a dataset that a cutover fenced; it held nothing, and was in the way home.
    Shed {
        /// This one.
        snapshot: SnapshotName,
        /// Nothing was written since this.
        since: SnapshotName,
    },
    /// A snapshot that its job's rules no longer keep is destroyed.
    Prune {
        /// This one.
        snapshot: SnapshotName,
        /// Its GUID.
        guid: Guid,
    },
    /// A copy whose source was deleted long enough ago, as its job says.
    Retire {
        /// This dataset.
        dataset: DatasetName,
        /// Its GUID.
        guid: Guid,
        /// Since when this host knew, by its clock.
        gone_since: String,
        /// Its snapshots, oldest first.
        snapshots: Vec<SnapshotName>,
    },
    /// The operator lets go of something that zmigrate left in ZFS.
    ReleaseState {
        /// `bookmark`, `hold`, `receive`, or the name of a property.
        kind: String,
        /// The bookmark, snapshot or dataset.
        name: String,
        /// Of this job, where that is recorded.
        job: Option<JobId>,
    },
}

/// Intent, then outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// About to be done.
    Intent,
    /// Done.
    Done,
    /// Not done, and why.
    Failed {
        /// The cause.
        cause: String,
    },
}

/// An append-only record that survives a crash.
pub trait Journal: Send + Sync {
    /// Appends and syncs. An intent that cannot be written must not be acted on.
    ///
    /// # Errors
    /// When the record is not safely on disk.
    fn append(&self, by: &str, phase: &Phase, entry: &Entry) -> std::io::Result<()>;
}
