//! What one side's ZFS holds and can do: the planner's whole input, and what travels in a `List` reply.
//!
//! ```text
//! Listing ─ datasets ─ DatasetInfo ─┬─ snapshots ─ SnapshotInfo   (ordered by createtxg)
//!                                   └─ bookmarks ─ BookmarkInfo   (ordered by createtxg)
//! ```

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{BookmarkName, CreateTxg, DatasetName, Guid, NameError, SnapshotName, SnapshotTag};

/// What kind of dataset (`type` in `zfsprops(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetKind {
    /// A filesystem.
    Filesystem,
    /// A volume (zvol).
    Volume,
}

impl std::fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DatasetKind::Filesystem => "filesystem",
            DatasetKind::Volume => "volume",
        })
    }
}

/// Where a property's value comes from (`source` of `zfs get`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PropertySource {
    /// Set on this dataset.
    Local,
    /// Came in a stream.
    Received,
    /// Taken from a dataset above.
    Inherited,
    /// The built-in default, or no source at all.
    Default,
    /// Until unmounted (`temporary`).
    Temporary,
}

/// One property of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property {
    /// Name, as `zfs get` prints it.
    pub name: String,
    /// Value, in `-p` form where the tool has it.
    pub value: String,
    /// Where the value comes from.
    pub source: PropertySource,
}

/// An encrypted dataset's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// The suite, for instance `aes-256-gcm`.
    pub suite: String,
    /// The dataset whose key wraps this one's.
    pub root: Option<DatasetName>,
    /// True when the key is loaded.
    pub key_loaded: bool,
}

/// A snapshot in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The part after `@`.
    pub tag: SnapshotTag,
    /// Identity, kept across send and receive.
    pub guid: Guid,
    /// Order within the pool.
    pub createtxg: CreateTxg,
    /// Seconds since 1970, UTC. For people only: it decides nothing.
    pub creation_unix_s: u64,
}

/// A bookmark in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookmarkInfo {
    /// The part after `#`.
    pub tag: SnapshotTag,
    /// The GUID of the snapshot that it was made from.
    pub guid: Guid,
    /// The createtxg of the snapshot that it was made from.
    pub createtxg: CreateTxg,
    /// Seconds since 1970, UTC, of that snapshot. For people on this host only: it does not travel.
    #[serde(skip)]
    pub creation_unix_s: u64,
}

/// A dataset in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Full name.
    pub name: DatasetName,
    /// Filesystem or volume.
    pub kind: DatasetKind,
    /// The dataset's own GUID.
    pub guid: Guid,
    /// Order within the pool.
    pub createtxg: CreateTxg,
    /// The snapshot that this dataset is a clone of.
    pub origin: Option<SnapshotName>,
    /// `None` for a dataset in plain text.
    pub encryption: Option<Encryption>,
    /// `receive_resume_token`: an interrupted `receive -s` left its state here.
    pub resume_token: Option<String>,
    /// True while a first receive is not complete. Always false where the tool cannot tell.
    pub inconsistent: bool,
    /// Bytes written since the newest snapshot; `None` where the tool has no such property.
    pub written: Option<u64>,
    /// Bytes that the newest state refers to (`referenced`).
    pub referenced: u64,
    /// Bytes free for it (`available`).
    pub available: u64,
    /// The properties asked for by [`LISTED_PROPERTIES`] that have a value here, whatever their source.
    pub properties: Vec<Property>,
    /// By ascending createtxg.
    pub snapshots: Vec<SnapshotInfo>,
    /// By ascending createtxg.
    pub bookmarks: Vec<BookmarkInfo>,
}

impl DatasetInfo {
    /// The newest snapshot, if there is one.
    pub fn newest(&self) -> Option<&SnapshotInfo> {
        self.snapshots.last()
    }

    /// The snapshot of that GUID.
    pub fn snapshot_by_guid(&self, guid: Guid) -> Option<&SnapshotInfo> {
        self.snapshots.iter().find(|s| s.guid == guid)
    }

    /// The full name of one of this dataset's snapshots.
    ///
    /// # Errors
    /// When the name would be too long, which ZFS itself would not have allowed.
    pub fn snapshot_name(&self, snapshot: &SnapshotInfo) -> Result<SnapshotName, NameError> {
        self.name.snapshot(&snapshot.tag)
    }

    /// The full name of one of this dataset's bookmarks.
    ///
    /// # Errors
    /// When the name would be too long, which ZFS itself would not have allowed.
    pub fn bookmark_name(&self, bookmark: &BookmarkInfo) -> Result<BookmarkName, NameError> {
        format!("{}#{}", self.name, bookmark.tag).parse()
    }

