//! A host's ledger: its lines, and what they tell.
//!
//! Invariant: a line that does not read stops everything, with its number; nothing is made of what is left.

use serde::{Deserialize, Serialize};

use super::unit::Unit;
use crate::{
    cutover::{
        call::Setup,
        host::{Host, Kept, Part},
        leg::{CutoverId, Epoch, Leg, Millis},
        record::HostRecord,
        source::Stage,
    },
    port::ledger::Ledgers,
    types::{DatasetName, Failure, FailureClass},
};

/// A line of a host's ledger.
#[derive(Serialize, Deserialize)]
pub(super) struct Line {
    /// When, and by which process: for people.
    pub at: String,
    pub pid: u32,
    #[serde(flatten)]
    pub entry: Entry,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub(super) enum Entry {
    /// The first line, and again where the unit has changed hands elsewhere meanwhile.
    Unit { datasets: Vec<DatasetName>, epoch: Epoch },
    /// How to take part in the leg that comes next.
    Setup { setup: Setup },
    /// A record of the machine.
    Record { of: HostRecord },
}

/// What stands beside a host's ledger, for people: nothing follows from it, and it says nothing of another leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// In which leg.
    leg: Option<Leg>,
    /// What failed last, and why; `None` once anything went well since.
    pub failed: Option<String>,
    /// What hooks said last.
    pub hooks: Vec<String>,
}

impl Said {
    /// What stands there for the leg that the host takes part in.
    pub(super) fn of(noted: Option<&str>, host: &Host) -> Said {
        let said: Option<Said> = noted.and_then(|text| serde_json::from_str(text).ok());
        let leg = host.kept().part.leg();
        said.filter(|said| said.leg == leg).unwrap_or_else(|| Said { leg, ..Said::default() })
    }

    /// After an action in `leg`: why it failed, if it did, and what hooks have said that nobody was told yet.
    pub(super) fn hear(&mut self, leg: Leg, failed: Option<String>, hooks: Vec<String>) {
        if self.leg != Some(leg) {
            *self = Said { leg: Some(leg), ..Said::default() };
        }
        self.failed = failed;
        if !hooks.is_empty() {
            self.hooks = hooks;
        }
    }
}

/// What a ledger tells.
#[derive(Debug)]
pub struct ReadBack {
    /// Whose it is.
    pub unit: Unit,
    /// How it takes part in its newest leg.
    pub setup: Setup,
    /// The machine.
    pub host: Host,
    /// When the newest line was written, by the wall clock of then, in milliseconds since 1970.
    pub at_ms: u64,
    /// What was left beside the ledger.
    pub said: Said,
}

impl ReadBack {
    /// The host, at the wall clock's `now_ms`. Where that was set back meanwhile, the time until which a source waits for its fence
    /// may never come; it counts as past.
    pub fn host_at(self, now_ms: u64) -> Host {
        let mut kept = self.host.kept().clone();
        if let Part::Source(_, Stage::Quiescing { until }) = &mut kept.part
            && now_ms < self.at_ms
        {
            *until = Millis(0);
        }
        Host::from_kept(kept)
    }
}

/// Reads a ledger's lines; `None` if there are none.
///
/// # Errors
/// A line that does not read, with its number.
pub(super) fn read(lines: &[String], place: &str) -> Result<Option<ReadBack>, Failure> {
    let mut unit = None;
    let mut setup = Setup::default();
    let mut kept = Kept::default();
    let mut at_ms = 0;
    for (i, line) in lines.iter().enumerate() {
        let bad = |why: String| {
            let text = format!("{place}: line {} cannot be read: {why}; nothing was changed", i + 1);
            Failure::new(FailureClass::Usage, text)
                .hint("restore the file from a backup; it tells which side of the unit may be written to")
        };
        let line: Line = serde_json::from_str(line).map_err(|e| bad(e.to_string()))?;
        at_ms = line.at.parse::<jiff::Timestamp>().map_or(0, |at| at.as_millisecond().try_into().unwrap_or(0));
        match line.entry {
            Entry::Unit { datasets, epoch } => {
                unit = Some(Unit::new(&datasets).map_err(|e| bad(e.to_string()))?);
                kept.epoch = kept.epoch.max(epoch);
            }
            Entry::Setup { setup: new } => setup = new,
            Entry::Record { of } => kept.apply(&of),
        }
        if unit.is_none() {
            return Err(bad("it does not begin with the unit".to_owned()));
        }
    }
    let said = Said::default();
    Ok(unit.map(|unit| ReadBack { unit, setup, host: Host::from_kept(kept), at_ms, said }))
}

/// What the ledgers of all units of this host tell, each for itself: one that cannot be read says nothing of the others.
///
/// # Errors
/// When the directory of ledgers cannot be read.
pub fn units(ledgers: &dyn Ledgers) -> Result<Vec<Result<ReadBack, Failure>>, Failure> {
    let names = ledgers.names("host-").map_err(|e| Failure::new(FailureClass::Usage, e))?;
    Ok(names.into_iter().filter_map(|name| read_of(ledgers, &name).transpose()).collect())
}

