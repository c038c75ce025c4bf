//! What trials do beside the port: make datasets, write into them, read them back, move streams.

use std::{collections::BTreeMap, sync::Arc};

pub use crate::common::noise;

use zmigrate::{
    port::zfs::{
        Base, Depth, ReceiveSpec, SendFlags, SendSpec, SnapshotRequest, Zfs, ZfsError, ZfsErrorKind, ZfsResult,
    },
    types::{
        BookmarkName, DatasetName, SnapshotName,
        listing::{Capabilities, DatasetInfo},
    },
};

/// A file's number and its bytes.
pub type Content = BTreeMap<u64, Vec<u8>>;

/// The part of a backend that the port has no operation for.
pub trait Host: Send + Sync {
    /// Makes a filesystem that can be written to.
    fn create(&self, name: &DatasetName);
    /// Makes a volume.
    fn create_volume(&self, name: &DatasetName, bytes: u64);
    /// Makes an encrypted filesystem, with its key loaded, that can be written to.
    fn create_encrypted(&self, name: &DatasetName);
    /// Loads the key that `create_encrypted` uses.
    fn load_key(&self, name: &DatasetName);
    /// Makes a clone.
    fn clone_snapshot(&self, from: &SnapshotName, to: &DatasetName);
    /// Writes into the numbered file of a filesystem, or into a volume. Mounts it if need be.
    fn write(&self, name: &DatasetName, file: u64, offset: u64, bytes: &[u8]);
    /// Reads all files of a snapshot; a volume is one file, number 0.
    fn read(&self, snapshot: &SnapshotName) -> Content;
    /// True if it is mounted.
    fn is_mounted(&self, name: &DatasetName) -> bool;
    /// Commands that the port's implementation has run so far; `None` if it runs none.
    fn commands_run(&self) -> Option<u64>;
}

/// A trial's own corner of a backend.
pub struct World {
    pub zfs: Arc<dyn Zfs>,
    pub host: Box<dyn Host>,
    pub can: Capabilities,
    /// A dataset that is there, is empty, and belongs to this trial alone.
    pub root: DatasetName,
}

impl World {
    /// A name below the trial's root.
    pub fn ds(&self, below: &str) -> DatasetName {
        self.root.join(below).unwrap()
    }

    /// A filesystem below the trial's root.
    pub fn create(&self, below: &str) -> DatasetName {
        let name = self.ds(below);
        self.host.create(&name);
        name
    }

    /// Writes `kib` KiB of noise that depends on `seed`, at the start of a file.
    pub fn fill(&self, name: &DatasetName, file: u64, kib: usize, seed: u64) {
        self.host.write(name, file, 0, &noise(kib << 10, seed));
    }

    pub async fn snapshot(&self, name: &DatasetName, tag: &str) -> SnapshotName {
        self.zfs.snapshot(&request(name, tag)).await.unwrap();
        snap(name, tag)
    }

    pub async fn look(&self, name: &DatasetName) -> Option<DatasetInfo> {
        let listing = self.zfs.list(name, Depth::Root).await.unwrap();
        assert!(listing.datasets.len() < 2);
        listing.datasets.into_iter().next()
    }

    /// The tags of a dataset's snapshots, in order.
    pub async fn tags(&self, name: &DatasetName) -> Vec<String> {
        let found = self.look(name).await;
        found.map_or(Vec::new(), |d| d.snapshots.iter().map(|s| s.tag.to_string()).collect())
    }

    /// A whole stream.
    pub async fn stream(&self, spec: &SendSpec) -> ZfsResult<Vec<u8>> {
        let sending = self.zfs.send(spec).await?;
        let (mut stream, mut process) = (sending.stream, sending.process);
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).map(|_| all)
        });
        let read = read.await.unwrap();
        process.wait().await?;
        Ok(read.unwrap())
    }

    /// Receives these bytes.
    pub async fn take(&self, spec: &ReceiveSpec, bytes: &[u8]) -> ZfsResult<()> {
        let receiving = self.zfs.receive(spec).await?;
        let (mut stream, mut process) = (receiving.stream, receiving.process);
        let bytes = bytes.to_vec();
        // A receiver that fails early closes its end; what matters is what it says.
        let written = tokio::task::spawn_blocking(move || stream.write_all(&bytes).is_ok());
        let verdict = process.wait().await;
        let written = written.await.unwrap();
        assert!(written || verdict.is_err(), "a receive that succeeds has read its stream");
        verdict
    }

    /// Sends and receives.
    pub async fn transfer(&self, what: &SendSpec, to: &SnapshotName) {
        let bytes = self.stream(what).await.unwrap();
        self.take(&into(to), &bytes).await.unwrap();
    }
}

pub fn snap(name: &DatasetName, tag: &str) -> SnapshotName {
    name.snapshot(&tag.parse().unwrap()).unwrap()
}

pub fn mark(name: &DatasetName, tag: &str) -> BookmarkName {
    format!("{name}#{tag}").parse().unwrap()
}

pub fn request(root: &DatasetName, tag: &str) -> SnapshotRequest {
    SnapshotRequest { root: root.clone(), tag: tag.parse().unwrap(), recursive: false, except: Vec::new() }
}

pub fn full(snapshot: &SnapshotName) -> SendSpec {
    SendSpec::Full { snapshot: snapshot.clone(), flags: SendFlags::default() }
}

pub fn incremental(from: &SnapshotName, to: &SnapshotName) -> SendSpec {
    SendSpec::Incremental { base: Base::Snapshot(from.clone()), snapshot: to.clone(), flags: SendFlags::default() }
}

pub fn into(snapshot: &SnapshotName) -> ReceiveSpec {
    ReceiveSpec { snapshot: snapshot.clone(), resumable: false, origin: None, set: Vec::new() }
}

pub fn resumable_into(snapshot: &SnapshotName) -> ReceiveSpec {
    ReceiveSpec { resumable: true, ..into(snapshot) }
}

/// Fails unless it failed in one of these ways.
#[track_caller]
pub fn assert_fails<T: std::fmt::Debug>(result: ZfsResult<T>, kinds: &[ZfsErrorKind]) -> ZfsError {
    let error = result.expect_err("this should have failed");
    assert!(kinds.contains(&error.kind), "not {kinds:?} but {:?}: {error}", error.kind);
    assert!(!error.operation.is_empty() && !error.detail.is_empty(), "{error:?}");
    error
}
