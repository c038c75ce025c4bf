//! Destroying a dataset of a target whose source was deleted, once it has been gone for as long as the job says.
//!
//! ```text
//!   seen gone: zmigrate:gone=<time> ──┬── back at the source: the mark is taken off
//!                                     └── gone for the job's time: zmigrate:gone=<time> <time 2>
//!                                               └── a day after that still gone: judged, written to the journal, destroyed
//! ```
//!
//! Invariants: time is reckoned by this host's clock and mark alone, and a mark of the future begins anew, so that a clock that
//! jumps, and is set right within a day, destroys nothing; only a dataset below the root that the session holds, which bears
//! `zmigrate:job` of this job; nothing goes that has a dataset below it, a clone, a snapshot that the job did not make, data of
//! its own, a hold of somebody else, or a next target; nothing that serves or is fenced.

use jiff::{SignedDuration, Timestamp};

use super::{
    bases::hold_tag,
    engine::{EngineSession, refused},
};
use crate::{
    jobs::{gone::GoneMark, names::Prefix},
    limits::MIN_GONE,
    port::{
        journal::Entry,
        zfs::{Depth, Since, ZfsErrorKind},
    },
    types::{
        Failure, FailureClass, SnapshotName,
        listing::{DatasetInfo, FENCE, GONE, HELD, JOB, Listing, SERVING},
    },
    wire::message::{Reply, RetireRequest, Retired},
};

impl EngineSession {
    /// Marks a dataset whose source is gone, destroys it when its time has come, or takes the mark off.
    pub(super) async fn retire(&self, request: RetireRequest, now: Timestamp) -> Result<Reply, Failure> {
        let dataset = &request.dataset;
        if !request.dry_run {
            self.must_hold_above(dataset)?;
        }
        let prefix: Prefix = request.prefix.parse().map_err(|e| Failure::new(FailureClass::Protocol, e))?;
        let listing = self.zfs().list(dataset, Depth::Tree).await?;
        let Some(info) = listing.get(dataset) else { return Ok(Reply::Retired(Retired::Destroyed)) };
        if info.local(JOB) != Some(request.job.as_str()) {
            return Err(refused(format!("{dataset} is no target of {}, so it is not touched", request.job)));
        }
        if !request.gone {
            if info.local(GONE).is_some() && !request.dry_run {
                self.zfs().inherit(dataset, GONE).await?;
            }
            return Ok(Reply::Retired(Retired::Back));
        }
        let asked = SignedDuration::from_secs(i64::try_from(request.after_s).unwrap_or(i64::MAX)).max(MIN_GONE);
        let for_long = |since| now.duration_since(since) >= asked;
        let confirmed = |due: Option<Timestamp>| due.is_some_and(|due| now.duration_since(due) <= CONFIRMED_FOR);
        let (mark, is_new) = match info.local(GONE).and_then(|text| GoneMark::read(text, now)) {
            None => (GoneMark { since: now, due: None }, true),
            // Found due just now, or long ago and not since: nobody may have wished for it meanwhile.
            Some(mark) if for_long(mark.since) && !confirmed(mark.due) => (GoneMark { due: Some(now), ..mark }, true),
            Some(mark) => (mark, false),
        };
        if is_new && !request.dry_run {
            self.must_go_on()?;
            self.zfs().set(dataset, &[(GONE.to_owned(), mark.to_string())]).await?;
        }
        match mark.due {
            Some(due) if for_long(mark.since) && now.duration_since(due) >= MIN_GONE => {
                self.destroy_retired(&listing, info, &request, &prefix, mark.since).await.map(Reply::Retired)
            }
            _ => Ok(Reply::Retired(Retired::Waits { since_unix_s: mark.since.as_second() })),
        }
    }

