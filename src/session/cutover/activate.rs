//! The target: what is tried before it may be promoted, and what makes it the writable side.

use std::{collections::BTreeMap, iter::successors, path::Path};

use futures_util::future::try_join_all;

use super::{
    fence::{await_devices, mount, restore, take_away},
    look::{MOUNTED, datasets, inherited, value},
    unit::Unit,
};
use crate::{
    cutover::{call::Setup, leg::Leg, record::Saved},
    port::zfs::Zfs,
    types::{
        DatasetName, Failure, FailureClass, human_bytes,
        listing::{DatasetInfo, DatasetKind, FENCE, SERVING},
        mounts,
    },
};

/// What has to be free in the target's pool before the source is stopped: some transaction groups' worth.
const MIN_ROOM: u64 = 32 << 20;

/// Properties that open nothing to writers, whatever they are set to.
const KEEPS_SHUT: &[&str] = &["setuid", "exec", "devices", "snapdev"];

fn refused(text: String) -> Failure {
    Failure::new(FailureClass::Refused, text)
}

/// Tries what can fail when the target comes up.
///
/// # Errors
/// What would fail, and what to do about it.
pub(super) async fn prepare(zfs: &dyn Zfs, unit: &Unit, wanted: &[Saved], setup: &Setup) -> Result<(), Failure> {
    let all = datasets(zfs, unit).await?;
    for info in &all {
        if !setup.manifest.iter().any(|s| s.dataset == info.name) {
            return Err(refused(format!("the source has no dataset for {}", info.name)).hint(
                "destroy it or move it away there, or it would come up with what it held when the source lost it",
            ));
        }
        if info.inconsistent || info.resume_token.is_some() {
            return Err(refused(format!("{} holds an interrupted receive", info.name)));
        }
        if info.available < MIN_ROOM {
            let text = format!("only {} are free for {}", human_bytes(info.available), info.name);
            return Err(refused(text).hint("free space in its pool, or raise its quota"));
        }
        let is_mounted_then = noted(wanted, &info.name, MOUNTED) == Some("yes");
        let locked = info.encryption.as_ref().filter(|e| !e.key_loaded);
        // Without its key a volume has no device, and ZFS says nothing.
        let has_device_then = info.kind == DatasetKind::Volume && noted(wanted, &info.name, "volmode") != Some("none");
        if let Some(encryption) = locked.filter(|_| is_mounted_then || has_device_then) {
            let root = encryption.root.as_ref().unwrap_or(&info.name);
            return Err(refused(format!("the key of {} is not loaded there", info.name)).hint(format!(
                "`zfs load-key -r {root}` on that host: what came raw has a key of its own for each dataset"
            )));
        }
        if is_mounted_then && let Some(path) = mountpoint_then(info, wanted) {
            if !path.starts_with('/') {
                return Err(mounted_by_hand(&info.name));
            }
            is_free(&path, &info.name, setup)?;
            // What is below a root is made in that, once it is mounted.
            if unit.roots().contains(&info.name) {
                can_be_made(Path::new(&path), &info.name)?;
            }
        }
    }
    Ok(())
}

/// Of a dataset whose mount point is `legacy` or `none`: `zfs mount` does not mount it.
pub(super) fn mounted_by_hand(dataset: &DatasetName) -> Failure {
    refused(format!("{dataset} is mounted by hand or by fstab (its mountpoint is no path), so zmigrate could not mount it"))
        .hint(format!("`zfs set mountpoint=/PATH {dataset}` there, and take it out of /etc/fstab; or unmount it and mount it by a hook"))
}

fn noted<'a>(wanted: &'a [Saved], dataset: &DatasetName, property: &str) -> Option<&'a str> {
    wanted.iter().find(|s| s.dataset == *dataset && s.property == property)?.local.as_deref()
}

/// Where it will be mounted: where it says now, unless a place of the source's own comes along.
fn mountpoint_then(info: &DatasetInfo, wanted: &[Saved]) -> Option<String> {
    let now = info.property("mountpoint").map(|p| p.value.clone());
    let path = info.local("mountpoint").map(str::to_owned);
    path.or_else(|| noted(wanted, &info.name, "mountpoint").map(str::to_owned)).or(now)
}

