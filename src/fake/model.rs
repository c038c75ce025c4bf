//! The fake's pools: datasets, snapshots, bookmarks, holds, and properties with their sources.
//!
//! Invariant: GUIDs come from the seed; createtxg rises with every change, over all pools.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::records::{Objects, space, space_since};
use crate::{
    port::zfs::{ZfsError, ZfsErrorKind, ZfsResult},
    stream::features::Features,
    types::{
        BookmarkName, CreateTxg, DatasetName, Delegation, Guid, PoolStatus, SnapshotName, SnapshotTag,
        listing::{
            BookmarkInfo, Capabilities, DatasetInfo, DatasetKind, Encryption, LISTED_PROPERTIES, MANIFEST_PROPERTIES,
            Property, PropertySource, SnapshotInfo,
        },
    },
};

#[derive(Clone, Debug)]
pub struct Snap {
    pub tag: SnapshotTag,
    pub guid: Guid,
    pub createtxg: CreateTxg,
    pub creation: u64,
    pub objects: Arc<Objects>,
    pub holds: BTreeSet<String>,
    /// Sends that read it.
    pub users: u32,
}

/// What an interrupted `receive -s` left.
#[derive(Clone, Debug)]
pub struct Partial {
    pub to_guid: Guid,
    pub from_guid: Option<Guid>,
    pub to_name: String,
    pub features: Features,
    pub objects: Objects,
    pub at: (u64, u64),
    pub bytes: u64,
    /// The dataset is there only because of it.
    pub fresh: bool,
}

#[derive(Clone, Debug)]
pub struct Dataset {
    pub kind: DatasetKind,
    pub guid: Guid,
    pub createtxg: CreateTxg,
    pub origin: Option<SnapshotName>,
    pub properties: BTreeMap<String, (String, PropertySource)>,
    /// What came in streams, whatever was set over it.
    pub received: BTreeMap<String, String>,
    pub live: Arc<Objects>,
    pub snaps: Vec<Snap>,
    pub bookmarks: Vec<BookmarkInfo>,
    pub partial: Option<Partial>,
    pub encryption: Option<Encryption>,
    pub mounted: bool,
    /// A volume: something could open its device.
    pub has_device: bool,
    /// Something was mounted over its place since.
    pub hidden: bool,
    pub receiving: bool,
}

impl Dataset {
    pub fn snap(&self, tag: &SnapshotTag) -> Option<&Snap> {
        self.snaps.iter().find(|s| s.tag == *tag)
    }

    /// True if it differs from its newest snapshot.
    pub fn is_dirty(&self) -> bool {
        self.snaps.last().map_or(!self.live.is_empty(), |s| s.objects != self.live)
    }

    pub fn is_fresh(&self) -> bool {
        self.partial.as_ref().is_some_and(|p| p.fresh)
    }
}

#[derive(Debug)]
pub struct Host {
    pub can: Capabilities,
    pub pools: BTreeMap<String, u64>,
    pub datasets: BTreeMap<DatasetName, Dataset>,
    /// What each GUID stood for: a bookmark's snapshot may be gone, and a send from it still works.
    pub remembered: BTreeMap<Guid, Arc<Objects>>,
    /// What `zfs allow` has delegated.
    pub delegations: BTreeMap<DatasetName, Vec<Delegation>>,
    /// Health of the pools that are not `ONLINE`.
    pub health: BTreeMap<String, String>,
    /// Datasets whose mount or device something uses.
    pub busy_mounts: BTreeSet<DatasetName>,
    random: u64,
    txg: u64,
}

/// Seconds since 1970 of the first txg; each takes a second.
const EPOCH_S: u64 = 1_700_000_000;

impl Host {
    pub fn new(can: Capabilities, seed: u64) -> Self {
        Self {
            can,
            pools: BTreeMap::new(),
            datasets: BTreeMap::new(),
            remembered: BTreeMap::new(),
            delegations: BTreeMap::new(),
            health: BTreeMap::new(),
            busy_mounts: BTreeSet::new(),
            random: seed,
            txg: 1,
        }
    }

    pub fn next_guid(&mut self) -> Guid {
        // SplitMix64: as many GUIDs as are wanted from one seed.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Guid((z ^ (z >> 31)).max(1))
    }

    pub fn next_txg(&mut self) -> CreateTxg {
        self.txg += 1;
        CreateTxg(self.txg)
    }

    pub fn new_dataset(&mut self, kind: DatasetKind) -> Dataset {
        Dataset {
            kind,
            guid: self.next_guid(),
            createtxg: self.next_txg(),
            origin: None,
            properties: BTreeMap::new(),
            received: BTreeMap::new(),
            live: Arc::default(),
            snaps: Vec::new(),
            bookmarks: Vec::new(),
            partial: None,
            encryption: None,
            mounted: false,
            hidden: false,
            has_device: false,
            receiving: false,
        }
    }

