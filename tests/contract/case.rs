//! What a trial is, and what a backend must bring.

use std::{future::Future, pin::Pin};

use zmigrate::types::listing::Capabilities;

use crate::world::World;

/// What a backend can do, as far as trials depend on it.
#[derive(Clone, Debug)]
pub struct Traits {
    pub can: Capabilities,
    /// It can make volumes, and read them.
    pub volumes: bool,
}

/// One trial, for any backend.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// Why the trial cannot be run on such a backend; `None` if it can.
    pub lacks: fn(&Traits) -> Option<&'static str>,
    pub run: for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

/// An implementation of the port.
pub struct Backend {
    pub name: &'static str,
    /// Makes its pool, or says why there is none.
    pub open: Box<dyn Fn() -> Result<Factory, String>>,
}

/// A backend that is there.
pub struct Factory {
    pub traits: Traits,
    /// A world of its own for each trial.
    pub make: Box<dyn Fn(&str) -> World + Send + Sync>,
}

/// `case!(a_function)`, or `case!(a_function, |traits| why it cannot run)`.
#[macro_export]
macro_rules! case {
    ($name:ident) => {
        $crate::case!($name, |_| None)
    };
    ($name:ident, $lacks:expr) => {
        $crate::case::Case { name: stringify!($name), lacks: $lacks, run: |world| Box::pin($name(world)) }
    };
}

/// For `case!`: trials that need partial receives, which came with all else that is new.
pub fn resumable(traits: &Traits) -> Option<&'static str> {
    (!traits.can.receive_resumable).then_some("no resumable receive")
}

/// For `case!`.
pub fn bookmarks(traits: &Traits) -> Option<&'static str> {
    (!traits.can.bookmarks).then_some("no bookmarks")
}

/// For `case!`.
pub fn holds(traits: &Traits) -> Option<&'static str> {
    (!traits.can.holds).then_some("no holds")
}
