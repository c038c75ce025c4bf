//! Numbers that ZFS gives its objects.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::NameError;

/// The 64-bit GUID of a dataset, snapshot or bookmark.
///
/// A snapshot keeps its GUID when it is sent, renamed or bookmarked; that is what makes it the
/// identity that planning works with (`zfsprops(7)`, `guid`). Written in decimal, as `zfs` does.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Guid(pub u64);

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({})", self.0)
    }
}

impl FromStr for Guid {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        s.parse().map(Guid).map_err(|_| NameError::new("GUID", s, "is not a decimal 64-bit number"))
    }
}

/// The transaction group in which a dataset, snapshot or bookmark was created.
///
/// Orders the snapshots of one pool; means nothing between two pools (`zfsprops(7)`, `createtxg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CreateTxg(pub u64);
