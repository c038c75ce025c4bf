//! The records of a send stream: `dmu_replay_record` in `sys/zfs_ioctl.h`, 312 bytes each.
//!
//! ```text
//! 0      4           8                                       280        312
//! │ type │ payloadlen │ fields, by type                       │ trailer  │ payload …
//! ```
//!
//! Invariant: decoding judges nothing. A field that makes no sense is found by the gate, not here.

use super::features::Features;
use super::fletcher::{ByteOrder, Sums};
use crate::types::Guid;

/// The size of every record without its payload.
pub const RECORD_BYTES: usize = 312;
/// Where the checksum of the record begins, in all types but BEGIN.
pub const TRAILER_AT: usize = 280;
/// `DMU_BACKUP_MAGIC`.
pub const MAGIC: u64 = 0x2_F5BA_CBAC;

/// The bytes of a record.
pub type RawRecord = [u8; RECORD_BYTES];

/// What kind of record (`drr_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are those of sys/zfs_ioctl.h")]
pub enum RecordType {
    Begin,
    Object,
    FreeObjects,
    Write,
    Free,
    End,
    WriteByref,
    Spill,
    WriteEmbedded,
    ObjectRange,
    Redact,
}

impl RecordType {
    /// All types; the index is the code.
    pub const ALL: [RecordType; 11] = [
        RecordType::Begin,
        RecordType::Object,
        RecordType::FreeObjects,
        RecordType::Write,
        RecordType::Free,
        RecordType::End,
        RecordType::WriteByref,
        RecordType::Spill,
        RecordType::WriteEmbedded,
        RecordType::ObjectRange,
        RecordType::Redact,
    ];

    /// The type of that code.
    pub fn from_code(code: u32) -> Option<RecordType> {
        Self::ALL.get(code as usize).copied()
    }

    /// The name without `DRR_`.
    pub fn name(self) -> &'static str {
        match self {
            RecordType::Begin => "BEGIN",
            RecordType::Object => "OBJECT",
            RecordType::FreeObjects => "FREEOBJECTS",
            RecordType::Write => "WRITE",
            RecordType::Free => "FREE",
            RecordType::End => "END",
            RecordType::WriteByref => "WRITE_BYREF",
            RecordType::Spill => "SPILL",
            RecordType::WriteEmbedded => "WRITE_EMBEDDED",
            RecordType::ObjectRange => "OBJECT_RANGE",
            RecordType::Redact => "REDACT",
        }
    }
}

/// Salt, initialisation vector and MAC of an encrypted block; all zero outside raw streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CryptParams {
    /// Salt.
    pub salt: [u8; 8],
    /// Initialisation vector.
    pub iv: [u8; 12],
    /// Message authentication code.
    pub mac: [u8; 16],
}

impl CryptParams {
    /// True when nothing is set.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// True when the block is encrypted, not only authenticated: it then has an initialisation vector.
    pub fn encrypts(&self) -> bool {
        self.iv != [0; 12]
    }
}

/// A BEGIN record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// Length of the nvlist that follows, in bytes.
    pub payload_len: u32,
    /// Header type (bits 0 and 1) and features (from bit 2).
    pub version_info: u64,
    /// When the snapshot was made, in seconds since 1970.
    pub creation: u64,
    /// `DMU_OST_ZFS` (2) or `DMU_OST_ZVOL` (3).
    pub objset_type: u32,
    /// `DRR_FLAG_*`.
    pub flags: u32,
    /// The snapshot being sent; 0 in the BEGIN of a package.
    pub to_guid: Guid,
    /// The snapshot that the stream starts from; 0 for a full stream.
    pub from_guid: Guid,
    /// The snapshot's name at the source. Bytes that are not UTF-8 have become U+FFFD.
    pub to_name: String,
}

impl Begin {
    /// True for the BEGIN of a package of streams (`DMU_COMPOUNDSTREAM`).
    pub fn is_compound(&self) -> bool {
        self.version_info & 3 == 2
    }

    /// True for the BEGIN of a single stream (`DMU_SUBSTREAM`).
    pub fn is_substream(&self) -> bool {
        self.version_info & 3 == 1
    }

    /// The feature bits.
    pub fn features(&self) -> Features {
        Features(self.version_info >> 2)
    }
}

/// An OBJECT record: a dnode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of sys/zfs_ioctl.h")]
pub struct Object {
    pub object: u64,
    pub object_type: u32,
    pub bonus_type: u32,
    pub blksz: u32,
    pub bonuslen: u32,
    pub checksum: u8,
    pub compress: u8,
    pub dn_slots: u8,
    pub flags: u8,
    pub raw_bonuslen: u32,
    pub to_guid: Guid,
    pub indblkshift: u8,
    pub nlevels: u8,
    pub nblkptr: u8,
    pub maxblkid: u64,
}

