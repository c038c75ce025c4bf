//! Keeps one connection of a channel alive on the initiator's side: when it is lost, dials again.

use std::{sync::Arc, thread, time::Duration};

use tokio::time::{Instant, sleep};

use super::handshake::{initiate, refused};
use crate::{
    channel::{Channel, carry},
    limits::{REDIAL_MAX, REDIAL_MIN, SECOND_STREAM_AFTER},
    port::link::{Connection, Link},
    types::{Failure, FailureClass, PeerName},
    wire::hello::{Hello, Role, SessionId},
};

/// What all connections of a session have in common.
#[derive(Clone)]
pub(super) struct Dialer {
    pub link: Arc<dyn Link>,
    pub session: SessionId,
    /// The identity that opened the session; another one is not taken for it.
    pub identity: PeerName,
    /// What to say of ourselves; its role is replaced.
    pub hello: Hello,
    /// How long a lost connection is dialled again.
    pub lost_after: Duration,
}

/// How often it is looked whether a transfer is large.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Gives a transfer that turns out to be large its second connection, where that has a processor of its own.
pub(super) async fn join_large(dialer: Dialer, channel: Channel, number: u32) {
    if thread::available_parallelism().is_ok_and(|processors| processors.get() < 2) {
        return;
    }
    while channel.bytes_through() < SECOND_STREAM_AFTER {
        tokio::select! {
            biased;
            _ = channel.until_closed() => return,
            () = sleep(LOOK_EVERY) => {}
        }
    }
    // Once: a way on which it is lost again and again would hold the other one up each time.
    if let Ok((connection, their_next)) = dialer.attach(&channel, number, 1).await
        && let Err(failure) = carry(&channel, connection, 1, their_next).await
        && channel.closed().is_none()
    {
        tracing::info!(peer = %dialer.link, channel = number, "the transfer goes on without its second connection: {failure}");
    }
}

/// Runs until the channel is closed, which the first of its connections does itself when the link is lost for good. The
/// others only help: one that the peer does not want is done without.
pub(super) async fn keep(
    dialer: Dialer,
    channel: Channel,
    number: u32,
    stripe: u16,
    mut first: Option<(Box<dyn Connection>, u64)>,
) {
    let mut pause = REDIAL_MIN;
    let mut lost_at = Instant::now();
    let mut reported = false;
    let mut through = channel.frames_through();
    while channel.closed().is_none() {
        let attached = match first.take() {
            Some(attached) => Ok(attached),
            None => tokio::select! {
                biased;
                attached = dialer.attach(&channel, number, stripe) => attached,
                _ = channel.until_closed() => return,
            },
        };
        let lost = match attached {
            Ok((connection, their_next)) => {
                if std::mem::take(&mut reported) {
                    let after_s = lost_at.elapsed().as_secs();
                    tracing::info!(peer = %dialer.link, channel = number, after_s, "connected again; the transfer goes on");
                }
                let (since, before) = (Instant::now(), channel.frames_through());
                let end = carry(&channel, connection, stripe, their_next).await;
                // A connection that carried nothing is no sign that the link is back.
                if channel.frames_through() != before || since.elapsed() > 2 * channel.idle_timeout() {
                    lost_at = Instant::now();
                    pause = REDIAL_MIN;
                }
                end.err()
            }
            Err(failure) if !failure.transient && stripe == 0 => return channel.close(failure),
            Err(failure) if !failure.transient => {
                // At the end of a transfer the other side may know a moment before we do that it is over.
                sleep(REDIAL_MIN).await;
                if channel.closed().is_none() {
                    tracing::info!(peer = %dialer.link, channel = number, "the transfer goes on without connection {}: {failure}", stripe + 1);
                }
                return;
            }
            Err(failure) => Some(failure),
        };
        // Another connection that carries, or lives, shows that the link is there: this one goes on without a word.
        let lives = channel.connected_since().is_some_and(|since| since.elapsed() > 2 * channel.idle_timeout());
        let now_through = channel.frames_through();
        if now_through != through || lives {
            (through, lost_at) = (now_through, Instant::now());
        }
        match &lost {
            Some(_) if lost_at.elapsed() >= dialer.lost_after && stripe > 0 => return,
            Some(failure) if lost_at.elapsed() >= dialer.lost_after => {
                let text =
                    format!("the link to {} was lost for {} s: {failure}", dialer.link, dialer.lost_after.as_secs());
                return channel.close(
                    Failure::new(FailureClass::Unreachable, text)
                        .hint("run the same command again when the peer can be reached; it goes on where it stopped"),
                );
            }
            _ => {}
        }
        tokio::select! {
            biased;
            () = sleep(pause) => pause = (pause * 2).min(REDIAL_MAX),
            _ = channel.until_closed() => return,
        }
        // Only now: at the end of a transfer the other side may hang up a moment before we know that it is over.
        match lost {
            Some(failure) if reported => tracing::debug!(peer = %dialer.link, channel = number, "{failure}"),
            Some(failure) => {
                tracing::warn!(peer = %dialer.link, channel = number, "{failure}; dialing again");
                reported = true;
            }
            None => {}
        }
    }
}

impl Dialer {
    async fn attach(&self, channel: &Channel, number: u32, stripe: u16) -> Result<(Box<dyn Connection>, u64), Failure> {
        let mut dialled = self.link.dial().await?;
        if dialled.identity != self.identity {
            let text =
                format!("{} answers as {} now; the session is with {}", self.link, dialled.identity, self.identity);
            return Err(Failure::new(FailureClass::NotGranted, text));
        }
        let role = Role::Attach { session: self.session, channel: number, stripe, next: channel.next_expected() };
        let hello = Hello { role, ..self.hello.clone() };
        match initiate(&mut dialled.connection, &hello).await? {
            Ok((_, welcome)) => Ok((dialled.connection, welcome.next)),
            Err(refusal) => Err(refused(&self.link.to_string(), refusal)),
        }
    }
}
