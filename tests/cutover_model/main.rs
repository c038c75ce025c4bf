//! Every order of events of a cutover, within bounds, against the real machines.
#![allow(clippy::unwrap_used, reason = "a test may end with a panic")]

mod model;
mod world;

use std::time::Instant;

use model::{Budget, Cutover, Setup};
use stateright::{Checker, HasDiscoveries, Model};
use zmigrate::cutover::{rules::Actual, terms::OnActivateFailure};

fn setup() -> Setup {
    Setup {
        name: "push",
        lead_at: 0,
        hold: false,
        on_activate_failure: OnActivateFailure::Hold,
        tries: 1,
        writes: 2,
        disaster: false,
        budget: Budget::default(),
    }
}

fn explore(setup: Setup) -> usize {
    let began = Instant::now();
    let name = setup.name;
    let checker = Cutover { setup, rules: Box::new(Actual) }
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let n = checker.unique_state_count();
    println!("{name}: {n} states, depth {}, {:.1} s", checker.max_depth(), began.elapsed().as_secs_f32());
    if let Some(path) = checker.discovery("no rule is broken") {
        let last = path.last_state().clone();
        let moves: Vec<String> = path.into_actions().iter().map(|m| format!("{m:?}")).collect();
        panic!("{name}: {}\n{}\n{last:#?}", last.wrong.unwrap(), moves.join("\n"));
    }
    n
}

#[test]
fn probe() {
    let b = |f: fn(&mut Budget)| {
        let mut s = setup();
        f(&mut s.budget);
        s
    };
    explore(b(|_| {}));
    explore(b(|b| b.crashes = 1));
    explore(b(|b| b.losses = 1));
    explore(b(|b| b.repeats = 1));
    explore(b(|b| b.failures = 1));
    explore(b(|b| b.aborts = 1));
    explore(b(|b| b.delays = 1));
    explore(b(|b| (b.commands, b.backs) = (1, 1)));
}
