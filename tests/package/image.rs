//! The static programs, and the image: loaded into an engine that has no registry, and used there without any privilege.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Case,
    common::{engine::Engine, run},
};

pub const CASES: &[Case] = &[
    ("the_static_programs_run_where_there_is_nothing_else", the_static_programs_run_where_there_is_nothing_else),
    ("the_image_holds_what_is_run_and_no_more", the_image_holds_what_is_run_and_no_more),
    ("two_containers_talk_to_each_other", two_containers_talk_to_each_other),
];

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The least that a container can be given.
const BARE: [&str; 7] = [
    "--rm",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--user=8551:8551",
    "--network=host",
    "--tmpfs=/tmp",
];

fn the_static_programs_run_where_there_is_nothing_else(image: &Path) {
    let empty = tempfile::tempdir().unwrap();
    let at = empty.path().display().to_string();
    for name in ["zmigrate", "zmigrated"] {
        fs::copy(image.with_file_name("static").join(name), empty.path().join(name)).unwrap();
        let said = run("chroot", &[&at, &format!("/{name}"), "--version"]).unwrap();
        assert_eq!(said.trim(), format!("{name} {VERSION}"));
    }
    // Randomness, keys, files.
    run("chroot", &[&at, "/zmigrate", "ca", "init", "--dir", "/ca"]).unwrap();
    assert!(empty.path().join("ca/ca.pem").exists());
}

/// An engine that has loaded it.
fn engine(image: &Path) -> Engine {
    let engine = Engine::new();
    let said = engine.docker(&["load", "-i", &image.display().to_string()]).unwrap();
    assert!(said.contains(&format!("zmigrate:{VERSION}")), "{said}");
    engine
}

fn the_image_holds_what_is_run_and_no_more(image: &Path) {
    let engine = engine(image);
    let label = "{{index .Config.Labels \"org.opencontainers.image.version\"}} {{index .Config.Labels \"zmigrate.zfsutils-linux\"}}";
    let labels = engine.docker(&["inspect", "-f", label, "zmigrate"]).unwrap();
    let (version, zfs) = labels.trim().split_once(' ').unwrap();
    assert_eq!(version, VERSION);
    let call = |args: &[&str]| engine.docker(&[&["run"], &BARE[..], &["zmigrate"], args].concat());
    assert_eq!(call(&["zmigrate", "--version"]).unwrap().trim(), format!("zmigrate {VERSION}"));
    assert_eq!(call(&["zmigrated", "--version"]).unwrap().trim(), format!("zmigrated {VERSION}"));
    // Their libraries are there; the kernel's ZFS is not, or this user may not ask it.
    for command in [["zfs", "list"], ["zpool", "list"]] {
        let said = call(&command).expect_err("there is no ZFS in here");
        assert!(said.contains("ZFS modules") || said.contains("/dev/zfs"), "zfsutils-linux {zfs}: {said}");
    }
    assert!(call(&["sh", "-c", "true"]).unwrap_err().contains("executable file not found"));
}

/// An authority, two nodes, and bytes between them: all that needs no ZFS.
fn two_containers_talk_to_each_other(image: &Path) {
    let engine = engine(image);
    let dir = engine.dir().join("nodes");
    fs::create_dir(&dir).unwrap();
    let volume = format!("--volume={}:/nodes", dir.display());
    let call = |args: &[&str]| engine.docker(&[&["run"], &BARE[..], &[&volume, "zmigrate", "zmigrate"], args].concat());
    run("chown", &["8551:8551", &dir.display().to_string()]).unwrap();
    call(&["ca", "init", "--dir", "/nodes/ca"]).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (name, other) in [("east", "west"), ("west", "east")] {
        call(&["ca", "issue", name, "--dir", "/nodes/ca", "--out", &format!("/nodes/{name}")]).unwrap();
        let toml = format!(
            "listen = \"127.0.0.1:{port}\"\nstate_dir = \"/nodes/{name}/state\"\nruntime_dir = \"/nodes/{name}/run\"\n\
             [identity]\ndir = \"/nodes/{name}\"\n[peer.{other}]\naddress = \"127.0.0.1:{port}\"\n\
             [grant.{other}]\npush = [\"tank/in\"]\n"
        );
        fs::write(dir.join(format!("{name}.toml")), toml).unwrap();
    }
    let daemon = ["run", "-d", "--name=west"];
    engine
        .docker(&[&daemon, &BARE[1..], &[&volume, "zmigrate", "zmigrated", "--config", "/nodes/west.toml"]].concat())
        .unwrap();
    let probe = ["--config", "/nodes/east.toml", "probe", "west", "--bytes", "8M", "--output", "json"];
    let began = Instant::now();
    let report = loop {
        match call(&probe) {
            Ok(report) => break report,
            Err(why) if began.elapsed() > Duration::from_secs(60) => {
                panic!("{why}\n{:?}", engine.docker(&["logs", "west"]))
            }
            Err(_) => sleep(Duration::from_millis(500)),
        }
    };
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["raw_bytes"].as_u64().is_some_and(|bytes| bytes >= 8 << 20), "{report}");
    // As process 1 it still hears that it should end, and ends well.
    engine.docker(&["stop", "west"]).unwrap();
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.ExitCode}}", "west"]).unwrap().trim(), "0");
}
