//! `status --watch` on a terminal of 80 columns and 24 lines, which `script` gives it.

use std::{fs, path::Path, thread::sleep, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    Case, cases,
    process::{Running, children, send_signal, wait_for},
    site::{Site, program},
    zfs::{create, populate},
};

pub fn cases() -> Vec<Case> {
    cases![jobs_are_watched_on_a_terminal_of_80_columns]
}

const COLUMNS: usize = 80;
const LINES: usize = 24;

/// What a terminal shows. It knows what `status --watch` writes, and nothing else.
struct Screen {
    lines: Vec<Vec<char>>,
    at: (usize, usize),
}

impl Screen {
    /// The screens that were drawn, one for each time that what was below was wiped. Fails if anything leaves the screen.
    fn drawn(raw: &str) -> Vec<String> {
        let mut screen = Screen { lines: vec![Vec::new(); LINES], at: (0, 0) };
        let mut drawn = Vec::new();
        let Some((_, mut rest)) = raw.split_once("\x1b[?1049h") else { return drawn };
        while let Some(c) = rest.chars().next() {
            let Some(sequence) = rest.strip_prefix("\x1b[") else {
                rest = &rest[c.len_utf8()..];
                screen.put(c);
                continue;
            };
            let Some(end) = sequence.find(|c: char| c.is_ascii_alphabetic()) else { break };
            let (row, column) = screen.at;
            match &sequence[..=end] {
                "H" => screen.at = (0, 0),
                "K" => screen.lines[row].truncate(column),
                "J" => {
                    screen.lines[row].truncate(column);
                    screen.lines[row + 1..].iter_mut().for_each(Vec::clear);
                    drawn.push(screen.text());
                }
                "?25l" | "?25h" => {}
                "?1049l" => break,
                other => panic!("an unknown sequence: {other:?}"),
            }
            rest = &sequence[end + 1..];
        }
        drawn
    }

    fn put(&mut self, c: char) {
        let (row, column) = &mut self.at;
        match c {
            '\r' => *column = 0,
            '\n' => *row += 1,
            c => {
                let line = &mut self.lines[*row];
                line.resize(line.len().max(*column + 1), ' ');
                line[*column] = c;
                *column += 1;
            }
        }
        let (row, column) = self.at;
        assert!(
            row < LINES && column <= COLUMNS,
            "line {row}, column {column}: it leaves the screen:\n{}",
            self.text()
        );
    }

    fn text(&self) -> String {
        self.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }
}

/// `zmigrate status --watch` at work.
struct Watch<'a> {
    site: &'a Site,
    run: Running,
    raw: std::path::PathBuf,
}

impl Watch<'_> {
    fn start<'a>(site: &'a Site, name: &str) -> Watch<'a> {
        let raw = site.dir.join(name);
        let (zmigrate, config) = (program("zmigrate"), site.dir.join("east.toml"));
        let command = format!(
            "stty cols {COLUMNS} rows {LINES}; exec {} --config {} status --watch",
            zmigrate.display(),
            config.display()
        );
        let args = ["-qefc", &command, &raw.to_string_lossy()];
        let environment = [("TERM", "xterm"), ("SHELL", "/bin/sh"), ("LC_ALL", "C.UTF-8")];
        let run =
            Running::start(Path::new("/usr/bin/script"), &args, &site.dir.join(format!("{name}-run")), &environment);
        Watch { site, run, raw }
    }

    fn raw(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.raw).unwrap_or_default()).into_owned()
    }

    /// The last screen, once it shows all of these.
    #[track_caller]
    fn shows(&mut self, words: &[&str]) -> String {
        let mut last = String::new();
        wait_for(&format!("a screen with {words:?}"), 20, || {
            assert!(!self.run.has_ended(), "{}{}", self.raw(), self.run.stderr());
            last = Screen::drawn(&self.raw()).pop().unwrap_or_default();
            words.iter().all(|word| last.contains(word))
        });
        assert!(last.starts_with("zmigrate status   20") && last.contains("JOB            STATE    LAG"), "{last}");
        last
    }

    /// The line of a job, and its column for the lag.
    #[track_caller]
    fn lag(screen: &str, job: &str) -> String {
        let line = screen.lines().find(|line| line.starts_with(job)).unwrap_or_else(|| panic!("no {job}:\n{screen}"));
        line.chars().skip(24).take(11).collect::<String>().trim().to_owned()
    }

    /// Ctrl-C ends it well, and gives the terminal back.
    #[track_caller]
    fn end(self) {
        let (pid, args) = children(self.run.pid()).pop().unwrap();
        assert!(args.iter().any(|arg| arg == "--watch"), "{args:?}");
        send_signal(pid, Signal::INT);
        let raw = self.raw.clone();
        self.run.wait(10).must(0);
        let raw = String::from_utf8(fs::read(raw).unwrap()).unwrap();
        assert!(raw.contains("\x1b[?25h\x1b[?1049l"), "the screen was not given back: {raw:?}");
        assert!(Screen::drawn(&raw).len() > 1, "it was drawn once: {raw:?}");
        assert!(!self.site.log().contains("panicked"));
    }
}

