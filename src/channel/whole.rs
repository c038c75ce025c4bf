//! A message is handed over whole, or the channel ends: half of one would spoil all that follow.

use super::Channel;
use crate::types::{Failure, FailureClass};

/// Closes the channel if a message is given up between its frames.
pub(super) struct WholeOrClosed<'a> {
    pub channel: &'a Channel,
    pub done: bool,
}

impl Drop for WholeOrClosed<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.channel.close(Failure::new(FailureClass::Interrupted, "a message was given up half-way"));
        }
    }
}
