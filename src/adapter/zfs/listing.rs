//! Listings: two commands at the same time, whatever the size of the tree.
//!
//! OpenZFS: `zfs list -Hp` for every object's identity, `zfs get -Hp -t filesystem,volume` for the datasets' properties.
//! zfs-fuse has no `list -p` and no `get -t`, so there the identities come from `zfs get` as well.

use super::{
    ZfsCommand, parse,
    probe::Tools,
    run::{Output, error},
};
use crate::{
    port::zfs::{Depth, ZfsError, ZfsErrorKind, ZfsResult},
    types::{
        DatasetName,
        listing::{CLONE, DatasetInfo, LISTED_PROPERTIES, Listing, MANIFEST_PROPERTIES},
    },
};

/// A tree that changes under the listing makes `zfs` fail with "does not exist" for what has just gone.
pub(super) const TRIES: usize = 4;

impl ZfsCommand {
    pub(super) async fn list_tree(&self, root: &DatasetName, depth: Depth) -> ZfsResult<Listing> {
        let operation = format!("list {root}");
        let mut tries = TRIES;
        loop {
            let failed = match self.try_list(&operation, root, depth).await {
                Ok(listing) => return Ok(listing),
                Err(failed) => failed,
            };
            if is_absent(&failed, root.as_str()) {
                return Ok(Listing::default());
            }
            tries -= 1;
            if failed.kind != ZfsErrorKind::NotFound || tries == 0 {
                return Err(failed);
            }
        }
    }

    async fn try_list(&self, operation: &str, root: &DatasetName, depth: Depth) -> ZfsResult<Listing> {
        let unparsable = |e| error(operation, ZfsErrorKind::Unparsable, e);
        let tools = self.tools().await?;
        let (reach, exact): (&[&str], bool) = match depth {
            // The root's snapshots are one level below it; so are its children, which are dropped again.
            Depth::Root => (&["-d", "1"], tools.exact_list),
            Depth::Tree => (&["-r"], tools.exact_list),
        };
        let objects = async {
            if exact {
                let what = ["-t", "filesystem,volume,snapshot,bookmark", "-o", parse::OBJECT_COLUMNS, root.as_str()];
                let out = self.zfs(operation, [&["list", "-Hp"], reach, &what].concat()).await?.ok(operation)?;
                parse::objects(&out.stdout).map_err(unparsable)
            } else {
                let what = ["-o", parse::VALUE_COLUMNS, parse::OBJECT_PROPERTIES, root.as_str()];
                let out = self.zfs(operation, [&["get", "-Hp"], reach, &what].concat()).await?.ok(operation)?;
                parse::objects_from_values(&parse::values(&out.stdout).map_err(unparsable)?).map_err(unparsable)
            }
        };
        let args: &[&str] = match depth {
            Depth::Root => &["get", "-Hp"],
            Depth::Tree if exact => &["get", "-Hp", "-r", "-t", "filesystem,volume"],
            Depth::Tree => &["get", "-Hp", "-r"],
        };
        let properties =
            async { self.get_known(operation, args, &dataset_properties(), &[root.as_str()]).await?.ok(operation) };
        let (objects, out) = tokio::try_join!(objects, properties)?;
        let mut values = parse::values(&out.stdout).map_err(unparsable)?;
        values.retain(|v| !v.name.contains('@'));
        let listing = parse::listing(&objects, &values, |name| depth == Depth::Tree || name == root);
        let mut listing = listing.map_err(unparsable)?;
        // A view that a verification looks through, and then destroys: no dataset of anybody's.
        listing.datasets.retain(|dataset| dataset.local(CLONE).is_none());
        Ok(listing)
    }

    pub(super) async fn list_datasets(&self, names: &[DatasetName]) -> ZfsResult<Vec<DatasetInfo>> {
        let mut found = Vec::new();
        for values in self.look_at(&dataset_properties(), names.iter().map(DatasetName::to_string).collect()).await? {
            let unparsable = |e| error(&format!("look at {}", values.name), ZfsErrorKind::Unparsable, e);
            found.push(parse::dataset(&values).map_err(unparsable)?);
        }
        let at = |d: &DatasetInfo| names.iter().position(|name| *name == d.name);
        found.sort_by_cached_key(at);
        Ok(found)
    }

    /// `zfs get` of those of the properties that this ZFS knows, or of the type where that is none. Where it turns out not to
    /// know one after all, that one is dropped, for good, and the command repeated.
    pub(super) async fn get_known(
        &self,
        operation: &str,
        command: &[&str],
        properties: &[&str],
        names: &[&str],
    ) -> ZfsResult<Output> {
        loop {
            let tools: &Tools = &*self.tools().await?;
            let known: Vec<&str> = properties.iter().copied().filter(|p| tools.knows(p)).collect();
            let known = if known.is_empty() { vec!["type"] } else { known };
            let list = known.join(",");
            let out = self.zfs(operation, [command, &["-o", parse::VALUE_COLUMNS, &list], names].concat()).await?;
            match out.stderr.split_once("invalid property '").and_then(|(_, rest)| rest.split_once('\'')) {
                Some((unknown, _)) if known.contains(&unknown) && self.forget_property(unknown).await => continue,
                _ => return Ok(out),
            }
        }
    }
}

pub(super) fn dataset_properties() -> Vec<&'static str> {
    [parse::FIELD_PROPERTIES, LISTED_PROPERTIES, MANIFEST_PROPERTIES].concat()
}

/// True if this failure says that `name` itself is not there.
pub(super) fn is_absent(failed: &ZfsError, name: &str) -> bool {
    failed.kind == ZfsErrorKind::NotFound && failed.detail.contains(&format!("'{name}'"))
}

/// Where a command takes many names it reports each that fails on a line of its own and goes on with the others.
/// Fails with the first line whose class is not among `fine`.
pub(super) fn ignoring(fine: &[ZfsErrorKind], out: Output, operation: &str) -> ZfsResult<Output> {
    use super::classify::{Exit, classify_text, without_usage};
    if !matches!(out.exit, Exit::Code(1)) {
        return out.ok(operation);
    }
    let worse = without_usage(&out.stderr)
        .lines()
        .filter(|l| !l.trim().is_empty() && *l != "no datasets available")
        .map(classify_text)
        .find(|kind| !fine.contains(kind));
    match worse {
        Some(kind) => Err(out.failure(operation, kind)),
        None if out.stderr.trim().is_empty() => out.ok(operation),
        None => Ok(out),
    }
}
