//! What a stream must be before `zfs receive` sees it.
//!
//! OpenZFS trusted the fields of a stream for most of its life: malformed ones have panicked kernels. So a
//! transfer's stream is judged here, record by record, against the plan and against what a sender can send.
//!
//! Invariant: a record that the gate lets through has the GUID that the plan names, lies within the limits
//! of the on-disk format, and uses only features that were allowed.

use super::{
    features::Features,
    nvlist::{self, Limits},
    parser::Judge,
    record::{Begin, RawRecord, Record},
    rules,
};
use crate::types::Guid;

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
}

impl GatePolicy {
    /// One stream of that step, with all features that a transfer may have, neither raw nor resumed.
    pub fn step(from_guid: Option<Guid>, to_guid: Guid) -> Self {
        Self { to_guid, from_guid, allow_compound: false, features: Features::TRANSFER, raw: false, resuming: false }
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
    /// First object of the last OBJECT_RANGE.
    pub range_first: Option<u64>,
    /// Object and offset of the last WRITE.
    pub last_write: (u64, u64),
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
        if !matches!(b.objset_type, 2 | 3) {
            return Err(format!(
                "BEGIN says dataset type {}; only filesystems (2) and volumes (3) exist",
                b.objset_type
            ));
        }
        if b.flags & !0xf != 0 {
            return Err(format!("BEGIN has unknown flags {:#x}", b.flags));
        }
        name(&b.to_name)?;
        self.guids(b)?;
        // Both need the list that the payload carries.
        let needs_list = Features(Features::RAW.0 | Features::RESUMING.0);
        if b.payload_len == 0 && b.features().0 & needs_list.0 != 0 {
            return Err("BEGIN has no list, which a raw or resumed stream must have".into());
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
            range_first: None,
            last_write: (0, 0),
        }
    }
}

impl Judge for Gate {
    fn record(&mut self, record: &Record, _: &RawRecord) -> Result<(), String> {
        match record {
            Record::Begin(begin) => self.stream = Some(self.begin(begin)?),
            // The parser has checked it: it is zero apart from its type.
            Record::End { to_guid: Guid(0), .. } if self.stream.is_none() => {}
            Record::End { to_guid, .. } => {
                let stream = self.stream.take().ok_or("an END outside of any stream")?;
                rules::same_guid(&stream, *to_guid)?;
            }
            other => rules::check(self.stream.as_mut().ok_or("a record outside of any stream")?, other)?,
        }
        Ok(())
    }

    fn payload_limit(&self, begin: &Begin) -> Option<usize> {
        Some(if begin.is_compound() { Limits::PACKAGE.bytes } else { Limits::SMALL.bytes })
    }

    fn begin_payload(&mut self, payload: &[u8]) -> Result<(), String> {
        let stream = self.stream.as_ref().ok_or("a list outside of any stream")?;
        let package = stream.to_guid == Guid(0);
        let limits = if package { Limits::PACKAGE } else { Limits::SMALL };
        let list = nvlist::decode(payload, limits).map_err(|e| format!("the list in BEGIN: {e}"))?;
        if package {
            return Ok(());
        }
        if stream.raw != list.list("crypt_keydata").is_some() {
            return Err("the list in BEGIN must have crypt_keydata if, and only if, the stream is raw".into());
        }
        if stream.features.contains(Features::RESUMING) {
            let (object, offset) = (list.u64("resume_object"), list.u64("resume_offset"));
            if object.is_none_or(|o| o >= rules::MAX_OBJECT) || offset.is_none() {
                return Err("the list in BEGIN does not say where the stream resumes".into());
            }
        }
        Ok(())
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
