//! An incremental parser of send streams: fed in any pieces, it says up to where the bytes may be handed on.
//!
//! It checks what makes bytes a stream at all: framing, the order of the records, the checksum in each
//! record and in each END. What a stream may contain is up to the [`Judge`].
//!
//! Invariant: a byte is released only when the record that it belongs to has passed every check, and the
//! last END only when its checksum agreed. So what is damaged or cut off never looks complete to whoever
//! gets the released bytes. Payloads are not copied: besides one partial record, only a payload that the judge asks
//! for is kept, up to the limit that it names.

use super::{
    fletcher::{ByteOrder, Fletcher4, Sums},
    record::{self, RECORD_BYTES, RawRecord, Record, RecordType, TRAILER_AT},
};

/// The longest payload of any record but BEGIN: `SPA_MAXBLOCKSIZE`, 16 MiB.
pub const MAX_PAYLOAD_BYTES: u64 = 16 << 20;
/// The longest payload of a BEGIN: the kernel itself takes no more than 256 MiB.
pub const MAX_BEGIN_PAYLOAD_BYTES: u64 = 256 << 20;

/// Decides what a stream may contain. Called in the order of the stream.
pub trait Judge {
    /// Judges a record whose checksum is right. The payload has not arrived yet.
    ///
    /// # Errors
    /// Why the record is refused.
    fn record(&mut self, record: &Record, raw: &RawRecord) -> Result<(), String>;

    /// How much of this record's payload to keep for [`Judge::payload`]; `None` when it need not be seen. A record whose
    /// payload is kept is not released before the payload has been judged.
    fn payload_limit(&self, _record: &Record) -> Option<usize> {
        None
    }

    /// Judges the whole payload of the last record, if it was to be kept.
    ///
    /// # Errors
    /// Why the payload is refused.
    fn payload(&mut self, _payload: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Takes every stream that is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyStream;

impl Judge for AnyStream {
    fn record(&mut self, _: &Record, _: &RawRecord) -> Result<(), String> {
        Ok(())
    }
}

/// What kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Not a send stream, or records in an impossible order.
    Framing,
    /// A checksum does not agree: the stream was damaged on its way.
    Checksum,
    /// A sound stream that the judge refuses.
    Refused,
    /// The stream ends in the middle.
    Truncated,
}

impl FaultKind {
    /// True if the stream was damaged or broke off on its way, false if it is one that is not taken.
    pub fn is_damage(self) -> bool {
        matches!(self, FaultKind::Checksum | FaultKind::Truncated)
    }
}

/// Where and why a stream is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream record {record} at byte {offset}: {cause}")]
pub struct StreamFault {
    /// Index of the record; the first BEGIN is 0.
    pub record: u64,
    /// Where that record starts, in bytes from the start of the stream; for a truncated stream, its length.
    pub offset: u64,
    /// What kind of fault.
    pub kind: FaultKind,
    /// What is wrong, for people.
    pub cause: String,
}

/// What one call of [`Parser::feed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the stream, from its start, that have been judged and may be handed on.
    pub released: u64,
    /// Bytes of this input that belong to blocks which ZFS compressed or encrypted: compressing them again is no use.
    pub incompressible: u64,
}

/// Running totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records of each type, by its code.
    pub records: [u64; RecordType::ALL.len()],
    /// Bytes of the payloads of each type, by its code. Counted with the record, as `zstream dump` does.
    pub payload_bytes: [u64; RecordType::ALL.len()],
    /// Of these, bytes of blocks that ZFS compressed.
    pub compressed_bytes: u64,
    /// Of these, bytes of blocks that ZFS encrypted. A block can be both.
    pub encrypted_bytes: u64,
}

impl Totals {
    /// Records of all types.
    pub fn total_records(&self) -> u64 {
        self.records.iter().sum()
    }

    /// Bytes of all payloads.
    pub fn total_payload_bytes(&self) -> u64 {
        self.payload_bytes.iter().sum()
    }

