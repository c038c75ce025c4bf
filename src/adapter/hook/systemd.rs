//! Units of systemd: asked to stop or start by `systemctl`, and believed when `is-active` says so.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Outcome, Trouble, Work};
use crate::{
    hook::{UnitName, UnitState},
    port::hook::HookErrorKind,
};

/// Between two questions to systemd: one of its processes, some milliseconds of work.
const ASK_EVERY: Duration = Duration::from_millis(200);

impl Work<'_> {
    /// Whether systemd knows the unit; one that is masked or broken cannot be started.
    pub(super) async fn unit_is_loaded(&self, unit: &UnitName) -> Outcome {
        let said = self.systemctl(&["show", "--property=LoadState", "--value"], unit).await?.successful()?;
        match said.first().map_or("", |line| line.trim()) {
            "loaded" => Ok(said),
            state => Err(Trouble::missing(format!("systemd says that unit {unit} is {state:?}, not loaded"))),
        }
    }

    pub(super) async fn stop_unit(&self, unit: &UnitName) -> Outcome {
        let said = self.systemctl(&["stop"], unit).await?.successful()?;
        self.wait_for(unit, UnitState::Stopped, "systemctl stop").await.map(|()| said)
    }

    pub(super) async fn start_unit(&self, unit: &UnitName) -> Outcome {
        let said = self.systemctl(&["start"], unit).await?.successful()?;
        self.wait_for(unit, UnitState::Active, "systemctl start").await.map(|()| said)
    }

    pub(super) async fn unit_is_active(&self, unit: &UnitName) -> Outcome {
        self.wait_for(unit, UnitState::Active, "its start").await.map(|()| Vec::new())
    }

    async fn wait_for(&self, unit: &UnitName, wanted: UnitState, after: &str) -> Result<(), Trouble> {
        let mut seen = None;
        loop {
            // It prints the state, whatever it is, and ends with 0 for active alone.
            let printed = match self.systemctl(&["is-active"], unit).await {
                // The limit came in the middle of a question: what the one before was told is why we still asked.
                Err(late) if late.kind == HookErrorKind::TimedOut => {
                    return Err(seen.map_or(late, |seen| {
                        Trouble::timed_out(format!("{seen}; systemd gave no further answer in time"))
                    }));
                }
                said => said?.lines.join("\n"),
            };
            let state = UnitState::parse(&printed);
            if state == wanted {
                return Ok(());
            }
            let cause = format!("unit {unit} is {printed:?} after {after}; see journalctl -u {unit}");
            match state {
                // A unit that ended again, and one that is not there.
                UnitState::Stopped | UnitState::Unknown => return Err(Trouble::failed(cause)),
                // Something may have started it again: it gets until the limit to be stopped.
                UnitState::Active | UnitState::Changing if Instant::now() + ASK_EVERY >= self.until => {
                    return Err(Trouble::timed_out(cause));
                }
                UnitState::Active | UnitState::Changing => {
                    seen = Some(cause);
                    sleep(ASK_EVERY).await;
                }
            }
        }
    }

    async fn systemctl(&self, verb: &[&str], unit: &UnitName) -> Result<super::Ended, Trouble> {
        let options = ["--no-ask-password", "--no-pager"];
        let words = options.iter().chain(verb).map(|w| (*w).to_owned()).chain([unit.to_string()]);
        self.run(&self.tools.systemctl, &words.collect::<Vec<_>>()).await
    }
}
