//! `zmigrated` runs jobs by itself, and tells Prometheus.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use zmigrate::daemon::metrics::METRICS;

use crate::{
    Case, cases,
    process::{send_signal, wait_for},
    safety::SLOW_BYTES,
    site::{Site, program, zmigrate},
    zfs::{create, populate, tags},
};

pub fn cases() -> Vec<Case> {
    cases![
        the_daemon_runs_jobs_by_itself,
        a_log_as_json_says_whose_each_line_is,
        a_run_outlives_a_reload_and_a_stop_waits_for_it,
        what_was_missed_before_the_first_run_is_made_up_for,
        a_peer_that_is_revoked_is_cut_from_the_job_that_dialled_it,
        prometheus_is_told,
    ]
}

/// Where there is a `promtool`.
pub fn promtool_cases() -> Vec<Case> {
    cases![promtool_takes_what_a_daemon_says]
}

/// A site with a daemon on east as well, which runs jobs. It is killed when dropped.
struct East {
    site: Site,
    /// More of its configuration, before the job.
    more: &'static str,
    daemon: Option<Child>,
}

impl Drop for East {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("zmigrated on east said:\n{}", self.log());
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl East {
    /// Both daemons run, without jobs. There is a dataset `own` with files.
    fn new(more: &'static str) -> East {
        let mut east = East { site: Site::new(), more, daemon: None };
        create(&east.site.e("own"));
        populate(&east.site.e("own"), 1, 10_000);
        east.write(None);
        east.start();
        east
    }

    fn write(&mut self, job: Option<&str>) {
        let job = job.map_or(String::new(), |more| {
            let (from, to) = (self.site.e("own"), self.site.w("in/own"));
            format!("[job.own]\ndirection = \"push\"\ndataset = \"{from}\"\npeer = \"west\"\ntarget = \"{to}\"\nretries = 0\n{more}\n")
        });
        self.site.more = format!("{}{job}", self.more);
        self.site.write_configs(&self.site.default_grant(), None);
        let path = self.site.dir.join("east.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("listen = \"127.0.0.1:0\"\n{text}")).unwrap();
    }

    fn start(&mut self) {
        self.start_with(&[]);
    }

    fn start_with(&mut self, flags: &[&str]) {
        let before = self.log().len();
        let out = fs::File::options().create(true).append(true).open(self.site.dir.join("east.log")).unwrap();
        let child = Command::new(program("zmigrated"))
            .args(["--config", &self.site.dir.join("east.toml").to_string_lossy()])
            .args(flags)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        wait_for("zmigrated on east to be ready", 20, || self.log()[before..].contains(" is ready"));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.site.dir.join("east.log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        send_signal(self.daemon.as_ref().unwrap().id(), signal);
    }

    /// Gives the daemon this job, or none, and lets it read that.
    fn give(&mut self, job: Option<&str>) {
        self.write(job);
        let before = self.log().len();
        self.signal(Signal::HUP);
        wait_for("the reload", 10, || self.log()[before..].contains("the grants, hooks and jobs were read again"));
    }

    fn zmigrate(&self, args: &[&str]) -> String {
        self.site.start(args).wait(30).must(0).stdout
    }

    fn history(&self) -> Vec<serde_json::Value> {
        let text = self.zmigrate(&["history", "--output", "json"]);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        object["runs"].as_array().unwrap().clone()
    }

    fn last_is(&self, result: &str) -> bool {
        self.history().last().is_some_and(|run| run["result"] == result)
    }

    fn assert_equal(&self) {
        self.site.assert_equal(&self.site.e("own"), &self.site.w("in/own"));
    }
}

fn the_daemon_runs_jobs_by_itself() {
    let mut east = East::new("");
    east.give(Some("every = \"2s\"\nkeep = \"last 2\"\nkeep_peer = \"last 2\""));
    wait_for("three runs", 60, || east.history().iter().filter(|run| run["result"] != "running").count() >= 3);
    assert!(east.history().iter().all(|run| run["by"] == "schedule"), "{:?}", east.history());
    wait_for("pruning", 30, || east.history().iter().any(|run| run["pruned"].as_u64() > Some(0)));
    east.zmigrate(&["job", "pause", "own"]);
    wait_for("the end of the run that was at work", 20, || !east.zmigrate(&["job", "list"]).contains("running"));
    let (runs, there) = (east.history().len(), tags(&east.site.w("in/own")));
    sleep(Duration::from_secs(5));
    assert_eq!(east.history().len(), runs, "a paused job was run");
    east.zmigrate(&["job", "resume", "own"]);
    wait_for("it to go on", 20, || tags(&east.site.w("in/own")) != there);
    let log = east.log();
    assert!(log.contains("job=own") && log.contains("run=20") && log.contains("dataset="), "{log}");
    east.give(None);
    wait_for("the last run", 20, || !east.last_is("running"));
    let runs = east.history().len();
    sleep(Duration::from_secs(4));
    assert_eq!(east.history().len(), runs, "a job that was taken out was run");
}

fn a_log_as_json_says_whose_each_line_is() {
    let mut east = East::new("");
    east.signal(Signal::TERM);
    assert_eq!(east.daemon.take().unwrap().wait().unwrap().code(), Some(0));
    let before = east.log().len();
    east.start_with(&["--log-json"]);
    east.give(Some("every = \"1h\""));
    wait_for("the run", 30, || east.last_is("done"));
    east.signal(Signal::TERM);
    assert_eq!(east.daemon.take().unwrap().wait().unwrap().code(), Some(0));
    let log = east.log();
    let lines: Vec<serde_json::Value> = log[before..].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines
            .iter()
            .all(|l| l["timestamp"].is_string() && l["level"].is_string() && l["fields"]["message"].is_string())
    );
    // A line is within the spans of its run, and of the dataset that it is about.
    let says = |line: &serde_json::Value, key: &str| {
        line["spans"].as_array().into_iter().flatten().any(|s| s[key].is_string())
    };
    let of_the_run: Vec<_> = lines.iter().filter(|line| says(line, "job")).collect();
    assert!(of_the_run.iter().any(|line| says(line, "dataset")), "{log}");
    assert!(of_the_run.iter().all(|line| says(line, "run")), "{log}");
}

