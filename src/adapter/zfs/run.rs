//! Runs `zfs` and `zpool`: argument lists only, a fixed environment, bounded output, every run counted.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use std::os::unix::process::ExitStatusExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    task::spawn_blocking,
};
use tokio_util::task::AbortOnDropHandle;

use super::classify::{Exit, classify, without_usage};
use crate::{
    config::TOOL_PATH,
    port::zfs::{ZfsError, ZfsErrorKind, ZfsResult},
};

/// A listing of a million snapshots is about 100 MB. Beyond this the output is an error, not a crash.
const MAX_STDOUT_BYTES: usize = 256 << 20;
/// Of stderr, this much is kept from the beginning and as much from the end: cause and last words.
const STDERR_END_BYTES: usize = 16 << 10;
/// Stands between the two, after a number and before a line that is not whole.
const LEFT_OUT: &str = " bytes left out]";
/// `execve(2)` takes 2 MiB of arguments and environment by default; a quarter of it leaves room for both.
pub const MAX_ARGUMENT_BYTES: usize = 512 << 10;

/// Which of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `zfs`.
    Zfs,
    /// `zpool`.
    Zpool,
}

/// The end of a command that ran.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// All of it.
    pub stdout: String,
    /// Its beginning and end.
    pub stderr: String,
}

impl Output {
    /// True if it said more than was kept: then each line of stderr cannot be judged.
    pub fn is_cut(&self) -> bool {
        self.stderr.contains(LEFT_OUT)
    }

    /// The class of the failure; `None` for success.
    pub fn kind(&self) -> Option<ZfsErrorKind> {
        classify(self.exit, &self.stderr)
    }

    /// This output, or the failure that it is.
    pub fn ok(self, operation: &str) -> ZfsResult<Output> {
        match self.kind() {
            None => Ok(self),
            Some(kind) => Err(self.failure(operation, kind)),
        }
    }

    /// A failure of this class with what the tool said.
    pub fn failure(&self, operation: &str, kind: ZfsErrorKind) -> ZfsError {
        failure(operation, kind, self.exit, &self.stderr)
    }
}

/// A failure with what the tool said, or how it ended where it said nothing.
pub fn failure(operation: &str, kind: ZfsErrorKind, exit: Exit, stderr: &str) -> ZfsError {
    let said = without_usage(stderr).trim();
    let detail = match exit {
        Exit::Signal(signal) if said.is_empty() => format!("ended by signal {signal}"),
        Exit::Code(code) if said.is_empty() => format!("exit status {code}, and nothing on stderr"),
        _ => said.to_owned(),
    };
    ZfsError { operation: operation.to_owned(), kind, detail }
}

/// An error that no process reported.
pub fn error(operation: &str, kind: ZfsErrorKind, detail: impl ToString) -> ZfsError {
    ZfsError { operation: operation.to_owned(), kind, detail: detail.to_string() }
}

/// Where a bare name is found in the fixed PATH. With that the standard library can use `posix_spawn(3)`; a name that is looked up in
/// a PATH of the child's own would make it `fork(2)`, which copies the page tables of the whole process for each command.
fn found(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        return program.to_owned();
    }
    let mut places = TOOL_PATH.split(':').map(|dir| Path::new(dir).join(program));
    places.find(|path| path.is_file()).unwrap_or_else(|| program.to_owned())
}

/// Starts the programs and counts them.
#[derive(Debug)]
pub struct Runner {
    zfs: PathBuf,
    zpool: PathBuf,
    started: AtomicU64,
}

impl Runner {
    /// Runs the programs at these paths; a bare name is looked up in a fixed PATH.
    pub fn new(zfs: PathBuf, zpool: PathBuf) -> Self {
        Self { zfs, zpool, started: AtomicU64::new(0) }
    }

