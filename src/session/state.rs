//! Looking at what zmigrate left in this host's ZFS, and letting go of it on an operator's word.
//!
//! Invariants: nothing is let go that the inventory does not name as zmigrate's; what makes a target a target is only
//! touched under its lock, and by what is found once it is locked; each item is written to the journal first.

use std::collections::BTreeMap;

use super::{bases::hold_tag, destructive::journalled, engine::Engine, patience::in_time};
use crate::{
    inventory::{self, Choice, Item, Kind},
    limits::{ABOUT_WITHIN, LISTING_WITHIN, MAX_LOCKS},
    port::{
        journal::Entry,
        locks::LockGuard,
        zfs::{Depth, ZfsErrorKind, ZfsResult},
    },
    types::{
        BookmarkName, DatasetName, Failure, FailureClass, JobId, SnapshotName,
        listing::{FENCE, HELD, JOB, PLACEHOLDER, SERVING},
    },
};

/// What zmigrate left.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// By dataset.
    pub items: Vec<Item>,
    /// False where this ZFS cannot list holds, so that there may be more of them.
    pub holds_listed: bool,
    /// Pools that were left out because they do not answer: name and health.
    pub silent_pools: Vec<(String, String)>,
    /// All snapshots that were looked at, for holds that cannot be listed.
    snapshots: Vec<SnapshotName>,
}

/// What became of one item.
#[derive(Clone, Debug)]
pub struct Released {
    /// Which.
    pub item: Item,
    /// Why it is still there; `None` if it is gone.
    pub error: Option<Failure>,
}

/// What a release did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Release {
    /// Each item, in order.
    pub items: Vec<Released>,
    /// Where holds cannot be listed: snapshots of which any hold of the job goes as well.
    pub unlisted: Vec<SnapshotName>,
    /// Why those could not be let go.
    pub unlisted_error: Option<Failure>,
}

/// Looks at `root` and all below it, or at all pools. The number of commands depends on the number of pools, and for
/// holds on how many names fit into a command line; not on the size of the trees. Each has its time limit.
///
/// # Errors
/// When there is no such dataset, or ZFS fails, or gives no answer.
pub async fn survey(engine: &Engine, root: Option<&DatasetName>) -> Result<Inventory, Failure> {
    let mut inventory = Inventory { holds_listed: true, ..Inventory::default() };
    let mut roots = Vec::new();
    let pools = in_time("list the pools", ABOUT_WITHIN, engine.zfs.pools()).await?;
    match root {
        Some(root) => {
            if let Some(pool) = pools.iter().find(|pool| pool.name == root.pool() && !pool.answers()) {
                let text = format!("pool {} is {} and was not asked for {root}", pool.name, pool.health);
                return Err(Failure::new(FailureClass::Zfs, text).hint("look at `zpool status` on this host"));
            }
            roots.push(root.clone());
        }
        None => {
            for pool in pools {
                match pool.name.parse() {
                    Ok(name) if pool.answers() => roots.push(name),
                    _ => inventory.silent_pools.push((pool.name, pool.health)),
                }
            }
        }
    }
    for at in &roots {
        let listing = in_time(&format!("list {at}"), LISTING_WITHIN, engine.zfs.list(at, Depth::Tree)).await?;
        if listing.datasets.is_empty() && root.is_some() {
            return Err(Failure::new(FailureClass::Usage, format!("there is no dataset {at} on this host")).hint(
                "state is kept on each host for itself; `zmigrate state list` there shows that of the other side",
            ));
        }
        let names = listing.datasets.iter().flat_map(|d| d.snapshots.iter().filter_map(|s| d.snapshot_name(s).ok()));
        let snapshots: Vec<SnapshotName> = names.collect();
        let holds =
            match in_time(&format!("list the holds below {at}"), LISTING_WITHIN, engine.zfs.holds(&snapshots)).await {
                Ok(holds) => Some(holds),
                Err(e) if e.kind == ZfsErrorKind::Unsupported => {
                    inventory.holds_listed = false;
                    None
                }
                Err(e) => return Err(e.into()),
            };
        inventory.items.extend(inventory::of(&listing, holds.as_deref()));
        inventory.snapshots.extend(snapshots);
    }
    Ok(inventory)
}

/// What `choice` would let go, by an inventory.
///
/// # Errors
/// When nothing fits.
pub fn preview(inventory: &Inventory, choice: &Choice) -> Result<Release, Failure> {
    let unlisted = unlisted(inventory, choice);
    let items = match choice.of(&inventory.items) {
        Ok(items) => items,
        // That nothing is stale is how it should be.
        Err(_) if !unlisted.is_empty() || matches!(choice, Choice::Stale { .. }) => Vec::new(),
        Err(nothing) => {
            let hint = "`zmigrate state list` shows what there is; names are as in its JSON, jobs as in its table";
            return Err(Failure::new(FailureClass::Usage, nothing).hint(hint));
        }
    };
    let items = items.into_iter().map(|item| Released { item, error: None }).collect();
    Ok(Release { items, unlisted, unlisted_error: None })
}

/// Snapshots on which the job may have holds that cannot be seen.
fn unlisted(inventory: &Inventory, choice: &Choice) -> Vec<SnapshotName> {
    let within = |name: &SnapshotName| match choice {
        Choice::Job { scope, .. } => scope.as_ref().is_none_or(|scope| name.dataset().is_at_or_below(scope)),
        Choice::Named { name: named, job: Some(_) } => name.as_str() == named,
        _ => false,
    };
    if inventory.holds_listed {
        return Vec::new();
    }
    inventory.snapshots.iter().filter(|name| within(name)).cloned().collect()
}

