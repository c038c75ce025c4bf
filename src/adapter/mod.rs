//! Implementations of the ports on the real world. Only the wiring and tests name them.

#[cfg(feature = "libzetta")]
pub mod zetta;
pub mod zfs;
