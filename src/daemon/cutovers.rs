//! What zmigrated does for cutovers by itself: a host's part that nobody looks after, and a lead whose process died.
//!
//! A fence that is recorded is set again, a promoted target comes up, and writers that were stopped for nothing are started.
//! A cutover that was led from this host goes on: at the start each that is not over, asks nobody anything, and was not stopped by a
//! person; later on only one whose source may be down, as whoever stopped a command before that wanted it to stop.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Daemon;
use crate::{
    config::Config,
    control,
    cutover::{coordinator::Phase, leg::CutoverId},
    driver::{
        Board, RunContext,
        cutover::{Begun, Lead, Notice, leads},
    },
    host,
    session::engine::Engine,
    types::{Failure, FailureClass},
};

/// How often it looks: a small part of any outage limit that a person would choose.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often a pass goes back for `--reverse`: what the way home has to carry is what is written in this time.
const HOMEWARD_EVERY: Duration = Duration::from_secs(60);

/// Looks after cutovers until the daemon ends, and returns when none is led from here any more: what has its source down goes on to
/// its end.
pub async fn look_after(daemon: Arc<Daemon>, engine: Arc<Engine>, config: Config, stop: CancellationToken) {
    let ledgers = host::ledgers(&config);
    let mut first = true;
    let mut homeward: HashMap<CutoverId, Instant> = HashMap::new();
    let mut told = String::new();
    let led = TaskTracker::new();
    while !stop.is_cancelled() {
        let looked = match &engine.cutovers {
            Some(hosts) => hosts.look_after(first),
            None => Ok(()),
        };
        // Also where a host's ledger cannot be read: another cutover is none the worse for it.
        let found = leads(&*ledgers);
        let mut trouble: Vec<Failure> = looked.err().into_iter().chain(found.as_ref().err().cloned()).collect();
        if let Ok(all) = found {
            for (name, read) in all {
                let (story, it) = match read {
                    Ok(read) => read,
                    Err(failure) => {
                        trouble.push(failure);
                        continue;
                    }
                };
                let kept = it.progress();
                let id = story.begun.id;
                let due = homeward.get(&id).is_none_or(|at| at.elapsed() >= HOMEWARD_EVERY);
                if kept.phase == Phase::Done && story.begun.reverse && due {
                    homeward.insert(id, Instant::now());
                    if let Err(failure) =
                        lead_from_here(&daemon, &engine, &config, &name, &story.begun, &stop, &led, true)
                        && failure.class != FailureClass::Locked
                    {
                        tracing::error!("cutover {id}: {failure}");
                    }
                }
                let goes_on = !kept.phase.is_end() && kept.question.is_none();
                if goes_on && ((first && !story.stopped) || kept.may_be_down()) {
                    let leading = lead_from_here(&daemon, &engine, &config, &name, &story.begun, &stop, &led, false);
                    match leading {
                        Ok(()) => {}
                        Err(failure) if failure.class == FailureClass::Locked => {}
                        Err(failure) => tracing::error!("cutover {id}: {failure}"),
                    }
                }
            }
        }
        // Once, however often it is looked at.
        let now = trouble.into_iter().map(|failure| failure.message).collect::<Vec<_>>().join("; ");
        if !now.is_empty() && now != told {
            tracing::error!("not all cutovers can be looked after: {now}");
        }
        told = now;
        first = false;
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
    led.close();
    if !led.is_empty() {
        let s = if led.len() == 1 { "" } else { "s" };
        tracing::info!("waiting for {} cutover{s} led from here; a second signal ends that", led.len());
    }
    led.wait().await;
}

/// Leads a cutover that nobody leads, to its end; `home` is one that is done, for one pass back.
#[allow(clippy::too_many_arguments, reason = "what a lead needs, from its one caller")]
fn lead_from_here(
    daemon: &Daemon,
    engine: &Arc<Engine>,
    config: &Config,
    name: &str,
    begun: &Begun,
    stop: &CancellationToken,
    led: &TaskTracker,
    home: bool,
) -> Result<(), Failure> {
    let id = begun.id;
    let peer = begun.peer.parse().map_err(|e| Failure::new(FailureClass::Usage, e))?;
    let context = Arc::new(RunContext {
        link: daemon.live.watched(host::link(config, &daemon.store, &peer)?, &daemon.store),
        engine: Arc::clone(engine),
        client: host::client_options(config, begun.streams.into()),
        identity: daemon.store.own().name,
        board: Arc::new(Board::default()),
        stop: stop.child_token(),
        limit: None,
    });
    let (notices, mut heard) = mpsc::unbounded_channel();
    let mut lead = Lead::take_over(context, &*host::ledgers(config), name, notices)?;
    let (said, mut commands) = mpsc::channel(4);
    let door = control::open(host::door(config, id), said)
        .map_err(|e| tracing::warn!("commands cannot speak to the leader of cutover {id}: {e}"));
    if !home {
        tracing::info!("cutover {id}: nobody leads it any more, so it is led from here ({})", lead.status().phase);
    }
    tokio::spawn(async move {
        while let Some(notice) = heard.recv().await {
            match notice {
                Notice::Phase { name, why } => {
                    tracing::info!(why, "cutover {id}: {name}");
                }
                Notice::Passed(pass) => tracing::info!(bytes = pass.bytes, "cutover {id}: pass {}", pass.number),
                Notice::Ready { .. } => tracing::info!("cutover {id}: all is ready, it waits for go"),
                Notice::Trouble(why) => tracing::warn!("cutover {id}: {why}"),
                Notice::Needs(needs) => tracing::warn!("cutover {id} waits for a person: {needs}"),
                Notice::Doing(how_far) => tracing::info!("cutover {id}: {how_far}"),
                Notice::Hook(line) => tracing::info!("cutover {id}: hook: {line}"),
            }
        }
    });
    led.spawn(async move {
        let ended = match home {
            true => lead.pass_home(&mut commands).await,
            false => match lead.recover() {
                Ok(()) => lead.run(&mut commands).await.map(drop),
                Err(failure) => Err(failure),
            },
        };
        if let Err(failure) = ended {
            tracing::error!("cutover {id}: {failure}");
        }
        drop((door, lead));
    });
    Ok(())
}
