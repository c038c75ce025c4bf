//! What makes a dataset usable or unusable on this host: mounts, devices, and properties of many datasets at once.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    slice::Chunks,
    sync::atomic::Ordering,
    time::Duration,
};

use futures_util::future::join_all;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::time::{Instant, sleep};

use super::{
    ZfsCommand, args, argument_lists,
    listing::{TRIES, dataset_properties, is_absent},
    parse,
    run::{Output, Tool, error},
};
use crate::{
    port::zfs::{Since, ZfsErrorKind::*, ZfsResult},
    types::{DatasetName, Guid, SnapshotName, listing::DatasetInfo, mounts},
};

/// How long a volume's node may take to go after `volmode=none`: udev removes it, and may be busy.
const NODE_GOES_WITHIN: Duration = Duration::from_secs(10);
/// How long one may take to come: udev makes it when the kernel has. Short, for where none comes nobody writes meanwhile.
const NODE_COMES_WITHIN: Duration = Duration::from_secs(5);
/// A directory that is there wherever zfs-fuse runs: who has its lock may mount.
const MOUNT_TURNS: &str = "/etc/zfs";
/// How long somebody else's mount is waited for.
const TURN_COMES_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked for a node.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Commands over which the datasets of a tree are spread, for each thing that is done to them.
pub(super) const COMMANDS_AT_ONCE: usize = 4;
/// Datasets for which a command of its own is worth its process.
const FEWEST_EACH: usize = 4;
/// Where udev has its own files, if it runs.
const UDEV: &str = "/run/udev";
/// Where the nodes of volumes are.
const NODES: &str = "/dev/zvol";
/// What `volmode=default` means on this host, and the number for "no devices": see zfs(4).
const VOLMODE_BY_DEFAULT: &str = "/sys/module/zfs/parameters/zvol_volmode";
const NO_DEVICES: &str = "3";

fn strs(datasets: &[DatasetName]) -> Vec<&str> {
    datasets.iter().map(DatasetName::as_str).collect()
}

impl ZfsCommand {
    pub(super) async fn set_on_all(&self, datasets: &[DatasetName], properties: &[(String, String)]) -> ZfsResult<()> {
        // Each command waits for the disk. One for all properties where the tool takes several: none of those that are set
        // together depends on another.
        let several = self.tools().await?.exact_list;
        let groups: Vec<&[(String, String)]> = if several { vec![properties] } else { properties.chunks(1).collect() };
        let mut work = Vec::new();
        for group in groups {
            let names: Vec<&str> = group.iter().map(|(name, _)| name.as_str()).collect();
            let operation = format!("set {} of {}", names.join(", "), subject(datasets));
            let assignments = group.iter().map(|(name, value)| args::assignment(name, value));
            let assignments: Vec<String> =
                assignments.collect::<Result<_, _>>().map_err(|why| error(&operation, Other, why))?;
            work.push((operation, [vec!["set".to_owned()], assignments].concat()));
        }
        self.side_by_side(&work, datasets).await
    }

    pub(super) async fn inherit_on_all(
        &self,
        datasets: &[DatasetName],
        property: &str,
        received: bool,
    ) -> ZfsResult<()> {
        let operation = format!("inherit {property} of {}", subject(datasets));
        let property = args::property(property).map_err(|why| error(&operation, Other, why))?;
        let verb: &[&str] = if received { &["inherit", "-S", property] } else { &["inherit", property] };
        self.side_by_side(&[(operation, verb.iter().map(|word| (*word).to_owned()).collect())], datasets).await
    }

