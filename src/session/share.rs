//! What one identity may take of a daemon, with all its connections and sessions together, so that something is left for others
//! whatever one of them does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::{sync::Semaphore, time::timeout};

use super::{
    engine::lock,
    handshake::{accept, refuse},
};
use crate::{
    channel::budget::Budget,
    limits::{MAX_TRANSFERS, TURNED_AWAY_WITHIN},
    port::link::Connection,
    types::{Failure, FailureClass, PeerName},
    wire::hello::RefusalCode,
};

/// What the transfers of one identity have together.
pub(super) struct Share {
    /// Places for transfers.
    pub places: Arc<Semaphore>,
    /// Memory for what waits on their channels.
    pub memory: Arc<Budget>,
}

impl Share {
    /// For transfers with windows of `window` bytes, which keep at most `memory` bytes together, beyond what each may have in any case.
    pub fn new(memory: u64, window: u64) -> Arc<Share> {
        Arc::new(Share { places: Arc::new(Semaphore::new(MAX_TRANSFERS)), memory: Budget::new(memory, window) })
    }
}

/// The open connections of a daemon, counted by the identity that was proved on them.
pub(super) struct Crowd {
    most: usize,
    open: Mutex<BTreeMap<PeerName, usize>>,
}

/// A connection's place in a [`Crowd`], until it is dropped.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    identity: PeerName,
}

impl Crowd {
    /// At most `most` connections of one identity.
    pub fn new(most: usize) -> Arc<Crowd> {
        Arc::new(Crowd { most, open: Mutex::default() })
    }

    /// A place for one more connection, or the number of those that there are, which is the share of an identity.
    pub fn enter(self: &Arc<Self>, identity: &PeerName) -> Result<Place, usize> {
        let mut open = lock(&self.open);
        let own = open.entry(identity.clone()).or_default();
        if *own >= self.most {
            return Err(*own);
        }
        *own += 1;
        Ok(Place { crowd: Arc::clone(self), identity: identity.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.crowd.open);
        if let Some(own) = open.get_mut(&self.identity) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.identity);
            }
        }
    }
}

/// Refuses a connection of an identity that has `most` of them already, and says why in the error as well.
pub(super) async fn turn_away(
    mut connection: Box<dyn Connection>,
    identity: &PeerName,
    most: usize,
) -> Result<(), Failure> {
    let text = format!("{identity} has {most} connections open, which is its share");
    // Its hello first, for who is still sending would lose the answer; but these places are others'.
    if timeout(TURNED_AWAY_WITHIN, accept(&mut connection)).await.is_ok_and(|hello| hello.is_ok()) {
        refuse(&mut connection, RefusalCode::Busy, &text).await?;
    }
    Err(Failure::new(FailureClass::Refused, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_share_and_what_has_left_is_forgotten() {
        let crowd = Crowd::new(2);
        let (east, west) = ("east".parse().unwrap(), "west".parse().unwrap());
        let (first, second) = (crowd.enter(&east).unwrap(), crowd.enter(&east).unwrap());
        assert_eq!(crowd.enter(&east).err(), Some(2));
        let other = crowd.enter(&west).unwrap();
        drop(first);
        let third = crowd.enter(&east).unwrap();
        assert_eq!(crowd.enter(&east).err(), Some(2));
        drop((second, third, other));
        assert!(lock(&crowd.open).is_empty());
    }
}
