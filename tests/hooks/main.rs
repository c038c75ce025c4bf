//! Hooks on the real things: a Docker Engine of our own with containers of one busybox, and a frozen ext4 on a loop device.
//!
//! All of it lives below the temporary directory and is gone at the end. It needs root. Where the programs are not there, the
//! trials are reported as ignored, aloud; `ZMIGRATE_REQUIRE=docker,loop` turns that into failures. systemd does not run where
//! these tests do: what it is asked and believed is tested in `src/adapter/hook/tests.rs` with a stand-in for `systemctl`.

// The harness is libtest-mimic, so clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod docker;
mod freeze;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};
use zmigrate::{
    adapter::hook::{HookTools, HostHooks},
    cutover::leg::{CutoverId, Epoch, Leg, Side},
    hook::{Hook, HookKind},
    port::hook::{HookCall, HookError, HookOutput, HookVerb, Hooks},
};

type Case = (&'static str, fn());

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let required = std::env::var("ZMIGRATE_REQUIRE").unwrap_or_default();
    let required: Vec<&str> = required.split(',').map(str::trim).collect();
    let mut trials = Vec::new();
    for (backend, absent, cases) in
        [("docker", docker::look().err(), docker::cases()), ("loop", freeze::look().err(), freeze::cases())]
    {
        let must_be = required.contains(&backend);
        if let (Some(why), false) = (&absent, args.list) {
            eprintln!("hooks: NO {backend} HERE, its {} trials do not run: {why}", cases.len());
        }
        for (name, run) in cases {
            let absent = absent.clone();
            let ignored = absent.is_some() && !must_be;
            let trial = move || match absent {
                Some(why) => Err(Failed::from(why)),
                None => {
                    run();
                    Ok(())
                }
            };
            trials.push(Trial::test(format!("{backend}::{name}"), trial).with_ignored_flag(ignored));
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

/// Calls a hook of that kind, which has so long.
fn call(kind: &HookKind, verb: HookVerb, timeout_s: u64) -> Result<HookOutput, HookError> {
    let timeout = Duration::from_secs(timeout_s);
    let hook = Hook { kind: kind.clone(), check: None, check_timeout: timeout, timeout };
    let name: zmigrate::hook::HookName = "it".parse().unwrap();
    let tools = HookTools::of_the_system("/var/lib/zmigrate".as_ref());
    let hooks = HostHooks::new(BTreeMap::from([(name.clone(), hook)]), tools);
    let leg = Leg { id: CutoverId(7), epoch: Epoch(1) };
    let call = HookCall { name, verb, leg, side: Side::Source, datasets: vec!["tank/a".parse().unwrap()] };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(hooks.call(&call))
}
