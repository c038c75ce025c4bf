//! Leading a cutover from the command line: what is shown while it runs, what a second command says to it, and its result.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{sync::mpsc, time::sleep};

use super::result::{measure_by, object, place, seconds, text};
use crate::{
    cli::{
        args::Global,
        output::{Output, note, runtime},
        replicate::{run_context, stop_on_signal_saying},
    },
    config::Config,
    control,
    cutover::{
        coordinator::{Coordinator, Phase},
        effect::Command,
        leg::{CutoverId, Epoch, Millis, Side},
        terms::Terms,
    },
    driver::cutover::{Begun, End, Lead, Notice, PassReport, Story, Survey, leads, name_of},
    host,
    types::{Failure, FailureClass, human_bytes, human_rate},
};

/// How often a leader is looked for that owns the ledger and has no door yet, or none any more.
const DOOR_TRIES: u32 = 60;
/// How long a second command waits for what it asked for to show in the ledger.
const FOLLOW: Duration = Duration::from_millis(250);
/// Looks at a cutover that nobody leads before it counts as left: longer than zmigrated takes to notice one.
const LEFT_AFTER: u32 = 20;

/// Leads until the end, shows what happens, and prints the result.
pub async fn run(
    global: &Global,
    config: &Config,
    mut lead: Lead,
    heard: mpsc::UnboundedReceiver<Notice>,
    first: Option<Command>,
    output: &Output,
) -> Result<u8, Failure> {
    let id = lead.story().begun.id;
    let (said, mut commands) = mpsc::channel(4);
    let door = match control::open(host::door(config, id), said.clone()) {
        Ok(door) => Some(door),
        Err(e) => {
            tracing::warn!("other commands cannot speak to this one: {e}");
            None
        }
    };
    let shown = tokio::spawn(show(id, heard, global.quiet));
    lead.by_command();
    let stop = lead.stop_token();
    let says = format!(
        "cutover {id}: stopping. If the source is down already, it goes on until a side serves; a second signal ends the command at once"
    );
    tokio::spawn(stop_on_signal_saying(stop, says));
    let began = match first {
        Some(command) => lead.say(command)?,
        None => {
            lead.recover()?;
            Ok(())
        }
    };
    if let Err(why) = began {
        drop((door, lead));
        let _ = shown.await;
        return Err(declined(id, &why));
    }
    if !global.quiet {
        // Only now: a way home is another leg than the one before it.
        let terms = &lead.coordinator().progress().terms;
        let (source, target) =
            (place(&lead.story().begun, terms, Side::Source), place(&lead.story().begun, terms, Side::Target));
        note(format_args!("cutover {id}: {source} → {target}"));
    }
    let end = lead.run(&mut commands).await;
    let object = end.map(|end| object(lead.story(), lead.coordinator(), Some(end), first));
    drop((door, lead));
    let _ = shown.await;
    let mut object = object?;
    measure_by(&mut object, first);
    output.verdict(object.exit_code, &object, text(&object));
    Ok(object.exit_code)
}

fn declined(id: CutoverId, why: &str) -> Failure {
    Failure::new(FailureClass::Refused, format!("cutover {id}: {why}"))
        .hint(format!("`zmigrate cutover status {id}` says where it stands"))
}

async fn show(id: CutoverId, mut heard: mpsc::UnboundedReceiver<Notice>, quiet: bool) {
    let (mut last_trouble, mut last_phase) = (String::new(), "");
    while let Some(notice) = heard.recv().await {
        let line = match notice {
            Notice::Phase { name, why: Some(why) } => format!("{name}: {why}"),
            // Some have two halves.
            Notice::Phase { name, why: None } if name == last_phase => continue,
            Notice::Phase { name, why: None } => {
                last_phase = name;
                name.to_owned()
            }
            Notice::Passed(pass) => passed(&pass),
            Notice::Ready { downtime } => {
                let predicted = downtime.map_or(String::new(), |d| format!("; predicted downtime {}", seconds(d)));
                format!("all is ready{predicted}. `zmigrate cutover go {id}`, or `zmigrate cutover abort {id}`")
            }
            // Once, however often it is tried.
            Notice::Trouble(why) if why == last_trouble => continue,
            Notice::Trouble(why) => {
                last_trouble.clone_from(&why);
                why
            }
            // The result says it.
            Notice::Needs(_) => continue,
            Notice::Doing(how_far) => how_far,
            Notice::Hook(line) => format!("hook: {line}"),
        };
        if !quiet {
            note(format_args!("cutover {id}: {line}"));
        }
    }
}

