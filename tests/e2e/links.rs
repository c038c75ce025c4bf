//! Bad links: a transfer goes on with the very same `zfs` processes. Slow ends are in `stalls`.

use std::{
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    Case, cases,
    common::noise,
    process::{Done, Running, await_zfs_child, patience, zfs_child},
    proxy::Proxy,
    safety::{SLOW, SLOW_BYTES},
    site::Site,
};

pub fn cases() -> Vec<Case> {
    cases![
        a_link_that_is_cut_ten_times,
        a_link_that_is_cut_ten_times_during_a_pull,
        several_connections_that_are_cut,
        a_link_that_falls_silent,
    ]
}

/// Ascending random positions, from `ZMIGRATE_SEED` or the clock; printed, so that a failure can be brought back.
fn positions(count: usize, below: u64) -> Vec<u64> {
    let given = std::env::var("ZMIGRATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed: u64 = given.unwrap_or_else(clock);
    let bytes = noise(count * 8, seed);
    let number = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap()) % below;
    let mut positions: Vec<u64> = bytes.chunks(8).map(number).collect();
    positions.sort_unstable();
    eprintln!("ZMIGRATE_SEED={seed}: cuts at {positions:?}");
    positions
}

/// Both `zfs` processes of a push: parent, verb and process.
fn processes(site: &Site, push: &Running) -> [(u32, &'static str, u32); 2] {
    let one = |parent, verb| (parent, verb, await_zfs_child(parent, verb));
    [one(push.pid(), "send"), one(site.daemon_pid(), "receive")]
}

/// Waits for the end; as long as the transfer runs, both processes must stay what they are.
pub fn wait_with(mut push: Running, processes: &[(u32, &str, u32)], within_s: u64) -> Done {
    let deadline = Instant::now() + patience(within_s);
    while !push.has_ended() && Instant::now() < deadline {
        for &(parent, verb, pid) in processes {
            let now = zfs_child(parent, verb);
            assert!(now.is_none_or(|now| now == pid), "zfs {verb} was started again:\n{}", push.stderr());
        }
        sleep(Duration::from_millis(50));
    }
    assert!(push.has_ended(), "zmigrate has not ended within {:?}:\n{}", patience(within_s), push.stderr());
    push.wait(1)
}

fn a_link_that_is_cut_ten_times() {
    let site = Site::new();
    let proxy = Proxy::to(site.port, &positions(10, 36 << 20));
    site.write_configs(&site.default_grant(), Some(proxy.port));
    let db = site.source("db", 40 << 20);
    let push = site.start_push("db", "in/db", &["--compress", "none"]);
    let both = processes(&site, &push);
    wait_with(push, &both, 120).must(0);
    assert_eq!(proxy.cuts_made(), 10);
    site.assert_equal(&db, &site.w("in/db"));
}

fn several_connections_that_are_cut() {
    let site = Site::new();
    let proxy = Proxy::to(site.port, &positions(6, 18 << 20));
    site.write_configs(&site.default_grant(), Some(proxy.port));
    let db = site.source("db", 20 << 20);
    let push = site.start_push("db", "in/db", &["--compress", "none", "--streams", "3"]);
    let both = processes(&site, &push);
    wait_with(push, &both, 120).must(0);
    assert_eq!(proxy.cuts_made(), 6);
    assert!(proxy.accepted() >= 4, "{} connections", proxy.accepted());
    site.assert_equal(&db, &site.w("in/db"));
}

fn a_link_that_falls_silent() {
    let mut site = Site::quiet();
    site.limits.push_str("\nidle_timeout_s = 5");
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let proxy = Proxy::to(site.port, &[]);
    site.write_configs(&site.default_grant(), Some(proxy.port));
    let db = site.source("db", SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    let both = processes(&site, &push);
    push.until_transferred(2 << 20);
    let before = proxy.accepted();
    proxy.silence();
    let since = Instant::now();
    let done = wait_with(push, &both, 60).must(0);
    assert!(since.elapsed() > Duration::from_secs(4), "it was not silent");
    assert!(proxy.accepted() > before, "nothing was dialled again");
    assert!(done.stderr.contains("nothing was heard for 5 s"), "{}", done.stderr);
    site.assert_equal(&db, &site.w("in/db"));
}

fn a_link_that_is_cut_ten_times_during_a_pull() {
    let site = Site::new();
    let db = site.source("db", 40 << 20);
    site.push("db", "in/db", &["--compress", "none"]).must(0);
    let proxy = Proxy::from(site.port, &positions(10, 36 << 20));
    site.write_configs(&site.default_grant(), Some(proxy.port));
    let pull = site.start_pull("in/db", "back", &["--compress", "none"]);
    let one = |parent, verb| (parent, verb, await_zfs_child(parent, verb));
    let both = [one(site.daemon_pid(), "send"), one(pull.pid(), "receive")];
    wait_with(pull, &both, 120).must(0);
    assert_eq!(proxy.cuts_made(), 10);
    site.assert_equal(&db, &site.e("back"));
}