/// A WRITE record: a block.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of sys/zfs_ioctl.h")]
pub struct Write {
    pub object: u64,
    pub object_type: u32,
    pub offset: u64,
    pub logical_size: u64,
    pub to_guid: Guid,
    pub checksum: u8,
    pub flags: u8,
    pub compression: u8,
    /// Checksum and properties of the block, for deduplication.
    pub key: [u8; 40],
    pub compressed_size: u64,
    pub crypt: CryptParams,
}

impl Default for Write {
    fn default() -> Self {
        Self {
            object: 0,
            object_type: 0,
            offset: 0,
            logical_size: 0,
            to_guid: Guid(0),
            checksum: 0,
            flags: 0,
            compression: 0,
            key: [0; 40],
            compressed_size: 0,
            crypt: CryptParams::default(),
        }
    }
}

/// A SPILL record: the block of a dnode's further system attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of sys/zfs_ioctl.h")]
pub struct Spill {
    pub object: u64,
    pub length: u64,
    pub to_guid: Guid,
    pub flags: u8,
    pub compression: u8,
    pub compressed_size: u64,
    pub crypt: CryptParams,
    pub object_type: u32,
}

/// A WRITE_EMBEDDED record: a block so small that it lay in its block pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of sys/zfs_ioctl.h")]
pub struct WriteEmbedded {
    pub object: u64,
    pub offset: u64,
    pub length: u64,
    pub to_guid: Guid,
    pub compression: u8,
    pub etype: u8,
    pub lsize: u32,
    pub psize: u32,
}

/// A WRITE_BYREF record: a block that an earlier stream carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of sys/zfs_ioctl.h")]
pub struct WriteByref {
    pub object: u64,
    pub offset: u64,
    pub length: u64,
    pub to_guid: Guid,
    pub ref_guid: Guid,
    pub ref_object: u64,
    pub ref_offset: u64,
}

/// A FREE or REDACT record: a range of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The object.
    pub object: u64,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; `u64::MAX` is to the end of the object.
    pub length: u64,
    /// The snapshot being sent.
    pub to_guid: Guid,
}

/// One record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The start of a stream, or of a package.
    Begin(Begin),
    /// A dnode.
    Object(Object),
    /// Objects that do not exist.
    FreeObjects {
        /// The first of them.
        first: u64,
        /// How many.
        count: u64,
        /// The snapshot being sent.
        to_guid: Guid,
    },
    /// A block.
    Write(Write),
    /// A hole.
    Free(Range),
    /// The end of a stream, of a package's head, or of a package.
    End {
        /// The running sums before this record.
        checksum: Sums,
        /// The snapshot being sent.
        to_guid: Guid,
    },
    /// A block that an earlier stream carried.
    WriteByref(WriteByref),
    /// A block of system attributes.
    Spill(Spill),
    /// A very small block.
    WriteEmbedded(WriteEmbedded),
    /// The encryption parameters of a block of dnodes, in raw streams.
    ObjectRange {
        /// The first object.
        first: u64,
        /// How many.
        count: u64,
        /// The snapshot being sent.
        to_guid: Guid,
        /// Parameters of the block.
        crypt: CryptParams,
        /// `DRR_RAW_BYTESWAP`.
        flags: u8,
    },
    /// A range that was left out on purpose.
    Redact(Range),
}

/// Reads fields in the stream's byte order.
struct Fields<'a>(&'a RawRecord, ByteOrder);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }

    fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    fn u32(&self, at: usize) -> u32 {
        match self.1 {
            ByteOrder::Little => u32::from_le_bytes(self.bytes(at)),
            ByteOrder::Big => u32::from_be_bytes(self.bytes(at)),
        }
    }

    fn u64(&self, at: usize) -> u64 {
        match self.1 {
            ByteOrder::Little => u64::from_le_bytes(self.bytes(at)),
            ByteOrder::Big => u64::from_be_bytes(self.bytes(at)),
        }
    }

    fn guid(&self, at: usize) -> Guid {
        Guid(self.u64(at))
    }

    fn sums(&self, at: usize) -> Sums {
        Sums([self.u64(at), self.u64(at + 8), self.u64(at + 16), self.u64(at + 24)])
    }

    fn crypt(&self, at: usize) -> CryptParams {
        CryptParams { salt: self.bytes(at), iv: self.bytes(at + 8), mac: self.bytes(at + 20) }
    }

    fn range(&self) -> Range {
        Range { object: self.u64(8), offset: self.u64(16), length: self.u64(24), to_guid: self.guid(32) }
    }
}

