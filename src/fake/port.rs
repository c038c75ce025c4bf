//! The operations of the port that move no stream.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{
    FakeZfs,
    fault::{Fault, Op},
    model::{Host, fail},
    moving, owning,
};
use crate::{
    port::zfs::{
        Depth, ReceiveSpec, Receiving, SendSpec, Sending, Since, SnapshotRequest, Zfs,
        ZfsErrorKind::{self, *},
        ZfsResult,
    },
    types::{
        BookmarkName, CreateTxg, DatasetName, Delegation, Guid, PoolStatus, SnapshotName, ZfsVersion,
        listing::{BookmarkInfo, Capabilities, DatasetInfo, DatasetKind, Listing, Property, PropertySource},
    },
};

impl FakeZfs {
    /// Counts, meets the fault that waits, and does it.
    fn act<T>(&self, op: Op, what: &str, f: impl FnOnce(&mut Host) -> ZfsResult<T>) -> ZfsResult<T> {
        let ended = match self.inner.faults.take(op) {
            Some(Fault::Refuse(kind)) => Err(fail(what, kind, "a fault that was asked for")),
            Some(Fault::AfterEffect(kind)) => {
                f(&mut self.host()).and_then(|_| Err(fail(what, kind, "a fault that was asked for, after the effect")))
            }
            _ => f(&mut self.host()),
        };
        self.tell(op, what, &ended);
        ended
    }
}

fn need(can: bool, what: &str) -> ZfsResult<()> {
    if can { Ok(()) } else { Err(fail(what, Unsupported, "unrecognized command or option")) }
}

pub(super) fn busy(what: &str, why: &str) -> ZfsResult<()> {
    Err(fail(what, Busy, why))
}

fn snapshot(host: &mut Host, what: &str, request: &SnapshotRequest) -> ZfsResult<()> {
    host.need(what, &request.root)?;
    let excluded = |name: &DatasetName| request.except.contains(name);
    let names: Vec<DatasetName> = match request.recursive {
        true => host.datasets.keys().filter(|n| n.is_at_or_below(&request.root)).cloned().collect(),
        false => vec![request.root.clone()],
    };
    if request.recursive && excluded(&request.root) {
        return Err(fail(what, NotFound, "the root itself is excluded"));
    }
    // Without many names in one command the whole tree is snapshotted first, and then some are destroyed again.
    let looked_at = names.iter().filter(|n| !host.can.snapshot_many || !excluded(n));
    for name in looked_at {
        if host.dataset(name).is_some_and(|d| d.snap(&request.tag).is_some()) {
            let at = format!("cannot create snapshot '{name}@{}': dataset already exists", request.tag);
            return Err(fail(what, Exists, at));
        }
    }
    let txg = host.next_txg();
    for name in names.iter().filter(|n| !request.recursive || !excluded(n)) {
        if host.dataset(name).is_some_and(|d| !d.is_fresh()) {
            let guid = host.next_guid();
            host.add_snap(name, &request.tag, guid, txg);
        }
    }
    Ok(())
}

fn destroy_snapshot(host: &mut Host, what: &str, name: &SnapshotName) -> ZfsResult<()> {
    let cloned = host.has_clones(name);
    let Some(snap) = host.snap(name) else { return Ok(()) };
    if !snap.holds.is_empty() || snap.users > 0 {
        return busy(what, &format!("cannot destroy snapshot {name}: it's being held"));
    }
    if cloned {
        return busy(what, &format!("cannot destroy '{name}': snapshot has dependent clones"));
    }
    host.need(what, &name.dataset())?.snaps.retain(|s| s.tag != name.tag());
    Ok(())
}

fn rollback(host: &mut Host, what: &str, to: &SnapshotName) -> ZfsResult<()> {
    let (createtxg, objects) = host.need_snap(what, to).map(|s| (s.createtxg, s.objects.clone()))?;
    let name = to.dataset();
    let d = host.need(what, &name)?;
    if d.receiving {
        return busy(what, "dataset is busy");
    }
    if d.snaps.iter().any(|s| s.createtxg > createtxg) || d.bookmarks.iter().any(|b| b.createtxg > createtxg) {
        return Err(fail(
            what,
            Diverged,
            format!("cannot rollback to '{to}': more recent snapshots or bookmarks exist"),
        ));
    }
    d.live = objects;
    Ok(())
}

