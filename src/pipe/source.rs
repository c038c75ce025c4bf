//! The sending half: reads `zfs send`, judges what it says, packs it, and hands it to the channel.

use std::{
    fmt,
    io::{self, ErrorKind, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{runtime::Handle, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Counters, NOT_TAKEN, StreamDigest,
    compress::{Packer, Situation},
    link_rate::LinkRate,
    tell,
    times::Stage,
};
use crate::{
    channel::{Channel, buffers::Pool},
    limits::{CHUNKS_BETWEEN_THREADS, MAX_CHUNK, MIN_CHUNK, MIN_WINDOW, SMALL_CHUNKS_UNTIL},
    port::zfs::Sending,
    stream::{
        Tap,
        parser::{Ending, StreamFault},
    },
    types::{Failure, FailureClass},
    wire::{
        codec::Use,
        frame::Frame,
        message::{Compression, StreamMessage, Transferred},
    },
};

/// What a stream comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A `zfs send` of this host.
    ZfsSend,
    /// What a probe was given, as a person would name it: a file, perhaps.
    Given(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::ZfsSend => f.write_str("zfs send"),
            Origin::Given(name) => f.write_str(name),
        }
    }
}

impl Origin {
    /// A read from it failed.
    fn unreadable(&self, e: &io::Error) -> Failure {
        let class = match self {
            Origin::ZfsSend => FailureClass::Zfs,
            Origin::Given(_) => FailureClass::Usage,
        };
        Failure::new(class, format!("reading from {self}: {e}"))
    }

    /// It gave a stream that the gate refuses.
    fn bad_stream(&self, fault: &StreamFault) -> Failure {
        let failure =
            Failure::new(FailureClass::BadStream, format!("the stream from {self} cannot be trusted: {fault}"));
        match self {
            Origin::ZfsSend if fault.kind.is_damage() => failure
                .hint("nothing of it was taken as complete; check memory and disks of this host if it happens again"),
            Origin::ZfsSend => failure.hint(NOT_TAKEN),
            Origin::Given(_) => failure.hint(
                "a probe sends a whole send stream as it is; `zmigrate stream inspect` shows what is in this one",
            ),
        }
    }
}

/// How a stream is sent.
pub struct SourceOptions {
    /// What it comes from, for what is said when it fails.
    pub origin: Origin,
    /// How to compress.
    pub compression: Compression,
    /// The stream is cut into chunks of this many bytes.
    pub chunk_bytes: usize,
    /// Set when the transfer is given up.
    pub cancelled: CancellationToken,
    /// Set when the receiving side has ended, well or not.
    pub receiver_ended: CancellationToken,
    /// Reads and packs in the task that calls, instead of in threads of its own: for tests, whose order of events then
    /// is the same each time. The stream must never block.
    pub in_one_thread: bool,
}

/// Bytes that are read, judged and hashed before the next are read: few enough to be in the processor's own cache all the time.
const PIECE: usize = 128 << 10;

/// How long `zfs send` may take to end once its output has broken off.
const END_TIME: Duration = Duration::from_secs(10);

struct Chunk {
    bytes: Bytes,
    /// XXH3-64 of the bytes.
    check: u64,
    incompressible: f32,
}

