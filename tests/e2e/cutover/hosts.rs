//! Two hosts that want the same dataset of a third one.

use std::{fs, path::PathBuf};

use rustix::process::Signal;

use super::bench::{Bench, is_writable, json};
use crate::{
    Case, cases,
    process::{Running, wait_for},
    site::{issue, program},
    zfs::{create, exists, populate},
};

pub fn cases() -> Vec<Case> {
    cases![a_second_host_is_told_of_the_first, two_hosts_that_begin_at_once]
}

/// Another host, whose datasets are in east's pool; it knows nothing of what east keeps.
struct South {
    dir: PathBuf,
}

impl South {
    /// It may do at west what east may.
    fn beside(bench: &mut Bench) -> South {
        let (dir, west) = (bench.site.dir.clone(), bench.site.west.clone());
        issue(&dir.join("ca"), "south", &dir.join("south"));
        let grant = |name: &str| {
            format!("[grant.{name}]\npush = [\"{west}/in\"]\npull = [\"{west}/in\"]\ncutover = [\"{west}/in\"]\n")
        };
        bench.site.write_configs(&(grant("east") + &grant("south")), None);
        bench.site.signal_daemon(Signal::TERM);
        bench.site.reap_daemon(20);
        bench.site.start_daemon();
        let (at, port) = (dir.display(), bench.site.port);
        let config = format!(
            "state_dir = \"{at}/south.state\"\nruntime_dir = \"{at}/south.run\"\n[identity]\ndir = \"{at}/south\"\n\
             [peer.west]\naddress = \"127.0.0.1:{port}\"\n"
        );
        fs::write(dir.join("south.toml"), config).unwrap();
        South { dir }
    }

    fn start(&self, args: &[&str], environment: &[(&str, &str)]) -> Running {
        let config = self.dir.join("south.toml").display().to_string();
        let args = [&["--config", &config, "cutover"], args, &["--output", "json"]].concat();
        Running::start(&program("zmigrate"), &args, &self.dir.join(format!("south-{}", args[3])), environment)
    }
}

fn a_second_host_is_told_of_the_first() {
    let mut bench = Bench::new();
    let south = South::beside(&mut bench);
    bench.write();
    let running = bench.start(&["--hold"]);
    wait_for("the cutover to be armed", 60, || running.stderr().contains("all is ready"));
    let id = bench.status()["id"].as_str().unwrap().to_owned();
    let other = bench.site.e("other");
    create(&other);
    let target = format!("west:{}", bench.west());
    let already = format!("takes part in cutover {id} already");
    south.start(&["start", &other, &target], &[]).wait(60).must(3).says(&[&already, "let that one end first"]);
    // Nor does west give away what is just coming to it.
    let away = bench.site.e("away");
    south.start(&["start", &target, &away], &[]).wait(60).must(3).says(&[&already]);
    assert!(is_writable(&other) && !exists(&away) && bench.writer_runs());
    bench.cutover(&["go", &id]).must(0);
    assert_eq!(json(&running.wait(60).must(0))["result"], "done");
    // And nothing is moved over what serves.
    south.start(&["start", &other, &target], &[]).wait(60).must(3).says(&["is a writable side already"]);
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

/// Neither knows of the other when it looks; the peer takes part in the first that arms it, and refuses the other.
fn two_hosts_that_begin_at_once() {
    let mut bench = Bench::new();
    let south = South::beside(&mut bench);
    let db = bench.site.w("in/db");
    create(&db);
    populate(&db, 1, 300_000);
    let source = format!("west:{db}");
    let (east, at_south) = (bench.site.e("db"), bench.site.e("db-south"));
    let pause = bench.site.dir.join("pause");
    fs::write(&pause, "").unwrap();
    let waits = [("ZMIGRATE_PAUSE_AT", "lead:before:arm"), ("ZMIGRATE_PAUSE_FILE", pause.to_str().unwrap())];
    let late = south.start(&["start", &source, &at_south, "--max-downtime", "60s", "--tries", "1"], &waits);
    wait_for("south to be about to arm", 60, || late.stderr().contains("waits at lead:before:arm"));
    let args = ["cutover", "start", &source, &east, "--hold", "--max-downtime", "60s", "--output", "json"];
    let first = bench.site.start(&args);
    wait_for("east's cutover to be armed", 60, || first.stderr().contains("all is ready"));
    let status: serde_json::Value = serde_json::from_str(&bench.cutover(&["status"]).must(0).stdout).unwrap();
    let id = status["cutovers"][0]["id"].as_str().unwrap().to_owned();
    fs::remove_file(&pause).unwrap();
    let asks = json(&late.wait(120).must(9));
    let needs = asks["needs"].as_str().unwrap();
    assert!(needs.contains(&format!("cutover {id} is under way here")), "{needs}");
    assert!(is_writable(&db) && !is_writable(&at_south) && !is_writable(&east));
    // That one ends, and the first is none the worse.
    let aborted = json(&south.start(&["abort", asks["id"].as_str().unwrap()], &[]).wait(120).must(0));
    assert_eq!(aborted["result"], "rolled_back");
    assert!(is_writable(&db));
    bench.cutover(&["go", &id]).must(0);
    assert_eq!(json(&first.wait(60).must(0))["result"], "done");
    assert!(is_writable(&east) && !is_writable(&db) && !is_writable(&at_south));
}
