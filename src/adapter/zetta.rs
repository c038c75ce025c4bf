//! The `Zfs` port on libzfs_core, through libzetta, where that does better than the tools; the rest goes to [`ZfsCommand`].
//!
//! By libzfs_core: snapshots, of any number of datasets in one transaction group, and bookmarks and the destruction of
//! both. It answers with an errno instead of a text, and no command line limits its size. libzetta 0.5 has no holds,
//! rollback, receive, resume token or listing with properties on this interface, and it cannot send with `-w` or `-t`.
//!
//! Invariant: the same contract as the command adapter, whichever way an operation takes.

use std::{collections::HashMap, path::PathBuf};

use async_trait::async_trait;
use libnv::nvpair::Value;
use libzetta::zfs::{BookmarkRequest, DestroyTiming, Error, ZfsEngine, ZfsLzc};

use super::zfs::{ZfsCommand, port::root_takes_part};
use crate::{
    port::zfs::{
        Depth, ReceiveSpec, Receiving, SendSpec, Sending, Since, SnapshotRequest, Zfs, ZfsError,
        ZfsErrorKind::{self, *},
        ZfsResult,
    },
    types::{
        BookmarkName, DatasetName, Delegation, PoolStatus, SnapshotName, ZfsVersion,
        listing::{Capabilities, DatasetInfo, Listing, Property},
    },
};

/// This host's OpenZFS, through libzfs_core and the command line tools.
#[derive(Debug)]
pub struct ZettaZfs {
    lzc: ZfsLzc,
    command: ZfsCommand,
}

impl ZettaZfs {
    /// Opens libzfs_core.
    ///
    /// # Errors
    /// When there is no `/dev/zfs`, or it may not be opened.
    pub fn new(command: ZfsCommand) -> ZfsResult<Self> {
        let lzc = ZfsLzc::new().map_err(|e| failure("open libzfs_core", &e, |_| NoTool))?;
        Ok(Self { lzc, command })
    }

    /// How many processes were started. The library starts none.
    pub fn commands_run(&self) -> u64 {
        self.command.commands_run()
    }

    /// The library blocks until the transaction group is synced, so it is called off the async threads.
    async fn library(
        &self,
        operation: &str,
        kind: fn(i32) -> ZfsErrorKind,
        f: impl FnOnce(&ZfsLzc) -> Result<(), Error> + Send + 'static,
    ) -> ZfsResult<()> {
        tracing::debug!(operation, "call libzfs_core");
        let lzc = self.lzc.clone();
        let done = tokio::task::spawn_blocking(move || f(&lzc)).await;
        let done = done.map_err(|e| bare(operation, Other, e.to_string()))?;
        done.map_err(|e| failure(operation, &e, kind))
    }
}

fn bare(operation: &str, kind: ZfsErrorKind, detail: String) -> ZfsError {
    ZfsError { operation: operation.to_owned(), kind, detail }
}

/// What an errno means, so far as it means the same everywhere (`libzfs_core(3)`, `errno(3)`).
fn common(errno: i32) -> ZfsErrorKind {
    match errno {
        1 | 13 => Permission,
        2 => NotFound,
        5 | 6 | 30 => Io,
        11 | 16 => Busy,
        17 => Exists,
        28 | 122 => NoSpace,
        95 => Unsupported,
        _ => Other,
    }
}

/// When snapshots are destroyed, "exists" says that a clone does (`lzc_destroy_snaps`).
fn destroying(errno: i32) -> ZfsErrorKind {
    if errno == 17 { Busy } else { common(errno) }
}

fn failure(operation: &str, error: &Error, kind: impl Fn(i32) -> ZfsErrorKind) -> ZfsError {
    let text = |errno: i32| std::io::Error::from_raw_os_error(errno).to_string();
    match error {
        Error::Io(e) | Error::LZCInitializationFailed(e) => {
            let errno = e.raw_os_error().unwrap_or(0);
            bare(operation, kind(errno), text(errno))
        }
        Error::MultiOpError(each) => several(operation, each, kind, text),
        other => bare(operation, Other, format!("{other:?}")),
    }
}

fn several(
    operation: &str,
    each: &HashMap<String, Value>,
    kind: impl Fn(i32) -> ZfsErrorKind,
    text: impl Fn(i32) -> String,
) -> ZfsError {
    let mut all: Vec<(&str, i32)> = each
        .iter()
        .map(|(name, value)| (name.as_str(), if let Value::Int32(errno) = value { *errno } else { 0 }))
        .collect();
    all.sort_unstable();
    let lines: Vec<String> = all.iter().take(20).map(|(name, errno)| format!("{name}: {}", text(*errno))).collect();
    bare(operation, all.first().map_or(Other, |(_, errno)| kind(*errno)), lines.join("\n"))
}

#[async_trait]
impl Zfs for ZettaZfs {
    async fn snapshot(&self, request: &SnapshotRequest) -> ZfsResult<()> {
        let operation = format!("snapshot {}@{}", request.root, request.tag);
        let names = match request.recursive {
            true => {
                root_takes_part(&operation, request)?;
                self.command.snapshot_names(&operation, request).await?
            }
            false => vec![format!("{}@{}", request.root, request.tag)],
        };
        let names: Vec<PathBuf> = names.into_iter().map(PathBuf::from).collect();
        self.library(&operation, common, move |lzc| lzc.snapshot(&names, None)).await
    }