/// Sends one stream to its end.
///
/// # Errors
/// The first cause: `zfs send` failed, its stream is not what was planned, or (as a consequence) the other side ended.
pub async fn send_stream(
    mut sending: Sending,
    tap: Tap,
    channel: Channel,
    counters: Arc<Counters>,
    options: SourceOptions,
) -> Result<Transferred, Failure> {
    let (chunks_in, chunks_out) = mpsc::sync_channel(CHUNKS_BETWEEN_THREADS);
    let waiting = Arc::new(AtomicUsize::new(0));
    // Small ones are cheap to map, and kept for no more than a pipeline needs.
    let pool = match options.chunk_bytes {
        MAX_CHUNK => channel.pool().clone(),
        small => Pool::new(small, MIN_WINDOW as usize / small),
    };
    let stream = sending.stream;
    let reading = Reading {
        stream,
        origin: options.origin.clone(),
        tap,
        pool,
        channel: channel.clone(),
        read: 0,
        at_end: false,
        counters: Arc::clone(&counters),
    };
    let packing = Packing::new(options.compression, options.chunk_bytes, Arc::clone(&counters));
    let threads = async {
        if options.in_one_thread {
            return alternate(reading, packing, &channel, &counters).await;
        }
        let reader = {
            let waiting = Arc::clone(&waiting);
            spawn_blocking(move || read(reading, &chunks_in, &waiting))
        };
        let packer = {
            let (channel, handle) = (channel.clone(), Handle::current());
            spawn_blocking(move || pack(packing, &chunks_out, &channel, &handle, &waiting))
        };
        let read = reader.await.unwrap_or_else(|e| Err(Stop::Failed(crashed(e))));
        let packed = packer.await.unwrap_or_else(|e| Err(crashed(e)));
        (read, packed)
    };
    tokio::pin!(threads);
    let failure = tokio::select! {
        biased;
        (read, packed) = &mut threads => {
            return conclude(read, packed, sending.process, &channel, &counters, &options).await;
        }
        failure = ended_by_other(&channel, &options) => failure,
    };
    sending.process.kill();
    channel.close(failure.clone());
    let _ = threads.await;
    let _ = sending.process.wait().await;
    Err(failure)
}

fn given_up() -> Failure {
    Failure::new(FailureClass::Interrupted, "the transfer was given up").consequence()
}

/// Waits until the stream is of no use to anybody any more.
async fn ended_by_other(channel: &Channel, options: &SourceOptions) -> Failure {
    tokio::select! {
        biased;
        failure = receivers_word(channel) => failure,
        () = options.cancelled.cancelled() => given_up(),
        () = options.receiver_ended.cancelled() => {
            Failure::new(FailureClass::Protocol, "the receiver ended before the stream did").consequence()
        }
    }
}

fn crashed(e: tokio::task::JoinError) -> Failure {
    Failure::new(FailureClass::Internal, format!("a thread of the transfer ended unexpectedly: {e}"))
}

/// Waits for the receiver to say that it failed, or for the channel to end.
async fn receivers_word(channel: &Channel) -> Failure {
    match channel.receive_message::<StreamMessage>(Use::Request).await {
        Ok(StreamMessage::Failed(failure)) => failure.printable().consequence(),
        Ok(StreamMessage::End { .. }) => Failure::new(FailureClass::Protocol, "the receiver sent the end of a stream"),
        Err(failure) => failure,
    }
}

/// Why reading stopped before the stream's end.
enum Stop {
    /// The packing thread is gone; it has the cause.
    PackerGone,
    Failed(Failure),
}

/// Reads, judges and hashes, a chunk at a time.
struct Reading {
    stream: Box<dyn Read + Send>,
    origin: Origin,
    tap: Tap,
    pool: Pool,
    channel: Channel,
    /// Bytes so far.
    read: u64,
    at_end: bool,
    counters: Arc<Counters>,
}

