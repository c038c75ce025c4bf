//! The `Zfs` port: all that zmigrate asks of one host's ZFS.
//!
//! Every operation is safe to repeat: asking for what already is so succeeds. An implementation
//! passes the contract tests in `tests/contract`, which run over the fake, zfs-fuse and OpenZFS alike.

use std::{
    fmt,
    io::{Read, Write},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use crate::types::transfer::{Base, Depth, ReceiveSpec, SendFlags, SendSpec, SnapshotRequest};
use crate::types::{
    BookmarkName, DatasetName, Delegation, Guid, PoolStatus, SnapshotName, ZfsVersion,
    listing::{Capabilities, DatasetInfo, Listing},
};

/// What went wrong, so far as the text and the exit status of `zfs` tell (ZFS' messages are not an interface:
/// a class only picks the hint and whether to try again; the full text is always shown).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ZfsErrorKind {
    /// The dataset, snapshot, bookmark or origin does not exist.
    NotFound,
    /// The thing to be made is there already.
    Exists,
    /// The target's newest snapshot is not the incremental source.
    Diverged,
    /// The target was modified since its newest snapshot.
    DirtyTarget,
    /// The target holds the state of an interrupted receive.
    PartialState,
    /// Busy: mounted, held, cloned, or being received. May pass.
    Busy,
    /// The pool is full, or a quota is reached.
    NoSpace,
    /// The stream ended early, or its pipe broke. The other end of the pipe has the cause.
    Transport,
    /// The stream is damaged or not a stream.
    BadStream,
    /// The stream, or the operation, needs something that this ZFS or pool lacks.
    Unsupported,
    /// "kernel modules must be upgraded": under `-s` mostly a wrong target or a stale token.
    Ambiguous,
    /// Keys, IV sets, raw against plain.
    Crypto,
    /// A resume token that can no longer be used: its snapshot is gone or it does not parse.
    DeadToken,
    /// `zfs` said "permission denied".
    Permission,
    /// I/O error, suspended or read-only pool.
    Io,
    /// The process was killed by a signal that zmigrate did not send.
    Killed,
    /// zmigrate itself stopped the process.
    Stopped,
    /// `zfs` could not be started.
    NoTool,
    /// `zfs` printed something that zmigrate does not understand.
    Unparsable,
    /// Anything else.
    Other,
}

/// A failed ZFS operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZfsError {
    /// What was tried and on what, for instance `receive into tank/db`.
    pub operation: String,
    /// The class of the failure.
    pub kind: ZfsErrorKind,
    /// What `zfs` printed on stderr (bounded), or the cause where it was never run. One line or more.
    pub detail: String,
}

impl fmt::Display for ZfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.detail)
    }
}

impl std::error::Error for ZfsError {}

/// The result of an operation of the port.
pub type ZfsResult<T> = Result<T, ZfsError>;

/// A running `zfs` process.
#[async_trait]
pub trait Process: Send {
    /// Waits for the end and judges it: exit status and stderr both.
    ///
    /// # Errors
    /// When the process failed, was killed, or could not be waited for.
    async fn wait(&mut self) -> ZfsResult<()>;

    /// Ends the process at once (SIGKILL). `wait` then says [`ZfsErrorKind::Stopped`]. Harmless after the end.
    /// What is still read from a stopped sender's stream may fail, and never looks complete.
    fn kill(&mut self);

