//! What of this host's cutovers wants a person: for monitoring, which reads ledgers and asks nobody.

use std::fmt;

use serde::Serialize;

use super::leads;
use crate::{cutover::status::status, port::ledger::Ledgers, types::Failure};

/// A cutover that goes no further by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Its id, or the name of a ledger that cannot be read.
    pub cutover: String,
    /// The question, or why it cannot be read.
    pub needs: String,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cutover {} waits for a person: {}", self.cutover, self.needs)
    }
}

/// The cutovers that were led from this host and are not over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Those that wait for a person.
    pub waiting: Vec<Waiting>,
    /// How many may have their source down, waiting or not.
    pub down: usize,
}

/// # Errors
/// When the directory of ledgers cannot be read.
pub fn standing(ledgers: &dyn Ledgers) -> Result<Standing, Failure> {
    let mut found = Standing::default();
    for (name, told) in leads(ledgers)? {
        let wants = match told {
            Ok((story, it)) => {
                found.down += usize::from(it.progress().may_be_down());
                let id = story.begun.id;
                let stopped = (story.stopped && !it.progress().phase.is_end())
                    .then(|| format!("it was stopped; `zmigrate cutover resume {id}` goes on, `abort {id}` ends it"));
                status(&it, id, None).needs.or(stopped).map(|needs| (id.to_string(), needs))
            }
            Err(failure) => Some((name, failure.to_string())),
        };
        found.waiting.extend(wants.map(|(cutover, needs)| Waiting { cutover, needs }));
    }
    Ok(found)
}