impl Reading {
    /// The next chunk; `None` at the end of a stream that was whole.
    fn next(&mut self) -> Result<Option<Chunk>, Stop> {
        if self.at_end {
            return self.end().map(|()| None);
        }
        let times = self.counters.times();
        // Not otherwise: what decides how to compress learns from each chunk, and a large one teaches more.
        let is_spread = self.read < SMALL_CHUNKS_UNTIL && self.channel.most_connections() > 2;
        // A small chunk in a large buffer would take more memory than the window accounts for.
        let mut buffer = if is_spread { self.pool.small(MIN_CHUNK) } else { self.pool.take() };
        let (mut filled, mut incompressible, mut hash) = (0, 0, Xxh3::new());
        while filled < buffer.len() && !self.at_end {
            let end = buffer.len().min(filled + PIECE);
            let piece = match times.time(Stage::Read, || self.stream.read(&mut buffer[filled..end])) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                Ok(n) => &buffer[filled..filled + n],
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Stop::Failed(self.origin.unreadable(&e))),
            };
            times.time(Stage::Judge, || -> Result<(), Stop> {
                let judged = self.tap.feed(piece).map_err(|fault| Stop::Failed(self.origin.bad_stream(&fault)))?;
                incompressible += judged.incompressible;
                hash.update(piece);
                Ok(())
            })?;
            filled += piece.len();
        }
        if filled == 0 {
            return self.end().map(|()| None);
        }
        self.read += filled as u64;
        let incompressible = incompressible as f32 / filled as f32;
        Ok(Some(Chunk { bytes: self.pool.lend(buffer, filled), check: hash.digest(), incompressible }))
    }

    fn end(&self) -> Result<(), Stop> {
        let origin = &self.origin;
        match self.tap.finish() {
            Ending::Complete => Ok(()),
            Ending::SavedWithoutEnd => {
                Err(Stop::Failed(truncated(&format!("the stream from {origin} has no END record"))))
            }
            Ending::Damaged(fault) => Err(Stop::Failed(truncated(&format!("from {origin}: {fault}")))),
        }
    }
}

/// The reading thread. On success the stream was whole.
fn read(mut reading: Reading, chunks: &mpsc::SyncSender<Chunk>, waiting: &AtomicUsize) -> Result<(), Stop> {
    while let Some(chunk) = reading.next()? {
        waiting.fetch_add(1, Ordering::Relaxed);
        chunks.send(chunk).map_err(|_| Stop::PackerGone)?;
    }
    Ok(())
}

fn truncated(text: &str) -> Failure {
    // What broke it off has the cause: the exit status of zfs send.
    Failure::new(FailureClass::BadStream, text).consequence()
}

/// Packs chunks, and digests what they hold.
struct Packing {
    packer: Result<Packer, Failure>,
    digest: StreamDigest,
    /// The runtime's clock, which a test can hold still: what the link carries decides how hard to pack.
    began: tokio::time::Instant,
    link: LinkRate,
    counters: Arc<Counters>,
}

impl Packing {
    fn new(mode: Compression, chunk_bytes: usize, counters: Arc<Counters>) -> Packing {
        let failed = |e| Failure::new(FailureClass::Internal, format!("zstd: {e}"));
        Packing {
            packer: Packer::new(mode, chunk_bytes).map_err(failed),
            digest: StreamDigest::default(),
            began: tokio::time::Instant::now(),
            link: LinkRate::default(),
            counters,
        }
    }

    /// The chunk as a frame; `behind` more wait for their turn.
    fn pack(&mut self, chunk: Chunk, channel: &Channel, behind: usize) -> Result<Frame, Failure> {
        let (backlog, carried) = channel.backlog();
        let now = Situation {
            incompressible: chunk.incompressible,
            backlog,
            waiting: behind as f32 / CHUNKS_BETWEEN_THREADS as f32,
            link_bytes_per_s: self.link.update(self.began.elapsed(), carried, backlog),
        };
        let raw_len = chunk.bytes.len();
        let packer = self.packer.as_mut().map_err(|e| e.clone())?;
        let frame = self.counters.times().time(Stage::Pack, || packer.pack(chunk.bytes, chunk.check, now));
        self.digest.add(frame.header.check, raw_len);
        Ok(frame)
    }
}

