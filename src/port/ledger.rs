//! The `Ledgers` port: append-only files of lines that survive a crash, each owned by one process at a time.

use std::io;

/// One ledger that this process owns until it is dropped.
pub trait Ledger: Send + Sync {
    /// Appends a line and syncs it. After an error nothing that the line announces may be done.
    ///
    /// # Errors
    /// When the line is not safely on disk.
    fn append(&mut self, line: &str) -> io::Result<()>;

    /// Whether what can be done without is to be left out from now on: it has grown to half of what it may.
    fn is_half_full(&self) -> bool;

    /// Leaves one line beside the ledger, in place of the last one: for people, and nothing follows from it. It is not synced.
    ///
    /// # Errors
    /// When it cannot be written; the last one stays.
    fn note(&mut self, line: &str) -> io::Result<()>;
}

/// A ledger that was opened, and the lines that were in it.
pub struct Opened {
    /// To append to.
    pub ledger: Box<dyn Ledger>,
    /// Without their line ends. A last line that a crash tore was cut off, and is not among them.
    pub lines: Vec<String>,
}

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process owns it.
    #[error("another process of zmigrate is at work on it")]
    Owned,
    /// It cannot be read or written.
    #[error("{0}")]
    Io(String),
}

/// By which it is told whether a ledger is as it was: its length, and when it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub u64, pub Option<std::time::SystemTime>);

/// All ledgers of this host.
pub trait Ledgers: Send + Sync {
    /// Opens the ledger of that name, and makes it if there is none.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn open(&self, name: &str) -> Result<Opened, LedgerError>;

    /// The whole lines of the ledger of that name, whoever owns it; empty if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, name: &str) -> Result<Vec<String>, LedgerError>;

    /// What changes with each line of the ledger of that name; `None` if there is none. Looks only.
    fn stamp(&self, name: &str) -> Option<Stamp>;

    /// The line that was left beside the ledger of that name, if it can be read.
    fn noted(&self, name: &str) -> Option<String>;

    /// Whether a process owns the ledger of that name. Looks only.
    fn is_owned(&self, name: &str) -> bool;

    /// Tells whoever owns the ledger of that name that this process waits for it, until what comes back is dropped; `None` if that
    /// cannot be told now.
    fn want(&self, name: &str) -> Option<Box<dyn Send + Sync>>;

    /// Whether a process waits for the ledger of that name. Looks only.
    fn is_wanted(&self, name: &str) -> bool;

    /// The names of all ledgers that begin so, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn names(&self, prefix: &str) -> Result<Vec<String>, LedgerError>;

    /// Where the ledger of that name is, for messages.
    fn place(&self, name: &str) -> String;
}
