mod fields;

use super::*;
use crate::{
    fake::nvlist::NvWriter,
    stream::{
        parser::{Ending, Parser, StreamFault},
        record::{CryptParams, Object, Range, Spill, Write, WriteByref, WriteEmbedded},
        write::StreamWriter,
    },
};

const TO: Guid = Guid(77);

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/fixtures/streams/{name}.zstream.zst", env!("CARGO_MANIFEST_DIR"));
    zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
}

fn run(policy: GatePolicy, stream: &[u8]) -> Result<(), StreamFault> {
    let mut parser = Parser::new(Gate::new(policy));
    for piece in stream.chunks(10_000) {
        parser.feed(piece)?;
    }
    match parser.finish() {
        Ending::Complete => Ok(()),
        Ending::Damaged(fault) => Err(fault),
        Ending::SavedWithoutEnd => panic!("no END"),
    }
}

#[test]
fn real_streams_pass_their_own_plan_and_no_other() {
    let (a, b) = (Guid(0x7ce6_1069_0974_bb3c), Guid(0x6ce9_23db_f39a_20b7));
    let big = Guid(0x0911_98d6_6c7d_353d);
    for (name, policy) in [
        ("full", GatePolicy::step(None, a)),
        ("full-Lec", GatePolicy::step(None, a)),
        ("incr", GatePolicy::step(Some(a), b)),
        ("incr-Lec", GatePolicy::step(Some(a), b)),
        ("incr-bookmark", GatePolicy::step(Some(a), b)),
        ("zvol", GatePolicy::step(None, Guid(0xb253_371d_4d31_f823))),
        ("embed-spill", GatePolicy::step(None, Guid(0x68e4_9ccc_d501_e02f))),
        ("raw-enc", GatePolicy { raw: true, ..GatePolicy::step(None, Guid(0x2e7f_1e96_5982_cc7c)) }),
        ("resumed", GatePolicy { resuming: true, ..GatePolicy::step(None, big) }),
    ] {
        let stream = fixture(name);
        assert_eq!(run(policy.clone(), &stream), Ok(()), "{name}");
        for wrong in [
            GatePolicy { to_guid: Guid(1), ..policy.clone() },
            GatePolicy { from_guid: Some(Guid(1)), ..policy.clone() },
            GatePolicy { raw: !policy.raw, ..policy.clone() },
            GatePolicy { resuming: !policy.resuming, ..policy.clone() },
        ] {
            let fault = run(wrong, &stream).unwrap_err();
            assert_eq!((fault.record, fault.offset), (0, 0), "{name}: {fault}");
        }
    }
    for name in ["recursive-R", "full-props", "incr-all"] {
        let policy = GatePolicy::step(None, a);
        assert!(run(policy.clone(), &fixture(name)).unwrap_err().cause.contains("package"), "{name}");
        assert_eq!(run(GatePolicy { allow_compound: true, ..policy }, &fixture(name)), Ok(()), "{name}");
    }
}

#[test]
fn only_allowed_features_pass() {
    let a = Guid(0x7ce6_1069_0974_bb3c);
    let narrow = GatePolicy { features: Features::SA_SPILL, ..GatePolicy::step(None, a) };
    assert_eq!(run(narrow.clone(), &fixture("full")), Ok(()));
    let fault = run(narrow, &fixture("full-Lec")).unwrap_err();
    assert!(fault.cause.ends_with("not allowed: embed, lz4, compressed"), "{fault}");
}

/// What a raw stream brings along.
fn keys(change: Option<(&str, u64)>) -> NvWriter {
    let fields = [("mdn_blksz", 16 << 10), ("mdn_nblkptr", 3), ("mdn_nlevels", 6), ("mdn_indblkshift", 17)];
    let fields = fields.into_iter().chain([("mdn_maxblkid", 1)]);
    let of = |(name, n)| (name, change.filter(|(changed, _)| *changed == name).map_or(n, |(_, n)| n));
    fields.map(of).fold(NvWriter::new(), |list, (name, n)| list.u64(name, n))
}

