//! One connection of a channel: a reader and a writer that end when either does.
//!
//! A stalled receiver is not a lost link: this side keeps reading whatever the pipe behind it does (the window bounds
//! what can come), and keeps answering pings. Only silence ends a connection; or that there was no memory for more for as long,
//! where many channels of one peer are stalled at once (budget.rs).

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{Channel, Next, rate::Charge};
use crate::{
    limits::{HEARTBEAT, MAX_CHUNK},
    port::link::Connection,
    types::{Failure, FailureClass},
    wire::{
        frame::{Ack, Frame, FrameKind, HEADER_LEN, Header},
        outbox::ConnectionId,
    },
};

/// Bytes of a frame's first write, header included: one full TLS record.
const FIRST_WRITE: usize = 16 << 10;

/// Carries frames of `channel` over `connection` until either is at its end. `their_next` is the lowest frame that the
/// other side lacks. The channel is closed only if the other side breaks the protocol.
///
/// # Errors
/// Why the connection is no longer of use. A closed channel is not an error.
pub async fn carry(
    channel: &Channel,
    connection: Box<dyn Connection>,
    stripe: u16,
    their_next: u64,
) -> Result<(), Failure> {
    let id = channel.attach(stripe, their_next).inspect_err(|failure| channel.close(failure.clone()))?;
    // Pings carry the time since here, not a wall clock.
    let born = Instant::now();
    let (reader, writer) = tokio::io::split(connection);
    let (pongs_in, pongs_out) = mpsc::channel(4);
    let result = tokio::select! {
        biased;
        end = read(channel, born, reader, pongs_in) => end,
        end = write(channel, id, Writer::new(writer, channel.idle_timeout()), born, pongs_out) => end,
    };
    channel.detach(id);
    if let Err(failure) = &result
        && failure.class == FailureClass::Protocol
    {
        channel.close(failure.clone());
    }
    result
}

fn lost(what: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Unreachable, format!("the connection was lost: {what}")).transient()
}

fn protocol(what: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Protocol, format!("the other side broke the protocol: {what}"))
}

/// Reads exactly `buffer`; only silence for `idle` is too slow, however little comes at a time.
async fn read_full(
    reader: &mut (impl AsyncRead + Unpin),
    mut buffer: &mut [u8],
    idle: Duration,
) -> Result<(), Failure> {
    while !buffer.is_empty() {
        match timeout(idle, reader.read(buffer)).await {
            Err(_) => return Err(lost(format_args!("nothing was heard for {} s", idle.as_secs()))),
            Ok(Err(e)) => return Err(lost(e)),
            Ok(Ok(0)) => return Err(lost("the other side closed it")),
            Ok(Ok(n)) => buffer = &mut buffer[n..],
        }
    }
    Ok(())
}

/// Reads a payload. `len` is bounded by MAX_CHUNK, which decoding the header has checked.
async fn read_payload(channel: &Channel, reader: &mut (impl AsyncRead + Unpin), len: usize) -> Result<Bytes, Failure> {
    // What is used again is neither cleared nor mapped again. A small payload in a large buffer would take more memory
    // than the window accounts for.
    if len >= MAX_CHUNK / 4 * 3 {
        let mut buffer = channel.pool().take();
        read_full(reader, &mut buffer[..len], channel.idle_timeout()).await?;
        return Ok(channel.pool().lend(buffer, len));
    }
    let mut payload = BytesMut::zeroed(len);
    read_full(reader, &mut payload, channel.idle_timeout()).await?;
    Ok(payload.freeze())
}

async fn read(
    channel: &Channel,
    born: Instant,
    mut reader: impl AsyncRead + Unpin,
    pongs: mpsc::Sender<Bytes>,
) -> Result<(), Failure> {
    let mut head = [0; HEADER_LEN];
    loop {
        read_full(&mut reader, &mut head, channel.idle_timeout()).await?;
        let header = Header::decode(&head).map_err(protocol)?;
        let payload = read_payload(channel, &mut reader, header.payload_len as usize).await?;
        match header.kind {
            FrameKind::Data | FrameKind::Message => channel.deliver(Frame { header, payload }).await?,
            FrameKind::Ack => channel.acknowledged(Ack::from_payload(&payload).map_err(protocol)?)?,
            // A full queue means that pongs are on their way already.
            FrameKind::Ping => drop(pongs.try_send(payload)),
            FrameKind::Pong => {
                let sent_us = <[u8; 8]>::try_from(&payload[..])
                    .map(u64::from_le_bytes)
                    .map_err(|_| protocol("a pong has not 8 bytes"))?;
                channel.measured_rtt(born.elapsed().saturating_sub(Duration::from_micros(sent_us)));
            }
        }
    }
}

