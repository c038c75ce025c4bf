//! The proof by content: what both sides hold in the final snapshots, read to the last attribute.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::work::internal;
use crate::{
    content::{Comparison, Which},
    cutover::{call::Seen, terms::Terms},
    driver::side::{Side as Where, unexpected},
    session::verify::Told,
    types::{
        DatasetName, Failure, FailureClass, Guid, SnapshotName, SnapshotTag,
        content::{ContentCounts, ContentDigest},
        human_bytes,
        listing::DatasetKind,
    },
    wire::{
        message::{Reply, Request, RoleOfDataset},
        verify::{VerifyAnswer, VerifyAsk, VerifyWhat},
    },
};

/// How long it is looked for where two datasets differ, which reads them again while nobody is served.
const NAMED_WITHIN: Duration = Duration::from_secs(10);
/// So many of the places are named.
const NAMED: usize = 3;

/// Is told in words how far it has come.
pub(super) type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// One dataset on both sides.
struct Beside<'a> {
    /// Each with its side.
    of: [(&'a Where, SnapshotName, RoleOfDataset); 2],
    guid: Guid,
    kind: DatasetKind,
}

/// Reads the final snapshots on both sides, and says what differs first: the dataset, and where in it; `None` if they hold the same, to
/// the last attribute.
///
/// # Errors
/// When one cannot be read.
pub(super) async fn difference(
    one: &Where,
    other: &Where,
    terms: &Terms,
    tag: &SnapshotTag,
    source: &Seen,
    tell: &Tell,
) -> Result<Option<String>, Failure> {
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
        let beside = Beside {
            of: [
                (one, name(&pair.source)?, RoleOfDataset::Source),
                (other, name(&pair.target)?, RoleOfDataset::Target),
            ],
            guid: guid.unwrap_or(Guid(0)),
            kind: if source.volumes.contains(place) { DatasetKind::Volume } else { DatasetKind::Filesystem },
        };
        let (here, there) = tokio::try_join!(beside.digest(0, tell), beside.digest(1, tell))?;
        if here != there {
            let [(_, here, _), (_, there, _)] = &beside.of;
            let places = match timeout(NAMED_WITHIN, beside.places()).await {
                Ok(Ok(places)) => places.join("; "),
                Ok(Err(failure)) => format!("where, cannot be told: {failure}"),
                Err(_) => "where, `zmigrate verify --content` finds".to_owned(),
            };
            return Ok(Some(format!("{} and {} differ: {places}", here.dataset(), there.dataset())));
        }
    }
    Ok(None)
}

impl Beside<'_> {
    async fn ask(&self, at: usize, what: VerifyWhat, tell: Option<&Tell>) -> Result<VerifyAnswer, Failure> {
        let (side, snapshot, role) = &self.of[at];
        let ask = VerifyAsk { snapshot: snapshot.clone(), guid: self.guid, role: *role, what };
        let reply = match (side, tell) {
            // How far it is can be shown of this host.
            (Where::Local(session), Some(tell)) => {
                let (tell, name) = (Arc::clone(tell), snapshot.clone());
                let told: Told = Arc::new(move |counts: ContentCounts| {
                    tell(format!("reading {name}: {} entries, {}", counts.entries, human_bytes(counts.bytes)));
                });
                session.verify(&ask, Some(told)).await?
            }
            _ => side.ask(Request::Verify(ask)).await?,
        };
        match reply {
            Reply::Verified(answer) => Ok(*answer),
            _ => Err(unexpected()),
        }
    }

    async fn digest(&self, at: usize, tell: &Tell) -> Result<ContentDigest, Failure> {
        match self.ask(at, VerifyWhat::Digest(self.kind), Some(tell)).await? {
            VerifyAnswer::Digest(digest) => Ok(digest),
            _ => Err(unexpected()),
        }
    }

    /// The first places that differ, each with what does.
    async fn places(&self) -> Result<Vec<String>, Failure> {
        let mut comparison = Comparison::new("source", "target", NAMED);
        while let Some((which, after)) = comparison.wants() {
            let what = VerifyWhat::Page { kind: self.kind, after: after.map(<[u8]>::to_vec) };
            let VerifyAnswer::Page(page) = self.ask(usize::from(which == Which::Second), what, None).await? else {
                return Err(unexpected());
            };
            comparison.take(which, page).map_err(|e| Failure::new(FailureClass::Protocol, e))?;
        }
        let (found, more) = comparison.finish();
        let places = found.into_iter().map(|d| format!("{}: {}", d.path, d.what));
        Ok(places.chain(more.then(|| "and more".to_owned())).collect())
    }
}
