//! zmigrate keeps a ZFS dataset replicated to a peer over mutual TLS.

pub mod config;
pub mod identity;
pub mod port;
pub mod types;
