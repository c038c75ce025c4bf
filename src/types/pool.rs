//! What one host's ZFS says of itself: its version, its pools, and who was delegated what.

use serde::{Deserialize, Serialize};

/// `zfs version`: both lines without `zfs-` and `zfs-kmod-`. `None` where there is no such command (before 0.8, zfs-fuse).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZfsVersion {
    /// The tools, for instance `2.3.2-1~bpo12+2`.
    pub userland: Option<String>,
    /// The kernel module.
    pub kernel: Option<String>,
}

/// An imported pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// As `zpool list` says it: `ONLINE`, `DEGRADED`, `FAULTED`, `SUSPENDED`, …
    pub health: String,
    /// Imported read-only; `None` where the tool cannot tell.
    pub readonly: Option<bool>,
    /// How full it is, in percent of its raw size; `None` where the tool cannot tell.
    pub full_percent: Option<u8>,
    /// Bytes that its datasets use, and that are free for them; `None` where they were not asked for (a pool that does
    /// not answer is not asked).
    pub used: Option<u64>,
    /// See `used`.
    pub available: Option<u64>,
}

impl PoolStatus {
    /// True if its datasets can be read.
    pub fn answers(&self) -> bool {
        matches!(self.health.as_str(), "ONLINE" | "DEGRADED")
    }
}

/// Whom a delegation of `zfs allow` is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Delegate {
    /// A user, by name or number.
    User(String),
    /// A group, by name or number.
    Group(String),
    /// All users.
    Everyone,
}

/// One line of `zfs allow DATASET` that counts on that very dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// For whom.
    pub to: Delegate,
    /// What is allowed; permission sets are resolved to their members.
    pub permissions: Vec<String>,
}
