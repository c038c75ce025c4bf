//! From key paths and plain values to a [`Config`]: which keys there are, and what each may hold.

mod hooks;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use self::hooks::HookDraft;
use super::{
    Access, Config, ConfigError, DEFAULT_PORT, Grant, LIMITS, LimitSpec, LimitUnit, Peer, Place, Problem,
    document::{Entry, Merged, Value},
    grants::table_header,
    jobs::JobTables,
};
use crate::{
    hook::HookName,
    types::{ByteSize, DatasetName, Endpoint, PeerName},
};

/// Every key but those of `[limits]`, which are in [`LIMITS`]. `NAME` stands for a name that the operator chooses.
pub const KEYS: &[&str] = &[
    "listen",
    "state_dir",
    "runtime_dir",
    "identity.dir",
    "ca.dir",
    "peer.NAME.address",
    "peer.NAME.identity",
    "grant.NAME.push",
    "grant.NAME.pull",
    "grant.NAME.cutover",
    "hook.NAME.systemd",
    "hook.NAME.docker",
    "hook.NAME.docker_socket",
    "hook.NAME.stop",
    "hook.NAME.start",
    "hook.NAME.fsfreeze",
    "hook.NAME.timeout_s",
    "hook.NAME.check",
    "hook.NAME.check_timeout_s",
    "zfs.command",
    "metrics.listen",
    "job.NAME.direction",
    "job.NAME.dataset",
    "job.NAME.recursive",
    "job.NAME.exclude",
    "job.NAME.exclude_property",
    "job.NAME.peer",
    "job.NAME.target",
    "job.NAME.cron",
    "job.NAME.every",
    "job.NAME.jitter",
    "job.NAME.time_zone",
    "job.NAME.hours",
    "job.NAME.jobs",
    "job.NAME.streams",
    "job.NAME.compress",
    "job.NAME.encryption",
    "job.NAME.bwlimit",
    "job.NAME.bwlimit_hours",
    "job.NAME.retries",
    "job.NAME.retry_wait",
    "job.NAME.snapshot",
    "job.NAME.prefix",
    "job.NAME.keep",
    "job.NAME.keep_peer",
    "job.NAME.destroy_deleted",
    "job.NAME.verify",
    "job.NAME.verify_content",
    "job.NAME.before",
    "job.NAME.after",
    "job.NAME.hook_timeout",
    "job.NAME.max_lag",
];

pub(super) fn interpret(merged: Merged) -> Result<Config, ConfigError> {
    let mut reader = Reader::default();
    reader.tables(&merged);
    for (path, entry) in &merged.entries {
        reader.entry(path, entry);
    }
    reader.finish()
}

#[derive(Default)]
struct PeerDraft {
    address: Option<Endpoint>,
    identity: Option<PeerName>,
    /// Whether `address` was given at all, so that a bad one is reported once.
    has_address: bool,
}

