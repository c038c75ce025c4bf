//! Writes send streams: for a ZFS that is not there, for tests and for fuzzing.
//!
//! ```
//! use zmigrate::stream::{fletcher::ByteOrder, record::{Begin, Range, Record}, write::StreamWriter};
//! let mut w = StreamWriter::new(ByteOrder::Little);
//! w.record(&Record::Begin(Begin { version_info: 1, objset_type: 2, ..Begin::default() }), &[]);
//! w.record(&Record::Free(Range { object: 1, length: u64::MAX, ..Range::default() }), &[]);
//! w.end();
//! let stream: Vec<u8> = w.take();
//! assert_eq!(stream.len(), 3 * 312);
//! ```
//!
//! Invariant: checksums are those of the bytes written, so that what this module writes, the parser reads.
//! It judges nothing: records that no ZFS would send can be written, too.

use super::{
    fletcher::{ByteOrder, Fletcher4, Sums},
    record::{Begin, CryptParams, MAGIC, RECORD_BYTES, Range, RawRecord, Record, TRAILER_AT},
};
use crate::types::Guid;

/// Writes streams into a buffer that the caller takes away as often as it likes.
#[derive(Debug)]
pub struct StreamWriter {
    order: ByteOrder,
    trailers: bool,
    sums: Fletcher4,
    to_guid: Guid,
    out: Vec<u8>,
}

impl StreamWriter {
    /// A writer that puts a checksum into each record, as OpenZFS does.
    pub fn new(order: ByteOrder) -> Self {
        Self { order, trailers: true, sums: Fletcher4::new(order), to_guid: Guid(0), out: Vec::new() }
    }

    /// A writer that leaves the records' checksums out and writes that of END alone, as zfs-fuse does.
    pub fn without_trailers(order: ByteOrder) -> Self {
        Self { trailers: false, ..Self::new(order) }
    }

    /// Writes a record and its payload, which is padded with zeros to the length that the record says, or cut off there.
    ///
    /// An [`Record::End`] is written with the checksum that it holds; [`StreamWriter::end`] fills in the right one.
    pub fn record(&mut self, record: &Record, payload: &[u8]) {
        let raw = self.head(record);
        self.out.extend_from_slice(&raw);
        let len = record.payload_bytes() as usize;
        let start = self.out.len();
        self.out.extend_from_slice(&payload[..payload.len().min(len)]);
        self.out.resize(start + len, 0);
        self.sums.update(&self.out[start..]);
    }

    /// The bytes of a record, with its checksum, for whoever carries the payload by himself: [`Self::payload`] must be
    /// told of it before the next record.
    pub fn head(&mut self, record: &Record) -> RawRecord {
        let mut raw = encode(record, self.order);
        if let Record::Begin(begin) = record {
            self.sums.reset();
            self.to_guid = begin.to_guid;
            self.sums.update(&raw);
        } else {
            self.sums.update(&raw[..TRAILER_AT]);
            if self.trailers {
                put_sums(&mut raw, TRAILER_AT, self.sums.sums(), self.order);
            }
            self.sums.update(&raw[TRAILER_AT..]);
        }
        raw
    }

    /// The payload of the last [`Self::head`]: its words, and their sums from zero.
    pub fn payload(&mut self, words: u64, sums: Sums) {
        self.sums.append(words, sums);
    }

    /// Writes the END of a stream.
    pub fn end(&mut self) {
        let end = self.end_record();
        self.record(&end, &[]);
        self.sums.reset();
    }

    /// The END that would make what was written a whole stream.
    pub fn end_record(&self) -> Record {
        Record::End { checksum: self.sums.sums(), to_guid: self.to_guid }
    }

    /// Writes the head of a package: a BEGIN without GUID, its nvlist, and an END without trailer.
    pub fn package_head(&mut self, to_name: &str, nvlist: &[u8]) {
        let begin =
            Begin { version_info: 2, payload_len: nvlist.len() as u32, to_name: to_name.into(), ..Begin::default() };
        self.record(&Record::Begin(begin), nvlist);
        let end = Record::End { checksum: self.sums.sums(), to_guid: Guid(0) };
        self.out.extend_from_slice(&encode(&end, self.order));
        self.sums.reset();
    }

    /// Writes the END of a package, which is zero apart from its type.
    pub fn package_end(&mut self) {
        self.out.extend_from_slice(&encode(&Record::End { checksum: Sums::default(), to_guid: Guid(0) }, self.order));
    }

