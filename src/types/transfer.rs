//! What is sent and received: the arguments of `zfs send` and `zfs receive`, as values.

use serde::{Deserialize, Serialize};

use super::{BookmarkName, DatasetName, SnapshotName, SnapshotTag};

/// What an incremental step starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// One `zfs receive`. It is always `-u`, and never `-F`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveSpec {
    /// The snapshot that will exist.
    pub snapshot: SnapshotName,
    /// `-s`: keep what has arrived when the stream breaks off.
    pub resumable: bool,
    /// `-o origin=`: the target's own copy of the clone's origin.
    pub origin: Option<SnapshotName>,
    /// `-o name=value`, in order.
    pub set: Vec<(String, String)>,
    /// `-x name`, in order.
    pub exclude: Vec<String>,
}

/// How far below the root a listing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Depth {
    /// The root alone.
    Root,
    /// The root and everything below it.
    Tree,
}

/// One atomic snapshot of a dataset or a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// The top.
    pub root: DatasetName,
    /// The tag that all get.
    pub tag: SnapshotTag,
    /// All below as well.
    pub recursive: bool,
    /// Left out, each by itself: what is below one is named as well, if that is left out. The root never is.
    pub except: Vec<DatasetName>,
}
