//! What zmigrate left in the ZFS of one host, read from a listing and its holds; and what of it may go. Pure.
//!
//! ```text
//! Listing + holds ─ of ─ Items ─┬─ render   a table for 80 columns
//!                               └─ select   what `state release` would take, and what that means
//! ```
//!
//! Invariants: only what bears zmigrate's own marks is an item; an item is called stale only if something that is
//! *known* to be acknowledged (a bookmark, or the snapshot that `zmigrate:held` names) is newer and of the same job.
//! A hold alone proves nothing: a step that was never acknowledged leaves one on a newer snapshot than its base. The marks of a
//! cutover are shown, and no choice takes them: a fence that could be let go here would be none.

mod render;
mod select;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::{Serialize, Serializer};

pub use render::table;
pub use select::{Choice, NothingChosen};

use crate::{
    stream::token::ResumeToken,
    types::{
        CreateTxg, DatasetName, Guid, JobId, SnapshotName,
        listing::{BookmarkInfo, DatasetInfo, FENCE, HELD, JOB, Listing, PLACEHOLDER, SERVING},
    },
};

/// What begins the tag of our holds and bookmarks.
const PREFIX: &str = "zmigrate:";

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A bookmark `#zmigrate:<job>:<guid>`.
    Bookmark,
    /// A hold `zmigrate:<job>`.
    Hold,
    /// The property `zmigrate:job`.
    Job,
    /// The property `zmigrate:held`.
    Held,
    /// The property `zmigrate:placeholder`.
    Placeholder,
    /// The property `zmigrate:fence`: a cutover moved the dataset away.
    Fence,
    /// The property `zmigrate:serving`: a cutover brought the dataset here.
    Serving,
    /// The state of an interrupted receive.
    Partial,
}

impl Kind {
    /// True for what says on which side of a cutover the dataset is: only a cutover changes it.
    pub fn is_of_a_cutover(self) -> bool {
        matches!(self, Kind::Fence | Kind::Serving)
    }
}

/// What a dataset is to the job of an item, or to the cutover of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// It is read.
    Source,
    /// It is written.
    Target,
}

/// Whether an item is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The newest acknowledged one of its job on this dataset: the next run starts from it.
    Base,
    /// A newer one of the same job has been acknowledged.
    Stale,
    /// A hold on a snapshot that is being sent, or whose step stopped before it was acknowledged.
    InFlight,
    /// A hold of which it cannot be told: nothing here says which snapshot was acknowledged last.
    Unclear,
    /// A property that says what the dataset is.
    Mark,
    /// Data that wait for the next run.
    Waiting,
}

/// One thing that zmigrate left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Where.
    pub dataset: DatasetName,
    /// What `zmigrate state release` takes for it: the bookmark, the snapshot that is held, the dataset that bears the
    /// property, or `DATASET/%recv` for an interrupted receive. It does not take the marks of a cutover.
    pub name: String,
    /// Its job; `None` where that is not recorded.
    pub job: Option<JobId>,
    /// What the dataset is to that job; what a cutover moved away is a source, what it brought here a target.
    pub side: Side,
    /// The snapshot's tag; `None` if that snapshot is no longer on this host, or there is none to it.
    pub snapshot: Option<String>,
    /// The snapshot's GUID; in JSON a string, because it needs 64 bits.
    #[serde(serialize_with = "as_text")]
    pub guid: Option<Guid>,
    /// When the snapshot was taken, in seconds since 1970, UTC.
    pub created_unix_s: Option<u64>,
    /// Whether it is needed.
    pub standing: Standing,
    /// False for a hold that is not listed here and known by `zmigrate:held` alone.
    pub seen: bool,
    /// Of an interrupted receive: the bytes that have arrived.
    pub bytes: Option<u64>,
    /// Of an interrupted receive: the dataset is there only because of it.
    pub whole_dataset: bool,
    /// Of a mark of a cutover: its value, `ID:EPOCH`.
    pub leg: Option<String>,
}

