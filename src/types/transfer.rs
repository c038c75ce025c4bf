//! What is sent and received: the arguments of `zfs send` and `zfs receive`, as values.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BookmarkName, DatasetName, SnapshotName, SnapshotTag};
use crate::limits::MAX_STREAMS;

/// What an incremental step starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// A snapshot of the same dataset, or the origin of a clone.
    Snapshot(SnapshotName),
    /// A bookmark of the same dataset.
    Bookmark(BookmarkName),
}

/// How the sender compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Decide chunk by chunk.
    Auto,
    /// Always zstd at this level, where a chunk shrinks.
    Zstd(i8),
    /// Never.
    None,
}

/// A text that names no way to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write auto, none, zstd, or zstd:N with N from -7 to -1 or from 1 to 19")]
pub struct CompressionError;

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(s: &str) -> Result<Compression, CompressionError> {
        match s {
            "auto" => return Ok(Compression::Auto),
            "none" => return Ok(Compression::None),
            "zstd" => return Ok(Compression::Zstd(3)),
            _ => {}
        }
        let level = s.strip_prefix("zstd:").and_then(|level| level.parse::<i8>().ok());
        let level = level.filter(|level| (-7..=19).contains(level) && *level != 0);
        level.map(Compression::Zstd).ok_or(CompressionError)
    }
}

/// How many connections a transfer is spread over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// One, and a second beside it once the transfer has turned out to be large, where there is more than one processor:
    /// one connection is encrypted by one processor.
    Auto,
    /// That many from the start.
    Fixed(u16),
}

/// A number of connections that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write auto, or a number from 1 to {MAX_STREAMS}")]
pub struct StreamsError;

impl FromStr for Streams {
    type Err = StreamsError;

    fn from_str(s: &str) -> Result<Streams, StreamsError> {
        let number = || s.parse().ok().filter(|n| (1..=MAX_STREAMS).contains(n));
        if s == "auto" { Ok(Streams::Auto) } else { number().map(Streams::Fixed).ok_or(StreamsError) }
    }
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
