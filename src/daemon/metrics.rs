//! `/metrics` for Prometheus, where `[metrics] listen` says so.
//!
//! Invariants: whoever asks learns figures and names of datasets, and can change nothing; a request is bounded in length,
//! in time, and in how many there are at once. docs/metrics.md is the table of [`METRICS`], which a test holds up.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::{Daemon, listen_on};
use crate::{
    driver::cutover::{Standing, standing},
    host,
    identity::When,
    runner::overview::{JobStatus, overview},
    types::Failure,
};

/// The longest request that is read: a browser's headers are a kilobyte.
const MAX_REQUEST: usize = 8 << 10;
/// Requests at a time; a fleet has two or three that ask, each every few seconds.
const MAX_AT_A_TIME: usize = 8;
/// From the connection to the end of the answer.
const WITHIN: Duration = Duration::from_secs(10);

/// A metric: name, kind, labels, and what it says.
pub struct Metric {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static str,
    /// What it says, with its unit.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($name:literal $kind:ident [$labels:literal] $help:literal),* $(,)?) => {
        /// All of them, in the order in which they are given.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: $name, kind: stringify!($kind), labels: $labels, help: $help }),*];
    };
}

metrics! {
    "zmigrate_build_info" gauge ["version"] "Always 1; the label says which version runs.",
    "zmigrate_sessions" gauge [""] "Sessions of peers that are open.",
    "zmigrate_certificate_expires_timestamp_seconds" gauge [""] "When this host's certificate expires, in seconds since 1970.",
    "zmigrate_cutovers_waiting" gauge [""] "Cutovers led from this host that wait for a person, or cannot be read.",
    "zmigrate_cutovers_down" gauge [""] "Cutovers led from this host whose source may be down.",
    "zmigrate_job_running" gauge ["job_name"] "1 while a run of the job is at work.",
    "zmigrate_job_paused" gauge ["job_name"] "1 while the job is paused.",
    "zmigrate_job_unreadable" gauge ["job_name"] "1 while what is written down of the job cannot be read; then it has no other figures.",
    "zmigrate_job_runs_total" counter ["job_name"] "Runs that ended.",
    "zmigrate_job_failed_runs_total" counter ["job_name"] "Runs that ended with another exit code than 0.",
    "zmigrate_job_wire_bytes_total" counter ["job_name"] "Payload bytes on the wire, of all runs.",
    "zmigrate_job_last_start_timestamp_seconds" gauge ["job_name"] "When the last run began, in seconds since 1970.",
    "zmigrate_job_last_success_timestamp_seconds" gauge ["job_name"] "When a run last ended with exit code 0, in seconds since 1970.",
    "zmigrate_job_last_duration_seconds" gauge ["job_name"] "How long the last run took that ended.",
    "zmigrate_job_last_exit_code" gauge ["job_name"] "The exit code of the last run that ended.",
    "zmigrate_job_next_start_timestamp_seconds" gauge ["job_name"] "When the job is to start next, in seconds since 1970.",
    "zmigrate_job_max_lag_seconds" gauge ["job_name"] "The configured max_lag.",
    "zmigrate_job_verified_timestamp_seconds" gauge ["job_name"] "When a verification last found both sides equal, in seconds since 1970.",
    "zmigrate_job_verify_failed" gauge ["job_name"] "1 from a verification that found a difference until one finds none.",
    "zmigrate_job_verify_overdue" gauge ["job_name"] "1 while both sides were not found equal for more than twice the configured verify.",
    "zmigrate_job_datasets" gauge ["job_name"] "Datasets with snapshots that the job replicates, as seen last.",
    "zmigrate_job_datasets_without_base" gauge ["job_name"] "Of those, datasets whose target has no snapshot in common with them.",
    "zmigrate_dataset_lag_seconds" gauge ["job_name, source, target"] "Age of the newest snapshot that both sides have.",
    "zmigrate_dataset_unsent_snapshots" gauge ["job_name, source, target"] "Snapshots that the target has not got, as counted last; absent where that is not known.",
    "zmigrate_dataset_unsent_bytes" gauge ["job_name, source, target"] "Bytes that the target has not got, as counted last; absent where that is not known, or ZFS cannot say.",
}

/// Answers whoever asks, for as long as the daemon lives.
///
/// # Errors
/// When the address cannot be listened on.
pub(super) async fn serve(daemon: Arc<Daemon>, address: SocketAddr) -> Result<impl Future<Output = ()>, Failure> {
    let listener = listen_on(address, "metrics are on").await?;
    Ok(accept(daemon, listener))
}

