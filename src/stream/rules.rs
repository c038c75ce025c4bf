//! The rules for the records of one stream, by type.
//!
//! Limits are those of the on-disk format (`sys/spa.h`, `sys/dnode.h`, `sys/zio.h`); what else is refused is
//! what a sender never writes (`dmu_send.c`) or a receiver refuses (`dmu_recv.c`).

use super::{
    features::Features,
    gate::Stream,
    objects::{BLKPTR, DNODES_PER_BLOCK, bonus_room},
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

/// `DMU_OT_SA`: system attributes.
pub const SA: u32 = 44;
/// `DMU_OT_ZNODE`, the attributes of files before those; `znode_phys_t` has 264 bytes.
const ZNODE: u32 = 17;
const ZNODE_BYTES: u32 = 264;
/// `DMU_OTN_UINT64_METADATA`, which may be a bonus of no bytes.
const UINT64_METADATA: u32 = 0xc3;

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

/// The types that the objects of a filesystem or volume have. Others belong to the pool: where a block is said to hold
/// dnodes, an object set or an intent log, a scrub follows the block pointers that it finds there. New types say how
/// their blocks are swapped, which must be neither as dnodes nor as an object set.
fn object_type(code: u32) -> Verdict {
    let valid = match code {
        17..=27 | 33..=36 | 39 | 40 | 44..=47 => true,
        0x80..0x100 => matches!(code & 0x1f, 0..=4 | 7..=9),
        _ => false,
    };
    ensure(valid, || format!("objects of type {code} are in no filesystem or volume"))
}

/// A checksum that blocks may have. Those for labels, gang blocks and the intent log are stored in the block itself,
/// at a place that the block names.
fn checksum(code: u8) -> Verdict {
    ensure(code < CHECKSUMS && !matches!(code, 3 | 4 | 5 | 9), || {
        format!("checksum code {code} is not that of a block")
    })
}

/// True when a dnode's levels reach its last block: otherwise the kernel writes block pointers beyond the dnode.
/// `shift`: binary logarithm of the bytes of an indirect block (`DN_MIN_INDBLKSHIFT`, `DN_MAX_INDBLKSHIFT`).
pub fn fits_levels(block_pointers: u64, levels: u64, shift: u64, last: u64) -> bool {
    if !(1..=MAX_LEVELS.into()).contains(&levels) || !(12..=17).contains(&shift) {
        return false;
    }
    // Block pointers have 128 bytes.
    let bits = (levels - 1) * (shift - 7);
    bits >= 64 || last >> bits < block_pointers
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

fn compressed_size(code: u8, compressed: u64, logical: u64) -> Verdict {
    let sound = compressed > 0 && compressed <= logical && compressed.is_multiple_of(SECTOR);
    // "off" says that the block is stored as it is, and whole.
    ensure(sound && (code != 2 || compressed == logical), || {
        format!("compressed size {compressed} of a block of {logical} bytes")
    })
}

fn object(stream: &mut Stream, o: &Object) -> Verdict {
    same_guid(stream, o.to_guid)?;
    object_number(o.object)?;
    ensure(o.object_type != 0, || "an object without type".into())?;
    object_type(o.object_type)?;
    checksum(o.checksum)?;
    // 4 is "empty", which no dataset can be set to.
    ensure(o.compress < COMPRESSIONS && o.compress != 4, || format!("compression code {} is unknown", o.compress))?;
    block(stream, 0, o.blksz.into())?;
    // Senders from before large dnodes write 0.
    let slots = o.dn_slots.max(1);
    ensure(slots <= MAX_SLOTS, || format!("a dnode of {slots} slots"))?;
    if slots > 1 {
        needs(stream, Features::LARGE_DNODE, "a dnode of several slots")?;
    }
    let end = o.object % DNODES_PER_BLOCK + u64::from(slots);
    ensure(end <= DNODES_PER_BLOCK, || format!("object {} of {slots} slots crosses a block of dnodes", o.object))?;
    bonus(o, bonus_room(slots))?;
    flags(o.flags, if stream.raw { OBJECT_SPILL | RAW_BYTESWAP } else { OBJECT_SPILL })?;
    ensure(o.flags & OBJECT_SPILL == 0 || stream.marks_spill, || "a spill flag that BEGIN does not announce".into())?;
    if stream.raw {
        raw_object(o, bonus_room(slots))?
    } else {
        plain_object(o)?
    }
    stream.objects.announce(o, stream.raw)
}

/// What a dnode has besides its blocks (the assertions in `dnode_allocate`).
fn bonus(o: &Object, room: u32) -> Verdict {
    let spill = if o.flags & OBJECT_SPILL != 0 { BLKPTR } else { 0 };
    ensure(o.bonuslen <= room - spill, || format!("a bonus of {} bytes, where {room} are", o.bonuslen))?;
    ensure(spill == 0 || o.bonus_type == SA, || "a spill block beside other than system attributes".into())?;
    match (o.bonus_type, o.bonuslen) {
        (0, 0) => return Ok(()),
        (0, len) => return Err(format!("a bonus of {len} bytes without type")),
        (SA | UINT64_METADATA, 0) => {}
        (other, 0) => return Err(format!("an empty bonus of type {other}")),
        (ZNODE, len) if len < ZNODE_BYTES => return Err(format!("a bonus of {len} bytes for one of {ZNODE_BYTES}")),
        _ => {}
    }
    object_type(o.bonus_type)
}

fn plain_object(o: &Object) -> Verdict {
    ensure(o.raw_bonuslen == 0 && o.indblkshift == 0 && o.nlevels == 0 && o.nblkptr == 0, || {
        "an object with raw fields in a stream that is not raw".into()
    })
}

fn raw_object(o: &Object, room: u32) -> Verdict {
    // As `dnode_allocate` has it.
    let pointers = if o.bonus_type == SA { 1 } else { (1 + (room - o.bonuslen) / BLKPTR).min(3) };
    ensure(u32::from(o.nblkptr) == pointers, || {
        format!("a dnode of {} block pointers where there are {pointers}", o.nblkptr)
    })?;
    let spill = if o.flags & OBJECT_SPILL != 0 { BLKPTR } else { 0 };
    let room = room - BLKPTR * (pointers - 1) - spill;
    ensure((o.bonuslen..=room).contains(&o.raw_bonuslen) && (o.bonuslen > 0 || o.raw_bonuslen == 0), || {
        format!("a raw bonus of {} bytes for one of {}", o.raw_bonuslen, o.bonuslen)
    })?;
    ensure((12..=17).contains(&o.indblkshift), || format!("an indirect block shift of {}", o.indblkshift))?;
    ensure((1..=MAX_LEVELS).contains(&o.nlevels), || format!("a dnode of {} levels", o.nlevels))?;
    let end = o.maxblkid.checked_add(1).and_then(|blocks| blocks.checked_mul(o.blksz.into()));
    ensure(end.is_some_and(|end| end <= i64::MAX as u64), || format!("last block {} overflows", o.maxblkid))?;
    ensure(fits_levels(pointers.into(), o.nlevels.into(), o.indblkshift.into(), o.maxblkid), || {
        format!("last block {} is beyond what {} levels reach", o.maxblkid, o.nlevels)
    })
}

fn free_objects(stream: &Stream, first: u64, count: u64, guid: Guid) -> Verdict {
    same_guid(stream, guid)?;
    // Old senders free whole subtrees of dnodes, of which the last reaches beyond the last object.
    ensure(first.checked_add(count).is_some_and(|end| end <= 2 * MAX_OBJECT), || {
        format!("objects {first} and {count} more are out of range")
    })?;
    stream.objects.absent(first)
}

fn write(stream: &mut Stream, w: &Write) -> Verdict {
    same_guid(stream, w.to_guid)?;
    object_number(w.object)?;
    object_type(w.object_type)?;
    block(stream, w.offset, w.logical_size)?;
    checksum(w.checksum)?;
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
        compressed_size(w.compression, w.compressed_size, w.logical_size)?;
    }
    stream.objects.block(w.object, w.offset, w.logical_size, stream.raw)
}

fn range(stream: &Stream, r: &Range) -> Verdict {
    same_guid(stream, r.to_guid)?;
    object_number(r.object)?;
    ensure(r.length == u64::MAX || r.offset.checked_add(r.length).is_some(), || {
        format!("offset {} and length {} overflow", r.offset, r.length)
    })?;
    stream.objects.hole(r, stream.raw)
}

fn spill(stream: &Stream, s: &Spill) -> Verdict {
    same_guid(stream, s.to_guid)?;
    object_number(s.object)?;
    ensure((SECTOR..=OLD_MAX_BLOCK).contains(&s.length) && s.length.is_multiple_of(SECTOR), || {
        format!("a spill block of {} bytes", s.length)
    })?;
    crypt(stream, &s.crypt)?;
    // Older senders leave the type out; the kernel takes it as an index, whatever it is.
    ensure(s.object_type == SA || (s.object_type == 0 && !stream.raw), || {
        format!("a spill block of type {}, not of system attributes", s.object_type)
    })?;
    stream.objects.spill(s.object)?;
    if stream.raw {
        flags(s.flags, SPILL_UNMODIFIED | RAW_BYTESWAP)?;
        compression(stream, s.compression)?;
        compressed_size(s.compression, s.compressed_size, s.length)
    } else {
        flags(s.flags, SPILL_UNMODIFIED)?;
        ensure(s.compression == 0 && s.compressed_size == 0, || {
            "a compressed spill block in a stream that is not raw".into()
        })
    }
}

fn embedded(stream: &mut Stream, e: &WriteEmbedded) -> Verdict {
    needs(stream, Features::EMBED, "WRITE_EMBEDDED")?;
    ensure(!stream.raw, || "an embedded block in a raw stream".into())?;
    same_guid(stream, e.to_guid)?;
    object_number(e.object)?;
    block(stream, e.offset, e.length)?;
    ensure((1..=MAX_EMBEDDED).contains(&e.psize), || format!("an embedded block of {} bytes", e.psize))?;
    // The block is read as one of that size, whatever the object's blocks have.
    ensure(u64::from(e.lsize) == e.length, || {
        format!("an embedded block of {} bytes for one of {}", e.lsize, e.length)
    })?;
    ensure(e.etype == 0, || format!("embedded type {} is not that of data", e.etype))?;
    ensure(matches!(e.compression, 2..COMPRESSIONS) && e.compression != 4, || {
        format!("compression code {} is not that of a block", e.compression)
    })?;
    stream.objects.block(e.object, e.offset, e.length, true)
}

fn object_range(stream: &mut Stream, first: u64, count: u64, guid: Guid, found: u8) -> Verdict {
    ensure(stream.raw, || "OBJECT_RANGE in a stream that is not raw".into())?;
    same_guid(stream, guid)?;
    ensure(count == DNODES_PER_BLOCK && first.is_multiple_of(DNODES_PER_BLOCK) && first < MAX_OBJECT, || {
        format!("a range of {count} objects from {first} is no block of dnodes")
    })?;
    flags(found, RAW_BYTESWAP)?;
    stream.objects.range(first)
}
