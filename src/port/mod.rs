//! Traits that the engine needs of the world. `adapter/` and `fake/` implement them.

pub mod journal;
pub mod link;
pub mod locks;
pub mod needs;
pub mod zfs;
