//! The configuration: one TOML file, and `conf.d/*.toml` beside it.
//!
//! Purpose: both bins read the same file, and a mistake in it is found when it is read, with file, line and
//! column, not when a transfer stumbles over it. Invariant: a [`Config`] holds parsed names, addresses and
//! limits within their ranges only. Reading text into a [`Config`] is pure; `load` alone touches files.
//!
//! ```text
//! zmigrate.toml ─┐
//! conf.d/a.toml ─┼─ document (TOML with places) ─ merge ─ schema (names, ranges) ─ Config
//! conf.d/b.toml ─┘
//! ```

mod check;
mod document;
mod error;
mod grants;
#[cfg(test)]
mod job_tests;
mod jobs;
mod limits;
mod load;
#[cfg(test)]
mod reference_tests;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

pub use check::{Finding, Severity, Topic, check};
pub use document::Place;
pub use error::{ConfigError, Problem};
pub use grants::{Access, Grant, Grants, NotGranted};
pub use limits::{LIMITS, LimitSpec, LimitUnit, Limits};
pub use load::{MAX_FILE_BYTES, MAX_FILES};
pub use schema::KEYS;

pub use crate::types::DEFAULT_PORT;
use crate::{
    hook::{Hook, HookName},
    jobs::Job,
    types::{Endpoint, JobName, PeerName},
};

/// The file that is read when no `--config` is given.
pub const DEFAULT_PATH: &str = "/etc/zmigrate/zmigrate.toml";
/// Where programs that are not named by an absolute path are looked up, whatever the environment says: cron's `PATH` lacks half of it.
pub const TOOL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The default of `state_dir`.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/zmigrate";
/// The default of `runtime_dir`.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/zmigrate";
/// The default of `identity.dir`.
pub const DEFAULT_IDENTITY_DIR: &str = "/etc/zmigrate/pki";

/// One file's name and text, as [`Config::parse_all`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What errors call the text: mostly a path.
    pub name: &'a str,
    /// TOML.
    pub text: &'a str,
}

/// All that both bins are told by the operator's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `listen`: where `zmigrated` accepts connections. At least one, none twice.
    pub listen: Vec<SocketAddr>,
    /// `state_dir`: journals. Absolute.
    pub state_dir: PathBuf,
    /// `runtime_dir`: the control socket and locks. Absolute.
    pub runtime_dir: PathBuf,
    /// `identity.dir`: `ca.pem`, `node.pem`, `node.key`, `crl.pem`. Absolute.
    pub identity_dir: PathBuf,
    /// `ca.dir`: the directory of the fleet's authority, where it is on this host. Absolute.
    pub ca_dir: Option<PathBuf>,
    /// `[peer.NAME]`.
    pub peers: BTreeMap<PeerName, Peer>,
    /// `[grant.NAME]`.
    pub grants: Grants,
    /// `[hook.NAME]`.
    pub hooks: BTreeMap<HookName, Hook>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[job.NAME]`.
    pub jobs: BTreeMap<JobName, Job>,
    /// `metrics.listen`: where `zmigrated` answers Prometheus.
    pub metrics_listen: Option<SocketAddr>,
    /// `zfs.command`: the `zfs` binary; a bare name is looked up in [`TOOL_PATH`].
    pub zfs_command: PathBuf,
    /// The files that were read, in order. Empty when the defaults are used, or for text that is no file.
    pub files: Vec<PathBuf>,
}

/// A `[peer.NAME]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where its `zmigrated` listens.
    pub address: Endpoint,
    /// The name its certificate must hold: `identity` where it is given, else the table's NAME.
    pub identity: PeerName,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT)],
            state_dir: DEFAULT_STATE_DIR.into(),
            runtime_dir: DEFAULT_RUNTIME_DIR.into(),
            identity_dir: DEFAULT_IDENTITY_DIR.into(),
            ca_dir: None,
            peers: BTreeMap::new(),
            grants: Grants::default(),
            hooks: BTreeMap::new(),
            limits: Limits::default(),
            jobs: BTreeMap::new(),
            metrics_listen: None,
            zfs_command: "zfs".into(),
            files: Vec::new(),
        }
    }
}

impl Config {
    /// Reads one text. Pure; `source_name` is what errors call it.
    ///
    /// # Errors
    /// All that is wrong with the text, each with its place.
    pub fn parse(text: &str, source_name: &str) -> Result<Self, ConfigError> {
        Self::parse_all(&[Source { name: source_name, text }])
    }

    /// Reads several texts as one configuration. Pure.
    ///
    /// # Errors
    /// All that is wrong with the texts, each with its place; also a key that two of them set.
    pub fn parse_all(sources: &[Source<'_>]) -> Result<Self, ConfigError> {
        schema::interpret(document::merge(sources)?)
    }

    /// Reads the file at `path`, or at [`DEFAULT_PATH`], and `conf.d/*.toml` beside it in the order of their
    /// names. Without `path`, a file that does not exist counts as empty.
    ///
    /// # Errors
    /// A file that cannot be read, is too long, or holds mistakes.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        match path {
            Some(path) => load::load(path, load::Main::MustExist),
            None => load::load(Path::new(DEFAULT_PATH), load::Main::MayBeMissing),
        }
    }
}
