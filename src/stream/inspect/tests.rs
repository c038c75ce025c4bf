use std::path::{Path, PathBuf};

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/streams")
}

fn unzstd(name: &str) -> Vec<u8> {
    zstd::decode_all(std::fs::File::open(fixtures().join(name)).unwrap()).unwrap()
}

fn inspect(stream: &[u8], piece: usize) -> Inspection {
    let mut inspector = Inspector::new();
    for piece in stream.chunks(piece) {
        if inspector.feed(piece).is_err() {
            break;
        }
    }
    inspector.finish()
}

/// The number after `label` in a line of the dump.
fn number(line: &str, label: &str) -> Option<u64> {
    let rest = line.trim().strip_prefix(label)?.trim_start().strip_prefix("= ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Compares with what the reference tool printed.
fn compare(name: &str, found: &Inspection, dump: &str) {
    let summary = &dump[dump.find("SUMMARY:").unwrap()..];
    let mut compared = 0;
    for line in summary.lines() {
        if let Some(n) = number(line, "Total records") {
            assert_eq!(found.total_records, n, "{name}: {line}");
        } else if let Some(n) = number(line, "Total payload size") {
            assert_eq!(found.payload_bytes, n, "{name}: {line}");
        } else if let Some(n) = number(line, "Total stream length") {
            assert_eq!(found.stream_bytes, n, "{name}: {line}");
        } else if let Some((record, rest)) =
            line.trim().strip_prefix("Total DRR_").and_then(|l| l.split_once(" records = "))
        {
            let (count, bytes) = rest.strip_suffix(" bytes)").unwrap().split_once(" (").unwrap();
            let expected = RecordCount { count: count.parse().unwrap(), payload_bytes: bytes.parse().unwrap() };
            let record = found.records.get(record).copied().unwrap_or(RecordCount { count: 0, payload_bytes: 0 });
            assert_eq!(record, expected, "{name}: {line}");
        } else {
            continue;
        }
        compared += 1;
    }
    assert_eq!(compared, 12, "{name}: lines of the summary");
    let field = |label: &str| {
        let line = dump.lines().find(|l| l.trim().starts_with(label)).unwrap();
        line.split_once(" = ").unwrap().1.to_owned()
    };
    let hex = |label| u64::from_str_radix(&field(label), 16).unwrap();
    assert_eq!(found.to_name, field("toname"), "{name}");
    assert_eq!(found.to_guid, hex("toguid").to_string(), "{name}");
    assert_eq!(found.from_guid, hex("fromguid").to_string(), "{name}");
    let names = crate::stream::features::Features(hex("features")).names();
    assert_eq!(found.features, names, "{name}");
    let guids: Vec<u64> = dump
        .lines()
        .filter_map(|l| l.strip_prefix("\ttoguid = "))
        .map(|h| u64::from_str_radix(h, 16).unwrap())
        .collect();
    let found_guids: Vec<u64> = found.substreams.iter().map(|s| s.to_guid.parse().unwrap()).collect();
    assert_eq!(found_guids, guids[1..], "{name}: streams of the package");
}

#[test]
fn every_fixture_agrees_with_its_dump() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".zstream.zst") else { continue };
        let (stream, dump) = (unzstd(&file), unzstd(&format!("{name}.dump.zst")));
        let dump = String::from_utf8_lossy(&dump).into_owned();
        for piece in [usize::MAX, 64 << 10, 313] {
            let found = inspect(&stream, piece.min(stream.len()));
            assert_eq!((found.fault.clone(), found.complete, found.exit_code()), (None, true, 0), "{name}");
            compare(name, &found, &dump);
        }
        seen += 1;
    }
    assert_eq!(seen, 12, "fixtures");
}

#[test]
fn without_its_end_a_stream_looks_saved_and_cut_off_elsewhere_it_is_damaged() {
    let stream = unzstd("embed-spill.zstream.zst");
    let saved = inspect(&stream[..stream.len() - RECORD_BYTES], 1000);
    assert_eq!((saved.complete, saved.saved, saved.exit_code()), (false, true, 0));
    let cut = inspect(&stream[..stream.len() - RECORD_BYTES - 1], 1000);
    assert_eq!((cut.complete, cut.saved, cut.exit_code()), (false, false, 6));
    assert_eq!(cut.fault.unwrap().offset, (stream.len() - RECORD_BYTES - 1) as u64);
}

