//! One side of a comparison: what is in a snapshot here, and what was written since.
//!
//! Invariant: a snapshot is looked at only if it has the GUID that was asked about, and what was opened to do so is shut again,
//! also when the session ends on the way.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::Instrument;

use super::engine::{EngineSession, refused};
use crate::{
    content::{ContentError, Entries},
    limits::MAX_VIEWS,
    port::zfs::Since,
    types::{Failure, FailureClass, content::ContentCounts, listing::DatasetKind},
    wire::{
        message::Reply,
        verify::{VerifyAnswer, VerifyAsk, VerifyWhat},
    },
};

/// How often it is looked whether the session is ending.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Is told how far a look has come.
pub type Told = Arc<dyn Fn(ContentCounts) + Send + Sync>;

/// Tells the thread that reads to stop, when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl EngineSession {
    /// Answers a question about one snapshot of this side.
    ///
    /// # Errors
    /// When the snapshot is another one or gone, cannot be looked into, or the session ends.
    pub async fn verify(&self, ask: &VerifyAsk, told: Option<Told>) -> Result<Reply, Failure> {
        let answer = match &ask.what {
            VerifyWhat::Changed => VerifyAnswer::Changed(self.must_be(ask).await?.written),
            VerifyWhat::Digest(kind) => {
                let digest = |entries: Entries<'_>| entries.digest().map(VerifyAnswer::Digest);
                self.content(ask, *kind, None, told, digest).await?
            }
            VerifyWhat::Page { kind, after } => {
                let page = |mut entries: Entries<'_>| entries.page().map(VerifyAnswer::Page);
                self.content(ask, *kind, after.clone(), told, page).await?
            }
        };
        Ok(Reply::Verified(Box::new(answer)))
    }

    /// Waits, for a while, until everything that was opened to be looked into is shut.
    pub async fn views_are_shut(&self, within: Duration) {
        let _ = timeout(within, self.engine.looks.acquire_many(MAX_VIEWS as u32)).await;
    }

    async fn must_be(&self, ask: &VerifyAsk) -> Result<Since, Failure> {
        let found = self.while_it_lasts(self.zfs().since(std::slice::from_ref(&ask.snapshot))).await?;
        match found.first().copied().flatten() {
            Some(since) if since.guid == ask.guid => Ok(since),
            Some(_) => Err(refused(format!("{} is another snapshot by now; run it again", ask.snapshot))),
            None => Err(refused(format!("{} is gone by now; run it again", ask.snapshot))),
        }
    }

    async fn content(
        &self,
        ask: &VerifyAsk,
        kind: DatasetKind,
        after: Option<Vec<u8>>,
        told: Option<Told>,
        look: impl FnOnce(Entries<'_>) -> Result<VerifyAnswer, ContentError> + Send + 'static,
    ) -> Result<VerifyAnswer, Failure> {
        let Some(views) = self.engine.views.clone() else {
            return Err(refused("this side cannot look into snapshots"));
        };
        // The semaphore is never closed.
        let turn = Arc::clone(&self.engine.looks).acquire_owned().await.ok();
        self.must_go_on()?;
        let view = views.open(&ask.snapshot, kind).await?;
        let stop = StopOnDrop(Arc::default());
        let (path, stopped, snapshot) = (view.path().to_owned(), Arc::clone(&stop.0), ask.snapshot.clone());
        // After it was opened: what lies open cannot become another one.
        let is_it = self.must_be(ask).await;
        // A task of its own, so that the view is shut also when nobody waits for the answer any more.
        let task = async move {
            let looked = match is_it {
                Ok(_) => spawn_blocking(move || {
                    let progress = move |counts| {
                        told.iter().for_each(|told| told(counts));
                        if stopped.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    };
                    Entries::open(&path, kind, after.as_deref(), Box::new(progress)).and_then(look)
                })
                .await
                .map_err(|e| Failure::new(FailureClass::Internal, format!("a look into {snapshot}: {e}")))
                .and_then(|looked| looked.map_err(|e| failed(&snapshot.to_string(), &e))),
                Err(failure) => Err(failure),
            };
            if let Err(e) = view.close().await {
                tracing::warn!("{e}; the next look tries again");
            }
            drop(turn);
            looked
        };
        let task = tokio::spawn(task.in_current_span());
        tokio::pin!(task);
        loop {
            tokio::select! {
                biased;
                looked = &mut task => {
                    return looked.unwrap_or_else(|e| Err(Failure::new(FailureClass::Internal, e)));
                }
                () = sleep(LOOK_EVERY) => if self.must_go_on().is_err() {
                    stop.0.store(true, Ordering::SeqCst);
                },
            }
        }
    }
}

fn failed(snapshot: &str, e: &ContentError) -> Failure {
    match e {
        ContentError::Stopped => Failure::new(FailureClass::Interrupted, "the session is ending").consequence(),
        e => Failure::new(FailureClass::Zfs, format!("cannot read all of {snapshot}: {e}"))
            .hint("look at `zpool status` on that host"),
    }
}
