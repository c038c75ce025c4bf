//! `zmigrate config check`: what is well-formed and still will not work, or is hardly meant.
//!
//! It reads files and changes nothing; it opens no connection.

use std::{fmt, fs, io::ErrorKind, os::unix::fs::MetadataExt, path::Path, time::Duration};

use super::{
    Access, Config, TOOL_PATH,
    grants::{table_header, table_header_text},
    schema::distance,
};
use crate::{
    hook::HookKind,
    identity::{
        CA_FILE, CERT_FILE, CRL_FILE, IdentityError, KEY_FILE, LoadedIdentity, RENEW_NODE, When, ca::CA_KEY_FILE,
    },
    jobs::{Direction, Job, Remote},
    types::{DatasetName, PeerAddress, PeerName},
};

const DAY: Duration = Duration::from_secs(86_400);
/// Changing the CA touches every node.
const RENEW_CA: Duration = Duration::from_secs(180 * DAY.as_secs());

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Note,
    /// It works, and will hardly be meant so, or will not work for long.
    Warning,
    /// It does not work.
    Error,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The files and directories that the configuration names.
    Files,
    /// Certificates, key and revocations.
    Identity,
    /// `[peer]`, `[grant]` and `[job]`.
    Names,
    /// The `zfs` command.
    Zfs,
    /// `[hook]`.
    Hooks,
}

/// Something that `config check` has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub topic: Topic,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, one sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Looks at what the configuration names on this host. The worst findings come first.
pub fn check(config: &Config, now: When) -> Vec<Finding> {
    let mut findings = Findings(Vec::new(), Topic::Files);
    findings.files(config);
    findings.1 = Topic::Identity;
    let own = findings.identity(&config.identity_dir, now);
    findings.1 = Topic::Names;
    findings.peers(config, own.as_ref());
    findings.grants(config, own.as_ref());
    findings.jobs(config);
    findings.1 = Topic::Zfs;
    findings.zfs(config);
    findings.1 = Topic::Hooks;
    findings.hooks(config);
    findings.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings.0
}

/// The findings so far, and what the next ones are about.
struct Findings(Vec<Finding>, Topic);

impl Findings {
    fn add(&mut self, severity: Severity, message: impl Into<String>, hint: impl Into<Option<String>>) {
        self.0.push(Finding { topic: self.1, severity, message: message.into(), hint: hint.into() });
    }

