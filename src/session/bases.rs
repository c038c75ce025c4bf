//! What a job keeps on the source so that the next step has something to start from.
//!
//! Invariant: an older base is let go of only after the newer one is kept.

use super::engine::EngineSession;
use crate::{
    cutover::{
        call::{final_hold, leg_of_final},
        leg::Leg,
    },
    port::zfs::Base,
    types::{Failure, Guid, JobId, SnapshotName, listing::FENCE},
    wire::message::Reply,
};

/// The tag of this job's holds.
pub fn hold_tag(job: &JobId) -> String {
    format!("zmigrate:{job}")
}

/// The bookmark that this job keeps of a snapshot.
///
/// # Errors
/// When the dataset's name leaves no room for it.
pub fn bookmark_name(
    snapshot: &SnapshotName,
    guid: Guid,
    job: &JobId,
) -> Result<crate::types::BookmarkName, crate::types::NameError> {
    format!("{}#zmigrate:{job}:{guid}", snapshot.dataset()).parse()
}

impl EngineSession {
    /// Keeps the snapshot as a base (a bookmark, or a hold where there are none), then lets go of older ones.
    pub(super) async fn acknowledge(
        &self,
        snapshot: &SnapshotName,
        guid: Guid,
        job: &JobId,
        superseded: &[Base],
    ) -> Result<Reply, Failure> {
        self.must_go_on()?;
        self.engine.forget_what_was_seen();
        let zfs = self.zfs();
        let capabilities = zfs.capabilities(snapshot.dataset().pool()).await?;
        let tag = hold_tag(job);
        if self.guid_of(snapshot.as_str()).await? != Some(guid) {
            // The target has it, so nothing is lost yet; what was kept before stays.
            return Ok(Reply::DoneWith(vec![format!(
                "{snapshot} was destroyed or renamed while it was sent; the next run needs another common snapshot"
            )]));
        }
        let keeps_bookmark = match bookmark_name(snapshot, guid, job) {
            Ok(bookmark) if capabilities.bookmarks => {
                zfs.bookmark(snapshot, &bookmark).await?;
                true
            }
            // No bookmarks here, or the name is too long for one: the hold stays instead, or is made up for.
            _ if capabilities.holds => {
                zfs.hold(&tag, std::slice::from_ref(snapshot)).await?;
                false
            }
            _ => false,
        };
        if capabilities.holds {
            self.keep_final(snapshot).await?;
        }
        let mut release: Vec<SnapshotName> = Vec::new();
        if keeps_bookmark {
            release.push(snapshot.clone());
        }
        release.extend(superseded.iter().filter_map(|base| match base {
            Base::Snapshot(old) if old != snapshot => Some(old.clone()),
            _ => None,
        }));
        // Before the bookmarks: one that is left over shows in a listing, and so brings all of this about again.
        if capabilities.holds && !release.is_empty() {
            zfs.release(&tag, &release).await?;
        }
        for base in superseded {
            match base {
                Base::Snapshot(_) => {}
                // Only this job's own bookmarks, and never the one just made.
                Base::Bookmark(old)
                    if old.tag().as_str().starts_with(&format!("zmigrate:{job}:"))
                        && !old.tag().as_str().ends_with(&format!(":{guid}")) =>
                {
                    zfs.destroy_bookmark(old).await?;
                }
                Base::Bookmark(_) => {}
            }
        }
        Ok(Reply::Done)
    }

    /// Holds the final snapshot of a cutover where it was left, which bears the fence of that leg: the way home starts from it, and what prunes
    /// here does not know that. The job's own hold goes only after that.
    async fn keep_final(&self, snapshot: &SnapshotName) -> Result<(), Failure> {
        let Some(id) = leg_of_final(snapshot.tag().as_str()) else { return Ok(()) };
        let infos = self.zfs().datasets(&[snapshot.dataset()]).await?;
        let fence = infos.iter().find_map(|info| info.property(FENCE)?.value.parse::<Leg>().ok());
        if fence.is_some_and(|leg| leg.id == id) {
            self.zfs().hold(&final_hold(id), std::slice::from_ref(snapshot)).await?;
        }
        Ok(())
    }
}
