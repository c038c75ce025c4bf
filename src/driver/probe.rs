//! A probe: a stream to the peer that nobody keeps, and what it tells about the way there.

use std::{io::Read, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::{RunContext, side::unexpected, step::OTHER_HALF_NOTICES, stopped};
use crate::{
    pipe::times::{HeldBack, SenderTimes, Way, held_back},
    session::{
        client::Client,
        engine::EngineSession,
        probe::{ProbeSend, ProbeSource},
    },
    types::{Failure, FailureClass},
    wire::{
        hello::features,
        message::{Compression, ProbedStream, ReceiverTimes, Reply, Request, Transferred},
    },
};

/// What to send, and how.
pub struct ProbeOptions {
    /// The stream, and what it says of itself.
    pub stream: (Box<dyn Read + Send>, ProbedStream),
    /// What it comes from, as a person would name it.
    pub name: String,
    /// Its size, where that is known before.
    pub size_bytes: Option<u64>,
    /// How to compress.
    pub compression: Compression,
    /// Wire bytes per second.
    pub bwlimit_bytes_per_s: Option<u64>,
}

/// What a probe found, for people and as JSON (docs/json.md).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeReport {
    /// `done`; a probe that fails has no report.
    pub result: &'static str,
    /// The exit code of the command.
    pub exit_code: u8,
    /// The peer, as the operator wrote it.
    pub peer: String,
    /// The peer's program and version.
    pub agent: String,
    /// Connections that were used.
    pub streams: u16,
    /// Bytes of the stream.
    pub raw_bytes: u64,
    /// Payload bytes on the wire.
    pub wire_bytes: u64,
    /// From the first connection of the transfer to the peer's word that it has everything.
    pub seconds: f64,
    /// Bytes of the stream in a second.
    pub raw_bytes_per_s: u64,
    /// Payload bytes on the wire in a second.
    pub wire_bytes_per_s: u64,
    /// The round-trip time before the transfer, in milliseconds; `None` if no answer came in time.
    pub rtt_ms: Option<f64>,
    /// The last one during the transfer.
    pub rtt_loaded_ms: Option<f64>,
    /// What held it back.
    pub held_back_by: HeldBack,
    /// Where the sender's time went.
    pub sender: SenderTimes,
    /// Where the receiver's time went.
    pub receiver: ReceiverSeconds,
}

/// [`ReceiverTimes`] in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ReceiverSeconds {
    /// Waiting for frames.
    pub input_s: f64,
    /// Decompressing and hashing.
    pub unpacking_s: f64,
    /// Parsing and verifying.
    pub judging_s: f64,
    /// Writing to where it is thrown away.
    pub writing_s: f64,
}

impl From<ReceiverTimes> for ReceiverSeconds {
    fn from(times: ReceiverTimes) -> Self {
        let s = |us: u64| us as f64 / 1e6;
        Self {
            input_s: s(times.input_us),
            unpacking_s: s(times.unpacking_us),
            judging_s: s(times.judging_us),
            writing_s: s(times.writing_us),
        }
    }
}

/// How long the first round-trip time is waited for.
const RTT_WITHIN: Duration = Duration::from_secs(3);

/// Sends a stream to the peer, which throws it away.
///
/// # Errors
/// When the peer cannot be reached or has no probes, or the stream did not get there whole.
pub async fn probe(context: &RunContext, options: ProbeOptions) -> Result<ProbeReport, Failure> {
    let client = tokio::select! {
        client = Client::connect(Arc::clone(&context.link), &context.client) => client?,
        () = context.stop.cancelled() => return Err(given_up()),
    };
    let local = Arc::new(EngineSession::new(Arc::clone(&context.engine), "a probe".into(), Arc::clone(&client) as _));
    let result = tokio::select! {
        result = with_session(context, options, &client, &local) => result,
        () = context.stop.cancelled() => Err(given_up()),
    };
    local.shut_down().await;
    client.bye().await;
    result
}

fn given_up() -> Failure {
    Failure { hint: None, ..stopped() }
}