    async fn bookmark(&self, snapshot: &SnapshotName, bookmark: &BookmarkName) -> ZfsResult<()> {
        let operation = format!("bookmark {snapshot} as {bookmark}");
        let request = [BookmarkRequest::new(snapshot.as_str().into(), bookmark.as_str().into())];
        match self.library(&operation, common, move |lzc| lzc.bookmark(&request)).await {
            // The other way looks whether it is this very bookmark.
            Err(e) if e.kind == Exists => self.command.bookmark(snapshot, bookmark).await,
            other => other,
        }
    }

    async fn destroy_bookmark(&self, bookmark: &BookmarkName) -> ZfsResult<()> {
        let names = [PathBuf::from(bookmark.as_str())];
        let destroy = move |lzc: &ZfsLzc| lzc.destroy_bookmarks(&names);
        match self.library(&format!("destroy {bookmark}"), common, destroy).await {
            Err(e) if e.kind == NotFound => Ok(()),
            other => other,
        }
    }

    async fn destroy_snapshot(&self, snapshot: &SnapshotName) -> ZfsResult<()> {
        let names = [PathBuf::from(snapshot.as_str())];
        let destroy = move |lzc: &ZfsLzc| lzc.destroy_snapshots(&names, DestroyTiming::RightNow);
        match self.library(&format!("destroy {snapshot}"), destroying, destroy).await {
            Err(e) if e.kind == NotFound => Ok(()),
            other => other,
        }
    }

    async fn capabilities(&self, pool: &str) -> ZfsResult<Capabilities> {
        self.command.capabilities(pool).await
    }

    async fn list(&self, root: &DatasetName, depth: Depth) -> ZfsResult<Listing> {
        self.command.list(root, depth).await
    }

    async fn datasets(&self, names: &[DatasetName]) -> ZfsResult<Vec<DatasetInfo>> {
        self.command.datasets(names).await
    }

    async fn hold(&self, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()> {
        self.command.hold(tag, snapshots).await
    }

    async fn release(&self, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()> {
        self.command.release(tag, snapshots).await
    }

    async fn holds(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<(SnapshotName, String)>> {
        self.command.holds(snapshots).await
    }

    async fn get(&self, dataset: &str, names: &[&str]) -> ZfsResult<Vec<Property>> {
        self.command.get(dataset, names).await
    }

    async fn set(&self, dataset: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()> {
        self.command.set(dataset, properties).await
    }

    async fn inherit(&self, dataset: &DatasetName, property: &str) -> ZfsResult<()> {
        self.command.inherit(dataset, property).await
    }

    async fn set_all(&self, datasets: &[DatasetName], properties: &[(String, String)]) -> ZfsResult<()> {
        self.command.set_all(datasets, properties).await
    }

    async fn inherit_all(&self, datasets: &[DatasetName], property: &str, received: bool) -> ZfsResult<()> {
        self.command.inherit_all(datasets, property, received).await
    }

    async fn tree(&self, root: &DatasetName) -> ZfsResult<Vec<DatasetInfo>> {
        self.command.tree(root).await
    }

    async fn since(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<Option<Since>>> {
        self.command.since(snapshots).await
    }

    async fn unmount(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.command.unmount(dataset).await
    }

    async fn mount(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.command.mount(dataset).await
    }

    async fn close_volume(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.command.close_volume(dataset).await
    }

    async fn await_volume(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.command.await_volume(dataset).await
    }

    async fn sync(&self, pool: &str) -> ZfsResult<()> {
        self.command.sync(pool).await
    }

    async fn destroy_tree(&self, root: &DatasetName) -> ZfsResult<()> {
        self.command.destroy_tree(root).await
    }

    async fn create_filesystem(&self, dataset: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()> {
        self.command.create_filesystem(dataset, properties).await
    }

    async fn destroy_filesystem(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.command.destroy_filesystem(dataset).await
    }

    async fn rollback(&self, to: &SnapshotName) -> ZfsResult<()> {
        self.command.rollback(to).await
    }

    async fn abort_receive(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.command.abort_receive(dataset).await
    }

    async fn send_size(&self, spec: &SendSpec) -> ZfsResult<Option<u64>> {
        self.command.send_size(spec).await
    }

    async fn send(&self, spec: &SendSpec) -> ZfsResult<Sending> {
        self.command.send(spec).await
    }

    async fn receive(&self, spec: &ReceiveSpec) -> ZfsResult<Receiving> {
        self.command.receive(spec).await
    }

    async fn version(&self) -> ZfsResult<ZfsVersion> {
        self.command.version().await
    }

    async fn pools(&self) -> ZfsResult<Vec<PoolStatus>> {
        self.command.pools().await
    }

    async fn delegations(&self, dataset: &DatasetName) -> ZfsResult<Vec<Delegation>> {
        self.command.delegations(dataset).await
    }
}
