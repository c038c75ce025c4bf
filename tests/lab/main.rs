//! The two OpenZFS guests of `scripts/lab`, driven from the host: real pools, real zvols, real TLS over the guests' own
//! link, processes that are killed and a guest that loses its power.
//!
//! `scripts/lab up 1; scripts/lab up 2` first. Without both guests every trial is reported as ignored, aloud, and never
//! as passed; `ZMIGRATE_REQUIRE=lab` turns their absence into failures. Trials run one at a time. **The pool `tank` of
//! both guests is destroyed** before and after, and so is everything else that the suite makes in them.

// The harness is libtest-mimic, so clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod basic;
mod crypt;
mod guest;
mod history;
mod kills;
mod losses;
mod many;
mod mutants;
#[path = "../mutants/mutate.rs"]
mod mutate;
mod panics;
#[path = "../mutants/rng.rs"]
mod rng;
mod safety;
mod setup;
mod state;
#[path = "../mutants/streams.rs"]
mod streams;
mod trees;
mod unprivileged;
mod volume;
mod world;

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Instant,
};

use libtest_mimic::{Arguments, Failed, Trial};
use world::World;

/// A name, and what is done.
pub type Case = (&'static str, fn(&World));

/// The world is set up by the first trial that runs, so that listing and filtering cost nothing.
static WORLD: OnceLock<Result<World, String>> = OnceLock::new();

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Two slow guests serve all trials.
    args.test_threads = Some(1);
    let cases: Vec<Case> = [
        basic::CASES,
        safety::CASES,
        history::CASES,
        trees::CASES,
        volume::CASES,
        crypt::CASES,
        kills::CASES,
        losses::CASES,
        unprivileged::CASES,
        many::CASES,
        state::CASES,
        mutants::CASES,
        // Last: looks at what all others have done to the kernels.
        panics::CASES,
    ]
    .concat();
    let required = std::env::var("ZMIGRATE_REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|word| word.trim() == "lab");
    let absent = if args.list { None } else { setup::absent().err().map(Arc::new) };
    if let Some(why) = &absent {
        eprintln!("lab: NO LAB HERE, its {} trials do not run: {why}", cases.len());
    }
    let trial = |(name, run): Case| {
        let absent = absent.clone();
        let ignored = absent.is_some() && !required;
        let body = move || match absent {
            Some(why) => Err(Failed::from(&*why)),
            None => in_world(name, run),
        };
        Trial::test(name, body).with_ignored_flag(ignored)
    };
    let trials = cases.into_iter().map(trial).collect();
    let conclusion = libtest_mimic::run(&args, trials);
    if let Some(Ok(world)) = WORLD.get() {
        setup::remove(world);
    }
    conclusion.exit_code()
}

fn in_world(name: &str, run: fn(&World)) -> Result<(), Failed> {
    let world = WORLD.get_or_init(setup::world).as_ref().map_err(Failed::from)?;
    // Where, but not the whole way there: what was said comes with the failure.
    std::panic::set_hook(Box::new(|info| {
        if let Some(at) = info.location() {
            eprintln!("lab: failed at {at}");
        }
    }));
    let started = Instant::now();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(world)));
    eprintln!("lab: {name}: {:.1} s", started.elapsed().as_secs_f64());
    result.map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Failed::from(format!("{said}\n{}", world.daemons_said()))
    })
}