async fn with_session(
    context: &RunContext,
    options: ProbeOptions,
    client: &Arc<Client>,
    local: &Arc<EngineSession>,
) -> Result<ProbeReport, Failure> {
    if !client.has(features::PROBE) {
        let text = format!("{} ({}) has no probes", context.link, client.agent());
        return Err(Failure::new(FailureClass::Protocol, text).hint("install a newer zmigrated there"));
    }
    let rtt = first_rtt(client).await;
    let channel = client.next_channel();
    let ProbeOptions { stream: (bytes, stream), name, size_bytes, compression, bwlimit_bytes_per_s } = options;
    match client.call(Request::OpenProbe { channel, stream }).await? {
        Reply::Done => {}
        _ => return Err(unexpected()),
    }
    let source = ProbeSource { bytes, name, stream, compression, bwlimit_bytes_per_s };
    let started = Instant::now();
    let send = ProbeSend::start(local, channel, source)?;
    context.board.planned(1, size_bytes);
    context.board.begin(channel, format!("probe → {}", context.link), size_bytes, local);
    client.attach(channel);
    let word = async {
        match client.call(Request::FinishProbe { channel }).await? {
            Reply::Probed { transferred, times } => Ok((transferred, times)),
            _ => Err(unexpected()),
        }
    };
    tokio::pin!(word);
    let early = tokio::select! {
        received = &mut word => Some(received),
        () = local.failed(channel) => timeout(OTHER_HALF_NOTICES, &mut word).await.ok(),
    };
    let received = match early {
        Some(received) => received,
        None => {
            let _ = client.call(Request::Cancel { channel }).await;
            word.await
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    let rtt_loaded = client.rtt();
    let (streams, window_bytes) = (send.connections(), send.window_bytes());
    let sent = send.finish().await;
    client.close_channel(channel);
    context.board.end(channel, received.as_ref().ok().map(|(t, _)| (t.raw_bytes, t.wire_bytes)));
    let ((transferred, receiver), sender) = match (received, sent) {
        (Ok(received), Ok((_, sender))) => (received, sender),
        (Err(received), Err(sent)) => return Err(received.first_cause(sent)),
        (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => return Err(failure),
    };
    let wire_bytes = transferred.wire_bytes as f64;
    let way = Way {
        streams,
        limit_s: bwlimit_bytes_per_s.map(|rate| wire_bytes / rate.max(1) as f64),
        windows_s: rtt.map(|rtt| wire_bytes / window_bytes as f64 * rtt.as_secs_f64()),
    };
    let verdict = held_back(&sender, &receiver, &way);
    let head = (context.link.to_string(), client.agent().to_owned());
    Ok(report(head, streams, &transferred, seconds, (rtt, rtt_loaded), verdict, sender, receiver))
}

#[allow(clippy::too_many_arguments, reason = "one for each part of the report")]
fn report(
    (peer, agent): (String, String),
    streams: u16,
    transferred: &Transferred,
    seconds: f64,
    (rtt, rtt_loaded): (Option<Duration>, Option<Duration>),
    held_back_by: HeldBack,
    sender: SenderTimes,
    receiver: ReceiverTimes,
) -> ProbeReport {
    let ms = |rtt: Option<Duration>| rtt.map(|rtt| rtt.as_micros() as f64 / 1000.0);
    let rate = |bytes: u64| (bytes as f64 / seconds.max(1e-6)) as u64;
    ProbeReport {
        result: "done",
        exit_code: 0,
        peer,
        agent,
        streams,
        raw_bytes: transferred.raw_bytes,
        wire_bytes: transferred.wire_bytes,
        seconds,
        raw_bytes_per_s: rate(transferred.raw_bytes),
        wire_bytes_per_s: rate(transferred.wire_bytes),
        rtt_ms: ms(rtt),
        rtt_loaded_ms: ms(rtt_loaded),
        held_back_by,
        sender,
        receiver: receiver.into(),
    }
}

async fn first_rtt(client: &Client) -> Option<Duration> {
    let until = Instant::now() + RTT_WITHIN;
    while client.rtt().is_none() && Instant::now() < until {
        sleep(Duration::from_millis(5)).await;
    }
    client.rtt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_documented() {
        let sender = SenderTimes {
            reading_s: 0.25,
            judging_s: 0.5,
            input_s: 0.125,
            packing_s: 0.5,
            credit_s: 1.25,
            carrying_s: 1.5,
        };
        let receiver =
            ReceiverTimes { input_us: 1_250_000, unpacking_us: 250_000, judging_us: 500_000, writing_us: 1000 };
        let transferred = Transferred { raw_bytes: 1000, wire_bytes: 500, warnings: vec![] };
        let rtt = (Some(Duration::from_micros(250)), None);
        let head = ("west".into(), "zmigrate 0.1.0".into());
        let report = report(head, 1, &transferred, 2.0, rtt, HeldBack::Network, sender, receiver);
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
        {
          "result": "done",
          "exit_code": 0,
          "peer": "west",
          "agent": "zmigrate 0.1.0",
          "streams": 1,
          "raw_bytes": 1000,
          "wire_bytes": 500,
          "seconds": 2.0,
          "raw_bytes_per_s": 500,
          "wire_bytes_per_s": 250,
          "rtt_ms": 0.25,
          "rtt_loaded_ms": null,
          "held_back_by": "network",
          "sender": {
            "reading_s": 0.25,
            "judging_s": 0.5,
            "input_s": 0.125,
            "packing_s": 0.5,
            "credit_s": 1.25,
            "carrying_s": 1.5
          },
          "receiver": {
            "input_s": 1.25,
            "unpacking_s": 0.25,
            "judging_s": 0.5,
            "writing_s": 0.001
          }
        }
        "#);
    }
}
