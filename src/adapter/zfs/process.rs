//! A running `zfs send` or `zfs receive`: a pipe for the data, a task for stderr, one verdict at the end.
//!
//! A killed `zfs send` does not end while its pipe is full: OpenZFS writes the stream from a kernel thread, which no signal
//! reaches (`dump_bytes` in `dmu_send.c`). So a kill also drains the pipe, and the stream then fails instead of having a gap.
//!
//! Invariant: the process ends when its [`ToolProcess`] is dropped, and `wait` says the same thing however often it is asked.

use std::{
    io::{self, PipeReader, PipeWriter, Read},
    os::fd::AsFd,
    process::Stdio,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};

use super::{
    classify::{Exit, classify, classify_resume},
    run::{error, exit_of, failure, no_tool, read_ends},
};
use crate::port::zfs::{Process, Receiving, Sending, ZfsErrorKind, ZfsResult};

/// After the process has ended its stderr ends at once, unless it left a child behind that keeps it open.
const STDERR_GRACE: Duration = Duration::from_secs(2);

/// A `zfs` process that moves a stream.
pub struct ToolProcess {
    operation: String,
    resumes: bool,
    child: Child,
    stderr: Option<JoinHandle<String>>,
    killed: bool,
    verdict: Option<ZfsResult<()>>,
    warnings: Vec<String>,
    // Weak: once the reader has dropped the stream, the pipe must close.
    output: Weak<SendPipe>,
}

struct SendPipe {
    reader: PipeReader,
    killed: AtomicBool,
}

/// The stream of a sender.
struct SendStream(Arc<SendPipe>);

impl Read for SendStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = (&self.0.reader).read(out)?;
        // After a kill the bytes go two ways, so whatever is read now may have a gap before it.
        if self.0.killed.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the sender was stopped"));
        }
        Ok(n)
    }
}

/// Starts a sender.
pub fn send(operation: String, mut command: Command, resumes: bool) -> ZfsResult<Sending> {
    let (reader, writer) = pipe(&operation)?;
    command.stdout(Stdio::from(writer));
    let mut process = ToolProcess::start(operation, command, resumes)?;
    let pipe = Arc::new(SendPipe { reader, killed: AtomicBool::new(false) });
    process.output = Arc::downgrade(&pipe);
    Ok(Sending { stream: Box::new(SendStream(pipe)), process: Box::new(process) })
}

/// Starts a receiver.
pub fn receive(operation: String, mut command: Command) -> ZfsResult<Receiving> {
    let (reader, writer) = pipe(&operation)?;
    command.stdin(Stdio::from(reader)).stdout(Stdio::null());
    let process = ToolProcess::start(operation, command, false)?;
    Ok(Receiving { stream: Box::new(writer), process: Box::new(process) })
}

/// A pipe as large as the system lets us make it: fewer wake-ups on both sides. A smaller one works as well.
fn pipe(operation: &str) -> ZfsResult<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe().map_err(|e| error(operation, ZfsErrorKind::Other, e))?;
    let most = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").ok().and_then(|text| text.trim().parse().ok());
    if let Err(cause) = rustix::pipe::fcntl_setpipe_size(writer.as_fd(), most.unwrap_or(1 << 20)) {
        tracing::debug!(operation, %cause, "the pipe keeps its default size");
    }
    Ok((reader, writer))
}

impl ToolProcess {
    // Takes the command by value: it owns our copy of the child's end of the pipe, which must be closed.
    fn start(operation: String, mut command: Command, resumes: bool) -> ZfsResult<Self> {
        tracing::debug!(operation, command = ?command.as_std(), "start");
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(|e| no_tool(&operation, &command, &e))?;
        let stderr = child.stderr.take();
        let stderr = Some(tokio::spawn(async move { read_ends(stderr).await }));
        Ok(Self {
            operation,
            resumes,
            child,
            stderr,
            killed: false,
            verdict: None,
            warnings: Vec::new(),
            output: Weak::new(),
        })
    }

