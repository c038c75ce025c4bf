//! Processes that die or are told to stop: what is left can be gone on with, at once.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    Case, cases,
    process::{await_zfs_child, is_alive, send_signal, wait_for},
    safety::{SLOW, SLOW_BYTES},
    site::Site,
    zfs::{exists, populate, snapshot, tags},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_killed_push_is_run_again,
        a_killed_pull_is_run_again,
        a_killed_increment_leaves_the_target_as_it_was,
        a_restarted_daemon_is_found_again,
        a_restarted_daemon_is_found_again_by_a_pull,
        a_killed_zfs_send,
        a_killed_zfs_receive,
        a_killed_zfs_send_at_the_peer,
        a_killed_zfs_receive_here,
        an_interrupted_run_lets_the_target_go,
        a_stopping_daemon_lets_transfers_finish,
    ]
}

fn a_killed_push_is_run_again() {
    let site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    for _ in 0..2 {
        let mut push = site.start_push("db", "in/db", &SLOW);
        push.until_transferred(2 << 20);
        let send = await_zfs_child(push.pid(), "send");
        push.signal(Signal::KILL);
        assert_eq!(push.wait(5).code, None);
        wait_for("the end of the orphaned zfs send", 20, || !is_alive(send));
    }
    // At once: the abandoned session yields to its own identity.
    site.push("db", "in/db", &[]).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    assert!(site.log().contains("yields to a new run"), "{}", site.log());
}

fn a_killed_pull_is_run_again() {
    let site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    site.push("db", "in/db", &[]).must(0);
    for _ in 0..2 {
        let mut pull = site.start_pull("in/db", "back", &SLOW);
        pull.until_transferred(2 << 20);
        let receive = await_zfs_child(pull.pid(), "receive");
        pull.signal(Signal::KILL);
        assert_eq!(pull.wait(5).code, None);
        // Until its pipe is empty it goes on, and a ZFS without tokens shows what it makes as a dataset like any other.
        wait_for("the end of the orphaned zfs receive", 20, || !is_alive(receive));
    }
    site.pull("in/db", "back", &[]).must(0);
    site.assert_equal(&db, &site.e("back"));
}

fn a_killed_increment_leaves_the_target_as_it_was() {
    let site = Site::new();
    let db = site.source("db", 100_000);
    site.push("db", "in/db", &[]).must(0);
    populate(&db, 2, SLOW_BYTES);
    snapshot(&db, "s2");
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(2 << 20);
    push.signal(Signal::KILL);
    push.wait(5);
    assert_eq!(tags(&site.w("in/db")), ["s1"]);
    site.assert_same_files(&format!("{db}@s1"), &site.w("in/db@s1"));
    site.push("db", "in/db", &[]).must(0);
    site.assert_equal(&db, &site.w("in/db"));
}

fn a_restarted_daemon_is_found_again() {
    let mut site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(2 << 20);
    let receive = await_zfs_child(site.daemon_pid(), "receive");
    site.signal_daemon(Signal::KILL);
    assert_eq!(site.reap_daemon(5), None);
    std::thread::sleep(Duration::from_secs(1));
    site.start_daemon();
    let done = push.wait(90).must(0);
    assert!(!is_alive(receive));
    site.assert_equal(&db, &site.w("in/db"));
    assert!(done.stderr.contains("trying again"), "{}", done.stderr);
}

fn a_restarted_daemon_is_found_again_by_a_pull() {
    let mut site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    site.push("db", "in/db", &[]).must(0);
    let mut pull = site.start_pull("in/db", "back", &SLOW);
    pull.until_transferred(2 << 20);
    site.signal_daemon(Signal::KILL);
    assert_eq!(site.reap_daemon(5), None);
    site.start_daemon();
    pull.wait(90).must(0);
    site.assert_equal(&db, &site.e("back"));
}

/// Kills one of the two `zfs` processes of a push or a pull. The run gets over it, or says what happened.
fn kill_zfs(pull: bool, verb: &str, here: bool) {
    let site = Site::new();
    // The window and the pipes hold 9 MiB of it; `zfs send` must still be there when it is looked for.
    let db = site.source("db", 2 * SLOW_BYTES);
    let (mut run, target) = if pull {
        site.push("db", "in/db", &[]).must(0);
        (site.start_pull("in/db", "back", &SLOW), site.e("back"))
    } else {
        (site.start_push("db", "in/db", &SLOW), site.w("in/db"))
    };
    run.until_transferred(2 << 20);
    let parent = if here { run.pid() } else { site.daemon_pid() };
    send_signal(await_zfs_child(parent, verb), Signal::KILL);
    let done = run.wait(90);
    match done.code {
        Some(0) => {
            let cause = format!("{verb} ");
            assert!(done.stderr.contains(&cause) && done.stderr.contains("signal 9"), "{}", done.stderr);
        }
        Some(6) => {
            assert!(done.stderr.contains("signal 9"), "{}", done.stderr);
            let again = if pull { site.pull("in/db", "back", &[]) } else { site.push("db", "in/db", &[]) };
            again.must(0);
        }
        other => panic!("exit {other:?}:\n{}", done.stderr),
    }
    site.assert_equal(&db, &target);
}

fn a_killed_zfs_send() {
    kill_zfs(false, "send", true);
}

fn a_killed_zfs_receive() {
    kill_zfs(false, "receive", false);
}

fn a_killed_zfs_send_at_the_peer() {
    kill_zfs(true, "send", false);
}

fn a_killed_zfs_receive_here() {
    kill_zfs(true, "receive", true);
}

fn an_interrupted_run_lets_the_target_go() {
    let site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    for (signal, ended) in [(Signal::INT, 1), (Signal::TERM, 2)] {
        let mut push = site.start_push("db", "in/db", &SLOW);
        push.until_transferred(2 << 20);
        let receive = await_zfs_child(site.daemon_pid(), "receive");
        push.signal(signal);
        push.wait(10).must(130).says(&["the run was stopped", "hint: run the same command again"]);
        wait_for("the end of zfs receive", 1, || !is_alive(receive));
        wait_for("the end of the session", 1, || site.log().matches("session closed").count() == ended);
    }
    site.push("db", "in/db", &[]).must(0);
    assert!(!site.log().contains("yields to a new run"), "{}", site.log());
    site.assert_equal(&db, &site.w("in/db"));
}

fn a_stopping_daemon_lets_transfers_finish() {
    let mut site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    site.source("other", 1000);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(2 << 20);
    site.signal_daemon(Signal::TERM);
    wait_for("draining", 5, || site.log().contains("draining: 1 sessions"));
    let refused = site.push("other", "in/other", &[]).must(5);
    assert!(refused.stderr.contains("zmigrated is being stopped"), "{}", refused.stderr);
    push.wait(60).must(0);
    assert_eq!(site.reap_daemon(10), Some(0));
    site.assert_equal(&db, &site.w("in/db"));
    assert!(!exists(&site.w("in/other")));
    site.start_daemon();
    site.push("other", "in/other", &[]).must(0);
}