fn a_run_outlives_a_reload_and_a_stop_waits_for_it() {
    let mut east = East::new("");
    let own = east.site.e("own");
    populate(&own, 2, SLOW_BYTES);
    east.give(Some("every = \"1h\"\nbwlimit = \"1M\""));
    wait_for("the run", 20, || tags(&own).len() == 1);
    // While it runs, the job is changed and then taken out.
    east.give(Some("every = \"1d\"\nkeep = \"last 1\""));
    east.give(None);
    assert!(east.last_is("running"), "{:?}", east.history());
    wait_for("its end", 60, || !east.last_is("running"));
    assert_eq!((east.history().len(), &east.history()[0]["result"]), (1, &"done".into()));
    east.assert_equal();
    populate(&own, 3, SLOW_BYTES);
    east.give(Some("every = \"1s\"\nbwlimit = \"2M\""));
    wait_for("the next run", 20, || tags(&own).len() == 2);
    east.signal(Signal::TERM);
    let ended = east.daemon.take().unwrap().wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(east.log().contains("and 1 jobs may go on"), "{}", east.log());
    let runs = east.history();
    assert_eq!((runs.len(), &runs[1]["result"]), (2, &"done".into()), "{runs:?}");
    east.assert_equal();
    // After a restart it goes on from what was written down: not at once, but an hour after the last start.
    east.write(Some("every = \"1h\""));
    east.start();
    sleep(Duration::from_secs(3));
    assert_eq!(east.history().len(), 2);
}

/// A host that is off whenever its job is due: a new job waits for its time, and one that missed it runs.
fn what_was_missed_before_the_first_run_is_made_up_for() {
    let mut east = East::new("");
    let state = east.site.dir.join("east.state/jobs/own.json");
    east.give(Some("cron = \"0 0 1 1 *\""));
    wait_for("it to be seen", 20, || state.exists());
    sleep(Duration::from_secs(2));
    assert!(east.history().is_empty(), "a new job ran before its time");
    let mut daemon = east.daemon.take().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let mut seen: serde_json::Value = serde_json::from_str(&fs::read_to_string(&state).unwrap()).unwrap();
    assert!(seen["first_seen"].is_string(), "{seen}");
    seen["first_seen"] = "2020-06-01T00:00:00Z".into();
    fs::write(&state, seen.to_string()).unwrap();
    east.start();
    wait_for("the run that was missed", 30, || east.last_is("done"));
    sleep(Duration::from_secs(2));
    assert_eq!(east.history().len(), 1, "however many were missed, one makes up for them");
}

