//! What is unsent, of a run that did not come to see both sides.
//!
//! Invariant: what the target is known to have stays as it was seen last, because it spares snapshots; only what the source has got since
//! is counted anew, or is not known any more.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    jobs::{
        Direction, Job,
        lag::{Lag, recount},
    },
    limits::MAX_SIZES,
    port::zfs::{Depth, Zfs, ZfsResult},
    types::listing::Listing,
};

/// Counts by one listing of the source, where that is on this host, and asks for the estimates of what is missing. Of a source that is
/// away nothing is known. `within` is for the listing, and once more for the estimates.
pub(super) async fn count_unsent(zfs: &dyn Zfs, job: &Job, lags: &mut [Lag], within: Duration) {
    if lags.is_empty() {
        return;
    }
    let depth = if job.recursive { Depth::Tree } else { Depth::Root };
    let listed = match job.is(Direction::Push) {
        true => timeout(within, zfs.list(&job.dataset, depth)).await.ok().and_then(Result::ok),
        false => None,
    };
    let Some(listing) = listed else {
        lags.iter_mut().for_each(Lag::forget_unsent);
        return;
    };
    recount(lags, &listing);
    // What could not be estimated in time is not known.
    let _ = timeout(within, estimate(zfs, job, lags, &listing)).await;
}

async fn estimate(zfs: &dyn Zfs, job: &Job, lags: &mut [Lag], source: &Listing) -> ZfsResult<()> {
    let missing = |lag: &Lag| {
        let info = source.get(&lag.source)?;
        Some((lag.missing(info)?, info.written.unwrap_or_default()))
    };
    let wanted: Vec<_> =
        lags.iter().enumerate().filter_map(|(at, lag)| Some((at, missing(lag)?))).take(MAX_SIZES).collect();
    if wanted.is_empty() || !zfs.capabilities(job.dataset.pool()).await?.send_estimate {
        return Ok(());
    }
    for (at, (spec, written)) in wanted {
        // One that cannot be told is no reason not to tell the others.
        let size = zfs.send_size(&spec).await.ok().flatten();
        lags[at].unsent_bytes = size.map(|size| size.saturating_add(written));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        fake::{FakeZfs, Fault, Op},
        jobs::lag::Common,
        port::zfs::{SnapshotRequest, ZfsErrorKind},
        types::DatasetName,
    };

    const WITHIN: Duration = Duration::from_secs(5);

    fn job(direction: &str) -> Job {
        let text = format!(
            "[job.db]\ndirection = \"{direction}\"\ndataset = \"t/db\"\nrecursive = true\npeer = \"b\"\ntarget = \"t/x\"\nsnapshot = false\n"
        );
        Config::parse(&text, "z").unwrap().jobs.into_values().next().unwrap()
    }

    fn ds(name: &str) -> DatasetName {
        name.parse().unwrap()
    }

    async fn snapshot(zfs: &FakeZfs, tag: &str) {
        zfs.write(&ds("t/db"), 7, 0, &[tag.len() as u8; 5000]);
        let request = SnapshotRequest { root: ds("t/db"), tag: tag.parse().unwrap(), recursive: true, except: vec![] };
        zfs.snapshot(&request).await.unwrap();
    }

    /// Two datasets whose newest snapshot the target has, as the last run saw it.
    async fn seen() -> (FakeZfs, Vec<Lag>) {
        let zfs = FakeZfs::new(1);
        zfs.create(&ds("t/db"));
        zfs.create(&ds("t/db/quiet"));
        snapshot(&zfs, "a").await;
        let listing = zfs.list(&ds("t/db"), Depth::Tree).await.unwrap();
        let lag = |info: &crate::types::listing::DatasetInfo| {
            let newest = info.newest().unwrap();
            Lag {
                source: info.name.clone(),
                target: ds("t/x"),
                common: Some(Common { tag: newest.tag.clone(), guid: newest.guid, taken_unix_s: 5 }),
                unsent_snapshots: Some(0),
                unsent_bytes: Some(0),
            }
        };
        (zfs, listing.datasets.iter().map(lag).collect())
    }

    #[tokio::test]
    async fn what_is_unsent_grows_while_the_peer_is_away() {
        let (zfs, mut lags) = seen().await;
        let bases: Vec<_> = lags.iter().map(|lag| lag.common.clone()).collect();
        let mut before = 0;
        for (runs, tag) in ["bb", "ccc", "dddd"].into_iter().enumerate() {
            snapshot(&zfs, tag).await;
            let listings = zfs.count(Op::List);
            count_unsent(&zfs, &job("push"), &mut lags, WITHIN).await;
            assert_eq!(zfs.count(Op::List), listings + 1, "one listing");
            assert!(lags.iter().all(|lag| lag.unsent_snapshots == Some(runs + 1)), "{lags:?}");
            let bytes = lags[0].unsent_bytes.unwrap();
            assert!(bytes >= 5000 && bytes >= before, "{bytes} after {before}");
            before = bytes;
        }
        assert_eq!(lags.iter().map(|lag| lag.common.clone()).collect::<Vec<_>>(), bases);
    }

    #[tokio::test]
    async fn what_cannot_be_told_is_not_known() {
        let (zfs, lags) = seen().await;
        snapshot(&zfs, "bb").await;
        let not_known = |told: &[Lag]| {
            told.iter().zip(&lags).all(|(now, then)| {
                now.common == then.common && now.unsent_snapshots.is_none() && now.unsent_bytes.is_none()
            })
        };
        let mut told = lags.clone();
        count_unsent(&zfs, &job("pull"), &mut told, WITHIN).await;
        assert!(not_known(&told), "the source of a pull is away: {told:?}");
        let mut told = lags.clone();
        zfs.fail_at(Op::List, Fault::Refuse(ZfsErrorKind::Io));
        count_unsent(&zfs, &job("push"), &mut told, WITHIN).await;
        assert!(not_known(&told), "{told:?}");
        // The estimate alone fails.
        let mut told = lags.clone();
        zfs.fail_at(Op::SendSize, Fault::Refuse(ZfsErrorKind::Io));
        count_unsent(&zfs, &job("push"), &mut told, WITHIN).await;
        assert_eq!((told[0].unsent_snapshots, told[0].unsent_bytes), (Some(1), None));
        assert!(told[1].unsent_bytes.is_some(), "{told:?}");
    }
}
