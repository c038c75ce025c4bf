//! The ZFS of this host, and of a peer by what it tells: version, known bugs, pools.

use std::collections::BTreeSet;

use super::{Checks, PATIENCE, Patient, places};
use crate::{
    releases::{Release, known_bugs},
    session::patience::in_time,
    types::{Failure, FailureClass, PoolStatus, ZfsVersion, human_bytes, listing::Capabilities},
};

/// ZFS slows down and fragments from here on.
const FULL_WARN: u64 = 90;
/// A receive may fail at any moment.
const FULL_FAIL: u64 = 98;

const LOOK: &str = "look at `zpool status` and `dmesg` on that host";

pub(super) async fn all(checks: &mut Checks, patient: &Patient) {
    let zfs = &*patient.zfs;
    let found = match in_time("ask zfs for its version", PATIENCE, zfs.version()).await {
        Ok(found) => found,
        Err(e) => {
            checks.failure("zfs", Failure::from(e), LOOK);
            return;
        }
    };
    checks.facts.zfs_userland = found.userland.clone();
    checks.facts.zfs_kernel = found.kernel.clone();
    version(checks, "zfs", &found);
    let pools = match in_time("list the pools", PATIENCE, zfs.pools()).await {
        Ok(pools) => pools,
        Err(e) => return checks.failure("pool", Failure::from(e), LOOK),
    };
    if pools.is_empty() {
        checks.fail("pool", FailureClass::Zfs, "no pool is imported", "`zpool import` shows those that could be");
        return;
    }
    let mut lacking = Vec::new();
    for status in &pools {
        pool(checks, "pool", status);
        if status.answers() {
            match in_time("find out what the pool can do", PATIENCE, zfs.capabilities(&status.name)).await {
                Ok(can) => lacking.push((status.name.clone(), can)),
                Err(e) => checks.failure("pool", Failure::from(e), LOOK),
            }
        }
    }
    lacks(checks, "zfs", &lacking);
    places::all(checks, patient, &pools).await;
}

/// Version, a module that does not fit, and the bugs that are known of it.
pub(super) fn version(checks: &mut Checks, topic: &'static str, version: &ZfsVersion) {
    match (&version.userland, &version.kernel) {
        (None, None) => {
            let hint = "use OpenZFS 2.2 or later for interrupted transfers that go on, bookmarks and raw sends";
            checks.warn(
                topic,
                "no `zfs version`: this is zfs-fuse, or ZFS before 0.8; known bugs cannot be looked up",
                hint,
            );
            return;
        }
        (Some(tools), None) => {
            checks.fail(
                topic,
                FailureClass::Zfs,
                format!("the tools are {tools}, and no kernel module answers"),
                "modprobe zfs; if that fails, the module was not built for the running kernel (`dkms status`)",
            );
        }
        (Some(tools), Some(module)) if tools == module => checks.ok(topic, format!("{tools}, tools and kernel module")),
        (tools, Some(module)) => {
            let tools = tools.as_deref().unwrap_or("unknown");
            checks.warn(
                topic,
                format!("the tools are {tools} and the kernel module is {module}"),
                "reboot, or load the module of the tools' release: an update has come only halfway",
            );
        }
    }
    let parsed: Vec<_> =
        [&version.userland, &version.kernel].into_iter().flatten().map(|v| Release::parse(v)).collect();
    if parsed.iter().any(Option::is_none) {
        checks.warn(
            topic,
            "the version is not understood, so known bugs cannot be looked up",
            "compare with the release notes of OpenZFS",
        );
    } else if parsed.iter().flatten().any(Release::is_development) {
        checks.ok(topic, "a development build, of which no table of known bugs tells");
    }
    for bug in known_bugs(version) {
        let hint = format!("update to {}; {}", bug.fixed_in(), bug.advice);
        checks.warn(topic, format!("before {}: {}", bug.fixed_in(), bug.what), hint);
    }
}

/// Health and space of one pool.
pub(super) fn pool(checks: &mut Checks, topic: &'static str, pool: &PoolStatus) {
    let name = &pool.name;
    let status = format!("`zpool status {name}` says which device; replace it, or bring it back");
    match pool.health.as_str() {
        "ONLINE" => {}
        "DEGRADED" => {
            checks.warn(topic, format!("{name} is DEGRADED: it works, without all of its redundancy"), status)
        }
        "SUSPENDED" => {
            let hint =
                format!("bring its devices back, then `zpool clear {name}`; until then every command on it hangs");
            checks.fail(topic, FailureClass::Zfs, format!("{name} is SUSPENDED"), hint);
        }
        other => checks.fail(topic, FailureClass::Zfs, format!("{name} is {other}"), status),
    }
    if pool.readonly == Some(true) {
        let hint = "nothing can be received, snapshotted or held; export it, and import it without -o readonly=on";
        checks.warn(topic, format!("{name} is imported read-only"), hint);
    }
    let (used, available) = match (pool.used, pool.available) {
        (Some(used), Some(available)) => (used, available),
        _ => {
            if pool.health == "ONLINE" {
                checks.ok(topic, format!("{name} is ONLINE"));
            }
            return;
        }
    };
    let full = used.saturating_mul(100).checked_div(used.saturating_add(available)).unwrap_or(0);
    let full = full.max(pool.full_percent.unwrap_or(0).into());
    let text = format!("{name} is {full} % full, {} free", human_bytes(available));
    let hint = "destroy what is not needed (old snapshots first), or add space; receives fail when it is full";
    match full {
        FULL_FAIL.. => checks.fail(topic, FailureClass::Zfs, text, hint),
        FULL_WARN.. => checks.warn(topic, text, hint),
        _ if pool.answers() => {
            checks.ok(topic, format!("{name} is {}, {full} % full, {} free", pool.health, human_bytes(available)))
        }
        _ => {}
    }
}

/// What pools cannot do, those that lack the same together.
pub(super) fn lacks(checks: &mut Checks, topic: &'static str, pools: &[(String, Capabilities)]) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (name, can) in pools {
        if seen.contains(name.as_str()) {
            continue;
        }
        let missing = missing(can);
        let same: Vec<&str> =
            pools.iter().filter(|(_, c)| self::missing(c) == missing).map(|(n, _)| n.as_str()).collect();
        seen.extend(&same);
        if !missing.is_empty() {
            let hint = if can.userland_version.is_some() {
                "`zpool upgrade` enables what the pool lacks (an older ZFS can then no longer import it)"
            } else {
                "replication works without; use OpenZFS where it matters"
            };
            checks.warn(topic, format!("{} cannot do: {}", same.join(", "), missing.join("; ")), hint);
        }
    }
}

fn missing(can: &Capabilities) -> Vec<&'static str> {
    [
        (can.receive_resumable && can.send_resume, "resume tokens (a transfer whose process died starts over)"),
        (can.bookmarks, "bookmarks (a base keeps its snapshot instead)"),
        (can.holds, "holds (nothing keeps a snapshot from being destroyed while it is sent)"),
        (can.send_raw, "raw sends (encrypted datasets cannot travel encrypted)"),
        (can.send_compressed, "compressed sends"),
    ]
    .into_iter()
    .filter_map(|(can, what)| (!can).then_some(what))
    .collect()
}
