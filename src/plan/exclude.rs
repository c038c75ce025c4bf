//! `--exclude`: datasets left out of a recursive run, each with all that is below it.

use std::{fmt, str::FromStr};

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

/// The longest pattern, in bytes: as long as the longest name.
const MAX_PATTERN_BYTES: usize = crate::types::MAX_NAME_BYTES;

/// A pattern that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exclude pattern {pattern:?}: {why}")]
pub struct ExcludeError {
    pattern: String,
    why: String,
}

/// A glob on the name of a dataset relative to the root of the run.
///
/// `*` stays within one level and `**` crosses levels: `scratch` is that child of the root, `*/cache` each
/// child of that name one level down, `**/cache` at any level, `db/**` all that is below `db` but not `db`.
/// The root itself is never excluded.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExcludePattern {
    text: String,
    matcher: GlobMatcher,
}

impl ExcludePattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if the pattern matches this relative name or one of the datasets above it.
    pub fn excludes(&self, relative: &str) -> bool {
        if relative.is_empty() {
            return false;
        }
        let above = relative.match_indices('/').map(|(at, _)| &relative[..at]);
        above.chain([relative]).any(|name| self.matcher.is_match(name))
    }
}

impl FromStr for ExcludePattern {
    type Err = ExcludeError;

    /// # Errors
    /// When the text is empty, longer than a name can be, or not a glob.
    fn from_str(s: &str) -> Result<Self, ExcludeError> {
        let bad = |why: String| ExcludeError { pattern: s.chars().take(MAX_PATTERN_BYTES).collect(), why };
        if s.is_empty() || s.len() > MAX_PATTERN_BYTES {
            return Err(bad("must have 1 to 255 bytes".into()));
        }
        if s.starts_with('/') || s.ends_with('/') {
            return Err(bad("is relative to the root of the run: no / at its ends".into()));
        }
        let glob =
            GlobBuilder::new(s).literal_separator(true).build().map_err(|cause| bad(cause.kind().to_string()))?;
        Ok(Self { text: s.to_owned(), matcher: glob.compile_matcher() })
    }
}

impl PartialEq for ExcludePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for ExcludePattern {}

impl fmt::Debug for ExcludePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
impl fmt::Display for ExcludePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl TryFrom<String> for ExcludePattern {
    type Error = ExcludeError;
    fn try_from(s: String) -> Result<Self, ExcludeError> {
        s.parse()
    }
}
impl From<ExcludePattern> for String {
    fn from(pattern: ExcludePattern) -> String {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_the_children_along() {
        let excludes = |pattern: &str, name: &str| pattern.parse::<ExcludePattern>().unwrap().excludes(name);
        for (pattern, name, is) in [
            ("scratch", "scratch", true),
            ("scratch", "scratch/a/b", true),
            ("scratch", "a/scratch", false),
            ("scratch", "scratch2", false),
            ("*/cache", "a/cache", true),
            ("*/cache", "a/cache/b", true),
            ("*/cache", "cache", false),
            ("*/cache", "a/b/cache", false),
            ("**/cache", "a/b/cache", true),
            ("**/cache", "cache", true),
            ("db/**", "db", false),
            ("db/**", "db/a/b", true),
            ("{a,b}", "b", true),
            ("*", "", false),
        ] {
            assert_eq!(excludes(pattern, name), is, "{pattern} on {name:?}");
        }
    }

    #[test]
    fn what_is_no_glob_is_an_error() {
        for bad in ["", "[", "{a", "/a", "a/", &"x".repeat(256)] {
            assert!(bad.parse::<ExcludePattern>().is_err(), "{bad:?} was taken");
        }
    }
}
