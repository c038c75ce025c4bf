//! The content of one snapshot on both sides: first one digest each, at the same time; then, if they differ, page by page.

use std::sync::Arc;

use super::{
    super::side::{Side, unexpected},
    ContentReport, DifferenceReport, Sides, VerifyOptions,
};
use crate::{
    content::{Comparison, Which},
    types::{Failure, FailureClass, Guid, SnapshotName, content::ContentDigest, listing::DatasetInfo},
    wire::{
        message::{Reply, Request, RoleOfDataset},
        verify::{VerifyAnswer, VerifyAsk, VerifyWhat},
    },
};

impl Sides {
    pub(super) async fn content(
        &self,
        options: &VerifyOptions,
        source: &DatasetInfo,
        (from, guid): &(SnapshotName, Guid),
        to: &SnapshotName,
    ) -> Result<ContentReport, Failure> {
        let kind = source.kind;
        let ask =
            |snapshot: &SnapshotName, role, what| VerifyAsk { snapshot: snapshot.clone(), guid: *guid, role, what };
        let digest = |snapshot, role| ask(snapshot, role, VerifyWhat::Digest(kind));
        let (source, target) = tokio::try_join!(
            self.digest(&self.source, digest(from, RoleOfDataset::Source)),
            self.digest(&self.target, digest(to, RoleOfDataset::Target)),
        )?;
        let equal = source.digest == target.digest;
        let mut report = ContentReport {
            snapshot: from.tag().to_string(),
            equal,
            source_digest: source.digest.to_string(),
            target_digest: target.digest.to_string(),
            entries: source.counts.entries,
            bytes: source.counts.bytes,
            differences: Vec::new(),
            more_differences: false,
        };
        if equal {
            return Ok(report);
        }
        let mut comparison = Comparison::new("source", "target", options.most);
        while let Some((which, after)) = comparison.wants() {
            let what = VerifyWhat::Page { kind, after: after.map(<[u8]>::to_vec) };
            let (side, ask) = match which {
                Which::First => (&self.source, ask(from, RoleOfDataset::Source, what)),
                Which::Second => (&self.target, ask(to, RoleOfDataset::Target, what)),
            };
            let VerifyAnswer::Page(page) = self.ask(side, ask).await? else { return Err(unexpected()) };
            comparison.take(which, page).map_err(|e| Failure::new(FailureClass::Protocol, e))?;
        }
        let (found, more) = comparison.finish();
        report.differences = found.into_iter().map(|d| DifferenceReport { path: d.path, what: d.what }).collect();
        report.more_differences = more;
        Ok(report)
    }

    async fn digest(&self, side: &Side, ask: VerifyAsk) -> Result<ContentDigest, Failure> {
        match self.ask(side, ask).await? {
            VerifyAnswer::Digest(digest) => Ok(digest),
            _ => Err(unexpected()),
        }
    }

    async fn ask(&self, side: &Side, ask: VerifyAsk) -> Result<VerifyAnswer, Failure> {
        let reply = match side {
            // Of this side, how far it is can be shown.
            Side::Local(session) => {
                let (progress, snapshot) = (Arc::clone(&self.progress), ask.snapshot.clone());
                let told = move |counts| progress.set(Some((snapshot.clone(), counts)));
                let reply = session.verify(&ask, Some(Arc::new(told))).await;
                self.progress.set(None);
                reply?
            }
            Side::Remote(_) => side.ask(Request::Verify(ask)).await?,
        };
        match reply {
            Reply::Verified(answer) => Ok(*answer),
            _ => Err(unexpected()),
        }
    }
}
