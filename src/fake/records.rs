//! Contents of fake datasets, and their way into a send stream and out of it.
//!
//! A dataset is a map of numbered objects; an object is a length and a map of blocks. A filesystem's files and a
//! volume (object 1) look alike. The stream is a real one: OBJECT (the length is its bonus), WRITE, FREE, FREEOBJECTS.

use std::{collections::BTreeMap, sync::Arc};

use super::nvlist::NvWriter;
use crate::{
    stream::{
        features::Features,
        fletcher::ByteOrder,
        record::{Begin, CryptParams, Object, Range, Record, Write},
        write::StreamWriter,
    },
    types::Guid,
};

/// The size of every block.
pub const BLOCK_BYTES: u64 = 16 << 10;
/// Dnodes in one block of them, and so in one OBJECT_RANGE.
const DNODES_PER_BLOCK: u64 = 32;
/// `DMU_OT_PLAIN_FILE_CONTENTS`, `DMU_OT_ZVOL`, `DMU_OTN_UINT64_METADATA`.
const FILE: u32 = 19;
const ZVOL: u32 = 23;
const NUMBERS: u32 = 0xc3;

/// One object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// In bytes.
    pub len: u64,
    /// By index; what is missing reads as zeros.
    pub blocks: BTreeMap<u64, Arc<[u8]>>,
}

/// All objects of a dataset or snapshot.
pub type Objects = BTreeMap<u64, Arc<Blob>>;

/// Writes into an object, which grows as needed.
pub fn write_at(objects: &mut Objects, object: u64, offset: u64, bytes: &[u8]) {
    let blob = Arc::make_mut(objects.entry(object).or_default());
    blob.len = blob.len.max(offset + bytes.len() as u64);
    let mut rest = bytes;
    let mut at = offset;
    while !rest.is_empty() {
        let (index, skip) = (at / BLOCK_BYTES, (at % BLOCK_BYTES) as usize);
        let n = rest.len().min(BLOCK_BYTES as usize - skip);
        let old = blob.blocks.get(&index);
        let mut block = old.map_or_else(|| vec![0; BLOCK_BYTES as usize], |b| b.to_vec());
        block[skip..skip + n].copy_from_slice(&rest[..n]);
        blob.blocks.insert(index, block.into());
        rest = &rest[n..];
        at += n as u64;
    }
}

/// All bytes of an object.
pub fn bytes_of(blob: &Blob) -> Vec<u8> {
    let mut out = vec![0; blob.len as usize];
    for (index, block) in &blob.blocks {
        let at = (index * BLOCK_BYTES) as usize;
        if at < out.len() {
            let n = block.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&block[..n]);
        }
    }
    out
}

/// Bytes of the blocks.
pub fn space(objects: &Objects) -> u64 {
    objects.values().map(|b| b.blocks.len() as u64 * BLOCK_BYTES).sum()
}

/// Bytes of the blocks that `to` has and `from` has not.
pub fn space_since(from: &Objects, to: &Objects) -> u64 {
    let changed = |(object, blob): (&u64, &Arc<Blob>)| {
        let old = from.get(object);
        let new = blob.blocks.iter().filter(|(i, b)| old.and_then(|o| o.blocks.get(i)) != Some(b));
        new.count() as u64 * BLOCK_BYTES
    };
    to.iter().map(changed).sum()
}

/// One stream to write.
#[derive(Clone, Debug)]
pub struct Job {
    /// Full name of the snapshot at the source.
    pub to_name: String,
    /// Its GUID.
    pub to_guid: Guid,
    /// The base, if there is one.
    pub from_guid: Option<Guid>,
    /// Seconds since 1970.
    pub creation: u64,
    /// A volume.
    pub volume: bool,
    /// The base belongs to another dataset (`DRR_FLAG_CLONE`).
    pub clone: bool,
    /// Feature bits without RAW and RESUMING.
    pub features: Features,
    /// `-w`: encrypted with this suite.
    pub raw: Option<String>,
    /// Go on at this object and offset.
    pub resume: Option<(u64, u64)>,
    /// False: the records carry no checksum, as with zfs-fuse.
    pub trailers: bool,
    /// What the base holds; empty for a full stream.
    pub base: Arc<Objects>,
    /// What to send.
    pub objects: Arc<Objects>,
}

impl Job {
    fn begin(&self, w: &mut StreamWriter) {
        let mut features = self.features;
        let mut list = NvWriter::new();
        if let Some(suite) = &self.raw {
            features = features.with(Features::RAW);
            let meta = [("blksz", 16 << 10), ("nblkptr", 3), ("nlevels", 6), ("indblkshift", 17), ("maxblkid", 9)];
            let keys = NvWriter::new().str("fake_suite", suite);
            let keys = meta.into_iter().fold(keys, |keys, (name, n)| keys.u64(&format!("mdn_{name}"), n));
            list = list.list("crypt_keydata", keys);
        }
        if let Some((object, offset)) = self.resume {
            features = features.with(Features::RESUMING);
            list = list.u64("resume_object", object).u64("resume_offset", offset);
        }
        let payload = if self.raw.is_some() || self.resume.is_some() { list.packed() } else { Vec::new() };
        let payload_len = payload.len().next_multiple_of(8);
        let begin = Begin {
            payload_len: payload_len as u32,
            version_info: 1 | features.0 << 2,
            creation: self.creation,
            objset_type: if self.volume { 3 } else { 2 },
            // CLONE, FREERECORDS.
            flags: u32::from(self.clone) | 4,
            to_guid: self.to_guid,
            from_guid: self.from_guid.unwrap_or(Guid(0)),
            to_name: self.to_name.clone(),
        };
        w.record(&Record::Begin(begin), &payload);
    }

