//! Whether the state of an interrupted receive can be gone on with.
//!
//! A token is used only if it says what the plan would say: the same snapshot, the same base, raw or not.
//! All else is aborted and started over, with the reason in words.

use super::history::Past;
use crate::{
    stream::token::ResumeToken,
    types::{CreateTxg, DatasetName, Guid, listing::SnapshotInfo},
};

/// What the plan would send if there were no token.
pub(super) struct Intended<'p, 'a> {
    pub source: &'p DatasetName,
    pub past: &'p Past<'a>,
    /// The base of the first step.
    pub from: Option<Guid>,
    /// Where the base stands in the source's history; `None` for a full stream or a clone's first.
    pub from_txg: Option<CreateTxg>,
    /// The first snapshot that must be sent. None before it may be skipped, so the token may not be past it.
    pub first: &'a SnapshotInfo,
    pub raw: bool,
    pub can_resume: bool,
}

/// The text of a token, if there is one: `zfs get` prints `-` where there is none.
pub(super) fn present(token: Option<&str>) -> Option<&str> {
    token.map(str::trim).filter(|t| !t.is_empty() && *t != "-")
}

/// Judges a token: the parsed token and the snapshot it is for, or why it cannot be used.
pub(super) fn judge<'a>(text: &str, intended: &Intended<'_, 'a>) -> Result<(ResumeToken, &'a SnapshotInfo), String> {
    let token = ResumeToken::parse(text).map_err(|cause| cause.to_string())?;
    if !intended.can_resume {
        return Err("the source's zfs cannot resume a send".into());
    }
    if token.redacted {
        return Err("it is of a redacted send".into());
    }
    let Some(at) = intended.past.position(token.to_guid) else {
        return Err(format!("its snapshot {} (GUID {}) is no longer on the source", token.to_name, token.to_guid));
    };
    let to = intended.past.snapshots[at];
    // `zfs send -t` looks the snapshot up by name.
    let now = format!("{}@{}", intended.source, to.tag);
    if token.to_name != now {
        return Err(format!("its snapshot {} is now called {now}", token.to_name));
    }
    if token.from_guid != intended.from {
        let say = |guid: Option<Guid>| guid.map_or("nothing".into(), |guid| format!("the snapshot with GUID {guid}"));
        return Err(format!("it starts from {}, and the plan from {}", say(token.from_guid), say(intended.from)));
    }
    if intended.from_txg.is_some_and(|base| to.createtxg <= base) || to.createtxg > intended.first.createtxg {
        return Err(format!("it is for {now}, and the next to be sent is @{}", intended.first.tag));
    }
    if token.raw != intended.raw {
        let say = |raw| if raw { "raw" } else { "not raw" };
        return Err(format!("it was sent {}, and the plan is {}", say(token.raw), say(intended.raw)));
    }
    Ok((token, to))
}
