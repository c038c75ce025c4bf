//! The `Locks` port: one run at a time per target, across all processes of a host.

use crate::types::DatasetName;

/// Holds a target until it is dropped. The system drops it when the process dies.
pub trait LockGuard: Send + Sync {}

/// Who holds a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another run has it, or something below or above it.
    #[error("{target} is held by {by}")]
    Held {
        /// What was wanted.
        target: DatasetName,
        /// What is known of the other run.
        by: String,
    },
    /// The lock could not be tried.
    #[error("cannot lock {target}: {why}")]
    Failed {
        /// What was wanted.
        target: DatasetName,
        /// Why not.
        why: String,
    },
}

/// Locks on targets. A lock on a dataset excludes locks on it, on all below it and on all above it.
pub trait Locks: Send + Sync {
    /// Takes the lock, or says who has it. `holder` is what others are told. Does not wait.
    ///
    /// # Errors
    /// [`LockError::Held`] when another run has it, [`LockError::Failed`] when it cannot be tried.
    fn acquire(&self, target: &DatasetName, holder: &str) -> Result<Box<dyn LockGuard>, LockError>;
}
