//! The real programs, end to end: `zmigrate` and `zmigrated` over TLS on loopback, on a real ZFS of this host.
//!
//! Each trial has pools of its own in sparse files below the temporary directory, an authority, two configurations and a
//! daemon; all are gone when it ends, well or not. It needs root. Where there is no ZFS the trials are reported as
//! ignored, aloud, and never as passed; `ZMIGRATE_REQUIRE=zfs_fuse` or `openzfs` turns that into failures.
//! `ZMIGRATE_PART=2/3` runs the second of three parts.
//! `ZMIGRATE_TEST_LOG=debug` makes the daemons say more, which is shown when a trial fails. `ZMIGRATE_BIN_DIR` names the directory of other programs than those of this build. Where there is no cargo,
//! `INSTA_WORKSPACE_ROOT` must name any directory.

// The harness is libtest-mimic, so clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod authority;
mod blows;
mod care;
mod chaos;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod crashes;
mod cutover;
mod damage;
mod databases;
mod enrol;
mod fleet;
mod impostors;
mod jobs;
mod links;
mod people;
mod probes;
mod process;
mod prometheus;
mod proxy;
mod reload;
mod replicate;
mod restore;
mod safety;
mod scheduler;
mod site;
mod stalls;
mod strangers;
mod tls;
mod tools;
mod trees;
mod verify;
mod watch;
mod zfs;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// One trial; it makes its own site.
#[derive(Clone, Copy)]
struct Case {
    module: &'static str,
    name: &'static str,
    run: fn(),
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}::{}", self.module.rsplit("::").next().unwrap_or_default(), self.name)
    }
}

/// `cases![a_function, another]`.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::Case { module: module_path!(), name: stringify!($name), run: $name }),*]
    };
}

/// Pins what a person reads, less what differs from run to run.
#[macro_export]
macro_rules! pin {
    ($site:expr, $text:expr, @$expected:literal) => {
        let filters = $site.filters();
        let filters: Vec<(&str, &str)> = filters.iter().map(|(from, to)| (from.as_str(), *to)).collect();
        insta::with_settings!({filters => filters}, { insta::assert_snapshot!($text, @$expected) })
    };
}

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // They measure times and kill things; and zfs-fuse is happiest with one command at a time.
    args.test_threads.get_or_insert(1);
    let cases: Vec<Case> = [
        replicate::cases(),
        restore::cases(),
        trees::cases(),
        safety::cases(),
        strangers::cases(),
        crashes::cases(),
        links::cases(),
        stalls::cases(),
        reload::cases(),
        jobs::cases(),
        care::cases(),
        scheduler::cases(),
        enrol::cases(),
        authority::cases(),
        people::cases(),
        probes::cases(),
        damage::cases(),
        impostors::cases(),
        chaos::cases(),
        fleet::cases(),
        commands::cases(),
        watch::cases(),
        cutover::cases(),
        verify::cases(),
    ]
    .concat();
    let required = std::env::var("ZMIGRATE_REQUIRE").unwrap_or_default();
    let required: Vec<&str> = required.split(',').map(str::trim).filter(|r| !r.is_empty()).collect();
    let no_databases = databases::absent();
    if let (Some(why), false) = (&no_databases, args.list) {
        eprintln!("e2e: NO DATABASES HERE, their trials do not run: {why}");
    }
    let of_databases = [databases::cases(), cutover::postgres_cases()].concat();
    let of_databases = of_databases.into_iter().map(|case| (case, no_databases.clone(), None));
    let no_promtool = prometheus::absent();
    if let (Some(why), false) = (&no_promtool, args.list) {
        eprintln!("e2e: NO promtool HERE, its trials do not run: {why}");
    }
    let of_promtool = scheduler::promtool_cases().into_iter().map(|case| (case, no_promtool.clone(), Some("promtool")));
    let no_docker = cutover::docker_absent();
    if let (Some(why), false) = (&no_docker, args.list) {
        eprintln!("e2e: NO DOCKER HERE, its trials do not run: {why}");
    }
    let of_docker = cutover::docker_cases().into_iter().map(|case| (case, no_docker.clone(), Some("docker")));
    // Each with what it lacks, and the surrounding of which that is a part, if it is not ZFS.
    let all = cases.iter().map(|case| (*case, None, None)).chain(of_databases).chain(of_promtool).chain(of_docker);
    let all: Vec<(Case, Option<String>, Option<&str>)> = all.collect();
    let mut trials = Vec::new();
    for (backend, kernel) in [("zfs_fuse", false), ("openzfs", true)] {
        let absent = common::look(kernel).err();
        let must_be = required.contains(&backend);
        if let (Some(why), false) = (&absent, args.list) {
            eprintln!("e2e: NO {backend} HERE, its {} trials do not run: {why}", all.len());
        }
        for (case, lacks, of) in all.clone() {
            let lacks_one = lacks.is_some() && !of.map_or(must_be, |of| required.contains(&of));
            let ignored = lacks_one || absent.is_some() && !must_be;
            let absent = absent.clone().or(lacks);
            let trial = move || match absent {
                Some(why) => Err(Failed::from(why)),
                None => {
                    let _timed = common::Timed::new(case);
                    (case.run)();
                    Ok(())
                }
            };
            trials.push(Trial::test(format!("{backend}::{case}"), trial).with_ignored_flag(ignored));
        }
    }
    for case in [tools::cases(), prometheus::cases(), fleet::turns::cases()].concat() {
        let trial = move || {
            (case.run)();
            Ok(())
        };
        trials.push(Trial::test(case.to_string(), trial));
    }
    for case in prometheus::promtool_cases() {
        let ignored = no_promtool.is_some() && !required.contains(&"promtool");
        let trial = move || {
            (case.run)();
            Ok(())
        };
        trials.push(Trial::test(case.to_string(), trial).with_ignored_flag(ignored));
    }
    let trials =
        trials.into_iter().enumerate().filter(|(n, _)| common::is_of_this_part(*n)).map(|(_, trial)| trial).collect();
    let conclusion = libtest_mimic::run(&args, trials);
    common::destroy_pools();
    conclusion.exit_code()
}
