//! What a stream has announced so far: the shape of the objects that its blocks belong to, and how far it has come.
//!
//! A receiver writes blocks by the shape that its dnode has. A block that does not fit panics it (`accessing past end of
//! object` in `dmu.c`), or makes it write beyond the dnode (`dbuf_findbp` trusts `maxblkid` and the levels); two writes of
//! one block in one transaction group are both carried out (`dbuf_dirty_lightweight`). A sender sends dnodes and blocks
//! in rising order, each once (`dump_free` in `dmu_send.c` asserts it), so both can be asked for.
//!
//! Invariant: no more than [`RECENT`] objects are remembered, whatever the stream announces.

use std::collections::VecDeque;

use super::record::{Object, Range};

/// Dnodes in a block of them, of `DNODE_MIN_SIZE` (`DNODES_PER_BLOCK`).
pub const DNODES_PER_BLOCK: u64 = 32;
/// Objects whose blocks may still come. Senders before OpenZFS 2.0 announce a whole block of dnodes before its data.
const RECENT: usize = 2 * DNODES_PER_BLOCK as usize;
/// A block pointer (`SPA_BLKPTRSHIFT`): that of a spill block takes this much of a dnode's bonus area.
pub const BLKPTR: u32 = 128;

type Verdict = Result<(), String>;

/// What is remembered of an OBJECT.
#[derive(Clone, Copy, Debug)]
struct Shape {
    object: u64,
    block_bytes: u64,
    /// The last block, where the stream says it: raw ones do.
    last_block: Option<u64>,
    takes_spill: bool,
}

/// The objects of one stream.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    recent: VecDeque<Shape>,
    /// The first object that may still be announced.
    next: u64,
    /// Object of the last block, and where that block ended.
    written: (u64, u64),
    /// First object of the last OBJECT_RANGE.
    range: Option<u64>,
}

fn ensure(ok: bool, why: impl FnOnce() -> String) -> Verdict {
    if ok { Ok(()) } else { Err(why()) }
}

/// The bytes for a bonus in a dnode of so many slots of 512 bytes: 64 are the dnode's own, 128 its first block pointer.
pub fn bonus_room(slots: u8) -> u32 {
    u32::from(slots.max(1)) * 512 - 64 - BLKPTR
}

impl Objects {
    /// An OBJECT_RANGE from that object on.
    pub fn range(&mut self, first: u64) -> Verdict {
        ensure(first >= self.next && self.range.is_none_or(|last| first > last), || {
            format!("the range from object {first} comes after later objects")
        })?;
        self.range = Some(first);
        Ok(())
    }

    /// An OBJECT, whose fields by themselves are sound.
    pub fn announce(&mut self, o: &Object, raw: bool) -> Verdict {
        if raw {
            let inside = self.range.is_some_and(|first| (first..first + DNODES_PER_BLOCK).contains(&o.object));
            ensure(inside, || format!("object {} is outside of the last OBJECT_RANGE", o.object))?;
        }
        ensure(o.object >= self.next && o.object > self.written.0, || {
            format!("object {} comes after later objects", o.object)
        })?;
        self.next = o.object + u64::from(o.dn_slots.max(1));
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        let used = o.bonuslen.max(o.raw_bonuslen);
        self.recent.push_back(Shape {
            object: o.object,
            block_bytes: o.blksz.into(),
            last_block: raw.then_some(o.maxblkid),
            takes_spill: used + BLKPTR <= bonus_room(o.dn_slots),
        });
        Ok(())
    }

    fn shape(&self, object: u64) -> Result<Shape, String> {
        let found = self.recent.iter().rev().find(|shape| shape.object == object);
        found.copied().ok_or_else(|| format!("object {object} has not been announced by an OBJECT"))
    }

    /// A block of an object. `whole`: it must be as large as the object's blocks are, as in raw streams.
    pub fn block(&mut self, object: u64, offset: u64, size: u64, whole: bool) -> Verdict {
        ensure((object, offset) >= self.written, || {
            format!("object {object} offset {offset} comes after a later block")
        })?;
        let shape = self.shape(object)?;
        let block = shape.block_bytes;
        ensure(offset.is_multiple_of(block) && size <= block && (size == block || !whole), || {
            format!("{size} bytes at {offset} are no block of object {object}, whose blocks have {block} bytes")
        })?;
        // An object whose block size is no power of two has one block.
        let last = if block.is_power_of_two() { shape.last_block.unwrap_or(u64::MAX) } else { 0 };
        ensure(offset / block <= last, || format!("offset {offset} is beyond the end of object {object}"))?;
        self.written = (object, offset.saturating_add(size));
        // What lies below has had its turn.
        while self.recent.front().is_some_and(|shape| shape.object < object) {
            self.recent.pop_front();
        }
        Ok(())
    }

    /// A FREE or REDACT.
    pub fn hole(&self, r: &Range, raw: bool) -> Verdict {
        ensure((r.object, r.offset) >= self.written, || {
            format!("object {} offset {} is freed after it was written", r.object, r.offset)
        })?;
        // In a raw stream the rest of a block cannot be zeroed: it would have to be decrypted.
        let unit = if raw { self.shape(r.object)?.block_bytes } else { 512 };
        let length = if r.length == u64::MAX { 0 } else { r.length };
        ensure(r.offset.is_multiple_of(unit) && length.is_multiple_of(unit), || {
            format!("offset {} and length {} are no whole number of blocks of {unit} bytes", r.offset, r.length)
        })
    }

    /// A FREEOBJECTS from that object on.
    pub fn absent(&self, first: u64) -> Verdict {
        ensure(first >= self.next, || format!("object {first} is freed after it was announced"))
    }

    /// A SPILL of that object.
    pub fn spill(&self, object: u64) -> Verdict {
        let shape = self.shape(object)?;
        ensure(shape.takes_spill, || format!("the bonus of object {object} leaves no room for a spill block"))
    }
}