/// One pass in a line.
pub fn passed(pass: &PassReport) -> String {
    let rate = human_rate((pass.bytes as f64 / pass.seconds.max(0.001)) as u64);
    format!(
        "pass {}: {} in {:.1} s, {rate}; {} written since",
        pass.number,
        human_bytes(pass.bytes),
        pass.seconds,
        human_bytes(pass.left_bytes)
    )
}

/// The ledger's name of a cutover, by the id of any of its legs.
pub fn find(
    ledgers: &dyn crate::port::ledger::Ledgers,
    id: CutoverId,
) -> Result<Option<(String, Story, Coordinator)>, Failure> {
    for (name, told) in leads(ledgers)? {
        if name == name_of(id) {
            let (story, it) = told?;
            return Ok(Some((name, story, it)));
        }
        if let Ok((story, it)) = told
            && it.progress().terms.leg.id == id
        {
            return Ok(Some((name, story, it)));
        }
    }
    Ok(None)
}

pub fn unknown(id: CutoverId) -> Failure {
    Failure::new(FailureClass::Usage, format!("no cutover {id} was started on this host"))
        .hint("`zmigrate cutover status` lists them; use the host where it was started. If that is lost, `abort ID --here` ends what this host does in it")
}

/// Says a command to whoever leads the cutover; if nobody does, leads it from there.
pub fn say(global: &Global, id: CutoverId, command: Command, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let ledgers = host::ledgers(&config);
    let (name, story, _) = find(&*ledgers, id)?.ok_or_else(|| unknown(id))?;
    let id = story.begun.id;
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let mut tries = 0;
        loop {
            // Whoever it was said to may have ended after it was done and before it could tell.
            if let (Command::Abort, Some((_, story, it))) = (command, find(&*ledgers, id)?)
                && it.progress().phase == Phase::RolledBack
            {
                let mut object = object(&story, &it, Some(End::Over), Some(command));
                measure_by(&mut object, Some(command));
                output.verdict(object.exit_code, &object, text(&object));
                return Ok(object.exit_code);
            }
            if let Some(told) = at_the_door(&host::door(&config, id), command).await? {
                told.map_err(|why| declined(id, &why))?;
                return follow(&*ledgers, &name, command, output).await;
            }
            match take_over(global, &config, &name, &story, Some(command), output).await {
                // Its leader has just come, and opens its door, or is just going.
                Err(failure) if failure.class == FailureClass::Locked && tries < DOOR_TRIES => tries += 1,
                ended => return ended,
            }
            sleep(FOLLOW).await;
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

async fn at_the_door(door: &Path, command: Command) -> Result<Option<Result<(), String>>, Failure> {
    control::say(door, command)
        .await
        .map_err(|e| Failure::new(FailureClass::Locked, format!("the process that leads it does not answer: {e}")))
}

/// Waits until the process that leads a cutover has done what it was told, and says what came of it.
async fn follow(
    ledgers: &dyn crate::port::ledger::Ledgers,
    name: &str,
    command: Command,
    output: &Output,
) -> Result<u8, Failure> {
    let mut looks_alone = 0;
    loop {
        // In this order: one that has just ended has written what it did.
        looks_alone = if ledgers.is_owned(name) { 0 } else { looks_alone + 1 };
        let lines = ledgers.read(name).map_err(|e| Failure::new(FailureClass::Usage, e))?;
        let (story, it) = crate::driver::cutover::read(&lines, &ledgers.place(name))?;
        let kept = it.progress();
        // Nobody leads it, and nobody will by himself: where the source may be down, zmigrated does.
        let is_left = looks_alone >= LEFT_AFTER && !kept.may_be_down();
        if kept.phase.is_end() || kept.question.is_some() || is_left {
            let end = if is_left { End::Stopped } else { End::Question };
            let mut object = object(&story, &it, Some(end), Some(command));
            measure_by(&mut object, Some(command));
            output.verdict(object.exit_code, &object, text(&object));
            return Ok(object.exit_code);
        }
        sleep(FOLLOW).await;
    }
}

async fn take_over(
    global: &Global,
    config: &Config,
    name: &str,
    story: &Story,
    command: Option<Command>,
    output: &Output,
) -> Result<u8, Failure> {
    host::state_is_ours(config)?;
    let peer = story.begun.peer.parse().map_err(|e| Failure::new(FailureClass::Usage, e))?;
    let context = Arc::new(run_context(global, &peer, story.begun.streams.into())?);
    let (notices, heard) = mpsc::unbounded_channel();
    let lead = Lead::take_over(context, &*host::ledgers(config), name, notices)?;
    run(global, config, lead, heard, command, output).await
}

/// Goes on with one cutover, or with all that are not over.
pub fn resume(global: &Global, id: Option<CutoverId>, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let ledgers = host::ledgers(&config);
    if let Some(id) = id {
        let (_, story, it) = find(&*ledgers, id)?.ok_or_else(|| unknown(id))?;
        if it.progress().phase.is_end() {
            let object = object(&story, &it, Some(End::Over), Some(Command::Resume));
            output.verdict(object.exit_code, &object, text(&object));
            return Ok(object.exit_code);
        }
        return say(global, id, Command::Resume, output);
    }
    let (mut codes, each) = (Vec::new(), output.gathering());
    for (_, told) in leads(&*ledgers)? {
        let resumed = match told {
            Ok((_, it)) if it.progress().phase.is_end() => continue,
            Ok((story, _)) => say(global, story.begun.id, Command::Resume, &each),
            Err(failure) => Err(failure),
        };
        // One that fails keeps none of the others.
        codes.push(resumed.unwrap_or_else(|failure| {
            each.failure(&failure);
            failure.class.exit_code()
        }));
    }
    if codes.is_empty() && !output.is_json() {
        note("no cutover stands still");
    }
    // The one that a person has to look at first.
    let exit_code = codes.into_iter().max().unwrap_or(0);
    if output.is_json() {
        let result = if exit_code == 0 { "done" } else { "not_all_done" };
        output.result(&Resumed { result, exit_code, cutovers: each.gathered() }, "");
    }
    Ok(exit_code)
}

/// All that went on, where no one was named.
#[derive(Serialize)]
struct Resumed {
    result: &'static str,
    exit_code: u8,
    cutovers: Vec<serde_json::Value>,
}

/// What would be done, for programs.
#[derive(Serialize)]
struct Planned {
    result: &'static str,
    exit_code: u8,
    source: String,
    target: String,
    epoch: Epoch,
    datasets: usize,
    max_downtime_ms: Millis,
}

/// What would be done.
pub fn dry_run(terms: &Terms, begun: &Begun, found: &Survey, output: &Output) -> Result<u8, Failure> {
    let (source, target) = (place(begun, terms, Side::Source), place(begun, terms, Side::Target));
    let mut text = format!("would move {source} → {target}\n");
    let below = found.children.len();
    let _ = writeln!(text, "  {} dataset(s), {below} of them below the named ones", below + terms.unit.len());
    let _ = writeln!(text, "  passes until the predicted downtime is at most {}", seconds(terms.max_downtime));
    let stop =
        if terms.hold { "stops there, until `go`" } else { "then stops the source's writers, fences it, and moves" };
    let _ = writeln!(text, "  {stop}");
    let _ = writeln!(text, "  rolled back by itself if the outage takes longer than {}", seconds(terms.outage_limit));
    let _ = write!(text, "dry run: nothing was changed");
    let object = Planned {
        result: "dry_run",
        exit_code: 0,
        source,
        target,
        epoch: terms.leg.epoch,
        datasets: found.children.len() + terms.unit.len(),
        max_downtime_ms: terms.max_downtime,
    };
    output.result(&object, text);
    Ok(0)
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(in crate::cli) fn samples() -> (serde_json::Value, serde_json::Value) {
    let planned = Planned {
        result: "dry_run",
        exit_code: 0,
        source: "a".into(),
        target: "b:a".into(),
        epoch: Epoch(1),
        datasets: 1,
        max_downtime_ms: Millis(1),
    };
    let resumed = Resumed { result: "done", exit_code: 0, cutovers: Vec::new() };
    (serde_json::to_value(planned).unwrap(), serde_json::to_value(resumed).unwrap())
}
