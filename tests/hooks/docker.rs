//! A Docker Engine of our own, with an image made of one static busybox.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use zmigrate::{
    hook::HookKind,
    port::hook::{HookErrorKind, HookVerb},
};

use crate::{Case, call, common::engine::Engine};

pub fn look() -> Result<(), String> {
    Engine::look()
}

pub fn cases() -> Vec<Case> {
    vec![
        ("a_container_is_stopped_and_started_also_twice", a_container_is_stopped_and_started_also_twice),
        ("a_container_that_hangs_is_killed_by_docker", a_container_that_hangs_is_killed_by_docker),
        ("a_container_that_does_not_stay_up_is_told", a_container_that_does_not_stay_up_is_told),
        ("a_container_is_well_when_its_health_check_says_so", a_container_is_well_when_its_health_check_says_so),
        ("a_container_or_an_engine_that_is_not_there_is_told", a_container_or_an_engine_that_is_not_there_is_told),
    ]
}

/// A container that is made and not started.
fn create(engine: &Engine, name: &str, options: &[&str], script: &str) -> HookKind {
    engine.create(name, options, script);
    HookKind::Docker { container: name.parse().unwrap(), socket: engine.socket() }
}

const SERVE: &str = "trap 'exit 0' TERM; while :; do busybox sleep 0.1; done";

fn a_container_is_stopped_and_started_also_twice() {
    let engine = Engine::with_box();
    let kind = create(&engine, "web-1", &[], SERVE);
    call(&kind, HookVerb::Prepare, 10).unwrap();
    assert_eq!(engine.status("web-1"), "created");
    for _ in 0..2 {
        call(&kind, HookVerb::Start, 10).unwrap();
        assert_eq!(engine.status("web-1"), "running");
    }
    call(&kind, HookVerb::Check, 10).unwrap();
    for _ in 0..2 {
        let said = call(&kind, HookVerb::Stop, 10).unwrap();
        assert_eq!(said.lines, ["container web-1 ended with exit code 0"]);
        assert_eq!(engine.status("web-1"), "exited");
    }
    call(&kind, HookVerb::Start, 10).unwrap();
    engine.docker(&["pause", "web-1"]).unwrap();
    let paused = call(&kind, HookVerb::Check, 10).unwrap_err();
    assert!(paused.cause.contains("is paused; docker unpause web-1"), "{paused}");
}

fn a_container_that_hangs_is_killed_by_docker() {
    let engine = Engine::with_box();
    let kind = create(&engine, "deaf", &[], "trap '' TERM; while :; do busybox sleep 0.1; done");
    call(&kind, HookVerb::Start, 10).unwrap();
    let began = Instant::now();
    let said = call(&kind, HookVerb::Stop, 2).unwrap();
    assert!((2..30).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(said.lines, ["container deaf ended with exit code 137"]);
    assert_eq!(engine.status("deaf"), "exited");
}

fn a_container_that_does_not_stay_up_is_told() {
    let engine = Engine::with_box();
    let kind = create(&engine, "short", &[], "exit 7");
    // It may still have been seen running by the start; the check sees it down.
    let _ = call(&kind, HookVerb::Start, 10);
    while engine.status("short") == "running" {
        sleep(Duration::from_millis(50));
    }
    let down = call(&kind, HookVerb::Check, 5).unwrap_err();
    assert!(down.cause.contains("container short does not stay up (exit code 7); see docker logs short"), "{down}");
    let kind = create(&engine, "again", &["--restart", "always"], "exit 7");
    let _ = call(&kind, HookVerb::Start, 10);
    sleep(Duration::from_secs(2));
    call(&kind, HookVerb::Stop, 10).unwrap();
    sleep(Duration::from_secs(2));
    assert_eq!(engine.status("again"), "exited", "it was stopped, so it is not started again");
}

fn a_container_is_well_when_its_health_check_says_so() {
    let engine = Engine::with_box();
    let health = ["--health-cmd", "busybox test -e /well", "--health-interval", "1s", "--health-retries", "2"];
    let ill = create(&engine, "ill", &health, SERVE);
    call(&ill, HookVerb::Start, 10).unwrap();
    let error = call(&ill, HookVerb::Check, 12).unwrap_err();
    assert_eq!(error.kind, HookErrorKind::TimedOut);
    assert!(
        error.cause.contains("is \"unhealthy\", not healthy") || error.cause.contains("is \"starting\""),
        "{error}"
    );
    let well = create(&engine, "well", &health, &format!("busybox sleep 2; : > /well; {SERVE}"));
    call(&well, HookVerb::Start, 10).unwrap();
    call(&well, HookVerb::Check, 90).unwrap();
}

fn a_container_or_an_engine_that_is_not_there_is_told() {
    let engine = Engine::with_box();
    let kind = HookKind::Docker { container: "nobody".parse().unwrap(), socket: engine.socket() };
    for verb in [HookVerb::Prepare, HookVerb::Stop, HookVerb::Start, HookVerb::Check] {
        let error = call(&kind, verb, 5).unwrap_err();
        assert!(error.cause.contains("No such container: nobody"), "{error}");
    }
    let kind = HookKind::Docker { container: "nobody".parse().unwrap(), socket: engine.dir().join("none") };
    let error = call(&kind, HookVerb::Prepare, 5).unwrap_err();
    assert!(error.kind == HookErrorKind::Missing && error.cause.contains("No such file or directory"), "{error}");
}
