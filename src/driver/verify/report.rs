//! What a comparison found, for people and as JSON (docs/json.md).

use std::time::Duration;

use serde::Serialize;

use super::VerifyOptions;
use crate::types::{DatasetName, Failure, FailureClass, human_bytes};

/// How a comparison ended, of one dataset or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyResult {
    /// Both sides are the same, as far as was asked.
    Equal,
    /// They are not.
    Different,
    /// It could not be found out.
    Failed,
}

impl VerifyResult {
    /// The word for it, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            VerifyResult::Equal => "equal",
            VerifyResult::Different => "different",
            VerifyResult::Failed => "failed",
        }
    }
}

/// The newest snapshot that both sides have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommonSnapshot {
    /// Its name at the source, after the `@`.
    pub snapshot: String,
    /// Its GUID, in decimal digits: as a number it would not survive every reader of JSON.
    pub guid: String,
}

/// Something that differs in the content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DifferenceReport {
    /// Where, below the root of the dataset; in a volume, the offset in hexadecimal digits.
    pub path: String,
    /// What, in words.
    pub what: String,
}

/// What is in one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContentReport {
    /// Of this one, by its name at the source.
    pub snapshot: String,
    /// The digests are the same.
    pub equal: bool,
    /// Of the source's content, in hexadecimal digits.
    pub source_digest: String,
    /// Of the target's.
    pub target_digest: String,
    /// Files, directories and whatever else was looked at, at the source.
    pub entries: u64,
    /// Bytes of files' or the volume's content, at the source.
    pub bytes: u64,
    /// The first ones, if there are any.
    pub differences: Vec<DifferenceReport>,
    /// There are more than those.
    pub more_differences: bool,
}

/// What was found of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetVerified {
    /// On the source; `None` if only the target has it.
    pub source: Option<DatasetName>,
    /// On the target; `None` if only the source has it.
    pub target: Option<DatasetName>,
    /// What it comes to.
    pub result: VerifyResult,
    /// The newest snapshot on both sides.
    pub common: Option<CommonSnapshot>,
    /// Snapshots that only the source has and that are newer than the newest on both, the oldest first.
    pub only_at_source: Vec<String>,
    /// The same of the target.
    pub only_at_target: Vec<String>,
    /// Bytes written to the target since its newest snapshot; `None` where nobody can tell.
    pub target_written_bytes: Option<u64>,
    /// What is in the newest common snapshot, if that was asked.
    pub content: Option<ContentReport>,
    /// What else a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why something could not be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    #[serde(skip)]
    wants_content: bool,
}

impl DatasetVerified {
    pub(super) fn new(source: Option<DatasetName>, target: Option<DatasetName>, wants_content: bool) -> Self {
        Self {
            source,
            target,
            result: VerifyResult::Failed,
            common: None,
            only_at_source: Vec::new(),
            only_at_target: Vec::new(),
            target_written_bytes: None,
            content: None,
            notes: Vec::new(),
            error: None,
            wants_content,
        }
    }

    /// What all that was found comes to. What differs for certain counts for more than what is not known.
    pub(super) fn judge(&mut self) {
        let differs = self.common.is_none()
            || !self.only_at_source.is_empty()
            || !self.only_at_target.is_empty()
            || self.target_written_bytes.is_some_and(|bytes| bytes > 0)
            || self.content.as_ref().is_some_and(|content| !content.equal);
        let unknown = self.error.is_some() || (self.wants_content && self.content.is_none());
        self.result = match (differs, unknown) {
            (true, _) => VerifyResult::Different,
            (false, true) => VerifyResult::Failed,
            (false, false) => VerifyResult::Equal,
        };
    }

