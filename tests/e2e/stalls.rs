//! Slow ends: a transfer waits for a `zfs` process that stands still, in bounded memory, and goes on at once when it moves again.

use std::{
    fmt::Write,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    Case, cases,
    links::wait_with,
    process::{Done, Running, await_zfs_child, children, resident_kib, send_signal, wait_for, zfs_child},
    site::Site,
    zfs::{populate, snapshot, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_stalled_receive_is_waited_for,
        a_stalled_send_is_waited_for,
        a_receiver_that_is_stopped_for_long,
        a_receiver_that_is_stopped_though_nothing_limits_the_run,
        several_receivers_that_stall_together,
    ]
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
    ended_well(wait_with(push, &[(site.daemon_pid(), "receive", receive)], 60));
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

/// Looks at two processes for so long, and a little longer.
fn look_at(processes: [u32; 2], long: Duration) -> Looks {
    let since = Instant::now();
    let mut looks = Looks::new();
    while since.elapsed() < long + 4 * LOOK_EVERY {
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

/// The process in front of `zfs receive` of which this is the program.
fn in_front(daemon: u32, program: &str) -> u32 {
    let mut found = None;
    wait_for("the process in front of zfs receive", 20, || {
        let below = children(daemon).into_iter().flat_map(|(pid, _)| children(pid));
        found = below.into_iter().find(|(_, args)| args.first().is_some_and(|arg| arg == program)).map(|(pid, _)| pid);
        found.is_some()
    });
    found.unwrap()
}

/// What the window and the pipes hold has gone by then.
const DRAINED_AFTER: Duration = Duration::from_secs(8);

/// Stops the receiver for so long, more than [`DRAINED_AFTER`], and wakes it up. All stands still before that, in bounded memory, and
/// less than `below` bytes were sent. Gives the bytes that were, and the most KiB that either process took.
fn stop(receiver: u32, long: Duration, push: &mut Running, daemon: u32, below: u64) -> (u64, u64) {
    send_signal(receiver, Signal::STOP);
    let stopped = Instant::now();
    let (mut most_kib, mut moved) = (0, 0);
    while stopped.elapsed() < long {
        sleep(Duration::from_secs(1).min(long));
        most_kib = most_kib.max(resident_kib(push.pid())).max(resident_kib(daemon));
        assert!(!push.has_ended(), "the run ended during a stall:\n{}", push.stderr());
        if stopped.elapsed() < DRAINED_AFTER {
            moved = written(daemon);
        }
    }
    let transferred = push.transferred();
    let late = written(daemon) - moved;
    assert!(transferred < below, "{transferred} bytes were sent, so this proves nothing");
    assert!(late < 1 << 20, "nothing stalled, so this proves nothing: {late} bytes were written after 8 s");
    assert!(most_kib < 100 << 10, "{most_kib} KiB of memory");
    send_signal(receiver, Signal::CONT);
    (transferred, most_kib)
}

/// How often a receiver is woken up, at the most, until what runs beside the trial leaves it a second.
const WAKINGS: usize = 3;
const QUARTER: Duration = Duration::from_millis(250);

/// The rates of each quarter of a second, in KiB/s.
fn quarters(looks: &Looks, count: u32) -> Vec<u64> {
    (0..count).map(|n| rate(looks, QUARTER * n, QUARTER) as u64 >> 10).collect()
}

/// The run's end, on the way to which no stall was taken for a failure.
fn ended_well(done: Done) {
    let done = done.must(0);
    for word in ["dialing again", "trying again"] {
        assert!(!done.stderr.contains(word), "a stall was taken for a failure:\n{}", done.stderr);
    }
}

/// The receiver is stopped by SIGSTOP for `ZMIGRATE_STALL_S` seconds (20), four times the idle timeout or more: nothing
/// aborts, memory stays bounded, and within a second of its waking the stream runs at its full speed again, at both ends. The run keeps to
/// 4 MiB/s and the test looks now and then, so it needs next to no processor time and may run beside anything else; where that takes the
/// processors for seconds, it is put to sleep and woken up again, up to two times.
fn a_receiver_that_is_stopped_for_long() {
    const RATE: u64 = 4 << 20;
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
    let receiver = in_front(daemon, "cat");
    push.until_transferred(RATE);
    let mut best: Vec<f64> = Vec::new();
    while best.len() < WAKINGS && best.iter().all(|rate| *rate < 0.8 * RATE as f64) {
        let long = if best.is_empty() { stall_time() } else { Duration::from_secs(10) };
        let (transferred, most_kib) = stop(receiver, long, &mut push, daemon, 70 << 20);
        let looks = look_at([push.pid(), daemon], Duration::from_secs(2));
        // Over the second that begins at the latest a second after the waking.
        let second = (0..=4).map(|n| rate(&looks, QUARTER * n, Duration::from_secs(1))).fold(0.0, f64::max);
        eprintln!(
            "stopped for {} s after {transferred} bytes; at most {most_kib} KiB resident; KiB/s in each quarter of a second after it \
             woke up: {:?}; over a whole one: {:.0}",
            long.as_secs(),
            quarters(&looks, 8),
            second / 1024.0
        );
        best.push(second);
    }
    assert!(best.iter().any(|rate| *rate >= 0.8 * RATE as f64), "a second after it woke up it ran at {best:?} bytes/s");
    ended_well(push.wait(120));
    site.assert_same_files(&format!("{db}@s2"), &site.w("in/db@s2"));
}

/// A `zfs` whose `receive` reads through a process that takes 24 MiB/s and can be stopped: one that takes all it can get would have taken
/// what fits into a pool before it could be looked at.
const IN_ITS_OWN_TIME: &str = "if [ \"$1\" = receive ] && [ $# -gt 1 ]; then\n\
    perl -e 'while (sysread STDIN, $b, 1 << 18) { \
    for ($n = 0; $n < length $b;) { $n += syswrite(STDOUT, $b, length($b) - $n, $n) || exit 1 } \
    select undef, undef, undef, length($b) / (24 << 20) }' \
    | zfs \"$@\"; exit ${PIPESTATUS[1]}; fi\n\
    exec zfs \"$@\"\n";

/// The same where the run has no limit and the receiver is what holds it back, as `zfs receive` mostly does: in the first second after its
/// waking, a quarter of one is reached in which both ends run at half of what they ran at before, or more.
fn a_receiver_that_is_stopped_though_nothing_limits_the_run() {
    let mut site = Site::with_pools(640 << 20);
    site.limits = "idle_timeout_s = 5\nwindow_bytes = 8388608".into();
    site.west_more = site.wrapped_zfs("leisurely", IN_ITS_OWN_TIME);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let db = site.source("db", 1000);
    populate(&db, 2, 224 << 20);
    snapshot(&db, "s2");
    let mut push = site.start_push("db", "in/db", &["--compress", "none", "--progress", "json", "-i"]);
    let daemon = site.daemon_pid();
    // More than the window and all pipes hold, so that it runs as fast as the receiver takes it.
    push.until_transferred(24 << 20);
    let receiver = in_front(daemon, "perl");
    let second = Duration::from_secs(1);
    let before = rate(&look_at([push.pid(), daemon], second), Duration::ZERO, second);
    assert!(before > 0.0, "nothing moved, so this proves nothing");
    let mut best: Vec<f64> = Vec::new();
    while best.len() < WAKINGS && best.iter().all(|rate| *rate < 0.5 * before) {
        let long = Duration::from_secs(if best.is_empty() { 20 } else { 10 });
        let (transferred, most_kib) = stop(receiver, long, &mut push, daemon, 208 << 20);
        let looks = look_at([push.pid(), daemon], second);
        let quarter = (0..4).map(|n| rate(&looks, QUARTER * n, QUARTER)).fold(0.0, f64::max);
        eprintln!(
            "stopped for {} s after {transferred} bytes; at most {most_kib} KiB resident; {:.0} KiB/s before, and in each quarter of a \
             second after it woke up {:?}",
            long.as_secs(),
            before / 1024.0,
            quarters(&looks, 4)
        );
        best.push(quarter);
    }
    assert!(best.iter().any(|rate| *rate >= 0.5 * before), "{before} bytes/s before, and {best:?} after it woke up");
    ended_well(push.wait(120));
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
    ended_well(push.wait(120));
    for child in ["a", "b", "c", "d"] {
        site.assert_same_files(&format!("{root}/{child}@s3"), &site.w(&format!("in/t/{child}@s3")));
    }
}
