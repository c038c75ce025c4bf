//! Configuration, identity, clock and directories of this host.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::{Checks, Patient, rough, user_name};
use crate::{
    config::{Config, Severity, Topic, check},
    identity::{LoadedIdentity, When},
    types::{FailureClass, human_bytes},
};

/// 2026-01-01: a clock that says less was never set.
const NOT_BEFORE: u64 = 1_767_225_600;
/// The journal grows by a few hundred bytes for each thing that is destroyed; below this something else fills the disk.
const SPACE_WARN: u64 = 100 << 20;
/// Entries of the state directory that are looked at.
const MAX_ENTRIES: usize = 1000;
/// Too little for a day of journal and locks.
const SPACE_FAIL: u64 = 1 << 20;

pub(super) fn configuration(checks: &mut Checks, patient: &Patient) {
    let config = &patient.config;
    let files: Vec<String> = config.files.iter().map(|f| f.display().to_string()).collect();
    match files.as_slice() {
        [] => checks.ok("config", "no file; the defaults are used"),
        files => checks.ok("config", format!("{} is well-formed", files.join(", "))),
    }
    for finding in check(config, patient.now) {
        let (topic, class) = match finding.topic {
            Topic::Files | Topic::Names | Topic::Hooks => ("config", FailureClass::Usage),
            Topic::Identity => ("identity", FailureClass::NotGranted),
            Topic::Zfs => ("zfs", FailureClass::Zfs),
        };
        let hint = finding.hint.unwrap_or_else(|| "correct it, then run `zmigrate config check`".to_owned());
        match finding.severity {
            Severity::Note => checks.ok(topic, finding.message),
            Severity::Warning => checks.warn(topic, finding.message, hint),
            Severity::Error => checks.fail(topic, class, finding.message, hint),
        }
    }
}

/// What is good about it; what is not was found with the configuration.
pub(super) fn identity(checks: &mut Checks, patient: &Patient) {
    let Ok(id) = LoadedIdentity::read(&patient.config.identity_dir) else { return };
    let now = patient.now;
    let own = &id.own;
    if now >= own.not_before && now <= own.not_after && !id.trust.is_revoked(&own.serial) {
        let left = rough(own.not_after.since(now));
        checks.ok(
            "identity",
            format!("this node is {}; its certificate is valid until {} ({left})", own.name, own.not_after),
        );
    }
    for ca in id.trust.cas() {
        if let Some(made) = ca.crl_made {
            let short = ca.fingerprint_sha256.get(..16).unwrap_or_default();
            checks.ok("identity", format!("revocations of the CA sha256:{short}… are {} old", rough(now.since(made))));
        }
    }
}

pub(super) fn clock(checks: &mut Checks, patient: &Patient) {
    let now = patient.now;
    if now < When::from_unix_s(NOT_BEFORE) {
        checks.fail(
            "clock",
            FailureClass::Usage,
            format!("this host believes that it is {now}"),
            "set the clock (`timedatectl set-ntp true`): certificates are not valid in the past",
        );
    } else {
        checks.ok("clock", format!("{now}"));
    }
}

pub(super) fn directories(checks: &mut Checks, config: &Config) {
    directory(checks, "state_dir", &config.state_dir);
}

fn directory(checks: &mut Checks, key: &str, dir: &Path) {
    use rustix::fs::{Access, access, statvfs};
    // What does not exist yet is made in what does.
    let Some(existing) = dir.ancestors().find(|path| path.exists()) else { return };
    let shown = dir.display();
    if let Err(e) = access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        let at = if existing == dir {
            "it".to_owned()
        } else {
            format!("{}, in which it has to be made,", existing.display())
        };
        // One that is there has its user, from whom nobody is to take it.
        let hint = match fs::metadata(dir) {
            Ok(meta) => {
                let owner = user_name(meta.uid());
                format!(
                    "it belongs to {owner}: runuser -u {owner} -- zmigrate doctor; all commands are to be run as one user"
                )
            }
            Err(_) => format!("give it to the user that runs zmigrate: install -d -m 700 -o USER {shown}"),
        };
        checks.fail("dirs", FailureClass::Usage, format!("{key} {shown}: {at} cannot be written ({e})"), hint);
        return;
    }
    // What a command made that was run as somebody else.
    let inside = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    // What a verification lays open is mounted there read-only, and nobody is to be given it.
    let views = dir.join("views");
    let is_view = |path: &Path| path.parent() == Some(&views) && path.extension().is_some_and(|at| at == "at");
    let entries = inside(dir).flat_map(|path| inside(&path).chain([path.clone()]).collect::<Vec<_>>());
    let entries = entries.filter(|path| !is_view(path)).take(MAX_ENTRIES);
    if let Some((foreign, e)) =
        entries.filter_map(|path| Some((path.clone(), access(&path, Access::WRITE_OK).err()?))).next()
    {
        checks.fail(
            "dirs",
            FailureClass::Usage,
            format!("{} cannot be written ({e}): a command was run as another user", foreign.display()),
            format!("run all commands as one user, and give it everything: chown -R USER {shown}"),
        );
        return;
    }
    match statvfs(existing) {
        Err(e) => checks.warn("dirs", format!("{key} {shown}: its free space is not known ({e})"), "look with `df`"),
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            let text = format!("{key} {shown} has {} free", human_bytes(free));
            let hint =
                "make room there: without the journal zmigrate destroys nothing, and without locks it does nothing";
            match free {
                ..SPACE_FAIL => checks.fail("dirs", FailureClass::Usage, text, hint),
                SPACE_FAIL..SPACE_WARN => checks.warn("dirs", text, hint),
                _ => checks.ok("dirs", format!("{key} {shown} can be written, {} free", human_bytes(free))),
            }
        }
    }
}