/// Whether a filesystem can be mounted at this directory: nothing in it, and nothing mounted there but the source that is
/// about to leave.
fn is_free(path: &str, dataset: &DatasetName, setup: &Setup) -> Result<(), Failure> {
    let mounts = mounts::parse(&std::fs::read("/proc/self/mountinfo").unwrap_or_default());
    if let Some(mount) = mounts.iter().rfind(|m| m.at.as_os_str() == path) {
        let source = mount.source.to_string_lossy();
        let leaves = source
            .parse::<DatasetName>()
            .is_ok_and(|name| name == *dataset || setup.other.iter().any(|root| name.is_at_or_below(root)));
        if leaves {
            return Ok(());
        }
        return Err(refused(format!("{source} is mounted at {path}, where {dataset} has to be"))
            .hint(format!("unmount it, or `zfs set mountpoint=… {dataset}` on that host")));
    }
    match std::fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(refused(format!("{path}, where {dataset} has to be mounted, is not empty"))
            .hint(format!("move away what is in it, or `zfs set mountpoint=… {dataset}` on that host"))),
        // Absent: zfs makes it.
        _ => Ok(()),
    }
}

/// Whether ZFS can make the directory to mount at, if it is not there: not on a file system that is mounted read-only.
fn can_be_made(path: &Path, dataset: &DatasetName) -> Result<(), Failure> {
    use rustix::fs::{Access, access};
    let Some(above) = path.ancestors().skip(1).find(|above| above.exists()).filter(|_| !path.exists()) else {
        return Ok(());
    };
    access(above, Access::WRITE_OK).map_err(|e| {
        let text = format!(
            "{}, where {dataset} has to be mounted, cannot be made in {} ({e})",
            path.display(),
            above.display()
        );
        refused(text).hint("make that directory, or make writable what is above it, or set another mountpoint")
    })
}

/// What the roots of a unit inherit, as (parent, property) to value.
pub(super) type Above = BTreeMap<(DatasetName, String), String>;

/// Makes the unit the writable side: the properties as wanted, the marks, the mounts. May be repeated. `seen` is what is known of it and of
/// what it inherits, if anything is: both are looked at before it is mounted.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn activate(
    zfs: &dyn Zfs,
    unit: &Unit,
    leg: Leg,
    wanted: &[Saved],
    setup: &Setup,
    seen: (Option<Vec<DatasetInfo>>, Option<Above>),
) -> Result<(), Failure> {
    let all = async {
        match seen.0 {
            Some(all) => Ok(all),
            None => datasets(zfs, unit).await,
        }
    };
    let above = async {
        match seen.1 {
            Some(above) => Ok(above),
            None => above(zfs, unit).await,
        }
    };
    let (all, above) = tokio::try_join!(all, above)?;
    let own = |s: &&Saved| {
        // What this ZFS does not know cannot be set: an older one has no `volmode`. Nor can what is not there any more.
        let is_known = all.iter().any(|d| d.name == s.dataset && d.property(&s.property).is_some());
        if !is_known {
            return false;
        }
        // A place that the operator gave the target stays; the source's own place comes along, an inherited one does not.
        let keeps_place = || all.iter().any(|d| d.name == s.dataset && d.local("mountpoint").is_some());
        s.property != "mountpoint" || (s.local.is_some() && !keeps_place())
    };
    let wanted: Vec<Saved> = wanted.iter().filter(own).cloned().collect();
    // Looked at again: what was free when it was tried may not be so any more, and nothing is hidden under a mount.
    for saved in wanted.iter().filter(|s| s.property == "mountpoint") {
        if let Some(path) = saved.local.as_ref().filter(|path| path.starts_with('/')) {
            is_free(path, &saved.dataset, setup)?;
        }
    }
    let names: Vec<DatasetName> = all.iter().map(|d| d.name.clone()).collect();
    let here = as_it_counts(&wanted, &above);
    let (first, then): (Vec<_>, Vec<_>) = here.into_iter().partition(|s| KEEPS_SHUT.contains(&s.property.as_str()));
    // Before anything becomes writable, so that nothing is received into it any more.
    let mark = [(SERVING.to_owned(), leg.to_string())];
    let (marked, restored) = tokio::join!(zfs.set_all(&names, &mark), restore(zfs, &all, &first));
    marked.map_err(Failure::from).and(restored)?;
    let (unmarked, restored) = tokio::join!(take_away(zfs, &all, FENCE), restore(zfs, &all, &then));
    unmarked.and(restored)?;
    // What came to count all the same that was not foreseen; meanwhile it is mounted, as there is nothing of it as a rule. Not where it gets
    // other places, as these say in which order.
    let has_new_place = then.iter().any(|s| s.property == "mountpoint");
    let early = async { if has_new_place { None } else { Some(mount(zfs, &all, &wanted).await) } };
    let (looked, mounted) = tokio::join!(datasets(zfs, unit), early);
    let all = looked?;
    let differs = |s: &&Saved| {
        let now = all.iter().find(|d| d.name == s.dataset).and_then(|d| value(d, &s.property));
        !s.value.is_empty() && !matches!(s.property.as_str(), MOUNTED | "mountpoint") && now != Some(&s.value)
    };
    let set: Vec<Saved> = wanted.iter().filter(differs).map(as_value).collect();
    let (all, mounted) = if set.is_empty() {
        (all, mounted)
    } else {
        restore(zfs, &all, &set).await?;
        // What was set may have kept something from being mounted.
        (datasets(zfs, unit).await?, None)
    };
    match mounted {
        Some(mounted) => mounted?,
        None => mount(zfs, &all, &wanted).await?,
    }
    await_devices(zfs, &all, &wanted).await
}