/// System attributes as a kernel wants them.
fn attributes() -> Vec<u8> {
    let mut out = vec![0x5a, 0x50, 0x2f, 0, 2, 4];
    out.resize(4096, 0);
    out
}

/// The cause with which a stream of this BEGIN, its list and these records is refused.
fn refused_with(begin: Begin, list: &[u8], records: &[Record], attributes: &[u8]) -> String {
    let raw = begin.features().contains(Features::RAW);
    let mut w = StreamWriter::new(ByteOrder::Little);
    w.record(&Record::Begin(begin), list);
    records.iter().for_each(|r| w.record(r, attributes));
    w.end();
    let policy = GatePolicy { raw, foreign_byte_order: true, ..GatePolicy::step(None, TO) };
    run(policy, &w.take()).err().map_or_else(|| "taken".into(), |fault| fault.cause)
}

fn refused(begin: Begin, records: &[Record]) -> String {
    let raw = begin.features().contains(Features::RAW);
    let list = if raw { NvWriter::new().list("crypt_keydata", keys(None)).packed() } else { Vec::new() };
    let begin = Begin { payload_len: if raw { list.len() as u32 } else { begin.payload_len }, ..begin };
    refused_with(begin, &list, records, &attributes())
}

fn begin(features: Features) -> Begin {
    Begin {
        version_info: 1 | features.0 << 2,
        objset_type: 2,
        flags: 0xc,
        to_guid: TO,
        to_name: "tank/a@b".into(),
        ..Begin::default()
    }
}

fn plain() -> Begin {
    begin(Features::TRANSFER.without(Features::RAW).without(Features::RESUMING).without(Features::REDACTED))
}

fn object() -> Object {
    let dnode = Object { object: 5, object_type: 19, bonus_type: 44, blksz: 131072, dn_slots: 1, ..Object::default() };
    Object { bonuslen: 176, to_guid: TO, ..dnode }
}

fn write() -> Write {
    Write { object: 5, object_type: 19, logical_size: 131072, to_guid: TO, ..Write::default() }
}

fn raw_write() -> Write {
    let crypt = CryptParams { salt: [1; 8], iv: [2; 12], mac: [3; 16] };
    Write { compression: 2, compressed_size: 131072, crypt, ..write() }
}

#[track_caller]
fn expect(begin: Begin, records: &[Record], cause: &str) {
    let found = refused(begin, records);
    assert!(found.contains(cause), "expected {cause:?}, found {found:?}");
}

#[test]
fn a_begin_that_no_transfer_has() {
    expect(plain(), &[], "taken");
    expect(begin(Features::NONE), &[], "taken");
    expect(begin(Features::DEDUP), &[], "not allowed: dedup");
    expect(begin(Features(1 << 40)), &[], "not allowed: bit_40");
    expect(begin(Features::HOLDS), &[], "not allowed: holds");
    expect(begin(Features::RAW.with(Features::EMBED)), &[], "raw stream cannot have embedded");
    expect(Begin { flags: 0x10, ..plain() }, &[], "unknown flags");
    expect(Begin { objset_type: 4, ..plain() }, &[], "dataset type 4");
    expect(Begin { to_guid: Guid(0), ..plain() }, &[], "names no snapshot GUID");
    for name in ["tank/a", "@b", "tank/a@", "a@b@c", "tank/a@b\n"] {
        expect(Begin { to_name: name.into(), ..plain() }, &[], "no valid snapshot name");
    }
    expect(Begin { payload_len: 2 << 20, ..plain() }, &[], "longer than 1048576");
    expect(Begin { payload_len: 8, ..plain() }, &[], "the list in BEGIN");
}

