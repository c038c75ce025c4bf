//! zmigrate replicates ZFS datasets between hosts: snapshots travel as `zfs send` streams over mutual TLS, compressed
//! and with backpressure, to a `zmigrated` that `zfs receive`s them.
//!
//! # The data path
//!
//! ```text
//!   source host                                                            target host
//!  ┌────────────────────────────────────────────────┐   ┌───────────────────────────────────────────────┐
//!  │ zfs send ─▶ tap ─▶ zstd ─▶ frames ─▶ outbox ───┼TLS┼─▶ inbox ─▶ unzstd ─▶ tap ─▶ zfs receive -s -u  │
//!  │             parse,         numbered  kept until│   │   in order           parse, gate,             │
//!  │             verify         and       the other │   │   once each          verify, hold back END    │
//!  │                            checked   side has  │   │                                               │
//!  │                                      them ◀────┼───┼─ acknowledgement and credit, as zfs takes it  │
//!  └────────────────────────────────────────────────┘   └───────────────────────────────────────────────┘
//! ```
//!
//! A lost connection is dialled again and the transfer goes on at the next frame, without either `zfs` noticing. If a
//! process or a host dies, the target keeps what it has (`receive -s`) and the next run goes on with `send -t`. A stream
//! that is damaged, truncated, or not the one that was planned never reaches `zfs receive` as complete.
//!
//! # The map
//!
//! Each layer may use those above it; `tests/tidy.rs` holds that up.
//!
//! | layer | what it is |
//! |---|---|
//! | [`types`], [`limits`] | names that can only be built by parsing; listings; every bound with its arithmetic |
//! | [`stream`] | send streams and resume tokens: parser, checksums, and the [gate](stream::gate) that judges records |
//! | [`wire`] | frames, handshake and messages, byte for byte; numbering and credit |
//! | [`plan`] | two listings in, a plan or refusals out |
//! | [`inventory`], [`releases`] | what zmigrate left in ZFS, and what may go; the known bugs of ZFS releases |
//! | [`cutover`] | the machines that move the writable side: events in, states and effects out |
//! | [`hook`] | how writers are stopped, started and looked at: what a hook is, and what is run |
//! | [`jobs`] | when a job runs, what its snapshots are called, which of them stay |
//! | [`identity`], [`config`] | certificates and TLS; the TOML file and its grants |
//! | [`content`] | what is in a snapshot, entry by entry: a digest, and what differs |
//! | [`port`] | traits: what the engine needs of ZFS, of the network, of hooks, of locks and of the journal |
//! | [`channel`] | frames in order, exactly once, over connections that come and go |
//! | [`pipe`] | the moving data path of one transfer |
//! | [`session`] | who talks to whom; requests become ZFS operations in [`session::engine`] |
//! | [`driver`] | one run: lock, look, plan, carry out, report |
//! | [`doctor`] | what is wrong with this host, and on the way to a peer |
//! | [`runner`] | jobs at work: their locks, states, history and programs |
//! | [`daemon`], [`cli`] | the two programs |
//! | [`adapter`], [`fake`] | the ports on the real world, wired up in [`host`] alone; a ZFS in memory, for tests |
//!
//! To read the code, begin with [`driver`], then [`session::engine`], then [`pipe`]. The rules that keep data safe are
//! listed in ARCHITECTURE.md, each with the test that fails without it.

pub mod adapter;
pub mod channel;
pub mod cli;
pub mod config;
pub mod content;
pub mod control;
pub mod cutover;
pub mod daemon;
pub mod doctor;
pub mod driver;
pub mod fake;
pub mod hook;
pub mod host;
pub mod identity;
pub mod inventory;
pub mod jobs;
pub mod limits;
pub mod pipe;
pub mod plan;
pub mod port;
pub mod releases;
pub mod runner;
pub mod session;
pub mod stream;
pub mod types;
pub mod wire;
