//! ZFS send streams and resume tokens, read without trusting them.
//!
//! ```text
//! bytes ─▶ Parser ──framing, checksums──▶ released: how far the bytes may be handed on
//!             │
//!             └─each record─▶ Judge: Gate (a transfer's rules) or Catalog (inspection)
//! ```
//!
//! Everything here is pure: bytes in, a judgement out. No clock, no file, no process.
//!
//! Invariant: no input makes these modules panic, or allocate more than the bounds that they name.

mod content;
pub mod features;
pub mod fletcher;
pub mod gate;
pub mod inspect;
pub mod nvlist;
mod objects;
pub mod parser;
mod payload;
pub mod record;
mod rules;
pub mod token;
pub mod write;

/// What goes through the data path: a parser that applies the rules of a transfer.
pub type Tap = parser::Parser<gate::Gate>;
