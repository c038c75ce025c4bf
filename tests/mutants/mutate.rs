//! Streams taken apart into records, damaged in one place or two, and put together again.

use zmigrate::stream::{
    fletcher::{ByteOrder, Fletcher4},
    record::{self, RECORD_BYTES, RawRecord, Record, RecordType, TRAILER_AT},
    write::encode,
};

use crate::rng::Rng;

/// A record with its payload.
#[derive(Clone)]
pub struct Part {
    pub raw: RawRecord,
    pub payload: Vec<u8>,
}

impl Part {
    pub fn record(&self) -> Option<Record> {
        Record::decode(&self.raw, ByteOrder::Little)
    }

    fn code(&self) -> u32 {
        record::type_code(&self.raw, ByteOrder::Little)
    }

    pub fn is(&self, kind: RecordType) -> bool {
        self.code() == kind as u32
    }
}

/// Takes the first stream in `bytes` apart; gives its parts and how long it was.
pub fn parts(bytes: &[u8]) -> (Vec<Part>, usize) {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(raw) = bytes.get(at..).and_then(<[u8]>::first_chunk::<RECORD_BYTES>) {
        let record = Record::decode(raw, ByteOrder::Little).unwrap();
        at += RECORD_BYTES;
        let payload = &bytes[at..at + record.payload_bytes() as usize];
        at += payload.len();
        all.push(Part { raw: *raw, payload: payload.to_vec() });
        if matches!(record, Record::End { .. }) {
            break;
        }
    }
    (all, at)
}

/// The bytes of a stream as its parts are.
pub fn join(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(|part| [&part.raw[..], &part.payload]).flatten().copied().collect()
}

/// Writes the checksums that the parts should have: in each record that has one, and in END.
pub fn repair(parts: &mut [Part]) {
    let mut sums = Fletcher4::new(ByteOrder::Little);
    for part in parts {
        let put = |raw: &mut RawRecord, at: usize, sums: &Fletcher4| {
            for (i, sum) in sums.sums().0.into_iter().enumerate() {
                raw[at + 8 * i..at + 8 * i + 8].copy_from_slice(&sum.to_le_bytes());
            }
        };
        if part.is(RecordType::Begin) {
            sums.reset();
            sums.update(&part.raw);
        } else {
            if part.is(RecordType::End) {
                put(&mut part.raw, 8, &sums);
            }
            sums.update(&part.raw[..TRAILER_AT]);
            if part.raw[TRAILER_AT..] != [0; 32] {
                put(&mut part.raw, TRAILER_AT, &sums);
            }
            sums.update(&part.raw[TRAILER_AT..]);
        }
        sums.update(&part.payload);
    }
}

/// What is done to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    BitInRecord,
    BitInPayload,
    Field,
    FieldAndPayload,
    Drop,
    Repeat,
    Swap,
    Insert,
    CutOff,
    BeginList,
    Features,
    NoTrailer,
    OtherByteOrder,
    Two,
}

impl Kind {
    pub const ALL: [Kind; 14] = [
        Kind::BitInRecord,
        Kind::BitInPayload,
        Kind::Field,
        Kind::FieldAndPayload,
        Kind::Drop,
        Kind::Repeat,
        Kind::Swap,
        Kind::Insert,
        Kind::CutOff,
        Kind::BeginList,
        Kind::Features,
        Kind::NoTrailer,
        Kind::OtherByteOrder,
        Kind::Two,
    ];
}

