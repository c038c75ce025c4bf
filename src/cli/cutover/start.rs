//! `zmigrate cutover start`: what is looked at before anything begins, then the beginning.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{lead, new_id};
use crate::{
    cli::{
        args::{Global, ProgressMode},
        cutover_args::{CutoverStart, NotConverging, OnActivateFailure, Place, Verify},
        output::{Output, runtime},
        progress::show,
        replicate::run_context,
    },
    cutover::{
        call::State,
        leg::{Leg, Millis, Node, Side},
        proof::Means,
        terms::{self, Pair, Terms},
    },
    driver::{
        RunContext,
        cutover::{Begun, Lead, Survey, leads, survey, terms_of},
    },
    host,
    limits::MAX_HOOKS,
    types::{DatasetName, Failure, FailureClass},
};

/// The longest outage with `--verify content`, unless another is named.
const CONTENT_WITHIN_MS: u64 = 3_600_000;

fn usage(e: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Usage, e)
}

fn refused(e: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Refused, e)
}

pub fn run(global: &Global, args: &CutoverStart, output: &Output) -> Result<u8, Failure> {
    let (peer, is_here, source, target) = Place::apart(&args.source, &args.target)?;
    let source_at = if is_here { Node::Here } else { Node::Peer };
    let mut unit = vec![Pair { source, target }];
    for also in &args.also {
        unit.push(pair(also)?);
    }
    for of_one in [&args.source_hook, &args.target_hook] {
        if args.hook.len() + of_one.len() > MAX_HOOKS {
            return Err(usage(format!("more than {MAX_HOOKS} hooks are named for one host")));
        }
    }
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let ledgers = host::ledgers(&config);
    not_moving_already(&*ledgers, &unit)?;
    let context = Arc::new(run_context(global, &peer, args.transport.streams)?);
    host::state_is_ours(&config)?;
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let id = new_id()?;
        let max_downtime = millis(args.max_downtime);
        let forced = args.not_converging == NotConverging::Go;
        // Reading all of it takes as long as it takes; who asks for that knows.
        let patience = if args.verify == Verify::Content { Millis(CONTENT_WITHIN_MS) } else { max_downtime };
        let limit = args.outage_limit.map(millis).unwrap_or(patience);
        let mut terms = Terms {
            leg: Leg { id, epoch: crate::cutover::leg::Epoch(1) },
            return_id: new_id()?,
            unit: unit.into(),
            source_at,
            hold: args.hold,
            on_activate_failure: match args.on_activate_failure {
                OnActivateFailure::Hold => terms::OnActivateFailure::Hold,
                OnActivateFailure::Return => terms::OnActivateFailure::Return,
            },
            not_converging: match args.not_converging {
                NotConverging::Wait => terms::NotConverging::Wait,
                NotConverging::Go => terms::NotConverging::Go,
                NotConverging::Abort => terms::NotConverging::Abort,
            },
            max_downtime,
            outage_limit: if forced && args.outage_limit.is_none() {
                Millis(max_downtime.0.saturating_mul(10)).max(limit)
            } else {
                limit
            },
            tries: args.tries,
            verify: match args.verify {
                Verify::Guid => Means::Guid,
                Verify::Digest => Means::Digest,
                Verify::Content => Means::Content,
            },
            homeward: false,
            returns_from: None,
        };
        let found = survey(&context, &terms).await?;
        check(&context, &terms, &found, args.recursive)?;
        terms.leg.epoch = found.source.epoch.max(found.target.epoch).next();
        let (here, there) = match source_at {
            Node::Here => (&args.source_hook, &args.target_hook),
            Node::Peer => (&args.target_hook, &args.source_hook),
        };
        let begun = Begun {
            id,
            peer: peer.to_string(),
            hooks_here: [args.hook.as_slice(), here].concat(),
            hooks_there: [args.hook.as_slice(), there].concat(),
            kill_busy: args.kill_busy,
            reverse: args.reverse,
            jobs: args.jobs.into(),
            compression: args.transport.compress,
            bwlimit_bytes_per_s: args.transport.bwlimit.map(|limit| limit.0),
            streams: args.transport.streams.into(),
        };
        if args.dry_run {
            return lead::dry_run(&terms, &begun, &found, output);
        }
        // Between the lines that tell of phases there is no place for one that is drawn over.
        let mode = match args.transport.progress {
            ProgressMode::Auto | ProgressMode::Bar => ProgressMode::Plain,
            mode => mode,
        };
        let _shown = show(mode, global.quiet, Arc::clone(&context.board));
        let (notices, heard) = mpsc::unbounded_channel();
        let lead = Lead::begin(context, &*ledgers, begun, terms, notices)?;
        lead::run(global, &config, lead, heard, None, output).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

fn pair(text: &str) -> Result<Pair, Failure> {
    let bad = || usage(format!("--also {text}: write SRC=DST, two datasets without a peer"));
    let (source, target) = text.split_once('=').ok_or_else(bad)?;
    let name = |s: &str| s.parse::<DatasetName>().map_err(|e| usage(format!("--also {text}: {e}")));
    Ok(Pair { source: name(source)?, target: name(target)? })
}

fn millis(d: Duration) -> Millis {
    Millis(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Two cutovers of one dataset would each wait for the other.
fn not_moving_already(ledgers: &dyn crate::port::ledger::Ledgers, unit: &[Pair]) -> Result<(), Failure> {
    let meets = |a: &DatasetName, b: &DatasetName| a.is_at_or_below(b) || b.is_at_or_below(a);
    for (name, told) in leads(ledgers)? {
        let (story, it) = match told {
            Ok(told) => told,
            Err(failure) => {
                // Which of the sides is which in its newest leg is not known.
                let names = |p: &Pair| [p.source.clone(), p.target.clone()];
                let ours: Vec<DatasetName> = unit.iter().flat_map(names).collect();
                let terms = ledgers.read(&name).ok().and_then(|lines| terms_of(&lines));
                let may_be_ours = |name: &DatasetName| ours.iter().any(|our| meets(our, name));
                if terms.is_some_and(|terms| !terms.unit.iter().flat_map(names).any(|name| may_be_ours(&name))) {
                    continue;
                }
                return Err(failure);
            }
        };
        let kept = it.progress();
        let shares = |p: &Pair| unit.iter().any(|q| meets(&p.source, &q.source) || meets(&p.target, &q.target));
        if !kept.phase.is_end() && kept.terms.unit.iter().any(shares) {
            let id = story.begun.id;
            return Err(refused(format!("cutover {id} is moving these datasets already ({})", kept.phase.name()))
                .hint(format!("`zmigrate cutover status {id}`, then `resume {id}` or `abort {id}`")));
        }
    }
    Ok(())
}

/// Whether the two hosts can take part.
fn check(context: &RunContext, terms: &Terms, found: &Survey, recursive: bool) -> Result<(), Failure> {
    if let Some(child) = found.children.first().filter(|_| !recursive) {
        return Err(refused(format!("{child} is below what moves")).hint("give -r to move it as well"));
    }
    let place = |side: Side| match terms.at(side) {
        Node::Here => "this host".to_owned(),
        Node::Peer => context.link.to_string(),
    };
    let open = |side: Side, state: &State| {
        let leg = state.leg.filter(|_| state.open)?;
        let text = format!("{} takes part in cutover {} already ({})", place(side), leg.id, state.stage);
        let lost = format!(
            "let that one end first; if the host where it was started is lost for ever, `zmigrate cutover abort {} --here` there",
            leg.id
        );
        Some(refused(text).hint(state.needs.clone().unwrap_or(lost)))
    };
    if let Some(failure) = open(Side::Source, &found.source).or_else(|| open(Side::Target, &found.target)) {
        return Err(failure);
    }
    for (side, state) in [(Side::Source, &found.source), (Side::Target, &found.target)] {
        if let Some(other) = state.overlaps.first() {
            return Err(refused(format!("{}: {other} moves, or moved, with other datasets", place(side)))
                .hint("name the same datasets as that cutover did"));
        }
    }
    if matches!(found.source.stage.as_str(), "released" | "discarded") {
        let name = &terms.unit[0].source;
        return Err(refused(format!("{name} at {} is not the writable side: it was moved away", place(Side::Source)))
            .hint("start from where it serves, or `zmigrate cutover back ID` where the last one was started"));
    }
    if found.target.stage == "active" || (found.target.side == Some(Side::Source) && found.target.stage == "serves") {
        let name = &terms.unit[0].target;
        return Err(refused(format!("{name} at {} is a writable side already", place(Side::Target)))
            .hint("nothing is moved over what is in use: choose another DST"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_ledger_of_other_datasets_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("cutover");
        std::fs::create_dir(&place).unwrap();
        let ledgers = crate::adapter::ledger::FileLedgers::new(dir.path());
        let unit =
            |source: &str, target: &str| [Pair { source: source.parse().unwrap(), target: target.parse().unwrap() }];
        let terms = Terms {
            leg: Leg { id: crate::cutover::leg::CutoverId(1), epoch: crate::cutover::leg::Epoch(1) },
            return_id: crate::cutover::leg::CutoverId(2),
            unit: Arc::from(unit("tank/db", "pool/db")),
            source_at: Node::Here,
            hold: false,
            on_activate_failure: terms::OnActivateFailure::Hold,
            not_converging: terms::NotConverging::Wait,
            max_downtime: Millis(1),
            outage_limit: Millis(1),
            tries: 1,
            verify: Means::Guid,
            homeward: false,
            returns_from: None,
        };
        let (_, of) = crate::cutover::coordinator::Coordinator::begin(terms);
        let line = crate::driver::cutover::Line::new(crate::driver::cutover::Entry::Record { of }, Millis(1));
        let path = place.join("lead-00000001.jsonl");
        std::fs::write(&path, format!("{}\n{{}}\n", serde_json::to_string(&line).unwrap())).unwrap();
        assert!(not_moving_already(&ledgers, &unit("tank/www", "pool/www")).is_ok());
        for (source, target) in [("tank/db/x", "pool/other"), ("pool/db", "tank/other")] {
            let failure = not_moving_already(&ledgers, &unit(source, target)).unwrap_err();
            assert!(failure.message.contains("lead-00000001.jsonl"), "{failure}");
        }
        std::fs::write(&path, "{}\n{}\n").unwrap();
        assert!(not_moving_already(&ledgers, &unit("tank/www", "pool/www")).is_err(), "it may be of these");
    }
}
