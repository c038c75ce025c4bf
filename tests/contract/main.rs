//! One contract for every implementation of the `Zfs` port: the same trials over the fake, zfs-fuse and OpenZFS.
//!
//! A backend that is not there is reported as ignored, aloud, and never as passed. `ZMIGRATE_REQUIRE=zfs_fuse,openzfs`
//! turns its absence into failures. The binary needs nothing beside it, so it can be copied into a guest and run there.
//! The real backends need root; their pools live in files below the temporary directory and are destroyed at the end.

// The harness is libtest-mimic, so clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod case;
#[path = "../common/mod.rs"]
mod common;
mod fakes;
mod operations;
mod real;
mod scale;
mod streams;
mod trees;
mod world;

use std::{process::ExitCode, sync::Arc};

use case::{Backend, Case};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // One pool serves all trials of a backend, and zfs-fuse is happiest with one command at a time.
    args.test_threads.get_or_insert(1);
    let cases: Vec<Case> = [operations::cases(), trees::cases(), streams::cases(), scale::cases()].concat();
    let required = std::env::var("ZMIGRATE_REQUIRE").unwrap_or_default();
    let required: Vec<&str> = required.split(',').map(str::trim).filter(|r| !r.is_empty()).collect();
    let backends: Vec<Backend> = fakes::backends().into_iter().chain(real::backends()).collect();
    let mut trials = Vec::new();
    for unknown in required.iter().filter(|r| backends.iter().all(|b| b.name != **r)) {
        let why = format!("ZMIGRATE_REQUIRE names {unknown}, which is no backend of this build");
        trials.push(Trial::test(format!("required::{unknown}"), move || Err(Failed::from(why))));
    }
    for backend in backends {
        let wanted = args.list || cases.iter().any(|c| is_wanted(&args, &format!("{}::{}", backend.name, c.name)));
        if wanted {
            trials.extend(trials_of(backend, &cases, args.list, &required));
        }
    }
    let conclusion = libtest_mimic::run(&args, trials);
    common::destroy_pools();
    conclusion.exit_code()
}

fn is_wanted(args: &Arguments, name: &str) -> bool {
    args.filter.as_ref().is_none_or(|f| if args.exact { name == f } else { name.contains(f.as_str()) })
}

fn trials_of(backend: Backend, cases: &[Case], list_only: bool, required: &[&str]) -> Vec<Trial> {
    let opened = if list_only { Err("only listed".to_owned()) } else { (backend.open)() };
    let must_be = required.contains(&backend.name);
    let name = |case: &Case| format!("{}::{}", backend.name, case.name);
    let factory = match opened {
        Ok(factory) => Arc::new(factory),
        Err(why) => {
            if !list_only {
                eprintln!("contract: NO {} HERE, its {} trials do not run: {why}", backend.name, cases.len());
            }
            let absent = |case| {
                let why = why.clone();
                let run = move || if must_be { Err(Failed::from(why)) } else { Ok(()) };
                Trial::test(name(case), run).with_ignored_flag(!must_be && !list_only)
            };
            return cases.iter().map(absent).collect();
        }
    };
    let lacks: Vec<(&str, &str)> = cases.iter().filter_map(|c| Some((c.name, (c.lacks)(&factory.traits)?))).collect();
    if !lacks.is_empty() {
        let each: Vec<String> = lacks.iter().map(|(name, why)| format!("{name} ({why})")).collect();
        eprintln!("contract: {} cannot do all; not run: {}", backend.name, each.join(", "));
    }
    let trial = |case: &Case| {
        let (case, factory) = (*case, factory.clone());
        let ignored = (case.lacks)(&factory.traits).is_some();
        Trial::test(name(&case), move || run(&factory, case)).with_ignored_flag(ignored)
    };
    cases.iter().map(trial).collect()
}

fn run(factory: &case::Factory, case: Case) -> Result<(), Failed> {
    let _timed = common::Timed::new(case.name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let world = (factory.make)(case.name);
    runtime.block_on((case.run)(&world));
    Ok(())
}
