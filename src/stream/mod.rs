//! ZFS send streams and resume tokens, read without trusting them.
//!
//! Everything here is pure: bytes in, a judgement out. No clock, no file, no process.
//!
//! Invariant: no input makes these modules panic, or allocate more than the bounds that they name.

pub mod nvlist;
pub mod token;
