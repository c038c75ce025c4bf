//! Handshake and sessions: who talks to whom, what is asked, and what survives a lost connection.
//!
//! ```text
//! Session ── channel 0 (control): calls and answers
//!         └─ channel n (transfer): chunks one way, stop signs the other
//! each channel ── any number of connections, one after the other or side by side
//! ```

mod about;
pub mod alone;
#[cfg(test)]
pub(crate) mod bare;
pub mod bases;
pub mod client;
pub mod crash;
pub mod cutover;
mod destructive;
pub mod engine;
mod entry;
pub mod handshake;
pub mod join;
mod keeper;
mod listings;
pub mod live;
mod older;
pub mod patience;
mod peer;
mod prepared;
pub mod probe;
mod properties;
pub mod prune;
pub mod registry;
mod retire;
mod share;
pub mod snapshot;
pub mod state;
pub mod steady;
pub mod told;
mod transfer;
pub mod verify;