#[test]
fn an_end_of_another_stream() {
    let mut w = StreamWriter::new(ByteOrder::Little);
    w.record(&Record::Begin(plain()), &[]);
    let Record::End { checksum, to_guid } = w.end_record() else { panic!("no END") };
    assert_eq!(to_guid, TO);
    w.record(&Record::End { checksum, to_guid: Guid(1) }, &[]);
    let policy = GatePolicy { foreign_byte_order: true, ..GatePolicy::step(None, TO) };
    let fault = run(policy, &w.take()).unwrap_err();
    assert!(fault.cause.contains("the record is of another stream, GUID 1"), "{fault}");
}

#[test]
fn objects() {
    let o = |change: fn(&mut Object)| {
        let mut o = object();
        change(&mut o);
        [Record::Object(o)]
    };
    expect(plain(), &o(|_| {}), "taken");
    expect(plain(), &o(|o| o.object = 0), "out of range");
    expect(plain(), &o(|o| o.object = rules::MAX_OBJECT), "out of range");
    expect(plain(), &o(|o| o.object_type = 0), "without type");
    expect(plain(), &o(|o| o.object_type = 54), "type 54 are in no");
    expect(plain(), &o(|o| o.object_type = 0xc4), "taken");
    expect(plain(), &o(|o| o.bonus_type = 0x8a), "type 138 are in no");
    expect(plain(), &o(|o| o.checksum = 15), "checksum code 15");
    expect(plain(), &o(|o| o.compress = 17), "compression code 17");
    expect(plain(), &o(|o| o.blksz = 0), "block of 0 bytes");
    expect(plain(), &o(|o| o.blksz = 513), "block of 513 bytes");
    expect(plain(), &o(|o| o.blksz = (16 << 20) + 512), "block of 16777728 bytes");
    expect(begin(Features::NONE), &o(|o| o.blksz = 256 << 10), "block of 262144 bytes");
    expect(plain(), &o(|o| o.bonuslen = 321), "bonus of 321 bytes, where 320 are");
    expect(plain(), &o(|o| (o.dn_slots, o.bonuslen) = (2, 832)), "taken");
    expect(plain(), &o(|o| o.dn_slots = 33), "a dnode of 33 slots");
    expect(begin(Features::NONE), &o(|o| o.dn_slots = 2), "feature large_dnode");
    expect(begin(Features::NONE), &o(|o| o.dn_slots = 0), "taken");
    expect(plain(), &o(|o| o.flags = 1), "unknown flags");
    expect(Begin { flags: 0, ..plain() }, &o(|o| o.flags = 4), "does not announce");
    expect(plain(), &o(|o| o.nlevels = 1), "raw fields");
    expect(plain(), &o(|o| o.raw_bonuslen = 320), "raw fields");
    expect(plain(), &o(|o| o.to_guid = Guid(1)), "another stream");
}

#[test]
fn writes() {
    let w = |change: fn(&mut Write)| {
        let mut w = write();
        change(&mut w);
        [Record::Object(object()), Record::Write(w)]
    };
    expect(plain(), &w(|_| {}), "taken");
    expect(plain(), &w(|w| w.logical_size = 100), "block of 100 bytes");
    expect(plain(), &w(|w| w.logical_size = 32 << 20), "longer than 16777216");
    expect(plain(), &w(|w| w.offset = 100), "offset 100");
    expect(plain(), &w(|w| w.offset = u64::MAX - 511), "overflow");
    expect(plain(), &w(|w| w.compressed_size = 512), "without compression");
    expect(plain(), &w(|w| (w.compression, w.compressed_size) = (15, 512)), "taken");
    expect(plain(), &w(|w| (w.compression, w.compressed_size) = (15, 131072 + 512)), "compressed size 131584");
    expect(plain(), &w(|w| (w.compression, w.compressed_size) = (15, 516)), "compressed size 516");
    expect(plain(), &w(|w| w.compression = 15), "compressed size 0");
    for code in [1, 2, 4, 17] {
        let mut write = write();
        (write.compression, write.compressed_size) = (code, 512);
        expect(plain(), &[Record::Object(object()), Record::Write(write)], "not that of a block");
    }
    expect(begin(Features::NONE), &w(|w| (w.compression, w.compressed_size) = (15, 512)), "neither the feature");
    expect(begin(Features::COMPRESSED), &w(|w| (w.compression, w.compressed_size) = (16, 512)), "feature zstd");
    expect(plain(), &w(|w| w.crypt.mac[0] = 1), "not raw");
    expect(plain(), &w(|w| w.flags = 2), "unknown flags");
    expect(plain(), &w(|w| w.to_guid = Guid(0)), "another stream");
}

