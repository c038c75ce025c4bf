//! Runs one command of a hook: its own process group, its own environment, bounded output, an end within its limit.
//!
//! Invariant: a command that is not waited for any more is killed with its group. One that ended by itself is not: what it left
//! running is often the very service that it was to start. The output of such a service is read as long as zmigrate runs.

use std::{
    io::PipeReader,
    os::fd::OwnedFd,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    io::ioctl_fionread,
    process::{Pid, Signal, kill_process_group},
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::Trouble;
use crate::{
    hook::{HookErrorKind, HookVerb, Tail},
    limits::{MAX_HOOK_LINES_LOGGED, TERM_GRACE},
};

/// How long what a command wrote until its end may take to be read. It waits in the pipe, so this is never reached, unless
/// somebody whom it left behind writes without a pause.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// How often the pipe is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// After a command has ended its output ends at once, unless it left somebody behind who keeps it open.
const OUTPUT_GRACE: Duration = Duration::from_millis(300);
/// After SIGKILL a process is gone at once, unless it waits in the kernel; then nobody can end it.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Which call it is, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    pub hook: &'a str,
    pub verb: HookVerb,
}

/// The end of a command that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// What it said last.
    pub lines: Vec<String>,
    program: String,
}

impl Ended {
    /// What it said, or the failure that it is.
    pub fn successful(self) -> Result<Vec<String>, Trouble> {
        if self.status.success() {
            return Ok(self.lines);
        }
        let cause = format!("{}: {}", self.program, self.status);
        Err(Trouble { kind: HookErrorKind::Failed, cause, lines: self.lines })
    }
}

/// A process group that is killed unless it is let go.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        // It fails only where nobody is left.
        let _ = self.0.map(|group| kill_process_group(group, signal));
    }

    fn let_go(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs it until it ends, or is ended at `until`.
pub async fn run(
    spot: Spot<'_>,
    program: &Path,
    args: &[String],
    environment: &[(&'static str, String)],
    until: Instant,
) -> Result<Ended, Trouble> {
    let began = Instant::now();
    let shown = program.display().to_string();
    let cannot = |why: std::io::Error| Trouble::missing(format!("cannot run {shown}: {why}"));
    let (reader, writer) = std::io::pipe().map_err(cannot)?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer.try_clone().map_err(cannot)?))
        .stderr(Stdio::from(writer))
        .process_group(0);
    tracing::debug!(hook = spot.hook, verb = %spot.verb, command = ?command.as_std().get_program(), "run");
    let mut child = command.spawn().map_err(cannot)?;
    // It owns our copy of the writing end, which must be closed for the output to end.
    drop(command);
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let unread = reader.try_clone().map_err(cannot)?;
    let reader = Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(cannot)?;
    let tail = Arc::new(Mutex::new(Tail::default()));
    let mut pump = tokio::spawn(pump(reader, Arc::clone(&tail), spot.hook.to_owned(), spot.verb));

    let ended = timeout_at(until, child.wait()).await;
    let (status, gone) = match ended {
        Ok(status) => {
            group.let_go();
            (Some(status), true)
        }
        Err(_) => (None, end(&mut child, &group).await),
    };
    let _ = timeout(READ_WITHIN, emptied(unread)).await;
    // What it left running goes on writing to the pipe, and is read on.
    let _ = timeout(OUTPUT_GRACE, &mut pump).await;
    let lines = lock(&tail).lines();
    match status {
        Some(Ok(status)) => Ok(Ended { status, lines, program: shown }),
        Some(Err(why)) => {
            Err(Trouble { kind: HookErrorKind::Failed, cause: format!("cannot wait for {shown}: {why}"), lines })
        }
        None => {
            let seconds = until.saturating_duration_since(began).as_secs_f64().round();
            let fate = if gone { "it was ended" } else { "and SIGKILL does not end it: it hangs in the kernel" };
            let cause = format!("{shown} did not end within {seconds} s; {fate}");
            Err(Trouble { kind: HookErrorKind::TimedOut, cause, lines })
        }
    }
}

/// SIGTERM, patience, SIGKILL, to all of the group. True if the command is gone.
async fn end(child: &mut Child, group: &Group) -> bool {
    group.signal(Signal::TERM);
    let went = timeout(TERM_GRACE, child.wait()).await.is_ok();
    group.signal(Signal::KILL);
    went || timeout(KILL_GRACE, child.wait()).await.is_ok()
}

/// Returns once nothing is left in the pipe.
async fn emptied(pipe: PipeReader) {
    while ioctl_fionread(&pipe).is_ok_and(|bytes| bytes > 0) {
        sleep(LOOK_EVERY).await;
    }
}

/// Reads to the end of the output, logs it, and keeps its last lines.
async fn pump(mut reader: Receiver, tail: Arc<Mutex<Tail>>, hook: String, verb: HookVerb) {
    let mut buffer = [0u8; 4096];
    let mut logged = 0;
    let mut log = |lines: Vec<String>| {
        for line in lines {
            logged += 1;
            match logged {
                n if n <= MAX_HOOK_LINES_LOGGED => tracing::info!(hook, verb = %verb, "{line}"),
                n if n == MAX_HOOK_LINES_LOGGED + 1 => {
                    tracing::warn!(hook, verb = %verb, "its further output is not logged")
                }
                _ => {}
            }
        }
    };
    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
        log(lock(&tail).push(buffer.get(..n).unwrap_or_default()));
    }
    log(lock(&tail).close().into_iter().collect());
}

fn lock(tail: &Mutex<Tail>) -> std::sync::MutexGuard<'_, Tail> {
    // What panicked held no half-made state.
    tail.lock().unwrap_or_else(PoisonError::into_inner)
}
