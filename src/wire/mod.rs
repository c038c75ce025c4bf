//! What travels between two sides, byte for byte; docs/protocol.md shows it as a whole.
//!
//! Pure: no sockets, no clock. [`frame`] has the envelope, [`hello`] the handshake, [`message`] what the two
//! sides say, [`outbox`] and [`inbox`] the numbering that makes a lost connection unnoticeable.
//!
//! ```text
//! connection = hello, hello reply, frame*
//! frame      = header (32 bytes), payload (up to 1 MiB)
//! ```

pub mod bucket;
pub mod codec;
pub mod frame;
pub mod hello;
pub mod inbox;
pub mod join;
pub mod message;
pub mod outbox;
mod printable;
#[cfg(test)]
mod protocol_tests;
pub mod verify;
