//! The crash-safe cutover: pure machines.
pub mod coordinator;
pub mod effect;
pub mod host;
pub mod leg;
pub mod message;
mod operator;
pub mod phase;
pub mod predict;
pub mod proof;
pub mod record;
pub mod rules;
pub mod source;
pub mod status;
pub mod target;
pub mod terms;

#[cfg(test)]
mod tests;
