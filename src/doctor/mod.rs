//! `zmigrate doctor`: is this host, and the way to a peer, fit for replication; and if not, what to do.
//!
//! ```text
//! here.rs         configuration, identity, clock, directories
//! zfs.rs          version and its known bugs, pools, what they lack
//! places.rs       what grants and jobs name: is it there, has it room
//! permissions.rs  what `zfs allow` still has to give, for a user that is not root
//! peer.rs         name, TCP, TLS, protocol, round trip, grants, the peer's ZFS
//!                         └─▶ Checks ─▶ Report ─▶ render.rs, or JSON
//! ```
//!
//! Invariants: it changes nothing; nothing that it asks is waited for without end; every check that is not OK says what
//! to do next; what a peer says is printed without control characters.

mod here;
mod peer;
mod permissions;
mod places;
mod render;
#[cfg(test)]
mod tests;
mod zfs;

use std::{sync::Arc, time::Duration};

use serde::Serialize;

pub use permissions::{User, user_name};
pub use render::text;

use crate::{
    config::Config,
    identity::When,
    port::{link::Link, zfs::Zfs},
    session::client::ClientOptions,
    types::{Endpoint, Failure, FailureClass, PeerAddress},
};

/// How long one question to ZFS may take. A pool that is suspended answers none at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// The exit code when nothing failed and something is not as it should be.
pub const WARNINGS: u8 = 1;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and may not for long, or not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about, in a word.
    pub topic: &'static str,
    /// How it ended.
    pub level: Level,
    /// What was found, in a sentence.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// What the command would exit with if this were the only finding.
    pub exit_code: u8,
}

/// What was measured or read, for programs. What could not be is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Version of the ZFS tools here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zfs_userland: Option<String>,
    /// Version of the ZFS kernel module here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zfs_kernel: Option<String>,
    /// The identity in the peer's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_identity: Option<String>,
    /// The peer's program and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_agent: Option<String>,
    /// Version of the protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u16>,
    /// Time to connect by TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<f64>,
    /// The shortest of several round trips of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
    /// How far the peer's clock is ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_skew_ms: Option<i64>,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `ok`, `warnings` or `failed`.
    pub result: &'static str,
    /// 0, [`WARNINGS`], or that of the first check that failed.
    pub exit_code: u8,
    /// The peer that was looked at.
    pub peer: Option<String>,
    /// In the order in which they were made, which is that in which to mend them.
    pub checks: Vec<Check>,
    /// What was measured.
    pub facts: Facts,
}

/// The checks so far.
#[derive(Debug, Default)]
struct Checks {
    list: Vec<Check>,
    facts: Facts,
}

impl Checks {
    fn add(&mut self, topic: &'static str, level: Level, exit_code: u8, message: String, hint: Option<String>) {
        // Some of it comes from another host.
        let clean = |text: String| text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
        self.list.push(Check { topic, level, message: clean(message), hint: hint.map(clean), exit_code });
    }

    fn ok(&mut self, topic: &'static str, message: impl Into<String>) {
        self.add(topic, Level::Ok, 0, message.into(), None);
    }

    fn warn(&mut self, topic: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(topic, Level::Warn, WARNINGS, message.into(), Some(hint.into()));
    }

    fn fail(&mut self, topic: &'static str, class: FailureClass, message: impl Into<String>, hint: impl Into<String>) {
        self.add(topic, Level::Fail, class.exit_code(), message.into(), Some(hint.into()));
    }

    /// A failure of an operation; one without a hint gets `otherwise`.
    fn failure(&mut self, topic: &'static str, failure: Failure, otherwise: &str) {
        let hint = failure.hint.unwrap_or_else(|| otherwise.to_owned());
        self.fail(topic, failure.class, failure.message, hint);
    }

    fn report(self, peer: Option<String>) -> Report {
        let failed = self.list.iter().find(|check| check.level == Level::Fail);
        let warned = self.list.iter().any(|check| check.level == Level::Warn);
        let (result, exit_code) = match (failed, warned) {
            (Some(check), _) => ("failed", check.exit_code),
            (None, true) => ("warnings", WARNINGS),
            (None, false) => ("ok", 0),
        };
        Report { result, exit_code, peer, checks: self.list, facts: self.facts }
    }
}

/// The peer to look at.
pub struct Other {
    /// As the operator wrote it.
    pub name: PeerAddress,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// How to dial it.
    pub link: Arc<dyn Link>,
    /// How the session behaves.
    pub client: ClientOptions,
}

/// What is looked at, and by whose eyes.
pub struct Patient {
    /// The configuration, as it was loaded.
    pub config: Config,
    /// This host's ZFS.
    pub zfs: Arc<dyn Zfs>,
    /// The clock.
    pub now: When,
    /// Who runs this.
    pub user: User,
}

/// Looks at this host, then at the peer. `other` is the peer, or why it cannot be dialled.
pub async fn examine(patient: &Patient, other: Option<Result<Other, Failure>>) -> Report {
    let mut checks = Checks::default();
    here::configuration(&mut checks, patient);
    here::identity(&mut checks, patient);
    here::clock(&mut checks, patient);
    here::directories(&mut checks, &patient.config);
    zfs::all(&mut checks, patient).await;
    let mut peer = None;
    match other {
        None => {}
        Some(Err(failure)) => {
            let message = format!("not dialled: {failure}");
            let failure = Failure { message, ..failure };
            checks.failure("peer", failure, "mend what failed above first, then run it again");
        }
        Some(Ok(other)) => {
            peer = Some(other.name.to_string());
            peer::all(&mut checks, &other).await;
        }
    }
    checks.report(peer)
}

/// The report where not even the configuration loads.
pub fn without_configuration(failure: Failure) -> Report {
    let mut checks = Checks::default();
    checks.failure("config", failure, "mend the file that is named, then run it again");
    checks.report(None)
}

/// `3 days`, `5 h`, `2 min`: rough, for sentences.
fn rough(span: Duration) -> String {
    match span.as_secs() {
        s if s >= 2 * 86_400 => format!("{} days", s / 86_400),
        s if s >= 2 * 3_600 => format!("{} h", s / 3_600),
        s if s >= 120 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}