    /// How many processes were started.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// A command that is ready but for its pipes: own process group (a Ctrl-C is for zmigrate, which ends its
    /// children in order), no terminal, killed when dropped.
    pub fn command<S: AsRef<OsStr>>(&self, tool: Tool, args: impl IntoIterator<Item = S>) -> Command {
        self.started.fetch_add(1, Ordering::Relaxed);
        let program = match tool {
            Tool::Zfs => &self.zfs,
            Tool::Zpool => &self.zpool,
        };
        let mut command = Command::new(found(program));
        command
            .args(args)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", TOOL_PATH)
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub async fn run<S: AsRef<OsStr>>(
        &self,
        operation: &str,
        tool: Tool,
        args: impl IntoIterator<Item = S>,
    ) -> ZfsResult<Output> {
        let mut command = self.command(tool, args);
        tracing::debug!(operation, command = ?command.as_std(), "run");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // `posix_spawn` returns when the program has begun, which takes milliseconds on a busy machine: several commands of one task would
        // begin one after the other.
        let started = AbortOnDropHandle::new(spawn_blocking(move || {
            let spawned = command.spawn();
            (spawned, command)
        }));
        let (spawned, command) = started.await.map_err(|e| error(operation, ZfsErrorKind::Other, e))?;
        let mut child = spawned.map_err(|e| no_tool(operation, &command, &e))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let both = async { tokio::join!(read_all(stdout), read_ends(stderr)) };
        let (stdout, stderr) = both.await;
        // Without its end of the pipe an endless printer ends by SIGPIPE; the kill on drop covers the rest.
        let stdout = stdout.map_err(|why| error(operation, ZfsErrorKind::Unparsable, why))?;
        let status = child.wait().await.map_err(|e| error(operation, ZfsErrorKind::Other, e))?;
        let stdout = String::from_utf8(stdout)
            .map_err(|e| error(operation, ZfsErrorKind::Unparsable, format!("output is not UTF-8: {e}")))?;
        Ok(Output { exit: exit_of(status), stdout, stderr })
    }
}

/// The failure to start a program.
pub fn no_tool(operation: &str, command: &Command, cause: &std::io::Error) -> ZfsError {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    error(operation, ZfsErrorKind::NoTool, format!("cannot run {program}: {cause}"))
}

/// How the process ended.
pub fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(-1),
    }
}

async fn read_all(pipe: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    let Some(pipe) = pipe else { return Ok(all) };
    let mut limited = pipe.take(MAX_STDOUT_BYTES as u64 + 1);
    limited.read_to_end(&mut all).await.map_err(|e| format!("cannot read the output: {e}"))?;
    if all.len() > MAX_STDOUT_BYTES {
        return Err(format!("printed more than {MAX_STDOUT_BYTES} bytes"));
    }
    Ok(all)
}

/// Reads to the end of the pipe and keeps its first and last [`STDERR_END_BYTES`].
pub async fn read_ends(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let (mut first, mut last, mut dropped) = (Vec::new(), Vec::new(), 0u64);
    let Some(mut pipe) = pipe else { return String::new() };
    let mut buffer = [0u8; 4096];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        let room = (STDERR_END_BYTES - first.len()).min(n);
        first.extend_from_slice(&buffer[..room]);
        last.extend_from_slice(&buffer[room..n]);
        if last.len() > 2 * STDERR_END_BYTES {
            let excess = last.len() - STDERR_END_BYTES;
            last.drain(..excess);
            dropped += excess as u64;
        }
    }
    let excess = last.len().saturating_sub(STDERR_END_BYTES);
    last.drain(..excess);
    dropped += excess as u64;
    let mut text = String::from_utf8_lossy(&first).into_owned();
    if dropped > 0 {
        text += &format!("\n[{dropped}{LEFT_OUT}\n");
    }
    text += &String::from_utf8_lossy(&last);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Runner {
        Runner::new("/bin/sh".into(), "/nonexistent/zpool".into())
    }

    #[tokio::test]
    async fn the_environment_is_fixed() {
        let runner = shell();
        let out = runner.run("x", Tool::Zfs, ["-c", "env; cat; pwd"]).await.unwrap();
        let mut lines: Vec<_> = out.stdout.lines().filter(|l| !l.starts_with("_=") && !l.starts_with("PWD=")).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["/", "LC_ALL=C", &format!("PATH={TOOL_PATH}")]);
        assert_eq!(runner.started(), 1);
    }

    #[tokio::test]
    async fn stderr_keeps_both_ends() {
        let script = "printf 'first words\\n' >&2; head -c 200000 /dev/zero | tr '\\0' x >&2; printf '\\nlast words\\n' >&2; exit 3";
        let out = shell().run("x", Tool::Zfs, ["-c", script]).await.unwrap();
        assert_eq!(out.exit, Exit::Code(3));
        assert!(out.stderr.starts_with("first words\n") && out.stderr.ends_with("last words\n"));
        assert!(out.stderr.contains("bytes left out") && out.stderr.len() < 2 * STDERR_END_BYTES + 100);
    }

    #[tokio::test]
    async fn a_missing_program_is_told_from_a_failing_one() {
        let gone = shell().run("list tank", Tool::Zpool, ["list"]).await.unwrap_err();
        assert_eq!(gone.kind, ZfsErrorKind::NoTool);
        assert!(gone.to_string().starts_with("list tank: cannot run /nonexistent/zpool: "), "{gone}");
        let killed = shell().run("x", Tool::Zfs, ["-c", "kill -9 $$"]).await.unwrap().ok("x").unwrap_err();
        assert_eq!((killed.kind, killed.detail.as_str()), (ZfsErrorKind::Killed, "ended by signal 9"));
    }
}
