//! Entries in one digest: the SHA-256 of a canonical encoding, whose bytes a test pins.
//!
//! ```text
//! "zmigrate content 1\n", then for each entry:
//!   path, kind (u8), mode, uid, gid (u32), mtime_ns (i64),
//!   what the kind has: size (u64) and hash (32 bytes); target; major and minor (u32)
//!   hard link: 0, or 1 with inode and names (u64)
//!   number of xattrs (u32), each: name, size (u64), hash
//! ```
//!
//! Numbers are little-endian; a path, target or name is its length as a `u32` and its bytes. Each field says where it ends, so two
//! lists of entries have the same encoding only if they are the same.

use aws_lc_rs::digest::{Context, SHA256};

use super::hash;
use crate::types::content::{ContentHash, Entry, EntryKind};

const HEAD: &[u8] = b"zmigrate content 1\n";

/// A digest that grows.
pub struct Fold(Context);

impl Fold {
    /// Of nothing.
    pub fn new() -> Self {
        let mut context = Context::new(&SHA256);
        context.update(HEAD);
        Self(context)
    }

    /// With one more entry.
    pub fn add(&mut self, entry: &Entry) {
        self.0.update(&encode(entry));
    }

    /// Of all that was added.
    pub fn finish(self) -> ContentHash {
        hash::finish(self.0)
    }
}

impl Default for Fold {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes that an entry is in the digest.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let mut to = Vec::with_capacity(encoded_len(entry));
    text(&mut to, &entry.path);
    to.push(match entry.kind {
        EntryKind::Directory => 1,
        EntryKind::File { .. } => 2,
        EntryKind::Symlink { .. } => 3,
        EntryKind::CharDevice { .. } => 4,
        EntryKind::BlockDevice { .. } => 5,
        EntryKind::Fifo => 6,
        EntryKind::Socket => 7,
        EntryKind::Volume { .. } => 8,
        EntryKind::Extent { .. } => 9,
    });
    for number in [entry.mode, entry.uid, entry.gid] {
        to.extend(number.to_le_bytes());
    }
    to.extend(entry.mtime_ns.to_le_bytes());
    match &entry.kind {
        EntryKind::Directory | EntryKind::Fifo | EntryKind::Socket => {}
        EntryKind::File { size, hash } | EntryKind::Extent { size, hash } => {
            to.extend(size.to_le_bytes());
            to.extend(hash.0);
        }
        EntryKind::Symlink { target } => text(&mut to, target),
        EntryKind::CharDevice { device: (major, minor) } | EntryKind::BlockDevice { device: (major, minor) } => {
            to.extend(major.to_le_bytes());
            to.extend(minor.to_le_bytes());
        }
        EntryKind::Volume { size } => to.extend(size.to_le_bytes()),
    }
    match entry.link {
        None => to.push(0),
        Some(link) => {
            to.push(1);
            to.extend(link.inode.to_le_bytes());
            to.extend(link.names.to_le_bytes());
        }
    }
    to.extend((entry.xattrs.len() as u32).to_le_bytes());
    for xattr in &entry.xattrs {
        text(&mut to, &xattr.name);
        to.extend(xattr.size.to_le_bytes());
        to.extend(xattr.hash.0);
    }
    to
}

fn text(to: &mut Vec<u8>, text: &[u8]) {
    to.extend((text.len() as u32).to_le_bytes());
    to.extend(text);
}

/// About how long [`encode`] is, and what an entry takes in a message.
pub fn encoded_len(entry: &Entry) -> usize {
    let target = if let EntryKind::Symlink { target } = &entry.kind { target.len() } else { 40 };
    let xattrs: usize = entry.xattrs.iter().map(|xattr| 44 + xattr.name.len()).sum();
    entry.path.len() + target + xattrs + 64
}
