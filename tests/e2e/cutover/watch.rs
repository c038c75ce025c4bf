//! `status --watch` on a terminal of 80 columns, while a cutover holds and until it is done.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::bench::{Bench, json};
use crate::{Case, cases, process::wait_for, site::program, zfs::populate};

pub fn cases() -> Vec<Case> {
    cases![a_held_cutover_is_watched]
}

/// What clears a screen before it is drawn anew.
const CLEAR: &str = "\x1b[H\x1b[2J";

fn a_held_cutover_is_watched() {
    let bench = Bench::new();
    populate(&bench.east(), 1, 1_000_000);
    bench.write();
    let running = bench.start(&["--hold"]);
    wait_for("the cutover to be armed", 60, || running.stderr().contains("all is ready"));
    let id = bench.status()["id"].as_str().unwrap().to_owned();
    let typescript = bench.site.dir.join("typescript");
    let config = bench.site.dir.join("east.toml").display().to_string();
    let zmigrate = program("zmigrate").display().to_string();
    let command = format!("stty cols 80 rows 40; exec {zmigrate} --config {config} cutover status {id} --watch");
    // script(1) of util-linux runs it on a terminal of its own.
    let mut watching = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command", &command])
        .arg(&typescript)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let drawn = || fs::read_to_string(&typescript).unwrap_or_default().matches(CLEAR).count();
    wait_for("it to be drawn again", 30, || drawn() >= 3);
    let text = fs::read_to_string(&typescript).unwrap();
    // The first drawing, whole; before it stands what `script` says.
    let screen = text.split(CLEAR).nth(1).unwrap().replace('\r', "");
    let (head, rest) = screen.split_once('\n').unwrap();
    assert!(head.starts_with(&format!("cutover {id}: armed ")) && head.contains(&bench.east()), "{screen}");
    // Names are never broken, the other lines are made for this width.
    assert!(rest.lines().all(|line| line.chars().count() <= 80), "{screen}");
    let labelled = |label: &str| {
        let from = rest.find(&format!("\n  {label:<10} ")).unwrap_or_else(|| panic!("no {label}: {screen}"));
        let own = rest[from + 14..].lines();
        let more = own.clone().skip(1).take_while(|line| line.starts_with(&" ".repeat(13))).map(str::trim);
        own.take(1).chain(more).collect::<Vec<_>>().join(" ")
    };
    let needs = labelled("NEEDS");
    assert!(needs.contains(&format!("`cutover go {id}` or `cutover abort {id}`?")), "{needs}");
    let downtime = labelled("downtime");
    let predicted = downtime.strip_prefix("-, predicted ").and_then(|time| time.strip_suffix(" s"));
    assert!(predicted.is_some_and(|s| s.parse::<f64>().unwrap() > 0.0), "{downtime}");
    assert_eq!(labelled("go"), "stops the source's writers and moves the unit");
    assert_eq!(labelled("abort"), "ends it; the source has not been stopped");
    assert_eq!(labelled("nothing"), "passes go on; the source serves");
    assert!(rest.lines().any(|line| line.starts_with("  pass 1: ") && line.contains("iB in ")), "{screen}");
    // It ends with what it shows.
    bench.cutover(&["go", &id]).must(0);
    assert_eq!(json(&running.wait(60).must(0))["result"], "done");
    assert!(watching.wait().unwrap().success());
    let text = fs::read_to_string(&typescript).unwrap().replace('\r', "");
    let last = text.rsplit(CLEAR).next().unwrap();
    assert!(last.starts_with(&format!("cutover {id}: done ")) && last.contains("\n  proof "), "{last}");
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}
