//! Passes home for `--reverse`, once a cutover is done.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Lead, Said};
use crate::{
    cutover::{coordinator::Phase, effect::Result as Worked, leg::Side},
    types::{Failure, FailureClass},
};

impl Lead {
    /// One pass from where it serves now to where it was, so that the way home stays short; for a cutover that is done. A
    /// person's command ends it, and is carried out.
    ///
    /// # Errors
    /// Why the pass failed, or that the ledger cannot be written.
    pub async fn pass_home(&mut self, commands: &mut mpsc::Receiver<Said>) -> Result<(), Failure> {
        let kept = self.it.progress();
        if kept.phase != Phase::Done {
            return Ok(());
        }
        let terms = kept.terms.way_back(kept.terms.return_id, kept.terms.leg.epoch.next(), false);
        // Somebody else may have moved it on, and it may be fenced there: a snapshot of this cutover would keep it from coming home.
        let there = self.talk.state(&terms, Side::Source).await?;
        if (there.leg, there.stage.as_str()) != (Some(kept.terms.leg), "active") {
            tracing::debug!(stage = there.stage, "no pass home: it does not serve by this cutover any more");
            self.leave_quietly().await;
            return Ok(());
        }
        let number = self.next_pass()?;
        let (stop, worker) = (CancellationToken::new(), Arc::clone(&self.worker));
        let token = stop.clone();
        let mut pass = tokio::spawn(async move { worker.pass(&terms, number, false, &token).await });
        let daemon = self.context.stop.clone();
        let said = tokio::select! {
            biased;
            said = commands.recv() => said,
            () = daemon.cancelled() => None,
            ended = &mut pass => {
                self.leave().await;
                return match ended {
                    Ok(Worked::Failed(why)) => Err(Failure::new(FailureClass::Zfs, why)),
                    _ => Ok(()),
                };
            }
        };
        stop.cancel();
        let _ = pass.await;
        let Some((command, tell)) = said else { return Ok(()) };
        let told = self.say(command)?;
        let _ = tell.send(told);
        self.run(commands).await.map(drop)
    }
}
