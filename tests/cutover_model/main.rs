//! Every order of events of a cutover, within bounds, against the real machines.
#![allow(clippy::unwrap_used, reason = "a test may end with a panic")]

mod model;
mod mutants;
mod world;

use std::time::Instant;

use model::{Budget, Cutover, Setup};
use stateright::{Checker, HasDiscoveries, Model};
use zmigrate::cutover::rules::{Actual, Rules};
use zmigrate::cutover::terms::OnActivateFailure;

type Found = (usize, Option<(&'static str, String)>);

/// Explores all of it, or up to the first rule broken: how many states there were, and that rule with the way there.
fn explore(setup: Setup, rules: Box<dyn Rules + Send + Sync>) -> Found {
    let checker =
        Cutover { setup, rules }.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discovery("no rule is broken").map(|path| {
        let wrong = path.last_state().wrong.unwrap();
        let moves: Vec<String> = path.into_actions().iter().map(|m| format!("  {m:?}")).collect();
        (wrong, moves.join("\n"))
    });
    (checker.unique_state_count(), found)
}

#[test]
fn probe() {
    let Ok(text) = std::env::var("PROBE") else { return };
    for line in text.split(';') {
        let n: Vec<u8> = line.split(',').map(|x| x.trim().parse().unwrap()).collect();
        let budget = Budget {
            crashes: n[0],
            losses: n[1],
            repeats: n[2],
            failures: n[3],
            aborts: n[4],
            commands: n[5],
            backs: n[6],
            delays: n[7],
        };
        let policy = if n[9] == 1 { OnActivateFailure::Return } else { OnActivateFailure::Hold };
        let setup = Setup {
            budget,
            lead_at: n[8].into(),
            on_activate_failure: policy,
            hold: n[10] == 1,
            tries: n[11],
            writes: n[12],
            disaster: n[13] == 1,
            ..Setup::default()
        };
        let began = Instant::now();
        let (n, found) = explore(setup, Box::new(Actual));
        println!("{line}: {n} states, {:.1} s", began.elapsed().as_secs_f32());
        if let Some((wrong, moves)) = found {
            println!("{wrong}\n{moves}");
        }
    }
}

#[test]
fn every_mutant_is_caught() {
    let mut alive = Vec::new();
    for mutation in mutants::ALL {
        let began = Instant::now();
        let (n, found) = explore(mutants::setup(*mutation), Box::new(mutants::Mutant(*mutation)));
        let by = found.as_ref().map_or("SURVIVED", |f| f.0);
        println!("{mutation:?}: {by} ({n} states, {:.1} s)", began.elapsed().as_secs_f32());
        if found.is_none() {
            alive.push(*mutation);
        }
    }
    assert!(alive.is_empty(), "not caught: {alive:?}");
}
