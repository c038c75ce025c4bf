//! Faults on request: what goes wrong, at which operation, once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use crate::port::zfs::ZfsErrorKind;

/// An operation of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the method of the same name")]
pub enum Op {
    Capabilities,
    List,
    Datasets,
    Snapshot,
    Bookmark,
    DestroyBookmark,
    DestroySnapshot,
    Hold,
    Release,
    Holds,
    Get,
    Set,
    Inherit,
    SetAll,
    InheritAll,
    Tree,
    Since,
    Unmount,
    Mount,
    CloseVolume,
    AwaitVolume,
    Sync,
    DestroyTree,
    CreateFilesystem,
    DestroyFilesystem,
    Rollback,
    AbortReceive,
    SendSize,
    Send,
    Receive,
    Version,
    Pools,
    Delegations,
}

/// What goes wrong. The bytes are those of the stream, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails at once and has no effect.
    Refuse(ZfsErrorKind),
    /// The operation has its effect, and then reports this failure: its answer is lost.
    AfterEffect(ZfsErrorKind),
    /// A send or receive fails like this after that many bytes.
    FailAfter(u64, ZfsErrorKind),
    /// The process of a send or receive is killed by somebody after that many bytes.
    KillAfter(u64),
    /// A send or receive stands still after that many bytes, until `FakeZfs::release_stalled`.
    StallAfter(u64),
    /// The lowest bit of that byte of a sent stream is wrong.
    FlipBit(u64),
    /// A sent stream ends after that many bytes, and the sender still says that all went well.
    Truncate(u64),
}

/// The faults that wait for their operation, and the count of operations.
#[derive(Debug, Default)]
pub struct Faults {
    inner: Mutex<Inner>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<Op, VecDeque<Fault>>,
    counts: BTreeMap<Op, u64>,
    releases: u64,
}

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, op: Op, fault: Fault) {
        self.lock().waiting.entry(op).or_default().push_back(fault);
    }

    /// Counts the operation and takes the fault that waits for it.
    pub(super) fn take(&self, op: Op) -> Option<Fault> {
        let mut inner = self.lock();
        *inner.counts.entry(op).or_default() += 1;
        inner.waiting.get_mut(&op)?.pop_front()
    }

    pub(super) fn count(&self, op: Op) -> u64 {
        self.lock().counts.get(&op).copied().unwrap_or(0)
    }

    pub(super) fn clear(&self) {
        self.lock().waiting.clear();
    }

    pub(super) fn release(&self) {
        self.lock().releases += 1;
        self.released.notify_all();
    }

    /// Waits for the next release, or until `stop` says so.
    pub(super) fn stall(&self, stop: impl Fn() -> bool) {
        let mut inner = self.lock();
        let before = inner.releases;
        while inner.releases == before && !stop() {
            let waited = self.released.wait_timeout(inner, Duration::from_millis(5));
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