#[test]
fn raw_streams() {
    let raw = || begin(Features::RAW.with(Features::COMPRESSED));
    let range = Record::ObjectRange { first: 0, count: 32, to_guid: TO, crypt: CryptParams::default(), flags: 0 };
    let o = Object { raw_bonuslen: 320, indblkshift: 17, nlevels: 2, nblkptr: 1, maxblkid: 1023, ..object() };
    let with = |o: Object| [range.clone(), Record::Object(o)];
    expect(raw(), &[&with(o.clone())[..], &[Record::Write(raw_write())]].concat(), "taken");
    expect(raw(), &[Record::Object(o.clone())], "outside of the last OBJECT_RANGE");
    expect(raw(), &with(Object { object: 32, ..o.clone() }), "outside of the last OBJECT_RANGE");
    expect(raw(), &with(Object { raw_bonuslen: 100, ..o.clone() }), "raw bonus of 100 bytes");
    expect(raw(), &with(Object { raw_bonuslen: 324, ..o.clone() }), "raw bonus of 324 bytes");
    expect(raw(), &with(Object { indblkshift: 25, ..o.clone() }), "indirect block shift of 25");
    expect(raw(), &with(Object { nlevels: 13, ..o.clone() }), "a dnode of 13 levels");
    expect(raw(), &with(Object { nblkptr: 4, ..o.clone() }), "4 block pointers");
    expect(raw(), &with(Object { maxblkid: 1 << 60, ..o }), "overflows");
    expect(raw(), &[Record::Write(write())], "without compression code");
    expect(plain(), std::slice::from_ref(&range), "not raw");
    let odd = Record::ObjectRange { first: 16, count: 32, to_guid: TO, crypt: CryptParams::default(), flags: 0 };
    expect(raw(), &[odd], "no block of dnodes");
    expect(plain(), &[Record::Write(raw_write())], "not raw");
}

#[test]
fn the_other_records() {
    let far = Range { object: 5, offset: u64::MAX - 511, length: 512, to_guid: TO };
    expect(plain(), &[Record::Free(Range { length: u64::MAX, ..far })], "taken");
    expect(plain(), &[Record::Free(far)], "overflow");
    expect(begin(Features::NONE), &[Record::Redact(Range { offset: 0, ..far })], "feature redacted");
    expect(plain(), &[Record::FreeObjects { first: u64::MAX, count: 1, to_guid: TO }], "out of range");
    // The last subtree of dnodes, as old senders free it.
    expect(plain(), &[Record::FreeObjects { first: 1 << 48, count: 1 << 47, to_guid: TO }], "taken");
    expect(plain(), &[Record::WriteByref(WriteByref { to_guid: TO, ..WriteByref::default() })], "WRITE_BYREF");
    let spill = Spill { object: 5, length: 2048, to_guid: TO, ..Spill::default() };
    let s = |s: Spill| [Record::Object(object()), Record::Spill(s)];
    expect(plain(), &s(spill.clone()), "taken");
    expect(plain(), &s(Spill { length: 256 << 10, ..spill.clone() }), "spill block of 262144");
    expect(plain(), &s(Spill { compressed_size: 512, ..spill.clone() }), "compressed spill block");
    // The kernel looks up what it knows of that type in a table, in every kind of stream.
    expect(plain(), &s(Spill { object_type: 1 << 20, ..spill.clone() }), "spill block of type 1048576");
    expect(plain(), &s(Spill { object_type: 44, ..spill.clone() }), "taken");
    expect(plain(), &[Record::Spill(spill.clone())], "has not been announced");
    let full = Object { bonuslen: 200, ..object() };
    expect(plain(), &[Record::Object(full), Record::Spill(spill)], "no room for a spill block");
    let e = WriteEmbedded {
        object: 5,
        length: 512,
        lsize: 512,
        psize: 20,
        compression: 15,
        to_guid: TO,
        ..WriteEmbedded::default()
    };
    let with = |e: WriteEmbedded| [Record::Object(Object { blksz: 512, ..object() }), Record::WriteEmbedded(e)];
    expect(plain(), &with(e.clone()), "taken");
    expect(begin(Features::NONE), &with(e.clone()), "feature embed");
    expect(plain(), &with(WriteEmbedded { psize: 113, ..e.clone() }), "113 bytes");
    expect(plain(), &with(WriteEmbedded { etype: 2, ..e.clone() }), "embedded type 2");
    expect(plain(), &with(WriteEmbedded { lsize: 513, ..e.clone() }), "513 bytes");
    // It would be read as a block of 512 bytes into one of 1024.
    expect(plain(), &with(WriteEmbedded { lsize: 511, ..e.clone() }), "511 bytes for one of 512");
    let two = WriteEmbedded { length: 1024, lsize: 1024, ..e };
    expect(plain(), &with(two), "no block of object 5");
}

