//! The programs of a job that run before and after its snapshot is taken.
//!
//! Invariants: no shell; a program that takes too long is killed with all that it started, and one that ended by itself is not:
//! what it left running may be what it was to start; what it prints is bounded.

use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    task::JoinHandle,
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
    let (out, err) = (Said::of(child.stdout.take()), Said::of(child.stderr.take()));
    let limit = Duration::from_secs(job.hook_timeout.as_s());
    let Ok(status) = timeout(limit, child.wait()).await else {
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait().await;
        return Err(failed(format!("took longer than {} and was killed", job.hook_timeout)));
    };
    let (out, err) = tokio::join!(out.so_far(), err.so_far());
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

/// After a program has ended its output ends at once, unless it left somebody behind who keeps it open.
const OUTPUT_GRACE: Duration = Duration::from_millis(300);

/// The first bytes of what a program prints; the rest is read and thrown away, so that it does not block.
struct Said {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Said {
    fn of(from: Option<impl AsyncRead + Unpin + Send + 'static>) -> Said {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&kept);
        let reader = tokio::spawn(async move {
            let (Some(mut from), mut buffer) = (from, [0; 1024]) else { return };
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                let mut kept = to.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MAX_OUTPUT.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..n.min(room)]);
            }
        });
        Said { kept, reader }
    }

    /// What it said, once the program has ended. Whom it left behind is read on, so that nobody blocks.
    async fn so_far(mut self) -> String {
        let _ = timeout(OUTPUT_GRACE, &mut self.reader).await;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        text.chars().filter(|c| !c.is_control() || *c == '\n').collect::<String>().trim().to_owned()
    }
}
