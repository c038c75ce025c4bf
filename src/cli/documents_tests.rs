//! Holds docs/json.md and docs/exit-codes.md to the code.
//!
//! A sample of each document has every field, and lists that are not empty. Its paths (`datasets[].steps[].from`) and those of
//! the tables under the document's heading must be the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::{check, config, cutover, history, job, output, progress, prune, state, status};
use crate::{
    doctor,
    driver::{ProbeReport, ReceiverSeconds, cutover::PassReport, report_sample, verify},
    identity::{
        Serial, When,
        ca::{CaCreated, CaListing, CertState, Certificate, Issued, KeyOrigin, Revoked, TokenMade},
        join::Joined,
    },
    jobs::lag::{Common, Lag},
    pipe::times::{HeldBack, SenderTimes},
    runner::{
        JobReport,
        files::{LastRun, Progress},
        overview::{DatasetStatus, JobStatus, VerificationStatus},
    },
    stream::{
        inspect::{Fault, Inspection, RecordCount, Substream},
        token::ResumeToken,
    },
    types::{Failure, FailureClass, Guid},
};

const JSON: &str = include_str!("../../docs/json.md");
const EXIT_CODES: &str = include_str!("../../docs/exit-codes.md");

/// What is below these is not told: see the document.
const OPAQUE: &[&str] = &["plan.datasets[].decision"];
/// Stands for a key that the data choose.
const ANY_KEY: &str = "TYPE";

fn value(sample: impl Serialize) -> Value {
    serde_json::to_value(sample).unwrap()
}

/// The paths of all fields.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    let fields = match value {
        Value::Object(fields) => fields,
        // Empty, or of something that is no object: the field itself is all there is to it.
        Value::Array(items) => return items.iter().for_each(|item| paths(item, at, found)),
        _ => return,
    };
    for (key, value) in fields {
        let list = if matches!(value, Value::Array(items) if items.iter().any(Value::is_object)) { "[]" } else { "" };
        let path = if at.is_empty() { format!("{key}{list}") } else { format!("{at}.{key}{list}") };
        if !OPAQUE.iter().any(|opaque| path.ends_with(opaque)) {
            paths(value, &path, found);
        }
        if key != ANY_KEY {
            found.insert(path);
        }
    }
}

/// What stands in `text` between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The documents by their headings, each with the paths that its tables name; a link to another heading stands for the paths there.
fn documented() -> BTreeMap<&'static str, BTreeSet<String>> {
    let slug = |heading: &str| heading.to_lowercase().replace(' ', "-").replace(',', "");
    let mut all: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut links: Vec<(&str, String, &str)> = Vec::new();
    let (mut heading, mut within) = ("", String::new());
    for line in JSON.lines() {
        if let Some(next) = line.strip_prefix("## ") {
            heading = next;
            assert!(all.insert(heading, BTreeSet::new()).is_none(), "{heading} is there twice");
        }
        let Some((names, about)) = line.strip_prefix("| ").and_then(|row| row.split_once(" | ")) else { continue };
        if names == "field" {
            within.clear();
        } else if let Some(place) = names.strip_prefix("in ") {
            within = format!("{}.", quoted(place).next().unwrap());
        } else {
            for name in quoted(names) {
                let path = format!("{within}{name}");
                if let Some((_, link)) = about.split_once("(#") {
                    links.push((heading, path.clone(), link.split(')').next().unwrap()));
                }
                assert!(all.get_mut(heading).unwrap().insert(path.clone()), "{heading}: {path} is there twice");
            }
        }
    }
    // The documents that are linked to have links of their own: those above are filled first.
    for (heading, path, link) in links {
        let (_, linked) = all.iter().find(|(other, _)| slug(other) == link).unwrap_or_else(|| panic!("{link}"));
        let below: Vec<String> = linked.iter().map(|below| format!("{path}.{below}")).collect();
        all.get_mut(heading).unwrap().extend(below);
    }
    all
}

