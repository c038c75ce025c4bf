//! Handshake, channels and sessions: the part that survives lost connections.
//!
//! ```text
//! Session ── channel 0 (control): calls and answers
//!         └─ channel n (transfer): chunks one way, stop signs the other
//! each channel ── any number of connections, one after the other or side by side
//! ```

pub mod channel;
pub mod client;
mod connection;
pub mod engine;
pub mod handshake;
mod keeper;
pub mod registry;
mod transfer;