    /// The whole stream.
    pub fn stream(&self) -> Vec<u8> {
        let mut w = if self.trailers {
            StreamWriter::new(ByteOrder::Little)
        } else {
            StreamWriter::without_trailers(ByteOrder::Little)
        };
        self.begin(&mut w);
        let (first, _) = self.resume.unwrap_or((0, 0));
        let mut all: Vec<u64> = self.base.keys().chain(self.objects.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        let mut range = None;
        for object in all.into_iter().filter(|o| *o >= first) {
            let (old, new) = (self.base.get(&object), self.objects.get(&object));
            match new {
                None => w.record(&Record::FreeObjects { first: object, count: 1, to_guid: self.to_guid }, &[]),
                Some(new) if Some(new) != old => {
                    let block = object - object % DNODES_PER_BLOCK;
                    if self.raw.is_some() && range != Some(block) {
                        range = Some(block);
                        self.object_range(&mut w, block);
                    }
                    self.object(&mut w, object, old.map(Arc::as_ref), new);
                }
                Some(_) => {}
            }
        }
        if self.from_guid.is_none() {
            let first = self.objects.keys().next_back().map_or(1, |last| last + 1);
            w.record(&Record::FreeObjects { first, count: DNODES_PER_BLOCK, to_guid: self.to_guid }, &[]);
        }
        w.end();
        w.take()
    }

    fn object_range(&self, w: &mut StreamWriter, first: u64) {
        let crypt = crypt(first, u64::MAX);
        let (count, to_guid) = (DNODES_PER_BLOCK, self.to_guid);
        w.record(&Record::ObjectRange { first, count, to_guid, crypt, flags: 0 }, &[]);
    }

    fn object(&self, w: &mut StreamWriter, object: u64, old: Option<&Blob>, new: &Blob) {
        let raw = self.raw.is_some();
        let object_type = if self.volume { ZVOL } else { FILE };
        let mut record = Object {
            object,
            object_type,
            bonus_type: NUMBERS,
            blksz: BLOCK_BYTES as u32,
            bonuslen: 8,
            to_guid: self.to_guid,
            ..Object::default()
        };
        if raw {
            let maxblkid = new.len.div_ceil(BLOCK_BYTES).saturating_sub(1);
            // A bonus so short leaves room for three; three levels then reach 48 GiB.
            record = Object { raw_bonuslen: 8, indblkshift: 17, nlevels: 3, nblkptr: 3, maxblkid, ..record };
        }
        w.record(&Record::Object(record), &new.len.to_le_bytes());
        let free = |offset, length| Record::Free(Range { object, offset, length, to_guid: self.to_guid });
        for index in old.into_iter().flat_map(|o| o.blocks.keys()).filter(|i| !new.blocks.contains_key(i)) {
            w.record(&free(index * BLOCK_BYTES, BLOCK_BYTES), &[]);
        }
        w.record(&free(new.len.next_multiple_of(BLOCK_BYTES), u64::MAX), &[]);
        for (index, block) in &new.blocks {
            let offset = index * BLOCK_BYTES;
            let done = self.resume.is_some_and(|at| (object, offset) < at);
            if done || old.and_then(|o| o.blocks.get(index)) == Some(block) {
                continue;
            }
            let logical_size = BLOCK_BYTES;
            let mut record =
                Write { object, object_type, offset, logical_size, to_guid: self.to_guid, ..Write::default() };
            record.checksum = 7;
            if raw {
                record = Write { compression: 2, compressed_size: BLOCK_BYTES, crypt: crypt(object, offset), ..record };
                w.record(&Record::Write(record), &veil(block));
            } else {
                w.record(&Record::Write(record), block);
            }
        }
    }
}

fn crypt(object: u64, offset: u64) -> CryptParams {
    let mut iv = [1; 12];
    iv[..8].copy_from_slice(&(object << 40 ^ offset).to_le_bytes());
    CryptParams { salt: [2; 8], iv, mac: [3; 16] }
}

/// Stands for encryption: not the plain text, and its own inverse.
fn veil(block: &[u8]) -> Vec<u8> {
    block.iter().map(|b| b ^ 0xa5).collect()
}

/// Takes the records of a stream into a dataset's objects.
#[derive(Clone, Debug, Default)]
pub struct Taker {
    /// What there is so far.
    pub objects: Objects,
    /// Where the last WRITE ended.
    pub at: Option<(u64, u64)>,
    /// Bytes of payload so far.
    pub bytes: u64,
}

impl Taker {
    /// Takes one record.
    pub fn take(&mut self, record: &Record, payload: &[u8]) {
        match record {
            Record::Object(o) => {
                let len = payload.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
                Arc::make_mut(self.objects.entry(o.object).or_default()).len = len;
            }
            Record::FreeObjects { first, count, .. } => {
                let end = first.saturating_add(*count);
                self.objects.retain(|object, _| !(*first..end).contains(object));
            }
            Record::Free(r) => {
                let end = r.offset.saturating_add(r.length);
                if let Some(blob) = self.objects.get_mut(&r.object) {
                    Arc::make_mut(blob).blocks.retain(|i, _| !(r.offset..end).contains(&(i * BLOCK_BYTES)));
                }
            }
            Record::Write(w) => {
                let bytes = if w.crypt.encrypts() { veil(payload) } else { payload.to_vec() };
                let blob = Arc::make_mut(self.objects.entry(w.object).or_default());
                blob.blocks.insert(w.offset / BLOCK_BYTES, bytes.into());
                self.at = Some((w.object, w.offset + w.logical_size));
                self.bytes += payload.len() as u64;
            }
            _ => {}
        }
    }
}
