//! The operations of the port, each as one command where that can be.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use super::{
    ZfsCommand, args, argument_lists,
    classify::{Exit, classify_resume, classify_text, without_usage},
    listing::{ignoring, is_absent},
    parse, process,
    run::{MAX_ARGUMENT_BYTES, Tool, error},
    together::{Kind, pool_of},
};
use crate::{
    port::zfs::{
        Depth, ReceiveSpec, Receiving, SendSpec, Sending, Since, SnapshotRequest, Zfs, ZfsError,
        ZfsErrorKind::{self, *},
        ZfsResult,
    },
    types::{
        BookmarkName, DatasetName, Delegation, PoolStatus, SnapshotName, ZfsVersion,
        listing::{Capabilities, DatasetInfo, Listing, Property},
    },
};

/// How often, and how far apart, a rollback is tried where the dataset may be on its way out of a mount.
const UNMOUNTING: (u32, Duration) = (20, Duration::from_millis(100));

/// Turns "there is none", where that is what was wanted, into success.
fn or_absent(result: ZfsResult<()>) -> ZfsResult<()> {
    match result {
        Err(ZfsError { kind: NotFound, .. }) => Ok(()),
        other => other,
    }
}

fn names(snapshots: &[SnapshotName]) -> Vec<&str> {
    snapshots.iter().map(SnapshotName::as_str).collect()
}

/// # Errors
/// When the root itself is among the exceptions.
pub(in crate::adapter) fn root_takes_part(operation: &str, request: &SnapshotRequest) -> ZfsResult<()> {
    match request.except.contains(&request.root) {
        true => Err(error(operation, NotFound, "the root itself is excluded")),
        false => Ok(()),
    }
}

impl ZfsCommand {
    pub(super) async fn plain(&self, operation: &str, args: &[&str]) -> ZfsResult<()> {
        self.zfs(operation, args).await?.ok(operation).map(drop)
    }

    /// One atomic command naming each dataset, for trees with exceptions. `None` if the names do not fit into one.
    async fn snapshot_named(&self, operation: &str, request: &SnapshotRequest) -> ZfsResult<Option<()>> {
        let wanted = self.snapshot_names(operation, request).await?;
        // More than other commands get: what does not fit has to be snapshotted whole, also what others write to.
        if wanted.iter().map(|n| n.len() + 9).sum::<usize>() > 3 * MAX_ARGUMENT_BYTES {
            return Ok(None);
        }
        let args: Vec<&str> = ["snapshot"].into_iter().chain(wanted.iter().map(String::as_str)).collect();
        self.plain(operation, &args).await.map(Some)
    }

    /// The snapshots that a recursive request makes, by name.
    pub(in crate::adapter) async fn snapshot_names(
        &self,
        operation: &str,
        request: &SnapshotRequest,
    ) -> ZfsResult<Vec<String>> {
        // Half-received datasets cannot be snapshotted; `zfs snapshot -r` passes them over as well.
        let columns = if self.tools().await?.knows("inconsistent") { "name,inconsistent" } else { "name" };
        let list = ["list", "-H", "-r", "-t", "filesystem,volume", "-o", columns, request.root.as_str()];
        let out = self.zfs(operation, list).await?.ok(operation)?;
        let mut wanted = Vec::new();
        for line in out.stdout.lines().filter(|n| !n.contains('%')) {
            let (name, inconsistent) = line.split_once('\t').unwrap_or((line, "0"));
            let name: DatasetName = name.parse().map_err(|e| error(operation, Unparsable, e))?;
            if inconsistent != "1" && !request.except.contains(&name) {
                wanted.push(format!("{name}@{}", request.tag));
            }
        }
        if wanted.is_empty() {
            return Err(error(operation, NotFound, "everything is excluded"));
        }
        Ok(wanted)
    }

    /// The whole tree, and then away with what was excluded. `zfs snapshot -r` makes all or nothing, and fails if any
    /// is there; so what carries this tag and the root's createtxg afterwards was made here.
    async fn snapshot_and_prune(&self, operation: &str, request: &SnapshotRequest) -> ZfsResult<()> {
        let root = request.root.snapshot(&request.tag).map_err(|e| error(operation, Other, e))?;
        self.plain(operation, &["snapshot", "-r", root.as_str()]).await?;
        let listing = self.list_tree(&request.root, Depth::Tree).await?;
        let made = |d: &DatasetInfo| d.snapshots.iter().find(|s| s.tag == request.tag).map(|s| s.createtxg);
        let here = listing.get(&request.root).and_then(made);
        for d in &listing.datasets {
            let excluded = request.except.contains(&d.name);
            if excluded && here.is_some() && made(d) == here {
                let name = d.name.snapshot(&request.tag).map_err(|e| error(operation, Other, e))?;
                self.destroy_snapshot(&name).await?;
            }
        }
        Ok(())
    }

