//! A failure as it travels between the sides and ends in an exit code.
//!
//! Libraries below return errors of their own; at the edge of an operation they become a [`Failure`], which keeps
//! the sentence, a hint, and the class that decides what happens next.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::printable_lines;

/// What kind of failure, and so which exit code (DESIGN's CLI contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Wrong usage or configuration.
    Usage,
    /// Refused: a person must decide.
    Refused,
    /// Not authenticated, or not granted.
    NotGranted,
    /// The peer cannot be reached, or the link is lost for good.
    Unreachable,
    /// The peer lives but no longer knows this session; a new session may go on at once.
    SessionLost,
    /// The other side broke the protocol.
    Protocol,
    /// ZFS failed.
    Zfs,
    /// The stream was found damaged or not what was planned.
    BadStream,
    /// Another run holds the target.
    Locked,
    /// The run was told to stop.
    Interrupted,
    /// Some datasets failed, the rest are done.
    Partial,
    /// A defect of zmigrate.
    Internal,
}

impl FailureClass {
    /// The exit code of a command that fails so.
    pub fn exit_code(self) -> u8 {
        match self {
            FailureClass::Usage => 2,
            FailureClass::Refused => 3,
            FailureClass::NotGranted => 4,
            FailureClass::Unreachable | FailureClass::SessionLost | FailureClass::Protocol => 5,
            FailureClass::Zfs | FailureClass::BadStream | FailureClass::Internal => 6,
            FailureClass::Partial => 7,
            FailureClass::Locked => 75,
            // As a shell reports SIGINT.
            FailureClass::Interrupted => 130,
        }
    }
}

/// A failed operation: the cause in one sentence, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub class: FailureClass,
    /// Operation, subject and cause.
    pub message: String,
    /// What the operator can do.
    pub hint: Option<String>,
    /// True when this only follows from a failure at the other end of the stream, which has the cause.
    pub consequence: bool,
    /// True when trying again, unchanged, may succeed.
    pub transient: bool,
    /// True when what was to be made is there already.
    pub exists: bool,
}

impl Failure {
    /// A failure that is a cause, not transient, without a hint.
    pub fn new(class: FailureClass, message: impl fmt::Display) -> Self {
        Self { class, message: message.to_string(), hint: None, consequence: false, transient: false, exists: false }
    }

    /// With a hint.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Marked as following from the other end's failure.
    pub fn consequence(mut self) -> Self {
        self.consequence = true;
        self
    }

    /// Marked as worth another try.
    pub fn transient(mut self) -> Self {
        self.transient = true;
        self
    }

    /// With what a terminal would take for commands removed; for failures that come from another host.
    pub fn printable(mut self) -> Self {
        self.message = printable_lines(&self.message);
        self.hint = self.hint.as_deref().map(printable_lines);
        self
    }

    /// With the place before its message, for one that comes from another host and speaks of that one's paths and processes.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        self.message = format!("at {place}: {}", self.message);
        self
    }

    /// The failure with its hint behind it, where there is room for one text alone.
    pub fn in_one(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{self} ({hint})"),
            None => self.to_string(),
        }
    }

    /// Of two failures at the ends of one stream, the one that came first.
    pub fn first_cause(self, other: Failure) -> Failure {
        if self.consequence && !other.consequence { other } else { self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