fn as_text<S: Serializer>(guid: &Option<Guid>, to: S) -> Result<S::Ok, S::Error> {
    match guid {
        Some(guid) => to.collect_str(guid),
        None => to.serialize_none(),
    }
}

/// All items of a listing, in its order. `holds` is `None` where this ZFS cannot list them.
pub fn of(listing: &Listing, holds: Option<&[(SnapshotName, String)]>) -> Vec<Item> {
    let mut by_dataset: HashMap<DatasetName, Vec<(&SnapshotName, JobId)>> = HashMap::new();
    for (snapshot, tag) in holds.unwrap_or_default() {
        if let Some(job) = tag.strip_prefix(PREFIX).and_then(|job| job.parse().ok()) {
            by_dataset.entry(snapshot.dataset()).or_default().push((snapshot, job));
        }
    }
    let mut items = Vec::new();
    for dataset in &listing.datasets {
        let held = by_dataset.remove(&dataset.name).unwrap_or_default();
        Look::new(dataset).all(&held, holds.is_some(), &mut items);
    }
    items
}

/// The job and the GUID in a bookmark's tag; `None` for one that is not ours, or not of that GUID.
fn own_bookmark(bookmark: &BookmarkInfo) -> Option<JobId> {
    let (job, guid) = bookmark.tag.as_str().strip_prefix(PREFIX)?.rsplit_once(':')?;
    (guid == bookmark.guid.to_string()).then_some(())?;
    job.parse().ok()
}

/// One dataset, looked at.
struct Look<'a> {
    dataset: &'a DatasetInfo,
    /// The job that writes it.
    written_by: Option<JobId>,
    /// The tag that `zmigrate:held` names.
    held: Option<String>,
    /// For each job, the newest snapshot that is known to be acknowledged.
    acknowledged: HashMap<JobId, CreateTxg>,
}

impl<'a> Look<'a> {
    fn new(dataset: &'a DatasetInfo) -> Self {
        let written_by: Option<JobId> = dataset.local(JOB).and_then(|job| job.parse().ok());
        let held = dataset.local(HELD).map(str::to_owned);
        let mut acknowledged: HashMap<JobId, CreateTxg> = HashMap::new();
        for bookmark in &dataset.bookmarks {
            if let Some(job) = own_bookmark(bookmark) {
                let newest = acknowledged.entry(job).or_insert(bookmark.createtxg);
                *newest = (*newest).max(bookmark.createtxg);
            }
        }
        let named = held.as_deref().and_then(|tag| dataset.snapshots.iter().find(|s| s.tag.as_str() == tag));
        if let (Some(job), Some(snapshot)) = (&written_by, named) {
            acknowledged.insert(job.clone(), snapshot.createtxg);
        }
        Self { dataset, written_by, held, acknowledged }
    }

    fn side(&self, job: Option<&JobId>) -> Side {
        if job.is_some() && job != self.written_by.as_ref() { Side::Source } else { Side::Target }
    }

    fn item(&self, kind: Kind, name: &str, job: Option<JobId>, standing: Standing) -> Item {
        Item {
            kind,
            dataset: self.dataset.name.clone(),
            name: name.to_owned(),
            side: self.side(job.as_ref()),
            job,
            snapshot: None,
            guid: None,
            created_unix_s: None,
            standing,
            seen: true,
            bytes: None,
            whole_dataset: false,
            leg: None,
        }
    }

    fn all(&self, holds: &[(&SnapshotName, JobId)], listed: bool, to: &mut Vec<Item>) {
        self.bookmarks(to);
        self.holds(holds, to);
        if !listed {
            self.hold_by_property(to);
        }
        self.marks(to);
        self.partial(to);
    }

