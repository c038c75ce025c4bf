//! The rules for the records of one stream, by type.
//!
//! Limits are those of the on-disk format (`sys/spa.h`, `sys/dnode.h`, `sys/zio.h`); what else is refused is
//! what a sender never writes (`dmu_send.c`) or a receiver refuses (`dmu_recv.c`).

use super::{
    features::Features,
    gate::Stream,
    record::{CryptParams, Object, Range, Record, Spill, Write, WriteEmbedded},
};
use crate::types::Guid;

/// One more than the last object number (`DN_MAX_OBJECT`).
pub const MAX_OBJECT: u64 = 1 << 48;
/// `SPA_MINBLOCKSIZE`.
const SECTOR: u64 = 512;
/// `SPA_MAXBLOCKSIZE`.
const MAX_BLOCK: u64 = 16 << 20;
/// `SPA_OLD_MAXBLOCKSIZE`: what a block may have without LARGE_BLOCKS, and a spill block at all.
const OLD_MAX_BLOCK: u64 = 128 << 10;
/// `DNODES_PER_BLOCK`.
const DNODES_PER_BLOCK: u64 = 32;
/// `DNODE_MAX_SIZE` over `DNODE_MIN_SIZE`.
const MAX_SLOTS: u8 = 32;
/// `BPE_PAYLOAD_SIZE`.
const MAX_EMBEDDED: u32 = 112;
/// `DN_MAX_LEVELS`.
const MAX_LEVELS: u8 = 12;
/// `ZIO_CHECKSUM_FUNCTIONS`, with blake3.
const CHECKSUMS: u8 = 15;
/// `ZIO_COMPRESS_FUNCTIONS`, with zstd.
const COMPRESSIONS: u8 = 17;

const LZ4: u8 = 15;
const ZSTD: u8 = 16;

// Flags of single records.
const DEDUP_CAPABLE: u8 = 1;
const RAW_BYTESWAP: u8 = 2;
const OBJECT_SPILL: u8 = 4;
const SPILL_UNMODIFIED: u8 = 4;

type Verdict = Result<(), String>;

/// The record's GUID must be that of the stream's BEGIN.
pub fn same_guid(stream: &Stream, guid: Guid) -> Verdict {
    if guid == stream.to_guid { Ok(()) } else { Err(format!("the record is of another stream, GUID {guid}")) }
}

/// Judges a record inside a stream.
pub fn check(stream: &mut Stream, record: &Record) -> Verdict {
    match record {
        Record::Object(o) => object(stream, o),
        Record::FreeObjects { first, count, to_guid } => free_objects(stream, *first, *count, *to_guid),
        Record::Write(w) => write(stream, w),
        Record::Free(r) => range(stream, r),
        Record::Redact(r) => {
            needs(stream, Features::REDACTED, "REDACT")?;
            range(stream, r)
        }
        Record::Spill(s) => spill(stream, s),
        Record::WriteEmbedded(e) => embedded(stream, e),
        Record::ObjectRange { first, count, to_guid, flags, .. } => {
            object_range(stream, *first, *count, *to_guid, *flags)
        }
        Record::WriteByref(_) => Err("WRITE_BYREF: streams that refer to other blocks are not taken".into()),
        Record::Begin(_) | Record::End { .. } => Err("a BEGIN or END inside a stream".into()),
    }
}

fn ensure(ok: bool, why: impl FnOnce() -> String) -> Verdict {
    if ok { Ok(()) } else { Err(why()) }
}

fn needs(stream: &Stream, feature: Features, what: &str) -> Verdict {
    ensure(stream.features.contains(feature), || format!("{what}, but the stream does not have the feature {feature}"))
}

fn object_number(object: u64) -> Verdict {
    ensure((1..MAX_OBJECT).contains(&object), || format!("object {object} is out of range"))
}

/// `DMU_OT_IS_VALID`: one of the old types, or a new one with a known byte swap function.
fn object_type(code: u32) -> Verdict {
    let valid = if code & 0x80 != 0 { code < 0x100 && code & 0x1f < 10 } else { code < 54 };
    ensure(valid, || format!("object type {code} is unknown"))
}

/// Object, offset and size of a block.
fn block(stream: &Stream, offset: u64, size: u64) -> Verdict {
    let max = if stream.features.contains(Features::LARGE_BLOCKS) { MAX_BLOCK } else { OLD_MAX_BLOCK };
    ensure((SECTOR..=max).contains(&size) && size.is_multiple_of(SECTOR), || {
        format!("a block of {size} bytes is not a multiple of 512 up to {max}")
    })?;
    ensure(offset.is_multiple_of(SECTOR), || format!("offset {offset} is not a multiple of 512"))?;
    ensure(offset.checked_add(size).is_some_and(|end| end <= i64::MAX as u64), || {
        format!("offset {offset} and size {size} overflow")
    })
}

