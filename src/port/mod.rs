//! Traits that the engine needs of the world. `adapter/` and `fake/` implement them.

pub mod busy;
pub mod hook;
pub mod journal;
pub mod ledger;
pub mod link;
pub mod locks;
pub mod needs;
pub mod view;
pub mod zfs;
