//! A program in a container writes into a dataset that moves, and the hook of each host is a container of its own: one is stopped, the
//! other is started. Both hosts are this machine, and have one engine.
//!
//! A container has the mount in a namespace of its own, for as long as it runs; what it starts with is what the host has mounted then.

use std::fs;

use super::{
    bench::{Bench, is_writable, json, settings},
    phases::{abort_now, go_on, held_at, id_of},
};
use crate::{
    Case, cases,
    common::engine::Engine,
    process::wait_for,
    site::Site,
    zfs::{create, get},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_container_goes_on_at_the_target,
        a_container_writes_again_after_an_abort,
        a_container_that_no_hook_stops_keeps_the_source,
    ]
}

/// Why there can be no container, if so.
pub fn absent() -> Option<String> {
    Engine::look().err()
}

/// The writer of the bench, for the shell of busybox.
const WRITER: &str = "exec 2>&1; trap 'exit 0' TERM; n=$(busybox tail -n 1 /data/records 2>/dev/null); n=${n:-0}; while :; do n=$((n + 1)); \
     echo $n >>/data/records && busybox sync /data/records && echo $n >>/acknowledged || exit 1; done";

/// The unit that moves, and the containers `east` and `west`, which have the dataset of their side at `/data`.
struct Containers {
    // Dropped first: what runs in a container keeps a pool busy.
    engine: Engine,
    bench: Bench,
}

impl Containers {
    fn new() -> Containers {
        let mut site = Site::quiet();
        let engine = Engine::with_box();
        let hook = |container: &str| {
            let socket = engine.socket();
            format!("[hook.writer]\ndocker = \"{container}\"\ndocker_socket = \"{}\"\n", socket.display())
        };
        (site.more, site.west_more) = (hook("east"), hook("west"));
        let grants = format!("{}cutover = [\"{}/in\"]\n", site.default_grant(), site.west);
        site.write_configs(&grants, None);
        site.start_daemon();
        create(&site.e("app"));
        create(&site.w("in"));
        let acknowledged = site.dir.join("acknowledged");
        fs::write(&acknowledged, "").unwrap();
        // The target's dataset is not there yet: it will be mounted at this place before its container starts.
        let (east, west) = (get(&site.e("app"), "mountpoint").0, format!("{}/app", get(&site.w("in"), "mountpoint").0));
        for (name, at) in [("east", east), ("west", west)] {
            let (data, acknowledged) = (format!("{at}:/data"), format!("{}:/acknowledged", acknowledged.display()));
            engine.create(name, &["-v", &data, "-v", &acknowledged], WRITER);
        }
        Containers { engine, bench: Bench { site, name: "app".to_owned() } }
    }

    /// Starts east's, and lets it write some.
    #[track_caller]
    fn write(&self) {
        self.engine.docker(&["start", "east"]).unwrap();
        self.writes();
    }

    /// Waits until more records are acknowledged; tells what the containers said if there are none.
    #[track_caller]
    fn writes(&self) {
        let (from, engine) = (self.bench.acknowledged(), &self.engine);
        let more = || self.bench.acknowledged() >= from + 20;
        wait_for("a container to write", 30, || {
            let stands = engine.status("east") != "running" && engine.status("west") != "running";
            assert!(!stands || more(), "none runs: {:?}", ["east", "west"].map(|name| engine.docker(&["logs", name])));
            more()
        });
    }

    /// What Docker says of east's and of west's.
    #[track_caller]
    fn statuses(&self) -> [String; 2] {
        ["east", "west"].map(|name| self.engine.status(name))
    }

    /// The end: the writer stops, and one side has all of it. True if that is west.
    #[track_caller]
    fn serves_at_west(&self) -> bool {
        self.engine.docker(&["stop", "east", "west"]).unwrap();
        self.bench.assert_one_side_has_it_all()
    }
}

/// Read-only, and nowhere mounted.
#[track_caller]
fn is_fenced(dataset: &str) {
    assert_eq!(get(dataset, "readonly"), ("on".into(), "local".into()), "{dataset}");
    assert_eq!(get(dataset, "mounted").0, "no", "{dataset}");
}

fn a_container_goes_on_at_the_target() {
    let it = Containers::new();
    let bench = &it.bench;
    it.write();
    let result = json(&bench.start(&[]).wait(120).must(0));
    assert_eq!(result["result"], "done", "{result}");
    assert_eq!(it.statuses(), ["exited", "running"]);
    it.writes();
    assert!(bench.assert_one_side_has_it_all(), "west serves");
    is_fenced(&bench.east());
    let id = result["id"].as_str().unwrap();
    assert_eq!(json(&bench.cutover(&["back", id]).must(0))["result"], "done");
    assert_eq!(it.statuses(), ["running", "exited"]);
    it.writes();
    is_fenced(&bench.west());
    assert!(!it.serves_at_west());
}

fn a_container_writes_again_after_an_abort() {
    let it = Containers::new();
    let bench = &it.bench;
    let before = settings(&bench.east());
    it.write();
    // Stopped, and not fenced yet; and fenced, with the final snapshot taken.
    for point in ["lead:after:fence", "lead:after:sync"] {
        let running = held_at(bench, point, &[]);
        assert_eq!(it.statuses(), ["exited", "created"], "{point}");
        if point == "lead:after:sync" {
            assert!(!is_writable(&bench.east()) && !is_writable(&bench.west()), "{point}");
        }
        let abort = abort_now(bench, &id_of(bench));
        go_on(bench);
        assert_eq!(json(&abort.wait(120).must(0))["result"], "rolled_back", "{point}");
        assert_eq!(json(&running.wait(120).must(8))["result"], "rolled_back", "{point}");
        assert_eq!(it.statuses(), ["running", "created"], "{point}");
        it.writes();
        assert!(!bench.assert_one_side_has_it_all(), "{point}: east serves");
        assert_eq!(settings(&bench.east()), before, "{point}: values and their sources are what they were");
    }
    // And it can be begun again.
    assert_eq!(json(&bench.start(&[]).wait(120).must(0))["result"], "done");
    assert_eq!(it.statuses(), ["exited", "running"]);
    it.writes();
    assert!(it.serves_at_west());
}

/// One that merely has the dataset among its directories: the host's unmount does not reach it.
fn a_container_that_no_hook_stops_keeps_the_source() {
    let it = Containers::new();
    let Containers { engine, bench } = &it;
    it.write();
    let seen = format!("{}:/seen", get(&bench.east(), "mountpoint").0);
    engine.create("onlooker", &["-v", &seen], "trap 'exit 0' TERM; while :; do busybox sleep 0.1; done");
    engine.docker(&["start", "onlooker"]).unwrap();
    let who = "has mounted, in a namespace of its own, /seen";
    let done = bench.start(&["--tries", "1", "--kill-busy"]).wait(120).says(&["is still mounted elsewhere", who]);
    assert_eq!(engine.status("onlooker"), "running", "it is not ended");
    assert_eq!(engine.status("west"), "created");
    bench.assert_not_two_sides();
    engine.docker(&["stop", "onlooker"]).unwrap();
    // zfs-fuse cannot mount it again while it is mounted anywhere, so the way back may have had to wait.
    if done.code != Some(8) {
        assert_eq!(json(&bench.cutover(&["resume", &id_of(bench)]).must(8))["result"], "rolled_back");
    }
    assert_eq!(it.statuses(), ["running", "created"]);
    it.writes();
    assert!(!it.serves_at_west());
}
