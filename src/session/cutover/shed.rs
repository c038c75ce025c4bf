//! Snapshots that something else took of what a cutover fenced: while they are there, nothing can be received into it.
//!
//! Invariant: a snapshot is destroyed only of a dataset that is fenced, only if it is newer than the last one of a cutover, and
//! only if ZFS says that nothing was written since that one, so that it holds nothing of its own.

use super::{Tools, look::value, unit::Unit};
use crate::{
    cutover::{call::is_of_a_cutover, leg::Leg},
    port::{journal::Entry, zfs::Depth},
    session::destructive::journalled,
    types::{
        Failure, FailureClass, SnapshotName, human_bytes,
        listing::{DatasetInfo, FENCE},
    },
};

/// Snapshots that are named in a failure.
const SHOWN: usize = 5;

/// Destroys those of the unit, on behalf of `who`. May be repeated.
///
/// # Errors
/// When something was written, or that cannot be told; when one is in use. What can be done for it is said.
pub(super) async fn shed(tools: &Tools, unit: &Unit, who: &str) -> Result<(), Failure> {
    for root in unit.roots() {
        for info in tools.zfs.list(root, Depth::Tree).await?.datasets {
            let is_fenced = value(&info, FENCE).is_some_and(|text| text.parse::<Leg>().is_ok());
            let last = info.snapshots.iter().rposition(|s| is_of_a_cutover(s.tag.as_str()));
            if let Some(last) = last.filter(|last| is_fenced && last + 1 < info.snapshots.len()) {
                shed_after(tools, &info, last, who).await?;
            }
        }
    }
    Ok(())
}

async fn shed_after(tools: &Tools, info: &DatasetInfo, last: usize, who: &str) -> Result<(), Failure> {
    let name = |s| info.snapshot_name(s).map_err(|e| Failure::new(FailureClass::Usage, e));
    let since = name(&info.snapshots[last])?;
    let newer: Vec<SnapshotName> = info.snapshots[last + 1..].iter().map(name).collect::<Result<_, _>>()?;
    let property = format!("written@{}", since.tag());
    let told = tools.zfs.get(info.name.as_str(), &[&property]).await?;
    let written = told.into_iter().find(|p| p.name == property).and_then(|p| p.value.parse::<u64>().ok());
    if written != Some(0) {
        let shown: Vec<&str> = newer.iter().map(SnapshotName::as_str).take(SHOWN).collect();
        let what = match written {
            Some(bytes) => format!("{} were written", human_bytes(bytes)),
            None => "this ZFS cannot tell what was written".to_owned(),
        };
        let text = format!(
            "{what} to {} since {since}; it is fenced and has newer snapshots: {}",
            info.name,
            shown.join(", ")
        );
        return Err(Failure::new(FailureClass::Refused, text)
            .hint("destroy these snapshots on that host if nothing in them is needed, and let nothing take more"));
    }
    for snapshot in newer.into_iter().rev() {
        let entry = Entry::Shed { snapshot: snapshot.clone(), since: since.clone() };
        let gone = journalled(&*tools.journal, who, &entry, tools.zfs.destroy_snapshot(&snapshot)).await?;
        gone.map_err(|e| {
            Failure::from(e)
                .hint(format!("{snapshot} keeps {} from coming home: release or destroy it there", info.name))
        })?;
        tracing::info!(%snapshot, "destroyed: it held nothing, and kept a fenced dataset from coming home");
    }
    Ok(())
}
