//! `zmigrate cutover status`.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    lead::passed,
    result::{place, seconds},
};
use crate::{
    cli::{
        args::Global,
        output::{Output, runtime},
    },
    cutover::{
        coordinator::{Coordinator, Phase},
        leg::{CutoverId, Epoch, Leg, Millis, Side},
        proof::{Means, Proof},
        status::host_needs,
    },
    driver::cutover::{PassReport, Story, leads, name_of, stuck},
    host,
    port::ledger::Ledgers,
    session::cutover::{ReadBack, units},
    types::{DatasetName, Failure, FailureClass, paragraph},
};

#[derive(Serialize)]
struct Object {
    cutovers: Vec<Cutover>,
    /// What this host is in the cutovers of units of its own.
    units: Vec<UnitObject>,
    /// Ledgers that cannot be read, and why.
    unreadable: Vec<String>,
}

#[derive(Serialize)]
struct Cutover {
    id: CutoverId,
    phase: &'static str,
    source: String,
    target: String,
    needs: Option<String>,
    waits_for: String,
    /// What each command, or none, would do now.
    go: String,
    abort: String,
    nothing: String,
    epoch: Epoch,
    over: bool,
    /// A process leads it.
    led: bool,
    why: Option<String>,
    predicted_downtime_ms: Option<u64>,
    downtime_ms: Option<u64>,
    passes: usize,
    pass_reports: Vec<PassReport>,
    /// How far the work under way has come.
    doing: Option<String>,
    /// What hooks and comparisons said last.
    said: Vec<String>,
    proof: Option<Proof>,
}

#[derive(Serialize)]
struct UnitObject {
    datasets: Vec<DatasetName>,
    side: Option<Side>,
    stage: &'static str,
    leg: Option<Leg>,
    epoch: Epoch,
    needs: Option<String>,
    /// What failed last of what it does by itself.
    failed: Option<String>,
    /// What its hooks said last.
    said: Vec<String>,
}

