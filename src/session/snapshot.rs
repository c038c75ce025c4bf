//! Snapshots that are taken of a source when asked.
//!
//! Invariant: nothing is snapshotted that another job or host writes to: a snapshot that only this host has keeps a target from
//! going on, and a fenced dataset from coming home. Datasets below the root that are such are left out; a root that is one
//! is refused. A cutover's own snapshots are exempt, see [`crate::cutover::call::is_of_a_cutover`].

use super::engine::{Engine, refused};
use crate::{
    cutover::call::is_of_a_cutover,
    port::zfs::SnapshotRequest,
    types::{
        Failure,
        listing::{DatasetInfo, FENCE, JOB},
    },
};

impl Engine {
    /// Takes one atomic snapshot of what is this host's own.
    ///
    /// # Errors
    /// `Refused` when the root is a target or fenced; what ZFS says.
    pub async fn snapshot_source(&self, mut request: SnapshotRequest) -> Result<(), Failure> {
        if !is_of_a_cutover(request.tag.as_str()) {
            let root = request.root.clone();
            let found = if request.recursive {
                self.zfs.tree(&root).await?
            } else {
                self.zfs.datasets(std::slice::from_ref(&root)).await?
            };
            if let Some(failure) = found.iter().find(|info| info.name == root).and_then(not_ours) {
                return Err(failure);
            }
            let foreign = found.into_iter().filter(|info| info.name != root && not_ours(info).is_some());
            request.except.extend(foreign.map(|info| info.name));
        }
        Ok(self.zfs.snapshot(&request).await?)
    }
}

/// Why no snapshot is taken of a dataset.
pub fn not_ours(info: &DatasetInfo) -> Option<Failure> {
    let name = &info.name;
    // A fence is inherited: what is below a dataset that moved has moved with it.
    if let Some(fence) = info.property(FENCE) {
        let text = format!("{name} was moved away by a cutover ({}), so no snapshot is taken of it", fence.value);
        return Some(refused(text).hint(
            "it would keep the dataset from coming home; snapshots are taken where it serves now, see `zmigrate cutover status`",
        ));
    }
    // One that a person made writable is a target no longer.
    let readonly = info.property("readonly").is_some_and(|p| p.value == "on");
    let job = info.local(JOB).filter(|_| readonly && info.serves_by().is_none())?;
    let text = format!("{name} is the target of {job}, so no snapshot is taken of it");
    Some(refused(text).hint("a snapshot that only this host has would keep the job that writes here from going on"))
}
