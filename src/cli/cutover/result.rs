//! What a cutover came to, as a command's result: for programs, and for people.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    cli::output::note,
    cutover::{
        coordinator::{Coordinator, Phase},
        effect::Command,
        leg::{CutoverId, Millis, Node, Side},
        terms::Terms,
    },
    driver::cutover::{Begun, End, PassReport, Story, returned},
    types::{DatasetName, FailureClass, human_bytes},
};

/// The exit code of a cutover that did not stay at its target.
pub const ROLLED_BACK: u8 = 8;
/// The exit code of a cutover that waits for a person.
pub const NEEDS_PERSON: u8 = 9;

/// What a cutover came to.
#[derive(Serialize)]
pub struct Object {
    id: CutoverId,
    result: &'static str,
    pub exit_code: u8,
    phase: &'static str,
    source: String,
    target: String,
    downtime_ms: Option<u64>,
    stopping_ms: Option<u64>,
    predicted_downtime_ms: Option<u64>,
    passes: usize,
    pass_reports: Vec<PassReport>,
    bytes: u64,
    /// Why it did not go the usual way.
    why: Option<String>,
    /// What only a person can answer.
    needs: Option<String>,
    /// For the text: the target serves, whatever the result.
    #[serde(skip)]
    at_target: bool,
}

/// The dataset at a side, with the peer's name before it if it is there.
pub fn place(begun: &Begun, terms: &Terms, side: Side) -> String {
    let names = terms.roots(side).iter().map(DatasetName::as_str).collect::<Vec<_>>().join(", ");
    match terms.at(side) {
        Node::Here => names,
        Node::Peer => format!("{}{}{names}", begun.peer, if begun.peer.starts_with("zm://") { '/' } else { ':' }),
    }
}

/// What `command`, or `start` if it is none, came to.
pub fn object(story: &Story, it: &Coordinator, end: Option<End>, command: Option<Command>) -> Object {
    let kept = it.progress();
    let status = story.status(it);
    // It is done, but home: who started it, or said go, wanted it to be at the target.
    let left = kept.phase == Phase::Done && returned(&kept.terms) && !matches!(command, Some(Command::Back { .. }));
    let (mut from, mut to) = (Side::Source, Side::Target);
    if left {
        std::mem::swap(&mut from, &mut to);
    }
    let (result, exit_code) = match (&kept.phase, end) {
        (Phase::Done, _) if left => ("rolled_back", ROLLED_BACK),
        (Phase::Done, _) => ("done", 0),
        (Phase::Completed, _) => ("completed", 0),
        (Phase::RolledBack, _) => ("rolled_back", ROLLED_BACK),
        (Phase::Broken, _) => ("broken", 0),
        (_, Some(End::Stopped)) => ("stopped", FailureClass::Interrupted.exit_code()),
        (_, Some(_)) => ("needs_operator", NEEDS_PERSON),
        (_, None) => ("under_way", 0),
    };
    Object {
        id: story.begun.id,
        result,
        exit_code,
        phase: if left { Phase::RolledBack.name() } else { kept.phase.name() },
        source: place(&story.begun, &kept.terms, from),
        target: place(&story.begun, &kept.terms, to),
        downtime_ms: story.downtime().map(|d| d.0),
        stopping_ms: story.downtime().and(story.stopping()).map(|d| d.0),
        predicted_downtime_ms: story.predicted.map(|d| d.0),
        passes: story.passes.len() + story.others.0,
        bytes: story.passes.iter().map(|p| p.bytes).sum::<u64>() + story.others.1,
        pass_reports: story.passes.clone(),
        why: kept.why.clone().or_else(|| story.left_because.clone().filter(|_| returned(&kept.terms))),
        needs: status.needs,
        at_target: kept.phase == Phase::Discard,
    }
}

/// An abort has done what it was to do where the source serves, and not where it reached the target too late.
pub fn measure_by(object: &mut Object, command: Option<Command>) {
    if command != Some(Command::Abort) {
        return;
    }
    match object.result {
        "rolled_back" => object.exit_code = 0,
        "done" => {
            object.exit_code = FailureClass::Refused.exit_code();
            note(format_args!("cutover {}: the target had been promoted before the abort reached it", object.id));
        }
        _ => {}
    }
}

