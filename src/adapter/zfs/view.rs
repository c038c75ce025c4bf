//! Views of snapshots on this host.
//!
//! ```text
//! filesystem, OpenZFS    mount(2) of POOL/DS@SNAP, read-only, on DIR/ID.at
//! filesystem, zfs-fuse   a clone, read-only, with DIR/ID.at as its mount point: zfs-fuse mounts no snapshots and has no .zfs
//! volume, OpenZFS        a clone with volmode=dev: a device of its own, whatever the volume's snapdev says
//! ```
//!
//! Invariants: what is made is written down in `DIR/ID` first, whose lock the process holds as long as it lives. So whoever gets
//! that lock may tidy up. Only a dataset is destroyed that bears our name, whose `zmigrate:clone` is that very id, and
//! without `-r`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    rand::{GetRandomFlags, getrandom},
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::Instrument;

use super::{ZfsCommand, run::error};
use crate::{
    port::{
        view::{View, Views},
        zfs::{Zfs, ZfsErrorKind, ZfsResult},
    },
    types::{
        DatasetName, SnapshotName,
        listing::{CLONE, DatasetKind},
    },
};

/// What the last part of a clone's name begins with.
const NAME: &str = "zmigrate-view-";
/// How long a device may take to appear, and a clone to be let go: udev looks into each new one.
const PATIENCE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// The snapshots of this host, laid open in `state_dir/views`.
pub struct HostViews {
    zfs: Arc<ZfsCommand>,
    dir: PathBuf,
}

/// What stands in a record, and the lock on it.
struct Record {
    id: String,
    clone: Option<DatasetName>,
    at: PathBuf,
    file: PathBuf,
    // Closing it lets the lock go.
    _lock: File,
}

struct Open {
    zfs: Arc<ZfsCommand>,
    record: Option<Record>,
    path: PathBuf,
}

impl HostViews {
    /// Views in `state_dir/views`, which is made when first needed, for its owner alone.
    pub fn new(zfs: Arc<ZfsCommand>, state_dir: &Path) -> Self {
        Self { zfs, dir: state_dir.join("views") }
    }