    pub fn dataset(&self, name: &DatasetName) -> Option<&Dataset> {
        self.datasets.get(name)
    }

    pub fn need(&mut self, op: &str, name: &DatasetName) -> ZfsResult<&mut Dataset> {
        let missing = || fail(op, ZfsErrorKind::NotFound, format!("cannot open '{name}': dataset does not exist"));
        self.datasets.get_mut(name).ok_or_else(missing)
    }

    pub fn need_snap(&mut self, op: &str, name: &SnapshotName) -> ZfsResult<&mut Snap> {
        let missing = || fail(op, ZfsErrorKind::NotFound, format!("cannot open '{name}': dataset does not exist"));
        let found = self.datasets.get_mut(&name.dataset());
        found.and_then(|d| d.snaps.iter_mut().find(|s| s.tag == name.tag())).ok_or_else(missing)
    }

    pub fn snap(&self, name: &SnapshotName) -> Option<&Snap> {
        self.dataset(&name.dataset())?.snap(&name.tag())
    }

    /// What a bookmark was made from.
    pub fn bookmarked(&self, name: &BookmarkName) -> Option<&BookmarkInfo> {
        self.dataset(&name.dataset())?.bookmarks.iter().find(|b| b.tag == name.tag())
    }

    pub fn has_clones(&self, name: &SnapshotName) -> bool {
        self.datasets.values().any(|d| d.origin.as_ref() == Some(name))
    }

    /// Adds a snapshot of what the dataset holds now.
    pub fn add_snap(&mut self, name: &DatasetName, tag: &SnapshotTag, guid: Guid, createtxg: CreateTxg) {
        if let Some(d) = self.datasets.get_mut(name) {
            let creation = EPOCH_S + createtxg.0;
            let (objects, holds) = (d.live.clone(), BTreeSet::new());
            self.remembered.insert(guid, objects.clone());
            d.snaps.push(Snap { tag: tag.clone(), guid, createtxg, creation, objects, holds, users: 0 });
        }
    }

    /// Bytes that a pool still has room for.
    pub fn room(&self, pool: &str) -> u64 {
        let of_pool = self.datasets.iter().filter(|(name, _)| name.pool() == pool);
        let used: u64 = of_pool.map(|(_, d)| space(&d.live)).sum();
        self.pools.get(pool).copied().unwrap_or(0).saturating_sub(used)
    }

    /// What `zpool list` would say of a pool.
    pub fn pool_status(&self, pool: &str) -> PoolStatus {
        let (room, size) = (self.room(pool), self.pools.get(pool).copied().unwrap_or(0));
        let used = size.saturating_sub(room);
        let mut status = PoolStatus {
            name: pool.to_owned(),
            health: self.health.get(pool).cloned().unwrap_or_else(|| "ONLINE".into()),
            readonly: self.can.receive_resumable.then_some(false),
            full_percent: used.saturating_mul(100).checked_div(size).map(|n| n as u8),
            used: None,
            available: None,
        };
        if status.answers() {
            (status.used, status.available) = (Some(used), Some(room));
        }
        status
    }

    /// The value of a property and its source, by inheritance. `None` for one without value.
    pub fn property(&self, name: &DatasetName, property: &str) -> Option<Property> {
        let d = self.dataset(name)?;
        if let Some(tag) = property.strip_prefix("written@") {
            let before = &d.snaps.iter().find(|s| s.tag.as_str() == tag)?.objects;
            let written = if *before == d.live { 0 } else { space_since(before, &d.live).max(512) };
            let value = Some(written.to_string()).filter(|_| self.can.receive_resumable)?;
            return Some(Property { name: property.to_owned(), value, source: PropertySource::Default });
        }
        let found = |value: String, source| Some(Property { name: property.to_owned(), value, source });
        let text = |value: Option<String>| found(value?, PropertySource::Default);
        match property {
            "type" => return text(Some(d.kind.to_string())),
            "guid" => return text(Some(d.guid.to_string())),
            "createtxg" => return text(Some(d.createtxg.0.to_string())),
            "creation" => return text(Some((EPOCH_S + d.createtxg.0).to_string())),
            "origin" => return text(d.origin.as_ref().map(|o| o.to_string())),
            "mounted" => return text(Some(if d.mounted { "yes" } else { "no" }.to_owned())),
            "receive_resume_token" => return text(d.partial.as_ref().map(super::moving::token)),
            "written" => return text(self.info(name)?.written.map(|n| n.to_string())),
            "referenced" => return text(Some(space(&d.live).to_string())),
            "available" => return text(Some(self.room(name.pool()).to_string())),
            "volsize" if d.kind == DatasetKind::Volume => {
                return text(Some(d.live.get(&1).map_or(0, |b| b.len).to_string()));
            }
            _ => {}
        }
        if let Some((value, source)) = d.properties.get(property) {
            return found(value.clone(), source.clone());
        }
        let inherits = !matches!(property, "canmount" | "volsize");
        for above in name.ancestors().iter().rev().filter(|_| inherits) {
            if let Some((value, _)) = self.dataset(above).and_then(|d| d.properties.get(property)) {
                let below = if property == "mountpoint" { &name.as_str()[above.as_str().len()..] } else { "" };
                return found(format!("{value}{below}"), PropertySource::Inherited);
            }
        }
        let default = self.default_of(property)?;
        found(if property == "mountpoint" { format!("/{name}") } else { default.to_owned() }, PropertySource::Default)
    }

