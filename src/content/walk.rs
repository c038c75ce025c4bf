//! A walk through a directory tree, in order, depth first: names sorted within each directory, a directory before what is in it.
//!
//! Invariants: every name is opened relative to the directory that it was read from, and never through a symbolic link; what is
//! on another filesystem is an error, not entered. Of a directory, [`CONTENT_NAMES`] names are kept at a time, the smallest that
//! are left; one with more is read again for the next ones.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, getxattr, listxattr, listxattr_query, openat,
        readlinkat, statat,
    },
    io::Errno,
};

use super::{ContentError, hash};
use crate::{
    limits::{CONTENT_DEPTH, CONTENT_NAMES},
    types::{
        content::{Entry, EntryKind, HardLink, Xattr},
        printable,
    },
};

/// The kernel's own bounds: `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of linux/limits.h.
const MAX_XATTRS: usize = 64 << 10;
/// Of one directory that has `.zfs`, which is no part of a snapshot. No file can have that name in a root of ZFS.
const CONTROL: &[u8] = b".zfs";

pub struct Walk {
    /// The filesystem that is walked through.
    device: u64,
    /// The directories on the way to where we are.
    levels: Vec<Level>,
    /// The root has not been told yet.
    root_is_next: bool,
}

struct Level {
    fd: OwnedFd,
    path: Vec<u8>,
    /// The smallest names that are left, smallest first.
    names: BTreeSet<Vec<u8>>,
    /// The name up to which all was done.
    after: Option<Vec<u8>>,
    /// There are names beyond those that are kept.
    more: bool,
}

/// What is told of bytes that were read.
type Read<'a> = &'a mut dyn FnMut(u64) -> Result<(), ContentError>;

fn io<'p>(what: &'static str, path: &'p [u8]) -> impl FnOnce(Errno) -> ContentError + 'p {
    move |cause| ContentError::Io { what, path: shown(path), cause: cause.into() }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { "the root of the snapshot".to_owned() } else { printable(&String::from_utf8_lossy(path)) }
}

