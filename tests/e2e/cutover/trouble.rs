//! Troubles that come while it is under way: the command dies for good, the delta does not shrink, a clock is wrong. Those that may
//! come in each phase are in `phases.rs`.

use rustix::process::Signal;

use super::{
    bench::{Bench, is_writable, json, settings},
    matrix::{Who, crash},
};
use crate::{
    Case, cases,
    process::wait_for,
    site::{Site, an_hour_ahead},
    zfs::{create, populate, tags, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        passes_that_do_not_shrink,
        pairs_move_as_one,
        mount_points_in_each_other,
        the_daemon_goes_on_where_the_command_died,
        a_bare_resume_goes_on_with_all,
        a_daemon_that_is_stopped_ends_the_outage_first,
        what_replicates_home,
        a_clock_an_hour_off,
    ]
}

fn passes_that_do_not_shrink() {
    // No delta is small enough for a millisecond.
    let mut bench = Bench::new();
    bench.write();
    let result = json(&bench.start_within("1ms", &["--not-converging", "abort"], &[]).wait(120).must(8));
    assert_eq!(result["result"], "rolled_back");
    assert!(bench.writer_runs(), "the writer was never stopped");
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all());
    bench.afresh();
    bench.write();
    let more = ["--not-converging", "go", "--outage-limit", "60s"];
    assert_eq!(json(&bench.start_within("1ms", &more, &[]).wait(120).must(0))["result"], "done");
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
    bench.afresh();
    bench.write();
    let asks = json(&bench.start_within("1ms", &["--outage-limit", "60s"], &[]).wait(120).must(9));
    let id = asks["id"].as_str().unwrap();
    assert!(asks["needs"].as_str().unwrap().contains("go"), "{asks}");
    assert!(bench.writer_runs() && is_writable(&bench.east()));
    assert_eq!(json(&bench.cutover(&["go", id]).must(0))["result"], "done");
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

fn pairs_move_as_one() {
    let bench = Bench::new();
    let (here, there) = (bench.site.e("logs"), bench.site.w("in/kept/logs"));
    create(&here);
    create(&bench.site.w("in/kept"));
    populate(&here, 5, 300_000);
    bench.write();
    let result = json(&bench.start(&["--also", &format!("{here}={there}")]).wait(120).must(0));
    assert_eq!(result["result"], "done");
    assert!(!is_writable(&here) && is_writable(&there), "the second pair moved as well");
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
    let tag = tags(&there).into_iter().next_back().unwrap();
    bench.site.assert_same_files(&format!("{here}@{tag}"), &format!("{there}@{tag}"));
    json(&bench.cutover(&["back", result["id"].as_str().unwrap()]).must(0));
    assert!(is_writable(&here) && !is_writable(&there));
}

fn mount_points_in_each_other() {
    let bench = Bench::new();
    for outer_first in [true, false] {
        let pair = |what: &str| {
            let name = format!("{what}-{outer_first}");
            (bench.site.e(&name), bench.site.w(&format!("in/{name}")))
        };
        let (outer, inner) = (pair("db"), pair("fast"));
        let place = bench.site.dir.join(format!("place-{outer_first}"));
        let segment = place.join("wal/segment");
        for ((dataset, _), at) in [(&outer, place.clone()), (&inner, place.join("wal"))] {
            create(dataset);
            zfs(&["set", &format!("mountpoint={}", at.display()), dataset]);
        }
        std::fs::write(&segment, "kept").unwrap();
        let (first, second) = if outer_first { (&outer, &inner) } else { (&inner, &outer) };
        let (target, also) = (format!("west:{}", first.1), format!("{}={}", second.0, second.1));
        let args =
            ["cutover", "start", &first.0, &target, "--also", &also, "--max-downtime", "60s", "--output", "json"];
        let result = json(&bench.site.start(&args).wait(120).must(0));
        assert_eq!(result["result"], "done", "{result}");
        let serves = |one: &str, other: &str| {
            assert!(is_writable(one) && is_writable(other), "{one}, {other}");
            assert_eq!(std::fs::read_to_string(&segment).unwrap(), "kept", "{one} hides {other}");
        };
        serves(&outer.1, &inner.1);
        json(&bench.cutover(&["back", result["id"].as_str().unwrap()]).must(0));
        serves(&outer.0, &inner.0);
        assert!(!is_writable(&outer.1) && !is_writable(&inner.1));
    }
}

fn the_daemon_goes_on_where_the_command_died() {
    for point in ["lead:after:fence", "lead:after:promote"] {
        let bench = Bench::new();
        bench.write();
        let here = bench.site.start_daemon_here(&[]);
        assert_eq!(bench.start_with(&[], &[("ZMIGRATE_CRASH_AT", point)]).wait(120).code, None);
        wait_for("the daemon to lead it to its end", 60, || bench.status()["phase"] == "done");
        assert!(here.stderr().contains("nobody leads it any more"), "{}", here.stderr());
        wait_for("the writer", 20, || bench.writer_runs());
        bench.wait_for_records(3);
        bench.stop_writing();
        assert!(bench.assert_one_side_has_it_all());
    }
}

