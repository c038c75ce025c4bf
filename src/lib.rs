//! zmigrate keeps a ZFS dataset replicated to a peer over mutual TLS.

pub mod adapter;
pub mod fake;
pub mod port;
pub mod stream;
pub mod types;