/// The byte order of a stream, from its first record; `None` when that is no BEGIN.
pub fn byte_order(raw: &RawRecord) -> Option<ByteOrder> {
    [ByteOrder::Little, ByteOrder::Big]
        .into_iter()
        .find(|order| Fields(raw, *order).u64(8) == MAGIC && Fields(raw, *order).u32(0) == 0)
}

/// The code of the record's type, known or not.
pub fn type_code(raw: &RawRecord, order: ByteOrder) -> u32 {
    Fields(raw, order).u32(0)
}

/// The checksum at the end of the record. Meaningless in a BEGIN, whose name reaches to there.
pub fn trailer(raw: &RawRecord, order: ByteOrder) -> Sums {
    Fields(raw, order).sums(TRAILER_AT)
}

impl Record {
    /// Decodes a record; `None` when its type is unknown.
    pub fn decode(raw: &RawRecord, order: ByteOrder) -> Option<Record> {
        let f = Fields(raw, order);
        Some(match RecordType::from_code(f.u32(0))? {
            RecordType::Begin => {
                let name = &raw[56..312];
                let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
                Record::Begin(Begin {
                    payload_len: f.u32(4),
                    version_info: f.u64(16),
                    creation: f.u64(24),
                    objset_type: f.u32(32),
                    flags: f.u32(36),
                    to_guid: f.guid(40),
                    from_guid: f.guid(48),
                    to_name: String::from_utf8_lossy(name).into_owned(),
                })
            }
            RecordType::Object => Record::Object(Object {
                object: f.u64(8),
                object_type: f.u32(16),
                bonus_type: f.u32(20),
                blksz: f.u32(24),
                bonuslen: f.u32(28),
                checksum: f.u8(32),
                compress: f.u8(33),
                dn_slots: f.u8(34),
                flags: f.u8(35),
                raw_bonuslen: f.u32(36),
                to_guid: f.guid(40),
                indblkshift: f.u8(48),
                nlevels: f.u8(49),
                nblkptr: f.u8(50),
                maxblkid: f.u64(56),
            }),
            RecordType::FreeObjects => Record::FreeObjects { first: f.u64(8), count: f.u64(16), to_guid: f.guid(24) },
            RecordType::Write => Record::Write(Write {
                object: f.u64(8),
                object_type: f.u32(16),
                offset: f.u64(24),
                logical_size: f.u64(32),
                to_guid: f.guid(40),
                checksum: f.u8(48),
                flags: f.u8(49),
                compression: f.u8(50),
                key: f.bytes(56),
                compressed_size: f.u64(96),
                crypt: f.crypt(104),
            }),
            RecordType::Free => Record::Free(f.range()),
            RecordType::End => Record::End { checksum: f.sums(8), to_guid: f.guid(40) },
            RecordType::WriteByref => Record::WriteByref(WriteByref {
                object: f.u64(8),
                offset: f.u64(16),
                length: f.u64(24),
                to_guid: f.guid(32),
                ref_guid: f.guid(40),
                ref_object: f.u64(48),
                ref_offset: f.u64(56),
            }),
            RecordType::Spill => Record::Spill(Spill {
                object: f.u64(8),
                length: f.u64(16),
                to_guid: f.guid(24),
                flags: f.u8(32),
                compression: f.u8(33),
                compressed_size: f.u64(40),
                crypt: f.crypt(48),
                object_type: f.u32(84),
            }),
            RecordType::WriteEmbedded => Record::WriteEmbedded(WriteEmbedded {
                object: f.u64(8),
                offset: f.u64(16),
                length: f.u64(24),
                to_guid: f.guid(32),
                compression: f.u8(40),
                etype: f.u8(41),
                lsize: f.u32(48),
                psize: f.u32(52),
            }),
            RecordType::ObjectRange => Record::ObjectRange {
                first: f.u64(8),
                count: f.u64(16),
                to_guid: f.guid(24),
                crypt: f.crypt(32),
                flags: f.u8(68),
            },
            RecordType::Redact => Record::Redact(f.range()),
        })
    }

    /// The type.
    pub fn record_type(&self) -> RecordType {
        match self {
            Record::Begin(_) => RecordType::Begin,
            Record::Object(_) => RecordType::Object,
            Record::FreeObjects { .. } => RecordType::FreeObjects,
            Record::Write(_) => RecordType::Write,
            Record::Free(_) => RecordType::Free,
            Record::End { .. } => RecordType::End,
            Record::WriteByref(_) => RecordType::WriteByref,
            Record::Spill(_) => RecordType::Spill,
            Record::WriteEmbedded(_) => RecordType::WriteEmbedded,
            Record::ObjectRange { .. } => RecordType::ObjectRange,
            Record::Redact(_) => RecordType::Redact,
        }
    }
}