/// Lets go what `choice` takes. `by` is what the journal and those who meet its locks are told.
///
/// # Errors
/// `Locked` when a run is at work on one of the targets, `Usage` when nothing fits or the journal cannot be written.
/// What happened to each item is in the result.
pub async fn release(engine: &Engine, by: &str, choice: &Choice) -> Result<Release, Failure> {
    let root = choice.root();
    let before = preview(&survey(engine, root.as_ref()).await?, choice)?;
    let targets = before.items.iter().filter(|released| released.item.needs_lock());
    let mut guards: Vec<(DatasetName, Box<dyn LockGuard>)> = Vec::new();
    for target in to_lock(targets.map(|released| &released.item.dataset)) {
        let guard = engine.locks.acquire(&target, by).map_err(locked)?;
        guards.push((target, guard));
    }
    // Only now it stands still: what a run has just made its new base is not what was seen before.
    let mut now = preview(&survey(engine, root.as_ref()).await?, choice)?;
    now.items.retain(|r| !r.item.needs_lock() || guards.iter().any(|(held, _)| r.item.dataset.is_at_or_below(held)));
    for released in &mut now.items {
        released.error = let_go(engine, by, &released.item).await?;
    }
    if let Some(job) = job_of(choice)
        && !now.unlisted.is_empty()
    {
        let name = format!("{} snapshots", now.unlisted.len());
        let entry = Entry::ReleaseState { kind: "hold".into(), name, job: Some(job.clone()) };
        let tag = hold_tag(job);
        now.unlisted_error = written_down(engine, by, entry, engine.zfs.release(&tag, &now.unlisted)).await?;
    }
    Ok(now)
}

/// The topmost of these datasets: a lock covers what is below. Where they are many, one dataset above them for each pool.
fn to_lock<'a>(datasets: impl Iterator<Item = &'a DatasetName>) -> Vec<DatasetName> {
    let mut tops: Vec<DatasetName> = Vec::new();
    let mut all: Vec<&DatasetName> = datasets.collect();
    all.sort();
    for dataset in all {
        if !tops.iter().any(|top| dataset.is_at_or_below(top)) {
            tops.push(dataset.clone());
        }
    }
    if tops.len() <= MAX_LOCKS {
        return tops;
    }
    let mut pools: BTreeMap<String, DatasetName> = BTreeMap::new();
    for top in tops {
        let common = match pools.get(top.pool()) {
            None => Some(top.clone()),
            Some(other) => {
                let above = other.ancestors().into_iter().chain([other.clone()]).rev();
                above.into_iter().find(|above| top.is_at_or_below(above))
            }
        };
        pools.extend(common.map(|common| (top.pool().to_owned(), common)));
    }
    pools.into_values().collect()
}

fn job_of(choice: &Choice) -> Option<&JobId> {
    match choice {
        Choice::Job { job, .. } => Some(job),
        Choice::Stale { job, .. } | Choice::Named { job, .. } => job.as_ref(),
    }
}

fn locked(e: crate::port::locks::LockError) -> Failure {
    let failure = Failure::from(e);
    match failure.class {
        FailureClass::Locked => failure.hint("nothing was let go; run it again when that run has ended"),
        _ => failure.hint("check state_dir in the configuration; it must be the one that zmigrated uses"),
    }
}

async fn let_go(engine: &Engine, by: &str, item: &Item) -> Result<Option<Failure>, Failure> {
    let zfs = &engine.zfs;
    let kind = match item.kind {
        Kind::Bookmark => "bookmark",
        Kind::Hold => "hold",
        Kind::Job => JOB,
        Kind::Held => HELD,
        Kind::Placeholder => PLACEHOLDER,
        Kind::Fence => FENCE,
        Kind::Serving => SERVING,
        Kind::Partial => "receive",
    };
    let entry = Entry::ReleaseState { kind: kind.to_owned(), name: item.name.clone(), job: item.job.clone() };
    let broken = |e: crate::types::NameError| Failure::new(FailureClass::Internal, e);
    match item.kind {
        Kind::Bookmark => {
            let name: BookmarkName = item.name.parse().map_err(broken)?;
            written_down(engine, by, entry, zfs.destroy_bookmark(&name)).await
        }
        Kind::Hold => {
            let name: SnapshotName = item.name.parse().map_err(broken)?;
            let Some(job) = &item.job else { return Ok(None) };
            written_down(engine, by, entry, zfs.release(&hold_tag(job), &[name])).await
        }
        Kind::Job | Kind::Held | Kind::Placeholder => {
            written_down(engine, by, entry, zfs.inherit(&item.dataset, kind)).await
        }
        // No choice takes it; should one ever do so, it stays.
        Kind::Fence | Kind::Serving => {
            Ok(Some(Failure::new(FailureClass::Refused, format!("{kind} of {} is a cutover's", item.dataset))))
        }
        Kind::Partial => written_down(engine, by, entry, zfs.abort_receive(&item.dataset)).await,
    }
}

/// What came of an act that is written down. A failure of it is a result; one of the journal, before it, ends the release.
async fn written_down(
    engine: &Engine,
    by: &str,
    entry: Entry,
    act: impl Future<Output = ZfsResult<()>>,
) -> Result<Option<Failure>, Failure> {
    Ok(journalled(&*engine.journal, by, &entry, act).await?.err().map(Failure::from))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