#[test]
fn objects_of_the_pool_are_in_no_stream() {
    // An intent log, dnodes, an object set: a scrub would follow the block pointers in them.
    for code in [9, 10, 11, 16, 28, 37, 42, 50, 0x85, 0xc6, 0x80 | 10] {
        expect(plain(), &[Record::Object(Object { object_type: code, ..object() })], "in no filesystem or volume");
        expect(plain(), &[Record::Object(Object { bonus_type: code, ..object() })], "in no filesystem or volume");
    }
    // Checksums that are stored in the block: label, gang header, intent log.
    for code in [3, 4, 5, 9] {
        expect(plain(), &[Record::Object(Object { checksum: code, ..object() })], "not that of a block");
    }
    expect(plain(), &[Record::Object(Object { compress: 4, ..object() })], "compression code 4");
}

#[test]
fn a_bonus_is_what_its_type_says() {
    let o = |bonus_type, bonuslen, flags| [Record::Object(Object { bonus_type, bonuslen, flags, ..object() })];
    expect(plain(), &o(0, 0, 0), "taken");
    expect(plain(), &o(0, 8, 0), "without type");
    expect(plain(), &o(17, 264, 0), "taken");
    expect(plain(), &o(17, 256, 0), "256 bytes for one of 264");
    expect(plain(), &o(36, 0, 0), "empty bonus");
    expect(plain(), &o(44, 0, 0), "taken");
    expect(plain(), &o(44, 192, 4), "taken");
    expect(plain(), &o(44, 193, 4), "bonus of 193");
    expect(plain(), &o(17, 264, 4), "bonus of 264");
    expect(plain(), &o(17, 0, 4), "beside other than system attributes");
}

#[test]
fn attributes_that_a_kernel_asserts() {
    let records =
        [Record::Object(object()), Record::Spill(Spill { object: 5, length: 512, to_guid: TO, ..Spill::default() })];
    let mut bad = attributes();
    bad[1] ^= 1;
    for n in 1..=records.len() {
        assert_eq!(refused_with(plain(), &[], &records[..n], &attributes()), "taken");
        assert!(refused_with(plain(), &[], &records[..n], &bad).contains("magic number"), "{n} records");
    }
    // Only the spill block is bad.
    let mut w = StreamWriter::new(ByteOrder::Little);
    w.record(&Record::Begin(plain()), &[]);
    w.record(&records[0], &attributes());
    w.record(&records[1], &bad);
    w.end();
    let stream = w.take();
    let mut parser = Parser::new(Gate::new(GatePolicy::step(None, TO)));
    let fault = parser.feed(&stream).unwrap_err();
    assert!(fault.cause.contains("magic number"), "{fault}");
    // Neither the record nor any of its payload was let go.
    assert_eq!(parser.released(), stream.len() as u64 - 312 - 512 - 312);
}

