//! What the two sides say to each other once a session is open.
//!
//! The initiator sends [`Call`]s on the control channel and gets one [`Answer`] for each, in any order. A transfer has
//! a channel of its own, on which chunks and [`StreamMessage`]s travel. Every request is safe to repeat.

use serde::{Deserialize, Serialize};

pub use crate::types::transfer::Compression;

use super::{
    hello::features,
    verify::{VerifyAnswer, VerifyAsk},
};
use crate::types::{
    Access, DatasetName, Failure, Guid, JobId, PoolStatus, SnapshotName, SnapshotTag, ZfsVersion,
    listing::{Capabilities, DatasetInfo, DatasetKind, Listing},
    transfer::{Base, Depth, SendFlags, SendSpec, SnapshotRequest},
};

/// A request with the number that its answer will carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the initiator, different for each.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// The answer to the call of that number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The call's number.
    pub id: u64,
    /// What came of it.
    pub result: Result<Reply, Failure>,
}

/// The side of a replication that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleOfDataset {
    /// It is read.
    Source,
    /// It is written.
    Target,
}

/// One stream, as the source sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendStep {
    /// What to send.
    pub snapshot: SnapshotName,
    /// Its GUID when it was planned; a snapshot of another GUID is not sent.
    pub to_guid: Guid,
    /// What it starts from, with that one's GUID.
    pub base: Option<(Base, Guid)>,
    /// Flags of `zfs send`.
    pub flags: SendFlags,
    /// The target's resume token.
    pub resume: Option<String>,
    /// Under whose name the snapshot is held.
    pub job: JobId,
    /// How to compress.
    pub compression: Compression,
    /// Wire bytes per second for all transfers of the session together.
    pub bwlimit_bytes_per_s: Option<u64>,
}

/// One stream, as the target sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveStep {
    /// The snapshot that will exist.
    pub snapshot: SnapshotName,
    /// Its GUID.
    pub to_guid: Guid,
    /// The GUID that the stream must say it starts from; `None` for a full one.
    pub from_guid: Option<Guid>,
    /// The target's own snapshot of that GUID.
    pub from: Option<SnapshotName>,
    /// Filesystem or volume.
    pub kind: DatasetKind,
    /// The dataset does not exist yet, or only as the state of an interrupted first receive.
    pub creates: bool,
    /// The stream goes on where an interrupted one ended.
    pub resumes: bool,
    /// For a clone: the target's own copy of the origin.
    pub origin: Option<SnapshotName>,
    /// The stream is raw.
    pub raw: bool,
    /// The manifest: properties of the source that are wanted at the target. The target applies its own allow-list.
    pub properties: Vec<(String, String)>,
    /// Under whose name the newest common snapshot is held.
    pub job: JobId,
}

