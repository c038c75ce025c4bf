//! Who keeps a filesystem or a volume busy, by `/proc`, and ending them.
//!
//! Invariant: nobody is signalled but the very process that was found: it is taken hold of by a pidfd, and its start time is
//! compared after that. What cannot be seen from `/proc` (a file that only one thread of a process has, a swap file, an
//! export by NFS in the kernel) is not found.

mod namespaces;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    os::fd::OwnedFd,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    limits::TERM_GRACE,
    port::busy::{Busy, Holder, Holders},
    types::DatasetName,
};

/// A look at 10,000 processes takes a second or so. A filesystem that hangs must not hang us: then the rest is left out.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether a process is gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// The processes of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcBusy;

#[async_trait]
impl Busy for ProcBusy {
    async fn holders(&self, path: &Path) -> Result<Holders, String> {
        let shown = path.display().to_string();
        let path = path.to_owned();
        let until = Instant::now() + LOOK_WITHIN;
        // A thread that hangs in a system call is left behind.
        match timeout(LOOK_WITHIN + KILL_GRACE, spawn_blocking(move || scan::holders(&path, until))).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => Err(format!("looking for what holds {shown}: {e}")),
            Err(_) => Err(format!("looking for what holds {shown}: /proc gives no answer; a filesystem may hang")),
        }
    }

    async fn mounted(&self, filesystems: &[DatasetName]) -> Result<Holders, String> {
        let filesystems = filesystems.to_vec();
        let until = Instant::now() + LOOK_WITHIN;
        match timeout(LOOK_WITHIN + KILL_GRACE, spawn_blocking(move || namespaces::mounted(&filesystems, until))).await
        {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => Err(format!("looking for mounts: {e}")),
            Err(_) => Err("looking for mounts: /proc gives no answer".to_owned()),
        }
    }

    async fn end(&self, holders: &[Holder]) -> Result<(), String> {
        let holders = holders.to_vec();
        spawn_blocking(move || end(&holders)).await.map_err(|e| format!("ending processes: {e}"))?
    }
}

/// A process that is held on to: its id cannot become another's meaning any more.
struct Grip<'a> {
    holder: &'a Holder,
    fd: OwnedFd,
}

impl<'a> Grip<'a> {
    /// None if it is gone, or is not to be touched.
    fn take(holder: &'a Holder) -> Result<Option<Self>, String> {
        let ours = holder.pid == std::process::id() || holder.pid <= 1;
        let Some(pid) = i32::try_from(holder.pid).ok().and_then(Pid::from_raw).filter(|_| !ours) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(format!("{} ({}): {e}", holder.command, holder.pid)),
        };
        // Compared after the descriptor was opened: from here on both mean the same process.
        Ok(scan::started(holder.pid).filter(|(started, _)| *started == holder.started).map(|_| Self { holder, fd }))
    }

    fn is_there(&self) -> bool {
        scan::started(self.holder.pid).is_some_and(|(started, lives)| lives && started == self.holder.started)
    }
}

fn end(holders: &[Holder]) -> Result<(), String> {
    let mut refused = Vec::new();
    let mut left = Vec::new();
    for holder in holders {
        match Grip::take(holder) {
            Ok(grip) => left.extend(grip),
            Err(why) => refused.push(why),
        }
    }
    for (signal, patience) in [(Signal::TERM, TERM_GRACE), (Signal::KILL, KILL_GRACE)] {
        for grip in &left {
            tracing::warn!(
                pid = grip.holder.pid,
                command = grip.holder.command,
                ?signal,
                "ending what keeps a dataset busy"
            );
            match pidfd_send_signal(&grip.fd, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(e) => refused.push(format!("{} ({}): {e}", grip.holder.command, grip.holder.pid)),
            }
        }
        let until = Instant::now() + patience;
        left.retain(Grip::is_there);
        while !left.is_empty() && Instant::now() < until {
            sleep(LOOK_EVERY);
            left.retain(Grip::is_there);
        }
    }
    let stay = left.iter().map(|grip| format!("{} ({}) does not end", grip.holder.command, grip.holder.pid));
    refused.retain(|why| !why.is_empty());
    let all: Vec<String> = refused.into_iter().chain(stay).collect();
    if all.is_empty() { Ok(()) } else { Err(all.join("; ")) }
}
