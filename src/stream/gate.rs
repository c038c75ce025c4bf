//! What a stream must be before `zfs receive` sees it.
//!
//! OpenZFS trusted the fields of a stream for most of its life: malformed ones have panicked kernels. So a
//! transfer's stream is judged here, record by record, against the plan and against what a sender can send.
//!
//! Invariant: a record that the gate lets through has the GUID that the plan names, lies within the limits
//! of the on-disk format, belongs to an object that was announced, and uses only features that were allowed.

use super::{
    content,
    features::Features,
    fletcher::ByteOrder,
    nvlist::{self, Limits},
    objects::Objects,
    parser::Judge,
    record::{self, Begin, RawRecord, Record},
    rules,
};
use crate::types::{Guid, listing::DatasetKind};

/// What a plan expects of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatePolicy {
    /// The snapshot that the step sends.
    pub to_guid: Guid,
    /// The snapshot or bookmark that the step starts from; `None` for a full stream.
    pub from_guid: Option<Guid>,
    /// Take packages too (`send -R`, `-I`, `-p`). The GUIDs of their streams are not compared with the plan.
    /// False for transfers: one stream, one snapshot.
    pub allow_compound: bool,
    /// The features that the stream may have. [`Features::RAW`] and [`Features::RESUMING`] are decided by the
    /// two fields below.
    pub features: Features,
    /// True when the stream must be raw (`send -w`); false when it must not be.
    pub raw: bool,
    /// True when the stream was asked for with a resume token, and must continue.
    pub resuming: bool,
    /// What the stream must be of; `None` if that does not matter here. A volume that comes as a filesystem would not get
    /// the protections of a volume.
    pub kind: Option<DatasetKind>,
    /// Take streams of the other byte order. False for transfers: a receiver swaps their blocks by rules that trust what
    /// is in them (`zap_leaf_byteswap` panics at what it does not know).
    pub foreign_byte_order: bool,
}

/// The byte order of this machine, in which its `zfs send` writes.
const NATIVE: ByteOrder = if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };

/// Payloads that are judged whole: the longest bonus (`DNODE_MAX_SIZE`), and the longest spill block.
const MAX_ATTRIBUTES: usize = 128 << 10;

impl GatePolicy {
    /// One stream of that step, with all features that a transfer may have, neither raw nor resumed.
    pub fn step(from_guid: Option<Guid>, to_guid: Guid) -> Self {
        Self {
            to_guid,
            from_guid,
            allow_compound: false,
            features: Features::TRANSFER,
            raw: false,
            resuming: false,
            kind: None,
            foreign_byte_order: false,
        }
    }
}

/// Where the rules for single records look things up: the stream that the record is in.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub to_guid: Guid,
    pub features: Features,
    pub raw: bool,
    /// The sender marks objects that have spill blocks (`DRR_FLAG_SPILL_BLOCK`).
    pub marks_spill: bool,
    /// What it has announced.
    pub objects: Objects,
    /// What the payload that comes next must be.
    payload: Payload,
}

/// A payload that is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload {
    /// The list in BEGIN.
    List,
    /// System attributes of a file.
    Attributes,
}

/// Applies a [`GatePolicy`] and the rules of the format.
#[derive(Debug)]
pub struct Gate {
    policy: GatePolicy,
    stream: Option<Stream>,
}

impl Gate {
    /// A gate for one stream.
    pub fn new(policy: GatePolicy) -> Self {
        Self { policy, stream: None }
    }

    fn begin(&self, b: &Begin) -> Result<Stream, String> {
        if b.is_compound() {
            if !self.policy.allow_compound {
                return Err("it is a package of streams, and a transfer takes one stream at a time".into());
            }
            let unknown = b.features().without(Features::TRANSFER.with(Features::HOLDS));
            return if unknown == Features::NONE {
                Ok(Stream::new(b))
            } else {
                Err(format!("the package has features that are not allowed: {unknown}"))
            };
        }
        self.features(b)?;
        let kind = match b.objset_type {
            2 => DatasetKind::Filesystem,
            3 => DatasetKind::Volume,
            other => {
                return Err(format!("BEGIN says dataset type {other}; only filesystems (2) and volumes (3) exist"));
            }
        };
        if let Some(planned) = self.policy.kind.filter(|planned| *planned != kind) {
            return Err(format!("it is a stream of a {kind}, but the plan is to send a {planned}"));
        }
        if b.flags & !0xf != 0 {
            return Err(format!("BEGIN has unknown flags {:#x}", b.flags));
        }
        name(&b.to_name)?;
        self.guids(b)?;
        if b.payload_len == 0 {
            content::begin_list(None, b.features())?;
        }
        Ok(Stream::new(b))
    }