/// What an initiator asks of a peer (or of itself: both sides of a run are driven by the same requests).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What is there, and what can this ZFS do?
    List {
        /// The dataset.
        root: DatasetName,
        /// Itself, or all below as well.
        depth: Depth,
        /// Which grant it needs.
        role: RoleOfDataset,
    },
    /// Keep other runs away from this target, and all below it, until the session ends.
    Lock {
        /// The target.
        target: DatasetName,
    },
    /// Take one atomic snapshot of the source.
    Snapshot(SnapshotRequest),
    /// Make a marked placeholder, unless the dataset exists.
    CreatePlaceholder {
        /// Where.
        dataset: DatasetName,
    },
    /// Remove an empty, marked placeholder, so that a stream can take its place.
    RemovePlaceholder {
        /// Which.
        dataset: DatasetName,
    },
    /// Roll the target back to a snapshot that both sides have.
    Rollback {
        /// To this one.
        to: SnapshotName,
        /// Its GUID.
        to_guid: Guid,
        /// The newer snapshots that were shown to the operator; if there are others by now, nothing is done.
        destroys: Vec<SnapshotName>,
    },
    /// Throw away the state of an interrupted receive.
    AbortPartial {
        /// Where.
        dataset: DatasetName,
    },
    /// How many bytes would these streams be?
    Sizes(Vec<SendSpec>),
    /// Begin to receive on a channel that the initiator is about to attach.
    OpenReceive {
        /// The transfer's channel.
        channel: u32,
        /// What will come.
        step: ReceiveStep,
    },
    /// Wait until a receive has ended, and say how.
    FinishReceive {
        /// The transfer's channel.
        channel: u32,
    },
    /// Begin to send on a channel that the initiator is about to attach.
    OpenSend {
        /// The transfer's channel.
        channel: u32,
        /// What to send.
        step: SendStep,
    },
    /// The receiver has ended: end the send, and say how it went.
    FinishSend {
        /// The transfer's channel.
        channel: u32,
    },
    /// Give a transfer up.
    Cancel {
        /// The transfer's channel.
        channel: u32,
    },
    /// The target has this snapshot for good: keep it as a base for next time, let go of the one before.
    Acknowledge {
        /// The snapshot at the source.
        snapshot: SnapshotName,
        /// Its GUID.
        guid: Guid,
        /// In whose name.
        job: JobId,
        /// Bookmarks and holds of this job on the same dataset that are no longer needed.
        superseded: Vec<Base>,
    },
    /// The session ends well; its locks are free at once.
    Bye,
    /// For a diagnosis: who are you, and what am I granted? Only where both sides name [`super::hello::features::ABOUT`].
    About,
    /// With [`super::hello::features::PROBE`]: begin to take a stream that is thrown away, on a channel that the
    /// initiator is about to attach. Touches no ZFS.
    OpenProbe {
        /// The transfer's channel.
        channel: u32,
        /// What will come.
        stream: ProbedStream,
    },
    /// Wait until a probe's stream has ended, and say how it went.
    FinishProbe {
        /// The transfer's channel.
        channel: u32,
    },
    /// With [`super::hello::features::CUTOVER`]: what a cutover's coordinator says to its host there.
    Cutover {
        /// The roots of the unit on that host.
        unit: Vec<DatasetName>,
        /// A [`crate::cutover::call::Call`] as JSON, which may have fields that the other side does not know.
        call: String,
    },
    /// With [`super::hello::features::PRUNE`]: destroy snapshots of a job on a target, one by one, but for those that
    /// somebody needs.
    Prune(PruneRequest),
    /// With [`super::hello::features::VERIFY`]: what is in a snapshot there, to compare it with a copy here.
    Verify(VerifyAsk),
    /// With [`super::hello::features::RETIRE`]: the source of a dataset on a target is gone, or is back. The target marks it, and
    /// destroys it when it has been gone for long enough.
    Retire(RetireRequest),
    /// With [`super::hello::features::PREPARE`]: open the channel of a transfer of which nothing else is known yet, so that it is
    /// connected when the transfer begins. It counts as one until it is cancelled.
    Prepare {
        /// The transfer's channel.
        channel: u32,
    },
    /// With [`super::hello::features::LIMIT`]: from now on all transfers that this session sends keep to this rate together, whatever
    /// their steps say.
    Limit {
        /// Wire bytes per second; `None` for no limit.
        bytes_per_s: Option<u64>,
    },
}

/// Snapshots that a job no longer keeps on its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequest {
    /// The target, or a dataset below it. It must bear `zmigrate:job` of this job, and be under a lock of the session but for a dry run
    /// ([`super::hello::features::DRY`]).
    pub dataset: DatasetName,
    /// The job.
    pub job: JobId,
    /// What the names of the job's snapshots begin with; others are refused.
    pub prefix: String,
    /// The snapshots, oldest first, at most [`crate::limits::MAX_PRUNED`]: name and GUID.
    pub snapshots: Vec<(SnapshotTag, Guid)>,
    /// Only say what would be spared.
    pub dry_run: bool,
}

/// What became of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// The snapshot.
    pub tag: SnapshotTag,
    /// Why it stays; `None` if it is gone, or would be.
    pub spared: Option<String>,
}