fn a_peer_that_is_revoked_is_cut_from_the_job_that_dialled_it() {
    let mut east = East::new("");
    let own = east.site.e("own");
    // Half a minute, if nobody cuts it.
    populate(&own, 2, 2 * SLOW_BYTES);
    east.give(Some("every = \"1h\"\nbwlimit = \"800K\"\ncompress = \"none\""));
    wait_for("the run", 20, || tags(&own).len() == 1 && east.site.log().contains("session opened"));
    sleep(Duration::from_secs(2));
    let (ca, before) = (east.site.dir.join("ca"), east.log().len());
    zmigrate(&["ca", "revoke", "west", "--dir", &ca.to_string_lossy()]).must(0);
    fs::copy(ca.join("crl.pem"), east.site.dir.join("east/crl.pem")).unwrap();
    let since = Instant::now();
    wait_for("the cut", 10, || east.log()[before..].contains("a connection is cut: the peer's certificate is revoked"));
    eprintln!("a revoked peer was cut from a job {} ms after the list was there", since.elapsed().as_millis());
    wait_for("the end of the run", 15, || !east.last_is("running"));
    let run = east.history().pop().unwrap();
    assert_eq!((&run["result"], &run["exit_code"]), (&"failed".into(), &4.into()), "{run:?}");
    assert!(tags(&east.site.w("in/own")).is_empty(), "it got through all the same");
}

/// One request, as Prometheus makes it.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A site whose daemon on east tells Prometheus, and the port where it does.
fn with_metrics() -> (East, u16) {
    let east = East::new("[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let log = east.log();
    let (_, rest) = log.split_once("metrics are on 127.0.0.1:").unwrap();
    let port = rest.split(char::is_whitespace).next().unwrap().parse().unwrap();
    (east, port)
}

fn prometheus_is_told() {
    let (mut east, port) = with_metrics();
    assert!(get(port, "/metrics").contains("zmigrate_build_info{version=\""));
    assert!(get(port, "/").starts_with("HTTP/1.1 404 "));
    east.give(Some("every = \"1h\"\nmax_lag = \"2h\""));
    wait_for("a run", 30, || east.last_is("done"));
    let text = get(port, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in [
        "zmigrate_job_runs_total{job_name=\"own\"} 1".to_owned(),
        "zmigrate_job_max_lag_seconds{job_name=\"own\"} 7200".to_owned(),
        "zmigrate_job_last_exit_code{job_name=\"own\"} 0".to_owned(),
        format!(
            "zmigrate_dataset_unsent_snapshots{{job_name=\"own\",source=\"{}\",target=\"{}\"}} 0",
            east.site.e("own"),
            east.site.w("in/own")
        ),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
    }
    // What is no request, or none that ends, is dropped and harms nobody.
    let mut endless = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _ = endless.write_all(&vec![b'x'; 100_000]);
    assert!(get(port, "/metrics").starts_with("HTTP/1.1 200 OK\r\n"));
}

/// All of its answer, of a job that has run: each metric that there is, but for the one that zfs-fuse cannot say.
fn promtool_takes_what_a_daemon_says() {
    let (mut east, port) = with_metrics();
    east.give(Some("every = \"1h\"\nmax_lag = \"2h\"\nverify = \"7d\""));
    wait_for("a run", 30, || east.last_is("done"));
    let answer = get(port, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    for metric in METRICS.iter().filter(|metric| metric.name != "zmigrate_dataset_unsent_bytes") {
        assert!(body.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind)), "{} in:\n{body}", metric.name);
    }
    let check = |body: &str| {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        let out = promtool.wait_with_output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.code(), said)
    };
    assert_eq!(check(body), (Some(0), String::new()), "{body}");
    // What is no metric it would not take.
    let (code, said) = check(&format!("{body}zmigrate_sessions{{of=east}} 1\n"));
    assert!(code != Some(0) && said.contains("error while linting"), "{code:?}: {said}");
}
