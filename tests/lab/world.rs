//! What trials do: make datasets, run `zmigrate` in a guest, look at what it says, compare both sides.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread::{JoinHandle, scope, spawn},
};

use serde_json::Value;

use crate::guest::{Guest, Said};

/// All that is not in the pools lies here, in both guests.
pub const DIR: &str = "/root/zmlab";

/// The two guests. The first is the source, unless a trial says otherwise.
pub struct World {
    pub one: Guest,
    pub two: Guest,
}

/// Who types the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Push,
    Pull,
}

/// A trial's own pair of datasets; the source exists and the target does not.
pub struct Pair {
    pub source: String,
    pub target: String,
}

/// What a run of `zmigrate --output json` said.
pub struct Run {
    pub code: i32,
    /// The report; null if stdout is no JSON.
    pub report: Value,
    pub out: String,
    pub err: String,
}

/// A run that goes on.
pub struct Running {
    guest: Guest,
    pid_file: String,
    said: JoinHandle<Said>,
}

impl Running {
    pub fn join(self) -> Run {
        self.said.join().unwrap().into()
    }

    pub fn is_over(&self) -> bool {
        self.said.is_finished()
    }

    /// Kills `zmigrate`.
    #[track_caller]
    pub fn kill(&self) {
        self.guest.sh(&format!("kill -9 $(cat {})", self.pid_file));
    }
}

impl From<Said> for Run {
    fn from(said: Said) -> Run {
        let report = serde_json::from_str(&said.out).unwrap_or(Value::Null);
        Run { code: said.code, report, out: said.out, err: said.err }
    }
}

impl Run {
    /// Fails unless it ended with that exit code.
    #[track_caller]
    pub fn must_be(self, code: i32) -> Run {
        assert!(self.code == code, "exit {} instead of {code}\n{}\n{}", self.code, self.out, self.err);
        self
    }

    /// The steps of all datasets.
    pub fn steps(&self) -> Vec<&Value> {
        let datasets = self.report["datasets"].as_array().into_iter().flatten();
        datasets.flat_map(|d| d["steps"].as_array().into_iter().flatten()).collect()
    }

