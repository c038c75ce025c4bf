//! The two halves of a probe: a transfer like any other, but for what stands at its ends. Neither touches ZFS.

use std::{io::Read, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    engine::EngineSession,
    transfer::{Transfer, chunk_size},
};
use crate::{
    channel::{Channel, RateLimit},
    limits::MAX_CHUNK,
    pipe::{
        Counters,
        probe::{discarding, sending},
        sink::receive_stream,
        source::{Origin, SourceOptions, send_stream},
        times::SenderTimes,
    },
    stream::{
        Tap,
        gate::{Gate, GatePolicy},
    },
    types::Failure,
    wire::message::{Compression, ProbedStream, Transferred},
};

/// A stream that is sent to be thrown away.
pub struct ProbeSource {
    /// Its bytes.
    pub bytes: Box<dyn Read + Send>,
    /// What they come from, as a person would name it.
    pub name: String,
    /// What the gates at both ends let through.
    pub stream: ProbedStream,
    /// How to compress.
    pub compression: Compression,
    /// Wire bytes per second.
    pub bwlimit_bytes_per_s: Option<u64>,
}

fn tap(stream: ProbedStream) -> Tap {
    let step = GatePolicy::step(stream.from_guid, stream.to_guid);
    Tap::new(Gate::new(GatePolicy { raw: stream.raw, resuming: stream.resumes, ..step }))
}

/// Starts the half that takes the stream, judges it and throws it away.
pub(super) fn open_receive(session: &EngineSession, channel: u32, stream: ProbedStream) -> Result<Transfer, Failure> {
    let (permit, link) = session.place(channel)?;
    let counters = Arc::new(Counters::default());
    let cancelled = CancellationToken::new();
    let in_one_thread = session.engine.in_one_thread;
    let (counted, stopped) = (Arc::clone(&counters), cancelled.clone());
    let work = receive_stream(discarding(), tap(stream), link.clone(), counted, stopped, in_one_thread);
    Ok(Transfer::start(link, permit, counters, (cancelled, CancellationToken::new()), work))
}

/// The sending half of a probe, which runs by itself. Dropping it does not end it.
pub struct ProbeSend {
    session: Arc<EngineSession>,
    channel: u32,
    link: Channel,
}

impl ProbeSend {
    /// Connections that it has been spread over.
    pub fn connections(&self) -> u16 {
        self.link.most_connections()
    }

    /// What may be on its way at a time: what the peer is ready to hold, less the frame that does not fit any more.
    pub fn window_bytes(&self) -> u64 {
        self.link.send_window().saturating_sub(MAX_CHUNK as u64).max(MAX_CHUNK as u64)
    }

    /// Starts it on a channel that the peer has opened. Its progress is that of the session's channel of this number.
    ///
    /// # Errors
    /// When too many transfers are in work, or the session is ending.
    pub fn start(session: &Arc<EngineSession>, channel: u32, source: ProbeSource) -> Result<ProbeSend, Failure> {
        let (permit, link) = session.place(channel)?;
        if let Some(rate) = source.bwlimit_bytes_per_s {
            link.limit_rate(RateLimit::new(Some(rate)));
        }
        let counters = Arc::new(Counters::default());
        let (cancelled, receiver_ended) = (CancellationToken::new(), CancellationToken::new());
        let options = SourceOptions {
            origin: Origin::Given(source.name),
            compression: source.compression,
            chunk_bytes: chunk_size(source.bwlimit_bytes_per_s),
            cancelled: cancelled.clone(),
            receiver_ended: receiver_ended.clone(),
            in_one_thread: session.engine.in_one_thread,
        };
        let tap = tap(source.stream);
        let work = send_stream(sending(source.bytes), tap, link.clone(), Arc::clone(&counters), options);
        let transfer = Transfer::start(link.clone(), permit, counters, (cancelled, receiver_ended), work);
        session.keep(channel, transfer)?;
        Ok(ProbeSend { session: Arc::clone(session), channel, link })
    }

    /// Ends it after the receiver has ended, and says how it went and where its time was spent.
    ///
    /// # Errors
    /// Why the stream was not sent to its end.
    pub async fn finish(self) -> Result<(Transferred, SenderTimes), Failure> {
        let transfer = self.session.transfer(self.channel)?;
        transfer.receiver_has_ended();
        let transferred = transfer.outcome().await;
        self.session.forget(self.channel);
        Ok((transferred?, transfer.counters().times().sender(self.link.carrying())))
    }
}