    /// Runs each of these (operation, words) on all of the datasets, several commands at the same time: a command waits for the pool to
    /// write once for each of its datasets, and those that wait together wait for the same writing. All are begun, whichever fails.
    async fn side_by_side(&self, work: &[(String, Vec<String>)], datasets: &[DatasetName]) -> ZfsResult<()> {
        let each = work.iter().flat_map(|one| shares(datasets).map(move |share| (one, share)));
        let each = each.map(|((operation, words), share)| async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            for list in argument_lists(&strs(share)) {
                self.plain(operation, &[&words, list].concat()).await?;
            }
            Ok(())
        });
        join_all(each).await.into_iter().collect()
    }

    pub(super) async fn list_below(&self, root: &DatasetName) -> ZfsResult<Vec<DatasetInfo>> {
        let operation = format!("look at {root} and below");
        let unparsable = |e| error(&operation, Unparsable, e);
        let mut tries = TRIES;
        let out = loop {
            tries -= 1;
            match self.get_below(&operation, root).await {
                Err(e) if is_absent(&e, root.as_str()) => return Ok(Vec::new()),
                // Something below went away while it was looked at.
                Err(e) if e.kind == NotFound && tries > 0 => {}
                out => break out?,
            }
        };
        let mut found = Vec::new();
        for values in parse::values(&out.stdout).map_err(unparsable)? {
            if !values.name.contains(['@', '%', '#']) {
                found.push(parse::dataset(&values).map_err(unparsable)?);
            }
        }
        Ok(found)
    }

    /// The properties of a dataset and of all below it.
    async fn get_below(&self, operation: &str, root: &DatasetName) -> ZfsResult<Output> {
        if self.tools().await?.exact_list {
            let args = &["get", "-Hp", "-r", "-t", "filesystem,volume"];
            return self.get_known(operation, args, &dataset_properties(), &[root.as_str()]).await?.ok(operation);
        }
        // An older `zfs get -r` would tell of every snapshot as well. Often there is nothing below.
        let list = ["list", "-H", "-r", "-t", "filesystem,volume", "-o", "name", root.as_str()];
        let get = async |names: &[&str]| {
            self.get_known(operation, &["get", "-Hp"], &dataset_properties(), names).await?.ok(operation)
        };
        let own = [root.as_str()];
        let (names, mut all) =
            tokio::try_join!(async { Ok(self.zfs(operation, list).await?.ok(operation)?.stdout) }, get(&own))?;
        let below: Vec<&str> = names.lines().filter(|name| *name != root.as_str() && !parse::is_hidden(name)).collect();
        for list in argument_lists(&below) {
            all.stdout += &get(list).await?.stdout;
        }
        Ok(all)
    }

    pub(super) async fn seen_since(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<Option<Since>>> {
        let has_written = self.tools().await?.knows("written");
        let mut found = Vec::new();
        // One question for those of one name, as a cutover's are.
        for of_a_tag in snapshots.chunk_by(|a, b| a.tag() == b.tag()) {
            let written = of_a_tag.first().map(|name| format!("written@{}", name.tag())).unwrap_or_default();
            let asked: &[&str] = if has_written { &["guid", &written] } else { &["guid", "referenced", "used"] };
            let both = of_a_tag.iter().flat_map(|name| [name.dataset().to_string(), name.to_string()]);
            found.extend(self.look_at(asked, both.collect()).await?);
        }
        // Of one dataset several snapshots may be asked about, each by its own question.
        let each = found.iter().flat_map(|values| values.properties.iter().map(|p| (values.name.as_str(), p)));
        let found: HashMap<(&str, &str), &str> =
            each.map(|(name, p)| ((name, p.name.as_str()), p.value.as_str())).collect();
        let number = |name: &str, property: &str| found.get(&(name, property))?.parse::<u64>().ok();
        let since = |snapshot: &SnapshotName| {
            let (name, dataset) = (snapshot.as_str(), snapshot.dataset());
            let written = match has_written {
                true => number(dataset.as_str(), &format!("written@{}", snapshot.tag())),
                false => number(dataset.as_str(), "referenced")
                    .zip(number(name, "referenced"))
                    .zip(number(name, "used"))
                    .map(|((now, then), used)| now.abs_diff(then) + used),
            };
            // What has no figure counts as written to: that is the answer which does no harm.
            Some(Since { guid: Guid(number(name, "guid")?), written: written.unwrap_or(1) })
        };
        Ok(snapshots.iter().map(since).collect())
    }

    pub(super) async fn unmount_tree(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let operation = format!("unmount {dataset}");
        match self.plain(&operation, &["unmount", dataset.as_str()]).await {
            Err(e) if e.detail.contains("not currently mounted") => Ok(()),
            Err(e) if e.detail.contains("legacy") => self.unmount_legacy(dataset).await,
            // The mount command's own words, of which zfs says only that it failed.
            Err(mut e) if e.detail.contains("busy") => {
                e.kind = Busy;
                Err(e)
            }
            other => other,
        }
    }

    /// A filesystem with `mountpoint=legacy`, which `zfs unmount` leaves to umount(8).
    async fn unmount_legacy(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let operation = format!("unmount {dataset}");
        let mountinfo = std::fs::read("/proc/self/mountinfo").map_err(|e| error(&operation, Other, e))?;
        for at in places_of(&mountinfo, dataset) {
            match rustix::mount::unmount(&at, rustix::mount::UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                Err(rustix::io::Errno::BUSY) => {
                    return Err(error(&operation, Busy, format!("{} is in use", at.display())));
                }
                Err(e) => return Err(error(&operation, Other, format!("{}: {e}", at.display()))),
            }
        }
        Ok(())
    }

    pub(super) async fn mount_one(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let _turn = self.mounts_in_turn().await?;
        match self.plain(&format!("mount {dataset}"), &["mount", dataset.as_str()]).await {
            Err(e) if e.detail.contains("filesystem already mounted") => Ok(()),
            other => other,
        }
    }

    /// Where something is mounted, one at a time on the whole host: a daemon of zfs-fuse to which two mounts are handed at once may
    /// never answer for one of them, and whoever looks at that hangs. Gives up waiting after a while, as whoever mounts may hang itself.
    pub(super) async fn mounts_in_turn(&self) -> ZfsResult<Option<File>> {
        if self.tools().await?.exact_list {
            return Ok(None);
        }
        // One for all processes and users, as the daemon is. Who waited in vain once goes on without.
        let Ok(turn) = File::open(Path::new(MOUNT_TURNS)) else { return Ok(None) };
        let since = Instant::now();
        while !self.no_turns.load(Ordering::Relaxed) {
            match flock(&turn, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK | Errno::INTR) if since.elapsed() < TURN_COMES_WITHIN => {
                    sleep(LOOK_EVERY / 4).await
                }
                Err(Errno::WOULDBLOCK) => {
                    tracing::warn!(
                        "another process mounts something for longer than {} s",
                        TURN_COMES_WITHIN.as_secs()
                    );
                    self.no_turns.store(true, Ordering::Relaxed);
                }
                _ => break,
            }
        }
        Ok(Some(turn))
    }

    pub(super) async fn close_device(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let operation = format!("close the device of {dataset}");
        if !self.tools().await?.capabilities.volmode {
            return Ok(());
        }
        let node = dataset.device_node();
        // What has no node cannot be asked whether something has it open.
        if !node.exists() && self.has_node(dataset).await? && !appears(&node, NODE_COMES_WITHIN).await {
            let text =
                format!("{} is not there, so nobody can tell whether something has the volume open", node.display());
            return Err(error(&operation, Other, text));
        }
        if let Err(e) = exclusively(&node) {
            let kind = if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) { Busy } else { Io };
            return Err(error(&operation, kind, format!("{}: {e}", node.display())));
        }
        self.plain(&operation, &["set", "volmode=none", dataset.as_str()]).await?;
        let since = Instant::now();
        while node.symlink_metadata().is_ok() {
            if since.elapsed() > NODE_GOES_WITHIN {
                return Err(error(&operation, Busy, format!("{} does not go: something has it open", node.display())));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    pub(super) async fn await_device(&self, dataset: &DatasetName) -> ZfsResult<()> {
        if !self.tools().await?.capabilities.volmode {
            return Ok(());
        }
        let node = dataset.device_node();
        if makes_nodes() && !appears(&node, NODE_COMES_WITHIN).await {
            tracing::warn!("{} does not come; what needs it will say so", node.display());
        }
        Ok(())
    }

    /// Whether a volume has, or is about to have, a node: it has a device, and somebody on this host makes nodes.
    async fn has_node(&self, dataset: &DatasetName) -> ZfsResult<bool> {
        if !makes_nodes() {
            return Ok(false);
        }
        let told = self.look_at(&["volmode", "keystatus"], vec![dataset.to_string()]).await?;
        let all = || told.iter().flat_map(|values| &values.properties);
        let value = |name: &str| all().find(|p| p.name == name).map(|p| p.value.as_str());
        let by_default = || std::fs::read_to_string(VOLMODE_BY_DEFAULT).is_ok_and(|mode| mode.trim() == NO_DEVICES);
        let none = value("volmode").is_some_and(|mode| mode == "none" || mode == "default" && by_default());
        // Without its key a volume has no device.
        Ok(!none && value("keystatus") != Some("unavailable"))
    }

    pub(super) async fn sync_pool(&self, pool: &str) -> ZfsResult<()> {
        let operation = format!("sync {pool}");
        let checked = pool.parse::<DatasetName>().map_err(|e| error(&operation, Other, e))?;
        // zfs-fuse has no such command.
        if !self.tools().await?.exact_list {
            return Ok(());
        }
        self.runner.run(&operation, Tool::Zpool, ["sync", checked.pool()]).await?.ok(&operation).map(drop)
    }
}

/// The names for each of some commands that run at the same time.
pub(super) fn shares<T>(names: &[T]) -> Chunks<'_, T> {
    names.chunks(names.len().div_ceil(COMMANDS_AT_ONCE).max(FEWEST_EACH))
}

