//! A session of this host alone: for what is asked of its engine while no peer is there.

use std::sync::Arc;

use super::engine::{Channels, Engine, EngineSession};
use crate::{
    channel::Channel,
    types::{Failure, FailureClass},
};

struct NoChannels;

impl Channels for NoChannels {
    fn open(&self, _: u32) -> Result<Channel, Failure> {
        Err(Failure::new(FailureClass::Internal, "no transfer is possible without a peer"))
    }
    fn close(&self, _: u32) {}
}

/// A session that cannot transfer. `holder` is what other runs are told.
pub fn alone(engine: &Arc<Engine>, holder: String) -> EngineSession {
    EngineSession::new(Arc::clone(engine), holder, Arc::new(NoChannels))
}