pub fn run(global: &Global, id: Option<CutoverId>, watch: bool, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let ledgers = host::ledgers(&config);
    if !watch {
        let object = look(&*ledgers, id)?;
        let code = object.exit_code();
        output.verdict(code, &object, text(&object, id.is_some()));
        return Ok(code);
    }
    if output.is_json() {
        return Err(Failure::new(FailureClass::Usage, "--watch draws for people")
            .hint("leave it out, and ask with --output json now and then"));
    }
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    runtime()?.block_on(async {
        loop {
            let object = look(&*ledgers, id)?;
            let shown = text(&object, true);
            // A screen is drawn over; a file or a pipe gets one after the other.
            let clear = if terminal { "\x1b[H\x1b[2J" } else { "" };
            output.must_say(&object, format!("{clear}{}", shown.trim_end()));
            let over = !object.cutovers.is_empty() && object.cutovers.iter().all(|c| c.over);
            if over {
                return Ok(object.exit_code());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

impl Object {
    fn exit_code(&self) -> u8 {
        if self.unreadable.is_empty() { 0 } else { FailureClass::Usage.exit_code() }
    }
}

fn look(ledgers: &dyn Ledgers, id: Option<CutoverId>) -> Result<Object, Failure> {
    let (mut cutovers, mut units_here) = (Vec::new(), Vec::new());
    let (mut unreadable, mut unread) = (Vec::new(), Vec::new());
    for (name, told) in leads(ledgers)? {
        let (story, it) = match (told, id) {
            (Ok(told), _) => told,
            (Err(failure), Some(id)) if name == name_of(id) => return Err(failure),
            // Another one's ledger is no matter to this one.
            (Err(_), Some(_)) => continue,
            (Err(failure), None) => {
                unreadable.push(failure.to_string());
                continue;
            }
        };
        if id.is_none_or(|id| id == story.begun.id || id == it.progress().terms.leg.id) {
            let led = ledgers.is_owned(&name);
            let lines = ledgers.read(&name).map_err(|e| Failure::new(FailureClass::Usage, e))?;
            cutovers.push(cutover(&story, &it, led, proof(&lines)));
        }
    }
    for told in units(ledgers)? {
        match told {
            Ok(told) => {
                let leg = told.host.kept().part.leg();
                if id.is_none_or(|id| leg.is_some_and(|leg| leg.id == id)) {
                    units_here.push(unit(&told, ledgers));
                }
            }
            Err(failure) => unread.push(failure.to_string()),
        }
    }
    let units = units_here;
    // Where nothing of the one that is asked for was found, it may be its own.
    if id.is_none() || units.is_empty() {
        unreadable.append(&mut unread);
    }
    if let Some(id) = id.filter(|_| cutovers.is_empty() && units.is_empty() && unreadable.is_empty()) {
        return Err(Failure::new(FailureClass::Usage, format!("this host knows no cutover {id}"))
            .hint("`zmigrate cutover status` lists those that it knows"));
    }
    Ok(Object { cutovers, units, unreadable })
}

fn unit(told: &ReadBack, ledgers: &dyn Ledgers) -> UnitObject {
    let part = &told.host.kept().part;
    let (side, stage, _) = part.summary();
    UnitObject {
        datasets: told.unit.roots().to_vec(),
        side,
        stage,
        leg: part.leg(),
        epoch: told.host.kept().epoch,
        needs: host_needs(&told.host).or_else(|| stuck(told, ledgers, Timestamp::now())),
        failed: told.said.failed.clone(),
        said: told.said.hooks.clone(),
    }
}

/// The proof on which the target was last asked to decide.
fn proof(lines: &[String]) -> Option<Proof> {
    use crate::{
        cutover::record::Record,
        driver::cutover::{Entry, Line},
    };
    lines.iter().rev().find_map(|line| match serde_json::from_str::<Line>(line).ok()?.entry {
        Entry::Record { of: Record::Moved { phase: Phase::Promote { proof }, .. } } => Some(proof),
        _ => None,
    })
}

fn cutover(story: &Story, it: &Coordinator, led: bool, proof: Option<Proof>) -> Cutover {
    let kept = it.progress();
    let status = story.status(it);
    Cutover {
        id: story.begun.id,
        phase: status.phase,
        source: place(&story.begun, &kept.terms, Side::Source),
        target: place(&story.begun, &kept.terms, Side::Target),
        needs: status.needs,
        waits_for: status.waits,
        go: status.go,
        abort: status.abort,
        nothing: status.nothing,
        epoch: kept.terms.leg.epoch,
        over: kept.phase.is_end(),
        led,
        why: kept.why.clone(),
        predicted_downtime_ms: story.predicted.or_else(|| story.prediction()).map(|d| d.0),
        downtime_ms: story.downtime().map(|d| d.0),
        passes: story.passes.len(),
        pass_reports: story.passes.clone(),
        doing: story.doing.clone().filter(|_| led && !kept.phase.is_end()),
        said: story.said.iter().cloned().collect(),
        proof,
    }
}

fn text(object: &Object, whole: bool) -> String {
    let mut text = String::new();
    if object.cutovers.is_empty() && object.units.is_empty() && object.unreadable.is_empty() {
        return "no cutovers".to_owned();
    }
    for why in &object.unreadable {
        labelled(&mut text, "UNREADABLE", why);
    }
    for cutover in &object.cutovers {
        write_cutover(&mut text, cutover, whole);
    }
    for unit in &object.units {
        let names: Vec<&str> = unit.datasets.iter().map(|d| d.as_str()).collect();
        let side = match unit.side {
            Some(Side::Source) => "source",
            Some(Side::Target) => "target",
            None => "no part",
        };
        let leg = unit.leg.map_or("-".to_owned(), |leg| leg.to_string());
        text += &format!("here: {}: {side} of {leg}: {}\n", names.join(", "), unit.stage);
        if let Some(needs) = &unit.needs {
            labelled(&mut text, "NEEDS", needs);
        }
        if let Some(failed) = unit.failed.as_ref().filter(|_| unit.needs.is_none()) {
            labelled(&mut text, "failed", failed);
        }
        if whole {
            unit.said.iter().for_each(|line| labelled(&mut text, "hook", line));
        }
    }
    text
}

/// A label, and what goes with it.
fn labelled(to: &mut String, label: &str, words: &str) {
    paragraph(to, &format!("  {label:<10} "), 13, words);
}

fn write_cutover(to: &mut String, cutover: &Cutover, whole: bool) {
    *to += &format!("cutover {}: {}   {} → {}\n", cutover.id, cutover.phase, cutover.source, cutover.target);
    if let Some(why) = &cutover.why {
        labelled(to, "because", why);
    }
    if !cutover.over {
        let leads = if cutover.led { "" } else { "; no process leads it: `zmigrate cutover resume`" };
        labelled(to, "waits for", &format!("{}{leads}", cutover.waits_for));
    }
    if let Some(doing) = &cutover.doing {
        labelled(to, "now", doing);
    }
    if let Some(needs) = &cutover.needs {
        labelled(to, "NEEDS", needs);
    }
    let ms = |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| seconds(Millis(ms)));
    let downtimes = format!("{}, predicted {}", ms(cutover.downtime_ms), ms(cutover.predicted_downtime_ms));
    labelled(to, "downtime", &downtimes);
    if whole {
        let first = cutover.pass_reports.len().saturating_sub(10);
        for pass in &cutover.pass_reports[first..] {
            *to += &format!("  {}\n", passed(pass));
        }
        cutover.said.iter().for_each(|line| labelled(to, "said", line));
        if !cutover.over {
            labelled(to, "go", &cutover.go);
            labelled(to, "abort", &cutover.abort);
            labelled(to, "nothing", &cutover.nothing);
        }
        if let Some(proof) = &cutover.proof {
            let means = match proof.means {
                Means::Guid => "GUIDs of the final snapshots",
                Means::Digest => "GUIDs of the final snapshots and digests of the last streams",
                Means::Content => "GUIDs of the final snapshots, digests of the last streams, and all content",
            };
            let equal = if proof.equal && proof.source == proof.target { "equal" } else { "different" };
            let fence = proof.fence.map_or("none".to_owned(), |leg| leg.to_string());
            labelled(to, "proof", &format!("{means}: {equal}; {} written since; fence {fence}", proof.written));
        }
    }
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(in crate::cli) fn sample(pass: PassReport) -> serde_json::Value {
    let leg = Leg { id: CutoverId(1), epoch: Epoch(1) };
    let guids: std::sync::Arc<[crate::types::Guid]> = std::sync::Arc::from([crate::types::Guid(1)]);
    let cutover = Cutover {
        id: leg.id,
        phase: "done",
        source: "a".into(),
        target: "b:a".into(),
        needs: Some("n".into()),
        waits_for: "w".into(),
        go: "g".into(),
        abort: "a".into(),
        nothing: "n".into(),
        epoch: leg.epoch,
        over: false,
        led: true,
        why: Some("w".into()),
        predicted_downtime_ms: Some(1),
        downtime_ms: Some(1),
        passes: 1,
        pass_reports: vec![pass],
        doing: Some("d".into()),
        said: vec!["s".into()],
        proof: Some(Proof {
            fence: Some(leg),
            written: 0,
            source: std::sync::Arc::clone(&guids),
            target: guids,
            means: Means::Digest,
            equal: true,
        }),
    };
    let unit = UnitObject {
        datasets: vec!["a".parse().unwrap()],
        side: Some(Side::Source),
        stage: "s",
        leg: Some(leg),
        epoch: leg.epoch,
        needs: Some("n".into()),
        failed: Some("f".into()),
        said: vec!["s".into()],
    };
    serde_json::to_value(Object { cutovers: vec![cutover], units: vec![unit], unreadable: vec!["u".into()] }).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cutover: &Cutover, whole: bool) -> String {
        let mut text = String::new();
        write_cutover(&mut text, cutover, whole);
        text
    }

    fn held() -> Cutover {
        let report = PassReport {
            number: 2,
            bytes: 1 << 20,
            wire_bytes: 1 << 19,
            seconds: 0.5,
            sending_ms: 300,
            fixed_ms: 200,
            left_bytes: 1 << 10,
        };
        Cutover {
            id: CutoverId(0x4f2a),
            phase: "armed",
            source: "tank/db".into(),
            target: "west:pool/db".into(),
            needs: Some("all is ready: `cutover go 00004f2a` or `cutover abort 00004f2a`?".into()),
            waits_for: "a person".into(),
            go: "stops the source's writers and moves the unit".into(),
            abort: "ends it; the source has not been stopped".into(),
            nothing: "passes go on; the source serves".into(),
            epoch: Epoch(1),
            over: false,
            led: true,
            why: None,
            predicted_downtime_ms: Some(700),
            downtime_ms: None,
            passes: 1,
            pass_reports: vec![report],
            doing: Some("sending tank/db: 3 MiB so far".into()),
            said: vec!["db (prepare): ready".into()],
            proof: None,
        }
    }

    #[test]
    fn a_cutover_as_a_person_sees_it() {
        let mut cutover = held();
        let expected = [
            "cutover 00004f2a: armed   tank/db → west:pool/db",
            "  waits for  a person",
            "  now        sending tank/db: 3 MiB so far",
            "  NEEDS      all is ready: `cutover go 00004f2a` or `cutover abort 00004f2a`?",
            "  downtime   -, predicted 0.70 s",
        ];
        assert_eq!(shown(&cutover, false).lines().collect::<Vec<_>>(), expected);
        let whole = shown(&cutover, true);
        let (head, rest) = whole.split_at(whole.find("  pass 2: ").unwrap());
        assert_eq!(head.lines().collect::<Vec<_>>(), expected);
        let more = [
            "  said       db (prepare): ready",
            "  go         stops the source's writers and moves the unit",
            "  abort      ends it; the source has not been stopped",
            "  nothing    passes go on; the source serves",
        ];
        assert_eq!(rest.lines().skip(1).collect::<Vec<_>>(), more);
        (cutover.over, cutover.needs, cutover.doing, cutover.why) = (true, None, None, Some("no room".into()));
        (cutover.phase, cutover.downtime_ms) = ("rolled back", Some(1500));
        let expected = [
            "cutover 00004f2a: rolled back   tank/db → west:pool/db",
            "  because    no room",
            "  downtime   1.50 s, predicted 0.70 s",
        ];
        assert_eq!(shown(&cutover, false).lines().collect::<Vec<_>>(), expected);
    }

    /// The others are none the worse for one that is broken, and it is named.
    #[test]
    fn a_ledger_that_cannot_be_read_hides_no_other_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("cutover");
        std::fs::create_dir(&place).unwrap();
        let unit = r#"{"at":"2026-01-01T12:00:00Z","pid":1,"entry":"unit","datasets":["p/d"],"epoch":0}"#;
        std::fs::write(place.join("host-1.jsonl"), format!("{unit}\n")).unwrap();
        std::fs::write(place.join("host-2.jsonl"), "{}\n").unwrap();
        std::fs::write(place.join("lead-00000003.jsonl"), "{}\n{}\n").unwrap();
        let ledgers = crate::adapter::ledger::FileLedgers::new(dir.path());
        let object = look(&ledgers, None).unwrap();
        assert_eq!((object.units.len(), object.unreadable.len(), object.exit_code()), (1, 2, 2));
        let text = text(&object, false);
        assert!(text.contains("host-2.jsonl") && text.contains("lead-00000003.jsonl"), "{text}");
        assert!(look(&ledgers, Some(CutoverId(3))).is_err(), "its own ledger is no other one");
        let unknown = look(&ledgers, Some(CutoverId(4))).unwrap();
        assert_eq!((unknown.unreadable.len(), unknown.exit_code()), (1, 2), "nobody knows that it is not of that one");
    }
}