/// Every document, with all that may be absent.
fn samples() -> BTreeMap<&'static str, Value> {
    let error = Failure::new(FailureClass::Zfs, "e").hint("h");
    let pass =
        PassReport { number: 1, bytes: 1, wire_bytes: 1, seconds: 1.0, sending_ms: 1, fixed_ms: 1, left_bytes: 1 };
    let (listed, released) = state::samples();
    let (planned, resumed) = cutover::lead_samples();
    BTreeMap::from([
        ("An error", value(&error)),
        ("A command that fails before it has a report", output::failure_sample(&error)),
        ("push and pull", value(report_sample())),
        ("A pass", value(&pass)),
        ("cutover start, go, abort, resume, back, complete", cutover::result_sample(pass.clone())),
        ("cutover start -n", planned),
        ("cutover resume without an ID", resumed),
        ("cutover break and abort, of this host alone", cutover::here_sample()),
        ("cutover status", cutover::status_sample(pass)),
        ("doctor", value(doctor_report())),
        ("state list", listed),
        ("state release", released),
        ("verify", value(verify::report_sample())),
        ("probe", value(probe_report())),
        ("--progress json", progress::sample()),
        ("stream inspect", value(inspection())),
        ("stream token", value(token())),
        ("config check", config::sample()),
        ("ca init", value(ca_created())),
        ("ca issue", value(ca_issued())),
        ("ca revoke", value(ca_revoked())),
        ("ca list", value(ca_listing())),
        ("ca token", value(ca_token())),
        ("join", value(joined())),
        ("job run", value(job_report(error))),
        ("job list, status", value(status::jobs_object(&[job_status()]))),
        ("job pause, job resume", job::paused_sample()),
        ("prune", prune::sample()),
        ("history", history::sample()),
        ("check", check::sample()),
    ])
}

fn doctor_report() -> doctor::Report {
    doctor::Report {
        result: "ok",
        exit_code: 0,
        peer: Some("p".into()),
        checks: vec![doctor::Check {
            topic: "zfs",
            level: doctor::Level::Ok,
            message: "m".into(),
            hint: Some("h".into()),
            exit_code: 0,
        }],
        facts: doctor::Facts {
            zfs_userland: Some("2".into()),
            zfs_kernel: Some("2".into()),
            peer_identity: Some("p".into()),
            peer_agent: Some("a".into()),
            protocol: Some(1),
            connect_ms: Some(1.0),
            round_trip_ms: Some(1.0),
            clock_skew_ms: Some(1),
        },
    }
}

fn probe_report() -> ProbeReport {
    ProbeReport {
        result: "done",
        exit_code: 0,
        peer: "p".into(),
        agent: "a".into(),
        streams: 1,
        raw_bytes: 1,
        wire_bytes: 1,
        seconds: 1.0,
        raw_bytes_per_s: 1,
        wire_bytes_per_s: 1,
        rtt_ms: Some(1.0),
        rtt_loaded_ms: Some(1.0),
        held_back_by: HeldBack::Network,
        sender: SenderTimes::default(),
        receiver: ReceiverSeconds { input_s: 1.0, unpacking_s: 1.0, judging_s: 1.0, writing_s: 1.0 },
    }
}

fn inspection() -> Inspection {
    let substream = Substream {
        to_name: "a@s".into(),
        to_guid: "1".into(),
        from_guid: "0".into(),
        kind: "filesystem",
        features: vec!["lz4".into()],
    };
    Inspection {
        to_name: "a@s".into(),
        to_guid: "1".into(),
        from_guid: "0".into(),
        kind: "package",
        creation_unix_s: 1,
        features: vec!["lz4".into()],
        flags: vec!["f".into()],
        byte_order: "little",
        records: BTreeMap::from([(ANY_KEY, RecordCount { count: 1, payload_bytes: 1 })]),
        total_records: 1,
        payload_bytes: 1,
        stream_bytes: 1,
        compressed_bytes: 1,
        compressed_share: 1.0,
        encrypted_bytes: 1,
        encrypted_share: 1.0,
        substreams: vec![substream],
        complete: false,
        saved: false,
        fault: Some(Fault { record: 1, offset: 1, cause: "c".into() }),
    }
}

fn token() -> ResumeToken {
    ResumeToken {
        to_name: "a@s".into(),
        to_guid: Guid(1),
        from_guid: Some(Guid(1)),
        object: 1,
        offset: 1,
        bytes: 1,
        large_block: true,
        embed: true,
        compressed: true,
        raw: true,
        redacted: true,
    }
}

fn when() -> When {
    When::from_unix_s(1)
}

fn ca_created() -> CaCreated {
    CaCreated { dir: "/c".into(), written: vec!["/c/f".into()], valid_until: when(), ca_fingerprint_sha256: "0".into() }
}

