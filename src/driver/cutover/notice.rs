//! What whoever watches a cutover is told while it runs.

use super::PassReport;
use crate::cutover::leg::Millis;

/// See the module.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A phase begins, for a reason that is not the usual one where there is one.
    Phase {
        /// Its name.
        name: &'static str,
        /// Why.
        why: Option<String>,
    },
    /// A pass has ended.
    Passed(PassReport),
    /// All is ready, and it waits for go.
    Ready {
        /// The outage that is predicted.
        downtime: Option<Millis>,
    },
    /// Something that passes by itself.
    Trouble(String),
    /// A person is asked.
    Needs(String),
    /// How far what is under way has come.
    Doing(String),
    /// What a hook said.
    Hook(String),
}
