//! What is unsent, of a run that did not come to see both sides.
//!
//! Invariant: what the target is known to have stays as it was seen last, because it spares snapshots; only what the source has got since
//! is counted anew, or is not known any more.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    jobs::{
        Direction, Job,
        lag::{Lag, recount},
    },
    limits::MAX_SIZES,
    port::zfs::{Depth, Zfs, ZfsResult},
    types::listing::Listing,
};

/// How long it may take to count when a run is to end: twice that is less than a daemon waits for its runs.
const COUNTED_WHEN_STOPPED: Duration = Duration::from_secs(5);

/// Counts by one listing of the source, where that is on this host, and asks for the estimates of what is missing. Of a source that is
/// away nothing is known. `within` is for the listing, and once more for the estimates; after `stop` there are a few seconds left for each.
pub(super) async fn count_unsent(
    zfs: &dyn Zfs,
    job: &Job,
    lags: &mut [Lag],
    within: Duration,
    stop: &CancellationToken,
) {
    if lags.is_empty() {
        return;
    }
    let depth = if job.recursive { Depth::Tree } else { Depth::Root };
    let listed = match job.is(Direction::Push) {
        true => in_time(zfs.list(&job.dataset, depth), within, stop).await.and_then(Result::ok),
        false => None,
    };
    let Some(listing) = listed else {
        lags.iter_mut().for_each(Lag::forget_unsent);
        return;
    };
    recount(lags, &listing);
    // What could not be estimated in time is not known.
    let _ = in_time(estimate(zfs, job, lags, &listing), within, stop).await;
}

/// `None` if it took too long.
async fn in_time<T>(act: impl Future<Output = T>, within: Duration, stop: &CancellationToken) -> Option<T> {
    let stopped = async {
        stop.cancelled().await;
        sleep(COUNTED_WHEN_STOPPED).await;
    };
    tokio::select! {
        biased;
        done = timeout(within, act) => done.ok(),
        () = stopped => None,
    }
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
    use tokio::time::Instant;

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
            count_unsent(&zfs, &job("push"), &mut lags, WITHIN, &CancellationToken::new()).await;
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
        count_unsent(&zfs, &job("pull"), &mut told, WITHIN, &CancellationToken::new()).await;
        assert!(not_known(&told), "the source of a pull is away: {told:?}");
        let mut told = lags.clone();
        zfs.fail_at(Op::List, Fault::Refuse(ZfsErrorKind::Io));
        count_unsent(&zfs, &job("push"), &mut told, WITHIN, &CancellationToken::new()).await;
        assert!(not_known(&told), "{told:?}");
        // The estimate alone fails.
        let mut told = lags.clone();
        zfs.fail_at(Op::SendSize, Fault::Refuse(ZfsErrorKind::Io));
        count_unsent(&zfs, &job("push"), &mut told, WITHIN, &CancellationToken::new()).await;
        assert_eq!((told[0].unsent_snapshots, told[0].unsent_bytes), (Some(1), None));
        assert!(told[1].unsent_bytes.is_some(), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_comes_while_it_counts_is_heard() {
        let (stop, began) = (CancellationToken::new(), Instant::now());
        let stopper = async {
            sleep(Duration::from_secs(1)).await;
            stop.cancel();
        };
        let counted = in_time(std::future::pending::<()>(), Duration::from_secs(300), &stop);
        assert_eq!(tokio::join!(counted, stopper).0, None);
        assert_eq!(began.elapsed().as_secs(), 1 + COUNTED_WHEN_STOPPED.as_secs());
        // What ends soon after is taken in, and without a stop there is all the time.
        let counts = |seconds| sleep(Duration::from_secs(seconds));
        assert_eq!(in_time(counts(4), Duration::from_secs(300), &stop).await, Some(()));
        assert_eq!(in_time(counts(299), Duration::from_secs(300), &CancellationToken::new()).await, Some(()));
        assert_eq!(in_time(counts(301), Duration::from_secs(300), &CancellationToken::new()).await, None);
    }
}
