//! Each field of each record by itself: without its rule, a test here fails.

use super::*;

fn raw() -> Begin {
    begin(Features::RAW.with(Features::COMPRESSED))
}

fn range() -> Record {
    Record::ObjectRange { first: 0, count: 32, to_guid: TO, crypt: CryptParams::default(), flags: 0 }
}

#[test]
fn no_record_is_of_another_stream() {
    let other = Guid(1);
    let hole = Range { object: 5, offset: 0, length: 512, to_guid: other };
    let spill = Spill { object: 5, length: 512, to_guid: other, ..Spill::default() };
    let embedded = WriteEmbedded { object: 5, length: 512, lsize: 512, psize: 20, compression: 15, ..embedded(other) };
    for record in [
        Record::FreeObjects { first: 6, count: 1, to_guid: other },
        Record::Free(hole),
        Record::Spill(spill),
        Record::WriteEmbedded(embedded),
    ] {
        expect(plain(), &[Record::Object(object()), record], "another stream");
    }
    let far = Record::ObjectRange { first: 0, count: 32, to_guid: other, crypt: CryptParams::default(), flags: 0 };
    expect(raw(), &[far], "another stream");
}

fn embedded(to_guid: Guid) -> WriteEmbedded {
    WriteEmbedded { to_guid, ..WriteEmbedded::default() }
}

#[test]
fn object_numbers_that_no_dataset_has() {
    for object in [0, rules::MAX_OBJECT] {
        let spill = Spill { object, length: 512, to_guid: TO, ..Spill::default() };
        let whole = WriteEmbedded { object, length: 512, lsize: 512, psize: 20, compression: 15, ..embedded(TO) };
        for record in [
            Record::Write(Write { object, ..write() }),
            Record::Free(Range { object, offset: 0, length: 512, to_guid: TO }),
            Record::Spill(spill),
            Record::WriteEmbedded(whole),
        ] {
            expect(plain(), &[record], &format!("object {object} is out of range"));
        }
    }
}

#[test]
fn types_and_codes_of_blocks() {
    let w = |w: Write| [Record::Object(object()), Record::Write(w)];
    expect(plain(), &w(Write { object_type: 10, ..write() }), "in no filesystem or volume");
    for code in [3, 15] {
        expect(plain(), &w(Write { checksum: code, ..write() }), &format!("checksum code {code}"));
    }
    let small = || Record::Object(Object { blksz: 512, ..object() });
    let e = WriteEmbedded { object: 5, length: 512, lsize: 512, psize: 20, compression: 15, ..embedded(TO) };
    for code in [0, 1, 4, 17] {
        let e = WriteEmbedded { compression: code, ..e.clone() };
        expect(plain(), &[small(), Record::WriteEmbedded(e)], "not that of a block");
    }
    let odd = WriteEmbedded { offset: 100, ..e };
    expect(plain(), &[small(), Record::WriteEmbedded(odd)], "offset 100 is not a multiple of 512");
}

#[test]
fn spill_blocks() {
    let crypt = CryptParams { salt: [1; 8], iv: [2; 12], mac: [3; 16] };
    let s = Spill { object: 5, length: 2048, to_guid: TO, ..Spill::default() };
    let plainly = |s: Spill| [Record::Object(object()), Record::Spill(s)];
    expect(plain(), &plainly(s.clone()), "taken");
    expect(plain(), &plainly(Spill { crypt, ..s.clone() }), "not raw");
    // 2 says that a raw block is to be swapped.
    expect(plain(), &plainly(Spill { flags: 2, ..s.clone() }), "unknown flags");
    let o = Object { raw_bonuslen: 176, indblkshift: 17, nlevels: 2, nblkptr: 1, maxblkid: 1, ..object() };
    let rawly = |s: Spill| [range(), Record::Object(o.clone()), Record::Spill(s)];
    let s = Spill { object_type: 44, compression: 2, compressed_size: 2048, crypt, ..s };
    expect(raw(), &rawly(s.clone()), "taken");
    expect(raw(), &rawly(Spill { flags: 1, ..s.clone() }), "unknown flags");
    expect(raw(), &rawly(Spill { compression: 17, ..s.clone() }), "not that of a block");
    expect(raw(), &rawly(Spill { compressed_size: 4096, ..s }), "compressed size 4096");
}

#[test]
fn flags_of_a_range() {
    let odd = Record::ObjectRange { first: 0, count: 32, to_guid: TO, crypt: CryptParams::default(), flags: 1 };
    expect(raw(), &[odd], "unknown flags");
}

#[test]
fn a_stream_that_resumes_says_where() {
    let ended = |list: NvWriter| {
        let list = list.packed();
        let begin = Begin { payload_len: list.len() as u32, ..begin(Features::RESUMING) };
        let mut w = StreamWriter::new(ByteOrder::Little);
        w.record(&Record::Begin(begin), &list);
        w.end();
        let policy = GatePolicy { resuming: true, foreign_byte_order: true, ..GatePolicy::step(None, TO) };
        run(policy, &w.take()).map_err(|fault| fault.cause)
    };
    let at = |object: u64| NvWriter::new().u64("resume_object", object).u64("resume_offset", 0);
    assert_eq!(ended(at(5)), Ok(()));
    let lacking =
        [NvWriter::new().u64("resume_object", 5), NvWriter::new().u64("resume_offset", 0), at(rules::MAX_OBJECT)];
    for list in lacking {
        assert!(ended(list).unwrap_err().contains("does not say where the stream resumes"));
    }
}
