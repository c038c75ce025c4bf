//! Traits that the engine needs of the world. `adapter/` and `fake/` implement them.

pub mod zfs;
