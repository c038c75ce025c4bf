//! One job, as the configuration describes it.

use std::str::FromStr;

use jiff::tz::TimeZone;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    names::Prefix,
    retention::Retention,
    schedule::{Bandwidth, Schedule},
    span::Span,
};
use crate::{
    plan::{EncryptionMode, ExcludePattern},
    types::{
        DatasetName, JobName, PeerAddress, SnapshotName,
        transfer::{Compression, Streams},
    },
};

/// Which way a job's data go, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The source is here.
    Push,
    /// The target is here.
    Pull,
}

impl Direction {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Direction::Push => "push",
            Direction::Pull => "pull",
        }
    }
}

/// The other side of a job that replicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Which way.
    pub direction: Direction,
    /// The other host.
    pub peer: PeerAddress,
    /// The dataset that is written.
    pub target: DatasetName,
}

/// A user property with a value, written `NAME=VALUE`. Its name has a colon, as `zfsprops(7)` wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserProperty {
    /// Such as `com.sun:auto-snapshot`.
    pub name: String,
    /// Such as `false`.
    pub value: String,
}

/// A text that is no user property with a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no user property with a value, such as com.sun:auto-snapshot=false")]
pub struct UserPropertyError(String);

impl FromStr for UserProperty {
    type Err = UserPropertyError;

    fn from_str(s: &str) -> Result<UserProperty, UserPropertyError> {
        let bad = || UserPropertyError(s.chars().take(80).collect());
        let (name, value) = s.split_once('=').ok_or_else(bad)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":-._".contains(&b);
        let good = name.contains(':') && name.len() < 256 && name.bytes().all(plain) && !name.starts_with('-');
        if good && value.len() <= 1024 && !value.contains(char::is_control) {
            Ok(UserProperty { name: name.to_owned(), value: value.to_owned() })
        } else {
            Err(bad())
        }
    }
}

/// A `[job.NAME]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// NAME.
    pub name: JobName,
    /// Where it replicates to or from; `None` for one that takes and prunes snapshots of this host alone.
    pub remote: Option<Remote>,
    /// The dataset that is read; of a job of this host alone, the one that is looked after.
    pub dataset: DatasetName,
    /// All below it as well.
    pub recursive: bool,
    /// Left out, each with all below it.
    pub exclude: Vec<ExcludePattern>,
    /// Datasets that have this are left out as well, each with all below it. Not of a pull.
    pub exclude_property: Option<UserProperty>,
    /// When it runs.
    pub schedule: Schedule,
    /// Datasets in parallel.
    pub jobs: u8,
    /// Connections for each transfer.
    pub streams: Streams,
    /// How it compresses.
    pub compress: Compression,
    /// Encrypted datasets go raw unless this says that their plain text is to go.
    pub encryption: EncryptionMode,
    /// Bytes per second on the wire.
    pub bandwidth: Bandwidth,
    /// How often a run that failed of what may pass is tried again.
    pub retries: u32,
    /// How long the first of these waits; each further one waits twice as long.
    pub retry_wait: Span,
    /// A snapshot is taken first.
    pub snapshot: bool,
    /// What the names of its snapshots begin with.
    pub prefix: Prefix,
    /// Which of its snapshots stay on this host; `None` for all.
    pub keep: Option<Retention>,
    /// Which of its snapshots stay at the peer; `None` for all. Of a push alone.
    pub keep_peer: Option<Retention>,
    /// How long a copy stays whose source was deleted; `None` for ever.
    pub destroy_deleted: Option<Span>,
    /// How old the last verification may be before both sides are compared again; `None` for never.
    pub verify: Option<Span>,
    /// By their content as well.
    pub verify_content: bool,
    /// A program and its arguments, run before the snapshot is taken. Empty for none.
    pub before: Vec<String>,
    /// The same, run after the snapshot was taken.
    pub after: Vec<String>,
    /// How long a program may take.
    pub hook_timeout: Span,
    /// The lag that `zmigrate check` takes for too much unless told otherwise; of a job of this host alone, how long ago a run may have gone
    /// well.
    pub max_lag: Option<Span>,
}

/// Waits between tries never grow beyond this.
const MAX_WAIT_S: u64 = 3600;

impl Job {
    /// What tells this job's jitter from those of others: the same as long as the job keeps its name.
    pub fn seed(&self) -> u64 {
        xxh3_64(self.name.as_str().as_bytes())
    }

    /// How long to wait before try number `n` after the first, from 1. `None` when it was tried often enough.
    pub fn wait_before(&self, n: u32) -> Option<Span> {
        let doubled = self.retry_wait.as_s().saturating_mul(1 << n.saturating_sub(1).min(20));
        (n <= self.retries).then(|| Span::seconds(doubled.min(MAX_WAIT_S.max(self.retry_wait.as_s()))))
    }

    /// Whose clocks its hours are in.
    pub fn zone(&self) -> &TimeZone {
        &self.schedule.zone
    }

    /// True if the job sends that dataset of this host, as far as its name tells.
    pub fn sends(&self, dataset: &DatasetName) -> bool {
        let relative = dataset.relative_to(&self.dataset);
        let within = relative.is_some_and(|below| {
            below.is_empty() || (self.recursive && !self.exclude.iter().any(|pattern| pattern.excludes(below)))
        });
        self.is(Direction::Push) && within
    }

    /// True if it replicates that way.
    pub fn is(&self, direction: Direction) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.direction == direction)
    }

    /// Its `direction`, as in the configuration: `push`, `pull` or `local`.
    pub fn word(&self) -> &'static str {
        self.remote.as_ref().map_or("local", |remote| remote.direction.word())
    }

    /// True if that snapshot is one that this job made, or one like it.
    pub fn made(&self, snapshot: &SnapshotName) -> bool {
        self.prefix.time_of(&snapshot.tag()).is_some()
    }
}