    /// Shuts what a process left that died.
    async fn sweep(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Some(record) = entry.file_name().to_str().and_then(|id| self.abandoned(id)) else { continue };
            tracing::info!(view = record.id, "shutting a view that a process left");
            if let Err(e) = shut(&self.zfs, record).await {
                tracing::warn!("{e}; the next view tries again");
            }
        }
    }

    /// Keeps others from making or taking up a record: between the making of one and its lock it looks abandoned.
    fn alone(&self) -> std::io::Result<File> {
        let dir = File::open(&self.dir)?;
        flock(&dir, FlockOperation::LockExclusive)?;
        Ok(dir)
    }

    /// The record of that id, if nobody holds it.
    fn abandoned(&self, id: &str) -> Option<Record> {
        let _alone = self.alone().ok()?;
        if id.len() != 16 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let file = self.dir.join(id);
        let mut lock = File::open(&file).ok()?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        let mut text = String::new();
        (&mut lock).take(4096).read_to_string(&mut text).ok()?;
        let clone = text.lines().next().and_then(|name| name.parse().ok());
        Some(Record { id: id.to_owned(), clone, at: self.at(id), file, _lock: lock })
    }

    fn at(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.at"))
    }

    /// Writes down what is about to be made.
    fn record(&self, snapshot: &SnapshotName, clones: bool) -> std::io::Result<Record> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let id = hex::encode(random);
        let pool = snapshot.dataset();
        let pool = pool.pool().to_owned();
        let clone = clones.then(|| format!("{pool}/{NAME}{id}").parse::<DatasetName>());
        let clone = clone.transpose().map_err(std::io::Error::other)?;
        let file = self.dir.join(&id);
        let _alone = self.alone()?;
        let mut lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let name = clone.as_ref().map_or("-", DatasetName::as_str);
        writeln!(lock, "{name}\n{snapshot}")?;
        lock.sync_all()?;
        let at = self.at(&id);
        DirBuilder::new().mode(0o700).create(&at)?;
        Ok(Record { id, clone, at, file, _lock: lock })
    }

    async fn key_is_there(&self, operation: &str, snapshot: &SnapshotName) -> ZfsResult<()> {
        let dataset = snapshot.dataset();
        let found = self.zfs.get(dataset.as_str(), &["keystatus"]).await?;
        if found.iter().any(|property| property.value == "unavailable") {
            let why = format!(
                "the key of {dataset} is not loaded on this host, so nobody can read it here; zfs load-key, or verify without --content"
            );
            return Err(error(operation, ZfsErrorKind::Crypto, why));
        }
        Ok(())
    }

    async fn clone(&self, operation: &str, snapshot: &SnapshotName, record: &Record, more: &[String]) -> ZfsResult<()> {
        let Some(clone) = &record.clone else { return Ok(()) };
        let mark = format!("{CLONE}={}", record.id);
        let mut args = vec!["clone", "-o", "readonly=on", "-o", &mark];
        for option in more {
            args.extend(["-o", option]);
        }
        args.extend([snapshot.as_str(), clone.as_str()]);
        self.zfs.plain(operation, &args).await
    }

    /// Opens into the record; whatever fails, the record says what there may be.
    async fn lay_open(
        &self,
        operation: &str,
        snapshot: &SnapshotName,
        kind: DatasetKind,
        record: &Record,
    ) -> ZfsResult<PathBuf> {
        match (kind, &record.clone) {
            (DatasetKind::Filesystem, None) => {
                let (source, target) = (snapshot.to_string(), record.at.clone());
                let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                let mounted = spawn_blocking(move || mount(source, target, "zfs", flags, None)).await;
                let mounted = mounted.map_err(|e| error(operation, ZfsErrorKind::Other, e))?;
                mounted.map_err(|e| match e {
                    Errno::PERM => error(operation, ZfsErrorKind::Permission, "mounting a snapshot needs root"),
                    e => error(operation, ZfsErrorKind::Other, format!("mount: {e}")),
                })?;
                Ok(record.at.clone())
            }
            (DatasetKind::Filesystem, Some(_)) => {
                let at = record.at.display();
                let more = [format!("mountpoint={at}"), "setuid=off".into(), "exec=off".into(), "devices=off".into()];
                let turn = self.zfs.mounts_in_turn().await?;
                self.clone(operation, snapshot, record, &more).await?;
                drop(turn);
                // Otherwise an empty directory would be compared.
                if !is_mounted(&record.at) {
                    return Err(error(operation, ZfsErrorKind::Other, format!("nothing is mounted at {at}")));
                }
                Ok(record.at.clone())
            }
            (DatasetKind::Volume, clone) => {
                self.clone(operation, snapshot, record, &["volmode=dev".to_owned()]).await?;
                let node = clone.as_ref().map(DatasetName::device_node).unwrap_or_default();
                let until = Instant::now() + PATIENCE;
                loop {
                    // The device that the link of udev leads to: the link goes and comes again whenever udev looks at it anew.
                    if let Ok(device) = fs::canonicalize(&node)
                        && fs::metadata(&device).is_ok_and(|meta| meta.file_type().is_block_device())
                    {
                        return Ok(device);
                    }
                    if Instant::now() >= until {
                        let why = format!("no device {} appeared; is udev at work?", node.display());
                        return Err(error(operation, ZfsErrorKind::Other, why));
                    }
                    sleep(ASK_EVERY).await;
                }
            }
        }
    }
}

#[async_trait]
impl Views for HostViews {
    async fn open(&self, snapshot: &SnapshotName, kind: DatasetKind) -> ZfsResult<Box<dyn View>> {
        let operation = format!("look into {snapshot}");
        self.sweep().await;
        self.key_is_there(&operation, snapshot).await?;
        let clones = match kind {
            DatasetKind::Filesystem => !kernel_knows_zfs(),
            DatasetKind::Volume if self.zfs.capabilities(snapshot.dataset().pool()).await?.volmode => true,
            DatasetKind::Volume => {
                let why = "the volumes of this ZFS have no devices, so nobody can read them here";
                return Err(error(&operation, ZfsErrorKind::Unsupported, why));
            }
        };
        let record = self.record(snapshot, clones);
        let record = record.map_err(|e| {
            error(&operation, ZfsErrorKind::Other, format!("cannot write to {}: {e}", self.dir.display()))
        })?;
        match self.lay_open(&operation, snapshot, kind, &record).await {
            Ok(path) => Ok(Box::new(Open { zfs: Arc::clone(&self.zfs), record: Some(record), path })),
            Err(e) => {
                if let Err(left) = shut(&self.zfs, record).await {
                    tracing::warn!("{left}; the next view tries again");
                }
                Err(e)
            }
        }
    }
}

#[async_trait]
impl View for Open {
    fn path(&self) -> &Path {
        &self.path
    }

    async fn close(mut self: Box<Self>) -> ZfsResult<()> {
        match self.record.take() {
            Some(record) => shut(&self.zfs, record).await,
            None => Ok(()),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        let zfs = Arc::clone(&self.zfs);
        // Without a runtime it is left to the next one: the record stays, and its lock is gone.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shutting = async move {
                if let Err(e) = shut(&zfs, record).await {
                    tracing::warn!("{e}; the next view tries again");
                }
            };
            runtime.spawn(shutting.in_current_span());
        }
    }
}