    fn count(&mut self, record: &Record) {
        let (code, bytes) = (record.record_type() as usize, record.payload_bytes());
        self.records[code] += 1;
        self.payload_bytes[code] += bytes;
        if record.is_compressed() {
            self.compressed_bytes += bytes;
        }
        if record.is_encrypted() {
            self.encrypted_bytes += bytes;
        }
    }
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The last END came and its checksum agreed. Of a package this proves little: `zfs send` writes the
    /// last END even after an error.
    Complete,
    /// All records are sound, but there is no END, and the last record is a FREEOBJECTS.
    ///
    /// `zfs send --saved` sends the state that an interrupted `receive -s` left, and leaves END out so that no
    /// receiver takes it for complete (`dmu_send_impl` in `dmu_send.c`). Its BEGIN is that of the snapshot
    /// which was being received: no feature and no flag tells. What can be recognised is that it stops between
    /// two records, and that its last record says that the rest of the last block of dnodes is free, as it
    /// does in nearly every stream. A stream that was cut off just there looks the same. Nothing may treat
    /// it as complete.
    SavedWithoutEnd,
    /// Anything else: no stream, damaged, refused, or cut off.
    Damaged(StreamFault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first record.
    Start,
    /// After the BEGIN of a package.
    PackageHead,
    /// Between the streams of a package.
    Package,
    /// In a stream; in a package or by itself.
    Stream { packaged: bool },
    /// After the last END.
    Done,
}

#[derive(Debug)]
enum Awaiting {
    Record,
    Payload {
        left: u64,
        incompressible: bool,
    },
    /// A payload that the judge wants to see.
    Kept {
        left: usize,
    },
}

/// The parser.
#[derive(Debug)]
pub struct Parser<J> {
    judge: J,
    place: Place,
    awaiting: Awaiting,
    // A record that a split of the input cut.
    partial: Box<RawRecord>,
    partial_len: usize,
    // What came of such a payload.
    kept: Vec<u8>,
    sums: Option<Fletcher4>,
    fed: u64,
    released: u64,
    // Where the current record started, and its index.
    record_at: u64,
    record_index: u64,
    last: Option<RecordType>,
    totals: Totals,
    fault: Option<StreamFault>,
}

impl<J: Judge> Parser<J> {
    /// A parser before the first byte.
    pub fn new(judge: J) -> Self {
        Self {
            judge,
            place: Place::Start,
            awaiting: Awaiting::Record,
            partial: Box::new([0; RECORD_BYTES]),
            partial_len: 0,
            kept: Vec::new(),
            sums: None,
            fed: 0,
            released: 0,
            record_at: 0,
            record_index: 0,
            last: None,
            totals: Totals::default(),
            fault: None,
        }
    }

    /// What judges the records.
    pub fn judge(&self) -> &J {
        &self.judge
    }

    /// Bytes, from the start of the stream, that may be handed on. Valid after a fault, too.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// Bytes fed so far.
    pub fn fed(&self) -> u64 {
        self.fed
    }

    /// Running totals over all records that passed.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The byte order of the sender, once the first record came.
    pub fn byte_order(&self) -> Option<ByteOrder> {
        self.sums.as_ref().map(Fletcher4::order)
    }

    /// True after the last END: nothing more may follow.
    pub fn is_complete(&self) -> bool {
        self.fault.is_none() && self.place == Place::Done && self.partial_len == 0
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// When the stream is not sound or the judge refuses it. [`Parser::released`] then says what had been
    /// released before; every later call gives the same fault.
    pub fn feed(&mut self, input: &[u8]) -> Result<Progress, StreamFault> {
        let mut rest = input;
        let mut incompressible = 0;
        while !rest.is_empty() {
            if let Some(fault) = &self.fault {
                return Err(fault.clone());
            }
            let taken = match &mut self.awaiting {
                Awaiting::Payload { left, incompressible: skip } => {
                    let n = (*left).min(rest.len() as u64);
                    let bytes = &rest[..n as usize];
                    *left -= n;
                    if *skip {
                        incompressible += n;
                    }
                    if *left == 0 {
                        self.awaiting = Awaiting::Record;
                    }
                    self.sum(bytes);
                    self.released += n;
                    bytes.len()
                }
                Awaiting::Kept { left } => {
                    let n = (*left).min(rest.len());
                    *left -= n;
                    let whole = *left == 0;
                    self.kept.extend_from_slice(&rest[..n]);
                    self.sum(&rest[..n]);
                    if whole {
                        self.finish_kept(n);
                    }
                    n
                }
                Awaiting::Record => self.take_record(rest),
            };
            self.fed += taken as u64;
            rest = &rest[taken..];
        }
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None => Ok(Progress { released: self.released, incompressible }),
        }
    }

