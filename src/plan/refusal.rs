//! Why a dataset, or a whole run, is not touched before the operator decides.
//!
//! `Display` is one sentence about what is so; [`Refusal::hint`] is what the operator can do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{DatasetName, Guid, SnapshotName, human_bytes, listing::DatasetKind};

/// A snapshot as a refusal names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Full name, on the side that is meant.
    pub name: SnapshotName,
    /// What it is matched by.
    pub guid: Guid,
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (GUID {})", self.name, self.guid)
    }
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Read from.
    Source,
    /// Received into.
    Target,
}

/// What a refused dataset would have needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependency {
    /// The dataset above it.
    Parent,
    /// The dataset that it is a clone of.
    Origin,
}

/// Why a placeholder cannot give way to the real dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceholderState {
    /// There are datasets below it.
    HasChildren,
    /// It refers to more than an empty filesystem does.
    HasData,
    /// Its properties are no longer those that zmigrate gave it.
    Changed,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no such source.
    SourceAbsent {
        /// The dataset that was asked for.
        source: DatasetName,
    },
    /// There is no such pool on the target.
    TargetPoolAbsent {
        /// The dataset that would have been made.
        target: DatasetName,
    },
    /// There is nothing to send.
    NoSnapshots {
        /// The source.
        source: DatasetName,
    },
    /// The snapshot that was asked for is not there.
    SnapshotAbsent {
        /// What was asked for.
        wanted: SnapshotName,
        /// The newest that there is.
        newest: Option<SnapshotRef>,
    },
    /// One is a filesystem and the other a volume.
    WrongType {
        /// On the source.
        source: DatasetName,
        /// What it is.
        source_kind: DatasetKind,
        /// On the target.
        target: DatasetName,
        /// What it is.
        target_kind: DatasetKind,
    },
    /// A volume stands where a parent is needed, on the target.
    ParentNotFilesystem {
        /// What would have been made.
        target: DatasetName,
        /// The volume above it.
        parent: DatasetName,
    },
    /// What stands where a parent is needed is the state of an interrupted first receive, and nothing in this
    /// run goes on with it.
    ParentPartial {
        /// What would have been made.
        target: DatasetName,
        /// The incomplete dataset above it.
        parent: DatasetName,
    },
    /// The name on the target would not be one: longer than 255 bytes or deeper than 50 levels.
    NameTooLong {
        /// The dataset, by the name that it has.
        dataset: DatasetName,
        /// What it would be called.
        wanted: String,
    },
    /// A cutover promoted the target, or a dataset above it: it is the writable side.
    Serves {
        /// The dataset.
        target: DatasetName,
        /// The value of `zmigrate:serving`.
        leg: String,
    },
    /// A cutover fenced the target, or a dataset above it.
    Fenced {
        /// The fenced dataset.
        target: DatasetName,
        /// The value of `zmigrate:fence`.
        fence: String,
    },
    /// The target has snapshots newer than the newest common one.
    TargetDiverged {
        /// The newest wanted on the source.
        source_newest: SnapshotRef,
        /// The newest on the target.
        target_newest: SnapshotRef,
        /// The newest that both have, by its name on the target.
        common: SnapshotRef,
        /// How many snapshots of the target are newer than that.
        newer: usize,
    },
    /// The target was written to since its newest snapshot.
    TargetModified {
        /// The newest wanted on the source.
        source_newest: SnapshotRef,
        /// The newest on the target, which is the newest common one.
        common: SnapshotRef,
        /// Bytes written since.
        written: u64,
    },
    /// Both have snapshots, and none is the same.
    NoCommonSnapshot {
        /// The newest wanted on the source.
        source_newest: SnapshotRef,
        /// The newest on the target.
        target_newest: SnapshotRef,
    },
    /// The target exists, has no snapshot, and zmigrate did not make it.
    TargetExists {
        /// The newest wanted on the source.
        source_newest: SnapshotRef,
        /// The dataset in the way.
        target: DatasetName,
        /// Bytes that it refers to.
        referenced: u64,
    },
    /// A placeholder stands where the dataset should go, and cannot be replaced.
    PlaceholderInUse {
        /// The newest wanted on the source.
        source_newest: SnapshotRef,
        /// The placeholder.
        target: DatasetName,
        /// Why it stays.
        state: PlaceholderState,
    },
    /// The target is already newer than the wanted snapshot, and lacks it.
    TargetPastSnapshot {
        /// The wanted one, on the source.
        wanted: SnapshotRef,
        /// The newest on the target.
        target_newest: SnapshotRef,
    },
    /// Another snapshot of the target has the name of one that would be sent.
    SnapshotNameTaken {
        /// The one that would be sent.
        snapshot: SnapshotRef,
        /// The one that has its name.
        taken_by: SnapshotRef,
    },
    /// A rollback would have to destroy a snapshot that a clone lives on.
    RollbackBlocked {
        /// The newest common snapshot, on the target.
        to: SnapshotRef,
        /// The newer one that would be destroyed.
        snapshot: SnapshotName,
        /// Its clone.
        clone: DatasetName,
    },
    /// An encrypted source cannot go raw.
    EncryptionLost {
        /// The source.
        source: DatasetName,
        /// The target.
        target: DatasetName,
        /// Which side cannot do it.
        lacking: Side,
    },
    /// The data are needed in plain text, and the key is not loaded.
    KeyNotLoaded {
        /// The dataset whose key is meant.
        dataset: DatasetName,
        /// The side it is on.
        side: Side,
    },
    /// The target was received in another mode, raw or not, than this send would be.
    EncryptionMismatch {
        /// The source.
        source: DatasetName,
        /// The target, or the target's copy of the clone's origin.
        target: DatasetName,
        /// True if this send would be raw.
        raw: bool,
    },
    /// After a raw increment nothing could open the target: its key hangs on a dataset to which no run brings the source's.
    KeyOfAnother {
        /// The source.
        source: DatasetName,
        /// The target.
        target: DatasetName,
        /// Its encryption root.
        root: DatasetName,
    },
    /// What it needs is itself refused.
    DependsOn {
        /// The dataset, on the source.
        source: DatasetName,
        /// What is refused, on the source.
        on: DatasetName,
        /// What it would have been for.
        as_its: Dependency,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        match self {
            SourceAbsent { source } => write!(f, "the source {source} does not exist"),
            TargetPoolAbsent { target } => {
                write!(f, "the target {target} cannot be made: there is no pool {}", target.pool())
            }
            NoSnapshots { source } => write!(f, "the source {source} has no snapshot to send"),
            SnapshotAbsent { wanted, newest: Some(newest) } => {
                write!(f, "the source has no {wanted}; its newest is {newest}")
            }
            SnapshotAbsent { wanted, newest: None } => write!(f, "the source has no {wanted}, nor any other snapshot"),
            WrongType { source, source_kind, target, target_kind } => {
                write!(f, "{source} is a {source_kind} and {target} is a {target_kind}")
            }
            ParentNotFilesystem { target, parent } => {
                write!(f, "{target} cannot be made below {parent}, which is a volume")
            }
            ParentPartial { target, parent } => write!(
                f,
                "{target} cannot be made below {parent}, which holds only the state of an interrupted receive"
            ),
            NameTooLong { dataset, wanted } => {
                write!(f, "{dataset} would be called {wanted:?}, which is no valid name")
            }
            Fenced { target, fence } => write!(f, "{target} is fenced by cutover {fence}"),
            Serves { target, leg } => write!(f, "{target} is the writable side since cutover {leg}"),
            TargetDiverged { source_newest, target_newest, common, newer } => write!(
                f,
                "the target has diverged: its newest snapshot is {target_newest}, the source's newest is \
                 {source_newest}, the newest that both have is {common}, and {newer} on the target {} newer",
                if *newer == 1 { "is" } else { "are" }
            ),
            TargetModified { source_newest, common, written } => write!(
                f,
                "the target was modified: {} were written since its newest snapshot {common}, which is also the \
                 newest common one; the source's newest is {source_newest}",
                human_bytes(*written)
            ),
            NoCommonSnapshot { source_newest, target_newest } => write!(
                f,
                "source and target have no snapshot in common: the source's newest is {source_newest}, the \
                 target's newest is {target_newest}"
            ),
            TargetExists { source_newest, target, referenced } => write!(
                f,
                "the target {target} exists and has own data ({}, no snapshot); the source's newest is {source_newest}",
                human_bytes(*referenced)
            ),
            PlaceholderInUse { source_newest, target, state } => write!(
                f,
                "the target {target} is a placeholder that cannot be replaced by {source_newest}: {}",
                match state {
                    PlaceholderState::HasChildren => "there are datasets below it",
                    PlaceholderState::HasData => "it is not empty",
                    PlaceholderState::Changed => "its properties were changed",
                }
            ),
            TargetPastSnapshot { wanted, target_newest } => write!(
                f,
                "the target lacks {wanted} and can no longer receive it, because its newest snapshot {target_newest} is \
                 newer"
            ),
            SnapshotNameTaken { snapshot, taken_by } => {
                write!(f, "{snapshot} cannot be received: the target has another snapshot of that name, {taken_by}")
            }
            RollbackBlocked { to, snapshot, clone } => write!(
                f,
                "the target cannot be rolled back to the newest common snapshot {to}: {snapshot} has the clone {clone}"
            ),
            EncryptionLost { source, target, lacking } => write!(
                f,
                "{source} is encrypted and would have to go to {target} as plain text, because {}",
                match lacking {
                    Side::Source => "the source's zfs has no raw send",
                    Side::Target => "the target's pool has no encryption feature",
                }
            ),
            KeyNotLoaded { dataset, side: Side::Source } => {
                write!(f, "the key of the source {dataset} is not loaded, so its plain text cannot be sent")
            }
            KeyNotLoaded { dataset, side: Side::Target } => {
                write!(f, "the key of the target {dataset} is not loaded, so plain text cannot be received there")
            }
            EncryptionMismatch { source, target, raw: true } => {
                write!(f, "{source} would go raw, and {target} was received as plain text")
            }
            EncryptionMismatch { source, target, raw: false } => {
                write!(f, "{source} would go as plain text, and {target} was received raw")
            }
            KeyOfAnother { source, target, root } => {
                write!(
                    f,
                    "{target} hangs on the key of {root}: {source} would go raw and bring it its own, and nothing could open it any more"
                )
            }
            DependsOn { source, on, as_its: Dependency::Parent } => {
                write!(f, "{source} needs its parent {on} on the target, which is refused")
            }
            DependsOn { source, on, as_its: Dependency::Origin } => {
                write!(f, "{source} is a clone of {on}, which is refused")
            }
        }
    }
}

