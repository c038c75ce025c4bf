//! For the tests of single requests: an engine on a fake host, and sessions of it that have no channels.

use std::{path::Path, sync::Arc};

use super::{
    alone::alone,
    engine::{Engine, EngineSession},
};
use crate::{
    adapter::{journal::FileJournal, locks::FileLocks},
    fake::FakeZfs,
};

/// An engine of that host, with its locks and its journal in `dir`.
pub fn engine(zfs: &FakeZfs, dir: &Path) -> Arc<Engine> {
    let (locks, journal) = (FileLocks::new(dir), FileJournal::new(dir));
    Arc::new(Engine::new(Arc::new(zfs.clone()), Arc::new(locks), Arc::new(journal), 1000))
}

/// A session of it.
pub fn session(engine: &Arc<Engine>, holder: &str) -> EngineSession {
    alone(engine, holder.to_owned())
}
