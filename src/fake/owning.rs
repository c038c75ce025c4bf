//! The operations of the port that make a dataset usable or unusable.

use std::path::PathBuf;

use super::{
    model::{Host, fail},
    port::{busy, checked_name, set},
    records::space_since,
};
use crate::{
    port::zfs::{Since, ZfsErrorKind::*, ZfsResult},
    types::{
        DatasetName, SnapshotName,
        listing::{DatasetInfo, DatasetKind, PropertySource},
    },
};

pub fn set_all(host: &mut Host, what: &str, all: &[DatasetName], properties: &[(String, String)]) -> ZfsResult<()> {
    all.iter().try_for_each(|name| set(host, what, name, properties))
}

pub fn inherit_all(host: &mut Host, what: &str, all: &[DatasetName], property: &str, received: bool) -> ZfsResult<()> {
    checked_name(what, property)?;
    for name in all {
        let d = host.need(what, name)?;
        match d.received.get(property).filter(|_| received) {
            Some(value) => {
                let value = (value.clone(), PropertySource::Received);
                d.properties.insert(property.to_owned(), value);
            }
            None => drop(d.properties.remove(property)),
        }
    }
    Ok(())
}

pub fn tree(host: &Host, root: &DatasetName) -> Vec<DatasetInfo> {
    host.datasets.keys().filter(|n| n.is_at_or_below(root)).filter_map(|n| host.info(n)).collect()
}

pub fn since(host: &Host, name: &SnapshotName) -> Option<Since> {
    let (then, now) = (host.snap(name)?, &host.dataset(&name.dataset())?.live);
    let written = if then.objects == *now { 0 } else { space_since(&then.objects, now).max(512) };
    Some(Since { guid: then.guid, written })
}

/// Where it is mounted, or would be.
fn place(host: &Host, name: &DatasetName) -> PathBuf {
    host.property(name, "mountpoint").map(|p| p.value.into()).unwrap_or_default()
}

/// As `zfs unmount`: what is below by its place as well as by its name goes along, or nothing does. What else is mounted in
/// any of these keeps it busy.
pub fn unmount(host: &mut Host, what: &str, name: &DatasetName) -> ZfsResult<()> {
    if !host.need(what, name)?.mounted {
        return Ok(());
    }
    let has_own_place = |n: &DatasetName| host.dataset(n).is_some_and(|d| d.properties.contains_key("mountpoint"));
    let goes = |n: &&DatasetName| n.is_at_or_below(name) && (*n == name || !has_own_place(n));
    let (below, others): (Vec<_>, Vec<_>) = host.datasets.keys().cloned().partition(|n| goes(&n));
    let places: Vec<PathBuf> = below.iter().map(|n| place(host, n)).collect();
    let is_within = |n: &DatasetName| places.iter().any(|above| place(host, n).starts_with(above));
    let within = others.iter().any(|n| host.dataset(n).is_some_and(|d| d.mounted) && is_within(n));
    if within || below.iter().any(|n| host.busy_mounts.contains(n)) {
        return busy(what, &format!("cannot unmount '{name}': target is busy"));
    }
    for name in below {
        host.need(what, &name)?.mounted = false;
    }
    Ok(())
}

pub fn mount(host: &mut Host, what: &str, name: &DatasetName) -> ZfsResult<()> {
    let canmount = host.property(name, "canmount").map(|p| p.value);
    let d = host.need(what, name)?;
    if d.kind != DatasetKind::Filesystem {
        return Err(fail(what, Other, format!("cannot open '{name}': operation not applicable to volumes")));
    }
    if canmount.as_deref() == Some("off") {
        return Err(fail(what, Other, format!("cannot mount '{name}': 'canmount' property is set to 'off'")));
    }
    if d.encryption.as_ref().is_some_and(|e| !e.key_loaded) {
        return Err(fail(what, Crypto, format!("cannot mount '{name}': encryption key not loaded")));
    }
    (d.mounted, d.hidden) = (true, false);
    let over = place(host, name);
    let hidden: Vec<_> =
        host.datasets.keys().filter(|n| *n != name && place(host, n).starts_with(&over)).cloned().collect();
    for name in hidden {
        let d = host.need(what, &name)?;
        d.hidden = d.mounted;
    }
    Ok(())
}

pub fn close_volume(host: &mut Host, what: &str, name: &DatasetName) -> ZfsResult<()> {
    if !host.can.volmode {
        return Ok(());
    }
    if host.busy_mounts.contains(name) {
        return busy(what, "the device is open");
    }
    host.need(what, name)?.has_device = false;
    set(host, what, name, &[("volmode".to_owned(), "none".to_owned())])
}

/// The device comes when it is waited for, and not before.
pub fn await_volume(host: &mut Host, what: &str, name: &DatasetName) -> ZfsResult<()> {
    let mode = host.property(name, "volmode").map(|p| p.value);
    let d = host.need(what, name)?;
    d.has_device = d.kind == DatasetKind::Volume && mode.is_some_and(|mode| mode != "none");
    Ok(())
}

pub fn destroy_tree(host: &mut Host, what: &str, root: &DatasetName) -> ZfsResult<()> {
    let below: Vec<_> = host.datasets.keys().filter(|n| n.is_at_or_below(root)).cloned().collect();
    let held = |n: &DatasetName| host.dataset(n).is_some_and(|d| d.snaps.iter().any(|s| !s.holds.is_empty()));
    if below.iter().any(held) {
        return busy(what, &format!("cannot destroy '{root}': dataset is busy"));
    }
    let outside = |d: &DatasetName| !d.is_at_or_below(root);
    let origin_in = |d: &DatasetName| {
        host.dataset(d).and_then(|d| d.origin.as_ref()).is_some_and(|o| o.dataset().is_at_or_below(root))
    };
    if host.datasets.keys().any(|d| outside(d) && origin_in(d)) {
        return Err(fail(what, Exists, format!("cannot destroy '{root}': filesystem has dependent clones")));
    }
    host.datasets.retain(|n, _| outside(n));
    Ok(())
}
