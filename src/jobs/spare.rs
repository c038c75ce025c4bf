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
    listing::{DatasetInfo, HELD, JOB, SnapshotInfo},
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

/// How old a base of a target may be, by the newest snapshot of the job, before it is asked whether that target was given up.
pub const GIVEN_UP_AFTER_S: u64 = 30 * 86_400;

/// What stays for the sake of a target alone that took nothing for long: it may have been given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFor {
    /// The id of the job that writes it.
    pub job: String,
    /// Snapshots that would go but for it.
    pub snapshots: usize,
    /// Seconds from its base to the newest snapshot of the job.
    pub behind_s: u64,
}

impl Subject<'_> {
    /// Why a snapshot must stay, for each of the dataset's, in their order; `None` for those that may go.
    pub fn spared(&self) -> Vec<Option<String>> {
        self.spared_for(|_| true)
    }

    /// The same, where only marks of those jobs tell anything that `counts` says so of.
    fn spared_for(&self, counts: impl Fn(&str) -> bool) -> Vec<Option<String>> {
        let mut needs: Vec<Found> = self.marks(&counts).into_iter().map(|(job, has)| found(job, has)).collect();
        needs.extend(self.needs.iter().map(|need| self.find(need)));
        let newest = self.dataset.newest().map(|s| s.guid);
        let recorded = self.dataset.local(HELD);
        let spare = |snapshot: &SnapshotInfo| {
            if self.prefix.time_of(&snapshot.tag).is_none() {
                return Some("was not made by this job".to_owned());
            }
            let is_it = |held: &SnapshotName| held.tag() == snapshot.tag && held.dataset() == self.dataset.name;
            let counts = |tag: &str| tag.strip_prefix("zmigrate:").is_none_or(&counts);
            if let Some((_, tag)) = self.holds.iter().find(|(held, tag)| is_it(held) && counts(tag)) {
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

    /// What the marks of earlier steps say, by the ids of their jobs: a bookmark is what a target has. Of holds, the oldest of a job
    /// is, because a step that was never acknowledged leaves one on a newer snapshot. Only of jobs that count.
    fn marks(&self, counts: impl Fn(&str) -> bool) -> BTreeMap<&str, CreateTxg> {
        let mut bookmarks: BTreeMap<&str, CreateTxg> = BTreeMap::new();
        for bookmark in &self.dataset.bookmarks {
            if let Some(job) = job_of_bookmark(&bookmark.tag).filter(|job| counts(job)) {
                let newest = bookmarks.entry(job).or_insert(bookmark.createtxg);
                *newest = (*newest).max(bookmark.createtxg);
            }
        }
        let mut holds: BTreeMap<&str, CreateTxg> = BTreeMap::new();
        // What writes here needs its newest alone. The holds of its own that broke-off steps left behind are no base of another target.
        let recorded =
            self.dataset.local(HELD).filter(|tag| self.dataset.snapshots.iter().any(|s| s.tag.as_str() == *tag));
        let writer = self.dataset.local(JOB).filter(|_| recorded.is_some());
        for (snapshot, tag) in self.holds {
            let Some(job) = tag.strip_prefix("zmigrate:").filter(|job| counts(job)) else { continue };
            if writer == Some(job) {
                continue;
            }
            let found = self.dataset.snapshots.iter().find(|s| s.tag == snapshot.tag());
            if let Some(found) = found.filter(|_| !bookmarks.contains_key(job)) {
                let oldest = holds.entry(job).or_insert(found.createtxg);
                *oldest = (*oldest).min(found.createtxg);
            }
        }
        bookmarks.extend(holds);
        bookmarks
    }

    /// What the rules would let go, and only a target keeps that took nothing for [`GIVEN_UP_AFTER_S`], of all such the one that keeps
    /// most. `own` is the id of the job itself, whose marks tell what its target has; of other jobs `needs` tells.
    pub fn kept_for(&self, own: &str, rules: &Retention, now: Timestamp) -> Option<KeptFor> {
        let others = self.marks(|job| job != own);
        if others.is_empty() {
            return None;
        }
        let (all, without) =
            (self.decide_for(Some(rules), now, |_| true), self.decide_for(Some(rules), now, |job| job == own));
        let is_kept = |(all, without): (&Decision, &Decision)| all.keep && !without.keep;
        let kept: Vec<CreateTxg> = (self.dataset.snapshots.iter().zip(all.iter().zip(&without)))
            .filter(|(_, decisions)| is_kept(*decisions))
            .map(|(snapshot, _)| snapshot.createtxg)
            .collect();
        let is_own = |s: &&SnapshotInfo| self.prefix.time_of(&s.tag).is_some();
        let newest = self.dataset.snapshots.iter().rev().find(is_own)?.creation_unix_s;
        let one = |(job, has): (&str, CreateTxg)| {
            let behind_s = newest.saturating_sub(self.taken(has)?);
            let snapshots = kept.iter().filter(|txg| **txg >= has).count();
            let is_told = snapshots > 0 && behind_s > GIVEN_UP_AFTER_S;
            is_told.then(|| KeptFor { job: job.to_owned(), snapshots, behind_s })
        };
        others.into_iter().filter_map(one).max_by_key(|kept| kept.snapshots)
    }

    /// When the snapshot of that place was taken, where that is known.
    fn taken(&self, at: CreateTxg) -> Option<u64> {
        let snapshots = self.dataset.snapshots.iter().map(|s| (s.createtxg, s.creation_unix_s));
        let bookmarks = self.dataset.bookmarks.iter().map(|b| (b.createtxg, b.creation_unix_s));
        snapshots.chain(bookmarks).find(|(txg, taken)| *txg == at && *taken > 0).map(|(_, taken)| taken)
    }

    /// What becomes of each snapshot under these rules, in the dataset's order. Without rules all stay.
    pub fn decide(&self, rules: Option<&Retention>, now: Timestamp) -> Vec<Decision> {
        self.decide_for(rules, now, |_| true)
    }

    fn decide_for(&self, rules: Option<&Retention>, now: Timestamp, counts: impl Fn(&str) -> bool) -> Vec<Decision> {
        let snapshots = &self.dataset.snapshots;
        let own: Vec<_> = snapshots.iter().filter_map(|s| Some((&s.tag, self.prefix.time_of(&s.tag)?))).collect();
        let kept: BTreeMap<&SnapshotTag, Option<String>> = match rules {
            Some(rules) => own.iter().map(|(tag, _)| *tag).zip(rules.keeps(&own, now)).collect(),
            None => BTreeMap::new(),
        };
        let decide = |(snapshot, spared): (&SnapshotInfo, Option<String>)| {
            let (keep, why) = match (spared, rules, kept.get(&snapshot.tag)) {
                (Some(why), _, _) => (true, why),
                (None, None, _) => (true, "no rules are set".to_owned()),
                (None, Some(_), Some(Some(rule))) => (true, format!("kept by: {rule}")),
                (None, Some(rules), _) => (false, format!("no rule keeps it: {rules}")),
            };
            Decision { tag: snapshot.tag.clone(), guid: snapshot.guid, keep, why }
        };
        snapshots.iter().zip(self.spared_for(counts)).map(decide).collect()
    }
}

fn found(job: &str, has: CreateTxg) -> Found {
    Found { by: format!("the target of {job}"), has: Some(has) }
}

/// The job id in the name of a bookmark that zmigrate made.
fn job_of_bookmark(tag: &SnapshotTag) -> Option<&str> {
    tag.as_str().strip_prefix("zmigrate:")?.rsplit_once(':').map(|(job, _)| job)
}