    /// The property of that name, whatever its source.
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.properties.iter().find(|p| p.name == name)
    }

    /// The value of a property that was set on this very dataset.
    pub fn local(&self, name: &str) -> Option<&str> {
        let own = [PropertySource::Local, PropertySource::Received];
        self.property(name).filter(|p| own.contains(&p.source)).map(|p| p.value.as_str())
    }

    /// True for a dataset that zmigrate made only because something below it needed a parent.
    pub fn is_placeholder(&self) -> bool {
        self.local(PLACEHOLDER) == Some("on") && self.snapshots.is_empty()
    }
}

/// The user property that marks a placeholder; its value is `on`.
pub const PLACEHOLDER: &str = "zmigrate:placeholder";
/// The user property on a target that keeps the id of the job that writes it.
pub const JOB: &str = "zmigrate:job";
/// The user property on a target that says which snapshot the job holds there; set last after a receive, so a target whose
/// newest snapshot it does not name has something left to be finished.
pub const HELD: &str = "zmigrate:held";
/// The user property on a target whose source was deleted: since when its host knows, such as `2026-11-26T04:00:00Z`.
pub const GONE: &str = "zmigrate:gone";
/// The user property that fences a dataset: `<cutover id>:<epoch>`.
pub const FENCE: &str = "zmigrate:fence";
/// The user property of a dataset that a cutover promoted: `<cutover id>:<epoch>`. Unless it is fenced it is the writable
/// side, so nothing is received into it any more.
pub const SERVING: &str = "zmigrate:serving";

/// The user property on a temporary clone through which a snapshot's content is read: the id of the view.
pub const CLONE: &str = "zmigrate:clone";

/// The properties that a listing reads for each dataset, beside the ones that have fields of their own.
/// Those of [`MANIFEST_PROPERTIES`] can be carried over to a target.
pub const LISTED_PROPERTIES: &[&str] = &[
    "readonly",
    "canmount",
    "mountpoint",
    "mounted",
    "exec",
    "setuid",
    "devices",
    "volsize",
    "volmode",
    "snapdev",
    PLACEHOLDER,
    CLONE,
    JOB,
    HELD,
    GONE,
    FENCE,
    SERVING,
];

/// The allow-list of safety rule 2: what a target may take over from its source.
///
/// What is not here never is: mountpoint, canmount, readonly, exec, setuid, devices, share*, quotas and
/// reservations (they break receives), encryption properties, user properties.
pub const MANIFEST_PROPERTIES: &[&str] = &[
    "aclinherit",
    "aclmode",
    "acltype",
    "atime",
    "checksum",
    "compression",
    "copies",
    "dnodesize",
    "logbias",
    "primarycache",
    "recordsize",
    "redundant_metadata",
    "relatime",
    "secondarycache",
    "snapdir",
    "special_small_blocks",
    "sync",
    "xattr",
];

/// One side's answer to "what is there": datasets in the order of `zfs list` (parents before children).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Parents before children.
    pub datasets: Vec<DatasetInfo>,
}

impl DatasetInfo {
    /// The leg by which a cutover made this the writable side, if it is that still.
    pub fn serves_by(&self) -> Option<&str> {
        self.local(SERVING).filter(|_| self.local(FENCE).is_none())
    }
}

impl Listing {
    /// The dataset of that name.
    pub fn get(&self, name: &DatasetName) -> Option<&DatasetInfo> {
        self.datasets.iter().find(|d| d.name == *name)
    }
}

/// What one side's ZFS can do, found by probing (ZFS_FACTS 7), not guessed from a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What `zfs version` says of the user-space tools, for people and for the table of known bugs.
    pub userland_version: Option<String>,
    /// What `zfs version` says of the kernel module.
    pub kernel_version: Option<String>,
    /// `send -L`.
    pub send_large_block: bool,
    /// `send -c`.
    pub send_compressed: bool,
    /// `send -e`.
    pub send_embed: bool,
    /// `send -w`.
    pub send_raw: bool,
    /// `send -t TOKEN`.
    pub send_resume: bool,
    /// `send -nP`: a size estimate without sending.
    pub send_estimate: bool,
    /// `receive -s` and `receive -A`.
    pub receive_resumable: bool,
    /// `receive -o` and `-x`.
    pub receive_properties: bool,
    /// `zfs bookmark`, and bookmarks as a base.
    pub bookmarks: bool,
    /// `zfs hold` and `zfs release` really work.
    pub holds: bool,
    /// Several snapshots in one `zfs snapshot`, in one transaction group.
    pub snapshot_many: bool,
    /// `volmode` and `snapdev` exist.
    pub volmode: bool,
    /// The pool's features that are `enabled` or `active`, without `feature@`.
    pub pool_features: BTreeSet<String>,
    /// The pool's features that are `active`, without `feature@`.
    pub pool_features_active: BTreeSet<String>,
}
