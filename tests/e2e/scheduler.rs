//! `zmigrated` runs jobs by itself, and tells Prometheus.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread::sleep,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    Case, cases,
    process::wait_for,
    safety::SLOW_BYTES,
    site::{Site, zmigrate},
    zfs::{create, exists, populate, tags},
};

pub fn cases() -> Vec<Case> {
    cases![the_daemon_runs_jobs_by_itself, a_run_outlives_a_reload_and_a_stop_waits_for_it, prometheus_is_told]
}

/// West sends to itself, which takes one host where there would be two. Its daemon runs, without jobs.
fn site(more: &str) -> Site {
    let mut site = Site::quiet();
    site.west_more = more.to_owned();
    site.write_configs(&grants(&site), None);
    site.start_daemon();
    create(&site.w("own"));
    populate(&site.w("own"), 1, 10_000);
    site
}

fn grants(site: &Site) -> String {
    format!("{}[grant.west]\npush = [\"{}/in\"]\n", site.default_grant(), site.west)
}

/// Gives the daemon this job, or none, and lets it read that.
fn give(site: &mut Site, job: Option<&str>) {
    let before = site.west_more.split("[job.").next().unwrap_or_default().to_owned();
    let job = job.map_or(String::new(), |more| {
        format!(
            "[job.own]\ndirection = \"push\"\ndataset = \"{}\"\npeer = \"zm://127.0.0.1:{}\"\ntarget = \"{}\"\nretries = 0\n{more}\n",
            site.w("own"),
            site.port,
            site.w("in/own")
        )
    });
    site.west_more = before + &job;
    site.write_configs(&grants(site), None);
    assert!(site.reload().contains("the grants and jobs were read again"));
}

fn west(site: &Site, args: &[&str]) -> String {
    let config = site.dir.join("west.toml").to_string_lossy().into_owned();
    zmigrate(&[&["--config", &config], args].concat()).must(0).stdout
}

fn history(site: &Site) -> Vec<serde_json::Value> {
    let text = west(site, &["history", "--output", "json"]);
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    object["runs"].as_array().unwrap().clone()
}

fn own(site: &Site) -> usize {
    tags(&site.w("own")).len()
}

fn the_daemon_runs_jobs_by_itself() {
    let mut site = site("");
    give(&mut site, Some("every = \"2s\"\nkeep = \"last 2\"\nkeep_peer = \"last 2\""));
    wait_for("three runs", 40, || history(&site).iter().filter(|run| run["result"] != "running").count() >= 3);
    assert!(history(&site).iter().all(|run| run["by"] == "schedule"), "{:?}", history(&site));
    wait_for("pruning", 20, || history(&site).iter().any(|run| run["pruned"].as_u64() > Some(0)));
    west(&site, &["job", "pause", "own"]);
    wait_for("the end of the run that was at work", 20, || !west(&site, &["job", "list"]).contains("running"));
    let (runs, there) = (history(&site).len(), tags(&site.w("in/own")));
    sleep(Duration::from_secs(5));
    assert_eq!(history(&site).len(), runs, "a paused job was run");
    west(&site, &["job", "resume", "own"]);
    wait_for("it to go on", 20, || tags(&site.w("in/own")) != there);
    let log = site.log();
    assert!(log.contains("job=own") && log.contains("run=20") && log.contains("dataset="), "{log}");
    give(&mut site, None);
    wait_for("the last run", 20, || history(&site).last().is_some_and(|run| run["result"] != "running"));
    let runs = history(&site).len();
    sleep(Duration::from_secs(4));
    assert_eq!(history(&site).len(), runs, "a job that was taken out was run");
}

fn a_run_outlives_a_reload_and_a_stop_waits_for_it() {
    let mut site = site("");
    populate(&site.w("own"), 2, SLOW_BYTES);
    give(&mut site, Some("every = \"1h\"\nbwlimit = \"2M\""));
    wait_for("the run", 20, || exists(&site.w("in/own")) || own(&site) == 1);
    // While it runs, the job is changed and then taken out.
    give(&mut site, Some("every = \"1d\"\nkeep = \"last 1\""));
    give(&mut site, None);
    assert!(history(&site).last().is_some_and(|run| run["result"] == "running"), "{:?}", history(&site));
    wait_for("its end", 60, || history(&site).last().is_some_and(|run| run["result"] != "running"));
    assert_eq!((history(&site).len(), &history(&site)[0]["result"]), (1, &"done".into()));
    site.assert_equal(&site.w("own"), &site.w("in/own"));
    populate(&site.w("own"), 3, SLOW_BYTES);
    give(&mut site, Some("every = \"1s\"\nbwlimit = \"3M\""));
    wait_for("the next run", 20, || own(&site) == 2);
    site.signal_daemon(Signal::TERM);
    assert_eq!(site.reap_daemon(60), Some(0));
    let runs = history(&site);
    assert_eq!((runs.len(), &runs[1]["result"]), (2, &"done".into()), "{runs:?}");
    site.assert_equal(&site.w("own"), &site.w("in/own"));
    // After a restart it goes on from what was written down: not at once, but an hour after the last start.
    site.west_more = site.west_more.replace("every = \"1s\"", "every = \"1h\"");
    site.write_configs(&grants(&site), None);
    site.start_daemon();
    sleep(Duration::from_secs(3));
    assert_eq!(history(&site).len(), 2);
}

/// One request, as Prometheus makes it.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn prometheus_is_told() {
    let mut site = site("[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let log = site.log();
    let (_, rest) = log.split_once("metrics are on 127.0.0.1:").unwrap();
    let port: u16 = rest.split(char::is_whitespace).next().unwrap().parse().unwrap();
    assert!(get(port, "/metrics").contains("zmigrate_build_info{version=\""));
    assert!(get(port, "/").starts_with("HTTP/1.1 404 "));
    give(&mut site, Some("every = \"1h\"\nmax_lag = \"2h\""));
    wait_for("a run", 30, || history(&site).last().is_some_and(|run| run["result"] == "done"));
    let text = get(port, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in [
        "zmigrate_job_runs_total{job_name=\"own\"} 1".to_owned(),
        "zmigrate_job_max_lag_seconds{job_name=\"own\"} 7200".to_owned(),
        "zmigrate_job_last_exit_code{job_name=\"own\"} 0".to_owned(),
        format!(
            "zmigrate_dataset_unsent_snapshots{{job_name=\"own\",source=\"{}\",target=\"{}\"}} 0",
            site.w("own"),
            site.w("in/own")
        ),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
    }
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    fs::write(site.dir.join("metrics.txt"), body).unwrap();
    // What is no request, or none that ends, is dropped and harms nobody.
    let mut endless = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _ = endless.write_all(&vec![b'x'; 100_000]);
    assert!(get(port, "/metrics").starts_with("HTTP/1.1 200 OK\r\n"));
}
