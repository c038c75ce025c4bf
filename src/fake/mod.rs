//! A ZFS in memory, with the semantics of the real one and faults on request.
//!
//! What it sends are real streams of the OpenZFS format, and what it receives it parses; so the whole data path can be
//! tested without ZFS. It passes the same contract tests as the adapters. Randomness (GUIDs) comes from a seed.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use zmigrate::{fake::{FakeZfs, Fault, Op}, port::zfs::{Depth, Zfs, ZfsErrorKind}};
//! let zfs = FakeZfs::new(1);
//! zfs.create(&"tank/db".parse().unwrap());
//! zfs.write(&"tank/db".parse().unwrap(), 7, 0, b"hello");
//! zfs.fail_at(Op::List, Fault::Refuse(ZfsErrorKind::Io));
//! assert!(zfs.list(&"tank".parse().unwrap(), Depth::Tree).await.is_err());
//! assert_eq!(zfs.list(&"tank".parse().unwrap(), Depth::Tree).await.unwrap().datasets.len(), 2);
//! assert_eq!(zfs.count(Op::List), 2);
//! # });
//! ```
//!
//! Limits: blocks have one size, and nothing is compressed; encryption is a stand-in; rollback checks first and then
//! destroys, where `zfs rollback -r` can stop half way.

mod fault;
mod inline;
mod model;
mod moving;
pub(crate) mod nvlist;
mod owning;
mod pipe;
mod port;
mod receiving;
mod records;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

pub use self::fault::{Fault, Op};
use self::{fault::Faults, model::Host, records::bytes_of};
use crate::{
    port::zfs::{ZfsError, ZfsResult},
    types::{
        DatasetName, Delegate, Delegation, Guid, SnapshotName,
        listing::{Capabilities, DatasetKind, Encryption, PropertySource},
    },
};

/// What a pool holds unless told otherwise.
const POOL_BYTES: u64 = 1 << 40;

/// A ZFS in memory. Clones share it.
///
/// Pools come into being with their first dataset.
#[derive(Clone)]
pub struct FakeZfs {
    inner: Arc<Inner>,
}

struct Inner {
    host: Mutex<Host>,
    faults: Faults,
    /// See [`FakeZfs::in_one_thread`].
    inline: AtomicBool,
    watcher: Mutex<Option<Watcher>>,
}

/// Hears of every operation that has ended: which, on what, and how.
type Watcher = Arc<dyn Fn(Op, &str, Result<(), &ZfsError>) + Send + Sync>;

impl std::fmt::Debug for FakeZfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeZfs")
    }
}

impl FakeZfs {
    /// One that can do what OpenZFS 2.3 can.
    pub fn new(seed: u64) -> Self {
        let all = ["bookmarks", "bookmark_v2", "extensible_dataset", "large_blocks", "embedded_data", "encryption"];
        let features: std::collections::BTreeSet<String> = all.iter().map(|f| f.to_string()).collect();
        Self::with_capabilities(
            seed,
            Capabilities {
                userland_version: Some("2.3.2-fake".into()),
                kernel_version: Some("2.3.2-fake".into()),
                send_large_block: true,
                send_compressed: true,
                send_embed: true,
                send_raw: true,
                send_resume: true,
                send_estimate: true,
                receive_resumable: true,
                receive_properties: true,
                bookmarks: true,
                holds: true,
                snapshot_many: true,
                volmode: true,
                pool_features_active: features.clone(),
                pool_features: features,
            },
        )
    }

    /// One that can do what zfs-fuse 0.7 can.
    pub fn old(seed: u64) -> Self {
        Self::with_capabilities(seed, Capabilities { holds: true, ..Capabilities::default() })
    }