    /// Does it to snapshots, of which one command takes those of one pool.
    async fn on_snapshots(&self, snapshots: &[SnapshotName], kind: impl Fn(String) -> Kind) -> ZfsResult<()> {
        for snapshots in snapshots.chunk_by(|a, b| pool_of(a.as_str()) == pool_of(b.as_str())) {
            let names = snapshots.iter().map(SnapshotName::to_string).collect();
            self.together(kind(pool_of(snapshots[0].as_str())), names).await?;
        }
        Ok(())
    }

    /// One of `hold` and `release` over many snapshots, where each that fails has a line of its own.
    pub(super) async fn each(&self, verb: &str, tag: &str, snapshots: &[String], fine: &[&str]) -> ZfsResult<()> {
        let operation = match snapshots {
            [one] => format!("{verb} {one}"),
            _ => format!("{verb} {} snapshots", snapshots.len()),
        };
        let tag = args::hold_tag(tag).map_err(|why| error(&operation, Other, why))?;
        let mut lists = argument_lists(snapshots);
        while let Some(list) = lists.pop() {
            let words = [verb, tag].into_iter().chain(list.iter().map(String::as_str));
            let out = self.zfs(&operation, words).await?;
            if out.is_cut() && list.len() > 1 {
                // Done twice is as good as done once, and says less at a time.
                lists.extend(<[_; 2]>::from(list.split_at(list.len() / 2)));
                continue;
            }
            let text = without_usage(&out.stderr);
            let worse = text.lines().find(|line| !line.trim().is_empty() && !fine.iter().any(|ok| line.contains(ok)));
            match (out.exit, worse) {
                (Exit::Code(1), None) if !text.is_empty() => {}
                (Exit::Code(1), Some(line)) => return Err(out.failure(&operation, classify_text(line))),
                _ => out.ok(&operation).map(drop)?,
            }
        }
        Ok(())
    }

    async fn same_guid(&self, snapshot: &SnapshotName, bookmark: &BookmarkName) -> ZfsResult<bool> {
        let listing = self.list_tree(&bookmark.dataset(), Depth::Root).await?;
        let Some(at) = listing.get(&bookmark.dataset()) else { return Ok(false) };
        let guid = at.snapshots.iter().find(|s| s.tag == snapshot.tag()).map(|s| s.guid);
        Ok(guid.is_some() && at.bookmarks.iter().any(|b| b.tag == bookmark.tag() && Some(b.guid) == guid))
    }
}

#[async_trait]
impl Zfs for ZfsCommand {
    async fn capabilities(&self, pool: &str) -> ZfsResult<Capabilities> {
        self.pool_capabilities(pool).await
    }

    async fn list(&self, root: &DatasetName, depth: Depth) -> ZfsResult<Listing> {
        self.list_tree(root, depth).await
    }

    async fn datasets(&self, names: &[DatasetName]) -> ZfsResult<Vec<DatasetInfo>> {
        self.list_datasets(names).await
    }

    async fn snapshot(&self, request: &SnapshotRequest) -> ZfsResult<()> {
        let operation = format!("snapshot {}@{}", request.root, request.tag);
        let name = request.root.snapshot(&request.tag).map_err(|e| error(&operation, Other, e))?;
        if !request.recursive {
            return self.plain(&operation, &["snapshot", name.as_str()]).await;
        }
        if request.except.is_empty() {
            return self.plain(&operation, &["snapshot", "-r", name.as_str()]).await;
        }
        root_takes_part(&operation, request)?;
        if self.tools().await?.capabilities.snapshot_many
            && let Some(()) = self.snapshot_named(&operation, request).await?
        {
            return Ok(());
        }
        self.snapshot_and_prune(&operation, request).await
    }

    async fn bookmark(&self, snapshot: &SnapshotName, bookmark: &BookmarkName) -> ZfsResult<()> {
        let operation = format!("bookmark {snapshot} as {bookmark}");
        match self.plain(&operation, &["bookmark", snapshot.as_str(), bookmark.as_str()]).await {
            Err(e) if e.kind == Exists && self.same_guid(snapshot, bookmark).await? => Ok(()),
            other => other,
        }
    }

    async fn destroy_bookmark(&self, bookmark: &BookmarkName) -> ZfsResult<()> {
        let operation = format!("destroy {bookmark}");
        match self.plain(&operation, &["destroy", bookmark.as_str()]).await {
            // A ZFS without bookmarks takes no name with a #, so there is none of it.
            Err(e) if e.detail.contains("invalid dataset name") => Ok(()),
            other => or_absent(other),
        }
    }