fn bare(text: &str) -> String {
    text.split_whitespace().collect()
}

fn status(site: &Site) -> Vec<Value> {
    let done = site.start(&["status", "--output", "json"]).wait(20).must(0);
    serde_json::from_str::<Value>(&done.stdout).unwrap()["jobs"].as_array().unwrap().clone()
}

fn jobs_are_watched_on_a_terminal_of_80_columns() {
    let mut site = Site::new();
    let long = format!("a-dataset-with-a-name-that-is-{}", "long-".repeat(12));
    let job = |name: &str, from: &str, peer: &str, more: &str| {
        let (from, to) = (site.e(from), site.w(&format!("in/{name}")));
        format!(
            "[job.{name}]\ndirection = \"push\"\ndataset = \"{from}\"\npeer = \"{peer}\"\ntarget = \"{to}\"\nretries = 0\n{more}\n"
        )
    };
    let one = job("db", "db", "west", "every = \"1h\"");
    let away = job("a-job-whose-peer-is-away", "db", "zm://127.0.0.1:1", "prefix = \"away\"");
    let slow = job("slow", &long, "west", "bwlimit = \"1M\"\ncompress = \"none\"");
    let idle: String = (0..12).map(|n| job(&format!("x{n}"), "db", "west", "snapshot = false")).collect();
    let configure = |site: &mut Site, jobs: String| {
        site.more = jobs;
        site.write_configs(&site.default_grant(), None);
    };
    site.source("db", 10_000);
    configure(&mut site, one.clone());

    // One job, before and after its first run.
    let mut watch = Watch::start(&site, "one");
    let screen = watch.shows(&["never"]);
    assert_eq!(Watch::lag(&screen, "db "), "-", "{screen}");
    site.start(&["job", "run", "db", "--cron"]).wait(60).must(0);
    let screen = watch.shows(&["done ", " ago", "in 59 min"]);
    assert!(Watch::lag(&screen, "db ").ends_with(" s"), "{screen}");
    watch.end();

    // Several: one that fails, one that is at work, and names that do not fit.
    configure(&mut site, format!("{away}{one}{slow}"));
    create(&site.e(&long));
    populate(&site.e(&long), 1, 8 << 20);
    site.start(&["job", "run", "a-job-whose-peer-is-away", "--cron"]).wait(60).must(5);
    let run = site.start(&["job", "run", "slow", "--cron"]);
    let mut watch = Watch::start(&site, "several");
    let screen = watch.shows(&["running", "step 0/1", "/s\n"]);
    assert!(Watch::lag(&screen, "db ").ends_with('s') || Watch::lag(&screen, "db ").ends_with("min"), "{screen}");
    let error = status(&site).iter().find_map(|job| job["last"]["error"].as_str().map(str::to_owned)).unwrap();
    assert!(error.len() > 20 && bare(&screen).contains(&bare(&error)), "{error:?} is not in:\n{screen}");
    for part in ["a-job-whose-p… idle", "failed ", "slow           running", "…\n"] {
        assert!(screen.contains(part), "{part:?} is not in:\n{screen}");
    }
    run.wait(60).must(0);
    let screen = watch.shows(&["slow           idle"]);
    assert!(!screen.contains("step 0/1"), "what is over is still shown:\n{screen}");
    watch.end();

    // More than there is room for.
    configure(&mut site, format!("{away}{one}{slow}{idle}"));
    let mut watch = Watch::start(&site, "many");
    let screen = watch.shows(&[" more lines)"]);
    assert_eq!(screen.lines().filter(|line| !line.is_empty()).count(), LINES - 1, "{screen}");
    sleep(Duration::from_millis(1500));
    watch.end();
}