    /// All notes, of the run and of its datasets.
    pub fn notes(&self) -> String {
        let datasets = self.report["datasets"].as_array().into_iter().flatten();
        let notes = datasets.chain([&self.report]).flat_map(|d| d["notes"].as_array().into_iter().flatten());
        notes.filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl World {
    /// Makes a source that holds files of noise, text that compresses, an embedded block's worth, holes, links and modes.
    #[track_caller]
    pub fn pair(&self, name: &str, mib: u32) -> Pair {
        let (source, target) = (format!("tank/src/{name}"), format!("tank/dst/{name}"));
        self.one.sh(&format!(
            "zfs create {source}; cd /{source}; head -c {mib}M /dev/urandom >noise; yes zmigrate | head -c 1M >text; \
             echo tiny >tiny; truncate -s 8M holes; echo end >>holes; mkdir -p a/b; ln -s ../noise a/link; chmod 4751 tiny; \
             chown 1234:5678 text; ln tiny a/b/hard; python3 -c \"import os; os.setxattr('text', 'user.note', b'kept')\""
        ));
        Pair { source, target }
    }

    /// Runs `zmigrate` in a guest, until it ends.
    pub fn zmigrate(&self, guest: Guest, args: &str) -> Run {
        self.start(guest, args).join()
    }

    /// Starts `zmigrate`. Reports are JSON unless `args` asks for text.
    pub fn start(&self, guest: Guest, args: &str) -> Running {
        let format = if args.contains("--output") { "" } else { "--output json" };
        let moves = args.starts_with("push") || args.starts_with("pull");
        let progress = if moves { "--progress none" } else { "" };
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid_file = format!("{DIR}/zmigrate-{}.pid", NEXT.fetch_add(1, Ordering::Relaxed));
        let script =
            format!("echo $$ >{pid_file}; exec zmigrate --config {DIR}/zmigrate.toml {format} -v {args} {progress}");
        Running { guest, pid_file, said: spawn(move || guest.ask(&script)) }
    }

    /// The arguments that replicate a pair, and the guest to run them in.
    pub fn replicate(&self, way: Way, pair: &Pair, flags: &str) -> (Guest, String) {
        let Pair { source, target } = pair;
        match way {
            Way::Push => (self.one, format!("push {flags} {source} {}:{target}", self.two.name())),
            Way::Pull => (self.two, format!("pull {flags} {}:{source} {target}", self.one.name())),
        }
    }

    /// Pushes a pair, which must go well.
    #[track_caller]
    pub fn push(&self, pair: &Pair, flags: &str) -> Run {
        let (guest, args) = self.replicate(Way::Push, pair, flags);
        self.zmigrate(guest, &args).must_be(0)
    }

    /// Takes a snapshot of the source after writing a new file of so many KiB.
    #[track_caller]
    pub fn change(&self, pair: &Pair, tag: &str, kib: u32) {
        let source = &pair.source;
        self.one.sh(&format!("head -c {kib}K /dev/urandom >/{source}/{tag}; zfs snapshot {source}@{tag}"));
    }

    /// Fails unless a snapshot has one GUID and one content on both sides.
    #[track_caller]
    pub fn same(&self, pair: &Pair, tag: &str) {
        let (source, target) = (format!("{}@{tag}", pair.source), format!("{}@{tag}", pair.target));
        let look = |guest: Guest, snapshot: &str| (guest.get(snapshot, "guid"), guest.digest(snapshot));
        let (here, there) = scope(|scope| {
            let here = scope.spawn(|| look(self.one, &source));
            let there = look(self.two, &target);
            (here.join().unwrap(), there)
        });
        assert_eq!(here, there, "GUIDs and contents of @{tag}");
    }

    /// Starts a guest's `zmigrated` and waits until it listens.
    #[track_caller]
    pub fn start_daemon(&self, guest: Guest) {
        guest.sh(&format!(
            "touch {DIR}/zmigrated.log; from=$(wc -l <{DIR}/zmigrated.log); \
             setsid zmigrated -v --config {DIR}/zmigrate.toml >>{DIR}/zmigrated.log 2>&1 </dev/null & echo $! >{DIR}/zmigrated.pid; \
             for i in $(seq 600); do tail -n +$((from + 1)) {DIR}/zmigrated.log | grep -q 'is ready' && exit 0; sleep 0.1; done; \
             cat {DIR}/zmigrated.log; exit 1"
        ));
    }

    /// The last words of both daemons, for a trial that failed.
    pub fn daemons_said(&self) -> String {
        let said = |guest: Guest| guest.ask(&format!("tail -n 15 {DIR}/zmigrated.log")).out;
        format!("node1's zmigrated:\n{}node2's zmigrated:\n{}", said(self.one), said(self.two))
    }

    /// Waits until `zfs receive` of that target runs in a guest and has been fed for so many seconds, or, in a guest that gets little of
    /// its machine, for as long as it takes until there is something; then what has come is on disk. All of the waiting is done in
    /// the guest, since the transfer goes on meanwhile.
    #[track_caller]
    pub fn in_flight(&self, receiver: Guest, target: &str, seconds: u64) {
        let pids = pids("receive", target);
        receiver.sh(&format!(
            "while [ $SECONDS -lt 90 ] && [ -z \"$({pids})\" ]; do sleep 0.1; done; \
             [ -n \"$({pids})\" ] || {{ echo no zfs receive; exit 1; }}; \
             [ {seconds} != 0 ] || exit 0; sleep {seconds}; \
             for _ in $(seq 300); do zpool sync tank; [ -n \"$({pids})\" ] || exit 0; \
             used=$(zfs get -Hp -o value used {target}/%recv 2>/dev/null || zfs get -Hp -o value used {target} 2>/dev/null || echo 0); \
             [ $used -lt 3000000 ] || exit 0; sleep 0.2; done; echo nothing comes; exit 1"
        ));
    }
}

/// A script that prints the pids of `zfs send` or `zfs receive`, as `verb` says, of a dataset.
pub fn pids(verb: &str, dataset: &str) -> String {
    format!(
        "for p in $(pgrep -x zfs || true); do if tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null | grep -Eq '(^|/)zfs {verb} .*{dataset}([@ ]|$)'; then echo $p; fi; done"
    )
}