/// A dataset on a target whose source was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireRequest {
    /// Below a target under a lock of the session, but for a dry run, as with [`PruneRequest`]. It must bear `zmigrate:job` of this job.
    pub dataset: DatasetName,
    /// The job.
    pub job: JobId,
    /// What the names of the job's snapshots begin with; a dataset that has others stays.
    pub prefix: String,
    /// False if the source has it again.
    pub gone: bool,
    /// Seconds that it stays, by the target's clock; the target has a least of its own.
    pub after_s: u64,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What became of a dataset whose source was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retired {
    /// Its time has not come.
    Waits {
        /// Since when its host knows, in seconds since 1970.
        since_unix_s: i64,
    },
    /// Its time has come, and it stays: why.
    Stays(String),
    /// It is gone, or would be.
    Destroyed,
    /// The source has it again; nothing is known against it any more.
    Back,
}

/// What the gate lets through in a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbedStream {
    /// The snapshot's GUID that BEGIN names.
    pub to_guid: Guid,
    /// The GUID that it says it starts from.
    pub from_guid: Option<Guid>,
    /// It is raw.
    pub raw: bool,
    /// It goes on where another ended.
    pub resumes: bool,
}

/// Where the receiving half of a transfer spent its time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverTimes {
    /// Waiting for frames.
    pub input_us: u64,
    /// Decompressing and hashing.
    pub unpacking_us: u64,
    /// Parsing and verifying.
    pub judging_us: u64,
    /// Writing to `zfs receive`.
    pub writing_us: u64,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done; nothing to say.
    Done,
    /// Done, and a person should read this.
    DoneWith(Vec<String>),
    /// To `List`.
    Listed(Box<Listed>),
    /// To `Sizes`, in the same order; `None` where this ZFS cannot say.
    Sizes(Vec<Option<u64>>),
    /// To `OpenReceive`: the target has that snapshot already, so there is nothing to send.
    AlreadyReceived,
    /// To `FinishReceive` and `FinishSend`.
    Transferred(Transferred),
    /// To `About`.
    About(Box<About>),
    /// To `FinishProbe`.
    Probed {
        /// The end of the transfer.
        transferred: Transferred,
        /// The time of this side.
        times: ReceiverTimes,
    },
    /// To `Cutover`: a [`crate::cutover::call::Told`] as JSON.
    Cutover(String),
    /// To `Prune`, in the same order.
    Pruned(Vec<Pruned>),
    /// To `Verify`.
    Verified(Box<VerifyAnswer>),
    /// To `Retire`.
    Retired(Retired),
    /// The same as `AlreadyReceived`, and a person should read this. With [`super::hello::features::NOTES`].
    AlreadyReceivedWith(Vec<String>),
}

/// What is at a side, and what it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The dataset and what is below.
    pub listing: Listing,
    /// The datasets above that exist, the pool's root first; for a target alone.
    pub ancestors: Vec<DatasetInfo>,
    /// What ZFS and the pool can do.
    pub capabilities: Capabilities,
}

/// What a peer tells an identity that it knows: its ZFS, what it grants to that identity, and the pools in which that lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Of its ZFS.
    pub version: ZfsVersion,
    /// What the asking identity is granted, at most [`crate::limits::MAX_GRANTS_TOLD`].
    pub grants: Vec<(Access, DatasetName)>,
    /// The pools in which those datasets lie, and no others.
    pub pools: Vec<AboutPool>,
}

/// One pool of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AboutPool {
    /// Its space and health.
    pub status: PoolStatus,
    /// What ZFS and the pool can do; `None` if that could not be found out.
    pub capabilities: Option<Capabilities>,
}

/// The end of a transfer that went well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// Bytes of the send stream.
    pub raw_bytes: u64,
    /// Payload bytes on the wire.
    pub wire_bytes: u64,
    /// What a person should know although it went well.
    pub warnings: Vec<String>,
}

/// What is said on a transfer's own channel, between chunks or in the other direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamMessage {
    /// The stream is whole: its length, and the XXH3-128 of the checksums of its chunks in order.
    End {
        /// Bytes of the stream.
        raw_bytes: u64,
        /// The digest.
        digest: u128,
    },
    /// This end has failed; the other need not go on.
    Failed(Failure),
}

