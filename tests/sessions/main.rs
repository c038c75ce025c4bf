//! Whole runs between two hosts on the fake ZFS, over links in memory: with faults at every operation, in every stream and
//! on the link. Safety and liveness are judged apart, by what is on both sides and not by what the run says.
//!
//! `ZMIGRATE_SEEDS=N` asks for more random sessions; a failing one prints its seed, and `ZMIGRATE_SEED=S` runs it alone.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may end with a panic")]

mod clock;
mod crashes;
mod crowds;
mod cutovers;
mod fences;
mod hostile;
mod limits;
mod links;
mod logs;
mod looks;
mod months;
mod prepared;
mod probes;
mod pruning;
mod random;
mod releases;
mod scale;
mod streams;
mod transfers;
mod wire;
mod world;