pub fn text(object: &Object) -> String {
    let mut text = String::new();
    let (id, source, target) = (object.id, &object.source, &object.target);
    let line = match object.result {
        "done" => format!("cutover {id}: done. {target} serves; {source} is read-only"),
        "completed" => format!("cutover {id}: completed. {target} serves; {source} is destroyed"),
        "rolled_back" => format!("cutover {id}: rolled back. {source} serves; {target} does not"),
        "broken" => format!("cutover {id}: broken. {source} serves; {target} was given up"),
        "stopped" => {
            let serves = if object.at_target { target } else { source };
            format!("cutover {id}: the command was stopped ({}); {serves} serves", object.phase)
        }
        "under_way" => format!("cutover {id}: {}", object.phase),
        _ => format!("cutover {id}: {}, waits for you", object.phase),
    };
    // Writing into a String does not fail.
    let _ = writeln!(text, "{line}");
    if let Some(down) = object.downtime_ms {
        let _ = writeln!(text, "  {}", downtime(down, object.stopping_ms, object.predicted_downtime_ms));
    }
    if object.passes > 0 {
        let s = if object.passes == 1 { "" } else { "es" };
        let _ = writeln!(text, "  {} pass{s}, {}", object.passes, human_bytes(object.bytes));
    }
    if let Some(why) = object.why.as_ref().filter(|_| object.result != "done") {
        let _ = writeln!(text, "  because {why}");
    }
    if let Some(needs) = &object.needs {
        let _ = writeln!(text, "  {needs}");
    }
    let next = match object.result {
        "done" => format!(
            "  `zmigrate cutover back {id}` moves home again; `zmigrate cutover complete {id}` destroys what was left there"
        ),
        "stopped" => {
            format!("  `zmigrate cutover resume {id}` goes on, `zmigrate cutover abort {id}` ends it")
        }
        _ => String::new(),
    };
    let _ = write!(text, "{next}");
    text
}

/// What the outage took. What stops the writers is named where it is a part that shows: no pass can foresee it.
fn downtime(down: u64, stopping: Option<u64>, predicted: Option<u64>) -> String {
    let in_words = |ms| seconds(Millis(ms));
    let whole = format!("downtime {}", in_words(down));
    match (stopping.filter(|ms| ms * 10 > down), predicted) {
        (Some(stopping), Some(predicted)) => format!(
            "{whole}, {} of it until its programs had stopped; {} were predicted for the rest",
            in_words(stopping),
            in_words(predicted)
        ),
        (Some(stopping), None) => format!("{whole}, {} of it until its programs had stopped", in_words(stopping)),
        (None, Some(predicted)) => format!("{whole} ({} were predicted)", in_words(predicted)),
        (None, None) => whole,
    }
}