fn ca_issued() -> Issued {
    Issued {
        name: "n".parse().unwrap(),
        serial: Serial::new(&[1]),
        out_dir: "/o".into(),
        written: vec!["/o/f".into()],
        valid_until: when(),
        key: KeyOrigin::New,
        other_cas_kept: 1,
        ca_fingerprint_sha256: "0".into(),
    }
}

fn ca_revoked() -> Revoked {
    Revoked {
        name: "n".parse().unwrap(),
        revoked: vec![Serial::new(&[1])],
        already_revoked: vec![Serial::new(&[2])],
        crl: "/c/crl.pem".into(),
        crl_number: 1,
        ca_fingerprint_sha256: "0".into(),
    }
}

fn ca_listing() -> CaListing {
    let certificate = Certificate {
        name: "n".parse().unwrap(),
        serial: Serial::new(&[1]),
        state: CertState::Valid,
        not_before: when(),
        not_after: when(),
        revoked_at: Some(when()),
    };
    CaListing {
        dir: "/c".into(),
        valid_until: when(),
        ca_fingerprint_sha256: "0".into(),
        crl_number: 1,
        certificates: vec![certificate],
    }
}

fn ca_token() -> TokenMade {
    TokenMade {
        token: "t".into(),
        name: "n".parse().unwrap(),
        address: "a:1".into(),
        expires: when(),
        replaces_older: true,
        ca_fingerprint_sha256: "0".into(),
    }
}

fn joined() -> Joined {
    Joined {
        name: "n".parse().unwrap(),
        serial: Serial::new(&[1]),
        identity_dir: "/i".into(),
        valid_until: when(),
        ca_fingerprint_sha256: "0".into(),
    }
}

fn job_report(error: Failure) -> JobReport {
    JobReport {
        job: "j".parse().unwrap(),
        run: "r".into(),
        result: "failed",
        exit_code: 6,
        started: jiff::Timestamp::UNIX_EPOCH,
        seconds: 1.0,
        attempts: 1,
        snapshot: Some("s".parse().unwrap()),
        replication: Some(report_sample()),
        lags: vec![Lag {
            source: "a".parse().unwrap(),
            target: "b".parse().unwrap(),
            common: Some(Common { tag: "s".parse().unwrap(), guid: Guid(1), taken_unix_s: 1 }),
            unsent_snapshots: Some(1),
            unsent_bytes: Some(1),
        }],
        raw_bytes: 1,
        wire_bytes: 1,
        pruned: 1,
        verification: Some(verify::report_sample()),
        notes: vec!["n".into()],
        error: Some(error),
    }
}

fn job_status() -> JobStatus {
    let epoch = jiff::Timestamp::UNIX_EPOCH;
    let last = LastRun { ended: Some(epoch), error: Some("e".into()), ..LastRun::default() };
    JobStatus {
        job: "j".parse().unwrap(),
        direction: "push",
        source: "a".parse().unwrap(),
        peer: Some("p".into()),
        target: Some("b".parse().unwrap()),
        state: "idle",
        paused: false,
        error: Some("e".into()),
        schedule: Some("every 15m".into()),
        next: Some(epoch),
        last: Some(last.clone()),
        last_ended: Some(last),
        last_good: Some(epoch),
        looked: Some(epoch),
        lag_s: Some(1),
        max_lag_s: Some(1),
        unsent_bytes: Some(1),
        runs: 1,
        failed_runs: 1,
        wire_bytes: 1,
        progress: Some(Progress::default()),
        kept_for: Some("k".into()),
        way: ("a".into(), Some("p:b".into())),
        verification: Some(VerificationStatus {
            every_s: 1,
            content: true,
            last: Some(epoch),
            good: Some(epoch),
            good_content: true,
            difference: Some("d".into()),
            overdue: false,
        }),
        datasets: vec![DatasetStatus {
            source: "a".parse().unwrap(),
            target: "b".parse().unwrap(),
            common: Some("s".parse().unwrap()),
            taken: Some(epoch),
            lag_s: Some(1),
            unsent_snapshots: Some(1),
            unsent_bytes: Some(1),
        }],
    }
}