    /// What the process printed on stderr although it succeeded, line by line; empty before `wait` has returned.
    /// `zfs receive` reports a property that it could not set in this way alone.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A running `zfs send`. Dropping it kills the process.
pub struct Sending {
    /// The stream. Reads block, so read it off the async threads.
    pub stream: Box<dyn Read + Send>,
    /// The process behind it.
    pub process: Box<dyn Process>,
}

/// A running `zfs receive`. Dropping `stream` ends the stream; dropping `process` kills it.
pub struct Receiving {
    /// Takes the stream. Writes block, so write off the async threads.
    pub stream: Box<dyn Write + Send>,
    /// The process behind it.
    pub process: Box<dyn Process>,
}

/// A snapshot, and what became of its dataset since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// Its GUID.
    pub guid: Guid,
    /// Bytes that were written to the dataset since this snapshot, whatever others were taken meanwhile (`written@SNAPSHOT` in
    /// zfsprops(7)). Where the tool has no such property: by how much the space that the dataset refers to differs, and what this
    /// snapshot alone still holds. What has no figure counts as written to.
    pub written: u64,
}

/// One host's ZFS.
#[async_trait]
pub trait Zfs: Send + Sync {
    /// Probes what this ZFS and the pool called `pool` can do. Implementations may keep the answer.
    async fn capabilities(&self, pool: &str) -> ZfsResult<Capabilities>;

    /// Lists `root` (and what is below it) with a number of commands that does not depend on the size of the tree.
    /// An absent root is an empty listing. Names that zmigrate cannot represent are an error, never left out.
    async fn list(&self, root: &DatasetName, depth: Depth) -> ZfsResult<Listing>;

    /// The named datasets without their snapshots and bookmarks; absent ones are left out. One command.
    async fn datasets(&self, names: &[DatasetName]) -> ZfsResult<Vec<DatasetInfo>>;

    /// Takes one atomic snapshot. Fails with `Exists` if one of that tag is there already.
    async fn snapshot(&self, request: &SnapshotRequest) -> ZfsResult<()>;

    /// Makes a bookmark of a snapshot; succeeds if that very bookmark (same GUID) is there.
    async fn bookmark(&self, snapshot: &SnapshotName, bookmark: &BookmarkName) -> ZfsResult<()>;

    /// Destroys a bookmark; succeeds if there is none.
    async fn destroy_bookmark(&self, bookmark: &BookmarkName) -> ZfsResult<()>;

    /// Destroys exactly one snapshot (no `-r`, `-R`, `-d`); succeeds if there is none, fails `Busy` if held or cloned.
    async fn destroy_snapshot(&self, snapshot: &SnapshotName) -> ZfsResult<()>;

