//! The moving data path of one transfer.
//!
//! ```text
//! zfs send → read ─ tap ─→ [4 chunks] → pack (zstd) → Channel ═══ Channel → unpack ─ tap → zfs receive
//!            blocking thread            blocking thread  async      async    blocking thread
//! ```
//!
//! Invariants: memory is bounded by the window of the channel and the few chunks between the threads; the last record
//! of a stream reaches `zfs receive` only after the sender said that its `zfs send` ended well, and the digests agree.

pub mod compress;
pub mod link_rate;
pub mod probe;
pub mod sample;
pub mod sink;
pub mod source;
pub mod times;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::timeout;
use xxhash_rust::xxh3::Xxh3;

use self::times::Times;
use crate::{
    channel::Channel,
    types::Failure,
    wire::{codec::Use, message::StreamMessage},
};

/// How far a transfer has come. Read by progress displays while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    raw_bytes: AtomicU64,
    wire_bytes: AtomicU64,
    times: Times,
}

impl Counters {
    fn add(&self, raw: usize, wire: usize) {
        self.raw_bytes.fetch_add(raw as u64, Ordering::Relaxed);
        self.wire_bytes.fetch_add(wire as u64, Ordering::Relaxed);
    }

    /// Bytes of the send stream so far.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes.load(Ordering::Relaxed)
    }

    /// Payload bytes on the wire so far, repeats not counted.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes.load(Ordering::Relaxed)
    }

    /// Where its time went.
    pub fn times(&self) -> &Times {
        &self.times
    }
}

/// What to do about a stream that is sound and is refused all the same.
const NOT_TAKEN: &str = "nothing of it was taken as complete; this zmigrate does not take such a stream: update it on both sides, and report it if that does not help";

/// How long one end tries to tell the other why it failed.
const TELL: Duration = Duration::from_secs(30);

/// Tells the other end of a transfer why this one failed. If it does not get through, the other learns it from the lost
/// session.
async fn tell(channel: &Channel, failure: &Failure) {
    let word = StreamMessage::Failed(failure.clone());
    let told = async {
        channel.send_message(&word, Use::Request).await?;
        channel.delivered().await
    };
    let _: Result<Result<(), Failure>, _> = timeout(TELL, told).await;
}

/// The digest of a stream: XXH3-128 over the XXH3-64 of its chunks, in order. Both sides cut the stream alike, because
/// chunks travel whole.
#[derive(Default)]
struct StreamDigest {
    hash: Xxh3,
    raw_bytes: u64,
}

impl StreamDigest {
    fn add(&mut self, check: u64, raw_len: usize) {
        self.hash.update(&check.to_le_bytes());
        self.raw_bytes += raw_len as u64;
    }

    fn value(&self) -> u128 {
        self.hash.digest128()
    }
}