#[test]
fn the_reference_of_json_has_every_field_and_no_other() {
    let (documented, samples) = (documented(), samples());
    assert_eq!(documented.keys().collect::<Vec<_>>(), samples.keys().collect::<Vec<_>>(), "the headings");
    let mut wrong = Vec::new();
    for (heading, sample) in &samples {
        let mut fields = BTreeSet::new();
        paths(sample, "", &mut fields);
        let reference = &documented[heading];
        wrong.extend(fields.difference(reference).map(|path| format!("{heading}: {path} is not in docs/json.md")));
        wrong.extend(reference.difference(&fields).map(|path| format!("{heading}: {path} is not in the object")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What README.md shows of `status`, `check` and `cutover` is what these print of such a job, and of such cutovers.
#[test]
fn the_readme_shows_what_is_printed() {
    const README: &str = include_str!("../../README.md");
    let now = jiff::Timestamp::from_second(1_000_000).unwrap();
    let ago = |seconds: i64| jiff::Timestamp::from_second(1_000_000 - seconds).unwrap();
    let mut status = job_status();
    status.job = "db".parse().unwrap();
    status.way = ("tank/db".into(), Some("west:tank/from-east/db".into()));
    status.verification = None;
    (status.error, status.progress, status.kept_for) = (None, None, None);
    let last = LastRun { ended: Some(ago(240)), result: "done".into(), ..LastRun::default() };
    (status.last, status.last_ended) = (Some(last.clone()), Some(last));
    status.next = Some(ago(-600));
    (status.lag_s, status.max_lag_s, status.unsent_bytes) = (Some(252), Some(2700), Some((3 << 20) + (60 << 10)));
    status.datasets[0].source = "tank/db/wal".parse().unwrap();
    (status.datasets[0].taken, status.datasets[0].lag_s) = (Some(ago(252)), Some(252));
    let shown = |text: &str| text.trim_end().lines().map(|line| format!("    {line}\n")).collect::<String>();
    let of_a_job = [status::table(std::slice::from_ref(&status), now), check::line_of(&status, now)];
    for text in of_a_job.into_iter().chain(cutover::readme_samples()) {
        assert!(README.contains(&shown(&text)), "README.md lacks:\n{text}");
    }
}

#[test]
fn paths_are_those_of_all_objects_in_a_list() {
    let object = serde_json::json!({"a": [{"b": 1}, {"c": {"d": []}}], "e": [1], "records": {"TYPE": {"count": 1}}});
    let mut found = BTreeSet::new();
    paths(&object, "", &mut found);
    let shown: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(shown, ["a[]", "a[].b", "a[].c", "a[].c.d", "e", "records", "records.TYPE.count"]);
}

/// All classes. The match makes a new one known here.
fn classes() -> Vec<FailureClass> {
    use FailureClass::*;
    let all = vec![
        Usage,
        Refused,
        NotGranted,
        Unreachable,
        SessionLost,
        Protocol,
        Zfs,
        BadStream,
        Locked,
        Interrupted,
        Partial,
        Internal,
    ];
    for class in &all {
        match class {
            Usage | Refused | NotGranted | Unreachable | SessionLost | Protocol | Zfs | BadStream | Locked
            | Interrupted | Partial | Internal => {}
        }
    }
    all
}

#[test]
fn the_table_of_exit_codes_is_that_of_the_code() {
    let mut rows: BTreeMap<u8, Vec<&str>> = BTreeMap::new();
    for row in EXIT_CODES.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        if let Ok(code) = cells[0].parse() {
            assert!(rows.insert(code, quoted(cells[1]).collect()).is_none(), "{code} is there twice");
        }
    }
    // Those of commands, and not of failures.
    let mut expected: BTreeMap<u8, Vec<String>> =
        [0, doctor::WARNINGS, cutover::ROLLED_BACK, cutover::NEEDS_PERSON].map(|code| (code, Vec::new())).into();
    for class in classes() {
        let name = value(class).as_str().unwrap().to_owned();
        expected.entry(class.exit_code()).or_default().push(name);
    }
    assert_eq!(format!("{rows:?}"), format!("{expected:?}"));
    let codes = check::codes_in_words();
    assert!(EXIT_CODES.contains(&codes), "{codes} is not in docs/exit-codes.md");
    let names: Vec<String> = classes().into_iter().map(|class| value(class).as_str().unwrap().to_owned()).collect();
    let row = JSON.lines().find(|line| line.starts_with("| `class` | ")).unwrap();
    assert_eq!(quoted(row).skip(1).collect::<Vec<_>>(), names, "the classes in docs/json.md");
}