fn flags(found: u8, allowed: u8) -> Verdict {
    ensure(found & !allowed == 0, || format!("unknown flags {found:#x}"))
}

fn crypt(stream: &Stream, crypt: &CryptParams) -> Verdict {
    ensure(stream.raw || crypt.is_zero(), || "encryption parameters in a stream that is not raw".into())
}

/// The compression of a block; 1 ("on") and 4 ("empty") are settings or inner values, never a block's.
fn compression(stream: &Stream, code: u8) -> Verdict {
    ensure(matches!(code, 2..COMPRESSIONS) && code != 4 && (code != 2 || stream.raw), || {
        format!("compression code {code} is not that of a block")
    })?;
    match code {
        LZ4 => needs(stream, Features::LZ4, "a block is compressed with lz4"),
        ZSTD => needs(stream, Features::ZSTD, "a block is compressed with zstd"),
        _ => Ok(()),
    }
}

fn compressed_size(compressed: u64, logical: u64) -> Verdict {
    ensure(compressed > 0 && compressed <= logical && compressed.is_multiple_of(SECTOR), || {
        format!("compressed size {compressed} of a block of {logical} bytes")
    })
}

fn object(stream: &Stream, o: &Object) -> Verdict {
    same_guid(stream, o.to_guid)?;
    object_number(o.object)?;
    ensure(o.object_type != 0, || "an object without type".into())?;
    object_type(o.object_type)?;
    object_type(o.bonus_type)?;
    ensure(o.checksum < CHECKSUMS, || format!("checksum code {} is unknown", o.checksum))?;
    ensure(o.compress < COMPRESSIONS, || format!("compression code {} is unknown", o.compress))?;
    block(stream, 0, o.blksz.into())?;
    // Senders from before large dnodes write 0.
    let slots = o.dn_slots.max(1);
    ensure(slots <= MAX_SLOTS, || format!("a dnode of {slots} slots"))?;
    if slots > 1 {
        needs(stream, Features::LARGE_DNODE, "a dnode of several slots")?;
    }
    ensure(o.object + u64::from(slots) <= MAX_OBJECT, || format!("object {} is out of range", o.object))?;
    // A slot has 512 bytes; 64 are the dnode itself and 128 its first block pointer.
    let bonus_max = u32::from(slots) * 512 - 192;
    ensure(o.bonuslen <= bonus_max, || format!("a bonus of {} bytes in {slots} slots", o.bonuslen))?;
    flags(o.flags, if stream.raw { OBJECT_SPILL | RAW_BYTESWAP } else { OBJECT_SPILL })?;
    ensure(o.flags & OBJECT_SPILL == 0 || stream.marks_spill, || "a spill flag that BEGIN does not announce".into())?;
    if stream.raw { raw_object(stream, o, bonus_max) } else { plain_object(o) }
}

fn plain_object(o: &Object) -> Verdict {
    ensure(o.raw_bonuslen == 0 && o.indblkshift == 0 && o.nlevels == 0 && o.nblkptr == 0, || {
        "an object with raw fields in a stream that is not raw".into()
    })
}

fn raw_object(stream: &Stream, o: &Object, bonus_max: u32) -> Verdict {
    let in_range = stream.range_first.is_some_and(|first| (first..first + DNODES_PER_BLOCK).contains(&o.object));
    ensure(in_range, || format!("object {} is outside of the last OBJECT_RANGE", o.object))?;
    ensure((o.bonuslen..=bonus_max).contains(&o.raw_bonuslen) && (o.bonuslen > 0 || o.raw_bonuslen == 0), || {
        format!("a raw bonus of {} bytes for one of {}", o.raw_bonuslen, o.bonuslen)
    })?;
    ensure((12..=17).contains(&o.indblkshift), || format!("an indirect block shift of {}", o.indblkshift))?;
    ensure((1..=MAX_LEVELS).contains(&o.nlevels), || format!("a dnode of {} levels", o.nlevels))?;
    ensure((1..=3).contains(&o.nblkptr), || format!("a dnode of {} block pointers", o.nblkptr))?;
    let end = o.maxblkid.checked_add(1).and_then(|blocks| blocks.checked_mul(o.blksz.into()));
    ensure(end.is_some_and(|end| end <= i64::MAX as u64), || format!("last block {} overflows", o.maxblkid))
}