async fn accept(daemon: Arc<Daemon>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_AT_A_TIME));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::warn!(%from, "too many ask for metrics; this one is dropped");
            continue;
        };
        let daemon = Arc::clone(&daemon);
        tokio::spawn(async move {
            let _slot = slot;
            let _ = timeout(WITHIN, answer(&daemon, stream)).await;
        });
    }
}

async fn answer(daemon: &Arc<Daemon>, mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = stream.read(&mut buffer).await?;
        if n == 0 || request.len() + n > MAX_REQUEST {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..n]);
    }
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let (status, body) = if line.starts_with(b"GET /metrics ") || line.starts_with(b"GET /metrics?") {
        let (config, sessions) = (daemon.jobs.config(), daemon.registry.open_sessions());
        let expires = daemon.store.own().not_after;
        // It reads files.
        let read = tokio::task::spawn_blocking(move || {
            Ok::<_, Failure>((
                overview(&config, None, Timestamp::now())?,
                standing(&*host::ledgers(&config), Timestamp::now())?,
            ))
        });
        match read.await {
            Ok(Ok((jobs, cutovers))) => ("200 OK", render(&jobs, &cutovers, sessions, expires)),
            Ok(Err(failure)) => ("500 Internal Server Error", format!("{failure}\n")),
            Err(_) => ("500 Internal Server Error", "it could not be read\n".to_owned()),
        }
    } else {
        ("404 Not Found", "only GET /metrics is answered\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The text of Prometheus' exposition format, version 0.0.4.
fn render(jobs: &[JobStatus], cutovers: &Standing, sessions: usize, expires: When) -> String {
    let mut text = String::new();
    for metric in METRICS {
        let mut lines = String::new();
        let short = metric.name.trim_start_matches("zmigrate_");
        match short {
            "build_info" => sample(&mut lines, metric, &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
            "certificate_expires_timestamp_seconds" => sample(&mut lines, metric, &[], expires.unix_s() as f64),
            "cutovers_waiting" => sample(&mut lines, metric, &[], cutovers.waiting.len() as f64),
            "cutovers_down" => sample(&mut lines, metric, &[], cutovers.down as f64),
            "sessions" => sample(&mut lines, metric, &[], sessions as f64),
            _ => jobs.iter().for_each(|job| of_job(&mut lines, metric, short, job)),
        }
        if !lines.is_empty() {
            // Writing into a String does not fail.
            let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {}", metric.name, metric.help, metric.name, metric.kind);
            text.push_str(&lines);
        }
    }
    text
}

fn of_job(lines: &mut String, metric: &Metric, short: &str, job: &JobStatus) {
    let ended = job.last_ended.as_ref();
    let seconds = |at: jiff::Timestamp| at.as_second() as f64;
    let verification = job.verification.as_ref();
    let value = match short {
        "job_running" => Some(f64::from(job.state == "running")),
        "job_paused" => Some(f64::from(job.paused)),
        "job_unreadable" => Some(f64::from(job.error.is_some())),
        _ if job.error.is_some() => None,
        "job_runs_total" => Some(job.runs as f64),
        "job_failed_runs_total" => Some(job.failed_runs as f64),
        "job_wire_bytes_total" => Some(job.wire_bytes as f64),
        "job_last_start_timestamp_seconds" => job.last.as_ref().map(|last| seconds(last.started)),
        "job_last_success_timestamp_seconds" => job.last_good.map(seconds),
        "job_last_duration_seconds" => ended.and_then(|l| Some(seconds(l.ended?) - seconds(l.started))),
        "job_last_exit_code" => ended.map(|last| f64::from(last.exit_code)),
        "job_next_start_timestamp_seconds" => job.next.map(seconds),
        "job_max_lag_seconds" => job.max_lag_s.map(|lag| lag as f64),
        "job_verified_timestamp_seconds" => verification.and_then(|verification| verification.good).map(seconds),
        "job_verify_failed" => verification.map(|verification| f64::from(verification.difference.is_some())),
        "job_verify_overdue" => verification.map(|verification| f64::from(verification.overdue)),
        // One of this host alone replicates none.
        "job_datasets" | "job_datasets_without_base" if job.target.is_none() => None,
        "job_datasets" => Some(job.datasets.len() as f64),
        "job_datasets_without_base" => Some(job.datasets.iter().filter(|d| d.common.is_none()).count() as f64),
        _ => None,
    };
    if let Some(value) = value {
        sample(lines, metric, &[("job_name", job.job.as_str())], value);
    }
    for dataset in &job.datasets {
        let value = match short {
            "dataset_lag_seconds" => dataset.lag_s.map(|lag| lag as f64),
            "dataset_unsent_snapshots" => dataset.unsent_snapshots.map(|n| n as f64),
            "dataset_unsent_bytes" => dataset.unsent_bytes.map(|bytes| bytes as f64),
            _ => None,
        };
        if let Some(value) = value {
            let (source, target) = (dataset.source.as_str(), dataset.target.as_str());
            let labels = [("job_name", job.job.as_str()), ("source", source), ("target", target)];
            sample(lines, metric, &labels, value);
        }
    }
}

/// One line. Names of jobs and datasets hold no character that a label would have to escape.
fn sample(to: &mut String, metric: &Metric, labels: &[(&str, &str)], value: f64) {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(to, "{}{labels} {value}", metric.name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        jobs::lag::{Common, Lag},
        runner::{
            Verified,
            files::{JobFiles, JobState, LastRun, place},
        },
        types::Guid,
    };

    const TABLE: &str = include_str!("../../docs/metrics.md");

    #[test]
    fn the_table_names_every_metric_and_no_other() {
        let rows: Vec<&str> = TABLE.lines().filter(|line| line.starts_with("| `zmigrate_")).collect();
        let expected: Vec<String> =
            METRICS.iter().map(|m| format!("| `{}` | {} | {} | {} |", m.name, m.kind, m.labels, m.help)).collect();
        assert_eq!(rows, expected, "docs/metrics.md and the code differ");
    }

    /// A job that has run, with one dataset that lags and one that has no base.
    #[test]
    fn what_is_given_is_what_the_table_says() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "state_dir = \"{}\"\n[job.db]\ndirection = \"push\"\ndataset = \"t/db\"\npeer = \"b\"\ntarget = \"t/x\"\nevery = \"1h\"\nmax_lag = \"2h\"\nverify = \"7d\"\n",
            dir.path().display()
        );
        let config = Config::parse(&text, "z").unwrap();
        let (job, files) = (config.jobs.values().next().unwrap(), JobFiles::new(dir.path()));
        let now: Timestamp = "2026-11-26T04:00:00Z".parse().unwrap();
        let taken_unix_s = now.as_second() as u64 - 90;
        let common = Common { tag: "s".parse().unwrap(), guid: Guid(1), taken_unix_s };
        let lag = |name: &str, common| Lag {
            source: format!("t/db{name}").parse().unwrap(),
            target: format!("t/x{name}").parse().unwrap(),
            common,
            unsent_snapshots: Some(2),
            unsent_bytes: Some(4096),
        };
        let state = JobState {
            source: job.dataset.to_string(),
            target: place(job),
            last: Some(LastRun { started: now, ended: Some(now), exit_code: 5, ..LastRun::default() }),
            last_good: Some(now),
            lags: vec![lag("", Some(common)), lag("/b", None)],
            verified: Verified { good: Some(now), difference: Some("x".into()), ..Verified::default() },
            runs: 3,
            failed_runs: 1,
            ..JobState::default()
        };
        files.save(job, &state).unwrap();
        let text = render(&overview(&config, None, now).unwrap(), &Standing::default(), 2, When::from_unix_s(7));
        for metric in METRICS {
            assert!(
                text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind)),
                "{} is missing:\n{text}",
                metric.name
            );
        }
        for line in [
            "zmigrate_sessions 2",
            "zmigrate_certificate_expires_timestamp_seconds 7",
            "zmigrate_job_last_exit_code{job_name=\"db\"} 5",
            "zmigrate_job_runs_total{job_name=\"db\"} 3",
            "zmigrate_job_datasets_without_base{job_name=\"db\"} 1",
            "zmigrate_job_verified_timestamp_seconds{job_name=\"db\"} 1795665600",
            "zmigrate_job_verify_failed{job_name=\"db\"} 1",
            "zmigrate_job_verify_overdue{job_name=\"db\"} 0",
            "zmigrate_dataset_lag_seconds{job_name=\"db\",source=\"t/db\",target=\"t/x\"} 90",
            "zmigrate_job_next_start_timestamp_seconds{job_name=\"db\"} 1795669200",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        // While the next one is at work, it is still the one before that ended: an alert on it must not begin anew each time.
        let _lock = files.lock(&job.name).unwrap();
        let mut state = state;
        state.begin(LastRun { run: "2".into(), started: now, ..LastRun::default() });
        files.save(job, &state).unwrap();
        let text = render(&overview(&config, None, now).unwrap(), &Standing::default(), 2, When::from_unix_s(7));
        for line in ["zmigrate_job_running{job_name=\"db\"} 1", "zmigrate_job_last_exit_code{job_name=\"db\"} 5"] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
    }
}