pub(super) fn set(host: &mut Host, what: &str, name: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()> {
    for (property, value) in properties {
        host.need(what, name)?;
        checked_name(what, property)?;
        if !host.may_set(property, value) {
            return Err(fail(what, Other, format!("cannot set property for '{name}': invalid '{property}={value}'")));
        }
        let d = host.need(what, name)?;
        d.properties.insert(property.clone(), (value.clone(), PropertySource::Local));
    }
    Ok(())
}

/// The same names that the adapter takes.
pub(super) fn checked_name(what: &str, property: &str) -> ZfsResult<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@#/".contains(&b);
    let ok = property.starts_with(|c: char| c.is_ascii_alphanumeric()) && property.bytes().all(plain);
    if ok { Ok(()) } else { Err(fail(what, Other, format!("{property:?} is not the name of a property"))) }
}

fn hold(host: &mut Host, what: &str, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()> {
    need(host.can.holds, what)?;
    if !tag.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(fail(what, Other, format!("{tag:?} is not the tag of a hold")));
    }
    // Like `zfs hold`: one by one, the failures do not stop the others.
    let mut verdict = Ok(());
    for name in snapshots {
        match host.need_snap(what, name) {
            Ok(snap) => drop(snap.holds.insert(tag.to_owned())),
            Err(e) => verdict = Err(e),
        }
    }
    verdict
}

fn get(host: &mut Host, what: &str, dataset: &str, names: &[&str]) -> ZfsResult<Vec<Property>> {
    names.iter().try_for_each(|name| checked_name(what, name))?;
    let point = |kind: &str, guid: Guid, txg: CreateTxg| {
        let known = [("type", kind.to_owned()), ("guid", guid.to_string()), ("createtxg", txg.0.to_string())];
        let known = known.into_iter().filter(|(n, _)| names.contains(n));
        let property = |(n, value): (&str, String)| Property { name: n.into(), value, source: PropertySource::Default };
        Ok(known.map(property).collect())
    };
    if let Ok(name) = dataset.parse::<SnapshotName>() {
        let snap = host.need_snap(what, &name)?;
        return point("snapshot", snap.guid, snap.createtxg);
    }
    if let Ok(name) = dataset.parse::<BookmarkName>() {
        let mark = host.bookmarked(&name);
        let mark = mark.ok_or_else(|| fail(what, NotFound, format!("cannot open '{name}': it does not exist")))?;
        return point("bookmark", mark.guid, mark.createtxg);
    }
    let name: DatasetName = dataset.parse().map_err(|e| fail(what, Other, format!("{e}")))?;
    host.need(what, &name)?;
    Ok(names.iter().filter_map(|p| host.property(&name, p)).collect())
}

#[async_trait]
impl Zfs for FakeZfs {
    async fn capabilities(&self, pool: &str) -> ZfsResult<Capabilities> {
        let what = format!("find out what pool {pool} can do");
        self.act(Op::Capabilities, &what, |host| match host.pools.contains_key(pool) {
            true => Ok(host.can.clone()),
            false => Err(fail(&what, NotFound, format!("cannot open '{pool}': no such pool"))),
        })
    }

    async fn list(&self, root: &DatasetName, depth: Depth) -> ZfsResult<Listing> {
        self.act(Op::List, &format!("list {root}"), |host| {
            let wanted = |n: &&DatasetName| if depth == Depth::Tree { n.is_at_or_below(root) } else { *n == root };
            let datasets = host.datasets.keys().filter(wanted).filter_map(|n| host.full_info(n)).collect();
            Ok(Listing { datasets })
        })
    }

    async fn datasets(&self, names: &[DatasetName]) -> ZfsResult<Vec<DatasetInfo>> {
        self.act(Op::Datasets, "look at datasets", |host| Ok(names.iter().filter_map(|n| host.info(n)).collect()))
    }

    async fn snapshot(&self, request: &SnapshotRequest) -> ZfsResult<()> {
        let what = format!("snapshot {}@{}", request.root, request.tag);
        self.act(Op::Snapshot, &what, |host| snapshot(host, &what, request))
    }

