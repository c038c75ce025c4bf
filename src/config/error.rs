//! What is wrong with a configuration: every problem at once, each with its place and a hint.

use std::fmt;

use super::Place;

/// One thing that is wrong, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as `FILE:LINE:COLUMN`; for a file as a whole, or one that cannot be read, only its name.
    pub at: String,
    /// What.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(at: &Place, message: impl Into<String>) -> Self {
        Self { at: at.to_string(), message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The configuration cannot be used. Shown with one problem a line, so that all can be mended in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one, at most [`ConfigError::MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// More than this many are of no use to a reader.
    pub const MAX_PROBLEMS: usize = 50;

    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.truncate(Self::MAX_PROBLEMS);
        Self { problems }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
