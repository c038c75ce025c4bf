//! Every order of events of a cutover, within bounds, against the real machines; and the same with each rule broken.
//!
//! `model` has the transitions and what an end must look like, `world` what effects do, `mutants` the broken rules. A
//! failure prints the shortest way to the broken rule. The searches are exhaustive within the bounds of their setups.

#![allow(clippy::unwrap_used, reason = "a test may end with a panic")]

mod model;
mod mutants;
mod world;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

use model::{Budget, Cutover, Setup, State};
use stateright::{Checker, HasDiscoveries, Model};
use zmigrate::cutover::{
    rules::{Actual, Rules},
    terms::OnActivateFailure::Return,
};

/// What was explored, and the first broken rule with the way there.
type Found = (usize, Option<(&'static str, String)>);

/// Explores all of it, or up to the first broken rule.
fn explore(setup: Setup, rules: Box<dyn Rules + Send + Sync>) -> Found {
    let checker = Cutover { setup, rules }.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discovery("no rule is broken").map(|path| {
        let wrong = path.last_state().wrong.unwrap();
        let moves: Vec<String> = path.into_actions().iter().map(|m| format!("  {m:?}")).collect();
        (wrong, moves.join("\n"))
    });
    if found.is_none() {
        for end in ["a cutover ends done", "a cutover is rolled back"] {
            let shown = checker.discovery(end).is_some();
            assert!(shown || end.contains("rolled"), "{end} in no run: the model does not move");
        }
    }
    (checker.unique_state_count(), found)
}

/// The bounds: each number is how often that may happen in one run, in any place and any combination.
#[rustfmt::skip]
fn setups() -> Vec<Setup> {
    let push = Setup { writes: 1, ..Setup::default() };
    let pull = Setup { lead_at: 1, ..push.clone() };
    vec![
        Setup { name: "push, two crashes, an abort", budget: Budget { crashes: 2, aborts: 1, ..Budget::default() }, ..push.clone() },
        Setup { name: "push, one of each trouble, to return", on_activate_failure: Return,
            budget: Budget { crashes: 1, failures: 1, aborts: 1, commands: 1, delays: 1, ..Budget::default() }, ..push.clone() },
        Setup { name: "pull, held, one of each trouble, to return", hold: true, on_activate_failure: Return,
            budget: Budget { crashes: 1, failures: 1, aborts: 1, commands: 1, delays: 1, ..Budget::default() }, ..pull.clone() },
        Setup { name: "pull and back, a crash, a late message", budget: Budget { crashes: 1, repeats: 1, backs: 1, ..Budget::default() }, ..pull.clone() },
        Setup { name: "push and back, a bad link, a failure, an abort",
            budget: Budget { losses: 1, repeats: 1, failures: 1, aborts: 1, backs: 1, ..Budget::default() }, ..push.clone() },
        Setup { name: "pull, held, and back, a bad link, two failures, two tries", hold: true, on_activate_failure: Return, tries: 2,
            budget: Budget { losses: 1, repeats: 1, failures: 2, commands: 1, backs: 1, ..Budget::default() }, ..pull.clone() },
        Setup { name: "push, the target destroyed, a crash, a failure", disaster: true,
            budget: Budget { crashes: 1, failures: 1, ..Budget::default() }, ..push.clone() },
        Setup { name: "pull, the target destroyed, a crash, a failure, a delay", disaster: true,
            budget: Budget { crashes: 1, failures: 1, delays: 1, ..Budget::default() }, ..pull },
        Setup { name: "push and back, the target destroyed, a crash, a failure", disaster: true,
            budget: Budget { crashes: 1, failures: 1, backs: 1, ..Budget::default() }, ..push.clone() },
        Setup { name: "push, two records, the target destroyed, a failure", disaster: true, writes: 2,
            budget: Budget { failures: 1, ..Budget::default() }, ..push },
    ]
}

#[test]
fn no_rule_is_broken_in_any_order_of_events() {
    let (mut sum, began) = (0, Instant::now());
    for setup in setups() {
        let (name, start) = (setup.name, Instant::now());
        let (n, found) = explore(setup, Box::new(Actual));
        println!("{name}: {n} states, {:.1} s", start.elapsed().as_secs_f32());
        if let Some((wrong, moves)) = found {
            panic!("{name}: {wrong}\n{moves}");
        }
        sum += n;
    }
    println!("{sum} distinct states in {:.1} s", began.elapsed().as_secs_f32());
    assert!(sum >= 1_000_000, "only {sum} states: the bounds are too narrow to mean much");
}

#[test]
fn every_mutant_is_caught() {
    let mut alive = Vec::new();
    for mutation in mutants::ALL {
        let (n, found) = explore(mutants::setup(*mutation), Box::new(mutants::Mutant(*mutation)));
        println!("{mutation:?}: {} ({n} states)", found.as_ref().map_or("SURVIVED", |f| f.0));
        if found.is_none() {
            alive.push(*mutation);
        }
    }
    assert!(alive.is_empty(), "not caught: {alive:?}");
}

/// Without the mutation, the setup of each mutant breaks nothing: what catches it is the mutation.
#[test]
fn the_setups_of_the_mutants_are_clean() {
    let mut seen = Vec::new();
    for setup in mutants::ALL.iter().map(|m| mutants::setup(*m)) {
        let key = (setup.budget, setup.on_activate_failure, setup.journal_counts);
        if !seen.contains(&key) {
            seen.push(key);
            assert_eq!(explore(setup, Box::new(Actual)).1, None);
        }
    }
}

/// No run goes in circles. With the rule that where a run rests there is an end or a question, every run gets there.
#[test]
fn every_run_comes_to_rest() {
    let budget = Budget { crashes: 1, losses: 1, failures: 1, aborts: 1, commands: 1, ..Budget::default() };
    for (lead_at, tries, on_activate_failure) in [(0, 1, Return), (1, 2, Setup::default().on_activate_failure)] {
        let setup = Setup { lead_at, tries, writes: 0, on_activate_failure, budget, ..Setup::default() };
        let n = without_circles(&Cutover { setup, rules: Box::new(Actual) });
        println!("{n} states and no circle");
    }
}

/// Walks depth first, and panics at a state that is its own ancestor.
fn without_circles(model: &Cutover) -> usize {
    let key = |s: &State| {
        let mut hasher = DefaultHasher::new();
        s.hash(&mut hasher);
        hasher.finish()
    };
    // True while the state is on the way to the one looked at.
    let mut open: HashMap<u64, bool> = HashMap::new();
    let mut way: Vec<(u64, Vec<State>)> = Vec::new();
    for state in model.init_states() {
        open.insert(key(&state), true);
        way.push((key(&state), model.next_states(&state)));
    }
    while let Some((at, rest)) = way.last_mut() {
        let at = *at;
        let Some(state) = rest.pop() else {
            open.insert(at, false);
            way.pop();
            continue;
        };
        assert_eq!(state.wrong, None);
        match open.get(&key(&state)) {
            Some(true) => panic!("a run can go in circles through {state:#?}"),
            Some(false) => {}
            None => {
                open.insert(key(&state), true);
                way.push((key(&state), model.next_states(&state)));
            }
        }
    }
    open.len()
}