    /// Puts a hold of that tag on each snapshot; succeeds where it is there.
    async fn hold(&self, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()>;

    /// Takes the hold of that tag off each snapshot; succeeds where there is none, or no such snapshot.
    async fn release(&self, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()>;

    /// The tags of the holds on each of the snapshots, as (snapshot, tag) pairs. `Unsupported` where holds work but
    /// cannot be listed (zfs-fuse as Debian packages it).
    async fn holds(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<(SnapshotName, String)>>;

    /// Reads properties of one dataset, snapshot or bookmark: the named ones that have a value.
    async fn get(&self, dataset: &str, names: &[&str]) -> ZfsResult<Vec<crate::types::listing::Property>>;

    /// Sets properties of a dataset, in order.
    async fn set(&self, dataset: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()>;

    /// Goes back to the inherited value of a property (`zfs inherit`).
    async fn inherit(&self, dataset: &DatasetName, property: &str) -> ZfsResult<()>;

    /// Sets properties on all of the datasets, in any order, with as few commands as this ZFS permits.
    async fn set_all(&self, datasets: &[DatasetName], properties: &[(String, String)]) -> ZfsResult<()>;

    /// Goes back to the inherited value of a property on all of the datasets; with `received`, to the value that came in
    /// a stream (`zfs inherit -S`).
    async fn inherit_all(&self, datasets: &[DatasetName], property: &str, received: bool) -> ZfsResult<()>;

    /// The dataset and all below it, without snapshots and bookmarks. One command, or two where the tool is old; empty where there is none.
    async fn tree(&self, root: &DatasetName) -> ZfsResult<Vec<DatasetInfo>>;

    /// Which snapshots these are, in their order, and what was written to their datasets since; `None` for one that is not there. One
    /// command where the names fit.
    async fn since(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<Option<Since>>>;

    /// Unmounts a filesystem and all that is mounted below it, without force: fails `Busy` while anything is in use.
    /// Succeeds if it is not mounted.
    async fn unmount(&self, dataset: &DatasetName) -> ZfsResult<()>;

    /// Mounts a filesystem where its `mountpoint` says, whatever its `canmount`, but for `off`. Succeeds if it is mounted.
    async fn mount(&self, dataset: &DatasetName) -> ZfsResult<()>;

    /// Takes a volume's device away (`volmode=none`) and sees it go: fails `Busy` while anything has it open. Does
    /// nothing where volumes have no devices.
    async fn close_volume(&self, dataset: &DatasetName) -> ZfsResult<()>;

    /// Waits some seconds for the device of a volume whose `volmode` was set to other than `none`: it comes a while after that.
    /// Succeeds also if it does not come, and at once where volumes have no devices.
    async fn await_volume(&self, dataset: &DatasetName) -> ZfsResult<()>;

    /// Waits until all that was written to the pool is on disk (`zpool sync`); does nothing where the tool cannot, as a
    /// snapshot waits for its own transaction group anyway.
    async fn sync(&self, pool: &str) -> ZfsResult<()>;

    /// Destroys a dataset, all below it, and their snapshots (`zfs destroy -r`, never `-R`). Succeeds if there is none.
    async fn destroy_tree(&self, root: &DatasetName) -> ZfsResult<()>;

    /// Makes an empty filesystem with these properties, not mounted. Fails with `Exists` if it is there.
    async fn create_filesystem(&self, dataset: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()>;

    /// Destroys an empty filesystem (plain `zfs destroy`, no `-r`): fails `Busy` or `Exists` if anything is below it or
    /// it has snapshots; succeeds if there is none.
    async fn destroy_filesystem(&self, dataset: &DatasetName) -> ZfsResult<()>;

    /// `zfs rollback`: throws away what was written since `to`, which has to be the newest; `Diverged` where there are newer
    /// snapshots or bookmarks. Never `-r`: whoever destroys those names each.
    async fn rollback(&self, to: &SnapshotName) -> ZfsResult<()>;

    /// `zfs receive -A`: throws away the state of an interrupted receive; succeeds if there is none.
    async fn abort_receive(&self, dataset: &DatasetName) -> ZfsResult<()>;

    /// Bytes that a send would be, or `None` where this ZFS cannot say.
    async fn send_size(&self, spec: &SendSpec) -> ZfsResult<Option<u64>>;

    /// Starts `zfs send`.
    async fn send(&self, spec: &SendSpec) -> ZfsResult<Sending>;

    /// Starts `zfs receive`.
    async fn receive(&self, spec: &ReceiveSpec) -> ZfsResult<Receiving>;

    /// A user property of `root` and all below it, where it has a value, set or inherited. One command where that can be.
    async fn user_property(&self, root: &DatasetName, name: &str) -> ZfsResult<Vec<(DatasetName, String)>> {
        let mut found = Vec::new();
        for dataset in self.list(root, Depth::Tree).await?.datasets {
            let got = self.get(dataset.name.as_str(), &[name]).await?;
            found.extend(got.into_iter().map(|property| (dataset.name.clone(), property.value)));
        }
        Ok(found)
    }

    /// The version of the tools and of the kernel module. Nothing of it where this ZFS has no version to tell.
    async fn version(&self) -> ZfsResult<ZfsVersion>;

    /// All imported pools, by name, with a number of commands that does not depend on how many there are. A pool that is
    /// suspended or faulted is reported and not asked any further, because asking it could hang.
    async fn pools(&self) -> ZfsResult<Vec<PoolStatus>>;

    /// What `zfs allow` has delegated that counts on this very dataset. `Unsupported` where that cannot be listed.
    async fn delegations(&self, dataset: &DatasetName) -> ZfsResult<Vec<Delegation>>;
}
