//! What is asked and answered when both sides' copies of a dataset are compared; see `driver/verify`.

use serde::{Deserialize, Serialize};

use super::message::RoleOfDataset;
use crate::types::{
    Access, DatasetName, Guid, SnapshotName,
    content::{ContentDigest, ContentPage},
    listing::DatasetKind,
};

/// A question about one snapshot. With [`super::hello::features::VERIFY`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAsk {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// Its GUID; one of another GUID is not looked at.
    pub guid: Guid,
    /// Which grant it needs.
    pub role: RoleOfDataset,
    /// What is wanted of it.
    pub what: VerifyWhat,
}

/// What is wanted of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyWhat {
    /// How many bytes were written to its dataset since.
    Changed,
    /// All of its content in one digest. Takes as long as reading it does.
    Digest(DatasetKind),
    /// Some of its entries.
    Page {
        /// Filesystem or volume.
        kind: DatasetKind,
        /// Those after this path; from the beginning without.
        after: Option<Vec<u8>>,
    },
}

/// The answer to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyAnswer {
    /// To `Changed`.
    Changed(u64),
    /// To `Digest`.
    Digest(ContentDigest),
    /// To `Page`.
    Page(ContentPage),
}

impl VerifyAsk {
    /// The grant that a peer needs for it.
    pub fn needs(&self) -> (Access, DatasetName) {
        let access = match self.role {
            RoleOfDataset::Source => Access::Pull,
            RoleOfDataset::Target => Access::Push,
        };
        (access, self.snapshot.dataset())
    }
}