#[test]
fn blocks_fit_the_object_that_was_announced() {
    let o = |blksz| Record::Object(Object { blksz, ..object() });
    let w = |offset, logical_size| Record::Write(Write { offset, logical_size, ..write() });
    let free = |offset, length| Record::Free(Range { object: 5, offset, length, to_guid: TO });
    expect(plain(), &[w(0, 512)], "has not been announced");
    expect(plain(), &[o(131_072), w(131_072, 131_072), w(262_144, 512)], "taken");
    expect(plain(), &[o(131_072), w(512, 512)], "no block of object 5");
    expect(plain(), &[o(1024), w(0, 2048)], "no block of object 5");
    // One block, as its size is no power of two: the kernel panics at a second.
    expect(plain(), &[o(1536), w(0, 1536)], "taken");
    expect(plain(), &[o(1536), w(1536, 1536)], "beyond the end of object 5");
    // Each block once, and in order.
    expect(plain(), &[o(512), w(0, 512), w(0, 512)], "after a later block");
    expect(plain(), &[o(512), w(512, 512), w(0, 512)], "after a later block");
    expect(plain(), &[o(512), w(512, 512), free(0, 1024)], "freed after it was written");
    expect(plain(), &[o(512), free(0, 1024), w(0, 512), free(512, 512)], "taken");
    expect(plain(), &[o(512), free(100, 512)], "no whole number of blocks");
    expect(plain(), &[o(512), free(512, 100)], "no whole number of blocks");
    expect(plain(), &[o(512), Record::FreeObjects { first: 5, count: 1, to_guid: TO }], "after it was announced");
    expect(plain(), &[o(512), o(512)], "comes after later objects");
    let later = Record::Object(Object { object: 6, ..object() });
    expect(plain(), &[later.clone(), o(512)], "comes after later objects");
    // The slots of a dnode are its own, and in one block of dnodes.
    let wide = |object| Record::Object(Object { object, dn_slots: 2, ..object_of(object) });
    expect(plain(), &[wide(5), Record::Object(object_of(6))], "comes after later objects");
    expect(plain(), &[wide(5), Record::Object(object_of(7))], "taken");
    expect(plain(), &[wide(31)], "crosses a block of dnodes");
    // Old senders announce a block of dnodes before their data.
    let many: Vec<Record> = (1..32).map(|n| Record::Object(object_of(n))).collect();
    let first = Record::Write(Write { object: 1, ..write() });
    expect(plain(), &[&many[..], std::slice::from_ref(&first)].concat(), "taken");
    let more: Vec<Record> = (1..90).map(|n| Record::Object(object_of(n))).collect();
    expect(plain(), &[&more[..], &[first]].concat(), "has not been announced");
}

fn object_of(number: u64) -> Object {
    Object { object: number, ..object() }
}