async fn write(
    channel: &Channel,
    id: ConnectionId,
    mut writer: Writer<impl AsyncWrite + Unpin>,
    born: Instant,
    mut pongs: mpsc::Receiver<Bytes>,
) -> Result<(), Failure> {
    // The first ping goes out at once, so that the round-trip time is known early.
    let mut ping_at = born;
    loop {
        let wake = channel.something_to_send();
        tokio::pin!(wake);
        wake.as_mut().enable();
        match channel.next(id) {
            Next::Closed => {
                // Best effort: the other side learns the reason elsewhere.
                let _ = timeout(Duration::from_secs(1), writer.out.shutdown()).await;
                return Ok(());
            }
            Next::Ack(ack) => writer.put(&ack.to_frame()).await?,
            Next::Frame(frame, charge) => {
                // A pause imposed by --bwlimit must not look like silence; and each ping is a look at whether the limit has changed.
                while let Some(left) = charge.as_ref().map(Charge::left).filter(|left| !left.is_zero()) {
                    sleep_until((Instant::now() + left).min(ping_at)).await;
                    heartbeat(&mut writer, &mut ping_at, born, &mut pongs).await?;
                }
                let started = Instant::now();
                writer.put(&frame).await?;
                channel.has_carried(started.elapsed());
            }
            Next::Wait => {
                let started = Instant::now();
                writer.flush().await?;
                channel.has_carried(started.elapsed());
                tokio::select! {
                    biased;
                    () = wake => {}
                    () = sleep_until(ping_at) => {}
                    Some(payload) = pongs.recv() => writer.put(&Frame::plain(FrameKind::Pong, 0, payload)).await?,
                }
            }
        }
        heartbeat(&mut writer, &mut ping_at, born, &mut pongs).await?;
    }
}

/// Sends what pings and pongs are due.
async fn heartbeat(
    writer: &mut Writer<impl AsyncWrite + Unpin>,
    ping_at: &mut Instant,
    born: Instant,
    pongs: &mut mpsc::Receiver<Bytes>,
) -> Result<(), Failure> {
    let mut any = false;
    while let Ok(payload) = pongs.try_recv() {
        writer.put(&Frame::plain(FrameKind::Pong, 0, payload)).await?;
        any = true;
    }
    if Instant::now() >= *ping_at {
        *ping_at = Instant::now() + HEARTBEAT;
        let sent_us = born.elapsed().as_micros() as u64;
        writer.put(&Frame::plain(FrameKind::Ping, 0, Bytes::copy_from_slice(&sent_us.to_le_bytes()))).await?;
        any = true;
    }
    if any { writer.flush().await } else { Ok(()) }
}

/// The sending direction of a connection; each step of it must get on within the idle timeout.
struct Writer<W> {
    out: W,
    idle: Duration,
    /// A frame's first write, put together.
    first: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    fn new(out: W, idle: Duration) -> Writer<W> {
        Writer { out, idle, first: Vec::with_capacity(FIRST_WRITE) }
    }

    async fn put(&mut self, frame: &Frame) -> Result<(), Failure> {
        // The header joins the first bytes of the payload: alone it would cost a TLS record and a system call.
        let joined = frame.payload.len().min(FIRST_WRITE - HEADER_LEN);
        self.first.clear();
        self.first.extend_from_slice(&frame.header.encode());
        self.first.extend_from_slice(&frame.payload[..joined]);
        put_bytes(&mut self.out, self.idle, &self.first).await?;
        put_bytes(&mut self.out, self.idle, &frame.payload[joined..]).await
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        in_time(self.idle, self.out.flush()).await
    }
}

async fn put_bytes(out: &mut (impl AsyncWrite + Unpin), idle: Duration, mut rest: &[u8]) -> Result<(), Failure> {
    while !rest.is_empty() {
        let n = in_time(idle, out.write(rest)).await?;
        if n == 0 {
            return Err(lost("it takes no more bytes"));
        }
        rest = &rest[n..];
    }
    Ok(())
}

async fn in_time<T>(idle: Duration, io: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    match timeout(idle, io).await {
        Err(_) => Err(lost(format_args!("nothing could be sent for {} s", idle.as_secs()))),
        Ok(result) => result.map_err(lost),
    }
}
