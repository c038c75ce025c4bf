//! Channels that are opened before it is known what goes through them, so that they are connected by then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::engine::{EngineSession, lock};
use crate::{
    channel::Channel,
    limits::MAX_TRANSFERS_IN_ALL,
    types::{Failure, FailureClass},
};

/// A place among the transfers of this process, and the channel of one.
type Place = (OwnedSemaphorePermit, Channel);

/// Those of one session.
#[derive(Default)]
pub(super) struct Prepared {
    places: Mutex<BTreeMap<u32, Place>>,
    /// Where a receive is being opened.
    opening: Mutex<BTreeSet<u32>>,
    /// One is no more in either of these.
    opened: Notify,
}

/// What one is told who finds no place; others end, so it is worth another try.
pub(super) fn no_place(text: String) -> Failure {
    Failure::new(FailureClass::Unreachable, text).hint("use fewer --jobs, or run it again later").transient()
}

impl EngineSession {
    /// Opens a channel for a transfer to come. May be repeated.
    ///
    /// # Errors
    /// As for [`EngineSession::place`].
    pub(super) fn prepare(&self, channel: u32) -> Result<(), Failure> {
        if !lock(&self.prepared.places).contains_key(&channel) {
            let place = self.place(channel)?;
            lock(&self.prepared.places).insert(channel, place);
        }
        Ok(())
    }

    /// Gives a channel up that was prepared, if it was.
    pub(super) fn let_go(&self, channel: u32) {
        if lock(&self.prepared.places).remove(&channel).is_some() {
            self.channels.close(channel);
            self.prepared.opened.notify_waiters();
        }
    }

    /// Gives all of them up.
    pub(super) fn let_all_go(&self) {
        let places = std::mem::take(&mut *lock(&self.prepared.places));
        places.into_keys().for_each(|channel| self.channels.close(channel));
    }

    /// A receive is being opened on this channel until what comes back is dropped.
    pub(super) fn opens(&self, channel: u32) -> impl Drop + '_ {
        struct Opening<'a>(&'a EngineSession, u32);
        impl Drop for Opening<'_> {
            fn drop(&mut self) {
                lock(&self.0.prepared.opening).remove(&self.1);
                self.0.prepared.opened.notify_waiters();
            }
        }
        lock(&self.prepared.opening).insert(channel);
        Opening(self, channel)
    }

    /// Waits while that channel is ready for a receive that was not opened yet: both may have been asked at once.
    pub(super) async fn until_opened(&self, channel: u32) {
        loop {
            let opened = self.prepared.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if !lock(&self.prepared.places).contains_key(&channel) && !lock(&self.prepared.opening).contains(&channel) {
                return;
            }
            tokio::select! {
                () = opened => {}
                () = self.ending.cancelled() => return,
            }
        }
    }

    /// A place among the transfers of this process with the channel of that number: what was prepared, or else new ones.
    ///
    /// # Errors
    /// When there is none, the number is in use, or the session is ending.
    pub(super) fn place(&self, channel: u32) -> Result<Place, Failure> {
        if let Some(place) = lock(&self.prepared.places).remove(&channel) {
            self.must_go_on()?;
            return Ok(place);
        }
        let permit = Arc::clone(&self.engine.transfers)
            .try_acquire_owned()
            .map_err(|_| no_place(format!("this side has {MAX_TRANSFERS_IN_ALL} transfers in work")))?;
        self.must_go_on()?;
        Ok((permit, self.channels.open(channel)?))
    }
}