/// Two leaders died: one on its way there, after the fence, the other on its way back, as a hook does not stop.
fn a_bare_resume_goes_on_with_all() {
    let mut bench = Bench::with(Site::quiet(), "app", "[hook.stuck]\nstop = [\"/bin/false\"]\n");
    bench.write();
    let (here, there) = (bench.site.e("other"), bench.site.w("in/other"));
    create(&here);
    let before = settings(&here);
    crash(&mut bench, "lead:after:fence", Who::Leader, |bench, environment| bench.start_with(&[], environment));
    let target = format!("west:{there}");
    let stuck = ["cutover", "start", &here, &target, "--source-hook", "stuck", "--tries", "1", "--max-downtime", "60s"];
    crash(&mut bench, "lead:after:withdraw", Who::Leader, |bench, environment| {
        bench.site.start_with(&stuck, environment)
    });
    let status = json(&bench.cutover(&["status"]).must(0));
    let id_of = |source: &str| {
        let cutovers = status["cutovers"].as_array().unwrap();
        let it = cutovers.iter().find(|c| c["source"] == source && c["over"] == false);
        it.unwrap_or_else(|| panic!("{source} is under way: {status}"))["id"].clone()
    };
    let (moves, is_left) = (id_of(&bench.east()), id_of(&here));
    // The highest code of both.
    let resumed = json(&bench.cutover(&["resume"]).must(8));
    assert_eq!((&resumed["result"], &resumed["exit_code"]), (&"not_all_done".into(), &8_u8.into()), "{resumed}");
    let cutovers = resumed["cutovers"].as_array().unwrap();
    assert_eq!(cutovers.len(), 2, "{resumed}");
    for (id, result, exit_code) in [(moves, "done", 0_u8), (is_left, "rolled_back", 8)] {
        let it = cutovers.iter().find(|c| c["id"] == id).unwrap_or_else(|| panic!("no {id}: {resumed}"));
        assert_eq!((&it["result"], &it["exit_code"]), (&result.into(), &exit_code.into()), "{resumed}");
    }
    assert!(is_writable(&here) && !is_writable(&there));
    assert_eq!(settings(&here), before);
    wait_for("the writer", 20, || bench.writer_runs());
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all(), "west serves");
    // No more is left to be gone on with.
    let again = json(&bench.cutover(&["resume"]).must(0));
    assert_eq!((&again["result"], &again["cutovers"]), (&"done".into(), &serde_json::Value::Array(Vec::new())));
}

fn a_daemon_that_is_stopped_ends_the_outage_first() {
    let bench = Bench::new();
    // So slow that it is under way when the daemon is stopped.
    let start = bench.site.dir.join("start-west.sh");
    let text = std::fs::read_to_string(&start).unwrap();
    std::fs::write(&start, text.replacen('\n', "\nsleep 3\n", 1)).unwrap();
    bench.write();
    let here = bench.site.start_daemon_here(&[]);
    assert_eq!(bench.start_with(&[], &[("ZMIGRATE_CRASH_AT", "lead:after:fence")]).wait(120).code, None);
    wait_for("the daemon to lead it", 60, || here.stderr().contains("nobody leads it any more"));
    here.signal(Signal::TERM);
    let done = here.wait(60).must(0);
    assert!(done.stderr.contains("waiting for 1 cutover led from here"), "{}", done.stderr);
    assert_eq!(bench.status()["phase"], "done");
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}

fn what_replicates_home() {
    let bench = Bench::new();
    bench.write();
    let here = bench.site.start_daemon_here(&[]);
    let id = json(&bench.start(&["--reverse"]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    let at_the_end = tags(&bench.east());
    wait_for("a pass home", 30, || tags(&bench.east()).iter().any(|tag| !at_the_end.contains(tag)));
    assert!(!is_writable(&bench.east()) && is_writable(&bench.west()), "a copy is no serving side");
    bench.wait_for_records(5);
    drop(here);
    json(&bench.cutover(&["back", &id]).must(0));
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all(), "east serves again");
}

fn a_clock_an_hour_off() {
    let mut bench = Bench::new();
    bench.write();
    // West is an hour ahead.
    bench.site.bury_daemon();
    bench.site.daemon_environment = an_hour_ahead();
    bench.site.start_daemon();
    let id = json(&bench.start(&[]).wait(120).must(0))["id"].as_str().unwrap().to_owned();
    assert_eq!(bench.status()["phase"], "done");
    bench.wait_for_records(3);
    json(&bench.cutover(&["back", &id]).must(0));
    bench.wait_for_records(3);
    bench.stop_writing();
    assert!(!bench.assert_one_side_has_it_all());
    // East is.
    bench.site.bury_daemon();
    bench.site.daemon_environment.clear();
    bench.site.start_daemon();
    bench.afresh();
    bench.write();
    let environment = an_hour_ahead();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let result = json(&bench.start_with(&[], &environment).wait(120).must(0));
    assert_eq!(result["result"], "done");
    // What was measured is no hour.
    assert!(result["downtime_ms"].as_u64().unwrap() < 60_000, "{result}");
    bench.stop_writing();
    assert!(bench.assert_one_side_has_it_all());
}
