//! A person's word on this host alone: `zmigrate cutover break` and `abort --here`.

use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use super::lead::{find, say, unknown};
use crate::{
    cli::{
        args::Global,
        output::{Output, note, runtime},
    },
    cutover::{
        effect::Command,
        host::Part,
        leg::{CutoverId, Side},
        source::Stage,
    },
    driver::cutover::{BrokenHere, abort_here, break_here},
    host,
    session::cutover::{Hosts, Unit},
    types::{Failure, FailureClass},
};

/// How often, and for how long, a source is looked at that is to serve again: a minute.
const BREAK_LOOK_EVERY: Duration = Duration::from_millis(100);
const BREAK_LOOKS: u32 = 600;

/// What was done on this host alone.
#[derive(Serialize)]
struct HereAlone {
    id: CutoverId,
    result: &'static str,
    exit_code: u8,
    /// Of a broken one: the source on this host serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    serves: Option<bool>,
}

/// Breaks the fence: by the cutover's leader if this is its host and its source may be fenced, else on this host alone, and always so
/// if that is asked for.
pub fn break_fence(global: &Global, id: CutoverId, here: bool, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let led = find(&*host::ledgers(&config), id)?;
    if led.as_ref().is_some_and(|(_, _, it)| !here && it.progress().phase.may_be_fenced()) {
        return say(global, id, Command::Break, output);
    }
    let mut ids = vec![id];
    ids.extend(led.iter().flat_map(|(_, story, _)| story.legs.iter().copied()));
    host::state_is_ours(&config)?;
    let engine = host::engine(&config);
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let Some(broken) = break_here(&engine, &ids).await? else { return Ok(None) };
        let (broken, unit) = broken;
        serves_again(engine.cutovers.as_deref(), &unit, id).await.map(|()| Some(broken))
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    let Some(done) = done? else {
        if led.is_some() {
            // It says why there is nothing to break.
            return say(global, id, Command::Break, output);
        }
        return Err(unknown(id).hint("nor does a unit of this host take part in it"));
    };
    if led.as_ref().is_some_and(|(_, _, it)| !it.progress().phase.is_end()) {
        note(format_args!("cutover {id} is still led from this host; `zmigrate cutover abort {id}` ends that"));
    }
    let (text, serves) = match done {
        BrokenHere::Serves => ("The source on this host serves; its target was given up", true),
        BrokenHere::MarkGone => (
            "The mark of its fence is gone. What the datasets were before is not written down on this host: set readonly, canmount and volmode by hand, mount them, and start what uses them",
            false,
        ),
    };
    let object = HereAlone { id, result: "broken", exit_code: 0, serves: Some(serves) };
    output.result(&object, format!("cutover {id}: broken. {text}"));
    Ok(0)
}

/// Ends this host's part in a cutover whose leader is lost.
pub fn abort(global: &Global, id: CutoverId, output: &Output) -> Result<u8, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    if let Some((_, story, it)) = find(&*host::ledgers(&config), id)?
        && !it.progress().phase.is_end()
    {
        return Err(Failure::new(FailureClass::Refused, format!("cutover {id} is led from this host"))
            .hint(format!("`zmigrate cutover abort {}`, which ends it on both", story.begun.id)));
    }
    host::state_is_ours(&config)?;
    let engine = host::engine(&config);
    let runtime = runtime()?;
    let done = runtime.block_on(abort_here(&engine, id));
    runtime.shutdown_timeout(Duration::from_secs(2));
    let Some(side) = done? else {
        return Err(Failure::new(FailureClass::Usage, format!("no unit of this host takes part in cutover {id}"))
            .hint("`zmigrate cutover status` lists what was started here, and what this host takes part in"));
    };
    let text = match side {
        Side::Source => "the source on this host serves, and takes no part in it any more",
        Side::Target => "the target on this host will not be promoted by it, and takes no part in it any more",
    };
    let object = HereAlone { id, result: "rolled_back", exit_code: 0, serves: None };
    output.result(&object, format!("cutover {id}: {text}"));
    Ok(0)
}

/// Waits until the unit's machine has written down that its source serves: it goes on by itself, and would end with this process. It may
/// first have to end what it is at.
async fn serves_again(hosts: Option<&Hosts>, unit: &Unit, id: CutoverId) -> Result<(), Failure> {
    for _ in 0..BREAK_LOOKS {
        let units = hosts.map(Hosts::units).transpose()?.unwrap_or_default();
        let part = units.iter().find(|(other, _)| other == unit).map(|(_, host)| &host.kept().part);
        // Of a fence that was unknown no part is left.
        if matches!(part, Some(Part::Source(_, Stage::Closed) | Part::None)) {
            return Ok(());
        }
        sleep(BREAK_LOOK_EVERY).await;
    }
    let text = format!("cutover {id} is broken, but the source does not serve again yet");
    Err(Failure::new(FailureClass::Zfs, text).hint(format!(
        "the log says what fails; repair it and run `zmigrated`, or this again; `cutover status {id}` tells"
    )))
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(in crate::cli) fn sample() -> serde_json::Value {
    serde_json::to_value(HereAlone { id: CutoverId(1), result: "broken", exit_code: 0, serves: Some(true) }).unwrap()
}
