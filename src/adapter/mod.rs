//! Implementations of the ports on the real world. Only the wiring and tests name them.

pub mod busy;
pub mod hook;
pub mod journal;
pub mod ledger;
pub mod locks;
pub mod net;
#[cfg(feature = "libzetta")]
pub mod zetta;
pub mod zfs;
