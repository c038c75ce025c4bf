//! How far a target is behind: what both sides hold in, the newest snapshot that both have out.

use serde::{Deserialize, Serialize};

use crate::types::{
    DatasetName, Guid, SnapshotTag,
    listing::{FENCE, Listing},
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
    /// Snapshots of the source that are newer.
    pub unsent_snapshots: usize,
    /// Bytes still to be sent, where they can be told: the estimate of the stream, and what was written since.
    pub unsent_bytes: Option<u64>,
}

impl Lag {
    /// Seconds since the newest common snapshot was taken; `None` where there is none. Never negative.
    pub fn age_s(&self, now_unix_s: u64) -> Option<u64> {
        self.common.as_ref().map(|common| now_unix_s.saturating_sub(common.taken_unix_s))
    }
}

/// One for each dataset of the source that takes part, in the source's order. `takes_part` gets names below the root.
pub fn lags(
    source: (&Listing, &DatasetName),
    target: (&Listing, &DatasetName),
    takes_part: impl Fn(&str) -> bool,
) -> Vec<Lag> {
    let (source, source_root) = source;
    let (target, target_root) = target;
    let mut lags = Vec::new();
    for dataset in &source.datasets {
        let Some(below) = dataset.name.relative_to(source_root).filter(|below| takes_part(below)) else { continue };
        // One that a cutover moved away is snapshotted and sent from where it serves now.
        if !below.is_empty() && dataset.property(FENCE).is_some() {
            continue;
        }
        let Ok(target_name) = target_root.join(below) else { continue };
        let there = target.get(&target_name);
        let common = dataset.snapshots.iter().enumerate().rev().find_map(|(at, snapshot)| {
            there?.snapshot_by_guid(snapshot.guid)?;
            let common =
                Common { tag: snapshot.tag.clone(), guid: snapshot.guid, taken_unix_s: snapshot.creation_unix_s };
            Some((at, common))
        });
        let (unsent_snapshots, common) = match common {
            Some((at, common)) => (dataset.snapshots.len() - at - 1, Some(common)),
            None => (dataset.snapshots.len(), None),
        };
        let nothing_new = common.is_some() && unsent_snapshots == 0;
        let unsent_bytes = if nothing_new { dataset.written } else { None };
        lags.push(Lag { source: dataset.name.clone(), target: target_name, common, unsent_snapshots, unsent_bytes });
    }
    lags
}
