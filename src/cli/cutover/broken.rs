//! `zmigrate cutover break`.

use std::time::Duration;

use tokio::time::sleep;

use super::lead::{find, say, unknown};
use crate::{
    cli::{
        args::Global,
        output::{Output, note, runtime},
    },
    cutover::{effect::Command, host::Host, leg::CutoverId},
    driver::cutover::{BrokenHere, break_here},
    host,
    session::cutover::Hosts,
    types::{Failure, FailureClass},
};

/// How often, and for how long, a source is looked at that is to serve again: a minute.
const BREAK_LOOK_EVERY: Duration = Duration::from_millis(100);
const BREAK_LOOKS: u32 = 600;

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
        serves_again(engine.cutovers.as_deref(), &ids).await.map(|()| Some(broken))
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
    let object = serde_json::json!({ "id": id, "result": "broken", "exit_code": 0, "serves": serves });
    output.result(&object, format!("cutover {id}: broken. {text}"));
    Ok(0)
}

/// Waits for the unit's machine, which goes on by itself, and would end with this process.
async fn serves_again(hosts: Option<&Hosts>, ids: &[CutoverId]) -> Result<(), Failure> {
    for _ in 0..BREAK_LOOKS {
        let units = hosts.map(Hosts::units).transpose()?.unwrap_or_default();
        let of_this = |host: &Host| host.kept().part.leg().is_some_and(|leg| ids.contains(&leg.id));
        if !units.iter().any(|(_, host)| of_this(host) && host.kept().part.summary().2) {
            return Ok(());
        }
        sleep(BREAK_LOOK_EVERY).await;
    }
    let id = ids.first().map(ToString::to_string).unwrap_or_default();
    let text = format!("cutover {id} is broken, but the source does not serve again yet");
    Err(Failure::new(FailureClass::Zfs, text).hint(format!(
        "the log says what fails; repair it and run `zmigrated`, or this again; `cutover status {id}` tells"
    )))
}
