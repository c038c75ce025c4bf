//! Bad links and slow ends: a transfer goes on with the very same `zfs` processes, in bounded memory.

use std::{
    fmt::Write,
    fs,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::Signal;

use crate::{
    Case, cases,
    common::noise,
    process::{Running, await_zfs_child, children, patience, resident_kib, send_signal, wait_for, zfs_child},
    proxy::Proxy,
    safety::{SLOW, SLOW_BYTES},
    site::Site,
    zfs::{populate, snapshot, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_link_that_is_cut_ten_times,
        a_link_that_is_cut_ten_times_during_a_pull,
        several_connections_that_are_cut,
        a_link_that_falls_silent,
        a_stalled_receive_is_waited_for,
        a_stalled_send_is_waited_for,
        a_receiver_that_is_stopped_for_long,
        several_receivers_that_stall_together,
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
fn wait_with(mut push: Running, processes: &[(u32, &str, u32)], within_s: u64) -> crate::process::Done {
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

/// Stops a process for 15 s, three times the idle timeout, while a push runs with the default window.
fn stall(site: &Site, find: impl Fn(&Running) -> u32) {
    let db = site.source("db", 1000);
    populate(&db, 2, 100 << 20);
    snapshot(&db, "s2");
    let mut push = site.start_push("db", "in/db", &["--compress", "none", "--progress", "json", "-i"]);
    let stopped = find(&push);
    send_signal(stopped, Signal::STOP);
    let mut most_kib = 0;
    let mut transferred = Vec::new();
    for _ in 0..150 {
        most_kib = most_kib.max(resident_kib(push.pid())).max(resident_kib(site.daemon_pid()));
        transferred.push(push.transferred());
        assert!(!push.has_ended(), "the run ended during a stall:\n{}", push.stderr());
        sleep(Duration::from_millis(100));
    }
    let receive = zfs_child(site.daemon_pid(), "receive").unwrap();
    send_signal(stopped, Signal::CONT);
    let done = wait_with(push, &[(site.daemon_pid(), "receive", receive)], 60).must(0);
    for word in ["dialing again", "trying again"] {
        assert!(!done.stderr.contains(word), "a stall was taken for a failure:\n{}", done.stderr);
    }
    let (after_10_s, at_end) = (transferred[100], transferred[149]);
    assert_eq!(after_10_s, at_end, "nothing stalled, so this proves nothing");
    assert!(at_end < 100 << 20, "all was sent, so this proves nothing");
    assert!(most_kib < 200 << 10, "{most_kib} KiB of memory");
    eprintln!("stalled at {at_end} bytes; at most {most_kib} KiB resident");
    site.assert_same_files(&format!("{db}@s2"), &site.w("in/db@s2"));
}

fn impatient() -> Site {
    let mut site = Site::quiet();
    site.limits = "idle_timeout_s = 5".into();
    site
}

fn a_stalled_receive_is_waited_for() {
    let mut site = impatient();
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    stall(&site, |_| await_zfs_child(site.daemon_pid(), "receive"));
}

/// A `zfs` whose `send` goes through a process that can be stopped: zfs-fuse's daemon writes into the pipe by itself.
const WRAPPER: &str = "set -o pipefail\n\
    if [ \"$1\" = send ] && [ $# -gt 1 ]; then zfs \"$@\" | cat; else exec zfs \"$@\"; fi\n";

fn a_stalled_send_is_waited_for() {
    let mut site = impatient();
    site.more = site.wrapped_zfs("slow", WRAPPER);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    stall(&site, |push| {
        let mut cat = None;
        wait_for("the process behind zfs send", 20, || {
            let below = children(push.pid()).into_iter().flat_map(|(pid, _)| children(pid));
            cat = below.into_iter().find(|(_, args)| args[..] == ["cat"]).map(|(pid, _)| pid);
            cat.is_some()
        });
        cat.unwrap()
    });
}

/// How long the receiver is stopped; the default is the least that says something.
fn stall_time() -> Duration {
    let given = std::env::var("ZMIGRATE_STALL_S").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(given.unwrap_or(20))
}

/// Bytes that a process has handed to write calls so far.
fn written(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    io.lines().find_map(|l| l.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0)
}

/// A `zfs` whose `receive` reads through a process that can be stopped: zfs-fuse's daemon reads from the pipe by itself.
const BEHIND: &str = "if [ \"$1\" = receive ] && [ $# -gt 1 ]; then cat | zfs \"$@\"; exit ${PIPESTATUS[1]}; fi\n\
    exec zfs \"$@\"\n";

/// How often it is looked how fast a stream runs after the receiver woke up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What two processes have written when.
type Looks = Vec<(Duration, [u64; 2])>;

/// Looks at two processes for 2.2 s: from a waking on.
fn look_at(processes: [u32; 2]) -> Looks {
    let since = Instant::now();
    let mut looks = Looks::new();
    while since.elapsed() < Duration::from_millis(2200) {
        looks.push((since.elapsed(), processes.map(written)));
        sleep(LOOK_EVERY);
    }
    looks
}

/// The lesser of both rates, in bytes per second, over about that long from a moment on: what one side only had in store runs out.
fn rate(looks: &Looks, from: Duration, long: Duration) -> f64 {
    let at = |when: Duration| looks.iter().find(|(at, _)| *at >= when).or(looks.last()).unwrap();
    let ((t0, before), (t1, after)) = (at(from), at(from + long));
    let rate = |n: usize| (after[n] - before[n]) as f64 / (*t1 - *t0).as_secs_f64();
    rate(0).min(rate(1))
}

/// The receiver is stopped by SIGSTOP for `ZMIGRATE_STALL_S` seconds (20), four times the idle timeout or more: nothing
/// aborts, memory stays bounded, and within a second of its waking the stream runs at its full speed again, at both ends. The run keeps to
/// 4 MiB/s and the test looks now and then, so it needs next to no processor time and may run beside anything else; where that takes the
/// processors for seconds, it is put to sleep and woken up again, up to two times.
fn a_receiver_that_is_stopped_for_long() {
    const RATE: u64 = 4 << 20;
    const WAKINGS: usize = 3;
    let mut site = impatient();
    site.limits.push_str("\nwindow_bytes = 8388608");
    site.west_more = site.wrapped_zfs("behind", BEHIND);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let db = site.source("db", 1000);
    populate(&db, 2, 80 << 20);
    snapshot(&db, "s2");
    let options = ["--compress", "none", "--bwlimit", "4M", "--progress", "json", "-i"];
    let mut push = site.start_push("db", "in/db", &options);
    let daemon = site.daemon_pid();
    let mut receiver = 0;
    wait_for("the process in front of zfs receive", 20, || {
        let below = children(daemon).into_iter().flat_map(|(pid, _)| children(pid));
        receiver = below.into_iter().find(|(_, args)| args[..] == ["cat"]).map_or(0, |(pid, _)| pid);
        receiver != 0
    });
    push.until_transferred(RATE);
    let mut best: Vec<f64> = Vec::new();
    while best.len() < WAKINGS && best.iter().all(|rate| *rate < 0.8 * RATE as f64) {
        send_signal(receiver, Signal::STOP);
        let stopped = Instant::now();
        // What the window and the pipes hold has gone after 8 s.
        let long = if best.is_empty() { stall_time() } else { Duration::from_secs(10) };
        let (mut most_kib, mut moved) = (0, 0);
        while stopped.elapsed() < long {
            sleep(Duration::from_secs(1).min(long));
            most_kib = most_kib.max(resident_kib(push.pid())).max(resident_kib(daemon));
            assert!(!push.has_ended(), "the run ended during a stall:\n{}", push.stderr());
            if stopped.elapsed() < Duration::from_secs(8) {
                moved = written(daemon);
            }
        }
        let transferred = push.transferred();
        let late = written(daemon) - moved;
        assert!(transferred < 70 << 20, "{transferred} bytes were sent, so this proves nothing");
        assert!(late < RATE / 4, "nothing stalled, so this proves nothing: {late} bytes were written after 8 s");
        assert!(most_kib < 100 << 10, "{most_kib} KiB of memory");
        send_signal(receiver, Signal::CONT);
        let looks = look_at([push.pid(), daemon]);
        let quarter = Duration::from_millis(250);
        let each: Vec<u64> = (0..8).map(|n| rate(&looks, quarter * n, quarter) as u64 >> 10).collect();
        // Over the second that begins at the latest a second after the waking.
        let second = (0..=4).map(|n| rate(&looks, quarter * n, Duration::from_secs(1))).fold(0.0, f64::max);
        eprintln!(
            "stopped for {} s after {transferred} bytes; at most {most_kib} KiB resident; KiB/s in each quarter of a second after it \
             woke up: {each:?}; over a whole one: {:.0}",
            long.as_secs(),
            second / 1024.0
        );
        best.push(second);
    }
    assert!(best.iter().any(|rate| *rate >= 0.8 * RATE as f64), "a second after it woke up it ran at {best:?} bytes/s");
    let done = push.wait(120).must(0);
    for word in ["dialing again", "trying again"] {
        assert!(!done.stderr.contains(word), "a stall was taken for a failure:\n{}", done.stderr);
    }
    site.assert_same_files(&format!("{db}@s2"), &site.w("in/db@s2"));
}

/// A `zfs` whose `receive` takes nothing until it is woken up, while there is a file that says so.
const ASLEEP: &str = "if [ \"$1\" = receive ] && [ $# -gt 1 ] && [ -e \"$DIR/asleep\" ]; then kill -STOP $$; fi\n\
    exec zfs \"$@\"\n";

/// Four receivers of one run take nothing, and each has granted a window of 32 MiB: neither process takes four of them.
fn several_receivers_that_stall_together() {
    const WINDOW: u64 = 32 << 20;
    let mut site = impatient();
    let _ = write!(site.limits, "\nwindow_bytes = {WINDOW}");
    site.west_more = site.wrapped_zfs("sleepy", ASLEEP);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let root = site.source("t", 1000);
    let children_of_it = ["a", "b", "c", "d"].map(|name| format!("{root}/{name}"));
    for child in &children_of_it {
        zfs(&["create", child]);
    }
    zfs(&["snapshot", "-r", &format!("{root}@s2")]);
    site.push("t", "in/t", &["-r", "--jobs", "5"]).must(0);
    for (n, child) in children_of_it.iter().enumerate() {
        populate(child, 10 + n as u64, 42 << 20);
    }
    zfs(&["snapshot", "-r", &format!("{root}@s3")]);
    fs::write(site.dir.join("asleep"), "").unwrap();
    let mut push = site.start_push("t", "in/t", &["-r", "--jobs", "5", "--compress", "none", "--progress", "json"]);
    let daemon = site.daemon_pid();
    let receivers = || -> Vec<u32> {
        let receives = |args: &[String]| args.iter().any(|arg| arg == "receive");
        children(daemon).into_iter().filter(|(_, args)| receives(args)).map(|(pid, _)| pid).collect()
    };
    wait_for("five receivers", 30, || receivers().len() == 5);
    push.until_transferred(WINDOW);
    let (mut most_kib, mut transferred) = ([0, 0], Vec::new());
    for _ in 0..100 {
        for (most, pid) in most_kib.iter_mut().zip([push.pid(), daemon]) {
            *most = resident_kib(pid).max(*most);
        }
        transferred.push(push.transferred());
        assert!(!push.has_ended(), "the run ended during a stall:\n{}", push.stderr());
        sleep(Duration::from_millis(100));
    }
    let [before, at_end] = [50, 99].map(|n| transferred[n]);
    eprintln!("stalled at {at_end} bytes; at most {most_kib:?} KiB resident");
    assert_eq!(before, at_end, "nothing stalled, so this proves nothing");
    // One window, what each has in any case, and what each half has in hand.
    assert!(at_end < WINDOW + 4 * (4 << 20) + 4 * (4 << 20), "{at_end} bytes were sent");
    assert!(most_kib.iter().all(|kib| *kib < 130 << 10), "{most_kib:?} KiB of memory");
    fs::remove_file(site.dir.join("asleep")).unwrap();
    receivers().into_iter().for_each(|pid| send_signal(pid, Signal::CONT));
    let done = push.wait(120).must(0);
    for word in ["dialing again", "trying again"] {
        assert!(!done.stderr.contains(word), "a stall was taken for a failure:\n{}", done.stderr);
    }
    for child in ["a", "b", "c", "d"] {
        site.assert_same_files(&format!("{root}/{child}@s3"), &site.w(&format!("in/t/{child}@s3")));
    }
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