    async fn bookmark(&self, snapshot: &SnapshotName, bookmark: &BookmarkName) -> ZfsResult<()> {
        let what = format!("bookmark {snapshot} as {bookmark}");
        self.act(Op::Bookmark, &what, |host| {
            need(host.can.bookmarks, &what)?;
            let (guid, createtxg, creation_unix_s) =
                host.need_snap(&what, snapshot).map(|s| (s.guid, s.createtxg, s.creation))?;
            match host.bookmarked(bookmark) {
                Some(b) if b.guid == guid => return Ok(()),
                Some(_) => {
                    let at = format!("cannot create bookmark '{bookmark}': bookmark exists");
                    return Err(fail(&what, Exists, at));
                }
                None => {}
            }
            if bookmark.dataset() != snapshot.dataset() {
                return Err(fail(&what, Other, "a bookmark must be of the same dataset"));
            }
            let d = host.need(&what, &bookmark.dataset())?;
            d.bookmarks.push(BookmarkInfo { tag: bookmark.tag(), guid, createtxg, creation_unix_s });
            Ok(())
        })
    }

    async fn destroy_bookmark(&self, bookmark: &BookmarkName) -> ZfsResult<()> {
        self.act(Op::DestroyBookmark, &format!("destroy {bookmark}"), |host| {
            if let Some(d) = host.datasets.get_mut(&bookmark.dataset()) {
                d.bookmarks.retain(|b| b.tag != bookmark.tag());
            }
            Ok(())
        })
    }

    async fn destroy_snapshot(&self, snapshot: &SnapshotName) -> ZfsResult<()> {
        let what = format!("destroy {snapshot}");
        self.act(Op::DestroySnapshot, &what, |host| destroy_snapshot(host, &what, snapshot))
    }