impl Walk {
    pub fn open(root: &Path, after: Option<&[u8]>) -> Result<Self, ContentError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, root, flags, Mode::empty()).map_err(io("open", b""))?;
        let device = fstat(&fd).map_err(io("look at", b""))?.st_dev;
        let mut walk = Self { device, levels: Vec::new(), root_is_next: after.is_none() };
        walk.levels.push(Level { fd, path: Vec::new(), names: BTreeSet::new(), after: None, more: true });
        if let Some(after) = after {
            walk.go_to(after)?;
        }
        Ok(walk)
    }

    /// Sets out behind a path, whether it is there or not.
    fn go_to(&mut self, after: &[u8]) -> Result<(), ContentError> {
        for name in after.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let Some(level) = self.levels.last_mut() else { break };
            level.after = Some(name.to_vec());
            let path = join(&level.path, name);
            // What is below comes after it, if it is a directory; else what comes next beside it.
            match self.enter(&path, name) {
                Ok(()) => {}
                Err(ContentError::Io { .. }) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn enter(&mut self, path: &[u8], name: &[u8]) -> Result<(), ContentError> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        if self.levels.len() > CONTENT_DEPTH {
            return Err(ContentError::Unfit { path: shown(path), why: "lies deeper than 256 directories" });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&level.fd, name, flags, Mode::empty()).map_err(io("open", path))?;
        self.on_this_filesystem(&fstat(&fd).map_err(io("look at", path))?, path)?;
        self.levels.push(Level { fd, path: path.to_vec(), names: BTreeSet::new(), after: None, more: true });
        Ok(())
    }

    fn on_this_filesystem(&self, stat: &Stat, path: &[u8]) -> Result<(), ContentError> {
        if stat.st_dev == self.device {
            return Ok(());
        }
        Err(ContentError::Unfit { path: shown(path), why: "another filesystem is mounted there; unmount it" })
    }

    pub fn next(&mut self, read: Read<'_>) -> Result<Option<Entry>, ContentError> {
        if std::mem::take(&mut self.root_is_next)
            && let Some(root) = self.levels.first()
        {
            let stat = fstat(&root.fd).map_err(io("look at", b""))?;
            let xattrs = xattrs(root.fd.as_fd(), b"")?;
            return Ok(Some(entry(Vec::new(), EntryKind::Directory, &stat, xattrs)));
        }
        loop {
            let is_root = self.levels.len() == 1;
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            if level.names.is_empty() && level.more {
                level.read_names(is_root)?;
            }
            let Some(name) = level.names.pop_first() else {
                self.levels.pop();
                continue;
            };
            level.after = Some(name.clone());
            let path = join(&level.path, &name);
            return self.entry(&path, &name, read).map(Some);
        }
    }

    /// Looks at one name of the innermost directory, and enters it if it is a directory itself.
    fn entry(&mut self, path: &[u8], name: &[u8], read: Read<'_>) -> Result<Entry, ContentError> {
        let Some(level) = self.levels.last() else {
            return Err(ContentError::Unfit { path: shown(path), why: "is nowhere" });
        };
        let seen = statat(&level.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io("look at", path))?;
        self.on_this_filesystem(&seen, path)?;
        let kind = FileType::from_raw_mode(seen.st_mode);
        if kind == FileType::Directory {
            self.enter(path, name)?;
            let Some(level) = self.levels.last() else {
                return Err(ContentError::Unfit { path: shown(path), why: "is nowhere" });
            };
            let stat = fstat(&level.fd).map_err(io("look at", path))?;
            return Ok(entry(path.to_vec(), EntryKind::Directory, &stat, xattrs(level.fd.as_fd(), path)?));
        }
        // What is not a file is only pointed at: opening a pipe waits, and opening a device does whatever that does.
        let flags = match kind {
            FileType::RegularFile => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
            _ => OFlags::PATH,
        };
        let fd = openat(&level.fd, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(io("open", path))?;
        let stat = fstat(&fd).map_err(io("look at", path))?;
        if (stat.st_ino, stat.st_mode, stat.st_dev) != (seen.st_ino, seen.st_mode, seen.st_dev) {
            return Err(ContentError::Unfit { path: shown(path), why: "changed while it was looked at" });
        }
        let xattrs = xattrs(fd.as_fd(), path)?;
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match kind {
            FileType::RegularFile => self.file(File::from(fd), &stat, path, read)?,
            FileType::Symlink => {
                let target = readlinkat(&level.fd, name, Vec::new()).map_err(io("read", path))?;
                EntryKind::Symlink { target: target.into_bytes() }
            }
            FileType::CharacterDevice => EntryKind::CharDevice { device },
            FileType::BlockDevice => EntryKind::BlockDevice { device },
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            _ => return Err(ContentError::Unfit { path: shown(path), why: "is of a kind that is not known" }),
        };
        Ok(entry(path.to_vec(), kind, &stat, xattrs))
    }

    fn file(&self, file: File, stat: &Stat, path: &[u8], read: Read<'_>) -> Result<EntryKind, ContentError> {
        /// Either of the two things that end the reading of a file.
        enum Ended {
            Io(std::io::Error),
            Told(ContentError),
        }
        impl From<std::io::Error> for Ended {
            fn from(e: std::io::Error) -> Self {
                Ended::Io(e)
            }
        }
        match hash::stream(file, |bytes| read(bytes).map_err(Ended::Told)) {
            Ok((size, hash)) if i64::try_from(size) == Ok(stat.st_size) => Ok(EntryKind::File { size, hash }),
            Ok(_) => Err(ContentError::Unfit { path: shown(path), why: "has another length than it says" }),
            Err(Ended::Io(cause)) => Err(ContentError::Io { what: "read", path: shown(path), cause }),
            Err(Ended::Told(e)) => Err(e),
        }
    }
}

impl Level {
    /// Reads the next names: the smallest that come after those that were done.
    fn read_names(&mut self, is_root: bool) -> Result<(), ContentError> {
        self.more = false;
        let dir = Dir::read_from(&self.fd).map_err(io("list", &self.path))?;
        for found in dir {
            let found = found.map_err(io("list", &self.path))?;
            let name = found.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (is_root && name == CONTROL) {
                continue;
            }
            if self.after.as_deref().is_some_and(|after| name <= after) {
                continue;
            }
            if self.names.len() >= CONTENT_NAMES {
                if self.names.last().is_some_and(|last| name > last.as_slice()) {
                    self.more = true;
                    continue;
                }
                self.names.pop_last();
                self.more = true;
            }
            self.names.insert(name.to_vec());
        }
        Ok(())
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

#[allow(clippy::unnecessary_cast, reason = "the numbers are of other types on other processors")]
fn entry(path: Vec<u8>, kind: EntryKind, stat: &Stat, xattrs: Vec<Xattr>) -> Entry {
    let several = !matches!(kind, EntryKind::Directory) && stat.st_nlink > 1;
    Entry {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        // Years that do not fit are beyond what ZFS stores.
        mtime_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64),
        link: several.then_some(HardLink { inode: stat.st_ino, names: stat.st_nlink as u64 }),
        xattrs,
    }
}

/// The extended attributes behind a descriptor, also of what can only be pointed at: `/proc/self/fd` leads to that very thing.
fn xattrs(fd: impl AsFd, path: &[u8]) -> Result<Vec<Xattr>, ContentError> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    // First only whether there are any: mostly there are none.
    match listxattr_query(&link) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NODATA) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(e) => return Err(io("list the attributes of", path)(e)),
    }
    let mut names = vec![0; MAX_XATTRS];
    let n = listxattr(&link, &mut names[..]).map_err(io("list the attributes of", path))?;
    names.truncate(n);
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty() && *name != b"security.selinux") {
        let mut value = vec![0; MAX_XATTRS];
        let n = getxattr(&link, name, &mut value[..]).map_err(io("read an attribute of", path))?;
        value.truncate(n);
        all.push(Xattr { name: name.to_vec(), size: n as u64, hash: hash::plain(&value) });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}
