//! The content of a snapshot, entry by entry, as it is compared and as it travels.

use serde::{Deserialize, Serialize};

/// SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentHash(pub [u8; 32]);

impl std::fmt::Display for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// What an entry is, with what only things of that kind have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Its length in bytes.
        size: u64,
        /// Of its content; a hole and the zeros that it is read as are the same.
        hash: ContentHash,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points to, as it is written.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A volume as a whole: the first entry of one.
    Volume {
        /// Its length in bytes.
        size: u64,
    },
    /// A piece of a volume that is not all zeros.
    Extent {
        /// Its length in bytes.
        size: u64,
        /// Of its bytes.
        hash: ContentHash,
    },
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// With its namespace, such as `user.x`.
    pub name: Vec<u8>,
    /// The length of its value in bytes.
    pub size: u64,
    /// Of its value.
    pub hash: ContentHash,
}

/// The names of one file with several: ZFS gives a file the same object number on each side, so it tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardLink {
    /// The file's number.
    pub inode: u64,
    /// How many names it has.
    pub names: u64,
}

/// One thing in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path below the root, without `/` in front; empty for the root itself. In a volume, the offset in 16 hexadecimal digits.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The twelve bits of `chmod`.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When its content was changed last: nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Only of a file that has several names.
    pub link: Option<HardLink>,
    /// By name.
    pub xattrs: Vec<Xattr>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentCounts {
    /// Entries, the root among them.
    pub entries: u64,
    /// Bytes of files' or the volume's content, holes among them.
    pub bytes: u64,
}

/// All of a snapshot's content in one number, and how much that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentDigest {
    /// Of all entries in their order.
    pub digest: ContentHash,
    /// What it was made of.
    pub counts: ContentCounts,
}

/// Some entries in their order, from one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentPage {
    /// Strictly ascending by path, component by component.
    pub entries: Vec<Entry>,
    /// There is nothing after these.
    pub last: bool,
}