    async fn hold(&self, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()> {
        let what = format!("hold {} snapshots", snapshots.len());
        self.act(Op::Hold, &what, |host| hold(host, &what, tag, snapshots))
    }

    async fn release(&self, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()> {
        let what = format!("release {} snapshots", snapshots.len());
        self.act(Op::Release, &what, |host| {
            need(host.can.holds, &what)?;
            for name in snapshots {
                if let Ok(snap) = host.need_snap(&what, name) {
                    snap.holds.remove(tag);
                }
            }
            Ok(())
        })
    }

    async fn holds(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<(SnapshotName, String)>> {
        self.act(Op::Holds, "list holds", |host| {
            need(host.can.holds, "list holds")?;
            let none = BTreeSet::new();
            let of = |name: &SnapshotName| {
                let tags = host.snap(name).map_or(&none, |s| &s.holds);
                tags.iter().map(|t| (name.clone(), t.clone())).collect::<Vec<_>>()
            };
            Ok(snapshots.iter().flat_map(of).collect())
        })
    }

    async fn get(&self, dataset: &str, names: &[&str]) -> ZfsResult<Vec<Property>> {
        let what = format!("read properties of {dataset}");
        self.act(Op::Get, &what, |host| get(host, &what, dataset, names))
    }

    async fn set(&self, dataset: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()> {
        let what = format!("set properties of {dataset}");
        self.act(Op::Set, &what, |host| set(host, &what, dataset, properties))
    }

    async fn inherit(&self, dataset: &DatasetName, property: &str) -> ZfsResult<()> {
        let what = format!("inherit {property} of {dataset}");
        self.act(Op::Inherit, &what, |host| {
            checked_name(&what, property)?;
            host.need(&what, dataset)?.properties.remove(property);
            Ok(())
        })
    }

    async fn set_all(&self, datasets: &[DatasetName], properties: &[(String, String)]) -> ZfsResult<()> {
        let what = format!("set properties of {} datasets", datasets.len());
        self.act(Op::SetAll, &what, |host| owning::set_all(host, &what, datasets, properties))
    }

    async fn inherit_all(&self, datasets: &[DatasetName], property: &str, received: bool) -> ZfsResult<()> {
        let what = format!("inherit {property} of {} datasets", datasets.len());
        self.act(Op::InheritAll, &what, |host| owning::inherit_all(host, &what, datasets, property, received))
    }

    async fn tree(&self, root: &DatasetName) -> ZfsResult<Vec<DatasetInfo>> {
        self.act(Op::Tree, &format!("look at {root} and below"), |host| Ok(owning::tree(host, root)))
    }

    async fn since(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<Option<Since>>> {
        self.act(Op::Since, "look at snapshots", |host| {
            Ok(snapshots.iter().map(|name| owning::since(host, name)).collect())
        })
    }

    async fn unmount(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let what = format!("unmount {dataset}");
        self.act(Op::Unmount, &what, |host| owning::unmount(host, &what, dataset))
    }

    async fn mount(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let what = format!("mount {dataset}");
        self.act(Op::Mount, &what, |host| owning::mount(host, &what, dataset))
    }

    async fn close_volume(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let what = format!("close the device of {dataset}");
        self.act(Op::CloseVolume, &what, |host| owning::close_volume(host, &what, dataset))
    }

    async fn await_volume(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let what = format!("await the device of {dataset}");
        self.act(Op::AwaitVolume, &what, |host| owning::await_volume(host, &what, dataset))
    }

    async fn sync(&self, pool: &str) -> ZfsResult<()> {
        self.act(Op::Sync, &format!("sync {pool}"), |_| Ok(()))
    }

    async fn destroy_tree(&self, root: &DatasetName) -> ZfsResult<()> {
        let what = format!("destroy {root} and all below");
        self.act(Op::DestroyTree, &what, |host| owning::destroy_tree(host, &what, root))
    }

    async fn create_filesystem(&self, dataset: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()> {
        let what = format!("create {dataset}");
        self.act(Op::CreateFilesystem, &what, |host| {
            if host.dataset(dataset).is_some() {
                return Err(fail(&what, Exists, format!("cannot create '{dataset}': dataset already exists")));
            }
            if dataset.parent().is_none_or(|p| host.dataset(&p).is_none()) {
                return Err(fail(&what, NotFound, format!("cannot create '{dataset}': parent does not exist")));
            }
            let made = host.new_dataset(DatasetKind::Filesystem);
            host.datasets.insert(dataset.clone(), made);
            let verdict = set(host, &what, dataset, properties);
            if verdict.is_err() {
                host.datasets.remove(dataset);
            }
            verdict
        })
    }

    async fn destroy_filesystem(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let what = format!("destroy {dataset}");
        self.act(Op::DestroyFilesystem, &what, |host| {
            let Some(found) = host.datasets.get(dataset) else { return Ok(()) };
            let has_children = host.datasets.keys().any(|n| n != dataset && n.is_at_or_below(dataset));
            if has_children || !found.snaps.is_empty() {
                return Err(fail(&what, Exists, "filesystem has children"));
            }
            host.datasets.remove(dataset);
            Ok(())
        })
    }

    async fn rollback(&self, to: &SnapshotName) -> ZfsResult<()> {
        let what = format!("roll back to {to}");
        self.act(Op::Rollback, &what, |host| rollback(host, &what, to))
    }

    async fn abort_receive(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let what = format!("abort the receive into {dataset}");
        self.act(Op::AbortReceive, &what, |host| {
            let Some(d) = host.datasets.get_mut(dataset) else { return Ok(()) };
            if d.receiving {
                return busy(&what, "dataset is busy");
            }
            if d.partial.take().is_some_and(|p| p.fresh) {
                host.datasets.remove(dataset);
            }
            Ok(())
        })
    }

    async fn send_size(&self, spec: &SendSpec) -> ZfsResult<Option<u64>> {
        self.act(Op::SendSize, "estimate a send", |host| {
            if !host.can.send_estimate {
                return Ok(None);
            }
            moving::job(host, spec).map(|(job, _)| Some(job.stream().len() as u64))
        })
    }

    async fn send(&self, spec: &SendSpec) -> ZfsResult<Sending> {
        moving::send(self, spec)
    }

    async fn receive(&self, spec: &ReceiveSpec) -> ZfsResult<Receiving> {
        moving::receive(self, spec)
    }

    async fn version(&self) -> ZfsResult<ZfsVersion> {
        self.act(Op::Version, "ask zfs for its version", |host| {
            let Capabilities { userland_version, kernel_version, .. } = host.can.clone();
            Ok(ZfsVersion { userland: userland_version, kernel: kernel_version })
        })
    }

    async fn pools(&self) -> ZfsResult<Vec<PoolStatus>> {
        self.act(Op::Pools, "list the pools", |host| Ok(host.pools.keys().map(|pool| host.pool_status(pool)).collect()))
    }

    async fn delegations(&self, dataset: &DatasetName) -> ZfsResult<Vec<Delegation>> {
        let what = format!("list who may do what with {dataset}");
        self.act(Op::Delegations, &what, |host| {
            // As zfs-fuse, which is the one without resumable receives.
            need(host.can.receive_resumable, &what)?;
            host.need(&what, dataset)?;
            Ok(host.delegations.get(dataset).cloned().unwrap_or_default())
        })
    }
}

/// What a refused stream operation reports; such a process does start, and fails at once.
pub(super) fn refused(fault: Option<Fault>) -> Option<ZfsErrorKind> {
    match fault {
        Some(Fault::Refuse(kind)) => Some(kind),
        _ => None,
    }
}