    /// Which datasets differ, and in what, on one line; `None` unless they do.
    pub fn difference(&self) -> Option<String> {
        if self.result != VerifyResult::Different {
            return None;
        }
        let (pair, only) = match (&self.source, &self.target) {
            (Some(source), Some(target)) => (format!("{source} and {target}"), None),
            (Some(source), None) => (source.to_string(), Some("the target does not have it")),
            (None, Some(target)) => (target.to_string(), Some("the source does not have it")),
            (None, None) => return None,
        };
        let mut what: Vec<String> = only.map(str::to_owned).into_iter().collect();
        if only.is_none() && self.common.is_none() {
            what.push("no snapshot is on both sides".to_owned());
        }
        for (side, tags) in [("source", &self.only_at_source), ("target", &self.only_at_target)] {
            match tags.as_slice() {
                [] => {}
                [one] => what.push(format!("@{one} is only at the {side}")),
                [first, ..] => what.push(format!("{} snapshots, such as @{first}, are only at the {side}", tags.len())),
            }
        }
        if let Some(bytes) = self.target_written_bytes.filter(|bytes| *bytes > 0) {
            what.push(format!("the target was written to since its newest snapshot ({})", human_bytes(bytes)));
        }
        if let Some(content) = self.content.as_ref().filter(|content| !content.equal) {
            let first = content.differences.first().map(|d| format!(", first at {}: {}", d.path, d.what));
            what.push(format!("the content of @{} differs{}", content.snapshot, first.unwrap_or_default()));
        }
        Some(format!("{pair}: {}", what.join("; ")))
    }
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifyReport {
    /// What it comes to.
    pub result: VerifyResult,
    /// The exit code of the command.
    pub exit_code: u8,
    /// The peer, as the operator wrote it.
    pub peer: String,
    /// The dataset that was read.
    pub source: DatasetName,
    /// Its copy.
    pub target: DatasetName,
    /// The content was compared, too.
    pub content: bool,
    /// How long it took.
    pub seconds: f64,
    /// Each dataset.
    pub datasets: Vec<DatasetVerified>,
    /// Why the whole could not be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

impl VerifyReport {
    pub(super) fn new(options: &VerifyOptions, peer: &str) -> Self {
        Self {
            result: VerifyResult::Failed,
            exit_code: 0,
            peer: peer.to_owned(),
            source: options.source.clone(),
            target: options.target.clone(),
            content: options.content,
            seconds: 0.0,
            datasets: Vec::new(),
            error: None,
        }
    }

    pub(super) fn conclude(&mut self, error: Option<Failure>, took: Duration) {
        self.seconds = took.as_secs_f64();
        let any = |result| self.datasets.iter().any(|dataset| dataset.result == result);
        let failed = error.as_ref().or_else(|| self.datasets.iter().find_map(|d| d.error.as_ref()));
        let class = failed.map_or(FailureClass::Zfs, |failure| failure.class);
        // What differs for certain counts for more than what is not known, also where it came to no end.
        (self.result, self.exit_code) = if any(VerifyResult::Different) {
            (VerifyResult::Different, FailureClass::Refused.exit_code())
        } else if error.is_some() || any(VerifyResult::Failed) || self.datasets.is_empty() {
            (VerifyResult::Failed, class.exit_code())
        } else {
            (VerifyResult::Equal, 0)
        };
        self.error = error;
    }
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(crate) fn sample() -> VerifyReport {
    let (source, target) = ("a".parse::<DatasetName>().unwrap(), "b".parse::<DatasetName>().unwrap());
    let error = Some(Failure::new(FailureClass::Zfs, "e").hint("h"));
    let content = ContentReport {
        snapshot: "s".into(),
        equal: false,
        source_digest: "0".into(),
        target_digest: "1".into(),
        entries: 1,
        bytes: 1,
        differences: vec![DifferenceReport { path: "p".into(), what: "w".into() }],
        more_differences: false,
    };
    let dataset = DatasetVerified {
        source: Some(source.clone()),
        target: Some(target.clone()),
        result: VerifyResult::Different,
        common: Some(CommonSnapshot { snapshot: "s".into(), guid: "1".into() }),
        only_at_source: vec!["t".into()],
        only_at_target: vec!["u".into()],
        target_written_bytes: Some(1),
        content: Some(content),
        notes: vec!["n".into()],
        error: error.clone(),
        wants_content: true,
    };
    VerifyReport {
        result: VerifyResult::Different,
        exit_code: 3,
        peer: "p".into(),
        source,
        target,
        content: true,
        seconds: 1.0,
        datasets: vec![dataset],
        error,
    }
}