    /// Says how the stream ended, when there are no more bytes.
    pub fn finish(&self) -> Ending {
        if let Some(fault) = &self.fault {
            return Ending::Damaged(fault.clone());
        }
        let between_records = self.partial_len == 0 && matches!(self.awaiting, Awaiting::Record);
        match self.place {
            Place::Done if between_records => return Ending::Complete,
            Place::Stream { packaged: false } if between_records && self.last == Some(RecordType::FreeObjects) => {
                return Ending::SavedWithoutEnd;
            }
            _ => {}
        }
        let cause = match (&self.awaiting, self.place) {
            _ if self.fed == 0 => "the stream is empty".to_owned(),
            (Awaiting::Payload { left, .. }, _) => format!("the stream ends {left} bytes short in a payload"),
            (Awaiting::Kept { left }, _) => format!("the stream ends {left} bytes short in a payload"),
            (Awaiting::Record, Place::Start) => "it is shorter than one record".to_owned(),
            (Awaiting::Record, _) if self.partial_len > 0 => "the stream ends in a record".to_owned(),
            (Awaiting::Record, Place::PackageHead | Place::Package) => "the package has no END".to_owned(),
            (Awaiting::Record, _) => "the stream has no END".to_owned(),
        };
        let record = self.totals.total_records().saturating_sub(u64::from(!between_records && self.partial_len == 0));
        Ending::Damaged(StreamFault { record, offset: self.fed, kind: FaultKind::Truncated, cause })
    }

    fn sum(&mut self, bytes: &[u8]) {
        if let Some(sums) = &mut self.sums {
            sums.update(bytes);
        }
    }

    fn finish_kept(&mut self, last_piece: usize) {
        self.awaiting = Awaiting::Record;
        let payload = std::mem::take(&mut self.kept);
        match self.judge.payload(&payload) {
            Ok(()) => self.released = self.fed + last_piece as u64,
            Err(cause) => self.fail(FaultKind::Refused, cause),
        }
    }

    fn fail(&mut self, kind: FaultKind, cause: impl Into<String>) {
        self.fault = Some(StreamFault { record: self.record_index, offset: self.record_at, kind, cause: cause.into() });
    }

    /// Takes at most one record; gives how many bytes were taken.
    fn take_record(&mut self, input: &[u8]) -> usize {
        if self.partial_len == 0 {
            self.record_at = self.fed;
            self.record_index = self.totals.total_records();
            if self.place == Place::Done {
                self.fail(FaultKind::Framing, "bytes follow the end of the stream");
                return input.len();
            }
            if let Some(raw) = input.first_chunk::<RECORD_BYTES>() {
                self.judge_record(raw);
                return RECORD_BYTES;
            }
        }
        let n = input.len().min(RECORD_BYTES - self.partial_len);
        self.partial[self.partial_len..self.partial_len + n].copy_from_slice(&input[..n]);
        self.partial_len += n;
        if self.partial_len == RECORD_BYTES {
            self.partial_len = 0;
            let raw = *self.partial;
            self.judge_record(&raw);
        }
        n
    }

    fn judge_record(&mut self, raw: &RawRecord) {
        match self.check_record(raw) {
            Ok(()) => {}
            Err((kind, cause)) => self.fail(kind, cause),
        }
    }

