//! The receiving half: takes frames from the channel, proves and judges them, and writes to `zfs receive`.

use std::{
    io::{ErrorKind, Write},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, NOT_TAKEN, StreamDigest, tell,
    times::{Stage, Times},
};
use crate::{
    channel::Channel,
    port::zfs::Receiving,
    stream::{Tap, record::RECORD_BYTES},
    types::{Failure, FailureClass},
    wire::{
        codec::{self, Use},
        frame::{Frame, FrameKind, Opener},
        message::{StreamMessage, Transferred},
    },
};

/// What the writing thread is given.
enum Item {
    Chunk(Frame),
    End { raw_bytes: u64, digest: u128 },
}

/// How long `zfs receive` may take to save its state after the stream broke off, before it is killed; shorter than what a
/// daemon that is being stopped allows for it.
const SAVE_TIME: Duration = Duration::from_secs(20);

/// Receives one stream to its end, `zfs receive`'s own end included.
///
/// # Errors
/// The first cause: `zfs receive` failed, the stream is damaged or not what was planned, or (as a consequence) the
/// sender failed. What `zfs receive -s` has taken by then is kept.
///
/// With `in_one_thread` a task writes instead of a thread of its own: for tests, whose order of events then is the same
/// each time. The stream must never block.
pub async fn receive_stream(
    receiving: Receiving,
    tap: Tap,
    channel: Channel,
    counters: Arc<Counters>,
    cancelled: CancellationToken,
    in_one_thread: bool,
) -> Result<Transferred, Failure> {
    let Receiving { stream, mut process } = receiving;
    // One in hand, one waiting: what else has come waits in the channel's window.
    let (items_in, items_out) = mpsc::channel(1);
    let mut writer = {
        let (channel, counters) = (channel.clone(), Arc::clone(&counters));
        let (sink, digest, opener) = (Sink::new(stream, tap), StreamDigest::default(), Opener::default());
        let writing = Writing { sink, digest, opener, channel, counters };
        match in_one_thread {
            true => tokio::spawn(write_here(writing, items_out)),
            false => spawn_blocking(move || write(writing, items_out)),
        }
    };
    let feeding = tokio::select! {
        biased;
        fed = feed(&channel, &items_in) => fed,
        () = cancelled.cancelled() => {
            Err(Failure::new(FailureClass::Interrupted, "the transfer was given up").consequence())
        }
    };
    drop(items_in);
    // While the feed went well or the writer itself stopped, there is no hurry: zfs receive may be slow. Otherwise the
    // writer may hang in a write that nobody takes.
    let written = match &feeding {
        Ok(()) => tokio::select! {
            biased;
            written = &mut writer => written,
            () = cancelled.cancelled() => { process.kill(); writer.await }
        },
        Err(_) => match timeout(SAVE_TIME, &mut writer).await {
            Ok(written) => written,
            Err(_) => {
                process.kill();
                writer.await
            }
        },
    };
    let written = written.unwrap_or_else(|e| {
        Err(Failure::new(FailureClass::Internal, format!("a thread of the transfer ended unexpectedly: {e}")))
    });
    let exit = match (&feeding, &written) {
        // The stream is whole and its pipe closed: zfs receive commits in its own time.
        (Ok(()), Ok(_)) => process.wait().await,
        _ => match timeout(SAVE_TIME, process.wait()).await {
            Ok(exit) => exit,
            Err(_) => {
                process.kill();
                process.wait().await
            }
        },
    }
    .map_err(Failure::from)
    // Of a stream that was cut off before it, zfs receive may say that it is invalid, and zfs-fuse does.
    .map_err(|e| if feeding.is_err() && e.class == FailureClass::BadStream { e.consequence() } else { e });
    let failure = match (feeding, written, exit) {
        (Ok(()), Ok(raw_bytes), Ok(())) => {
            return Ok(Transferred { raw_bytes, wire_bytes: counters.wire_bytes(), warnings: process.warnings() });
        }
        (Ok(()), Ok(_), Err(exit)) => exit,
        // A write that failed is only a consequence of what zfs receive says, and a stream that broke off explains
        // what zfs receive says.
        (_, Err(written), exit) if !written.consequence => match exit {
            Err(exit) => written.first_cause(exit),
            Ok(()) => written,
        },
        (_, Err(_), Err(exit)) if !exit.consequence => exit,
        (Err(fed), _, Err(exit)) => fed.first_cause(exit),
        // Both only say that the pipe broke; zfs receive says it in more words.
        (Ok(()), Err(_), Err(exit)) => Failure { consequence: false, ..exit },
        (Err(fed), _, Ok(())) => fed,
        (Ok(()), Err(written), _) => Failure { consequence: false, ..written },
    };
    if !failure.consequence {
        tell(&channel, &failure).await;
    }
    Err(failure)
}

/// Moves frames from the channel to the writer, until the stream's end is there or the writer is gone.
async fn feed(channel: &Channel, items: &mpsc::Sender<Item>) -> Result<(), Failure> {
    loop {
        let frame = tokio::select! {
            biased;
            frame = channel.receive() => frame?,
            () = items.closed() => return Ok(()),
        };
        let item = match frame.header.kind {
            FrameKind::Data => Item::Chunk(frame),
            _ => match message(channel, &frame)? {
                StreamMessage::End { raw_bytes, digest } => {
                    let _ = items.send(Item::End { raw_bytes, digest }).await;
                    return Ok(());
                }
                StreamMessage::Failed(failure) => return Err(failure.printable().consequence()),
            },
        };
        if items.send(item).await.is_err() {
            // The writer has ended, and has the cause.
            return Ok(());
        }
    }
}