/// Whether somebody on this host makes nodes: with the last one their directory goes as well.
fn makes_nodes() -> bool {
    Path::new(NODES).exists() || Path::new(UDEV).exists()
}

/// Waits until something is at `path`; false if it is not in time.
async fn appears(path: &Path, within: Duration) -> bool {
    let since = Instant::now();
    while !path.exists() {
        if since.elapsed() > within {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
    true
}

fn subject(datasets: &[DatasetName]) -> String {
    match datasets {
        [one] => one.to_string(),
        _ => format!("{} datasets", datasets.len()),
    }
}

/// Opens a block device for nobody else (`open(2)`, `O_EXCL`): fails with EBUSY while it is mounted or claimed.
fn exclusively(node: &Path) -> std::io::Result<()> {
    let flags = rustix::fs::OFlags::EXCL.bits() as i32;
    match OpenOptions::new().read(true).custom_flags(flags).open(node) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Where that dataset is mounted, the last place first.
fn places_of(mountinfo: &[u8], dataset: &DatasetName) -> Vec<PathBuf> {
    let all = mounts::parse(mountinfo).into_iter().rev();
    all.filter(|m| m.is_of(dataset)).map(|m| m.at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_comes_late_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("vol");
        assert!(!appears(&node, Duration::from_millis(50)).await);
        let (came, _) = tokio::join!(appears(&node, NODE_COMES_WITHIN), async {
            sleep(Duration::from_millis(100)).await;
            std::fs::write(&node, "").unwrap();
        });
        assert!(came);
    }

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let line = r"36 35 98:0 / /srv/a\040b rw,noatime shared:1 - zfs tank/a\040b rw,xattr";
        let (spaced, plain) = ("tank/a b".parse().unwrap(), "tank/a".parse().unwrap());
        assert_eq!(places_of(line.as_bytes(), &spaced), [PathBuf::from("/srv/a b")]);
        assert!(places_of(line.as_bytes(), &plain).is_empty());
        assert!(places_of(b"36 35 98:0 / /x rw - ext4 tank/a rw", &plain).is_empty());
    }
}