/// Fields by type of record: name, offset, bytes (`sys/zfs_ioctl.h`).
fn fields(code: u32) -> &'static [(&'static str, usize, usize)] {
    match code {
        0 => &[
            ("payloadlen", 4, 4),
            ("versioninfo", 16, 8),
            ("type", 32, 4),
            ("flags", 36, 4),
            ("toguid", 40, 8),
            ("fromguid", 48, 8),
        ],
        1 => &[
            ("object", 8, 8),
            ("type", 16, 4),
            ("bonustype", 20, 4),
            ("blksz", 24, 4),
            ("bonuslen", 28, 4),
            ("checksum", 32, 1),
            ("compress", 33, 1),
            ("dn_slots", 34, 1),
            ("flags", 35, 1),
            ("raw_bonuslen", 36, 4),
            ("toguid", 40, 8),
            ("indblkshift", 48, 1),
            ("nlevels", 49, 1),
            ("nblkptr", 50, 1),
            ("maxblkid", 56, 8),
        ],
        2 => &[("firstobj", 8, 8), ("numobjs", 16, 8), ("toguid", 24, 8)],
        3 => &[
            ("object", 8, 8),
            ("type", 16, 4),
            ("offset", 24, 8),
            ("lsize", 32, 8),
            ("toguid", 40, 8),
            ("checksum", 48, 1),
            ("flags", 49, 1),
            ("compression", 50, 1),
            ("csize", 96, 8),
            ("iv", 112, 8),
        ],
        4 | 10 => &[("object", 8, 8), ("offset", 16, 8), ("length", 24, 8), ("toguid", 32, 8)],
        5 => &[("checksum", 8, 8), ("toguid", 40, 8)],
        7 => &[
            ("object", 8, 8),
            ("length", 16, 8),
            ("toguid", 24, 8),
            ("flags", 32, 1),
            ("compression", 33, 1),
            ("csize", 40, 8),
            ("type", 84, 4),
        ],
        8 => &[
            ("object", 8, 8),
            ("offset", 16, 8),
            ("length", 24, 8),
            ("toguid", 32, 8),
            ("comp", 40, 1),
            ("etype", 41, 1),
            ("lsize", 48, 4),
            ("psize", 52, 4),
        ],
        9 => &[("firstobj", 8, 8), ("numslots", 16, 8), ("toguid", 24, 8), ("flags", 68, 1)],
        _ => &[("type", 0, 4)],
    }
}

/// A place among `parts`; one in five times near the end, where the rare records are.
fn place(rng: &mut Rng, parts: &[Part]) -> usize {
    if rng.below(5) == 0 { parts.len() - 1 - rng.below(parts.len().min(40)) } else { rng.below(parts.len()) }
}

/// A record of a type that is drawn first, so that those of which there are few get their share.
fn by_type(rng: &mut Rng, parts: &[Part]) -> usize {
    let mut codes: Vec<u32> = parts.iter().map(Part::code).collect();
    codes.sort_unstable();
    codes.dedup();
    let code = codes[rng.below(codes.len())];
    let of_type: Vec<usize> = (0..parts.len()).filter(|i| parts[*i].code() == code).collect();
    of_type[rng.below(of_type.len())]
}

fn set_field(rng: &mut Rng, part: &mut Part) -> String {
    let all = fields(part.code());
    let (name, at, len) = all[rng.below(all.len())];
    let mut bytes = [0; 8];
    bytes[..len].copy_from_slice(&part.raw[at..at + len]);
    let old = u64::from_le_bytes(bytes);
    let choices = [
        0,
        1,
        2,
        u64::MAX,
        i64::MAX as u64,
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_add(512),
        old.wrapping_mul(2),
        old / 2,
        old | 1,
        old ^ 1 << rng.below(len * 8),
        512,
        1536,
        128 << 10,
        16 << 20,
        1 << 40,
        rng.next(),
    ];
    let new = choices[rng.below(choices.len())];
    part.raw[at..at + len].copy_from_slice(&new.to_le_bytes()[..len]);
    let kind = RecordType::from_code(part.code()).map_or("?", RecordType::name);
    format!("{kind}.{name}: {old:#x} to {new:#x}")
}