/// Undoes all that the record says, in the other order.
async fn shut(zfs: &ZfsCommand, record: Record) -> ZfsResult<()> {
    let operation = format!("shut the view {}", record.id);
    if record.clone.is_none() && is_mounted(&record.at) {
        let at = record.at.clone();
        let gone = spawn_blocking(move || unmount(at, UnmountFlags::empty())).await;
        let gone = gone.map_err(|e| error(&operation, ZfsErrorKind::Other, e))?;
        gone.map_err(|e| error(&operation, ZfsErrorKind::Busy, format!("unmount {}: {e}", record.at.display())))?;
    }
    if let Some(clone) = &record.clone {
        destroy(zfs, &operation, clone, &record.id).await?;
    }
    let removed = match fs::remove_dir(&record.at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => fs::remove_file(&record.file),
    };
    removed.map_err(|e| error(&operation, ZfsErrorKind::Other, format!("remove {}: {e}", record.at.display())))
}

/// Destroys a clone that is ours beyond doubt.
async fn destroy(zfs: &ZfsCommand, operation: &str, clone: &DatasetName, id: &str) -> ZfsResult<()> {
    let mark = match zfs.get(clone.as_str(), &[CLONE]).await {
        Err(e) if e.kind == ZfsErrorKind::NotFound => return pool_is_there(zfs, operation, clone).await,
        mark => mark?,
    };
    let ours = clone.as_str().ends_with(&format!("/{NAME}{id}"));
    if !ours || mark.first().is_none_or(|mark| mark.value != id) {
        let why = format!("{clone} is not marked as a view of ours, and is left alone");
        return Err(error(operation, ZfsErrorKind::Other, why));
    }
    let until = Instant::now() + PATIENCE;
    loop {
        // Where it is mounted: zfs-fuse does not unmount what it destroys while it believes that to be busy.
        let _ = zfs.plain(operation, &["unmount", clone.as_str()]).await;
        match zfs.plain(operation, &["destroy", clone.as_str()]).await {
            Err(e) if e.kind == ZfsErrorKind::NotFound => return pool_is_there(zfs, operation, clone).await,
            Err(e) if e.kind == ZfsErrorKind::Busy && Instant::now() < until => sleep(ASK_EVERY).await,
            done => return done,
        }
    }
}

/// What is not found is gone only if its pool is here: of one that is not imported, `zfs` says the same.
async fn pool_is_there(zfs: &ZfsCommand, operation: &str, clone: &DatasetName) -> ZfsResult<()> {
    let pool = clone.pool();
    match zfs.get(pool, &["type"]).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind == ZfsErrorKind::NotFound => {
            let why = format!("the pool {pool} is not imported, so {clone} may still be there");
            Err(error(operation, ZfsErrorKind::NotFound, why))
        }
        Err(e) => Err(e),
    }
}

/// Whether another filesystem begins at this directory.
fn is_mounted(at: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
    match (device(at), at.parent().map(device)) {
        (Ok(here), Some(Ok(above))) => here != above,
        _ => false,
    }
}

fn kernel_knows_zfs() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("\tzfs")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ID: &str = "0123456789abcdef";

    /// A `zfs` that knows the names in the file `there`.
    const TOOL: &str = r#"#!/bin/bash
cd "$(dirname "$0")"
case "$*" in
  *tank*) ;;
  *) printf "usage:\n\n\tPROPERTY       EDIT  INHERIT   VALUES\n\n\ttype            NO       NO   filesystem\n" >&2; exit 2 ;;
esac
name="${@: -1}"
if ! grep -qx -- "$name" there; then
  echo "cannot open '$name': dataset does not exist" >&2
  exit 1
fi
printf '%s\ttype\tfilesystem\t-\n' "$name"
"#;

    #[tokio::test]
    async fn a_clone_whose_pool_is_not_imported_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (tool, there) = (dir.path().join("zfs"), dir.path().join("there"));
        fs::write(&tool, TOOL).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&there, "lake\n").unwrap();
        let views = HostViews::new(Arc::new(ZfsCommand::new(tool.clone(), tool)), dir.path());
        fs::create_dir(&views.dir).unwrap();
        let record = views.dir.join(ID);
        fs::write(&record, format!("tank/{NAME}{ID}\ntank/a@1\n")).unwrap();
        fs::create_dir(views.at(ID)).unwrap();
        views.sweep().await;
        assert!(record.exists(), "the record of what may still be there is gone");
        // Now it is, without the clone.
        fs::write(&there, "lake\ntank\n").unwrap();
        views.sweep().await;
        assert!(!record.exists() && !views.at(ID).exists());
    }
}