    /// Takes what was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

struct Fields {
    raw: RawRecord,
    order: ByteOrder,
}

impl Fields {
    fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.raw[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u8(self, at: usize, n: u8) -> Self {
        self.bytes(at, &[n])
    }

    fn u32(self, at: usize, n: u32) -> Self {
        let bytes = if self.order == ByteOrder::Big { n.to_be_bytes() } else { n.to_le_bytes() };
        self.bytes(at, &bytes)
    }

    fn u64(self, at: usize, n: u64) -> Self {
        let bytes = if self.order == ByteOrder::Big { n.to_be_bytes() } else { n.to_le_bytes() };
        self.bytes(at, &bytes)
    }

    fn crypt(self, at: usize, c: &CryptParams) -> Self {
        self.bytes(at, &c.salt).bytes(at + 8, &c.iv).bytes(at + 20, &c.mac)
    }

    fn range(self, r: &Range) -> Self {
        self.u64(8, r.object).u64(16, r.offset).u64(24, r.length).u64(32, r.to_guid.0)
    }
}

fn put_sums(raw: &mut RawRecord, at: usize, sums: Sums, order: ByteOrder) {
    for (i, sum) in sums.0.into_iter().enumerate() {
        let bytes = if order == ByteOrder::Big { sum.to_be_bytes() } else { sum.to_le_bytes() };
        raw[at + 8 * i..at + 8 * i + 8].copy_from_slice(&bytes);
    }
}

/// The bytes of a record, without a trailer. A name is cut off at 255 bytes.
pub fn encode(record: &Record, order: ByteOrder) -> RawRecord {
    let f = Fields { raw: [0; RECORD_BYTES], order }.u32(0, record.record_type() as u32);
    let f = match record {
        Record::Begin(b) => f
            .u32(4, b.payload_len)
            .u64(8, MAGIC)
            .u64(16, b.version_info)
            .u64(24, b.creation)
            .u32(32, b.objset_type)
            .u32(36, b.flags)
            .u64(40, b.to_guid.0)
            .u64(48, b.from_guid.0)
            .bytes(56, &b.to_name.as_bytes()[..b.to_name.len().min(255)]),
        Record::Object(o) => f
            .u64(8, o.object)
            .u32(16, o.object_type)
            .u32(20, o.bonus_type)
            .u32(24, o.blksz)
            .u32(28, o.bonuslen)
            .bytes(32, &[o.checksum, o.compress, o.dn_slots, o.flags])
            .u32(36, o.raw_bonuslen)
            .u64(40, o.to_guid.0)
            .bytes(48, &[o.indblkshift, o.nlevels, o.nblkptr])
            .u64(56, o.maxblkid),
        Record::FreeObjects { first, count, to_guid } => f.u64(8, *first).u64(16, *count).u64(24, to_guid.0),
        Record::Write(w) => f
            .u64(8, w.object)
            .u32(16, w.object_type)
            .u64(24, w.offset)
            .u64(32, w.logical_size)
            .u64(40, w.to_guid.0)
            .bytes(48, &[w.checksum, w.flags, w.compression])
            .bytes(56, &w.key)
            .u64(96, w.compressed_size)
            .crypt(104, &w.crypt),
        Record::Free(r) | Record::Redact(r) => f.range(r),
        Record::End { checksum, to_guid } => {
            let mut f = f.u64(40, to_guid.0);
            put_sums(&mut f.raw, 8, *checksum, order);
            f
        }
        Record::WriteByref(w) => f
            .u64(8, w.object)
            .u64(16, w.offset)
            .u64(24, w.length)
            .u64(32, w.to_guid.0)
            .u64(40, w.ref_guid.0)
            .u64(48, w.ref_object)
            .u64(56, w.ref_offset),
        Record::Spill(s) => f
            .u64(8, s.object)
            .u64(16, s.length)
            .u64(24, s.to_guid.0)
            .bytes(32, &[s.flags, s.compression])
            .u64(40, s.compressed_size)
            .crypt(48, &s.crypt)
            .u32(84, s.object_type),
        Record::WriteEmbedded(e) => f
            .u64(8, e.object)
            .u64(16, e.offset)
            .u64(24, e.length)
            .u64(32, e.to_guid.0)
            .u8(40, e.compression)
            .u8(41, e.etype)
            .u32(48, e.lsize)
            .u32(52, e.psize),
        Record::ObjectRange { first, count, to_guid, crypt, flags } => {
            f.u64(8, *first).u64(16, *count).u64(24, to_guid.0).crypt(32, crypt).u8(68, *flags)
        }
    };
    f.raw
}