fn free_objects(stream: &Stream, first: u64, count: u64, guid: Guid) -> Verdict {
    same_guid(stream, guid)?;
    // Old senders free whole subtrees of dnodes, of which the last reaches beyond the last object.
    ensure(first.checked_add(count).is_some_and(|end| end <= 2 * MAX_OBJECT), || {
        format!("objects {first} and {count} more are out of range")
    })
}

fn write(stream: &mut Stream, w: &Write) -> Verdict {
    same_guid(stream, w.to_guid)?;
    object_number(w.object)?;
    object_type(w.object_type)?;
    block(stream, w.offset, w.logical_size)?;
    ensure(w.checksum < CHECKSUMS, || format!("checksum code {} is unknown", w.checksum))?;
    flags(w.flags, if stream.raw { DEDUP_CAPABLE | RAW_BYTESWAP } else { DEDUP_CAPABLE })?;
    crypt(stream, &w.crypt)?;
    if w.compression == 0 {
        ensure(!stream.raw, || "a block of a raw stream without compression code".into())?;
        ensure(w.compressed_size == 0, || "a compressed size without compression".into())?;
    } else {
        ensure(stream.raw || stream.features.contains(Features::COMPRESSED), || {
            "a compressed block, but the stream has neither the feature compressed nor raw".into()
        })?;
        compression(stream, w.compression)?;
        compressed_size(w.compressed_size, w.logical_size)?;
    }
    // Receivers refuse blocks that go backwards: a resumed receive could not find its place.
    ensure((w.object, w.offset) >= stream.last_write, || {
        format!("object {} offset {} comes after a later block", w.object, w.offset)
    })?;
    stream.last_write = (w.object, w.offset);
    Ok(())
}

fn range(stream: &Stream, r: &Range) -> Verdict {
    same_guid(stream, r.to_guid)?;
    object_number(r.object)?;
    ensure(r.length == u64::MAX || r.offset.checked_add(r.length).is_some(), || {
        format!("offset {} and length {} overflow", r.offset, r.length)
    })
}

fn spill(stream: &Stream, s: &Spill) -> Verdict {
    same_guid(stream, s.to_guid)?;
    object_number(s.object)?;
    ensure((SECTOR..=OLD_MAX_BLOCK).contains(&s.length) && s.length.is_multiple_of(SECTOR), || {
        format!("a spill block of {} bytes", s.length)
    })?;
    crypt(stream, &s.crypt)?;
    if stream.raw {
        flags(s.flags, SPILL_UNMODIFIED | RAW_BYTESWAP)?;
        object_type(s.object_type)?;
        compression(stream, s.compression)?;
        compressed_size(s.compressed_size, s.length)
    } else {
        flags(s.flags, SPILL_UNMODIFIED)?;
        ensure(s.compression == 0 && s.compressed_size == 0, || {
            "a compressed spill block in a stream that is not raw".into()
        })
    }
}

fn embedded(stream: &Stream, e: &WriteEmbedded) -> Verdict {
    needs(stream, Features::EMBED, "WRITE_EMBEDDED")?;
    ensure(!stream.raw, || "an embedded block in a raw stream".into())?;
    same_guid(stream, e.to_guid)?;
    object_number(e.object)?;
    block(stream, e.offset, e.length)?;
    ensure((1..=MAX_EMBEDDED).contains(&e.psize), || format!("an embedded block of {} bytes", e.psize))?;
    ensure(e.lsize > 0 && u64::from(e.lsize) <= e.length, || {
        format!("an embedded block of {} bytes for one of {}", e.lsize, e.length)
    })?;
    ensure(e.etype == 0, || format!("embedded type {} is not that of data", e.etype))?;
    ensure(matches!(e.compression, 2..COMPRESSIONS) && e.compression != 4, || {
        format!("compression code {} is not that of a block", e.compression)
    })
}

fn object_range(stream: &mut Stream, first: u64, count: u64, guid: Guid, found: u8) -> Verdict {
    ensure(stream.raw, || "OBJECT_RANGE in a stream that is not raw".into())?;
    same_guid(stream, guid)?;
    ensure(count == DNODES_PER_BLOCK && first.is_multiple_of(DNODES_PER_BLOCK) && first < MAX_OBJECT, || {
        format!("a range of {count} objects from {first} is no block of dnodes")
    })?;
    flags(found, RAW_BYTESWAP)?;
    stream.range_first = Some(first);
    Ok(())
}
