//! Messages over a channel, each in as many frames as it needs. One is handed over whole, or the channel ends: half of one would spoil
//! all that follow.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::Channel;
use crate::{
    limits::MAX_CHUNK,
    types::{Failure, FailureClass},
    wire::{
        codec::{self, Use},
        frame::{FLAG_MORE, Frame, FrameKind},
    },
};

/// Closes the channel if a message is given up between its frames.
struct WholeOrClosed<'a> {
    channel: &'a Channel,
    done: bool,
}

impl Drop for WholeOrClosed<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.channel.close(Failure::new(FailureClass::Interrupted, "a message was given up half-way"));
        }
    }
}

impl Channel {
    /// Sends a message, in as many frames as it needs.
    ///
    /// # Errors
    /// When it is too large for its kind, or the channel is closed.
    pub async fn send_message<T: Serialize>(&self, message: &T, r#use: Use) -> Result<(), Failure> {
        let bytes = codec::encode(message, r#use).map_err(|e| Failure::new(FailureClass::Protocol, e))?;
        let mut rest = Bytes::from(bytes);
        // The frames of two messages must not mix.
        let _one_at_a_time = self.inner.messages.lock().await;
        let mut whole = WholeOrClosed { channel: self, done: false };
        loop {
            let part = rest.split_to(rest.len().min(MAX_CHUNK));
            let flags = if rest.is_empty() { 0 } else { FLAG_MORE };
            self.send(Frame::plain(FrameKind::Message, flags, part)).await?;
            if rest.is_empty() {
                whole.done = true;
                return Ok(());
            }
        }
    }

    /// The next message; frames of a stream are an error here.
    ///
    /// # Errors
    /// When something else comes, it does not decode, it is too large, or the channel is closed.
    pub async fn receive_message<T: DeserializeOwned>(&self, r#use: Use) -> Result<T, Failure> {
        self.receive_sized(r#use).await.map(|(message, _)| message)
    }

    /// The same, with the bytes that it had.
    pub(crate) async fn receive_sized<T: DeserializeOwned>(&self, r#use: Use) -> Result<(T, usize), Failure> {
        let mut bytes = Vec::new();
        loop {
            let frame = self.receive().await?;
            let more = self.gather(&frame, &mut bytes, r#use)?;
            if !more {
                let message = codec::decode(&bytes, r#use).map_err(|e| Failure::new(FailureClass::Protocol, e))?;
                return Ok((message, bytes.len()));
            }
        }
    }

    /// Adds a message frame's payload to `bytes`, releases its cost, and says whether more frames follow.
    fn gather(&self, frame: &Frame, bytes: &mut Vec<u8>, r#use: Use) -> Result<bool, Failure> {
        let protocol = |what: String| Failure::new(FailureClass::Protocol, what);
        if frame.header.kind != FrameKind::Message {
            return Err(protocol("the peer sent data where a message belongs".into()));
        }
        bytes.extend_from_slice(&frame.open().map_err(|e| protocol(e.to_string()))?);
        self.consumed(frame.cost());
        if bytes.len() > r#use.limit() {
            return Err(protocol(format!("the peer sent a message over the limit of {} bytes", r#use.limit())));
        }
        Ok(frame.header.flags & FLAG_MORE != 0)
    }
}