#[test]
fn what_a_raw_stream_says_of_dnodes_holds_together() {
    let raw = || begin(Features::RAW.with(Features::COMPRESSED));
    let range = |first| Record::ObjectRange { first, count: 32, to_guid: TO, crypt: CryptParams::default(), flags: 0 };
    let o = Object { raw_bonuslen: 320, indblkshift: 17, nlevels: 2, nblkptr: 1, maxblkid: 1, ..object() };
    let with = |o: Object, more: &[Record]| [&[range(0), Record::Object(o)], more].concat();
    let w = |change: fn(&mut Write)| {
        let mut w = raw_write();
        change(&mut w);
        Record::Write(w)
    };
    expect(raw(), &with(o.clone(), &[w(|_| {})]), "taken");
    // 1024 block pointers fit into an indirect block.
    expect(raw(), &with(Object { maxblkid: 1024, ..o.clone() }, &[]), "beyond what 2 levels reach");
    expect(raw(), &with(Object { nlevels: 1, ..o.clone() }, &[]), "beyond what 1 levels reach");
    let short = Object { bonus_type: 36, bonuslen: 8, raw_bonuslen: 64, nblkptr: 3, ..o.clone() };
    expect(raw(), &with(short.clone(), &[]), "taken");
    expect(raw(), &with(Object { nblkptr: 2, ..short.clone() }, &[]), "where there are 3");
    expect(raw(), &with(Object { raw_bonuslen: 72, ..short }, &[]), "raw bonus of 72 bytes");
    // The whole block or nothing: what is left of one cannot be encrypted here.
    expect(raw(), &with(o.clone(), &[w(|w| (w.logical_size, w.compressed_size) = (512, 512))]), "no block of object 5");
    expect(raw(), &with(o.clone(), &[w(|w| w.compressed_size = 512)]), "compressed size 512");
    expect(raw(), &with(o.clone(), &[w(|w| w.offset = 262_144)]), "beyond the end of object 5");
    let free = Record::Free(Range { object: 5, offset: 512, length: 512, to_guid: TO });
    expect(raw(), &with(o.clone(), &[free]), "no whole number of blocks");
    expect(raw(), &with(o, &[range(0)]), "comes after later objects");
    expect(raw(), &[range(32), range(0)], "comes after later objects");
}

#[test]
fn lists_that_a_kernel_asserts() {
    let with = |features: Features, list: NvWriter| {
        let list = list.packed();
        let begin = Begin { payload_len: list.len() as u32, ..begin(features) };
        refused_with(begin, &list, &[], &[])
    };
    let raw = |change| with(Features::RAW, NvWriter::new().list("crypt_keydata", keys(change)));
    assert_eq!(raw(None), "taken");
    for change in [
        ("mdn_blksz", 512),
        ("mdn_nblkptr", 4),
        ("mdn_nlevels", 0),
        ("mdn_indblkshift", 18),
        ("mdn_maxblkid", u64::MAX),
    ] {
        assert!(raw(Some(change)).contains("dnode of dnodes"), "{change:?}");
    }
    assert!(with(Features::RAW, NvWriter::new()).contains("crypt_keydata"));
    assert!(with(Features::NONE, NvWriter::new().list("crypt_keydata", keys(None))).contains("crypt_keydata"));
    assert!(with(Features::REDACTED, NvWriter::new()).contains("redact_snaps"));
    assert!(refused(begin(Features::REDACTED), &[]).contains("redact_snaps"));
    assert!(with(Features::NONE, NvWriter::new().u64("redact_snaps", 1)).contains("redact_snaps"));
    // Of another type, the kernel does not find it either.
    assert!(with(Features::REDACTED, NvWriter::new().u64("redact_snaps", 1)).contains("redact_snaps"));
    // Nor in a list whose names may occur twice.
    let mut list = NvWriter::new().list("crypt_keydata", keys(None)).packed();
    list[11] = 0;
    let begin = Begin { payload_len: list.len() as u32, ..begin(Features::RAW) };
    assert!(refused_with(begin, &list, &[], &[]).contains("unique"));
}

#[test]
fn what_the_plan_says_of_the_dataset() {
    let stream = fixture("zvol");
    let step = GatePolicy::step(None, Guid(0xb253_371d_4d31_f823));
    assert_eq!(run(GatePolicy { kind: Some(DatasetKind::Volume), ..step.clone() }, &stream), Ok(()));
    let fault = run(GatePolicy { kind: Some(DatasetKind::Filesystem), ..step }, &stream).unwrap_err();
    assert!(fault.cause.contains("of a volume, but the plan is to send a filesystem"), "{fault}");
    // The kernel swaps blocks by rules that trust what is in them.
    let foreign = if NATIVE == ByteOrder::Little { ByteOrder::Big } else { ByteOrder::Little };
    let mut w = StreamWriter::new(foreign);
    w.record(&Record::Begin(plain()), &[]);
    w.end();
    let fault = run(GatePolicy::step(None, TO), &w.take()).unwrap_err();
    assert!(fault.cause.contains("other byte order"), "{fault}");
}
