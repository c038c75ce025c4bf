//! The `Zfs` port on the programs `zfs` and `zpool`.
//!
//! ```text
//! ZfsCommand ─ port.rs (the operations) ─┬─ args.rs      argument lists          (pure)
//!                                        ├─ run.rs       one command to its end
//!                                        ├─ together.rs  one command for all who ask the same
//!                                        ├─ mounts.rs    mounts, devices, many datasets at once
//!                                        ├─ process.rs   a running send or receive
//!                                        ├─ classify.rs  exit status and stderr  (pure)
//!                                        ├─ parse.rs     listings                (pure)
//!                                        ├─ status.rs    version, pools, delegations
//!                                        └─ probe.rs     what this ZFS can do    (pure)
//! HostViews ─ view.rs (snapshots laid open for reading)
//! ```
//!
//! Invariant: no shell, no `-F`, no `-R`; a command's exit status and stderr are both looked at, always.

mod args;
pub mod classify;
mod listing;
mod mounts;
pub mod parse;
pub(super) mod port;
pub mod probe;
mod process;
mod run;
pub mod status;
mod together;
pub mod view;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, OnceCell};

use self::{
    probe::{Texts, Tools},
    run::{MAX_ARGUMENT_BYTES, Output, Runner, Tool, error},
    together::Together,
};
use crate::{
    port::zfs::{ZfsErrorKind, ZfsResult},
    types::listing::Capabilities,
};

/// How long a pool's features are taken for what they were: a pool may be upgraded, or another one imported under its
/// name, while a daemon runs.
const POOL_FEATURES_STAY: Duration = Duration::from_secs(60);

/// This host's ZFS, through its command line tools.
///
/// What the tools can do is probed once and kept for the life of the value; what the pools can do, for a minute.
///
/// A clone of it is the same value.
#[derive(Clone, Debug)]
pub struct ZfsCommand {
    runner: Arc<Runner>,
    tools: Arc<OnceCell<Mutex<Arc<Tools>>>>,
    pools: Arc<Mutex<HashMap<String, (Instant, Capabilities)>>>,
    together: Arc<Together>,
    /// Mounts do not wait for each other any more, see `mounts_in_turn`.
    no_turns: Arc<AtomicBool>,
}

impl Default for ZfsCommand {
    fn default() -> Self {
        Self::new("zfs".into(), "zpool".into())
    }
}

impl ZfsCommand {
    /// Runs these two programs. A bare name is looked up in the system's usual directories.
    pub fn new(zfs: PathBuf, zpool: PathBuf) -> Self {
        let runner = Arc::new(Runner::new(zfs, zpool));
        Self {
            runner,
            tools: Arc::default(),
            pools: Arc::default(),
            together: Arc::default(),
            no_turns: Arc::default(),
        }
    }

    /// How many `zfs` and `zpool` processes this value has started.
    pub fn commands_run(&self) -> u64 {
        self.runner.started()
    }

    async fn zfs<S: AsRef<std::ffi::OsStr>>(
        &self,
        operation: &str,
        args: impl IntoIterator<Item = S>,
    ) -> ZfsResult<Output> {
        self.runner.run(operation, Tool::Zfs, args).await
    }

    async fn tools(&self) -> ZfsResult<Arc<Tools>> {
        let cell = self.tools.get_or_try_init(|| async { self.probe().await.map(|t| Mutex::new(Arc::new(t))) }).await?;
        Ok(cell.lock().await.clone())
    }

    async fn forget_property(&self, property: &str) -> bool {
        let Some(cell) = self.tools.get() else { return false };
        Arc::make_mut(&mut *cell.lock().await).forget(property)
    }

    async fn probe(&self) -> ZfsResult<Tools> {
        let operation = "find out what zfs can do";
        let text = async |args: &[&str]| -> ZfsResult<String> {
            let out = self.zfs(operation, args).await?;
            if out.kind() == Some(ZfsErrorKind::NoTool) {
                return Err(out.failure(operation, ZfsErrorKind::NoTool));
            }
            Ok(out.stdout + &out.stderr)
        };
        // What is not usage is why there is none: no kernel module, no daemon, no permission. That may pass, and is not kept.
        let usage = async |args: &[&str]| -> ZfsResult<String> {
            let out = self.zfs(operation, args).await?;
            if out.stdout.contains("usage:") || out.stderr.contains("usage:") {
                return Ok(out.stdout + &out.stderr);
            }
            Err(out.failure(operation, out.kind().unwrap_or(ZfsErrorKind::Other)))
        };
        // Without arguments each prints its usage and does nothing. The hold changes nothing: there is no such pool.
        // (zfs-fuse's `hold` and `release` work although its `holds` may not.)
        let (version, send, receive, snapshot, bookmark, get, list, create, hold) = tokio::try_join!(
            text(&["version"]),
            usage(&["send"]),
            usage(&["receive"]),
            usage(&["snapshot"]),
            usage(&["bookmark"]),
            usage(&["get"]),
            usage(&["list", "-?"]),
            usage(&["create"]),
            text(&["hold", "zmigrate:probe", "zmigrate-no-such-pool@zmigrate-no-such-snapshot"]),
        )?;
        let mut texts = Texts { version, send, receive, snapshot, bookmark, get, list, create, hold };
        if texts.version.contains("unrecognized command") {
            texts.version.clear();
        }
        Ok(probe::tools(&texts))
    }

    async fn pool_capabilities(&self, pool: &str) -> ZfsResult<Capabilities> {
        if let Some((read_at, known)) = self.pools.lock().await.get(pool)
            && read_at.elapsed() < POOL_FEATURES_STAY
        {
            return Ok(known.clone());
        }
        let operation = format!("find out what pool {pool} can do");
        let checked =
            pool.parse::<crate::types::DatasetName>().map_err(|e| error(&operation, ZfsErrorKind::Other, e))?;
        let tools = self.tools().await?;
        let out = self.runner.run(&operation, Tool::Zpool, ["get", "all", checked.pool()]).await?.ok(&operation)?;
        let found = tools.with_pool(&out.stdout);
        self.pools.lock().await.insert(pool.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }
}

/// Splits names so that each command line stays below [`MAX_ARGUMENT_BYTES`]; in practice one part.
fn argument_lists<T: AsRef<str>>(names: &[T]) -> Vec<&[T]> {
    let mut lists = Vec::new();
    let mut rest = names;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |n: &&T| {
            bytes += n.as_ref().len() + 9;
            bytes <= MAX_ARGUMENT_BYTES
        };
        let n = rest.iter().take_while(fits).count().max(1);
        let (list, tail) = rest.split_at(n);
        lists.push(list);
        rest = tail;
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argument_lists_stay_short() {
        let names: Vec<String> = (0..10_000).map(|i| format!("tank/{}-{i}", "x".repeat(200))).collect();
        let lists = argument_lists(&names);
        assert_eq!(lists.concat(), names);
        assert!(
            lists.len() > 1 && lists.iter().all(|l| l.iter().map(|n| n.len() + 9).sum::<usize>() <= MAX_ARGUMENT_BYTES)
        );
        assert!(argument_lists::<String>(&[]).is_empty());
    }
}