/// The packing thread: hands frames to the channel. Gives the digest of all, at the end.
fn pack(
    mut packing: Packing,
    chunks: &mpsc::Receiver<Chunk>,
    channel: &Channel,
    handle: &Handle,
    waiting: &AtomicUsize,
) -> Result<StreamDigest, Failure> {
    let counters = Arc::clone(&packing.counters);
    let times = counters.times();
    while let Ok(chunk) = times.time(Stage::Input, || chunks.recv()) {
        let behind = waiting.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        let raw_len = chunk.bytes.len();
        let frame = packing.pack(chunk, channel, behind)?;
        let wire_len = frame.payload.len();
        times.time(Stage::Credit, || handle.block_on(channel.send(frame)))?;
        counters.add(raw_len, wire_len);
    }
    packing.packer.map(|_| packing.digest)
}

/// What both threads do, in turns.
async fn alternate(
    mut reading: Reading,
    mut packing: Packing,
    channel: &Channel,
    counters: &Counters,
) -> (Result<(), Stop>, Result<StreamDigest, Failure>) {
    let read = loop {
        let chunk = match reading.next() {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break Ok(()),
            Err(stop) => break Err(stop),
        };
        let raw_len = chunk.bytes.len();
        let sent = match packing.pack(chunk, channel, 0) {
            Ok(frame) => {
                let wire_len = frame.payload.len();
                channel.send(frame).await.map(|()| counters.add(raw_len, wire_len))
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = sent {
            return (Err(Stop::PackerGone), Err(failure));
        }
    };
    (read, Ok(packing.digest))
}

/// Both threads have ended: finds the first cause, tells the receiver, and waits until it knows.
async fn conclude(
    read: Result<(), Stop>,
    packed: Result<StreamDigest, Failure>,
    mut process: Box<dyn crate::port::zfs::Process>,
    channel: &Channel,
    counters: &Counters,
    options: &SourceOptions,
) -> Result<Transferred, Failure> {
    let exit = match &read {
        Ok(()) => process.wait().await,
        // Its output broke off, so it is ending by itself. A kill of ours would hide how it came to its end.
        Err(Stop::Failed(cause)) if cause.consequence => match timeout(END_TIME, process.wait()).await {
            Ok(exit) => exit,
            Err(_) => {
                process.kill();
                process.wait().await
            }
        },
        Err(_) => {
            process.kill();
            process.wait().await
        }
    }
    .map_err(Failure::from);
    let digest = match (read, packed, exit) {
        (Ok(()), Ok(digest), Ok(())) => digest,
        // The process failed by itself, which explains a stream that breaks off.
        (Ok(()), Ok(_), Err(exit)) => return fail(channel, exit).await,
        (Err(Stop::Failed(cause)), _, exit) => {
            let cause = match exit {
                Err(exit) => cause.first_cause(exit),
                Ok(()) => cause,
            };
            return fail(channel, Failure { consequence: false, ..cause }).await;
        }
        (_, Err(failure), _) => return fail(channel, failure).await,
        (Err(Stop::PackerGone), Ok(_), _) => {
            let failure = Failure::new(FailureClass::Internal, "the packing thread ended before the stream");
            return fail(channel, failure).await;
        }
    };
    let end = StreamMessage::End { raw_bytes: digest.raw_bytes, digest: digest.value() };
    // It waits for room, as any frame does.
    tokio::select! {
        biased;
        sent = channel.send_message(&end, Use::Request) => sent?,
        failure = ended_by_other(channel, options) => return Err(failure),
    }
    let all_sent = Instant::now();
    tokio::select! {
        biased;
        delivered = channel.delivered() => delivered?,
        failure = receivers_word(channel) => return Err(failure),
        () = options.receiver_ended.cancelled() => {}
        () = options.cancelled.cancelled() => return Err(given_up()),
    }
    counters.times().add(Stage::Credit, all_sent.elapsed());
    Ok(Transferred { raw_bytes: digest.raw_bytes, wire_bytes: counters.wire_bytes(), warnings: process.warnings() })
}

/// Ends with a failure that the receiver must learn, so that it does not wait.
async fn fail(channel: &Channel, failure: Failure) -> Result<Transferred, Failure> {
    tell(channel, &failure).await;
    Err(failure)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
