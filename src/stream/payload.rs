//! What follows a record: how many bytes, and whether ZFS has compressed or encrypted them.
//!
//! The sizes are those of the `DRR_*_PAYLOAD_SIZE` macros in `sys/zfs_ioctl.h`.

use super::record::Record;

impl Record {
    /// How many bytes follow the record (`DRR_*_PAYLOAD_SIZE`). Not bounded: the fields are the sender's.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            Record::Begin(b) => b.payload_len.into(),
            Record::Object(o) if o.raw_bonuslen != 0 => o.raw_bonuslen.into(),
            Record::Object(o) => u64::from(o.bonuslen).next_multiple_of(8),
            Record::Write(w) if w.compression != 0 => w.compressed_size,
            Record::Write(w) => w.logical_size,
            Record::Spill(s) if s.compressed_size != 0 => s.compressed_size,
            Record::Spill(s) => s.length,
            Record::WriteEmbedded(e) => u64::from(e.psize).next_multiple_of(8),
            _ => 0,
        }
    }

    /// True when the payload is a block compressed by ZFS.
    pub fn is_compressed(&self) -> bool {
        let code = match self {
            Record::Write(w) => w.compression,
            Record::Spill(s) if s.compressed_size != 0 => s.compression,
            Record::WriteEmbedded(e) => e.compression,
            _ => 0,
        };
        // 2 is "off", which raw streams write out.
        code != 0 && code != 2
    }

    /// True when the payload is a block encrypted by ZFS.
    pub fn is_encrypted(&self) -> bool {
        match self {
            Record::Write(w) => w.crypt.encrypts(),
            Record::Spill(s) => s.crypt.encrypts(),
            _ => false,
        }
    }
}
