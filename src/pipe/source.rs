//! The sending half: reads `zfs send`, judges what it says, packs it, and hands it to the channel.

use std::{
    io::{ErrorKind, Read},
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

use super::{
    Counters, StreamDigest,
    compress::{Packer, Situation},
    link_rate::LinkRate,
    tell,
    times::Stage,
};
use crate::{
    channel::{Channel, buffers::Pool},
    limits::CHUNKS_BETWEEN_THREADS,
    port::zfs::Sending,
    stream::{Tap, parser::Ending},
    types::{Failure, FailureClass},
    wire::{
        codec::Use,
        message::{Compression, StreamMessage, Transferred},
    },
};

/// How a stream is sent.
pub struct SourceOptions {
    /// How to compress.
    pub compression: Compression,
    /// The stream is cut into chunks of this many bytes.
    pub chunk_bytes: usize,
    /// The window of the channel; decides how many buffers are kept.
    pub window_bytes: u64,
    /// Set when the transfer is given up.
    pub cancelled: CancellationToken,
    /// Set when the receiving side has ended, well or not.
    pub receiver_ended: CancellationToken,
}

/// How long `zfs send` may take to end once its output has broken off.
const END_TIME: Duration = Duration::from_secs(10);

struct Chunk {
    bytes: Bytes,
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
    let pool = Pool::new(options.chunk_bytes, (options.window_bytes / options.chunk_bytes as u64) as usize + 8);
    let stream = sending.stream;
    let reader = {
        let (waiting, counters) = (Arc::clone(&waiting), Arc::clone(&counters));
        spawn_blocking(move || read(stream, tap, &pool, &chunks_in, &waiting, &counters))
    };
    let packer = {
        let (channel, handle, counters) = (channel.clone(), Handle::current(), Arc::clone(&counters));
        let (mode, size) = (options.compression, options.chunk_bytes);
        spawn_blocking(move || pack(&chunks_out, &channel, &handle, &counters, &waiting, mode, size))
    };
    let threads = async {
        let read = reader.await.unwrap_or_else(|e| Err(Stop::Failed(crashed(e))));
        let packed = packer.await.unwrap_or_else(|e| Err(crashed(e)));
        (read, packed)
    };
    tokio::pin!(threads);
    let ended_by_other = tokio::select! {
        (read, packed) = &mut threads => {
            return conclude(read, packed, sending.process, &channel, &counters, &options).await;
        }
        failure = receivers_word(&channel) => failure,
        () = options.cancelled.cancelled() => Failure::new(FailureClass::Interrupted, "the transfer was given up").consequence(),
        () = options.receiver_ended.cancelled() => {
            Failure::new(FailureClass::Protocol, "the receiver ended before the stream did").consequence()
        }
    };
    sending.process.kill();
    channel.close(ended_by_other.clone());
    let _ = threads.await;
    let _ = sending.process.wait().await;
    Err(ended_by_other)
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

/// Reads and judges. On success the stream was whole.
fn read(
    mut stream: Box<dyn Read + Send>,
    mut tap: Tap,
    pool: &Pool,
    chunks: &mpsc::SyncSender<Chunk>,
    waiting: &AtomicUsize,
    counters: &Counters,
) -> Result<(), Stop> {
    let times = counters.times();
    loop {
        let mut buffer = pool.take();
        let mut filled = 0;
        let mut at_end = false;
        while filled < buffer.len() && !at_end {
            match times.time(Stage::Read, || stream.read(&mut buffer[filled..])) {
                Ok(0) => at_end = true,
                Ok(n) => filled += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    let text = format!("reading from zfs send: {e}");
                    return Err(Stop::Failed(Failure::new(FailureClass::Zfs, text)));
                }
            }
        }
        if filled > 0 {
            let progress = times
                .time(Stage::Judge, || tap.feed(&buffer[..filled]))
                .map_err(|fault| Stop::Failed(bad_stream(&fault)))?;
            let incompressible = progress.incompressible as f32 / filled as f32;
            waiting.fetch_add(1, Ordering::Relaxed);
            let chunk = Chunk { bytes: pool.lend(buffer, filled), incompressible };
            chunks.send(chunk).map_err(|_| Stop::PackerGone)?;
        }
        if at_end {
            return match tap.finish() {
                Ending::Complete => Ok(()),
                Ending::SavedWithoutEnd => Err(Stop::Failed(truncated("the stream from zfs send has no END record"))),
                Ending::Damaged(fault) => Err(Stop::Failed(truncated(&format!("from zfs send: {fault}")))),
            };
        }
    }
}

fn bad_stream(fault: &crate::stream::parser::StreamFault) -> Failure {
    Failure::new(FailureClass::BadStream, format!("the stream from zfs send cannot be trusted: {fault}"))
        .hint("nothing of it was taken as complete; check memory and disks of this host if it happens again")
}

fn truncated(text: &str) -> Failure {
    // What broke it off has the cause: the exit status of zfs send.
    Failure::new(FailureClass::BadStream, text).consequence()
}

/// Packs chunks and hands them to the channel; the digest of all, at the end.
fn pack(
    chunks: &mpsc::Receiver<Chunk>,
    channel: &Channel,
    handle: &Handle,
    counters: &Counters,
    waiting: &AtomicUsize,
    mode: Compression,
    chunk_bytes: usize,
) -> Result<StreamDigest, Failure> {
    let mut packer =
        Packer::new(mode, chunk_bytes).map_err(|e| Failure::new(FailureClass::Internal, format!("zstd: {e}")))?;
    let mut digest = StreamDigest::default();
    let times = counters.times();
    let (began, mut link) = (Instant::now(), LinkRate::default());
    while let Ok(chunk) = times.time(Stage::Input, || chunks.recv()) {
        let behind = waiting.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        let (backlog, carried) = channel.backlog();
        let now = Situation {
            incompressible: chunk.incompressible,
            backlog,
            waiting: behind as f32 / CHUNKS_BETWEEN_THREADS as f32,
            link_bytes_per_s: link.update(began.elapsed(), carried, backlog),
        };
        let raw_len = chunk.bytes.len();
        let frame = times.time(Stage::Pack, || packer.pack(chunk.bytes, now));
        digest.add(frame.header.check, raw_len);
        let wire_len = frame.payload.len();
        times.time(Stage::Credit, || handle.block_on(channel.send(frame)))?;
        counters.add(raw_len, wire_len);
    }
    Ok(digest)
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
    channel.send_message(&end, Use::Request).await?;
    let all_sent = Instant::now();
    tokio::select! {
        delivered = channel.delivered() => delivered?,
        failure = receivers_word(channel) => return Err(failure),
        () = options.receiver_ended.cancelled() => {}
        () = options.cancelled.cancelled() => {
            return Err(Failure::new(FailureClass::Interrupted, "the transfer was given up").consequence());
        }
    }
    counters.times().add(Stage::Credit, all_sent.elapsed());
    Ok(Transferred { raw_bytes: digest.raw_bytes, wire_bytes: counters.wire_bytes(), warnings: process.warnings() })
}

/// Ends with a failure that the receiver must learn, so that it does not wait.
async fn fail(channel: &Channel, failure: Failure) -> Result<Transferred, Failure> {
    tell(channel, &failure).await;
    Err(failure)
}
