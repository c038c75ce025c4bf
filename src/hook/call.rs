//! One call of a hook: what is asked for, what a command is told in its environment, and what comes of it.

use std::fmt;

use super::HookName;
use crate::{
    cutover::leg::{Leg, Side},
    limits::MAX_HOOK_DATASETS,
    types::DatasetName,
};

/// Where a hook's command looks for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a hook is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookVerb {
    /// Try what can fail later; change nothing.
    Prepare,
    /// End the writers. What is stopped already stays so.
    Stop,
    /// Let the writers run. What runs already stays so.
    Start,
    /// Wait until what was started is well.
    Check,
}

impl fmt::Display for HookVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookVerb::Prepare => "prepare",
            HookVerb::Stop => "stop",
            HookVerb::Start => "start",
            HookVerb::Check => "check",
        })
    }
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// Which hook.
    pub name: HookName,
    /// What it is to do.
    pub verb: HookVerb,
    /// For which cutover, and which epoch of it.
    pub leg: Leg,
    /// What this host is in it.
    pub side: Side,
    /// The datasets that move, as this host calls them.
    pub datasets: Vec<DatasetName>,
}

/// The last words of what was run, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookOutput {
    /// Lines without control characters, the newest last; 4 KiB together.
    pub lines: Vec<String>,
}

/// Why a call did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookErrorKind {
    /// The configuration has no hook of that name.
    Undeclared,
    /// Something it needs is not there.
    Missing,
    /// What was run failed, or did not have the effect.
    Failed,
    /// It did not end within its limit, and was ended.
    TimedOut,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookError {
    /// Of which hook.
    pub name: HookName,
    /// Asked for what.
    pub verb: HookVerb,
    /// The class of the failure.
    pub kind: HookErrorKind,
    /// Why, in one sentence, with what to do where that is known.
    pub cause: String,
    /// What was said last.
    pub output: HookOutput,
}

impl HookError {
    /// How many of the last lines are shown with the error.
    const SHOWN: usize = 5;
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hook {} ({}) failed: {}", self.name, self.verb, self.cause)?;
        let lines = &self.output.lines;
        match &lines[lines.len().saturating_sub(Self::SHOWN)..] {
            [] => Ok(()),
            last => write!(f, "; last output: {}", last.join(" | ")),
        }
    }
}

impl std::error::Error for HookError {}

/// The names do not fit into an environment variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the names of the datasets take {0} bytes, more than the {max} that a hook can be told", max = MAX_HOOK_DATASETS)]
pub struct TooManyDatasets(pub usize);

/// All that a command finds in its environment; nothing of ours is handed on.
///
/// # Errors
/// [`TooManyDatasets`].
pub fn environment(call: &HookCall) -> Result<Vec<(&'static str, String)>, TooManyDatasets> {
    let names: Vec<&str> = call.datasets.iter().map(DatasetName::as_str).collect();
    let datasets = names.join(" ");
    if datasets.len() > MAX_HOOK_DATASETS {
        return Err(TooManyDatasets(datasets.len()));
    }
    let side = match call.side {
        Side::Source => "source",
        Side::Target => "target",
    };
    Ok(vec![
        ("LC_ALL", "C".to_owned()),
        ("PATH", PATH.to_owned()),
        ("ZMIGRATE_CUTOVER_ID", call.leg.id.to_string()),
        ("ZMIGRATE_DATASETS", datasets),
        ("ZMIGRATE_EPOCH", call.leg.epoch.0.to_string()),
        ("ZMIGRATE_PHASE", call.verb.to_string()),
        ("ZMIGRATE_SIDE", side.to_owned()),
    ])
}