    fn drain(&self) {
        let Some(pipe) = self.output.upgrade() else { return };
        if pipe.killed.swap(true, Ordering::SeqCst) {
            return;
        }
        // It ends with the process. Where no thread can be had, the pipe still empties or closes with its reader.
        let drain = move || io::copy(&mut &pipe.reader, &mut io::sink());
        let _ = std::thread::Builder::new().name("zfs-send-drain".to_owned()).spawn(drain);
    }

    async fn stderr(&mut self) -> String {
        let Some(task) = &mut self.stderr else { return String::new() };
        let text = match tokio::time::timeout(STDERR_GRACE, &mut *task).await {
            Ok(text) => text.unwrap_or_default(),
            Err(_) => {
                task.abort();
                String::new()
            }
        };
        self.stderr = None;
        text
    }

    fn judge(&mut self, exit: Exit, stderr: &str) -> ZfsResult<()> {
        let judge = if self.resumes { classify_resume } else { classify };
        match judge(exit, stderr) {
            None => {
                // `cannot receive PROPERTY property on DATASET` comes with exit status 0.
                self.warnings =
                    stderr.lines().map(str::trim_end).filter(|l| !l.is_empty()).map(str::to_owned).collect();
                for warning in &self.warnings {
                    tracing::warn!(operation = self.operation, "{warning}");
                }
                Ok(())
            }
            Some(_) if self.killed && matches!(exit, Exit::Signal(9)) => {
                Err(error(&self.operation, ZfsErrorKind::Stopped, "stopped by zmigrate"))
            }
            Some(kind) => Err(failure(&self.operation, kind, exit, stderr)),
        }
    }
}

#[async_trait]
impl Process for ToolProcess {
    async fn wait(&mut self) -> ZfsResult<()> {
        if let Some(verdict) = &self.verdict {
            return verdict.clone();
        }
        let status = self.child.wait().await;
        let stderr = self.stderr().await;
        let verdict = match status {
            Ok(status) => self.judge(exit_of(status), &stderr),
            Err(cause) => Err(error(&self.operation, ZfsErrorKind::Other, format!("cannot wait for it: {cause}"))),
        };
        self.verdict = Some(verdict.clone());
        verdict
    }

    fn kill(&mut self) {
        if self.verdict.is_none() {
            self.killed = true;
            // It fails only where the process has ended already.
            let _ = self.child.start_kill();
            self.drain();
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}

impl Drop for ToolProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).kill_on_drop(true).process_group(0);
        command
    }

    #[tokio::test]
    async fn a_stream_goes_in_and_the_end_of_it_is_seen() {
        let mut receiving =
            receive("receive".into(), shell("cat >/dev/null; echo 'cannot receive x property on y' >&2")).unwrap();
        receiving.stream.write_all(&[7; 100_000]).unwrap();
        drop(receiving.stream);
        receiving.process.wait().await.unwrap();
        assert_eq!(receiving.process.warnings(), ["cannot receive x property on y"]);
        receiving.process.kill();
        receiving.process.wait().await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_comes_out_to_its_end() {
        let mut sending = send("send".into(), shell("head -c 3000000 /dev/zero; exit 1"), false).unwrap();
        let stream = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            sending.stream.read_to_end(&mut all).map(|n| (n, sending.process))
        });
        let (n, mut process) = stream.await.unwrap().unwrap();
        assert_eq!(n, 3_000_000);
        assert_eq!(process.wait().await.unwrap_err().kind, ZfsErrorKind::Other);
    }

    #[tokio::test]
    async fn our_kill_is_told_from_anothers() {
        let mut ours = send("send".into(), shell("exec sleep 100"), false).unwrap();
        ours.process.kill();
        assert!(ours.stream.read(&mut [0; 9]).is_err(), "a stopped stream does not look complete");
        assert_eq!(ours.process.wait().await.unwrap_err().kind, ZfsErrorKind::Stopped);
        assert_eq!(ours.process.wait().await.unwrap_err().kind, ZfsErrorKind::Stopped);
        let mut other = send("send".into(), shell("kill -9 $$"), false).unwrap();
        assert_eq!(other.process.wait().await.unwrap_err().kind, ZfsErrorKind::Killed);
    }
}