impl Refusal {
    /// What the operator can do.
    pub fn hint(&self) -> String {
        use Refusal::*;
        match self {
            SourceAbsent { .. } => "check the name with `zfs list`".into(),
            TargetPoolAbsent { .. } => "check the target's name; pools are never made".into(),
            NoSnapshots { .. } => "--snapshot, or snapshot = true in a job, takes one first".into(),
            SnapshotAbsent { .. } => "name a snapshot that exists, or leave it out to send up to the newest".into(),
            WrongType { target, .. } => format!("send to another name, or rename {target} out of the way"),
            ParentNotFilesystem { .. } => "choose a target below a filesystem".into(),
            ParentPartial { parent, .. } => format!("`zfs receive -A {parent}` on the target throws that state away"),
            NameTooLong { .. } => "choose a shorter target, or leave the dataset out with --exclude".into(),
            Serves { .. } => "nothing is received into what is in use: stop this replication, or turn it round".into(),
            Fenced { fence, .. } => {
                let id = fence.split_once(':').map_or(fence.as_str(), |(id, _)| id);
                format!("`zmigrate cutover status {id}` says where it stands")
            }
            TargetDiverged { common, newer, .. } => format!(
                "--rollback destroys {newer} newer snapshot(s) on the target and returns it to {}; or rename the \
                 target to keep it",
                common.name
            ),
            TargetModified { common, .. } => format!(
                "--rollback throws away what was written on the target since {}; or rename the target to keep it",
                common.name
            ),
            NoCommonSnapshot { target_newest, .. } => format!(
                "--rollback cannot help: send to another name to seed a fresh copy, or rename {} first",
                target_newest.name.dataset()
            ),
            TargetExists { target, .. } => {
                format!("send to another name, or rename {target}, or destroy it if nothing in it is needed")
            }
            PlaceholderInUse { target, state: PlaceholderState::HasChildren, .. } => format!(
                "rename {target} aside, run again, and rename the datasets below it back to below the new {target}; or \
                 send to another name"
            ),
            PlaceholderInUse { target, .. } => {
                format!("look into {target}; destroy it if nothing in it is needed, or send to another name")
            }
            TargetPastSnapshot { .. } => "name a newer snapshot, or send to another name".into(),
            SnapshotNameTaken { taken_by, .. } => {
                format!("rename or destroy {} on the target, or rename the snapshot on the source", taken_by.name)
            }
            RollbackBlocked { clone, .. } => format!("promote or destroy {clone} first"),
            EncryptionLost { .. } => "--no-raw, or encryption = \"plain\" in a job, allows to send it as plain text".into(),
            KeyNotLoaded { dataset, side: Side::Source } => {
                format!("`zfs load-key {dataset}`, or leave --no-raw out to send it raw")
            }
            KeyNotLoaded { dataset, side: Side::Target } => format!("`zfs load-key {dataset}` on the target"),
            EncryptionMismatch { raw: true, .. } => {
                "--no-raw, or encryption = \"plain\" in a job, goes on as before; or send raw to another name to seed a fresh copy".into()
            }
            EncryptionMismatch { raw: false, .. } => {
                "leave --no-raw out to go on raw; or send to another name to seed a fresh copy".into()
            }
            KeyOfAnother { target, .. } => format!(
                "`zfs change-key -o keyformat=passphrase {target}` on the target ends that; what was received as plain text goes on with --no-raw"
            ),
            DependsOn { on, .. } => format!("settle {on} first"),
        }
    }
}

impl std::error::Error for Refusal {}