    fn check_record(&mut self, raw: &RawRecord) -> Result<(), (FaultKind, String)> {
        let framing = |cause: String| (FaultKind::Framing, cause);
        if self.place == Place::Start {
            let order =
                record::byte_order(raw).ok_or_else(|| framing("it does not begin with a BEGIN record".into()))?;
            self.sums = Some(Fletcher4::new(order));
        }
        let Some(sums) = self.sums.as_mut() else { return Err(framing("no BEGIN record".into())) };
        let order = sums.order();
        let code = record::type_code(raw, order);
        let before = sums.sums();
        if code == RecordType::Begin as u32 {
            // A BEGIN has no trailer: its name reaches to the end. The next record's trailer covers it.
            sums.reset();
            sums.update(raw);
            if record::byte_order(raw) != Some(order) {
                return Err(framing("a BEGIN record without the magic number".into()));
            }
        } else {
            sums.update(&raw[..TRAILER_AT]);
            let (found, announced) = (sums.sums(), record::trailer(raw, order));
            // All zero means absent: zfs-fuse writes none, nor does the END of a package's head.
            if announced != Sums::default() && announced != found {
                return Err((
                    FaultKind::Checksum,
                    "the record's checksum does not agree: the stream is damaged before or in it".into(),
                ));
            }
            sums.update(&raw[TRAILER_AT..]);
        }
        let record = Record::decode(raw, order).ok_or_else(|| framing(format!("unknown record type {code:#x}")))?;
        let place = self.next_place(&record, raw, before)?;
        let payload = record.payload_bytes();
        let limit = if code == 0 { MAX_BEGIN_PAYLOAD_BYTES } else { MAX_PAYLOAD_BYTES };
        if payload > limit {
            return Err(framing(format!("a payload of {payload} bytes is longer than {limit}")));
        }
        if !payload.is_multiple_of(4) {
            return Err(framing(format!("a payload of {payload} bytes is no whole number of words")));
        }
        self.judge.record(&record, raw).map_err(|cause| (FaultKind::Refused, cause))?;
        if place == Place::Done || matches!(record, Record::End { .. }) {
            // The sums start over after each END, as they do at each BEGIN.
            self.sums = Some(Fletcher4::new(order));
        }
        self.place = place;
        self.last = Some(record.record_type());
        self.totals.count(&record);
        self.await_payload(&record, payload)
    }

    fn await_payload(&mut self, record: &Record, payload: u64) -> Result<(), (FaultKind, String)> {
        if payload > 0
            && let Some(limit) = self.judge.payload_limit(record)
        {
            if payload > limit as u64 {
                let name = record.record_type().name();
                let cause = format!("a {name} payload of {payload} bytes is longer than {limit}");
                return Err((FaultKind::Refused, cause));
            }
            // It grows with what arrives: nothing is allocated on the word of the header alone.
            self.kept.clear();
            self.awaiting = Awaiting::Kept { left: payload as usize };
            return Ok(());
        }
        if payload > 0 {
            let incompressible = record.is_compressed() || record.is_encrypted();
            self.awaiting = Awaiting::Payload { left: payload, incompressible };
        }
        self.released = self.record_at + RECORD_BYTES as u64;
        Ok(())
    }

    fn next_place(&self, record: &Record, raw: &RawRecord, before: Sums) -> Result<Place, (FaultKind, String)> {
        let framing = |cause: &str| Err((FaultKind::Framing, cause.to_owned()));
        let sound = |checksum: Sums| checksum == before;
        match (self.place, record) {
            (Place::Start, Record::Begin(b)) if b.is_compound() => Ok(Place::PackageHead),
            (Place::Start, Record::Begin(b)) if b.is_substream() => Ok(Place::Stream { packaged: false }),
            (Place::Package, Record::Begin(b)) if b.is_substream() => Ok(Place::Stream { packaged: true }),
            (Place::Start | Place::Package, Record::Begin(_)) => framing("a BEGIN of an unknown kind of stream"),
            (_, Record::Begin(_)) => framing("a BEGIN inside a stream"),
            (Place::PackageHead, Record::End { checksum, .. }) if sound(*checksum) => Ok(Place::Package),
            (Place::Package, Record::End { .. }) if raw[4..].iter().all(|b| *b == 0) => Ok(Place::Done),
            (Place::Package, Record::End { .. }) => framing("an END that belongs to no stream"),
            (Place::Stream { packaged }, Record::End { checksum, .. }) if sound(*checksum) => {
                Ok(if packaged { Place::Package } else { Place::Done })
            }
            (Place::Stream { packaged: true }, Record::End { checksum, .. }) if *checksum == Sums::default() => {
                framing("the package ends inside a stream: the sender failed there")
            }
            (_, Record::End { .. }) => {
                Err((FaultKind::Checksum, "the checksum in END does not agree: the stream is damaged".into()))
            }
            (Place::PackageHead | Place::Package, _) => framing("a record outside of any stream"),
            (Place::Stream { .. }, _) => Ok(self.place),
            (Place::Start | Place::Done, _) => framing("a record outside of any stream"),
        }
    }
}

#[cfg(test)]
mod tests;
