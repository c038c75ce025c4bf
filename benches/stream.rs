//! How fast a transfer's stream can be judged on one core, beside what the machine can copy.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use zmigrate::{
    stream::{
        features::Features,
        fletcher::{ByteOrder, Fletcher4},
        gate::{Gate, GatePolicy},
        parser::{AnyStream, Parser},
        record::{Begin, Object, Record, Write},
        write::StreamWriter,
    },
    types::Guid,
};

const TO: Guid = Guid(1);
const BLOCK: usize = 128 << 10;
/// As much as the data path hands over at a time.
const CHUNK: usize = 1 << 20;

/// 128 MiB of WRITE records of 128 KiB that all differ: more than the caches of most processors hold.
fn stream(order: ByteOrder) -> Vec<u8> {
    let mut w = StreamWriter::new(order);
    w.record(
        &Record::Begin(Begin {
            version_info: 1 | Features::SA_SPILL.0 << 2,
            objset_type: 2,
            to_guid: TO,
            to_name: "tank/a@b".into(),
            ..Begin::default()
        }),
        &[],
    );
    let file = Object { object: 2, object_type: 19, blksz: BLOCK as u32, to_guid: TO, ..Object::default() };
    w.record(&Record::Object(file), &[]);
    let mut seed = 1u32;
    let mut noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    });
    for i in 0..1024 {
        let payload: Vec<u8> = noise.by_ref().take(BLOCK).collect();
        let offset = i * BLOCK as u64;
        let size = BLOCK as u64;
        let write = Write { object: 2, object_type: 19, offset, logical_size: size, to_guid: TO, ..Write::default() };
        w.record(&Record::Write(write), &payload);
    }
    w.end();
    w.take()
}

fn throughput(c: &mut Criterion) {
    let little = stream(ByteOrder::Little);
    let big = stream(ByteOrder::Big);
    let mut group = c.benchmark_group("stream");
    group.throughput(Throughput::Bytes(little.len() as u64)).sample_size(20);
    group.bench_function("memcpy", |b| {
        let mut out = vec![0; little.len()];
        b.iter(|| out.copy_from_slice(black_box(&little)));
    });
    for (name, order) in [("fletcher", ByteOrder::Little), ("fletcher-foreign", ByteOrder::Big)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut f = Fletcher4::new(order);
                f.update(black_box(&little));
                f.sums()
            });
        });
    }
    group.bench_function("parser", |b| {
        b.iter(|| {
            let mut parser = Parser::new(AnyStream);
            little.chunks(CHUNK).for_each(|c| assert!(parser.feed(c).is_ok()));
            assert!(parser.is_complete());
        });
    });
    for (name, bytes) in [("parser+gate", &little), ("parser+gate-foreign", &big)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let policy = GatePolicy { foreign_byte_order: true, ..GatePolicy::step(None, TO) };
                let mut parser = Parser::new(Gate::new(policy));
                bytes.chunks(CHUNK).for_each(|c| assert!(parser.feed(c).is_ok()));
                assert!(parser.is_complete());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, throughput);
criterion_main!(benches);
