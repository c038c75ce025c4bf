//! The proof by content: what both sides hold in the final snapshots, read to the last attribute.

use super::work::internal;
use crate::{
    cutover::{call::Seen, terms::Terms},
    driver::side::Side as Where,
    types::{DatasetName, Failure, Guid, SnapshotTag, content::ContentDigest, listing::DatasetKind},
    wire::{
        message::{Reply, Request, RoleOfDataset},
        verify::{VerifyAnswer, VerifyAsk, VerifyWhat},
    },
};

/// Reads the final snapshots on both sides, and says whether they hold the same, to the last attribute.
pub(super) async fn contents_are_equal(
    one: &Where,
    other: &Where,
    terms: &Terms,
    tag: &SnapshotTag,
    source: &Seen,
) -> Result<bool, Failure> {
    for (place, guid) in &source.guids {
        let Some((pair, below)) =
            place.split_once('/').and_then(|(at, below)| Some((terms.unit.get(at.parse::<usize>().ok()?)?, below)))
        else {
            return Err(internal(format!("no dataset at {place}")));
        };
        let name = |root: &DatasetName| match below {
            "" => root.snapshot(tag).map_err(internal),
            below => format!("{root}/{below}@{tag}").parse().map_err(internal),
        };
        let kind = if source.volumes.contains(place) { DatasetKind::Volume } else { DatasetKind::Filesystem };
        let ask = |snapshot, role| VerifyAsk {
            snapshot,
            guid: guid.unwrap_or(Guid(0)),
            role,
            what: VerifyWhat::Digest(kind),
        };
        let (here, there) = tokio::try_join!(
            digest(one, ask(name(&pair.source)?, RoleOfDataset::Source)),
            digest(other, ask(name(&pair.target)?, RoleOfDataset::Target)),
        )?;
        if here != there {
            tracing::error!("{} and {} differ in content", pair.source, pair.target);
            return Ok(false);
        }
    }
    Ok(true)
}

async fn digest(side: &Where, ask: VerifyAsk) -> Result<ContentDigest, Failure> {
    match side.ask(Request::Verify(ask)).await? {
        Reply::Verified(answer) => match *answer {
            VerifyAnswer::Digest(digest) => Ok(digest),
            _ => Err(internal("the host answered something else than it was asked")),
        },
        _ => Err(internal("the host answered something else than it was asked")),
    }
}
