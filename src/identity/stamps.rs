//! How a change of an identity's files is noticed: by their metadata, which costs four system calls and no parsing.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::{CA_FILE, CERT_FILE, CRL_FILE, KEY_FILE};

/// Device, inode, size, and the times of the last change to the content and to the inode, in nanoseconds.
type Stamp = (u64, u64, u64, i128, i128);

/// What one file looked like; `None` if it was not there.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
    let (changed, inode_changed) = (ns(meta.mtime(), meta.mtime_nsec()), ns(meta.ctime(), meta.ctime_nsec()));
    Some((meta.dev(), meta.ino(), meta.size(), changed, inode_changed))
}

/// What the four files of a directory looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps([Option<Stamp>; 4]);

impl Stamps {
    pub fn of(dir: &Path) -> Self {
        Self([CA_FILE, CERT_FILE, KEY_FILE, CRL_FILE].map(|name| stamp(&dir.join(name))))
    }
}
