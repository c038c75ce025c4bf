//! Which snapshots must stay, whatever the rules of a job say, and what becomes of the others.
//!
//! ```text
//!   oldest ─────────────── base of the slowest target ─────────────── newest
//!   may go, if it is the job's own,  │  not yet replicated to each target: stays
//!   nobody holds it, no rule keeps it
//! ```
//!
//! Invariants: a snapshot whose name is not the job's stays. A base stays: the newest snapshot that any target has, too. What
//! some target has not got stays, however long that target is away. Where it is not known what a target has, all stays.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{names::Prefix, retention::Retention};
use crate::types::{
    CreateTxg, Guid, SnapshotName, SnapshotTag,
    listing::{DatasetInfo, HELD},
};

/// What somebody still needs of a dataset: a snapshot, and all that are newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Who, for people: `job dc2`.
    pub by: String,
    /// The newest that it has, by its GUID; `None` where it has none, or nobody knows.
    pub has: Option<Guid>,
}

/// The same, found in the dataset: where in its order everything before may go.
struct Found {
    by: String,
    has: Option<CreateTxg>,
}

/// A dataset as it is right now, and who needs what of it.
pub struct Subject<'a> {
    /// With its snapshots and bookmarks.
    pub dataset: &'a DatasetInfo,
    /// Snapshots with the tags of their holds, as far as they can be listed.
    pub holds: &'a [(SnapshotName, String)],
    /// Beside those that bookmarks and holds tell of.
    pub needs: &'a [Need],
    /// Which snapshots are the job's own.
    pub prefix: &'a Prefix,
}

/// What becomes of a snapshot, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its name.
    pub tag: SnapshotTag,
    /// Its GUID when this was decided.
    pub guid: Guid,
    /// It stays.
    pub keep: bool,
    /// The rule.
    pub why: String,
}

impl Subject<'_> {
    /// Why a snapshot must stay, for each of the dataset's, in their order; `None` for those that may go.
    pub fn spared(&self) -> Vec<Option<String>> {
        let mut needs = self.told_by_bookmarks_and_holds();
        needs.extend(self.needs.iter().map(|need| self.find(need)));
        let newest = self.dataset.newest().map(|s| s.guid);
        let recorded = self.dataset.local(HELD);
        let spare = |snapshot: &crate::types::listing::SnapshotInfo| {
            if self.prefix.time_of(&snapshot.tag).is_none() {
                return Some("was not made by this job".to_owned());
            }
            let is_it = |held: &SnapshotName| held.tag() == snapshot.tag && held.dataset() == self.dataset.name;
            if let Some((_, tag)) = self.holds.iter().find(|(held, _)| is_it(held)) {
                return Some(format!("is held ({tag})"));
            }
            if newest == Some(snapshot.guid) {
                return Some("is the newest".to_owned());
            }
            if recorded == Some(snapshot.tag.as_str()) {
                return Some("is the base of the job that writes here".to_owned());
            }
            needs.iter().find_map(|need| match need.has {
                None => Some(format!("is not yet replicated: what {} has is not known", need.by)),
                Some(has) if snapshot.createtxg == has => Some(format!("is the base of {}", need.by)),
                Some(has) if snapshot.createtxg > has => Some(format!("is not yet replicated to {}", need.by)),
                Some(_) => None,
            })
        };
        self.dataset.snapshots.iter().map(spare).collect()
    }

    /// Where what somebody has is in this dataset. What is not here, neither as a snapshot nor as a bookmark, tells nothing: the
    /// dataset was made again, or its pool was, and orders of then and now cannot be compared.
    fn find(&self, need: &Need) -> Found {
        let snapshots = self.dataset.snapshots.iter().map(|s| (s.guid, s.createtxg));
        let bookmarks = self.dataset.bookmarks.iter().map(|b| (b.guid, b.createtxg));
        let has = need.has.and_then(|has| snapshots.chain(bookmarks).find(|(guid, _)| *guid == has));
        Found { by: need.by.clone(), has: has.map(|(_, txg)| txg) }
    }

    /// What the marks of earlier steps say: a bookmark is what a target has. Of holds, the oldest of a job is, because a
    /// step that was never acknowledged leaves one on a newer snapshot.
    fn told_by_bookmarks_and_holds(&self) -> Vec<Found> {
        let mut bookmarks: BTreeMap<&str, CreateTxg> = BTreeMap::new();
        for bookmark in &self.dataset.bookmarks {
            if let Some(job) = job_of_bookmark(&bookmark.tag) {
                let newest = bookmarks.entry(job).or_insert(bookmark.createtxg);
                *newest = (*newest).max(bookmark.createtxg);
            }
        }
        let mut holds: BTreeMap<&str, CreateTxg> = BTreeMap::new();
        for (snapshot, tag) in self.holds {
            let Some(job) = tag.strip_prefix("zmigrate:") else { continue };
            let found = self.dataset.snapshots.iter().find(|s| s.tag == snapshot.tag());
            if let Some(found) = found.filter(|_| !bookmarks.contains_key(job)) {
                let oldest = holds.entry(job).or_insert(found.createtxg);
                *oldest = (*oldest).min(found.createtxg);
            }
        }
        let need = |(job, has): (&str, CreateTxg)| Found { by: format!("the target of {job}"), has: Some(has) };
        bookmarks.into_iter().chain(holds).map(need).collect()
    }

    /// What becomes of each snapshot under these rules, in the dataset's order. Without rules all stay.
    pub fn decide(&self, rules: Option<&Retention>, now: Timestamp) -> Vec<Decision> {
        let snapshots = &self.dataset.snapshots;
        let own: Vec<_> = snapshots.iter().filter_map(|s| Some((&s.tag, self.prefix.time_of(&s.tag)?))).collect();
        let kept: BTreeMap<&SnapshotTag, Option<String>> = match rules {
            Some(rules) => own.iter().map(|(tag, _)| *tag).zip(rules.keeps(&own, now)).collect(),
            None => BTreeMap::new(),
        };
        let decide = |(snapshot, spared): (&crate::types::listing::SnapshotInfo, Option<String>)| {
            let (keep, why) = match (spared, rules, kept.get(&snapshot.tag)) {
                (Some(why), _, _) => (true, why),
                (None, None, _) => (true, "no rules are set".to_owned()),
                (None, Some(_), Some(Some(rule))) => (true, format!("kept by: {rule}")),
                (None, Some(rules), _) => (false, format!("no rule keeps it: {rules}")),
            };
            Decision { tag: snapshot.tag.clone(), guid: snapshot.guid, keep, why }
        };
        snapshots.iter().zip(self.spared()).map(decide).collect()
    }
}

/// The job id in the name of a bookmark that zmigrate made.
fn job_of_bookmark(tag: &SnapshotTag) -> Option<&str> {
    tag.as_str().strip_prefix("zmigrate:")?.rsplit_once(':').map(|(job, _)| job)
}
