//! Comparing the content of two copies of a snapshot: what is really in the files, not what ZFS says of it.
//!
//! ```text
//! a view of a snapshot ─ walk ───┐
//!   (directory)                  ├─ entries, sorted ─┬─ fold ── one digest for all of it
//! a volume's device ─ device ────┘                   └─ pages ─ differences, as sentences
//! ```
//!
//! Invariant: nothing that lies in a snapshot leads out of it. No symbolic link is followed, no mount is entered, and every
//! name is opened below the directory that it was read from. Memory is bounded by limits of depth and of names at a time.
//!
//! What counts: kinds, modes, owners, modification times, sizes, link targets, device numbers, hard links, extended
//! attributes (so POSIX ACLs, too) and bytes. What does not: access and change times, the size and order of directories, holes as
//! against zeros, and `security.selinux`, which the host makes up where it is not stored.

mod compare;
mod device;
mod fold;
mod hash;
#[cfg(test)]
mod tests;
mod walk;

use std::{ops::ControlFlow, path::Path};

pub use compare::{Comparison, Difference, OutOfOrder, Which, path_order};
pub use fold::Fold;

use crate::{
    limits::{CONTENT_PAGE_BYTES, CONTENT_PAGE_ENTRIES, CONTENT_PAGE_READ},
    types::{
        content::{ContentCounts, ContentDigest, ContentPage, Entry},
        listing::DatasetKind,
    },
};

/// Why content could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// An operation on a path failed.
    #[error("{what} {path}: {cause}")]
    Io {
        /// Such as `read`.
        what: &'static str,
        /// Below the root of the snapshot, made printable.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// It is not as a snapshot can be.
    #[error("{path}: {why}")]
    Unfit {
        /// Below the root of the snapshot, made printable.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// The one who is told of progress did not want to go on.
    #[error("stopped")]
    Stopped,
}

/// The entries of a snapshot, in order.
pub struct Entries<'a> {
    inner: Inner,
    counts: ContentCounts,
    progress: Progress<'a>,
}

enum Inner {
    Walk(walk::Walk),
    Device(device::Device),
}

/// Is told how far it is, about once for each MiB; says whether to go on.
pub type Progress<'a> = Box<dyn FnMut(ContentCounts) -> ControlFlow<()> + Send + 'a>;

impl<'a> Entries<'a> {
    /// The content at a place: a directory where a snapshot is mounted, or a volume's device. Those after the path `after` only.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(
        at: &Path,
        kind: DatasetKind,
        after: Option<&[u8]>,
        progress: Progress<'a>,
    ) -> Result<Self, ContentError> {
        let inner = match kind {
            DatasetKind::Filesystem => Inner::Walk(walk::Walk::open(at, after)?),
            DatasetKind::Volume => Inner::Device(device::Device::open(at, after)?),
        };
        Ok(Self { inner, counts: ContentCounts::default(), progress })
    }

    /// The next one.
    ///
    /// # Errors
    /// When something cannot be read. What comes after is then not to be had, either.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ContentError> {
        let (counts, progress) = (&mut self.counts, &mut self.progress);
        let mut read = |bytes: u64| {
            counts.bytes += bytes;
            match progress(*counts) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(ContentError::Stopped),
            }
        };
        let entry = match &mut self.inner {
            Inner::Walk(walk) => walk.next(&mut read),
            Inner::Device(device) => device.next(&mut read),
        }?;
        if entry.is_some() {
            self.counts.entries += 1;
            if self.counts.entries.is_multiple_of(256) && (self.progress)(self.counts).is_break() {
                return Err(ContentError::Stopped);
            }
        }
        Ok(entry)
    }

    /// The digest of all that is left.
    ///
    /// # Errors
    /// As [`Entries::next_entry`].
    pub fn digest(mut self) -> Result<ContentDigest, ContentError> {
        let mut fold = Fold::new();
        while let Some(entry) = self.next_entry()? {
            fold.add(&entry);
        }
        Ok(ContentDigest { digest: fold.finish(), counts: self.counts })
    }

    /// As many as fit into one page, and at least one if there is one.
    ///
    /// # Errors
    /// As [`Entries::next_entry`].
    pub fn page(&mut self) -> Result<ContentPage, ContentError> {
        let mut page = ContentPage::default();
        let (mut bytes, read_before) = (0, self.counts.bytes);
        while page.entries.len() < CONTENT_PAGE_ENTRIES
            && bytes < CONTENT_PAGE_BYTES
            && self.counts.bytes - read_before < CONTENT_PAGE_READ
        {
            let Some(entry) = self.next_entry()? else {
                page.last = true;
                break;
            };
            bytes += fold::encoded_len(&entry);
            page.entries.push(entry);
        }
        Ok(page)
    }

    /// How much was looked at so far.
    pub fn counts(&self) -> ContentCounts {
        self.counts
    }
}
