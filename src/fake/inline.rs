//! Sends and receives without threads: their work is done while the stream is read and written.
//!
//! Invariant: nothing here blocks, so a runtime of one thread can hold both ends of a stream.

use std::{
    io::{self, ErrorKind, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    FakeZfs,
    fault::{Fault, Op},
    model::fail,
    moving::{damaged, release_user},
    pipe::CAPACITY_BYTES,
    port::refused,
    receiving::Receiver,
    records::Job,
};
use crate::{
    port::zfs::{
        Process, ReceiveSpec, Receiving, Sending,
        ZfsErrorKind::{self, *},
        ZfsResult,
    },
    types::SnapshotName,
};

/// What a process that has no thread goes on with.
trait Work: Send {
    /// It is killed.
    fn kill(&mut self);
    /// How it ended, once it has.
    fn verdict(&self) -> Option<ZfsResult<()>>;
}

struct Shared<W> {
    work: Mutex<W>,
    ended: Notify,
}

impl<W: Work> Shared<W> {
    fn new(work: W) -> Arc<Shared<W>> {
        Arc::new(Shared { work: Mutex::new(work), ended: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, W> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the work, and wakes who waits for its end.
    fn with<T>(&self, f: impl FnOnce(&mut W) -> T) -> T {
        let mut work = self.lock();
        let result = f(&mut work);
        if work.verdict().is_some() {
            self.ended.notify_waiters();
        }
        result
    }
}

struct InlineProcess<W: Work> {
    shared: Arc<Shared<W>>,
    waited: bool,
}

#[async_trait]
impl<W: Work + 'static> Process for InlineProcess<W> {
    async fn wait(&mut self) -> ZfsResult<()> {
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let verdict = self.shared.lock().verdict();
            if let Some(verdict) = verdict {
                self.waited = true;
                return verdict;
            }
            ended.await;
        }
    }

    fn kill(&mut self) {
        // After the end what lies in the pipe may still be read.
        if !self.waited {
            self.shared.with(W::kill);
        }
    }
}

impl<W: Work> Drop for InlineProcess<W> {
    fn drop(&mut self) {
        if !self.waited {
            self.shared.with(W::kill);
        }
    }
}

/// A send: all bytes of its stream, and how far they have been read.
struct Outgoing {
    zfs: FakeZfs,
    what: String,
    name: Option<SnapshotName>,
    bytes: Vec<u8>,
    at: usize,
    failure: Option<ZfsErrorKind>,
    reader_gone: bool,
    killed: bool,
    verdict: Option<ZfsResult<()>>,
}

impl Outgoing {
    /// It has ended when the rest fits into the pipe, or nobody reads any more.
    fn settle(&mut self) {
        let written = self.bytes.len() - self.at <= CAPACITY_BYTES;
        if self.verdict.is_some() || !(written || self.reader_gone || self.killed) {
            return;
        }
        let verdict = match self.failure {
            _ if self.killed => Err(fail(&self.what, Stopped, "stopped by zmigrate")),
            _ if !written => Err(fail(&self.what, Transport, "ended by signal 13")),
            Some(kind) => Err(fail(&self.what, kind, "a fault that was asked for")),
            None => Ok(()),
        };
        self.end(verdict);
    }

    fn end(&mut self, verdict: ZfsResult<()>) {
        if let Some(name) = &self.name {
            release_user(&self.zfs, name);
        }
        self.zfs.tell(Op::Send, &self.what, &verdict);
        self.verdict = Some(verdict);
    }
}

impl Work for Outgoing {
    fn kill(&mut self) {
        self.killed = true;
        self.settle();
    }

    fn verdict(&self) -> Option<ZfsResult<()>> {
        self.verdict.clone()
    }
}

struct SendReader(Arc<Shared<Outgoing>>);

impl Read for SendReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.with(|send| {
            if send.killed {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let n = (&send.bytes[send.at..]).read(out)?;
            send.at += n;
            send.settle();
            Ok(n)
        })
    }
}

impl Drop for SendReader {
    fn drop(&mut self) {
        self.0.with(|send| {
            send.reader_gone = true;
            send.settle();
        });
    }
}

/// Starts a send whose snapshot is in use from now on.
pub(super) fn send(
    zfs: &FakeZfs,
    what: String,
    prepared: ZfsResult<(Job, SnapshotName)>,
    fault: Option<Fault>,
) -> Sending {
    let mut work = Outgoing {
        zfs: zfs.clone(),
        what,
        name: None,
        bytes: Vec::new(),
        at: 0,
        failure: None,
        reader_gone: false,
        killed: false,
        verdict: None,
    };
    match prepared {
        Ok((job, name)) => {
            (work.bytes, work.failure) = damaged(&job, fault);
            work.name = Some(name);
            work.settle();
        }
        Err(e) => work.end(Err(e)),
    }
    let shared = Shared::new(work);
    let process = Box::new(InlineProcess { shared: Arc::clone(&shared), waited: false });
    Sending { stream: Box::new(SendReader(shared)), process }
}

/// A receive: it works while it is written to.
struct Incoming {
    zfs: FakeZfs,
    what: String,
    receiver: Option<Receiver>,
    fault: Option<Fault>,
    /// Where the fault stops it.
    stop_at: u64,
    taken: u64,
    verdict: Option<ZfsResult<()>>,
}

impl Incoming {
    fn end(&mut self, read: Result<(), (ZfsErrorKind, String)>) {
        let Some(receiver) = self.receiver.take() else { return };
        let verdict = receiver.finish(read.map_err(|(kind, why)| fail(&self.what, kind, why)));
        let verdict = match self.fault {
            Some(Fault::AfterEffect(kind)) => {
                verdict.and(Err(fail(&self.what, kind, "a fault that was asked for, after the effect")))
            }
            _ => verdict,
        };
        self.zfs.tell(Op::Receive, &self.what, &verdict);
        self.verdict = Some(verdict);
    }

    /// Meets the fault once its byte is reached.
    fn meet(&mut self) {
        if self.taken >= self.stop_at {
            let kind = if let Some(Fault::FailAfter(_, kind)) = self.fault { kind } else { Killed };
            self.end(Err((kind, "a fault that was asked for".to_owned())));
        }
    }
}

impl Work for Incoming {
    fn kill(&mut self) {
        self.end(Err((Stopped, "stopped by zmigrate".to_owned())));
    }

    fn verdict(&self) -> Option<ZfsResult<()>> {
        self.verdict.clone()
    }
}

struct ReceiveWriter(Arc<Shared<Incoming>>);

impl Write for ReceiveWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.with(|receive| {
            let room = usize::try_from(receive.stop_at - receive.taken).unwrap_or(usize::MAX);
            let Some(receiver) = &mut receive.receiver else { return Err(ErrorKind::BrokenPipe.into()) };
            let n = bytes.len().min(room);
            receive.taken += n as u64;
            match receiver.feed(&bytes[..n]) {
                Ok(false) => receive.meet(),
                Ok(true) => receive.end(Ok(())),
                Err(refusal) => receive.end(Err(refusal)),
            }
            Ok(n)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ReceiveWriter {
    fn drop(&mut self) {
        self.0.with(|receive| {
            if let Some(receiver) = &receive.receiver {
                let read = receiver.end_of_input();
                receive.end(read);
            }
        });
    }
}

/// Starts a receive.
pub(super) fn receive(zfs: &FakeZfs, what: String, spec: &ReceiveSpec, fault: Option<Fault>) -> Receiving {
    let stop_at = match fault {
        Some(Fault::FailAfter(n, _) | Fault::KillAfter(n)) => n,
        _ => u64::MAX,
    };
    let receiver = Some(Receiver::new(zfs, spec, &what));
    let mut work = Incoming { zfs: zfs.clone(), what, receiver, fault, stop_at, taken: 0, verdict: None };
    match refused(fault) {
        Some(kind) => {
            work.receiver = None;
            let verdict = Err(fail(&work.what, kind, "a fault that was asked for"));
            zfs.tell(Op::Receive, &work.what, &verdict);
            work.verdict = Some(verdict);
        }
        None => work.meet(),
    }
    let shared = Shared::new(work);
    let process = Box::new(InlineProcess { shared: Arc::clone(&shared), waited: false });
    Receiving { stream: Box::new(ReceiveWriter(shared)), process }
}