    async fn destroy_retired(
        &self,
        listing: &Listing,
        info: &DatasetInfo,
        request: &RetireRequest,
        prefix: &Prefix,
        since: Timestamp,
    ) -> Result<Retired, Failure> {
        let ours = hold_tag(&request.job);
        let snapshots: Vec<SnapshotName> = info.snapshots.iter().filter_map(|s| info.snapshot_name(s).ok()).collect();
        let next = self.engine.needs().of(&info.name, None);
        let mut stays =
            why_it_stays(listing, info, prefix).or_else(|| Some(format!("{} sends it on", next.first()?.by)));
        if stays.is_none() {
            // Snapshots go one by one, so what would stop that halfway is looked for first.
            stays = self.clone_of(&snapshots).await?.map(|clone| format!("{clone} is a clone of it"));
        }
        let (others, own) = self.held(info, &snapshots, &ours).await?;
        stays = stays.or(others);
        if stays.is_none() {
            let since = self.zfs().since(snapshots.last().map_or(&[], std::slice::from_ref)).await?;
            stays = match since.first() {
                Some(Some(Since { written: written @ 1.., .. })) => {
                    Some(format!("{written} bytes were written to it since its newest snapshot"))
                }
                Some(None) => Some("its newest snapshot is gone".to_owned()),
                _ => None,
            };
        }
        if let Some(why) = stays {
            return Ok(Retired::Stays(why));
        }
        if request.dry_run {
            return Ok(Retired::Destroyed);
        }
        self.must_go_on()?;
        // Somebody may look into it, and then it could not be destroyed at the end.
        if info.property("mounted").is_some_and(|p| p.value == "yes")
            && let Err(e) = self.zfs().unmount(&info.name).await
        {
            return Ok(Retired::Stays(format!("it is mounted ({e})")));
        }
        let entry = Entry::Retire {
            dataset: info.name.clone(),
            guid: info.guid,
            gone_since: since.to_string(),
            snapshots: snapshots.clone(),
        };
        let can_hold = self.capabilities(&info.name).await?.holds;
        let act = async {
            if can_hold && !own.is_empty() {
                self.zfs().release(&ours, &own).await?;
            }
            // The newest last: until then a source that comes back has its base here.
            for snapshot in &snapshots {
                self.zfs().destroy_snapshot(snapshot).await?;
            }
            // Without -r: it refuses what has come since.
            self.zfs().destroy_filesystem(&info.name).await
        };
        match self.journalled(entry, act).await {
            Ok(()) => Ok(Retired::Destroyed),
            Err(failure) if failure.transient => {
                Ok(Retired::Stays(format!("destroying it stopped halfway, for something uses it ({failure})")))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Which snapshot somebody else holds, and which the job itself does.
    async fn held(
        &self,
        info: &DatasetInfo,
        snapshots: &[SnapshotName],
        ours: &str,
    ) -> Result<(Option<String>, Vec<SnapshotName>), Failure> {
        match self.zfs().holds(snapshots).await {
            Ok(holds) => {
                let (own, others): (Vec<_>, Vec<_>) = holds.into_iter().partition(|(_, tag)| tag == ours);
                let other = others.first().map(|(held, tag)| format!("{held} is held ({tag})"));
                Ok((other, own.into_iter().map(|(held, _)| held).collect()))
            }
            // Some have holds and cannot list them; they can count them. The job holds what it has recorded, and the newest if
            // it died before it could.
            Err(e) if e.kind == ZfsErrorKind::Unsupported => {
                let may_be_own = |snapshot: &SnapshotName| {
                    info.local(HELD) == Some(snapshot.tag().as_str()) || snapshots.last() == Some(snapshot)
                };
                for snapshot in snapshots {
                    let found = self.zfs().get(snapshot.as_str(), &["userrefs"]).await?;
                    // What has no figure counts as held: that is the answer which does no harm.
                    let holds: Option<u64> = found.first().and_then(|p| p.value.parse().ok());
                    if holds.is_none_or(|holds| holds > u64::from(may_be_own(snapshot))) {
                        return Ok((Some(format!("{snapshot} is held")), Vec::new()));
                    }
                }
                Ok((None, snapshots.iter().filter(|s| may_be_own(s)).cloned().collect()))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// How long it counts that a dataset was found to be gone for long enough: a job that runs once a month is to come to its end.
const CONFIRMED_FOR: SignedDuration = SignedDuration::from_hours(35 * 24);

/// Why a dataset whose time has come stays all the same.
fn why_it_stays(listing: &Listing, info: &DatasetInfo, prefix: &Prefix) -> Option<String> {
    if let Some(child) = listing.datasets.iter().find(|d| d.name != info.name && d.name.is_at_or_below(&info.name)) {
        return Some(format!("{} is below it", child.name));
    }
    if let Some(foreign) = info.snapshots.iter().find(|s| prefix.time_of(&s.tag).is_none()) {
        return Some(format!("@{} was not made by this job", foreign.tag));
    }
    if let Some(bookmark) = info.bookmarks.first() {
        return Some(format!("it has the bookmark #{}, from which something is sent on", bookmark.tag));
    }
    if let Some(property) = [SERVING, FENCE].into_iter().find(|name| info.local(name).is_some()) {
        return Some(format!("a cutover left its mark ({property})"));
    }
    if info.property("readonly").is_none_or(|p| p.value != "on") {
        return Some("it is not read-only any more: a person may use it".to_owned());
    }
    if info.resume_token.is_some() || info.inconsistent {
        return Some("it holds an interrupted receive".to_owned());
    }
    if info.snapshots.is_empty() {
        return Some("it has no snapshots, so nothing tells what it holds".to_owned());
    }
    None
}

#[cfg(test)]
#[path = "retire_tests.rs"]
mod tests;
