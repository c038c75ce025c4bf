//! What of this host's cutovers wants a person: for monitoring, which reads ledgers and asks nobody.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::leads;
use crate::{
    cutover::{
        host::Part,
        source::Stage,
        status::{host_is_stuck, host_needs},
    },
    port::ledger::Ledgers,
    session::cutover::{ReadBack, units},
    types::Failure,
};

/// A host that is fenced, or is to serve and does not, for longer than this is no part of an outage that goes its way.
const FENCED_FOR_MS: u64 = 60_000;

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

/// The cutovers that were led from this host and are not over, and the parts in others' that nobody ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Those that wait for a person.
    pub waiting: Vec<Waiting>,
    /// How many may have their source down, waiting or not.
    pub down: usize,
}

/// What stands now.
///
/// # Errors
/// When the directory of ledgers cannot be read.
pub fn standing(ledgers: &dyn Ledgers, now: Timestamp) -> Result<Standing, Failure> {
    let mut found = Standing::default();
    let mut led = Vec::new();
    for (name, told) in leads(ledgers)? {
        let wants = match told {
            Ok((story, it)) => {
                found.down += usize::from(it.progress().may_be_down());
                led.extend_from_slice(&story.legs);
                let id = story.begun.id;
                let stopped = (story.stopped && !it.progress().phase.is_end())
                    .then(|| format!("it was stopped; `zmigrate cutover resume {id}` goes on, `abort {id}` ends it"));
                story.status(&it).needs.or(stopped).map(|needs| (id.to_string(), needs))
            }
            Err(failure) => Some((name, failure.to_string())),
        };
        found.waiting.extend(wants.map(|(cutover, needs)| Waiting { cutover, needs }));
    }
    // Whoever leads those tells of them above; of the others it may be another host, which is lost.
    for told in units(ledgers)? {
        match told {
            Ok(told) => {
                let part = &told.host.kept().part;
                let (Some(needs), Some(leg)) = (waits_here(&told, ledgers, now), part.leg()) else { continue };
                if led.contains(&leg.id) && !matches!(part, Part::UnknownFence(_)) {
                    continue;
                }
                found.down += 1;
                found.waiting.push(Waiting { cutover: leg.id.to_string(), needs });
            }
            Err(failure) => {
                found
                    .waiting
                    .push(Waiting { cutover: "of a unit of this host".to_owned(), needs: failure.to_string() });
            }
        }
    }
    Ok(found)
}

/// What a person is asked by a unit of this host that serves nobody, and has stood so for a while.
fn waits_here(told: &ReadBack, ledgers: &dyn Ledgers, now: Timestamp) -> Option<String> {
    let is_fenced = matches!(told.host.kept().part, Part::Source(_, Stage::Fencing | Stage::Fenced));
    host_needs(&told.host).filter(|_| !is_fenced || has_lasted(told, now)).or_else(|| stuck(told, ledgers, now))
}

/// What a unit of this host is to do by itself, and has not done for a while: it failed, or no process is at it.
pub fn stuck(told: &ReadBack, ledgers: &dyn Ledgers, now: Timestamp) -> Option<String> {
    let under_way = || told.said.failed.is_none() && ledgers.is_owned(&told.unit.ledger());
    host_is_stuck(&told.host, told.said.failed.as_deref()).filter(|_| has_lasted(told, now) && !under_way())
}

/// Whether the newest line is old. Of a clock that was set back it is not known for how long.
fn has_lasted(told: &ReadBack, now: Timestamp) -> bool {
    let now_ms = u64::try_from(now.as_millisecond()).unwrap_or_default();
    now_ms.checked_sub(told.at_ms).is_none_or(|age| age >= FENCED_FOR_MS)
}
