//! How far a target is behind: what both sides hold in, the newest snapshot that both have out.
//!
//! Invariant: what is not known is `None`, and never a figure of then.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::types::{
    DatasetName, Guid, SnapshotTag,
    listing::{DatasetInfo, FENCE, JOB, Listing},
    transfer::{Base, SendFlags, SendSpec},
};

/// A snapshot that both sides have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// Its name on the source.
    pub tag: SnapshotTag,
    /// Its GUID.
    pub guid: Guid,
    /// When it was taken, in seconds since 1970, by the clock of the source.
    pub taken_unix_s: u64,
}

/// How far one dataset of a target is behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// On the source.
    pub source: DatasetName,
    /// On the target.
    pub target: DatasetName,
    /// The newest snapshot that both have; `None` if there is none.
    pub common: Option<Common>,
    /// Snapshots of the source that are newer; `None` where the source could not be asked, or has not got the common one any more.
    pub unsent_snapshots: Option<usize>,
    /// Bytes still to be sent, where they can be told: the estimate of the stream, and what was written since.
    pub unsent_bytes: Option<u64>,
}

impl Lag {
    /// Seconds since the newest common snapshot was taken; `None` where there is none. Never negative.
    pub fn age_s(&self, now_unix_s: u64) -> Option<u64> {
        self.common.as_ref().map(|common| now_unix_s.saturating_sub(common.taken_unix_s))
    }

    /// The stream that would bring the target from what both have to the source's newest snapshot; `None` where nothing is newer, or
    /// nothing is known to be in common.
    pub fn missing(&self, source: &DatasetInfo) -> Option<SendSpec> {
        let common = self.common.as_ref().filter(|_| self.unsent_snapshots.is_some_and(|n| n > 0))?;
        let base = match source.snapshot_by_guid(common.guid) {
            Some(snapshot) => Base::Snapshot(source.snapshot_name(snapshot).ok()?),
            None => {
                let bookmark = source.bookmarks.iter().find(|b| b.guid == common.guid)?;
                Base::Bookmark(source.bookmark_name(bookmark).ok()?)
            }
        };
        let snapshot = source.snapshot_name(source.newest()?).ok()?;
        Some(SendSpec::Incremental { base, snapshot, flags: SendFlags::default() })
    }

    /// What is unsent is not known any more; what both sides have is.
    pub fn forget_unsent(&mut self) {
        (self.unsent_snapshots, self.unsent_bytes) = (None, None);
    }

    /// Counts anew what the source has got since. Where a stream would have to be sent, its bytes are not known yet.
    fn count(&mut self, source: &DatasetInfo) {
        self.forget_unsent();
        let Some(common) = &self.common else {
            self.unsent_snapshots = Some(source.snapshots.len());
            return;
        };
        let Some(newer) = newer(source, common.guid) else { return };
        self.unsent_snapshots = Some(newer);
        self.unsent_bytes = source.written.filter(|_| newer == 0);
    }
}

/// How many snapshots are newer than that one, also if only a bookmark is left of it.
fn newer(dataset: &DatasetInfo, guid: Guid) -> Option<usize> {
    let snapshots = &dataset.snapshots;
    if let Some(at) = snapshots.iter().rposition(|s| s.guid == guid) {
        return Some(snapshots.len() - at - 1);
    }
    let bookmark = dataset.bookmarks.iter().find(|b| b.guid == guid)?;
    Some(snapshots.iter().filter(|s| s.createtxg > bookmark.createtxg).count())
}

/// True for what a run of a job has received: neither a placeholder, nor a dataset of somebody else.
fn is_a_copy(target: &DatasetInfo) -> bool {
    target.local(JOB).is_some() && !target.snapshots.is_empty()
}

/// One for each dataset of the source that takes part, in the source's order. `takes_part` gets names below the root.
///
/// A dataset without any snapshot is not behind, because there is nothing to send: a run leaves it alone, and so does this. But where
/// the target has a copy, what was sent once is gone at the source: then it is told, with nothing in common and nothing unsent.
pub fn lags(
    source: (&Listing, &DatasetName),
    target: (&Listing, &DatasetName),
    takes_part: impl Fn(&str) -> bool,
) -> Vec<Lag> {
    let (source, source_root) = source;
    let (target, target_root) = target;
    let targets: HashMap<&DatasetName, &DatasetInfo> = target.datasets.iter().map(|d| (&d.name, d)).collect();
    let mut lags = Vec::new();
    for dataset in &source.datasets {
        let Some(below) = dataset.name.relative_to(source_root).filter(|below| takes_part(below)) else { continue };
        // One that a cutover moved away is snapshotted and sent from where it serves now.
        if !below.is_empty() && dataset.property(FENCE).is_some() {
            continue;
        }
        let Ok(target_name) = target_root.join(below) else { continue };
        let there = targets.get(&target_name).copied();
        if dataset.snapshots.is_empty() && !there.is_some_and(is_a_copy) {
            continue;
        }
        let common = dataset.snapshots.iter().rev().find_map(|snapshot| {
            there?.snapshot_by_guid(snapshot.guid)?;
            Some(Common { tag: snapshot.tag.clone(), guid: snapshot.guid, taken_unix_s: snapshot.creation_unix_s })
        });
        let source = dataset.name.clone();
        let mut lag = Lag { source, target: target_name, common, unsent_snapshots: None, unsent_bytes: None };
        lag.count(dataset);
        lags.push(lag);
    }
    lags
}

/// Counts anew by the source alone, while the target cannot be asked: what both have stays as it was seen last, and what the source has
/// got since is unsent. Of a dataset that is not there any more, or has lost what both had, that is not known.
pub fn recount(known: &mut [Lag], source: &Listing) {
    let there: HashMap<&DatasetName, &DatasetInfo> = source.datasets.iter().map(|d| (&d.name, d)).collect();
    for lag in known {
        match there.get(&lag.source) {
            // Whether the target has a copy of it is not known.
            Some(dataset) if dataset.snapshots.is_empty() && lag.common.is_none() => {
                lag.unsent_snapshots = lag.unsent_snapshots.filter(|n| *n == 0);
            }
            Some(dataset) => lag.count(dataset),
            None => lag.forget_unsent(),
        }
    }
}

#[cfg(test)]
#[path = "lag_tests.rs"]
mod tests;