    fn features(&self, b: &Begin) -> Result<(), String> {
        let features = b.features();
        let raw = features.contains(Features::RAW);
        match (self.policy.raw, raw) {
            (true, false) => return Err("the stream is not raw, but the plan is to send it raw".into()),
            (false, true) => return Err("the stream is raw, but the plan is not to send it raw".into()),
            _ => {}
        }
        match (self.policy.resuming, features.contains(Features::RESUMING)) {
            (true, false) => return Err("the stream starts over, but the plan is to resume".into()),
            (false, true) => return Err("the stream resumes an earlier one, but the plan is not to".into()),
            _ => {}
        }
        let decided = Features::RAW.with(Features::RESUMING);
        let refused = features.without(self.policy.features.with(decided));
        if refused != Features::NONE {
            return Err(format!("the stream has features that are not allowed: {refused}"));
        }
        if raw && features.contains(Features::EMBED) {
            return Err("a raw stream cannot have embedded blocks".into());
        }
        Ok(())
    }

    fn guids(&self, b: &Begin) -> Result<(), String> {
        if b.to_guid == Guid(0) {
            return Err("BEGIN names no snapshot GUID".into());
        }
        if self.policy.allow_compound {
            return Ok(());
        }
        if b.to_guid != self.policy.to_guid {
            let plan = self.policy.to_guid;
            return Err(format!("it is a stream of snapshot GUID {}, but the plan is to send {plan}", b.to_guid));
        }
        let from = Some(b.from_guid).filter(|guid| *guid != Guid(0));
        if from != self.policy.from_guid {
            let text = |guid: Option<Guid>| guid.map_or("nothing (a full stream)".to_owned(), |g| format!("GUID {g}"));
            return Err(format!("it starts from {}, but the plan is from {}", text(from), text(self.policy.from_guid)));
        }
        Ok(())
    }
}

impl Stream {
    fn new(b: &Begin) -> Self {
        Self {
            to_guid: b.to_guid,
            features: b.features(),
            raw: b.features().contains(Features::RAW),
            marks_spill: b.flags & 8 != 0,
            objects: Objects::default(),
            payload: Payload::List,
        }
    }
}

impl Judge for Gate {
    fn record(&mut self, record: &Record, raw: &RawRecord) -> Result<(), String> {
        match record {
            Record::Begin(begin) => {
                if !self.policy.foreign_byte_order && record::byte_order(raw) != Some(NATIVE) {
                    return Err("it was made on a machine of the other byte order, which is not supported".into());
                }
                self.stream = Some(self.begin(begin)?);
            }
            // The parser has checked it: it is zero apart from its type.
            Record::End { to_guid: Guid(0), .. } if self.stream.is_none() => {}
            Record::End { to_guid, .. } => {
                let stream = self.stream.take().ok_or("an END outside of any stream")?;
                rules::same_guid(&stream, *to_guid)?;
            }
            other => {
                let stream = self.stream.as_mut().ok_or("a record outside of any stream")?;
                rules::check(stream, other)?;
                stream.payload = Payload::Attributes;
            }
        }
        Ok(())
    }

    fn payload_limit(&self, record: &Record) -> Option<usize> {
        match record {
            Record::Begin(begin) if begin.is_compound() => Some(Limits::PACKAGE.bytes),
            Record::Begin(_) => Some(Limits::SMALL.bytes),
            // In a raw stream they are encrypted, and the kernel does not look at them.
            _ if self.stream.as_ref().is_none_or(|stream| stream.raw) => None,
            Record::Object(o) if o.bonus_type == rules::SA => Some(MAX_ATTRIBUTES),
            Record::Spill(_) => Some(MAX_ATTRIBUTES),
            _ => None,
        }
    }

    fn payload(&mut self, payload: &[u8]) -> Result<(), String> {
        let stream = self.stream.as_ref().ok_or("a payload outside of any stream")?;
        match stream.payload {
            Payload::Attributes => content::system_attributes(payload),
            Payload::List => {
                let package = stream.to_guid == Guid(0);
                let limits = if package { Limits::PACKAGE } else { Limits::SMALL };
                let list = nvlist::decode(payload, limits).map_err(|e| format!("the list in BEGIN: {e}"))?;
                if package { Ok(()) } else { content::begin_list(Some(&list), stream.features) }
            }
        }
    }
}

/// `NAME@SNAP`, printable, and short enough to have a terminating zero.
fn name(name: &str) -> Result<(), String> {
    let plain = |c: char| !c.is_control() && c != char::REPLACEMENT_CHARACTER;
    let parts: Vec<&str> = name.split('@').collect();
    let named = matches!(parts[..], [dataset, snapshot] if !dataset.is_empty() && !snapshot.is_empty());
    if name.len() > 255 || !name.chars().all(plain) || !named {
        return Err(format!("BEGIN has no valid snapshot name: {:?}", name.chars().take(80).collect::<String>()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