    fn files(&mut self, config: &Config) {
        for path in &config.files {
            if fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o022 != 0) {
                self.add(
                    Severity::Warning,
                    format!(
                        "{} can be written by others than its owner, who could grant themselves access",
                        path.display()
                    ),
                    format!("chmod go-w {}", path.display()),
                );
            }
        }
        if let Some(dir) = &config.ca_dir
            && !dir.join(CA_KEY_FILE).exists()
        {
            self.add(
                Severity::Error,
                format!("ca.dir {} holds no {CA_KEY_FILE}: no node can join here", dir.display()),
                format!("zmigrate ca init --dir {} makes an authority; or take [ca] out", dir.display()),
            );
        }
        let dir = &config.state_dir;
        match fs::metadata(dir) {
            Ok(meta) if !meta.is_dir() => {
                self.add(Severity::Error, format!("state_dir {} is not a directory", dir.display()), None);
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.add(Severity::Note, format!("state_dir {} does not exist yet", dir.display()), None);
            }
            Err(e) => self.add(Severity::Error, format!("state_dir {}: {e}", dir.display()), None),
        }
    }

    fn identity(&mut self, dir: &Path, now: When) -> Option<PeerName> {
        if let Err(e) = fs::read_dir(dir)
            && e.kind() == ErrorKind::PermissionDenied
        {
            self.add(
                Severity::Error,
                format!("{} cannot be read by this user: {e}", dir.display()),
                "run zmigrate as the user who runs zmigrated".to_owned(),
            );
            return None;
        }
        let missing: Vec<&str> =
            [CA_FILE, CERT_FILE, KEY_FILE, CRL_FILE].into_iter().filter(|name| !dir.join(name).exists()).collect();
        if !missing.is_empty() {
            self.add(
                Severity::Error,
                format!("{} holds no {}", dir.display(), missing.join(", ")),
                format!(
                    "on the machine of the CA: zmigrate ca issue NAME --dir CA --out DIR, and copy DIR to {}",
                    dir.display()
                ),
            );
            return None;
        }
        self.key_mode(&dir.join(KEY_FILE));
        let id = match LoadedIdentity::read(dir) {
            Ok(id) => id,
            Err(IdentityError::OpenKey { .. }) => return None,
            Err(e) => {
                let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
                self.add(Severity::Error, format!("{e}{cause}"), e.hint());
                return None;
            }
        };
        let renew = format!("zmigrate ca issue {} --renew on the machine of the CA", id.own.name);
        let cert = dir.join(CERT_FILE);
        let cert = cert.display();
        if id.trust.is_revoked(&id.own.serial) {
            self.add(Severity::Error, format!("{cert} is revoked"), "issue a new identity for this node".to_owned());
        }
        if now > id.own.not_after {
            self.add(Severity::Error, format!("{cert} expired {}", id.own.not_after), renew);
        } else if now < id.own.not_before {
            self.add(
                Severity::Error,
                format!("{cert} is valid only from {}; the clock here says {now}", id.own.not_before),
                "set the clock of this host".to_owned(),
            );
        } else if now.after(RENEW_NODE) > id.own.not_after {
            self.add(Severity::Warning, format!("{cert} expires {}", id.own.not_after), renew);
        }
        for ca in id.trust.cas() {
            let short = ca.fingerprint_sha256.get(..16).unwrap_or_default();
            if now.after(RENEW_CA) > ca.not_after {
                self.add(
                    Severity::Warning,
                    format!("the CA sha256:{short}… ends {}", ca.not_after),
                    "make a new CA, and add it to ca.pem of every node before it issues certificates".to_owned(),
                );
            }
            if !ca.has_crl {
                self.add(
                    Severity::Warning,
                    format!("{CRL_FILE} holds no revocation list of the CA sha256:{short}…: nothing it issued can be revoked"),
                    "append the crl.pem of that CA".to_owned(),
                );
            }
        }
        Some(id.own.name)
    }

    fn key_mode(&mut self, key: &Path) {
        let Ok(meta) = fs::metadata(key) else { return };
        let mode = meta.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let error = IdentityError::OpenKey { path: key.to_owned(), mode };
            self.add(Severity::Error, error.to_string(), error.hint());
        } else if mode != 0o600 {
            let message = format!("{} has mode {mode:04o}, not 0600", key.display());
            self.add(Severity::Note, message, format!("chmod 600 {}", key.display()));
        }
    }

    fn peers(&mut self, config: &Config, own: Option<&PeerName>) {
        for (name, peer) in &config.peers {
            if own == Some(&peer.identity) {
                self.add(
                    Severity::Error,
                    format!("{} names this node itself", table_header("peer", name)),
                    "remove it, or correct its identity".to_owned(),
                );
            }
            let twin = config
                .peers
                .iter()
                .find(|(other, p)| *other > name && p.address == peer.address && p.identity != peer.identity);
            if let Some((other, _)) = twin {
                self.add(
                    Severity::Warning,
                    format!("the peers {name} and {other} have the address {} and different identities", peer.address),
                    "one node has one identity: correct one of the addresses".to_owned(),
                );
            }
        }
    }

    fn grants(&mut self, config: &Config, own: Option<&PeerName>) {
        let identities: Vec<&PeerName> = config.peers.values().map(|peer| &peer.identity).collect();
        for (name, grant) in config.grants.iter() {
            let table = table_header("grant", name);
            if own == Some(name) {
                let message = format!("{table} is for this node itself, and is never used");
                self.add(Severity::Warning, message, "a grant names the identity of another node".to_owned());
            } else if !identities.contains(&name) {
                if let Some(peer) = config.peers.get_key_value(name).map(|(_, peer)| peer) {
                    self.add(
                        Severity::Warning,
                        format!(
                            "{table} is for the identity {name}, and the peer of that name has the identity {}",
                            peer.identity
                        ),
                        format!("write {} if that is who is meant", table_header("grant", &peer.identity)),
                    );
                } else if let Some(near) = identities.iter().find(|id| distance(id.as_str(), name.as_str()) == 1) {
                    self.add(
                        Severity::Warning,
                        format!("{table} is for the identity {name}, which no peer has"),
                        format!("did you mean {near}?"),
                    );
                }
            }
            for (other, theirs) in config.grants.iter().filter(|(other, _)| *other > name) {
                let shared = grant
                    .of(Access::Push)
                    .iter()
                    .find_map(|a| theirs.of(Access::Push).iter().find(|b| a.is_at_or_below(b) || b.is_at_or_below(a)));
                if let Some(dataset) = shared {
                    self.add(
                        Severity::Note,
                        format!("{name} and {other} may both send into {dataset}"),
                        "give each its own dataset, unless they replicate different datasets into it".to_owned(),
                    );
                }
            }
        }
    }

    fn jobs(&mut self, config: &Config) {
        for (at, job) in config.jobs.values().enumerate() {
            let anybody = match job.remote.as_ref().map(|remote| &remote.peer) {
                None => None,
                Some(PeerAddress::Name(name)) if config.peers.contains_key(name) => None,
                Some(PeerAddress::Name(name)) => {
                    Some(format!("there is no [peer.{name}], so {name} is taken for a host"))
                }
                Some(PeerAddress::Direct(at)) => Some(format!("{at} is no [peer.NAME]")),
            };
            if let Some(why) = anybody {
                self.add(
                    Severity::Warning,
                    format!("job {}: {why}, and any node of the fleet that answers there is believed", job.name),
                    "write a [peer.NAME] with its address and identity".to_owned(),
                );
            }
            for other in config.jobs.values().skip(at + 1) {
                self.two_jobs(job, other);
            }
        }
    }

    fn two_jobs(&mut self, one: &Job, other: &Job) {
        let meet = |a: &DatasetName, b: &DatasetName| a.is_at_or_below(b) || b.is_at_or_below(a);
        let writes_into_each_other = |(a, b): (&Remote, &Remote)| {
            let same_host = a.direction == b.direction && (a.direction == Direction::Pull || a.peer == b.peer);
            same_host && meet(&a.target, &b.target)
        };
        if one.remote.as_ref().zip(other.remote.as_ref()).is_some_and(writes_into_each_other) {
            self.add(
                Severity::Warning,
                format!("jobs {} and {} write into each other's target", one.name, other.name),
                "give each its own target; a run of one keeps the other away with exit code 75".to_owned(),
            );
        }
        let both_prune = one.keep.is_some() && other.keep.is_some() && one.keep != other.keep;
        // A pull prunes its target by keep, the others what they read, but of others' copies below that nothing.
        let copy = |job: &Job| job.remote.clone().filter(|_| job.is(Direction::Pull)).map(|remote| remote.target);
        let is_in = |reads: &Job, pull: &Job, copy: DatasetName| {
            reads.dataset == copy || (pull.recursive && reads.dataset.is_at_or_below(&copy))
        };
        let the_same = match (copy(one), copy(other)) {
            (None, None) => meet(&one.dataset, &other.dataset),
            (Some(copy), None) => is_in(other, one, copy),
            (None, Some(copy)) => is_in(one, other, copy),
            // They write into each other's target, if they meet.
            (Some(_), Some(_)) => false,
        };
        if both_prune && one.prefix == other.prefix && the_same {
            self.add(
                Severity::Warning,
                format!("jobs {} and {} prune the same snapshots here by different rules", one.name, other.name),
                "leave keep in one of them".to_owned(),
            );
        }
        let same_data = one.sends(&other.dataset) || other.sends(&one.dataset);
        let prunes_peer = one.keep_peer.is_some() || other.keep_peer.is_some();
        if same_data && one.snapshot && other.snapshot && one.prefix != other.prefix && prunes_peer {
            self.add(
                Severity::Warning,
                match [one, other].into_iter().find(|job| job.remote.is_none()) {
                    None => format!(
                        "jobs {} and {} send the same datasets with different prefixes: either target also gets the other's \
                         snapshots, which its own keep_peer does not prune, and they grow in number without end",
                        one.name, other.name
                    ),
                    Some(local) => format!(
                        "jobs {} and {} take snapshots of the same datasets with different prefixes: a target also gets those of {}, \
                         which its keep_peer does not prune, and they grow in number without end",
                        one.name, other.name, local.name
                    ),
                },
                "give both one prefix, with keep in one of them alone; snapshot = false in the other if one snapshot for both is enough"
                    .to_owned(),
            );
        }
    }

    fn zfs(&mut self, config: &Config) {
        let command = &config.zfs_command;
        let found = if command.is_absolute() {
            is_executable(command)
        } else {
            TOOL_PATH.split(':').any(|dir| is_executable(&Path::new(dir).join(command)))
        };
        let place = if command.is_absolute() { String::new() } else { format!(" (looked for in {TOOL_PATH})") };
        if !found {
            self.add(
                Severity::Error,
                format!("zfs.command {} is not there or cannot be run{place}", command.display()),
                "install the ZFS tools, or set zfs.command to their path".to_owned(),
            );
        }
    }
}

