use super::*;
use crate::stream::{
    fletcher::ByteOrder,
    parser::{Ending, Parser, StreamFault},
    record::{CryptParams, Object, Range, Spill, Write, WriteByref, WriteEmbedded},
    write::StreamWriter,
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

/// The cause with which a stream of this BEGIN and these records is refused.
fn refused(begin: Begin, records: &[Record]) -> String {
    let raw = begin.features().contains(Features::RAW);
    let mut w = StreamWriter::new(ByteOrder::Little);
    // A raw stream's list: crypt_keydata, empty.
    let list = [
        &[1u8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..],
        &[0, 0, 0, 52, 0, 0, 0, 52, 0, 0, 0, 13],
        b"crypt_keydata\0\0\0",
        &[0, 0, 0, 19, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
        &[0; 16],
    ]
    .concat();
    let begin = Begin { payload_len: if raw { list.len() as u32 } else { begin.payload_len }, ..begin };
    w.record(&Record::Begin(begin), &list);
    records.iter().for_each(|r| w.record(r, &[]));
    w.end();
    let policy = GatePolicy { raw, ..GatePolicy::step(None, TO) };
    run(policy, &w.take()).err().map_or_else(|| "taken".into(), |fault| fault.cause)
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
    begin(Features::TRANSFER.without(Features::RAW).without(Features::RESUMING))
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
    expect(plain(), &o(|o| o.object_type = 54), "type 54 is unknown");
    expect(plain(), &o(|o| o.object_type = 0xc4), "taken");
    expect(plain(), &o(|o| o.bonus_type = 0x8a), "type 138 is unknown");
    expect(plain(), &o(|o| o.checksum = 15), "checksum code 15");
    expect(plain(), &o(|o| o.compress = 17), "compression code 17");
    expect(plain(), &o(|o| o.blksz = 0), "block of 0 bytes");
    expect(plain(), &o(|o| o.blksz = 513), "block of 513 bytes");
    expect(plain(), &o(|o| o.blksz = (16 << 20) + 512), "block of 16777728 bytes");
    expect(begin(Features::NONE), &o(|o| o.blksz = 256 << 10), "block of 262144 bytes");
    expect(plain(), &o(|o| o.bonuslen = 321), "bonus of 321 bytes");
    expect(plain(), &o(|o| (o.dn_slots, o.bonuslen) = (2, 832)), "taken");
    expect(plain(), &o(|o| o.dn_slots = 33), "33 slots");
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
        [Record::Write(w)]
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
        expect(plain(), &[Record::Write(write)], "not that of a block");
    }
    expect(begin(Features::NONE), &w(|w| (w.compression, w.compressed_size) = (15, 512)), "neither the feature");
    expect(begin(Features::COMPRESSED), &w(|w| (w.compression, w.compressed_size) = (16, 512)), "feature zstd");
    expect(plain(), &w(|w| w.crypt.mac[0] = 1), "not raw");
    expect(plain(), &w(|w| w.flags = 2), "unknown flags");
    expect(plain(), &w(|w| w.to_guid = Guid(0)), "another stream");
    expect(plain(), &[Record::Write(write()), Record::Write(Write { object: 4, ..write() })], "after a later block");
}

#[test]
fn raw_streams() {
    let raw = || begin(Features::RAW.with(Features::COMPRESSED));
    let range = Record::ObjectRange { first: 0, count: 32, to_guid: TO, crypt: CryptParams::default(), flags: 0 };
    let o = Object { raw_bonuslen: 320, indblkshift: 17, nlevels: 2, nblkptr: 1, ..object() };
    let with = |o: Object| [range.clone(), Record::Object(o)];
    expect(raw(), &[&with(o.clone())[..], &[Record::Write(raw_write())]].concat(), "taken");
    expect(raw(), &[Record::Object(o.clone())], "outside of the last OBJECT_RANGE");
    expect(raw(), &with(Object { object: 32, ..o.clone() }), "outside of the last OBJECT_RANGE");
    expect(raw(), &with(Object { raw_bonuslen: 100, ..o.clone() }), "raw bonus of 100 bytes");
    expect(raw(), &with(Object { raw_bonuslen: 324, ..o.clone() }), "raw bonus of 324 bytes");
    expect(raw(), &with(Object { indblkshift: 25, ..o.clone() }), "indirect block shift of 25");
    expect(raw(), &with(Object { nlevels: 13, ..o.clone() }), "13 levels");
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
    let far = Range { object: 5, offset: u64::MAX - 1, length: 2, to_guid: TO };
    expect(plain(), &[Record::Free(Range { length: u64::MAX, ..far })], "taken");
    expect(plain(), &[Record::Free(far)], "overflow");
    expect(begin(Features::NONE), &[Record::Redact(Range { offset: 0, ..far })], "feature redacted");
    expect(plain(), &[Record::FreeObjects { first: u64::MAX, count: 1, to_guid: TO }], "out of range");
    // The last subtree of dnodes, as old senders free it.
    expect(plain(), &[Record::FreeObjects { first: 1 << 48, count: 1 << 47, to_guid: TO }], "taken");
    expect(plain(), &[Record::WriteByref(WriteByref { to_guid: TO, ..WriteByref::default() })], "WRITE_BYREF");
    let spill = Spill { object: 5, length: 2048, to_guid: TO, ..Spill::default() };
    expect(plain(), &[Record::Spill(spill.clone())], "taken");
    expect(plain(), &[Record::Spill(Spill { length: 256 << 10, ..spill.clone() })], "spill block of 262144");
    expect(plain(), &[Record::Spill(Spill { compressed_size: 512, ..spill })], "compressed spill block");
    let e = WriteEmbedded {
        object: 5,
        length: 512,
        lsize: 512,
        psize: 20,
        compression: 15,
        to_guid: TO,
        ..WriteEmbedded::default()
    };
    expect(plain(), &[Record::WriteEmbedded(e.clone())], "taken");
    expect(begin(Features::NONE), &[Record::WriteEmbedded(e.clone())], "feature embed");
    expect(plain(), &[Record::WriteEmbedded(WriteEmbedded { psize: 113, ..e.clone() })], "113 bytes");
    expect(plain(), &[Record::WriteEmbedded(WriteEmbedded { etype: 2, ..e.clone() })], "embedded type 2");
    expect(plain(), &[Record::WriteEmbedded(WriteEmbedded { lsize: 513, ..e })], "513 bytes");
}
