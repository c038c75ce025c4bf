//! Processes: `zmigrate` while it runs, what it says, its children, and signals.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A run that has ended.
#[derive(Debug)]
pub struct Done {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Fails unless it ended with this exit code.
    #[track_caller]
    pub fn must(self, code: i32) -> Done {
        assert_eq!(self.code, Some(code), "stdout:\n{}stderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless stderr holds all of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Done {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in stderr:\n{}", self.stderr);
        }
        self
    }
}

/// `zmigrate` at work. It is killed when dropped.
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    pub fn start(program: &Path, args: &[&str], to: &Path, environment: &[(&str, &str)]) -> Running {
        let (out, err) = (to.with_extension("out"), to.with_extension("err"));
        let child = Command::new(program)
            .args(args)
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Running { child, out, err }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, which takes an idle machine less than `within_s` seconds; kills it and fails after [`patience`].
    #[track_caller]
    pub fn wait(mut self, within_s: u64) -> Done {
        let deadline = Instant::now() + patience(within_s);
        while !self.has_ended() {
            assert!(
                Instant::now() < deadline,
                "zmigrate has not ended within {:?}:\n{}",
                patience(within_s),
                self.stderr()
            );
            sleep(Duration::from_millis(10));
        }
        Done {
            code: self.child.wait().unwrap().code(),
            stdout: fs::read_to_string(&self.out).unwrap(),
            stderr: self.stderr(),
        }
    }

    /// Waits until a transfer of a run with `--progress json` has come so far.
    #[track_caller]
    pub fn until_transferred(&mut self, bytes: u64) {
        let deadline = Instant::now() + patience(30);
        while self.transferred() < bytes {
            assert!(!self.has_ended(), "the run ended too early:\n{}", self.stderr());
            assert!(Instant::now() < deadline, "no {bytes} bytes within {:?}:\n{}", patience(30), self.stderr());
            sleep(Duration::from_millis(20));
        }
    }

    /// Bytes of streams, as the last progress line tells.
    pub fn transferred(&self) -> u64 {
        let text = self.stderr();
        let whole = &text[..text.rfind('\n').unwrap_or(0)];
        let last = whole.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        last.and_then(|o| o["raw_bytes"].as_u64()).unwrap_or(0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
pub fn send_signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// How long to wait for what takes an idle machine less than `within_s` seconds. A machine that compiles and emulates two guests beside
/// the trials takes several times as long; only what would never come exceeds it.
pub fn patience(within_s: u64) -> Duration {
    Duration::from_secs(within_s * 5)
}

/// Polls until `ready`, which takes an idle machine less than `within_s` seconds; fails after [`patience`].
#[track_caller]
pub fn wait_for(what: &str, within_s: u64, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(within_s);
    while !ready() {
        assert!(Instant::now() < deadline, "waited {:?} for {what}", patience(within_s));
        sleep(Duration::from_millis(20));
    }
}

/// Living children of a process, with their arguments.
pub fn children(parent: u32) -> Vec<(u32, Vec<String>)> {
    let arguments = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split_terminator('\0').map(str::to_owned).collect()
    };
    // Each thread has its own. Far cheaper than a look at all processes, and trials look every few milliseconds.
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let mut pids: Vec<u32> =
        lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    // The oldest first. Its number does not tell that: numbers begin anew after `kernel.pid_max`.
    pids.sort_unstable_by_key(|pid| (started(*pid), *pid));
    pids.into_iter().filter(|pid| is_alive(*pid)).map(|pid| (pid, arguments(pid))).collect()
}

/// The fields of `/proc/PID/stat` behind the name, the state first (proc(5)); none for a process that is gone.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').map(str::to_owned).collect()).unwrap_or_default()
}

/// When a process started, in clock ticks since boot.
fn started(pid: u32) -> Option<u64> {
    stat(pid).get(19)?.parse().ok()
}

/// The `zfs VERB …` that `parent` has started, if it runs. Without arguments it is only asked for its usage.
pub fn zfs_child(parent: u32, verb: &str) -> Option<u32> {
    let moves = |args: &[String]| args.len() > 2 && args[1] == verb;
    children(parent).into_iter().find(|(_, args)| moves(args)).map(|(pid, _)| pid)
}

/// Waits for a `zfs VERB` of `parent`.
#[track_caller]
pub fn await_zfs_child(parent: u32, verb: &str) -> u32 {
    let mut found = None;
    wait_for(&format!("zfs {verb} of process {parent}"), 20, || {
        found = zfs_child(parent, verb);
        found.is_some()
    });
    found.unwrap()
}

pub fn is_alive(pid: u32) -> bool {
    stat(pid).first().is_some_and(|state| state != "Z")
}

/// Resident memory in KiB; 0 for a process that is gone.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