    /// One that can do exactly this.
    pub fn with_capabilities(seed: u64, can: Capabilities) -> Self {
        let (host, faults) = (Mutex::new(Host::new(can, seed)), Faults::default());
        Self { inner: Arc::new(Inner { host, faults, inline: AtomicBool::new(false), watcher: Mutex::default() }) }
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        // A test that failed while it held the lock has changed nothing halfway that others could not see anyway.
        self.inner.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a mounted filesystem, and what is missing above it. Does nothing if it is there.
    pub fn create(&self, name: &DatasetName) {
        self.make(name, DatasetKind::Filesystem);
    }

    /// Makes a volume. It holds zeros.
    pub fn create_volume(&self, name: &DatasetName, bytes: u64) {
        self.make(name, DatasetKind::Volume);
        self.write(name, 1, bytes.saturating_sub(1), &[0]);
    }

    /// Makes an encrypted filesystem that is its own encryption root, with its key loaded.
    pub fn create_encrypted(&self, name: &DatasetName) {
        self.make(name, DatasetKind::Filesystem);
        if let Some(d) = self.host().datasets.get_mut(name) {
            let root = Some(name.clone());
            d.encryption = Some(Encryption { suite: "aes-256-gcm".into(), root, key_loaded: true });
        }
    }

    fn make(&self, name: &DatasetName, kind: DatasetKind) {
        let mut host = self.host();
        host.pools.entry(name.pool().to_owned()).or_insert(POOL_BYTES);
        for above in name.ancestors() {
            if !host.datasets.contains_key(&above) {
                let mut d = host.new_dataset(DatasetKind::Filesystem);
                d.mounted = true;
                host.datasets.insert(above, d);
            }
        }
        if !host.datasets.contains_key(name) {
            let mut d = host.new_dataset(kind);
            (d.mounted, d.has_device) =
                (kind == DatasetKind::Filesystem, kind == DatasetKind::Volume && host.can.volmode);
            host.datasets.insert(name.clone(), d);
        }
    }

    /// Makes a mounted clone.
    pub fn clone_snapshot(&self, from: &SnapshotName, to: &DatasetName) {
        let mut host = self.host();
        let Some((objects, kind)) =
            host.dataset(&from.dataset()).and_then(|d| Some((d.snap(&from.tag())?.objects.clone(), d.kind)))
        else {
            return;
        };
        let mut d = host.new_dataset(kind);
        (d.live, d.origin, d.mounted) = (objects, Some(from.clone()), true);
        host.datasets.insert(to.clone(), d);
    }

    /// Destroys a dataset and all below it, whatever holds them.
    pub fn destroy(&self, name: &DatasetName) {
        self.host().datasets.retain(|n, _| !n.is_at_or_below(name));
    }

    /// Writes as a program on that host would. Does nothing, and says false, where it could not: the dataset is not
    /// there, or is read-only, or its key is not loaded.
    pub fn write(&self, name: &DatasetName, object: u64, offset: u64, bytes: &[u8]) -> bool {
        let mut host = self.host();
        let readonly = host.property(name, "readonly").is_some_and(|p| p.value == "on");
        let Some(d) = host.datasets.get_mut(name) else { return false };
        if readonly || d.receiving || d.encryption.as_ref().is_some_and(|e| !e.key_loaded) {
            return false;
        }
        records::write_at(Arc::make_mut(&mut d.live), object, offset, bytes);
        true
    }

    /// All objects of a dataset as it is now; `None` if there is none.
    pub fn content(&self, name: &DatasetName) -> Option<BTreeMap<u64, Vec<u8>>> {
        let host = self.host();
        Some(host.dataset(name)?.live.iter().map(|(n, b)| (*n, bytes_of(b))).collect())
    }

    /// All objects of a snapshot; `None` if there is none.
    pub fn snapshot_content(&self, name: &SnapshotName) -> Option<BTreeMap<u64, Vec<u8>>> {
        let host = self.host();
        Some(host.snap(name)?.objects.iter().map(|(n, b)| (*n, bytes_of(b))).collect())
    }

    /// Filesystem or volume; `None` if it is not there.
    pub fn kind(&self, name: &DatasetName) -> Option<DatasetKind> {
        self.host().dataset(name).map(|d| d.kind)
    }

    /// Loads or unloads the key of an encrypted dataset.
    pub fn set_key_loaded(&self, name: &DatasetName, loaded: bool) {
        if let Some(e) = self.host().datasets.get_mut(name).and_then(|d| d.encryption.as_mut()) {
            e.key_loaded = loaded;
        }
    }

    /// True if it is there and mounted, with nothing mounted over it.
    pub fn is_mounted(&self, name: &DatasetName) -> bool {
        self.host().dataset(name).is_some_and(|d| d.mounted && !d.hidden)
    }

    /// True if it is a volume whose device is there.
    pub fn has_device(&self, name: &DatasetName) -> bool {
        self.host().dataset(name).is_some_and(|d| d.has_device)
    }

    /// True if it is there and read-only.
    pub fn reads_only(&self, name: &DatasetName) -> bool {
        self.host().property(name, "readonly").is_some_and(|p| p.value == "on")
    }

    /// The properties that were set on a dataset itself, or came in a stream, with their values.
    pub fn local_properties(&self, name: &DatasetName) -> Vec<(String, String)> {
        let host = self.host();
        let all = host.dataset(name).into_iter().flat_map(|d| &d.properties);
        all.map(|(name, (value, source))| (name.clone(), format!("{value} ({source:?})"))).collect()
    }

    /// Mounts or unmounts.
    pub fn set_mounted(&self, name: &DatasetName, mounted: bool) {
        if let Some(d) = self.host().datasets.get_mut(name) {
            d.mounted = mounted;
        }
    }

    /// Sets a property to whatever value, as a newer release would.
    pub fn set_local(&self, name: &DatasetName, property: &str, value: &str) {
        if let Some(d) = self.host().datasets.get_mut(name) {
            d.properties.insert(property.to_owned(), (value.to_owned(), PropertySource::Local));
        }
    }

    /// Sets a property as if it had come in a stream (`received`).
    pub fn set_received(&self, name: &DatasetName, property: &str, value: &str) {
        if let Some(d) = self.host().datasets.get_mut(name) {
            d.properties.insert(property.to_owned(), (value.to_owned(), PropertySource::Received));
            d.received.insert(property.to_owned(), value.to_owned());
        }
    }

    /// From now on something uses the mount or device of that dataset, or nothing does any more.
    pub fn set_busy(&self, name: &DatasetName, busy: bool) {
        let mut host = self.host();
        if busy {
            host.busy_mounts.insert(name.clone());
        } else {
            host.busy_mounts.remove(name);
        }
    }

    /// Limits what a pool holds, in bytes.
    pub fn set_capacity(&self, pool: &str, bytes: u64) {
        self.host().pools.insert(pool.to_owned(), bytes);
    }

    /// What it can do.
    pub fn can(&self) -> Capabilities {
        self.host().can.clone()
    }

    /// Says what `zpool list` reports of a pool's health.
    pub fn set_health(&self, pool: &str, health: &str) {
        self.host().health.insert(pool.to_owned(), health.to_owned());
    }

    /// Delegates permissions on a dataset, as `zfs allow` does.
    pub fn allow(&self, dataset: &DatasetName, to: Delegate, permissions: &[&str]) {
        let permissions = permissions.iter().map(|p| (*p).to_owned()).collect();
        self.host().delegations.entry(dataset.clone()).or_default().push(Delegation { to, permissions });
    }

    /// The next operation of that kind meets this fault. Several wait in line, one for each operation.
    pub fn fail_at(&self, op: Op, fault: Fault) {
        self.inner.faults.add(op, fault);
    }

    /// Takes back the faults that nothing has met yet.
    pub fn clear_faults(&self) {
        self.inner.faults.clear();
    }

    /// From now on sends and receives have no threads of their own: their work is done while they are read and written, so
    /// that in a runtime of one thread the same always happens in the same order. [`Fault::StallAfter`] needs threads.
    pub fn in_one_thread(self) -> Self {
        self.inner.inline.store(true, Ordering::Relaxed);
        self
    }

    /// Tells `watcher` of every operation that has ended, of sends and receives included, in the thread that ended it.
    pub fn watch(&self, watcher: impl Fn(Op, &str, Result<(), &ZfsError>) + Send + Sync + 'static) {
        *self.inner.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watcher));
    }

    /// Lets the watcher go, and with it what it holds: often this very host.
    pub fn unwatch(&self) {
        *self.inner.watcher.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn tell<T>(&self, op: Op, what: &str, ended: &ZfsResult<T>) {
        let watcher = self.inner.watcher.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(watcher) = watcher {
            watcher(op, what, ended.as_ref().map(drop));
        }
    }

    /// The snapshots at and below a dataset with their GUIDs, met by no fault and counted by nobody.
    pub fn snapshots_below(&self, root: &DatasetName) -> Vec<(SnapshotName, Guid)> {
        let host = self.host();
        let below = host.datasets.iter().filter(|(name, _)| name.is_at_or_below(root));
        let all = below.flat_map(|(name, d)| d.snaps.iter().map(move |s| (name.snapshot(&s.tag), s.guid)));
        all.filter_map(|(name, guid)| Some((name.ok()?, guid))).collect()
    }

    /// Lets go on what [`Fault::StallAfter`] has stopped so far.
    pub fn release_stalled(&self) {
        self.inner.faults.release();
    }

    /// How often that operation was called.
    pub fn count(&self, op: Op) -> u64 {
        self.inner.faults.count(op)
    }
}

#[cfg(test)]
mod tests;