    async fn destroy_snapshot(&self, snapshot: &SnapshotName) -> ZfsResult<()> {
        or_absent(self.plain(&format!("destroy {snapshot}"), &["destroy", snapshot.as_str()]).await)
    }

    async fn hold(&self, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()> {
        self.on_snapshots(snapshots, |pool| Kind::Hold { pool, tag: tag.to_owned() }).await
    }

    async fn release(&self, tag: &str, snapshots: &[SnapshotName]) -> ZfsResult<()> {
        self.on_snapshots(snapshots, |pool| Kind::Release { pool, tag: tag.to_owned() }).await
    }

    async fn holds(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<(SnapshotName, String)>> {
        let operation = "list holds";
        let mut all = Vec::new();
        for list in argument_lists(&names(snapshots)) {
            let mut out = self.zfs(operation, [&["holds", "-H"], list].concat()).await?;
            if out.stdout.starts_with("internal error: ") {
                // Where its Python part is missing, zfs-fuse complains on stdout.
                out.stderr = std::mem::take(&mut out.stdout);
            }
            let out = ignoring(&[NotFound], out, operation)?;
            all.extend(parse::holds(&out.stdout).map_err(|e| error(operation, Unparsable, e))?);
        }
        Ok(all)
    }

    async fn get(&self, dataset: &str, names: &[&str]) -> ZfsResult<Vec<Property>> {
        let operation = format!("read properties of {dataset}");
        let known = dataset.parse::<DatasetName>().is_ok()
            || dataset.parse::<SnapshotName>().is_ok()
            || dataset.parse::<BookmarkName>().is_ok();
        if !known {
            return Err(error(&operation, Other, "not a name of a dataset, snapshot or bookmark"));
        }
        for name in names {
            args::property(name).map_err(|why| error(&operation, Other, why))?;
        }
        let found = self.look_at(names, vec![dataset.to_owned()]).await?.pop();
        let absent = || error(&operation, NotFound, format!("cannot open '{dataset}': dataset does not exist"));
        found.map(|values| values.properties).ok_or_else(absent)
    }

    async fn set(&self, dataset: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()> {
        let kind = Kind::Set { pool: dataset.pool().to_owned(), properties: properties.to_vec() };
        self.together(kind, vec![dataset.to_string()]).await.map(drop)
    }

    async fn inherit(&self, dataset: &DatasetName, property: &str) -> ZfsResult<()> {
        let operation = format!("inherit {property} of {dataset}");
        let property = args::property(property).map_err(|why| error(&operation, Other, why))?;
        self.plain(&operation, &["inherit", property, dataset.as_str()]).await
    }

    async fn set_all(&self, datasets: &[DatasetName], properties: &[(String, String)]) -> ZfsResult<()> {
        self.set_on_all(datasets, properties).await
    }

    async fn inherit_all(&self, datasets: &[DatasetName], property: &str, received: bool) -> ZfsResult<()> {
        self.inherit_on_all(datasets, property, received).await
    }

    async fn tree(&self, root: &DatasetName) -> ZfsResult<Vec<DatasetInfo>> {
        self.list_below(root).await
    }

    async fn since(&self, snapshots: &[SnapshotName]) -> ZfsResult<Vec<Option<Since>>> {
        self.seen_since(snapshots).await
    }

    async fn unmount(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.unmount_tree(dataset).await
    }

    async fn mount(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.mount_one(dataset).await
    }

    async fn close_volume(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.close_device(dataset).await
    }

    async fn await_volume(&self, dataset: &DatasetName) -> ZfsResult<()> {
        self.await_device(dataset).await
    }

    async fn sync(&self, pool: &str) -> ZfsResult<()> {
        self.sync_pool(pool).await
    }

    async fn destroy_tree(&self, root: &DatasetName) -> ZfsResult<()> {
        or_absent(self.plain(&format!("destroy {root} and all below"), &["destroy", "-r", root.as_str()]).await)
    }

    async fn create_filesystem(&self, dataset: &DatasetName, properties: &[(String, String)]) -> ZfsResult<()> {
        let operation = format!("create {dataset}");
        let unmounted = self.tools().await?.create_unmounted;
        let mut args = vec!["create".to_owned()];
        if unmounted {
            args.push("-u".to_owned());
        }
        for (name, value) in properties {
            let assignment = args::assignment(name, value).map_err(|why| error(&operation, Other, why))?;
            args.extend(["-o".to_owned(), assignment]);
        }
        args.push(dataset.to_string());
        self.zfs(&operation, &args).await?.ok(&operation)?;
        let stays_off = properties.iter().any(|(n, v)| n == "canmount" && (v == "off" || v == "noauto"));
        if unmounted || stays_off {
            return Ok(());
        }
        match self.plain(&operation, &["unmount", dataset.as_str()]).await {
            Err(e) if e.detail.contains("not currently mounted") || e.detail.contains("legacy") => Ok(()),
            other => other,
        }
    }

    async fn destroy_filesystem(&self, dataset: &DatasetName) -> ZfsResult<()> {
        or_absent(self.plain(&format!("destroy {dataset}"), &["destroy", dataset.as_str()]).await)
    }

    async fn rollback(&self, to: &SnapshotName) -> ZfsResult<()> {
        let operation = format!("roll back to {to}");
        let (mut tries, apart) = UNMOUNTING;
        loop {
            tries -= 1;
            match self.plain(&operation, &["rollback", to.as_str()]).await {
                // An unmount may still be going on when its command has ended; until it is done, the filesystem can be
                // neither suspended nor rolled back as one without a mount (`zfsvfs_teardown` says EIO).
                Err(e) if e.detail.contains("I/O error") && tries > 0 => sleep(apart).await,
                other => return other,
            }
        }
    }

    async fn abort_receive(&self, dataset: &DatasetName) -> ZfsResult<()> {
        let operation = format!("abort the receive into {dataset}");
        if !self.tools().await?.capabilities.receive_resumable {
            return Ok(());
        }
        match self.plain(&operation, &["receive", "-A", dataset.as_str()]).await {
            Err(e) if e.detail.contains("does not have any resumable receive state to abort") => Ok(()),
            Err(e) if is_absent(&e, dataset.as_str()) => Ok(()),
            other => other,
        }
    }

    async fn send_size(&self, spec: &SendSpec) -> ZfsResult<Option<u64>> {
        if !self.tools().await?.capabilities.send_estimate {
            return Ok(None);
        }
        let operation = format!("estimate: {}", args::send_subject(spec));
        let mut args = args::send(spec).map_err(|why| error(&operation, bad_spec(spec), why))?;
        args.insert(1, "-nP".to_owned());
        let out = self.zfs(&operation, &args).await?;
        if matches!(spec, SendSpec::Resume { .. })
            && let Some(kind) = classify_resume(out.exit, &out.stderr)
        {
            return Err(out.failure(&operation, kind));
        }
        let out = out.ok(&operation)?;
        match parse::send_size(&out.stdout).or_else(|| parse::send_size(&out.stderr)) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(error(&operation, Unparsable, format!("no size in {:?}", out.stdout))),
        }
    }

    async fn send(&self, spec: &SendSpec) -> ZfsResult<Sending> {
        let operation = args::send_subject(spec);
        let args = args::send(spec).map_err(|why| error(&operation, bad_spec(spec), why))?;
        let resumes = matches!(spec, SendSpec::Resume { .. });
        process::send(operation, self.runner.command(Tool::Zfs, args), resumes)
    }

    async fn receive(&self, spec: &ReceiveSpec) -> ZfsResult<Receiving> {
        let operation = format!("receive into {}", spec.snapshot);
        let args = args::receive(spec).map_err(|why| error(&operation, Other, why))?;
        process::receive(operation, self.runner.command(Tool::Zfs, args))
    }

    async fn user_property(&self, root: &DatasetName, name: &str) -> ZfsResult<Vec<(DatasetName, String)>> {
        let operation = format!("read {name} below {root}");
        let columns = format!("name,{name}");
        let list = ["list", "-H", "-r", "-t", "filesystem,volume", "-o", &columns, root.as_str()];
        let out = self.zfs(&operation, list).await?.ok(&operation)?;
        let mut found = Vec::new();
        for line in out.stdout.lines() {
            let (dataset, value) = line.split_once('\t').unwrap_or((line, "-"));
            // What is being received has a `%` in its name.
            if value != "-" && !dataset.contains('%') {
                found.push((dataset.parse().map_err(|e| error(&operation, Unparsable, e))?, value.to_owned()));
            }
        }
        Ok(found)
    }

    async fn version(&self) -> ZfsResult<ZfsVersion> {
        self.ask_version().await
    }

    async fn pools(&self) -> ZfsResult<Vec<PoolStatus>> {
        self.ask_pools().await
    }

    async fn delegations(&self, dataset: &DatasetName) -> ZfsResult<Vec<Delegation>> {
        self.ask_delegations(dataset).await
    }
}

fn bad_spec(spec: &SendSpec) -> ZfsErrorKind {
    if matches!(spec, SendSpec::Resume { .. }) { DeadToken } else { Other }
}
