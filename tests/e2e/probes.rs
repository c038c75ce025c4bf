//! `zmigrate probe`: the whole way that a transfer takes, and nothing is kept.

use std::{
    fs,
    io::Write,
    thread::{sleep, spawn},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Case, cases,
    common::{noise, run},
    process::Done,
    proxy::Proxy,
    site::Site,
    zfs::state,
};

pub fn cases() -> Vec<Case> {
    cases![
        a_probe_tells_of_the_way_and_asks_no_zfs,
        a_probe_of_a_file,
        a_probe_that_cannot_be,
        an_input_that_is_slow_is_the_verdict,
        a_level_that_is_slow_is_the_verdict,
        a_network_that_is_slow_is_the_verdict,
        a_window_that_is_small_for_a_long_way_is_the_verdict,
    ]
}

fn probe(site: &Site, args: &[&str]) -> Done {
    site.start(&[&["--output", "json", "probe", "west"], args].concat()).wait(60)
}

fn report(done: Done) -> Value {
    serde_json::from_str(&done.must(0).stdout).unwrap()
}

/// A `zfs` that writes down what it is asked.
const LISTENER: &str = "echo \"$*\" >>\"$DIR/asked\"\nexec zfs \"$@\"\n";

fn a_probe_tells_of_the_way_and_asks_no_zfs() {
    let mut site = Site::quiet();
    site.more = site.wrapped_zfs("listener", LISTENER);
    site.west_more = site.more.clone();
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let asked = || fs::read_to_string(site.dir.join("asked")).unwrap_or_default();
    let before = (state(&site.east), state(&site.west), asked());
    let random = report(probe(&site, &["--bytes", "9M"]));
    assert_eq!((&random["result"], &random["peer"], &random["streams"]), (&"done".into(), &"west".into(), &1.into()));
    let bytes = |report: &Value, field: &str| report[field].as_u64().unwrap();
    // Every block has a record of its own, and the stream a BEGIN, a file and an END.
    assert_eq!(bytes(&random, "raw_bytes"), (9 << 20) + (72 + 3) * 312);
    assert!(bytes(&random, "wire_bytes") >= 9 << 20, "what does not compress was compressed: {random}");
    assert!(random["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 3000.0), "{random}");
    for side in ["sender", "receiver"] {
        assert!(random[side]["judging_s"].as_f64().is_some_and(|s| s > 0.0), "{random}");
    }
    let text = report(probe(&site, &["--bytes", "9M", "--data", "text", "--compress", "zstd:1", "--streams", "3"]));
    assert!(bytes(&text, "wire_bytes") < 5 << 20, "{text}");
    assert_eq!(text["streams"], 3);
    // A limit that holds it back is what it says.
    let limited = report(probe(&site, &["--bytes", "4M", "--bwlimit", "2M", "--compress", "none"]));
    assert_eq!(limited["held_back_by"], "limit", "{limited}");
    assert!(limited["seconds"].as_f64().unwrap() > 1.0, "{limited}");
    let said = site.start(&["probe", "west", "--bytes", "1M"]).wait(60).must(0).stdout;
    for words in ["west: ", "round trip ", "held back by ", "sender: ", "receiver: "] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!((state(&site.east), state(&site.west), asked()), before, "a probe asked ZFS, or changed it");
}

fn a_probe_of_a_file() {
    let site = Site::new();
    let db = site.source("db", 1 << 20);
    let (stream, other) = (site.dir.join("stream"), site.dir.join("other"));
    let path = |file: &std::path::Path| file.to_string_lossy().into_owned();
    zfs_send(&format!("{db}@s1"), &stream);
    fs::write(&other, noise(700_000, 1)).unwrap();
    // A send stream goes as it is, anything else inside one.
    let len = fs::metadata(&stream).unwrap().len();
    assert_eq!(report(probe(&site, &["--input", &path(&stream)]))["raw_bytes"], len);
    let around = report(probe(&site, &["--input", &path(&other)]))["raw_bytes"].as_u64().unwrap();
    assert!((700_000..720_000).contains(&around), "{around}");
    // Its standard input is empty here.
    assert_eq!(report(probe(&site, &["--input", "-"]))["raw_bytes"], 3 * 312);
    // What fails is named, and it is not `zfs send`, which nobody has run.
    let mut bytes = fs::read(&stream).unwrap();
    bytes[500_000] ^= 1;
    fs::write(&stream, bytes).unwrap();
    let dir = path(&site.dir);
    for (input, code, words) in [(path(&stream), 6, "cannot be trusted"), (dir, 2, "Is a directory")] {
        let done = probe(&site, &["--input", &input]).must(code).says(&[words, &input]);
        assert!(!done.stderr.contains("zfs send"), "{}", done.stderr);
    }
    probe(&site, &["--input", "/nonexistent"]).must(2).says(&["cannot read /nonexistent"]);
}

/// Without a shell between, so that its exit is its own.
fn zfs_send(snapshot: &str, to: &std::path::Path) {
    let mut command = std::process::Command::new("zfs");
    let status = command.args(["send", snapshot]).stdout(fs::File::create(to).unwrap()).status().unwrap();
    assert!(status.success(), "zfs send {snapshot}: {status}");
}

fn a_probe_that_cannot_be() {
    let mut site = Site::quiet();
    site.write_configs("", None);
    site.start_daemon();
    probe(&site, &["--bytes", "1M"]).must(4).says(&["hint: "]);
    site.signal_daemon(rustix::process::Signal::KILL);
    site.reap_daemon(5);
    probe(&site, &["--bytes", "1M"]).must(5).says(&["west"]);
    site.start(&["probe", "nobody.invalid"]).wait(60).must(5);
    site.start(&["probe", "west", "--bytes", "1M", "--input", "x"]).wait(60).must(2);
}

// In what follows one stage is made to take several seconds for a few MiB, of which all others together take less than a tenth: by sleeping,
// so that it is as slow on every machine, or by the same processor's time that the others need.

/// A probe that must say that this held it back.
#[track_caller]
fn held_back_by(site: &Site, verdict: &str, args: &[&str]) -> Value {
    let report = report(probe(site, args));
    eprintln!("{args:?}: {report}");
    assert_eq!(report["held_back_by"], verdict, "{args:?}: {report}");
    report
}

fn seconds(report: &Value, side: &str, stage: &str) -> f64 {
    report[side][stage].as_f64().unwrap_or_else(|| panic!("no {side}.{stage}: {report}"))
}

fn an_input_that_is_slow_is_the_verdict() {
    const PIECES: usize = 30;
    const PIECE: usize = 64 << 10;
    const PAUSE: Duration = Duration::from_millis(100);
    let site = Site::new();
    let fifo = site.dir.join("fifo");
    let path = fifo.to_string_lossy().into_owned();
    run("mkfifo", &[&path]).unwrap();
    // Nobody waits for it: if the probe never opens the other end, this never gets beyond its own.
    spawn(move || {
        let Ok(mut to) = fs::File::options().write(true).open(fifo) else { return };
        for piece in noise(PIECES * PIECE, 7).chunks(PIECE) {
            sleep(PAUSE);
            if to.write_all(piece).is_err() {
                return;
            }
        }
    });
    let report = held_back_by(&site, "reading", &["--input", &path, "--compress", "none"]);
    let raw_bytes = report["raw_bytes"].as_u64().unwrap() as usize;
    assert!((PIECES * PIECE..PIECES * PIECE + 20_000).contains(&raw_bytes), "{report}");
    // The pipe may hold two of them by the time that the first is read, if the way to the peer is long in coming.
    let fed_s = PAUSE.as_secs_f64() * (PIECES - 4) as f64;
    assert!(seconds(&report, "sender", "reading_s") > fed_s, "less than {fed_s} s: {report}");
}

fn a_level_that_is_slow_is_the_verdict() {
    let site = Site::new();
    let text = ["--bytes", "8M", "--data", "text", "--streams", "1"];
    let report = held_back_by(&site, "compressing", &[&text[..], &["--compress", "zstd:19"]].concat());
    let [raw, wire] = ["raw_bytes", "wire_bytes"].map(|field| report[field].as_u64().unwrap());
    assert!(wire < raw / 2, "it did not compress: {report}");
}

/// Also where buffers on the way hold the whole probe, and where a limit was set that it did not reach.
fn a_network_that_is_slow_is_the_verdict() {
    const RATE: u64 = 2 << 20;
    let site = Site::new();
    let proxy = Proxy::to(site.port, &[]);
    proxy.slow_down(RATE);
    site.write_configs(&site.default_grant(), Some(proxy.port));
    let plain = ["--compress", "none", "--streams", "1", "--bytes"];
    for (more, mib) in [(&["8M"][..], 8), (&["3M"][..], 3), (&["6M", "--bwlimit", "200M"][..], 6)] {
        let report = held_back_by(&site, "network", &[&plain[..], more].concat());
        let least_s = (mib << 20) as f64 / RATE as f64;
        let took_s = report["seconds"].as_f64().unwrap();
        assert!(took_s > 0.9 * least_s, "it was not slow, so this proves nothing: {report}");
    }
    assert!(proxy.accepted() >= 6, "{} connections", proxy.accepted());
}

fn a_window_that_is_small_for_a_long_way_is_the_verdict() {
    const LATE_MS: u64 = 200;
    // A window of 4 MiB, so sixteen round trips of 0.4 s or more.
    let site = Site::new();
    let proxy = Proxy::to(site.port, &[]);
    proxy.lengthen(LATE_MS);
    site.write_configs(&site.default_grant(), Some(proxy.port));
    let report = held_back_by(&site, "window", &["--compress", "none", "--streams", "1", "--bytes", "64M"]);
    assert!(report["rtt_ms"].as_f64().unwrap() >= 2.0 * LATE_MS as f64, "{report}");
    // One round trip is that of the last of it.
    assert!(seconds(&report, "sender", "credit_s") > 12.0 * 2.0 * LATE_MS as f64 / 1000.0, "{report}");
}
