//! A pipe in memory: bounded, blocking, and it can be cut from outside, as a process is killed.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// Four times what a Linux pipe holds by default, a quarter of what zmigrate asks for.
pub(super) const CAPACITY_BYTES: usize = 256 << 10;

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    writer_gone: bool,
    reader_gone: bool,
    killed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The end that is read.
#[derive(Debug)]
pub struct PipeReader(Arc<Shared>);
/// The end that is written.
#[derive(Debug)]
pub struct PipeWriter(Arc<Shared>);
/// Cuts the pipe.
#[derive(Clone, Debug)]
pub struct Killer(Arc<Shared>);

/// A new pipe.
pub fn pipe() -> (PipeReader, PipeWriter, Killer) {
    let shared = Arc::new(Shared::default());
    (PipeReader(shared.clone()), PipeWriter(shared.clone()), Killer(shared))
}

impl Killer {
    /// From now on both ends fail: a stopped sender's stream must not look complete.
    pub fn kill(&self) {
        self.0.change(|s| s.killed = true);
    }

    /// True after `kill`.
    pub fn is_killed(&self) -> bool {
        self.0.lock().killed
    }
}

impl Read for PipeReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        while state.bytes.is_empty() && !state.writer_gone && !state.killed && !out.is_empty() {
            state = self.0.wait(state);
        }
        if state.killed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let n = state.bytes.read(out)?;
        drop(state);
        self.0.changed.notify_all();
        Ok(n)
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        loop {
            if state.reader_gone || state.killed {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let room = CAPACITY_BYTES.saturating_sub(state.bytes.len()).min(bytes.len());
            if room > 0 || bytes.is_empty() {
                state.bytes.extend(&bytes[..room]);
                drop(state);
                self.0.changed.notify_all();
                return Ok(room);
            }
            state = self.0.wait(state);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.0.change(|s| s.reader_gone = true);
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.0.change(|s| s.writer_gone = true);
    }
}