#[derive(Default)]
struct Reader {
    config: Config,
    peers: BTreeMap<PeerName, (Place, PeerDraft)>,
    grants: BTreeMap<PeerName, Grant>,
    hooks: BTreeMap<HookName, HookDraft>,
    jobs: JobTables,
    /// Grants with a bad list, which are not called empty on top of that.
    bad_grants: BTreeSet<PeerName>,
    /// Unknown prefixes that have been reported: what is below them is not reported again.
    reported: BTreeSet<Vec<String>>,
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, at: &Place, message: impl Into<String>) {
        self.problems.push(Problem::new(at, message));
    }

    fn tables(&mut self, merged: &Merged) {
        for (path, at) in &merged.tables {
            let parts: Vec<&str> = path.iter().map(String::as_str).collect();
            match parts.as_slice() {
                ["identity" | "ca" | "peer" | "grant" | "hook" | "limits" | "zfs" | "job" | "metrics"] => {}
                ["job", name] => {
                    if let Err(e) = self.jobs.table(name, at) {
                        self.problem(at, e.to_string());
                        self.reported.insert(path.clone());
                    }
                }
                ["hook", name] => {
                    if !self.hook_table(name, at) {
                        self.reported.insert(path.clone());
                    }
                }
                [table @ ("peer" | "grant"), name] => match name.parse::<PeerName>() {
                    Ok(name) if *table == "peer" => {
                        self.peers.insert(name, (at.clone(), PeerDraft::default()));
                    }
                    Ok(name) => {
                        self.grants.insert(name, Grant { declared_at: Some(at.clone()), ..Grant::default() });
                    }
                    Err(e) => {
                        self.problem(at, e.to_string());
                        self.reported.insert(path.clone());
                    }
                },
                _ => self.unknown(path, at, true),
            }
        }
    }

    fn entry(&mut self, path: &[String], entry: &Entry) {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["listen"] => self.listen(entry),
            ["state_dir"] => self.dir(entry, "state_dir", |c| &mut c.state_dir),
            ["runtime_dir"] => self.dir(entry, "runtime_dir", |c| &mut c.runtime_dir),
            ["identity", "dir"] => self.dir(entry, "identity.dir", |c| &mut c.identity_dir),
            ["ca", "dir"] => self.ca_dir(entry),
            ["zfs", "command"] => self.zfs_command(entry),
            ["metrics", "listen"] => self.metrics_listen(entry),
            ["limits", key] => match LIMITS.iter().find(|spec| spec.key == *key) {
                Some(spec) => self.limit(spec, entry),
                None => self.unknown(path, &entry.key_at, false),
            },
            ["peer", name, key @ ("address" | "identity")] => self.peer(name, key, entry),
            ["grant", name, key] => match Access::ALL.into_iter().find(|access| access.key() == *key) {
                Some(access) => self.grant(name, access, entry),
                None => self.unknown(path, &entry.key_at, false),
            },
            ["job", name, key] if KEYS.contains(&format!("job.NAME.{key}").as_str()) => {
                self.jobs.entry(name, key, entry)
            }
            ["hook", name, key] => {
                if !self.hook(name, key, entry) {
                    self.unknown(path, &entry.key_at, false);
                }
            }
            [table @ ("identity" | "ca" | "peer" | "grant" | "hook" | "limits" | "zfs" | "job" | "metrics")] => {
                self.problem(&entry.value_at, format!("{table} must be a table, not {}", entry.value.kind()));
            }
            ["peer" | "grant" | "hook" | "job", _] => {
                self.problem(
                    &entry.value_at,
                    format!("{} must be a table, not {}", path.join("."), entry.value.kind()),
                );
            }
            _ => self.unknown(path, &entry.key_at, false),
        }
    }

    fn text<'e>(&mut self, entry: &'e Entry, key: &str) -> Option<&'e str> {
        match &entry.value {
            Value::Text(text) => Some(text),
            other => {
                self.problem(&entry.value_at, format!("{key} must be a string, not {}", other.kind()));
                None
            }
        }
    }

    fn absolute(&mut self, entry: &Entry, key: &str) -> Option<PathBuf> {
        let text = self.text(entry, key)?;
        // A relative path would mean another directory for each place a command is run from.
        if !text.starts_with('/') || text.contains('\0') {
            self.problem(&entry.value_at, format!("{key} must be an absolute path, not {text:?}"));
            return None;
        }
        Some(text.into())
    }

    fn dir(&mut self, entry: &Entry, key: &str, field: fn(&mut Config) -> &mut PathBuf) {
        if let Some(dir) = self.absolute(entry, key) {
            *field(&mut self.config) = dir;
        }
    }

    fn ca_dir(&mut self, entry: &Entry) {
        self.config.ca_dir = self.absolute(entry, "ca.dir").or(self.config.ca_dir.take());
    }

    fn zfs_command(&mut self, entry: &Entry) {
        let Some(text) = self.text(entry, "zfs.command") else { return };
        if text.is_empty() || text.contains('\0') || (text.contains('/') && !text.starts_with('/')) {
            self.problem(
                &entry.value_at,
                format!("zfs.command must be an absolute path, or a name without slashes, not {text:?}"),
            );
            return;
        }
        self.config.zfs_command = text.into();
    }

    fn metrics_listen(&mut self, entry: &Entry) {
        let Some(text) = self.text(entry, "metrics.listen") else { return };
        match text.parse::<SocketAddr>() {
            Ok(address) => self.config.metrics_listen = Some(address),
            Err(_) => self.problems.push(
                Problem::new(&entry.value_at, format!("metrics.listen: {text:?} is not an IP address with a port"))
                    .hint("write \"127.0.0.1:9851\""),
            ),
        }
    }

    fn listen(&mut self, entry: &Entry) {
        let one;
        let items = match &entry.value {
            Value::List(items) => items.as_slice(),
            Value::Text(text) => {
                one = [(Value::Text(text.clone()), entry.value_at.clone())];
                &one
            }
            other => {
                self.problem(&entry.value_at, format!("listen must be an address or a list, not {}", other.kind()));
                return;
            }
        };
        let mut all = Vec::new();
        for (item, at) in items {
            let Value::Text(text) = item else {
                self.problem(at, format!("listen must hold strings, not {}", item.kind()));
                continue;
            };
            let address =
                text.parse::<SocketAddr>().or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, DEFAULT_PORT).into()));
            match address {
                Ok(address) if all.contains(&address) => self.problem(at, format!("listen names {address} twice")),
                Ok(address) => all.push(address),
                Err(_) => self.problems.push(
                    Problem::new(at, format!("listen: {text:?} is not an IP address with a port"))
                        .hint("write \"0.0.0.0:8551\" or \"[::]:8551\"; host names are not taken here"),
                ),
            }
        }
        if items.is_empty() {
            self.problem(&entry.value_at, "listen names no address; leave it out for the default");
        }
        self.config.listen = all;
    }

    fn limit(&mut self, spec: &LimitSpec, entry: &Entry) {
        let value = match &entry.value {
            Value::Integer(int) => u64::try_from(*int).ok(),
            Value::Text(text) if spec.unit == LimitUnit::Bytes => text.parse::<ByteSize>().ok().map(|size| size.0),
            other => {
                self.problem(&entry.value_at, format!("limits.{} must be an integer, not {}", spec.key, other.kind()));
                return;
            }
        };
        match (value.filter(|v| (spec.min..=spec.max).contains(v)), self.config.limits.field(spec.key)) {
            (Some(value), Some(field)) => *field = value,
            _ => self.problem(
                &entry.value_at,
                format!("limits.{} must be {} to {}; the default is {}", spec.key, spec.min, spec.max, spec.default),
            ),
        }
    }

    fn peer(&mut self, name: &str, key: &str, entry: &Entry) {
        // A name that does not parse was reported with its table.
        let Ok(name) = name.parse::<PeerName>() else { return };
        let text = self.text(entry, &format!("peer.{name}.{key}")).map(str::to_owned);
        let mut problem = None;
        if let Some((_, draft)) = self.peers.get_mut(&name) {
            draft.has_address |= key == "address";
            match (key, text) {
                (_, None) => {}
                ("address", Some(text)) => match text.parse() {
                    Ok(address) => draft.address = Some(address),
                    Err(e) => problem = Some(format!("peer.{name}.address: {e}")),
                },
                (_, Some(text)) => match text.parse() {
                    Ok(identity) => draft.identity = Some(identity),
                    Err(e) => problem = Some(format!("peer.{name}.identity: {e}")),
                },
            }
        }
        if let Some(message) = problem {
            let hint = if key == "address" { "write \"host:port\"" } else { "write the NAME of its certificate" };
            self.problems.push(Problem::new(&entry.value_at, message).hint(hint));
        }
    }

    fn grant(&mut self, name: &str, access: Access, entry: &Entry) {
        let Ok(name) = name.parse::<PeerName>() else { return };
        let before = self.problems.len();
        let mut datasets: Vec<DatasetName> = Vec::new();
        match &entry.value {
            Value::List(items) => {
                for (item, at) in items {
                    let Value::Text(text) = item else {
                        self.problem(at, format!("grant.{name}.{access} must hold strings, not {}", item.kind()));
                        continue;
                    };
                    match text.parse::<DatasetName>() {
                        Ok(dataset) => match overlap(&datasets, &dataset) {
                            Some(why) => self.problem(at, format!("grant.{name}.{access}: {why}")),
                            None => datasets.push(dataset),
                        },
                        Err(e) => self.problem(at, format!("grant.{name}.{access}: {e}")),
                    }
                }
            }
            other => self.problems.push(
                Problem::new(
                    &entry.value_at,
                    format!("grant.{name}.{access} must be a list of datasets, not {}", other.kind()),
                )
                .hint(format!("write {access} = [\"tank/data\"]")),
            ),
        }
        if self.problems.len() > before {
            self.bad_grants.insert(name.clone());
        }
        if let Some(grant) = self.grants.get_mut(&name) {
            *grant.of_mut(access) = datasets;
        }
    }

    /// Reports the shortest part of `path` that is not known, once.
    fn unknown(&mut self, path: &[String], at: &Place, is_table: bool) {
        let known = known_keys();
        let depth = (1..=path.len())
            .find(|n| !known.iter().any(|key| key.len() >= *n && matches(&key[..*n], &path[..*n])))
            .unwrap_or(path.len());
        let prefix = path[..depth].to_vec();
        if (1..=depth).any(|n| self.reported.contains(&path[..n])) {
            return;
        }
        let shown = prefix.join(".");
        let mut problem = if is_table && known.iter().any(|key| matches(key, path)) {
            Problem::new(at, format!("{shown} is not a table"))
        } else {
            Problem::new(at, format!("unknown key {shown:?}"))
        };
        if let Some(near) = nearest(&prefix, &known) {
            problem = problem.hint(near);
        }
        self.reported.insert(prefix);
        self.problems.push(problem);
    }

    /// True if an unknown key of this table was told: that it lacks something is then no news.
    fn reported_below(&self, table: &str, name: &PeerName) -> bool {
        self.reported.iter().any(|path| path.len() > 2 && path[0] == table && path[1] == name.as_str())
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        for (name, (at, draft)) in std::mem::take(&mut self.peers) {
            match draft.address {
                Some(address) => {
                    let identity = draft.identity.unwrap_or_else(|| name.clone());
                    self.config.peers.insert(name, Peer { address, identity });
                }
                None if draft.has_address || self.reported_below("peer", &name) => {}
                None => self.problems.push(
                    Problem::new(&at, format!("{} has no address", table_header("peer", &name)))
                        .hint("add address = \"host:8551\""),
                ),
            }
        }
        for (name, grant) in std::mem::take(&mut self.grants) {
            let empty = Access::ALL.iter().all(|access| grant.of(*access).is_empty());
            let told = self.bad_grants.contains(&name) || self.reported_below("grant", &name);
            if let (true, false, Some(at)) = (empty, told, &grant.declared_at) {
                let table = table_header("grant", &name);
                self.problems.push(
                    Problem::new(at, format!("{table} grants nothing"))
                        .hint("name datasets with push, pull or cutover, or remove the table"),
                );
            }
            self.config.grants.by_identity.insert(name, grant);
        }
        self.finish_hooks();
        let reported = std::mem::take(&mut self.reported);
        self.config.jobs = std::mem::take(&mut self.jobs).finish(&reported, &mut self.problems);
        let limits = &self.config.limits;
        if self.problems.is_empty() && limits.link_lost_after_s < limits.idle_timeout_s {
            // No place: either of the two may be the default.
            let message = format!(
                "limits.link_lost_after_s ({}) is below limits.idle_timeout_s ({}): a transfer would be given up \
                 before a silent peer is noticed",
                limits.link_lost_after_s, limits.idle_timeout_s
            );
            self.problems.push(Problem { at: "limits".to_owned(), message, hint: None });
        }
        if self.problems.is_empty() { Ok(self.config) } else { Err(ConfigError::new(self.problems)) }
    }
}