/// What the ledger of that name tells; `None` if there are no lines in it.
pub(super) fn read_of(ledgers: &dyn Ledgers, name: &str) -> Result<Option<ReadBack>, Failure> {
    let lines = ledgers.read(name).map_err(|e| Failure::new(FailureClass::Usage, e))?;
    let told = read(&lines, &ledgers.place(name))?;
    Ok(told.map(|told| ReadBack { said: Said::of(ledgers.noted(name).as_deref(), &told.host), ..told }))
}

/// The unit of a ledger whose first line reads, whatever is wrong with the others.
pub(super) fn unit_of(ledgers: &dyn Ledgers, name: &str) -> Option<Unit> {
    let lines = ledgers.read(name).ok()?;
    match serde_json::from_str::<Line>(lines.first()?).ok()?.entry {
        Entry::Unit { datasets, .. } => Unit::new(&datasets).ok(),
        Entry::Setup { .. } | Entry::Record { .. } => None,
    }
}

/// All legs that the unit of that ledger took part in, and whether each has moved it.
pub(super) fn legs_of(ledgers: &dyn Ledgers, name: &str) -> Vec<(CutoverId, bool)> {
    legs(&ledgers.read(name).unwrap_or_default())
}

fn legs(lines: &[String]) -> Vec<(CutoverId, bool)> {
    let mut legs: Vec<(CutoverId, bool)> = Vec::new();
    for entry in lines.iter().filter_map(|line| serde_json::from_str::<Line>(line).ok()).map(|line| line.entry) {
        match (entry, legs.last_mut()) {
            (Entry::Record { of: HostRecord::Admitted { leg, .. } }, _) => legs.push((leg.id, false)),
            (Entry::Record { of: HostRecord::Promoted { .. } | HostRecord::Released }, Some((_, moved))) => {
                *moved = true;
            }
            _ => {}
        }
    }
    legs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_in_another_leg_is_no_news() {
        let leg = |id| Leg { id: CutoverId(id), epoch: Epoch(1) };
        let admitted = HostRecord::Admitted {
            leg: leg(1),
            side: crate::cutover::leg::Side::Source,
            datasets: ["p/d".parse().unwrap()].into(),
            verify: crate::cutover::proof::Means::Guid,
        };
        let host = Host::read_back(&[admitted]);
        let mut said = Said::default();
        said.hear(leg(1), Some("no".into()), vec!["one".into()]);
        said.hear(leg(1), None, Vec::new());
        assert_eq!((said.failed.as_deref(), said.hooks.len()), (None, 1), "what hooks said stays");
        let noted = serde_json::to_string(&said).unwrap();
        assert_eq!(Said::of(Some(&noted), &host), said);
        said.hear(leg(2), Some("no".into()), Vec::new());
        assert!(said.hooks.is_empty());
        let noted = serde_json::to_string(&said).unwrap();
        for noted in [Some(noted.as_str()), Some("torn"), Some("{}"), None] {
            assert_eq!(Said::of(noted, &host).failed, None, "{noted:?}");
        }
    }

    #[test]
    fn a_leg_has_moved_its_unit_where_it_promoted_or_released_it() {
        let side = crate::cutover::leg::Side::Source;
        let admitted = |id| HostRecord::Admitted {
            leg: Leg { id: CutoverId(id), epoch: Epoch(1) },
            side,
            datasets: ["p/d".parse().unwrap()].into(),
            verify: crate::cutover::proof::Means::Guid,
        };
        let records = [admitted(1), HostRecord::Released, admitted(2), HostRecord::Serving, admitted(3)];
        let line = |of| Line { at: String::new(), pid: 1, entry: Entry::Record { of } };
        let mut lines: Vec<String> = records.into_iter().map(|of| serde_json::to_string(&line(of)).unwrap()).collect();
        lines.push("torn".to_owned());
        let told = legs(&lines);
        assert_eq!(told, [(CutoverId(1), true), (CutoverId(2), false), (CutoverId(3), false)]);
    }

    #[test]
    fn a_time_that_may_never_come_counts_as_past() {
        let lines = [
            r#"{"at":"2026-01-01T12:00:00Z","pid":1,"entry":"unit","datasets":["p/d"],"epoch":0}"#,
            r#"{"at":"2026-01-01T12:00:00Z","pid":1,"entry":"record","of":{"record":"admitted","leg":{"id":"00000001","epoch":1},"side":"source","datasets":["p/d"],"verify":"guid"}}"#,
            r#"{"at":"2026-01-01T12:00:00Z","pid":1,"entry":"record","of":{"record":"quiescing","until":1767268805000}}"#,
        ];
        let until = |now_ms| {
            let told = read(&lines.map(str::to_owned), "x").unwrap().unwrap();
            match told.host_at(now_ms).kept().part {
                Part::Source(_, Stage::Quiescing { until }) => until.0,
                _ => panic!("another stage"),
            }
        };
        assert_eq!(until(1_767_268_800_000), 1_767_268_805_000);
        assert_eq!(until(1_767_268_799_999), 0, "the clock was set back meanwhile");
    }
}
