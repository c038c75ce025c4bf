//! For the tests of single requests: an engine on a fake host, and sessions of it that have no channels.

use std::{path::Path, sync::Arc};

use super::engine::{Channels, Engine, EngineSession};
use crate::{
    adapter::{journal::FileJournal, locks::FileLocks},
    channel::Channel,
    fake::FakeZfs,
    types::{Failure, FailureClass},
};

struct NoChannels;

impl Channels for NoChannels {
    fn open(&self, _: u32) -> Result<Channel, Failure> {
        Err(Failure::new(FailureClass::Internal, "no channels here"))
    }
    fn close(&self, _: u32) {}
}

/// An engine of that host, with its locks and its journal in `dir`.
pub fn engine(zfs: &FakeZfs, dir: &Path) -> Arc<Engine> {
    let (locks, journal) = (FileLocks::new(dir), FileJournal::new(dir));
    Arc::new(Engine::new(Arc::new(zfs.clone()), Arc::new(locks), Arc::new(journal), 1000))
}

/// A session of it.
pub fn session(engine: &Arc<Engine>, holder: &str) -> EngineSession {
    EngineSession::new(Arc::clone(engine), holder.to_owned(), Arc::new(NoChannels))
}