    fn default_of(&self, property: &str) -> Option<&'static str> {
        Some(match property {
            "volmode" if self.can.volmode => "default",
            "snapdev" if self.can.volmode => "hidden",
            "compression" | "readonly" | "relatime" => "off",
            "canmount" | "exec" | "setuid" | "devices" | "atime" | "checksum" | "xattr" => "on",
            "mountpoint" => "",
            "recordsize" => "16384",
            "copies" => "1",
            "snapdir" => "hidden",
            "aclinherit" => "restricted",
            "logbias" => "latency",
            "primarycache" | "secondarycache" | "redundant_metadata" => "all",
            "sync" => "standard",
            _ => return None,
        })
    }

    /// True if there is a native property of that name which can be set to that value.
    pub fn may_set(&self, property: &str, value: &str) -> bool {
        let one_of = |all: &[&str]| all.contains(&value);
        match property {
            user if user.contains(':') => true,
            "readonly" | "atime" | "exec" | "setuid" | "devices" | "relatime" => one_of(&["on", "off"]),
            "canmount" => one_of(&["on", "off", "noauto"]),
            "copies" => one_of(&["1", "2", "3"]),
            "compression" => one_of(&["on", "off", "lz4", "zstd", "gzip", "lzjb", "zle"]),
            "volsize" => false,
            other => self.default_of(other).is_some(),
        }
    }

    /// A dataset as a listing shows it, without snapshots and bookmarks.
    pub fn info(&self, name: &DatasetName) -> Option<DatasetInfo> {
        let d = self.dataset(name)?;
        let modern = self.can.receive_resumable;
        let origin = d.origin.as_ref().and_then(|o| self.snap(o)).map(|s| s.objects.clone());
        let before = d.snaps.last().map(|s| s.objects.clone()).or(origin).unwrap_or_default();
        let listed = [LISTED_PROPERTIES, MANIFEST_PROPERTIES].concat();
        Some(DatasetInfo {
            name: name.clone(),
            kind: d.kind,
            guid: d.guid,
            createtxg: d.createtxg,
            origin: d.origin.clone(),
            encryption: d.encryption.clone(),
            resume_token: d.partial.as_ref().map(super::moving::token),
            inconsistent: modern && (d.is_fresh() || (d.receiving && d.snaps.is_empty())),
            // Objects that went away count as well: something was written.
            written: modern.then(|| if d.is_dirty() { space_since(&before, &d.live).max(512) } else { 0 }),
            referenced: space(&d.live).max(512),
            available: self.room(name.pool()),
            properties: listed.iter().filter_map(|p| self.property(name, p)).collect(),
            snapshots: Vec::new(),
            bookmarks: Vec::new(),
        })
    }

    /// The same with them.
    pub fn full_info(&self, name: &DatasetName) -> Option<DatasetInfo> {
        let d = self.dataset(name)?;
        let snapshot = |s: &Snap| SnapshotInfo {
            tag: s.tag.clone(),
            guid: s.guid,
            createtxg: s.createtxg,
            creation_unix_s: s.creation,
        };
        let snapshots = d.snaps.iter().map(snapshot).collect();
        let mut bookmarks = d.bookmarks.clone();
        bookmarks.sort_by_key(|b| b.createtxg);
        Some(DatasetInfo { snapshots, bookmarks, ..self.info(name)? })
    }
}

/// A failure as the tools would report it.
pub fn fail(op: &str, kind: ZfsErrorKind, detail: impl Into<String>) -> ZfsError {
    ZfsError { operation: op.to_owned(), kind, detail: detail.into() }
}
