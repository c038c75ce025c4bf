//! How leading ends: what runs is ended, and of the snapshots that the cutover made one is left on both sides.

use std::time::Duration;

use tokio::time::timeout;

use super::Lead;
use crate::{
    cutover::{
        call::{final_tag, pass_tag},
        coordinator::Phase,
        leg::Side,
    },
    types::{Failure, SnapshotTag},
};

/// How long a peer is waited for that may not be there any more.
const TIDY_WITHIN: Duration = Duration::from_secs(20);
/// And for each root of the unit, which may have many datasets below it.
const EACH_WITHIN: Duration = Duration::from_secs(30);
/// So many of the newest passes are looked for.
const PASSES: usize = 3;

impl Lead {
    /// Ends what runs, and tidies up where it is over: what stays is the snapshot from which the way home, or the next cutover, starts.
    pub(super) async fn leave(&mut self) {
        self.cancel_work();
        if let Some(ending) = self.ending.take() {
            let _ = ending.await;
        }
        self.worker.settle().await;
        let kept = self.it.progress();
        let keep = match kept.phase {
            Phase::Done if !self.story.begun.reverse => {
                final_tag(kept.terms.leg.id, self.story.final_number).parse().ok()
            }
            Phase::RolledBack => timeout(TIDY_WITHIN, self.newest_common()).await.unwrap_or_else(|_| {
                tracing::debug!("snapshots stay: a host does not answer");
                None
            }),
            _ => None,
        };
        if let Some(keep) = keep {
            let within = TIDY_WITHIN + EACH_WITHIN * u32::try_from(kept.terms.unit.len()).unwrap_or(u32::MAX);
            if timeout(within, self.talk.tidy(&kept.terms, &self.story.legs, &keep, true)).await.is_err() {
                tracing::info!(
                    "snapshots of passes stay: a host took longer than {} s to destroy them",
                    within.as_secs()
                );
            }
        }
        self.leave_quietly().await;
    }

    /// Ends the sessions.
    pub(super) async fn leave_quietly(&self) {
        self.worker.leave().await;
        self.talk.bye().await;
    }

    /// The newest snapshot of this cutover that every dataset has on both sides. Where none is seen, none is taken for superfluous.
    async fn newest_common(&self) -> Option<SnapshotTag> {
        let terms = &self.it.progress().terms;
        let passes = self.story.passes.iter().rev().take(PASSES).map(|pass| pass_tag(self.story.begun.id, pass.number));
        let last = self.story.last_final;
        let finals = |of_this: bool| last.filter(|(leg, _)| (*leg == terms.leg.id) == of_this);
        let tag = |(leg, number)| final_tag(leg, number);
        // That of another leg is older than any pass of this one.
        for tag in finals(true).map(tag).into_iter().chain(passes).chain(finals(false).map(tag)) {
            let tag: SnapshotTag = tag.parse().ok()?;
            match self.is_common(&tag).await {
                Ok(true) => return Some(tag),
                Ok(false) => {}
                Err(failure) => {
                    tracing::debug!("snapshots stay: {failure}");
                    return None;
                }
            }
        }
        None
    }

    async fn is_common(&self, tag: &SnapshotTag) -> Result<bool, Failure> {
        let terms = &self.it.progress().terms;
        let source = self.talk.look(terms, Side::Source, tag).await?;
        let target = self.talk.look(terms, Side::Target, tag).await?;
        let (of_source, of_target) = source.beside(&target);
        Ok(!of_source.is_empty() && of_source == of_target)
    }
}
