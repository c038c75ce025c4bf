//! The two OpenZFS guests of `scripts/lab`, driven from the host: real pools, real zvols, real TLS over the guests' own
//! link, processes that are killed and a guest that loses its power.
//!
//! `scripts/lab up 1; scripts/lab up 2` first. Without both guests every trial is reported as ignored, aloud, and never
//! as passed; `ZMIGRATE_REQUIRE=lab` turns their absence into failures, and `lab,package` also that of the packages. Three trials run side by side, but for
//! those that must be [`ALONE`]. **The pool `tank` of
//! both guests is destroyed** before and after, and so is everything else that the suite makes in them.

// The harness is libtest-mimic, so clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod basic;
mod crypt;
mod cutover;
mod damage;
mod fanout;
mod guest;
mod history;
mod jobs;
mod kills;
mod losses;
mod many;
mod mutants;
#[path = "../mutants/mutate.rs"]
mod mutate;
mod package;
mod panics;
mod restore;
#[path = "../mutants/rng.rs"]
mod rng;
mod safety;
mod setup;
mod state;
#[path = "../mutants/streams.rs"]
mod streams;
mod trees;
mod unprivileged;
mod verify;
mod volume;
mod world;

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock, RwLock},
    time::Instant,
};

use libtest_mimic::{Arguments, Failed, Trial};
use world::World;

/// A name, and what is done.
pub type Case = (&'static str, fn(&World));

/// Nothing runs beside these: they kill a daemon that all share, cut the power, mount all that can be, or look at a whole pool or at all
/// that was done.
const ALONE: &[&str] = &[
    "dry_run_shows_sizes_and_changes_nothing",
    "push_kill_zmigrated",
    "pull_kill_zmigrated",
    "power_cut_of_the_target",
    "cutover_power_cut_of_the_source",
    "cutover_power_cut_of_the_target",
    "restore_as_it_is_written",
    "no_kernel_complains",
];

/// The trials that are at work, and those that wait to be alone.
static AT_WORK: RwLock<()> = RwLock::new(());

/// The world is set up by the first trial that runs, so that listing and filtering cost nothing.
static WORLD: OnceLock<Result<World, String>> = OnceLock::new();

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Two slow guests serve all trials; each trial waits half of its time.
    args.test_threads.get_or_insert(3);
    let cases: Vec<Case> = [
        // First what takes longest.
        mutants::CASES,
        many::CASES,
        package::CASES,
        jobs::CASES,
        fanout::CASES,
        unprivileged::CASES,
        trees::CASES,
        volume::CASES,
        verify::CASES,
        crypt::CASES,
        basic::CASES,
        safety::CASES,
        history::CASES,
        state::CASES,
        losses::CASES,
        damage::CASES,
        restore::CASES,
        cutover::CASES,
        kills::CASES,
        // Last: looks at what all others have done to the kernels.
        panics::CASES,
    ]
    .concat();
    assert!(ALONE.iter().all(|alone| cases.iter().any(|(name, _)| name == alone)), "ALONE names what is no trial");
    let required = std::env::var("ZMIGRATE_REQUIRE").unwrap_or_default();
    let required = |what: &str| required.split(',').any(|word| word.trim() == what);
    let absent = if args.list { None } else { setup::absent().err().map(Arc::new) };
    if let Some(why) = &absent {
        eprintln!("lab: NO LAB HERE, its {} trials do not run: {why}", cases.len());
    }
    let trial = |(name, run): Case| {
        let unmade = package::missing(name).map(Arc::new);
        let ignored = absent.is_some() && !required("lab") || unmade.is_some() && !required("package");
        let absent = absent.clone().or(unmade);
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
    let (_alone, _beside);
    if ALONE.contains(&name) {
        _alone = AT_WORK.write();
    } else {
        _beside = AT_WORK.read();
    }
    let world = WORLD.get_or_init(setup::world).as_ref().map_err(Failed::from)?;
    // Where and what, but not the whole way there; it comes again at the end, with what the daemons said.
    std::panic::set_hook(Box::new(|info| eprintln!("lab: failed: {info}")));
    let started = Instant::now();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(world)));
    eprintln!("time: {:.1} s {name}", started.elapsed().as_secs_f64());
    result.map_err(|panic| {
        let daemons_said = world.daemons_said();
        // What kills a daemon or a guest, and fails before it is there again, fails by itself.
        if ALONE.contains(&name) {
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| setup::revive(world))) {
                Ok(Ok(())) => {}
                Ok(Err(why)) => eprintln!("lab: after {name}: {why}"),
                Err(_) => eprintln!("lab: after {name}: no daemon"),
            }
        }
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Failed::from(format!("{said}\n{daemons_said}"))
    })
}