#[test]
fn a_damaged_stream_says_where() {
    let mut stream = unzstd("full-Lec.zstream.zst");
    stream[100_000] ^= 1;
    let found = inspect(&stream, 4096);
    let fault = found.fault.clone().unwrap();
    assert!((100_000 - 312..240_000).contains(&fault.offset), "{fault:?}");
    assert!(fault.cause.contains("checksum"), "{fault:?}");
    assert_eq!(found.exit_code(), 6);
    assert!(found.stream_bytes <= fault.offset + 312);
}

#[test]
fn what_a_person_sees() {
    insta::assert_snapshot!("package", inspect(&unzstd("recursive-R.zstream.zst"), 4096).to_text());
    insta::assert_snapshot!("raw", inspect(&unzstd("raw-enc.zstream.zst"), 4096).to_text());
    let stream = unzstd("zvol.zstream.zst");
    insta::assert_snapshot!("cut_off", inspect(&stream[..stream.len() / 2], 4096).to_text());
    insta::assert_snapshot!("no_stream", inspect(b"#!/bin/sh\n", 4096).to_text());
}

#[test]
fn what_a_program_sees() {
    let json = serde_json::to_string_pretty(&inspect(&unzstd("embed-spill.zstream.zst"), 4096)).unwrap();
    insta::assert_snapshot!("json", json);
}

#[test]
fn a_name_cannot_steer_a_terminal() {
    assert_eq!(printable("a@b\u{1b}[2J"), "a@b\\u{1b}[2J");
}

/// A redacted stream with large dnodes, long names, large blocks compressed with zstd, and a spill block.
fn synthetic(order: ByteOrder) -> Vec<u8> {
    use crate::{
        stream::{
            features::Features,
            record::{Object, Range, Spill, Write},
            write::StreamWriter,
        },
        types::Guid,
    };
    let to_guid = Guid(u64::MAX);
    let features = [
        Features::REDACTED,
        Features::LARGE_DNODE,
        Features::LARGE_BLOCKS,
        Features::COMPRESSED,
        Features::ZSTD,
        Features::LONGNAME,
    ];
    let bits = features.iter().fold(0, |bits, f| bits | f.0);
    let mut w = StreamWriter::new(order);
    w.record(
        &Record::Begin(Begin {
            version_info: 1 | bits << 2,
            objset_type: 2,
            to_guid,
            from_guid: Guid(3),
            to_name: "tank/ä@b".into(),
            ..Begin::default()
        }),
        &[],
    );
    let large = 16 << 20;
    let object = Object { object: 2, blksz: large as u32, bonuslen: 801, dn_slots: 2, to_guid, ..Object::default() };
    w.record(&Record::Object(object), &[1; 808]);
    let write = Write { object: 2, logical_size: large, to_guid, ..Write::default() };
    w.record(&Record::Write(write.clone()), &[]);
    let write = Write { offset: large, compression: 16, compressed_size: 4096, ..write };
    w.record(&Record::Write(write), &[7; 4096]);
    w.record(&Record::Spill(Spill { object: 2, length: 1024, to_guid, ..Spill::default() }), &[9; 1024]);
    w.record(&Record::Redact(Range { object: 2, offset: 0, length: 512, to_guid }), &[]);
    w.end();
    w.take()
}

#[test]
fn a_foreign_byte_order_makes_no_difference() {
    let native = inspect(&synthetic(ByteOrder::Little), 65_537);
    let foreign = inspect(&synthetic(ByteOrder::Big), 65_537);
    assert_eq!((native.byte_order, foreign.byte_order), ("little", "big"));
    assert_eq!(native, Inspection { byte_order: "little", ..foreign });
    assert!(native.complete, "{:?}", native.fault);
    assert_eq!(native.features, ["large_blocks", "redacted", "compressed", "large_dnode", "zstd", "longname"]);
    assert_eq!((native.to_guid.as_str(), native.from_guid.as_str()), ("18446744073709551615", "3"));
    assert_eq!(native.records["OBJECT"].payload_bytes, 808);
    assert_eq!(native.records["WRITE"], RecordCount { count: 2, payload_bytes: (16 << 20) + 4096 });
    assert_eq!((native.records["SPILL"].payload_bytes, native.records["REDACT"].count), (1024, 1));
    assert_eq!((native.compressed_bytes, native.total_records), (4096, 7));
}
