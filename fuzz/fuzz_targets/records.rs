//! Any bytes, in any pieces, through the parser and the gate.
//!
//! The first byte decides the policy and the pieces. When its top bit is set, the rest is not the stream
//! itself: it is repaired first (checksums recomputed), since no mutation would get past them by luck.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zmigrate::{
    stream::{
        features::Features,
        fletcher::{ByteOrder, Fletcher4},
        gate::{Gate, GatePolicy},
        inspect::Inspector,
        parser::{Ending, Judge, Parser},
        record::{self, RECORD_BYTES, RawRecord, Record, TRAILER_AT},
    },
    types::Guid,
};

fuzz_target!(|data: &[u8]| {
    let Some((how, stream)) = data.split_first() else { return };
    let mut stream = stream.to_vec();
    if how & 0x80 != 0 {
        repair(&mut stream);
    }
    let piece = 1 + usize::from(how & 0x1f) * 37;
    let begin = stream.first_chunk().and_then(|raw| match Record::decode(raw, record::byte_order(raw)?) {
        Some(Record::Begin(begin)) => Some(begin),
        _ => None,
    });
    let begin = begin.unwrap_or_default();
    let policy = GatePolicy {
        to_guid: begin.to_guid,
        from_guid: Some(begin.from_guid).filter(|guid| *guid != Guid(0)),
        allow_compound: how & 0x20 != 0,
        features: Features::TRANSFER,
        raw: begin.features().contains(Features::RAW),
        resuming: begin.features().contains(Features::RESUMING),
        kind: None,
        foreign_byte_order: how & 0x40 != 0,
    };
    run(Parser::new(Gate::new(policy)), &stream, piece);
    let mut inspector = Inspector::new();
    let sound = stream.chunks(piece).all(|piece| inspector.feed(piece).is_ok());
    let found = inspector.finish();
    assert!(sound || !found.complete, "a fault was forgotten");
    let _ = found.to_text();
});

fn run<J: Judge>(mut parser: Parser<J>, stream: &[u8], piece: usize) {
    let mut fed = 0;
    let mut before = 0;
    for bytes in stream.chunks(piece) {
        fed += bytes.len() as u64;
        let result = parser.feed(bytes);
        let released = parser.released();
        assert!(before <= released && released <= fed, "released {released} of {fed} bytes");
        before = released;
        match result {
            Ok(progress) => assert!(progress.incompressible <= bytes.len() as u64),
            Err(fault) => {
                assert!(fault.offset <= fed);
                assert_eq!(parser.finish(), Ending::Damaged(fault));
                return;
            }
        }
    }
    if parser.finish() == Ending::Complete {
        assert_eq!(parser.released(), stream.len() as u64);
    }
}

/// Walks the records and writes the checksums that they should have.
fn repair(stream: &mut [u8]) {
    let Some(order) = stream.first_chunk().and_then(record::byte_order) else { return };
    let mut sums = Fletcher4::new(order);
    let mut at = 0;
    while let Some(raw) = stream.get_mut(at..at + RECORD_BYTES) {
        let put = |raw: &mut [u8], at: usize, sums: &Fletcher4| {
            for (i, sum) in sums.sums().0.into_iter().enumerate() {
                let bytes = if order == ByteOrder::Big { sum.to_be_bytes() } else { sum.to_le_bytes() };
                raw[at + 8 * i..at + 8 * i + 8].copy_from_slice(&bytes);
            }
        };
        let Ok(copy) = RawRecord::try_from(&*raw) else { return };
        let Some(record) = Record::decode(&copy, order) else { return };
        let end = matches!(record, Record::End { .. });
        if matches!(record, Record::Begin(_)) {
            sums.reset();
            sums.update(raw);
        } else {
            // Sums of zero stay: that is the END of a package.
            if end && raw[8..16] != [0; 8] {
                put(raw, 8, &sums);
            }
            sums.update(&raw[..TRAILER_AT]);
            if raw[TRAILER_AT..] != [0; 32] {
                put(raw, TRAILER_AT, &sums);
            }
            sums.update(&raw[TRAILER_AT..]);
        }
        if end {
            sums.reset();
        }
        at += RECORD_BYTES;
        let payload = usize::try_from(record.payload_bytes()).unwrap_or(usize::MAX);
        let Some(payload) = at.checked_add(payload).and_then(|end| stream.get(at..end)) else { return };
        sums.update(payload);
        at += payload.len();
    }
}
