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
    wire::hello::{Hello, RefusalCode, Role},
};

/// One in so many of an identity's connections is added to them for the first ones of its sessions.
const FIRST_ONES: usize = 6;

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

    /// A place for one more connection, or the number of those that there are, which is the share of an identity. `first`: of a
    /// session, which ends without it; for these there are some more.
    pub fn enter(self: &Arc<Self>, identity: &PeerName, first: bool) -> Result<Place, usize> {
        let most = if first { self.most + self.most / FIRST_ONES } else { self.most };
        let mut open = lock(&self.open);
        let own = open.entry(identity.clone()).or_default();
        if *own >= most {
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

/// A connection's place, and its hello.
///
/// # Errors
/// When there was none, or no hello, which says why.
pub(super) async fn admit(
    crowd: &Arc<Crowd>,
    connection: &mut Box<dyn Connection>,
    identity: &PeerName,
) -> Result<(Place, u16, Hello), Failure> {
    let most = match crowd.enter(identity, false) {
        Ok(place) => return accept(connection).await.map(|(version, hello)| (place, version, hello)),
        Err(most) => most,
    };
    let mut text = format!("{identity} has {most} connections open, which is its share");
    // Its hello first, for who is still sending would lose the answer; but these places are others'.
    if let Ok(Ok((version, hello))) = timeout(TURNED_AWAY_WITHIN, accept(connection)).await {
        if matches!(hello.role, Role::Open | Role::Attach { channel: 0, stripe: 0, .. }) {
            match crowd.enter(identity, true) {
                Ok(place) => return Ok((place, version, hello)),
                Err(most) => text = format!("{identity} has {most} connections open, which is its share"),
            }
        }
        refuse(connection, RefusalCode::Busy, &text).await?;
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
        let (first, second) = (crowd.enter(&east, false).unwrap(), crowd.enter(&east, false).unwrap());
        assert_eq!(crowd.enter(&east, false).err(), Some(2));
        let other = crowd.enter(&west, false).unwrap();
        drop(first);
        let third = crowd.enter(&east, false).unwrap();
        assert_eq!(crowd.enter(&east, false).err(), Some(2));
        drop((second, third, other));
        assert!(lock(&crowd.open).is_empty());
        let crowd = Crowd::new(6);
        let _all = [(); 6].map(|()| crowd.enter(&east, false).unwrap());
        let _first = crowd.enter(&east, true).unwrap();
        assert_eq!(crowd.enter(&east, true).err(), Some(7), "of these, too, there is a number");
    }
}