/// Damages a stream; gives what was done.
pub fn mutate(rng: &mut Rng, kind: Kind, parts: &mut Vec<Part>, others: &[Vec<Part>]) -> String {
    match kind {
        Kind::BitInRecord => {
            let at = by_type(rng, parts);
            let bit = rng.below(TRAILER_AT * 8);
            parts[at].raw[bit / 8] ^= 1 << (bit % 8);
            format!("record {at}: byte {} bit {}", bit / 8, bit % 8)
        }
        Kind::BitInPayload => {
            let with: Vec<usize> = (0..parts.len()).filter(|i| !parts[*i].payload.is_empty()).collect();
            let Some(&at) = with.get(rng.below(with.len().max(1))) else { return "no payload is left".into() };
            let bit = rng.below(parts[at].payload.len() * 8);
            parts[at].payload[bit / 8] ^= 1 << (bit % 8);
            format!("payload of record {at} ({:?}): byte {}", RecordType::from_code(parts[at].code()), bit / 8)
        }
        Kind::Field => {
            let at = by_type(rng, parts);
            format!("record {at}: {}", set_field(rng, &mut parts[at]))
        }
        Kind::FieldAndPayload => {
            // The payload gets the length that the field asks for, so that what follows is still in its place.
            let at = by_type(rng, parts);
            let said = set_field(rng, &mut parts[at]);
            let wanted = parts[at].record().map_or(0, |record| record.payload_bytes()).min(32 << 20);
            parts[at].payload.resize(wanted as usize, 0x5a);
            format!("record {at}: {said}, with {wanted} bytes")
        }
        Kind::Drop => {
            let at = place(rng, parts);
            parts.remove(at);
            format!("record {at} left out")
        }
        Kind::Repeat => {
            let at = by_type(rng, parts);
            let to = if rng.below(2) == 0 { at + 1 } else { place(rng, parts) };
            parts.insert(to, parts[at].clone());
            format!("record {at} again, as record {to}")
        }
        Kind::Swap => {
            let a = place(rng, parts);
            let b = if rng.below(2) == 0 { (a + 1) % parts.len() } else { by_type(rng, parts) };
            parts.swap(a, b);
            format!("records {a} and {b} exchanged")
        }
        Kind::Insert => {
            let other = &others[rng.below(others.len())];
            let mut part = other[by_type(rng, other)].clone();
            // With the GUID of this stream, or it would not get far.
            let at = match part.code() {
                0 | 1 | 3 | 5 => 40,
                2 | 7 | 9 => 24,
                _ => 32,
            };
            let guid: [u8; 8] = parts[0].raw[40..48].try_into().unwrap();
            part.raw[at..at + 8].copy_from_slice(&guid);
            let to = place(rng, parts);
            let kind = RecordType::from_code(part.code());
            parts.insert(to, part);
            format!("a {kind:?} of another stream as record {to}")
        }
        Kind::CutOff => {
            let at = place(rng, parts).max(1);
            let end = parts.pop();
            parts.truncate(at);
            // Half of them with an END all the same.
            let ended = rng.below(2) == 0;
            parts.extend(end.filter(|_| ended));
            format!("cut off at record {at}, {} END", if ended { "with" } else { "without" })
        }
        Kind::BeginList => {
            let list = &mut parts[0].payload;
            if list.is_empty() {
                *list = (0..8 + rng.below(200) / 4 * 4).map(|_| rng.next() as u8).collect();
            } else {
                for _ in 0..=rng.below(3) {
                    let at = rng.below(list.len());
                    list[at] = [0, 1, 0xff, list[at] ^ 1 << rng.below(8), rng.next() as u8][rng.below(5)];
                }
                if rng.below(4) == 0 {
                    list.truncate(rng.below(list.len()) / 4 * 4);
                }
            }
            let len = list.len() as u32;
            parts[0].raw[4..8].copy_from_slice(&len.to_le_bytes());
            format!("the list in BEGIN, {len} bytes")
        }
        Kind::Features => {
            let (at, bits) = [(16, 2 + 30), (16, 64), (36, 32)][rng.below(3)];
            let bit = rng.below(bits);
            parts[0].raw[at + bit / 8] ^= 1 << (bit % 8);
            format!("BEGIN: bit {bit} of the {}", if at == 16 { "features" } else { "flags" })
        }
        Kind::NoTrailer => {
            let at = place(rng, parts).max(1);
            parts[at].raw[TRAILER_AT..].fill(0);
            format!("record {at} without checksum")
        }
        Kind::OtherByteOrder => {
            for part in parts.iter_mut() {
                if let Some(record) = part.record() {
                    part.raw = encode(&record, ByteOrder::Big);
                }
            }
            "the other byte order".into()
        }
        Kind::Two => {
            let pick = |rng: &mut Rng| Kind::ALL[rng.below(9)];
            let (first, second) = (pick(rng), pick(rng));
            let said = mutate(rng, first, parts, others);
            if parts.len() < 3 {
                return said;
            }
            format!("{said}; {}", mutate(rng, second, parts, others))
        }
    }
}
