//! The snapshots of one dataset, indexed once, and what two datasets have in common.
//!
//! Invariant: identity is the GUID and order is createtxg. No tag is looked at here.

use std::collections::HashMap;

use crate::types::{
    CreateTxg, Guid, JobId,
    listing::{BookmarkInfo, DatasetInfo, SnapshotInfo},
};

/// One dataset's past: each look-up takes constant time.
pub(super) struct Past<'a> {
    /// By ascending createtxg, whatever the order of the listing was.
    pub snapshots: Vec<&'a SnapshotInfo>,
    by_guid: HashMap<Guid, usize>,
    bookmarks: HashMap<Guid, &'a BookmarkInfo>,
}

/// What the source has of a snapshot that is on the target.
#[derive(Clone, Copy)]
pub(super) enum Common<'a> {
    Snapshot(&'a SnapshotInfo),
    Bookmark(&'a BookmarkInfo),
}

impl Common<'_> {
    /// Where it stands in the source's history.
    pub fn createtxg(&self) -> CreateTxg {
        match self {
            Common::Snapshot(s) => s.createtxg,
            Common::Bookmark(b) => b.createtxg,
        }
    }
}

impl<'a> Past<'a> {
    /// Indexes a dataset. Of several bookmarks of one snapshot, that of `job` is kept.
    pub fn new(dataset: &'a DatasetInfo, job: &JobId) -> Self {
        let mut snapshots: Vec<_> = dataset.snapshots.iter().collect();
        // A listing is in this order; one from a peer is not trusted to be. Sorting what is sorted costs one pass.
        snapshots.sort_by_key(|s| s.createtxg);
        let by_guid = snapshots.iter().enumerate().map(|(at, s)| (s.guid, at)).collect();
        let own = format!("zmigrate:{job}:");
        let mut bookmarks: HashMap<Guid, &BookmarkInfo> = HashMap::with_capacity(dataset.bookmarks.len());
        for bookmark in &dataset.bookmarks {
            let kept = bookmarks.entry(bookmark.guid).or_insert(bookmark);
            if bookmark.tag.as_str().starts_with(&own) {
                *kept = bookmark;
            }
        }
        Self { snapshots, by_guid, bookmarks }
    }

    /// Where the snapshot of that GUID stands.
    pub fn position(&self, guid: Guid) -> Option<usize> {
        self.by_guid.get(&guid).copied()
    }

    /// What this dataset has of that GUID; a snapshot rather than a bookmark.
    pub fn find(&self, guid: Guid) -> Option<Common<'a>> {
        let snapshot = self.position(guid).map(|at| Common::Snapshot(self.snapshots[at]));
        snapshot.or_else(|| self.bookmarks.get(&guid).map(|b| Common::Bookmark(b)))
    }

    /// The index of the first snapshot newer than that.
    pub fn after(&self, createtxg: CreateTxg) -> usize {
        self.snapshots.partition_point(|s| s.createtxg <= createtxg)
    }

    /// The newest snapshot of `self`, the target, of which `source` has the snapshot or a bookmark:
    /// its index here, and what the source has.
    pub fn newest_common<'s>(&self, source: &Past<'s>) -> Option<(usize, Common<'s>)> {
        self.snapshots.iter().enumerate().rev().find_map(|(at, s)| source.find(s.guid).map(|common| (at, common)))
    }
}