/// What stands in the way of a hook, so far as files tell.
impl Findings {
    fn hooks(&mut self, config: &Config) {
        for (name, hook) in &config.hooks {
            let table = table_header_text("hook", name.as_str());
            for (key, argv) in hook.commands() {
                let program = Path::new(argv.program());
                if !is_executable(program) {
                    self.add(
                        Severity::Error,
                        format!("{table} {key}: {} is not there or cannot be run", program.display()),
                        "install it, chmod +x it, or correct its path".to_owned(),
                    );
                } else if fs::metadata(program).is_ok_and(|meta| meta.mode() & 0o022 != 0) {
                    self.add(
                        Severity::Warning,
                        format!(
                            "{table} {key}: {} can be written by others than its owner, who could run what they like",
                            program.display()
                        ),
                        format!("chmod go-w {}", program.display()),
                    );
                }
            }
            match &hook.kind {
                HookKind::Docker { socket, .. } if !socket.exists() => self.add(
                    Severity::Warning,
                    format!("{table} docker: there is no socket {}", socket.display()),
                    "start Docker, or name its socket with docker_socket".to_owned(),
                ),
                HookKind::Fsfreeze { mountpoint } if !mountpoint.is_dir() => self.add(
                    Severity::Error,
                    format!("{table} fsfreeze: {} is not a directory", mountpoint.display()),
                    "name where the filesystem on the volume is mounted".to_owned(),
                ),
                _ => {}
            }
        }
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}
