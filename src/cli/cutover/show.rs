//! `zmigrate cutover status`.

use std::time::Duration;

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
    driver::cutover::{PassReport, Story, leads, name_of},
    host,
    port::ledger::Ledgers,
    session::cutover::Hosts,
    types::{DatasetName, Failure, FailureClass, paragraph},
};

#[derive(Serialize)]
struct Object {
    cutovers: Vec<Cutover>,
    /// What this host is in the cutovers of units of its own.
    units: Vec<UnitObject>,
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
}

pub fn run(global: &Global, id: Option<CutoverId>, watch: bool, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let ledgers = host::ledgers(&config);
    let engine = host::engine(&config);
    let hosts = engine.cutovers.as_deref();
    if !watch {
        let object = look(&*ledgers, hosts, id)?;
        output.result(&object, text(&object, id.is_some()));
        return Ok(0);
    }
    if output.is_json() {
        return Err(Failure::new(FailureClass::Usage, "--watch draws for people")
            .hint("leave it out, and ask with --output json now and then"));
    }
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    runtime()?.block_on(async {
        loop {
            let object = look(&*ledgers, hosts, id)?;
            let shown = text(&object, true);
            // A screen is drawn over; a file or a pipe gets one after the other.
            let clear = if terminal { "\x1b[H\x1b[2J" } else { "" };
            output.must_say(&object, format!("{clear}{}", shown.trim_end()));
            let over = !object.cutovers.is_empty() && object.cutovers.iter().all(|c| c.over);
            if over {
                return Ok(0);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

fn look(ledgers: &dyn Ledgers, hosts: Option<&Hosts>, id: Option<CutoverId>) -> Result<Object, Failure> {
    let mut cutovers = Vec::new();
    for (name, told) in leads(ledgers)? {
        // Another one's ledger is no matter to this one.
        if id.is_some_and(|id| told.is_err() && name != name_of(id)) {
            continue;
        }
        let (story, it) = told?;
        if id.is_none_or(|id| id == story.begun.id || id == it.progress().terms.leg.id) {
            let led = ledgers.is_owned(&name);
            let lines = ledgers.read(&name).map_err(|e| Failure::new(FailureClass::Usage, e))?;
            cutovers.push(cutover(&story, &it, led, proof(&lines)));
        }
    }
    let mut units = Vec::new();
    for (unit, host) in hosts.map(Hosts::units).transpose()?.unwrap_or_default() {
        let part = &host.kept().part;
        let (side, stage, _) = part.summary();
        if id.is_none_or(|id| part.leg().is_some_and(|leg| leg.id == id)) {
            units.push(UnitObject {
                datasets: unit.roots().to_vec(),
                side,
                stage,
                leg: part.leg(),
                epoch: host.kept().epoch,
                needs: host_needs(&host),
            });
        }
    }
    if let Some(id) = id.filter(|_| cutovers.is_empty() && units.is_empty()) {
        return Err(Failure::new(FailureClass::Usage, format!("this host knows no cutover {id}"))
            .hint("`zmigrate cutover status` lists those that it knows"));
    }
    Ok(Object { cutovers, units })
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
        proof,
    }
}

fn text(object: &Object, whole: bool) -> String {
    let mut text = String::new();
    if object.cutovers.is_empty() && object.units.is_empty() {
        return "no cutovers".to_owned();
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
