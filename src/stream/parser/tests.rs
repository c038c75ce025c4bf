use proptest::prelude::*;

use super::*;
use crate::{
    stream::{
        features::Features,
        gate::{Gate, GatePolicy},
        record::{Begin, Object, Range, Spill, Write, WriteEmbedded},
        write::StreamWriter,
    },
    types::Guid,
};

const TO: Guid = Guid(0x1234_5678_9abc_def0);

/// Any stream that a sender could send: the objects rise, and each kind of record may follow any other.
fn records() -> impl Strategy<Value = Vec<(Record, Vec<u8>)>> {
    let one = (0u8..8, 1u64..9, any::<u8>());
    proptest::collection::vec(one, 0..25).prop_map(|kinds| {
        let records = kinds.into_iter().enumerate();
        records.flat_map(|(i, (kind, size, fill))| one_object(kind, i as u64 + 1, size, fill)).collect()
    })
}

/// A record of that kind, after the object that it needs.
fn one_object(kind: u8, object: u64, size: u64, fill: u8) -> Vec<(Record, Vec<u8>)> {
    let record = one_record(kind, object, size, fill);
    let needs_object = matches!(record.0, Record::Write(_) | Record::Spill(_) | Record::WriteEmbedded(_));
    let block = if kind == 3 { 256 } else { size };
    needs_object.then(|| one_record(0, object, block, fill)).into_iter().chain([record]).collect()
}

fn one_record(kind: u8, object: u64, size: u64, fill: u8) -> (Record, Vec<u8>) {
    let record = match kind {
        0 => Record::Object(Object {
            object,
            object_type: 19,
            bonus_type: 44,
            blksz: 512 * size as u32,
            bonuslen: 64 + 8 * (size as u32 % 16),
            to_guid: TO,
            dn_slots: 1,
            ..Object::default()
        }),
        1 => Record::FreeObjects { first: object, count: size, to_guid: TO },
        2 => {
            Record::Write(Write { object, object_type: 19, logical_size: 512 * size, to_guid: TO, ..Write::default() })
        }
        3 => Record::Write(Write {
            object,
            object_type: 19,
            offset: 1 << 20,
            logical_size: 1 << 17,
            compressed_size: 512 * size,
            compression: 15,
            to_guid: TO,
            ..Write::default()
        }),
        4 => Record::Free(Range { object, offset: 512, length: u64::MAX, to_guid: TO }),
        5 => Record::Spill(Spill { object, length: 512 * size, to_guid: TO, ..Spill::default() }),
        6 => Record::WriteEmbedded(WriteEmbedded {
            object,
            length: 512 * size,
            to_guid: TO,
            compression: 15,
            lsize: 512 * size as u32,
            psize: 11 * size as u32,
            ..WriteEmbedded::default()
        }),
        _ => Record::Free(Range { object, offset: 0, length: 512 * size, to_guid: TO }),
    };
    let mut payload: Vec<u8> = (0..record.payload_bytes()).map(|i| fill.wrapping_mul(i as u8 ^ 0x35)).collect();
    if matches!(record, Record::Object(_) | Record::Spill(_)) {
        // System attributes: magic number, a header of one word.
        payload[..6].copy_from_slice(&[0x5a, 0x50, 0x2f, 0, 2, 4]);
    }
    (record, payload)
}

fn begin() -> Record {
    let features = Features::TRANSFER.without(Features::RAW).without(Features::RESUMING).without(Features::REDACTED);
    Record::Begin(Begin {
        version_info: 1 | features.0 << 2,
        objset_type: 2,
        flags: 0xc,
        to_guid: TO,
        to_name: "tank/a@b".into(),
        ..Begin::default()
    })
}

fn stream(records: &[(Record, Vec<u8>)], order: ByteOrder, trailers: bool) -> Vec<u8> {
    let mut w = if trailers { StreamWriter::new(order) } else { StreamWriter::without_trailers(order) };
    w.record(&begin(), &[]);
    for (record, payload) in records {
        w.record(record, payload);
    }
    w.end();
    w.take()
}

fn order(big: bool) -> ByteOrder {
    if big { ByteOrder::Big } else { ByteOrder::Little }
}

