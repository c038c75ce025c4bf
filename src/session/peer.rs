//! One session at the peer's end: its channels, and for how long it has been without a connection.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    client::{AGENT, unix_ms},
    engine::{Channels, EngineSession, lock},
    prepared::no_place,
    share::Share,
};
use crate::{
    channel::{Channel, budget::Bounds},
    identity::Serial,
    limits::{MAX_TRANSFERS, YIELD_AFTER},
    types::{DatasetName, Failure, FailureClass, PeerName},
    wire::hello::{SessionId, Welcome},
};

/// One session, as the daemon lists it.
pub struct PeerSession {
    pub(super) id: SessionId,
    /// Rises with each session.
    pub(super) number: u64,
    pub(super) identity: PeerName,
    pub(super) host: String,
    /// The certificate that opened it.
    pub(super) serial: Serial,
    /// What both sides named.
    pub(super) features: u64,
    pub(super) control: Channel,
    pub(super) transfers: Mutex<BTreeMap<u32, PeerTransfer>>,
    /// What all sessions of this identity have together.
    pub(super) share: Arc<Share>,
    /// What bounds its transfers.
    pub(super) bounds: Bounds,
    /// What the session does and holds. Weak, for that holds this: whoever serves the session keeps it alive.
    pub(super) work: OnceLock<Weak<EngineSession>>,
    pub(super) send_window: u64,
    pub(super) window: u64,
    pub(super) idle_timeout: Duration,
}

/// The channel of a transfer, and its place among those of its identity.
pub(super) struct PeerTransfer {
    pub channel: Channel,
    _place: OwnedSemaphorePermit,
}

impl Channels for PeerSession {
    fn open(&self, number: u32) -> Result<Channel, Failure> {
        if let Some(reason) = self.control.closed() {
            return Err(reason);
        }
        let mut transfers = lock(&self.transfers);
        if number == 0 || transfers.contains_key(&number) {
            return Err(Failure::new(FailureClass::Protocol, format!("channel {number} is in use")));
        }
        let place = Arc::clone(&self.share.places).try_acquire_owned();
        let place = place.map_err(|_| {
            no_place(format!("{} has {MAX_TRANSFERS} transfers in work, which is its share", self.identity))
        })?;
        let channel = Channel::within(&self.bounds, self.send_window, self.window, self.idle_timeout);
        transfers.insert(number, PeerTransfer { channel: channel.clone(), _place: place });
        Ok(channel)
    }

    fn close(&self, number: u32) {
        if let Some(transfer) = lock(&self.transfers).remove(&number) {
            transfer.channel.close(Failure::new(FailureClass::Interrupted, "the transfer has ended"));
        }
    }
}

impl PeerSession {
    /// For how long no connection of it has lived; `None` while one does.
    pub(super) fn alone_for(&self) -> Option<Duration> {
        let transfers = lock(&self.transfers);
        let mut shortest = self.control.alone_since()?.elapsed();
        for transfer in transfers.values() {
            shortest = shortest.min(transfer.channel.alone_since()?.elapsed());
        }
        Some(shortest)
    }

    /// True if nobody came back to it although `asking`, of the same identity, has a connection: then the link is there.
    pub(super) fn yields_to(&self, asking: &PeerSession) -> bool {
        let link_is_there = asking.control.connected_since().is_some_and(|since| since.elapsed() >= YIELD_AFTER);
        link_is_there && self.alone_for().is_some_and(|alone| alone >= YIELD_AFTER)
    }

    pub(super) fn holds(&self, target: &DatasetName) -> bool {
        self.work.get().and_then(Weak::upgrade).is_some_and(|work| work.holds(target))
    }

    pub(super) fn holds_anything(&self) -> bool {
        self.work.get().is_none_or(|work| work.upgrade().is_some_and(|work| work.holds_locks()))
    }

    pub(super) fn transfers_anything(&self) -> bool {
        !lock(&self.transfers).is_empty()
    }

    pub(super) fn end(&self, reason: &Failure) {
        self.control.close(reason.clone());
        self.end_transfers(reason);
    }

    pub(super) fn end_transfers(&self, reason: &Failure) {
        lock(&self.transfers).values().for_each(|transfer| transfer.channel.close(reason.clone()));
    }

    pub(super) fn welcome(&self, channel: &Channel) -> Welcome {
        Welcome {
            agent: AGENT.into(),
            clock_unix_ms: unix_ms(),
            features: self.features,
            window: self.window,
            session: self.id,
            next: channel.next_expected(),
        }
    }
}