/// Why `dataset` does not belong beside those before it in one list.
fn overlap(before: &[DatasetName], dataset: &DatasetName) -> Option<String> {
    before.iter().find_map(|other| {
        if other == dataset {
            Some(format!("{dataset} is listed twice"))
        } else if dataset.is_at_or_below(other) {
            Some(format!("{dataset} is below {other}, which stands for everything below it"))
        } else if other.is_at_or_below(dataset) {
            Some(format!("{dataset} stands for everything below it, also for {other}"))
        } else {
            None
        }
    })
}

fn known_keys() -> Vec<Vec<&'static str>> {
    let limits = LIMITS.iter().map(|spec| vec!["limits", spec.key]);
    KEYS.iter().map(|key| key.split('.').collect()).chain(limits).collect()
}

fn matches(known: &[&str], path: &[String]) -> bool {
    known.len() == path.len() && known.iter().zip(path).all(|(known, part)| *known == "NAME" || known == part)
}

/// What the writer of an unknown key may have meant.
fn nearest(path: &[String], known: &[Vec<&'static str>]) -> Option<String> {
    let (last, above) = path.split_last()?;
    let siblings: BTreeSet<&str> = known
        .iter()
        .filter(|key| key.len() >= path.len() && matches(&key[..above.len()], above))
        .map(|key| key[above.len()])
        .filter(|key| *key != "NAME")
        .collect();
    let best = siblings.iter().map(|key| (distance(last, key), *key)).min();
    if let Some((far, key)) = best
        && far <= (key.len() / 2).min(3)
    {
        return Some(format!("did you mean {key}?"));
    }
    if let Some(key) = known.iter().find(|key| key.last().is_some_and(|k| k == last) && key.len() > 1) {
        return Some(format!("{last} belongs into [{}]", key[..key.len() - 1].join(".")));
    }
    if let [table @ ("peer" | "grant" | "hook"), name, rest] = &path.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        return Some(format!("a name with a dot must be quoted: [{table}.\"{name}.{rest}\"]"));
    }
    (!siblings.is_empty()).then(|| format!("known here: {}", siblings.into_iter().collect::<Vec<_>>().join(", ")))
}

/// Levenshtein's distance, over the first 64 characters.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
