//! zmigrate keeps a ZFS dataset replicated to a peer over mutual TLS.

pub mod limits;
pub mod port;
pub mod session;
pub mod types;
pub mod wire;