fn message(channel: &Channel, frame: &Frame) -> Result<StreamMessage, Failure> {
    let protocol = |what: String| Failure::new(FailureClass::Protocol, what);
    let bytes = frame.open().map_err(|e| protocol(e.to_string()))?;
    channel.consumed(frame.cost());
    codec::decode(&bytes, Use::Request).map_err(|e| protocol(e.to_string()))
}

/// What writes, item by item.
struct Writing {
    sink: Sink,
    digest: StreamDigest,
    opener: Opener,
    channel: Channel,
    counters: Arc<Counters>,
}

impl Writing {
    /// Writes one item. Gives the stream's length once all of it, END included, is written.
    fn take(&mut self, item: Item) -> Result<Option<u64>, Failure> {
        let times = self.counters.times();
        match item {
            Item::Chunk(frame) => {
                let damaged = |e| Failure::new(FailureClass::BadStream, e);
                let raw = times.time(Stage::Unpack, || self.opener.open(&frame)).map_err(damaged)?;
                self.digest.add(frame.header.check, raw.len());
                self.counters.add(raw.len(), frame.payload.len());
                self.sink.write(raw, times)?;
                self.channel.consumed(frame.cost());
                Ok(None)
            }
            Item::End { raw_bytes, digest: announced } => {
                let digest = &self.digest;
                if raw_bytes != digest.raw_bytes || announced != digest.value() {
                    let text = format!(
                        "the stream arrived as {} bytes with digest {:032x}, but {raw_bytes} bytes with digest {announced:032x} were sent",
                        digest.raw_bytes,
                        digest.value()
                    );
                    return Err(Failure::new(FailureClass::BadStream, text));
                }
                self.sink.finish()?;
                Ok(Some(raw_bytes))
            }
        }
    }
}

fn broke_off() -> Failure {
    Failure::new(FailureClass::BadStream, "the stream broke off").consequence()
}

/// The writing thread.
fn write(mut writing: Writing, mut items: mpsc::Receiver<Item>) -> Result<u64, Failure> {
    let counters = Arc::clone(&writing.counters);
    while let Some(item) = counters.times().time(Stage::Input, || items.blocking_recv()) {
        if let Some(raw_bytes) = writing.take(item)? {
            return Ok(raw_bytes);
        }
    }
    Err(broke_off())
}

/// The same as a task.
async fn write_here(mut writing: Writing, mut items: mpsc::Receiver<Item>) -> Result<u64, Failure> {
    while let Some(item) = items.recv().await {
        if let Some(raw_bytes) = writing.take(item)? {
            return Ok(raw_bytes);
        }
    }
    Err(broke_off())
}

/// Writes what the tap has released, always less the last record, which waits for the end of everything.
struct Sink {
    stream: Box<dyn Write + Send>,
    tap: Tap,
    /// What has come and was not written: at most a record, and what the tap has not judged.
    tail: Vec<u8>,
    written: u64,
}

impl Sink {
    fn new(stream: Box<dyn Write + Send>, tap: Tap) -> Sink {
        Sink { stream, tap, tail: Vec::new(), written: 0 }
    }

    fn write(&mut self, raw: &[u8], times: &Times) -> Result<(), Failure> {
        let fault = times.time(Stage::Judge, || self.tap.feed(raw)).err();
        // Even of a stream that turns out bad, what was judged good is kept, so that a resume starts there.
        let limit = self.tap.released().saturating_sub(RECORD_BYTES as u64);
        let mut ready = limit.saturating_sub(self.written) as usize;
        let from_tail = ready.min(self.tail.len());
        if from_tail > 0 {
            times.time(Stage::Write, || self.stream.write_all(&self.tail[..from_tail])).map_err(broken)?;
            self.tail.drain(..from_tail);
            self.written += from_tail as u64;
            ready -= from_tail;
        }
        let from_raw = ready.min(raw.len());
        if from_raw > 0 {
            times.time(Stage::Write, || self.stream.write_all(&raw[..from_raw])).map_err(broken)?;
            self.written += from_raw as u64;
        }
        if let Some(fault) = fault {
            let text = format!("the stream cannot be trusted: {fault}");
            let hint = match fault.kind.is_damage() {
                true => {
                    "nothing of it was taken as complete; if it happens again, check memory and disks of the sending host"
                }
                false => NOT_TAKEN,
            };
            return Err(Failure::new(FailureClass::BadStream, text).hint(hint));
        }
        self.tail.extend_from_slice(&raw[from_raw..]);
        Ok(())
    }

    /// The sender says that all is well: the last record may go, if the tap agrees.
    fn finish(&mut self) -> Result<(), Failure> {
        if !self.tap.is_complete() {
            let text = format!("the stream is not whole: {:?}", self.tap.finish());
            return Err(Failure::new(FailureClass::BadStream, text));
        }
        self.stream.write_all(&self.tail).and_then(|()| self.stream.flush()).map_err(broken)
    }
}

fn broken(e: std::io::Error) -> Failure {
    let failure = Failure::new(FailureClass::Zfs, format!("writing to zfs receive: {e}"));
    // zfs receive ended early and has the cause.
    if e.kind() == ErrorKind::BrokenPipe { failure.consequence() } else { failure }
}
