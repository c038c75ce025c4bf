//! zmigrate keeps a ZFS dataset replicated to a peer over mutual TLS.

pub mod adapter;
pub mod channel;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod driver;
pub mod host;
pub mod identity;
pub mod limits;
pub mod pipe;
pub mod plan;
pub mod port;
pub mod session;
pub mod stream;
pub mod types;
pub mod wire;
