//! The `Busy` port: who keeps a filesystem or a volume from being unmounted, and ending them.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use crate::types::DatasetName;

/// How a process holds what was asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Its working directory.
    Cwd(PathBuf),
    /// Its root directory.
    Root(PathBuf),
    /// The program that it runs.
    Program(PathBuf),
    /// A file or directory that it has open, or the device itself.
    Open(PathBuf),
    /// A file that is mapped into its memory.
    Mapped(PathBuf),
    /// A mount in its mount namespace, as seen there.
    Mount(PathBuf),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, path) = match self {
            Hold::Cwd(path) => ("works in", path),
            Hold::Root(path) => ("has its root at", path),
            Hold::Program(path) => ("runs", path),
            Hold::Open(path) => ("has open", path),
            Hold::Mapped(path) => ("has mapped", path),
            Hold::Mount(path) => ("has mounted, in a namespace of its own,", path),
        };
        // A file's name may hold anything, also what a terminal would take for a command.
        write!(f, "{what} {}", crate::types::printable(&path.to_string_lossy()))
    }
}

/// A process that holds a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// When it began, in ticks since boot: together with the id it is this process and no other.
    pub started: u64,
    /// Its name, at most 15 bytes, as proc(5) has it.
    pub command: String,
    /// How; at most a few, and at least one.
    pub holds: Vec<Hold>,
}

impl Holder {
    /// Whether it keeps anything busy. A mount in another namespace does not: it is unmounted there as well, or stays there.
    pub fn uses(&self) -> bool {
        self.holds.iter().any(|hold| !matches!(hold, Hold::Mount(_)))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.command, self.pid)?;
        for (i, hold) in self.holds.iter().enumerate() {
            write!(f, "{} {hold}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// What a look at all processes found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// By process id.
    pub processes: Vec<Holder>,
    /// Where a block device, or what [`Busy::mounted`] looks for, is mounted in our own mount namespace.
    pub mounts: Vec<PathBuf>,
    /// True if there is more than was kept, or the time was over before all had been looked at.
    pub more: bool,
    /// Processes that we are not allowed to look into.
    pub hidden: usize,
}

/// Looks for holders, and ends them.
#[async_trait]
pub trait Busy: Send + Sync {
    /// Who holds the filesystem mounted at a directory, or a block device. Our own process counts.
    ///
    /// # Errors
    /// When the path, or the list of processes, cannot be read.
    async fn holders(&self, path: &Path) -> Result<Holders, String>;

    /// Where these filesystems are mounted: in our own mount namespace, and in others, each with a process for whom it is so. A
    /// namespace that no process is in, or whose processes cannot be looked into, is not found.
    ///
    /// # Errors
    /// When the mounts here, or the list of processes, cannot be read in time.
    async fn mounted(&self, filesystems: &[DatasetName]) -> Result<Holders, String>;

    /// Ends these processes: SIGTERM, up to 5 s of patience, SIGKILL. One that ended, or whose id is another's now, is left
    /// alone, and so are our own process and the first of the system.
    ///
    /// # Errors
    /// Names who is still there.
    async fn end(&self, holders: &[Holder]) -> Result<(), String>;
}