/// The property set to the value that counted, wherever that came from.
fn as_value(saved: &Saved) -> Saved {
    Saved { local: Some(saved.value.clone()), received: false, ..saved.clone() }
}

/// What the roots of the unit inherit.
///
/// # Errors
/// When ZFS fails.
pub(super) async fn above(zfs: &dyn Zfs, unit: &Unit) -> Result<Above, Failure> {
    let parents: Vec<DatasetName> = unit.roots().iter().filter_map(DatasetName::parent).collect();
    let properties = inherited();
    let asked = try_join_all(parents.iter().map(|parent| zfs.get(parent.as_str(), &properties))).await?;
    let each = parents.iter().zip(asked);
    Ok(each.flat_map(|(at, all)| all.into_iter().map(move |p| ((at.clone(), p.name), p.value))).collect())
}

/// What the source inherited, the target inherits from other parents: where that makes a difference, the value is set instead.
fn as_it_counts(wanted: &[Saved], above: &Above) -> Vec<Saved> {
    // Parents come before their children, and are what these then inherit.
    let mut counts = above.clone();
    let mut sorted: Vec<&Saved> = wanted.iter().collect();
    sorted.sort_by_key(|s| &s.dataset);
    let (mut here, inherited) = (Vec::new(), inherited());
    for saved in sorted {
        let is_inherited = saved.local.is_none() && !saved.received && inherited.contains(&saved.property.as_str());
        let key = (saved.dataset.clone(), saved.property.clone());
        let mut above = successors(Some(saved.dataset.clone()), DatasetName::parent);
        let comes_down = above.find_map(|at| counts.get(&(at, saved.property.clone())));
        let differs = is_inherited && !saved.value.is_empty() && comes_down.is_some_and(|value| *value != saved.value);
        here.push(if differs { as_value(saved) } else { saved.clone() });
        counts.insert(key, saved.value.clone());
    }
    here
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(dataset: &str, property: &str, local: Option<&str>, value: &str) -> Saved {
        let local = local.map(str::to_owned);
        let (property, value) = (property.to_owned(), value.to_owned());
        Saved { dataset: dataset.parse().unwrap(), property, local, value, received: false }
    }

    /// What each of these is set to; `None` where it is inherited.
    fn set(wanted: &[Saved], above: &[(&str, &str, &str)]) -> Vec<Option<String>> {
        let above = above
            .iter()
            .map(|(at, property, value)| ((at.parse().unwrap(), (*property).to_owned()), (*value).to_owned()));
        let here = as_it_counts(wanted, &above.collect());
        let of = |s: &Saved| here.iter().find(|h| h.dataset == s.dataset && h.property == s.property);
        wanted.iter().map(|s| of(s).unwrap().local.clone()).collect()
    }

    #[test]
    fn what_would_be_inherited_otherwise_is_set_where_it_begins() {
        // The source inherits `off`, and the target's parent says `on`: only the root differs, the rest inherits from it.
        let wanted = [
            saved("t/in/a", "readonly", None, "off"),
            saved("t/in/a/b", "readonly", None, "off"),
            saved("t/in/a/c", "readonly", Some("on"), "on"),
            saved("t/in/a/c/d", "readonly", None, "on"),
        ];
        let told = set(&wanted, &[("t/in", "readonly", "on")]);
        assert_eq!(told, [Some("off".to_owned()), None, Some("on".to_owned()), None]);
        assert_eq!(set(&wanted[..2], &[("t/in", "readonly", "off")]), [None, None]);
    }

    #[test]
    fn what_lies_in_between_without_a_value_of_its_own_hands_it_down() {
        // Filesystems bear no note of what volumes have.
        let wanted = [saved("t/in/a", "readonly", None, "off"), saved("t/in/a/b/v", "volmode", None, "default")];
        let told = set(&wanted, &[("t/in", "volmode", "none"), ("t/in", "readonly", "off")]);
        assert_eq!(told, [None, Some("default".to_owned())]);
        // What nothing is known of is inherited, and looked at afterwards; so is what no dataset inherits.
        assert_eq!(set(&[saved("t/a", "canmount", None, "on")], &[("t", "canmount", "off")]), [None]);
        assert_eq!(set(&[saved("t", "exec", None, "on")], &[]), [None]);
    }
}
