//! zmigrate keeps a ZFS dataset replicated to a peer over mutual TLS.

pub mod plan;
pub mod port;
pub mod stream;
pub mod types;
