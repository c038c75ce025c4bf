//! The daemon `zmigrated`: reads its configuration and serves.

fn main() {}
