//! The programs of a job that run before and after its snapshot is taken.
//!
//! Invariants: no shell; a program that takes too long is killed with all that it started; what it prints is bounded.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

use crate::{
    jobs::Job,
    types::{Failure, FailureClass},
};

/// Bytes of a hook's output that are kept, for the log and for its error.
const MAX_OUTPUT: usize = 4 << 10;

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the snapshot.
    Before,
    /// After it.
    After,
}

/// Runs a hook, if there is one. `result` is `ok` or `failed`, for [`Stage::After`].
///
/// # Errors
/// When the program cannot be started, fails, or takes too long.
pub async fn run_hook(job: &Job, run: &str, stage: Stage, snapshot: &str, result: &str) -> Result<(), Failure> {
    let (words, name) = match stage {
        Stage::Before => (&job.before, "before"),
        Stage::After => (&job.after, "after"),
    };
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let failed = |why: String| {
        Failure::new(FailureClass::Zfs, format!("the program `{name}` of job {} ({program}) {why}", job.name))
            .hint(format!("run it by hand, with ZMIGRATE_JOB={} in its environment", job.name))
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env("ZMIGRATE_JOB", job.name.as_str())
        .env("ZMIGRATE_RUN", run)
        .env("ZMIGRATE_STAGE", name)
        .env("ZMIGRATE_DATASET", job.dataset.as_str())
        .env("ZMIGRATE_SNAPSHOT", snapshot)
        .env("ZMIGRATE_RESULT", result)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("cannot be started: {e}")))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let end = async {
        let (out, err, status) = tokio::join!(bounded(stdout), bounded(stderr), child.wait());
        (out, err, status)
    };
    let limit = Duration::from_secs(job.hook_timeout.as_s());
    let Ok((out, err, status)) = timeout(limit, end).await else {
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait().await;
        return Err(failed(format!("took longer than {} and was killed", job.hook_timeout)));
    };
    for (text, what) in [(&out, "stdout"), (&err, "stderr")] {
        if !text.is_empty() {
            tracing::info!(hook = name, what, "{text}");
        }
    }
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if err.is_empty() => Err(failed(format!("failed ({status})"))),
        Ok(status) => Err(failed(format!("failed ({status}): {err}"))),
        Err(e) => Err(failed(format!("cannot be waited for: {e}"))),
    }
}

/// The first bytes of what a program prints; the rest is read and thrown away, so that it does not block.
async fn bounded(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    let text = String::from_utf8_lossy(&kept);
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect::<String>().trim().to_owned()
}
