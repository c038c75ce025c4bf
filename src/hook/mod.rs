//! Hooks: how the programs that write into a dataset are stopped, started and looked at. What a hook is and what is run;
//! `adapter/hook` runs it.
//!
//! Invariant: a hook that exists was parsed. So its command is an absolute path with a bounded list of words, and no name of
//! a unit or container can be taken for an option or for a part of a path. Nothing goes through a shell.

mod call;
mod judge;
mod tail;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

pub use call::{HookCall, HookError, HookErrorKind, HookOutput, HookVerb, TooManyDatasets, environment};
pub use judge::{UnitState, frozen_already, not_frozen};
pub use tail::Tail;

use crate::limits::{MAX_HOOK_WORD, MAX_HOOK_WORDS};

/// Where the Docker Engine listens unless the hook names another path.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// The default of `timeout_s` and of `check_timeout_s`.
pub const DEFAULT_TIMEOUT_S: u64 = 60;
/// The largest `timeout_s` and `check_timeout_s`: an outage of an hour is a matter for a person.
pub const MAX_TIMEOUT_S: u64 = 3600;

/// A `[hook.NAME]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What it stops and starts.
    pub kind: HookKind,
    /// A command that ends with 0 once what was started is well.
    pub check: Option<Argv>,
    /// How long the check may take to succeed, all its repetitions together.
    pub check_timeout: Duration,
    /// How long a stop or a start may take.
    pub timeout: Duration,
}

/// What a hook stops and starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// A unit of systemd.
    Systemd {
        /// Its full name.
        unit: UnitName,
    },
    /// A container of Docker's.
    Docker {
        /// Its name or id.
        container: ContainerName,
        /// Where the Engine listens.
        socket: PathBuf,
    },
    /// Commands; at least one of the two.
    Commands {
        /// Ends with 0 once nothing writes any more.
        stop: Option<Argv>,
        /// Ends with 0 once the writers run.
        start: Option<Argv>,
    },
    /// A filesystem other than ZFS, on a volume: stopped is frozen, started is thawed.
    Fsfreeze {
        /// Where it is mounted. Absolute, and not `/`.
        mountpoint: PathBuf,
    },
}

/// A command and its arguments: 1 to [`MAX_HOOK_WORDS`] words; the first is an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv(Vec<String>);

impl Argv {
    /// Takes the words as they are.
    ///
    /// # Errors
    /// No word, too many, one that is too long or holds a NUL, or a first one that is no absolute path.
    pub fn new(words: Vec<String>) -> Result<Self, BadHook> {
        let program = words.first().ok_or(BadHook("must name a command"))?;
        if !program.starts_with('/') || program.ends_with('/') {
            return Err(BadHook("must begin with the absolute path of a command"));
        }
        if words.len() > MAX_HOOK_WORDS {
            return Err(BadHook("has more than 64 words"));
        }
        if words.iter().any(|w| w.len() > MAX_HOOK_WORD || w.contains('\0')) {
            return Err(BadHook("has a word that is longer than 4096 bytes, or holds a NUL"));
        }
        Ok(Self(words))
    }

    /// The path of the command.
    pub fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Its arguments.
    pub fn args(&self) -> &[String] {
        self.0.get(1..).unwrap_or_default()
    }
}

/// Why a text is no part of a hook. Displayed without the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadHook(pub(crate) &'static str);

macro_rules! parsed_name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadHook;

            fn from_str(s: &str) -> Result<Self, BadHook> {
                let check: fn(&str) -> Result<(), BadHook> = $check;
                check(s).map(|()| Self(s.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadHook;

            fn try_from(s: String) -> Result<Self, BadHook> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

parsed_name!(
    /// The NAME of a `[hook.NAME]`.
    HookName,
    |s| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if s.is_empty() || s.len() > 63 || !s.bytes().all(plain) || !s.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(BadHook(
                "must be 1 to 63 letters, digits and -_., and begin with a letter or digit",
            ));
        }
        Ok(())
    }
);
parsed_name!(
    /// The full name of a unit, as in systemd.unit(5): with its suffix, and not a template.
    UnitName,
    |s| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
        if s.is_empty() || s.len() > 255 || !s.bytes().all(plain) || s.starts_with(['-', '.']) {
            return Err(BadHook("is not the name of a unit"));
        }
        let (name, suffix) = s.rsplit_once('.').unwrap_or((s, ""));
        if !["service", "socket", "target", "mount", "automount", "timer", "path", "scope", "slice", "swap"]
            .contains(&suffix)
        {
            return Err(BadHook("must be a full name, with its suffix, such as .service"));
        }
        if name.ends_with('@') {
            return Err(BadHook("is a template: name an instance, such as db@main.service"));
        }
        Ok(())
    }
);
parsed_name!(
    /// The name or id of a container, as Docker allows it.
    ContainerName,
    |s| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if s.is_empty() || s.len() > 255 || !s.bytes().all(plain) || !s.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(BadHook("is not the name of a container"));
        }
        Ok(())
    }
);

impl HookKind {
    /// What it is called in a sentence.
    pub fn subject(&self) -> String {
        match self {
            HookKind::Systemd { unit } => format!("unit {unit}"),
            HookKind::Docker { container, .. } => format!("container {container}"),
            HookKind::Commands { .. } => "commands".to_owned(),
            HookKind::Fsfreeze { mountpoint } => format!("filesystem at {}", mountpoint.display()),
        }
    }
}

impl Hook {
    /// Every command that the operator wrote, with its key.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, &Argv)> {
        let (stop, start) = match &self.kind {
            HookKind::Commands { stop, start } => (stop.as_ref(), start.as_ref()),
            _ => (None, None),
        };
        let all = [("stop", stop), ("start", start), ("check", self.check.as_ref())];
        all.into_iter().filter_map(|(key, argv)| argv.map(|argv| (key, argv)))
    }
}