fn parse<J: Judge>(mut parser: Parser<J>, stream: &[u8], pieces: &[usize]) -> Parser<J> {
    let (mut at, mut i) = (0, 0);
    let mut released = 0;
    while at < stream.len() {
        let n = pieces[i % pieces.len()].min(stream.len() - at);
        (at, i) = (at + n, i + 1);
        let progress = parser.feed(&stream[at - n..at]);
        assert!(parser.released() >= released && parser.released() <= at as u64, "released what was not fed");
        released = parser.released();
        match progress {
            Ok(progress) => assert!(progress.released == released && progress.incompressible <= n as u64),
            Err(_) => break,
        }
    }
    parser
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        records in records(),
        big: bool,
        trailers: bool,
        pieces in proptest::collection::vec(1usize..5000, 1..8),
    ) {
        let bytes = stream(&records, order(big), trailers);
        let policy = GatePolicy { foreign_byte_order: true, ..GatePolicy::step(None, TO) };
        let parser = parse(Parser::new(Gate::new(policy)), &bytes, &pieces);
        prop_assert_eq!(parser.finish(), Ending::Complete);
        prop_assert_eq!((parser.released(), parser.fed()), (bytes.len() as u64, bytes.len() as u64));
        let mut expected = Totals::default();
        expected.count(&begin());
        records.iter().for_each(|(r, _)| expected.count(r));
        expected.records[RecordType::End as usize] = 1;
        prop_assert_eq!(*parser.totals(), expected);
        prop_assert_eq!(parser.byte_order(), Some(order(big)));
    }

    #[test]
    fn a_flipped_bit_is_found(records in records(), big: bool, at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = stream(&records, order(big), true);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let parser = parse(Parser::new(AnyStream), &bytes, &[4096]);
        prop_assert!(matches!(parser.finish(), Ending::Damaged(_)), "byte {} bit {}: {:?}", at, bit, parser.finish());
        // A BEGIN that announces a longer payload takes all that follows for it, unless the judge has a limit; a gate has.
        let longer_payload = (4..8).contains(&at) && matches!(parser.awaiting, Awaiting::Payload { .. });
        prop_assert!(longer_payload || parser.released() < bytes.len() as u64);
    }

    #[test]
    fn cut_off_anywhere_is_never_complete(records in records(), trailers: bool, at: prop::sample::Index) {
        let bytes = stream(&records, ByteOrder::Little, trailers);
        let cut = at.index(bytes.len());
        let parser = parse(Parser::new(AnyStream), &bytes[..cut], &[1000]);
        prop_assert_ne!(parser.finish(), Ending::Complete);
        prop_assert!(!parser.is_complete());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0usize..1000) {
        parse(Parser::new(AnyStream), &bytes, &[100]).finish();
        // The same behind a sound beginning.
        let mut longer = stream(&[], ByteOrder::Little, false);
        longer.truncate(312);
        longer.extend_from_slice(&bytes[at.min(bytes.len())..]);
        parse(Parser::new(Gate::new(GatePolicy::step(None, TO))), &longer, &[100]).finish();
    }
}

/// A head, two streams, and the END of the package.
fn package(order: ByteOrder) -> Vec<u8> {
    let mut w = StreamWriter::new(order);
    w.package_head("tank@b", &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    for _ in 0..2 {
        w.record(&begin(), &[]);
        let (record, payload) = one_record(2, 1, 4, 7);
        w.record(&record, &payload);
        w.end();
    }
    w.package_end();
    w.take()
}

#[test]
fn a_package_in_both_byte_orders() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let bytes = package(order);
        let parser = parse(Parser::new(AnyStream), &bytes, &[700]);
        assert_eq!(parser.finish(), Ending::Complete);
        assert_eq!(parser.totals().records[..6], [3, 0, 0, 2, 0, 4]);
        for cut in 0..bytes.len() {
            assert_ne!(
                parse(Parser::new(AnyStream), &bytes[..cut], &[5000]).finish(),
                Ending::Complete,
                "cut at {cut}"
            );
        }
    }
}

#[test]
fn a_package_that_ends_inside_a_stream_is_damaged() {
    let mut w = StreamWriter::new(ByteOrder::Little);
    w.package_head("tank@b", &[]);
    w.record(&begin(), &[]);
    w.package_end();
    let ending = parse(Parser::new(AnyStream), &w.take(), &[99]).finish();
    assert!(
        matches!(&ending, Ending::Damaged(f) if f.cause.contains("the sender failed") && f.record == 3),
        "{ending:?}"
    );
}

#[test]
fn records_in_an_impossible_order() {
    let whole = stream(&[], ByteOrder::Little, true);
    let (begin, end) = whole.split_at(312);
    for (bytes, cause) in [
        ([end, begin].concat(), "does not begin with a BEGIN"),
        ([begin, begin].concat(), "a BEGIN inside a stream"),
        ([&whole, begin].concat(), "bytes follow the end"),
        ([&whole[..], &[0]].concat(), "bytes follow the end"),
        (b"#!/bin/sh".to_vec(), "shorter than one record"),
        (vec![], "the stream is empty"),
    ] {
        let ending = parse(Parser::new(AnyStream), &bytes, &[64]).finish();
        assert!(matches!(&ending, Ending::Damaged(f) if f.cause.contains(cause)), "{cause}: {ending:?}");
    }
}

#[test]
fn a_record_is_released_when_it_is_judged_and_a_payload_as_it_comes() {
    let bytes = stream(&[one_record(2, 1, 8, 3)], ByteOrder::Little, true);
    let mut parser = Parser::new(AnyStream);
    let mut at = 0;
    for (upto, released) in
        [(311, 0), (312, 312), (623, 312), (624, 624), (1000, 1000), (4720, 4720), (5031, 4720), (5032, 5032)]
    {
        assert_eq!(parser.feed(&bytes[at..upto]).unwrap().released, released, "fed {upto}");
        at = upto;
    }
    assert_eq!(parser.finish(), Ending::Complete);
}

#[test]
fn compressed_payloads_are_told_apart() {
    let bytes = stream(&[one_record(3, 1, 8, 3), one_record(2, 2, 8, 3)], ByteOrder::Little, true);
    assert_eq!(Parser::new(AnyStream).feed(&bytes).unwrap().incompressible, 4096);
}

#[test]
fn a_length_without_bytes_allocates_nothing() {
    let mut w = StreamWriter::new(ByteOrder::Little);
    let huge = Begin { version_info: 2, payload_len: 60 << 20, to_name: "a@b".into(), ..Begin::default() };
    w.record(&Record::Begin(huge), &[]);
    let mut parser = Parser::new(Gate::new(GatePolicy { allow_compound: true, ..GatePolicy::step(None, TO) }));
    parser.feed(&w.take()[..400]).unwrap();
    assert!(parser.kept.capacity() < 4096);
    assert_eq!(parser.released(), 0, "a BEGIN waits for its payload");
}