/// Two digits after the point: tenths of a second matter here.
pub fn seconds(ms: Millis) -> String {
    if ms.0 < 10_000 { format!("{:.2} s", ms.0 as f64 / 1000.0) } else { ms.to_string() }
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(in crate::cli) fn sample(pass: PassReport) -> serde_json::Value {
    let object = Object {
        id: CutoverId(1),
        result: "done",
        exit_code: 0,
        phase: "done",
        source: "a".into(),
        target: "b:a".into(),
        downtime_ms: Some(1),
        stopping_ms: Some(1),
        predicted_downtime_ms: Some(1),
        passes: 1,
        pass_reports: vec![pass],
        bytes: 1,
        why: Some("w".into()),
        needs: Some("n".into()),
        at_target: false,
    };
    serde_json::to_value(object).unwrap()
}

/// What README.md shows of a cutover's end, as it is printed: done, rolled back by its limit, aborted, back home.
#[cfg(test)]
pub(in crate::cli) fn readme_samples() -> [String; 4] {
    const BYTES: u64 = (1 << 30) + (215 << 20);
    let (here, there) = ("tank/db", "west:tank/from-east/db");
    let object = |result, (source, target): (&str, &str), down, stopping, predicted| Object {
        id: CutoverId(0x0d3a_91c2),
        result,
        exit_code: 0,
        phase: "done",
        source: source.into(),
        target: target.into(),
        downtime_ms: down,
        stopping_ms: stopping,
        predicted_downtime_ms: predicted,
        passes: 3,
        pass_reports: Vec::new(),
        bytes: BYTES,
        why: None,
        needs: None,
        at_target: false,
    };
    let done = object("done", (here, there), Some(840), Some(70), Some(790));
    let mut late = object("rolled_back", (here, there), Some(5310), Some(4620), Some(790));
    late.why = Some(format!("the outage took longer than {}", Millis(5000)));
    let mut aborted = object("rolled_back", (here, there), None, None, None);
    aborted.why = Some("the operator aborted it".into());
    let home = object("done", (there, here), Some(910), Some(70), Some(880));
    let home = Object { passes: 1, bytes: (3 << 20) + (60 << 10), ..home };
    [done, late, aborted, home].map(|object| text(&object))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cutover::{
            leg::{Epoch, Leg},
            phase::Phase,
            proof::Means,
            record::Record,
            terms::{NotConverging, OnActivateFailure, Pair},
        },
        driver::cutover::{Entry, Line, read},
        types::transfer::Streams,
        wire::message::Compression,
    };

    fn terms() -> Terms {
        Terms {
            leg: Leg { id: CutoverId(0x4f2a), epoch: Epoch(1) },
            return_id: CutoverId(2),
            unit: Arc::from([Pair { source: "tank/db".parse().unwrap(), target: "pool/db".parse().unwrap() }]),
            source_at: Node::Here,
            hold: false,
            on_activate_failure: OnActivateFailure::Return,
            not_converging: NotConverging::Wait,
            max_downtime: Millis(5000),
            outage_limit: Millis(5000),
            tries: 1,
            verify: Means::Digest,
            homeward: false,
            returns_from: None,
        }
    }

    #[test]
    fn an_outage_says_what_nobody_could_predict() {
        assert_eq!(downtime(230, Some(2), Some(210)), "downtime 0.23 s (0.21 s were predicted)");
        assert_eq!(
            downtime(1360, Some(1130), Some(210)),
            "downtime 1.36 s, 1.13 s of it until its programs had stopped; 0.21 s were predicted for the rest"
        );
        assert_eq!(downtime(1360, Some(1130), None), "downtime 1.36 s, 1.13 s of it until its programs had stopped");
        assert_eq!(downtime(1360, None, None), "downtime 1.36 s");
    }

    #[test]
    fn what_came_home_by_itself_is_rolled_back() {
        let begun = Begun {
            id: CutoverId(0x4f2a),
            peer: "west".into(),
            hooks_here: Vec::new(),
            hooks_there: Vec::new(),
            kill_busy: false,
            reverse: false,
            jobs: 1,
            compression: Compression::None,
            bwlimit_bytes_per_s: None,
            streams: Streams::Fixed(1).into(),
        };
        let moved = |phase, at, why: Option<&str>| {
            (at, Entry::Record { of: Record::Moved { phase, at: Millis(at), why: why.map(str::to_owned) } })
        };
        let back = terms().way_back(CutoverId(2), Epoch(2), true);
        let (terms, back) = (Arc::new(terms()), Arc::new(back));
        let entries = [
            (0, Entry::Begun { begun }),
            (0, Entry::Record { of: Record::Begun { terms, phase: Phase::Seed } }),
            moved(Phase::Quiesce, 1000, None),
            moved(Phase::Fence, 1500, None),
            moved(Phase::Release { back: Some(CutoverId(2)) }, 3000, Some("no health")),
            (3000, Entry::Record { of: Record::Begun { terms: back, phase: Phase::Arm { side: Side::Source } } }),
            moved(Phase::Quiesce, 4000, None),
            moved(Phase::Release { back: None }, 9000, None),
            moved(Phase::Done, 9000, None),
        ];
        let line = |(at, entry)| serde_json::to_string(&Line::new(entry, Millis(at))).unwrap();
        let (story, it) = read(&entries.map(line), "x").unwrap();
        for command in [None, Some(Command::Go), Some(Command::Resume)] {
            let object = object(&story, &it, Some(End::Over), command);
            assert_eq!((object.result, object.exit_code, object.phase), ("rolled_back", 8, "rolled back"));
            assert_eq!((object.source.as_str(), object.target.as_str()), ("tank/db", "west:pool/db"));
            assert_eq!((object.why.as_deref(), object.downtime_ms), (Some("no health"), Some(8000)));
            assert_eq!(object.stopping_ms, Some(500));
        }
        let object = object(&story, &it, Some(End::Over), Some(Command::Back { id: CutoverId(2) }));
        assert_eq!((object.result, object.exit_code), ("done", 0), "who wants it home has it there");
    }
}
