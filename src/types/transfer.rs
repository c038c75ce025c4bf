//! What one `zfs send` is asked for. Shared by the planner, which decides it, and the port, which does it.

use serde::{Deserialize, Serialize};

use super::{BookmarkName, SnapshotName};

/// What an incremental step starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// A snapshot of the same dataset, or the origin of a clone.
    Snapshot(SnapshotName),
    /// A bookmark of the same dataset.
    Bookmark(BookmarkName),
}

/// Flags of `zfs send`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendFlags {
    /// `-L`.
    pub large_block: bool,
    /// `-c`.
    pub compressed: bool,
    /// `-e`.
    pub embed: bool,
    /// `-w`.
    pub raw: bool,
}

/// One `zfs send`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SendSpec {
    /// The whole of a snapshot.
    Full {
        /// What to send.
        snapshot: SnapshotName,
        /// How.
        flags: SendFlags,
    },
    /// The change from a base to a snapshot (`-i`).
    Incremental {
        /// From here.
        base: Base,
        /// To here.
        snapshot: SnapshotName,
        /// How.
        flags: SendFlags,
    },
    /// Go on where a token says (`-t`); the flags are in the token.
    Resume {
        /// `receive_resume_token` of the target.
        token: String,
    },
}