    fn bookmarks(&self, to: &mut Vec<Item>) {
        for bookmark in &self.dataset.bookmarks {
            let Some(job) = own_bookmark(bookmark) else { continue };
            let Ok(name) = self.dataset.bookmark_name(bookmark) else { continue };
            let newest = self.acknowledged.get(&job).is_none_or(|newest| bookmark.createtxg >= *newest);
            let standing = if newest { Standing::Base } else { Standing::Stale };
            let snapshot = self.dataset.snapshot_by_guid(bookmark.guid).map(|s| s.tag.to_string());
            let item = self.item(Kind::Bookmark, name.as_str(), Some(job), standing);
            let created_unix_s = Some(bookmark.creation_unix_s).filter(|s| *s > 0);
            to.push(Item { snapshot, guid: Some(bookmark.guid), created_unix_s, ..item });
        }
    }

    fn holds(&self, holds: &[(&SnapshotName, JobId)], to: &mut Vec<Item>) {
        for snapshot in &self.dataset.snapshots {
            for (name, job) in holds.iter().filter(|(name, _)| name.tag() == snapshot.tag) {
                let standing = match self.acknowledged.get(job) {
                    Some(newest) if snapshot.createtxg < *newest => Standing::Stale,
                    Some(newest) if snapshot.createtxg == *newest => Standing::Base,
                    Some(_) => Standing::InFlight,
                    None => Standing::Unclear,
                };
                let item = self.item(Kind::Hold, name.as_str(), Some(job.clone()), standing);
                to.push(Item {
                    snapshot: Some(snapshot.tag.to_string()),
                    guid: Some(snapshot.guid),
                    created_unix_s: Some(snapshot.creation_unix_s),
                    ..item
                });
            }
        }
    }

    /// Where holds cannot be listed, a target's own property still tells of one.
    fn hold_by_property(&self, to: &mut Vec<Item>) {
        let (Some(job), Some(tag)) = (&self.written_by, &self.held) else { return };
        let Some(snapshot) = self.dataset.snapshots.iter().find(|s| s.tag.as_str() == tag) else { return };
        let Ok(name) = self.dataset.snapshot_name(snapshot) else { return };
        let item = self.item(Kind::Hold, name.as_str(), Some(job.clone()), Standing::Base);
        to.push(Item {
            snapshot: Some(tag.clone()),
            guid: Some(snapshot.guid),
            created_unix_s: Some(snapshot.creation_unix_s),
            seen: false,
            ..item
        });
    }

    fn marks(&self, to: &mut Vec<Item>) {
        let name = self.dataset.name.as_str();
        if self.dataset.local(JOB).is_some() {
            to.push(self.item(Kind::Job, name, self.written_by.clone(), Standing::Mark));
        }
        if let Some(tag) = &self.held {
            let found = self.dataset.snapshots.iter().find(|s| s.tag.as_str() == tag);
            let item = self.item(Kind::Held, name, self.written_by.clone(), Standing::Mark);
            to.push(Item {
                snapshot: Some(tag.clone()),
                guid: found.map(|s| s.guid),
                created_unix_s: found.map(|s| s.creation_unix_s),
                ..item
            });
        }
        if self.dataset.local(PLACEHOLDER).is_some() {
            to.push(self.item(Kind::Placeholder, name, None, Standing::Mark));
        }
        for (kind, property, side) in [(Kind::Fence, FENCE, Side::Source), (Kind::Serving, SERVING, Side::Target)] {
            if let Some(leg) = self.dataset.local(property) {
                to.push(Item { side, leg: Some(leg.to_owned()), ..self.item(kind, name, None, Standing::Mark) });
            }
        }
    }

    fn partial(&self, to: &mut Vec<Item>) {
        let Some(token) = &self.dataset.resume_token else { return };
        // A token that does not parse is an interrupted receive all the same.
        let token = ResumeToken::parse(token).ok();
        let name = format!("{}/%recv", self.dataset.name);
        let item = self.item(Kind::Partial, &name, self.written_by.clone(), Standing::Waiting);
        to.push(Item {
            snapshot: token.as_ref().and_then(|t| Some(t.to_name.split_once('@')?.1.to_owned())),
            guid: token.as_ref().map(|t| t.to_guid),
            bytes: token.map(|t| t.bytes),
            whole_dataset: self.dataset.inconsistent,
            ..item
        });
    }
}