impl Request {
    /// True for what destroys something.
    pub fn takes_away(&self) -> bool {
        use Request as R;
        matches!(
            self,
            R::Rollback { .. } | R::AbortPartial { .. } | R::RemovePlaceholder { .. } | R::Prune(_) | R::Retire(_)
        )
    }

    /// The feature ([`super::hello::features`]) without which it is not sent: the requests of the first release have none.
    pub fn feature(&self) -> Option<u64> {
        match self {
            Request::About => Some(features::ABOUT),
            Request::OpenProbe { .. } | Request::FinishProbe { .. } => Some(features::PROBE),
            Request::Cutover { .. } => Some(features::CUTOVER),
            Request::Prune(_) => Some(features::PRUNE),
            Request::Verify(_) => Some(features::VERIFY),
            Request::Retire(_) => Some(features::RETIRE),
            Request::Prepare { .. } => Some(features::PREPARE),
            Request::Limit { .. } => Some(features::LIMIT),
            _ => None,
        }
    }

    /// The grants without which a peer refuses the request. Empty for those that only concern the session itself.
    pub fn needs(&self) -> Vec<(Access, DatasetName)> {
        let base_of = |base: &Base| match base {
            Base::Snapshot(s) => s.dataset(),
            Base::Bookmark(b) => b.dataset(),
        };
        match self {
            Request::List { root, role: RoleOfDataset::Source, .. } => vec![(Access::Pull, root.clone())],
            Request::List { root, role: RoleOfDataset::Target, .. } => vec![(Access::Push, root.clone())],
            Request::Lock { target } => vec![(Access::Push, target.clone())],
            Request::Snapshot(request) => vec![(Access::Pull, request.root.clone())],
            Request::CreatePlaceholder { dataset }
            | Request::RemovePlaceholder { dataset }
            | Request::AbortPartial { dataset } => vec![(Access::Push, dataset.clone())],
            Request::Rollback { to, destroys, .. } => {
                std::iter::once(to).chain(destroys).map(|s| (Access::Push, s.dataset())).collect()
            }
            Request::Sizes(specs) => specs
                .iter()
                .flat_map(|spec| match spec {
                    SendSpec::Full { snapshot, .. } => vec![snapshot.dataset()],
                    SendSpec::Incremental { base, snapshot, .. } => vec![base_of(base), snapshot.dataset()],
                    // A token names a snapshot that has not been checked, so a peer never gives its size.
                    SendSpec::Resume { .. } => vec![],
                })
                .map(|dataset| (Access::Pull, dataset))
                .collect(),
            Request::OpenReceive { step, .. } => [Some(&step.snapshot), step.from.as_ref(), step.origin.as_ref()]
                .into_iter()
                .flatten()
                .map(|s| (Access::Push, s.dataset()))
                .collect(),
            Request::OpenSend { step, .. } => std::iter::once(step.snapshot.dataset())
                .chain(step.base.iter().map(|(base, _)| base_of(base)))
                .map(|dataset| (Access::Pull, dataset))
                .collect(),
            Request::Acknowledge { snapshot, superseded, .. } => std::iter::once(snapshot.dataset())
                .chain(superseded.iter().map(base_of))
                .map(|dataset| (Access::Pull, dataset))
                .collect(),
            Request::Cutover { unit, .. } => unit.iter().map(|root| (Access::Cutover, root.clone())).collect(),
            Request::Prune(request) => vec![(Access::Push, request.dataset.clone())],
            Request::Verify(ask) => vec![ask.needs()],
            Request::Retire(request) => vec![(Access::Push, request.dataset.clone())],
            // An `About` tells only what concerns the asking identity.
            Request::FinishReceive { .. }
            | Request::FinishSend { .. }
            | Request::Cancel { .. }
            | Request::Bye
            | Request::About
            // Any grant will do for these, without which there is no session.
            | Request::Prepare { .. }
            | Request::Limit { .. }
            | Request::OpenProbe { .. }
            | Request::FinishProbe { .. } => vec![],
        }
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
