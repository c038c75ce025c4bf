//! What strikes a run: signals to it, to the daemon it talks to and to both `zfs` processes, and cuts of its link; and the dice that pick.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    common::noise,
    process::{Running, is_alive, zfs_child},
    proxy::Proxy,
};

/// Random numbers from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        u64::from_le_bytes(noise(8, self.0)[..].try_into().unwrap()) % end
    }

    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Who {
    Run,
    Daemon,
    Send,
    Receive,
}

#[derive(Clone, Copy, Debug)]
pub enum Blow {
    Kill(Who),
    Stop(Who, u64),
    Cut,
    CutAfter(u64),
}

pub fn blow(dice: &mut Dice) -> Blow {
    let who = [Who::Run, Who::Daemon, Who::Send, Who::Receive][dice.below(4) as usize];
    match dice.below(8) {
        0..4 => Blow::Kill(who),
        4 => Blow::Stop(who, 50 + dice.below(400)),
        5 | 6 => Blow::Cut,
        _ => Blow::CutAfter(dice.below(150_000)),
    }
}

/// One of each kind that [`blow`] gives.
pub fn one_of_each() -> Vec<Blow> {
    let whos = [Who::Run, Who::Daemon, Who::Send, Who::Receive];
    [&whos.map(Blow::Kill)[..], &whos.map(|who| Blow::Stop(who, 200)), &[Blow::Cut]].concat()
}

impl Blow {
    pub fn is_of_send(self) -> bool {
        matches!(self, Blow::Kill(Who::Send) | Blow::Stop(Who::Send, _))
    }

    pub fn is_of_receive(self) -> bool {
        matches!(self, Blow::Kill(Who::Receive) | Blow::Stop(Who::Receive, _))
    }

    /// What it is counted as.
    pub fn kind(self) -> String {
        match self {
            Blow::Kill(who) => format!("kill {who:?}"),
            Blow::Stop(who, _) => format!("stop {who:?}"),
            Blow::Cut | Blow::CutAfter(_) => "cut".to_owned(),
        }
    }

    /// Strikes; true if something was there to be met. `kill_daemon` also starts it again.
    pub fn strike(self, run: &mut Running, parts: &Parts<'_>, kill_daemon: impl FnOnce()) -> bool {
        let pid = |who| match who {
            Who::Run => Some(run.pid()),
            Who::Daemon => Some(parts.daemon),
            Who::Send => zfs_child(parts.sender, "send"),
            Who::Receive => zfs_child(parts.receiver, "receive"),
        };
        match self {
            Blow::Kill(Who::Run) => {
                let lives = !run.has_ended();
                if lives {
                    run.signal(Signal::KILL);
                }
                lives
            }
            Blow::Kill(Who::Daemon) => {
                kill_daemon();
                true
            }
            Blow::Kill(who) => try_signal(pid(who), Signal::KILL),
            Blow::Stop(who, for_ms) => {
                let pid = pid(who);
                let met = try_signal(pid, Signal::STOP);
                sleep(Duration::from_millis(for_ms));
                try_signal(pid, Signal::CONT);
                met
            }
            Blow::Cut => parts.proxy.cut_now() > 0,
            Blow::CutAfter(bytes) => {
                let before = parts.proxy.cuts_made();
                parts.proxy.cut_after(bytes);
                let patience = Instant::now() + Duration::from_millis(600);
                while parts.proxy.cuts_made() == before && !run.has_ended() && Instant::now() < patience {
                    sleep(Duration::from_millis(5));
                }
                let met = parts.proxy.cuts_made() > before;
                parts.proxy.heal();
                met
            }
        }
    }
}

/// What of a run can be struck, beside `zmigrate` itself.
pub struct Parts<'a> {
    /// The `zmigrated` of the run's peer.
    pub daemon: u32,
    /// The processes that `zfs send` and `zfs receive` are children of.
    pub sender: u32,
    pub receiver: u32,
    pub proxy: &'a Proxy,
}

/// Sends a signal to what may be gone by now; false if it was.
fn try_signal(pid: Option<u32>, signal: Signal) -> bool {
    pid.and_then(|pid| Pid::from_raw(pid as i32)).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// `zfs send` and `zfs receive` processes of these pools.
pub fn left_over(pools: &[&str]) -> Vec<u32> {
    let moves = |pid: u32| {
        let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let args: Vec<&str> = line.split_terminator('\0').collect();
        args.len() > 2
            && matches!(args[1], "send" | "receive")
            && args.iter().any(|arg| pools.iter().any(|pool| arg.starts_with(pool)))
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| moves(*pid) && is_alive(*pid)).collect()
}

/// The seed and the number of rounds, from the environment; or the clock, and so many.
pub fn seed_and_rounds(rounds: u64) -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000;
    (number("ZMIGRATE_SEED").unwrap_or_else(clock), number("ZMIGRATE_ROUNDS").unwrap_or(rounds))
}

/// How many blows of each kind must have hit a transfer after so many rounds of chaos: a sixth of what the dice give, less what comes to nothing
/// with few rounds. A kind that is never met would make its promise an empty one.
pub fn least_hits(rounds: u64) -> Vec<(String, u64)> {
    let whos = [Who::Run, Who::Daemon, Who::Send, Who::Receive];
    let kills = whos.map(|who| (Blow::Kill(who).kind(), rounds / 48));
    let stops = whos.map(|who| (Blow::Stop(who, 0).kind(), rounds / 192));
    [&kills[..], &stops, &[(Blow::Cut.kind(), rounds / 16)]].concat()
}
