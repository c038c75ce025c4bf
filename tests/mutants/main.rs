//! Real streams, damaged in thousands of ways, put through what stands before `zfs receive`.
//!
//! Most have their checksums repaired, so that they meet the gate's rules and not fletcher-4. Nothing may panic, take
//! memory, or release what was not judged; and damage that was not repaired must never look complete. What passes is
//! a stream that some sender could have sent; `ZMIGRATE_MUTANTS_OUT=DIR` writes those down, with an index, for a real
//! receiver. `ZMIGRATE_MUTANTS=N` asks for more than 2,000, `ZMIGRATE_SEED=S` for others.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may end with a panic")]

mod memory;
mod mutate;
mod rng;
mod streams;

use std::{collections::BTreeMap, fmt::Write, fs};

use mutate::{Kind, Part, join, repair};
use rng::Rng;
use streams::{COUNT, Mutant, Originals, SEED};
use zmigrate::stream::{
    Tap,
    gate::{Gate, GatePolicy},
    parser::{Ending, FaultKind},
    record::{RECORD_BYTES, RecordType},
};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// The longest list in BEGIN, twice while it grows, once more decoded (a pair of 16 bytes becomes some hundred), and a
/// fault's text.
const MAX_MEMORY: usize = 16 << 20;

/// What became of a stream.
struct Verdict {
    ending: Ending,
    released: u64,
    fed: u64,
}

fn judge(rng: &mut Rng, policy: GatePolicy, bytes: &[u8]) -> Verdict {
    let mut tap = Tap::new(Gate::new(policy));
    let (mut at, mut before) = (0, 0);
    while at < bytes.len() {
        let piece = [1 + rng.below(64), 1 + rng.below(4000), 1 + rng.below(1 << 20)][rng.below(3).max(rng.below(3))];
        let end = bytes.len().min(at + piece);
        let fault = tap.feed(&bytes[at..end]).err();
        at = end;
        let released = tap.released();
        assert!(before <= released && released <= at as u64, "released {released} of {at}, after {before}");
        before = released;
        if let Some(fault) = fault {
            assert!(released <= fault.offset, "released {released}, but the fault is at {}", fault.offset);
            assert_eq!(tap.feed(&[0; 400]).unwrap_err(), fault, "a fault was forgotten");
            assert_eq!(tap.released(), released);
            break;
        }
    }
    Verdict { ending: tap.finish(), released: tap.released(), fed: at as u64 }
}

/// How far an unrepaired stream may be released: not the record whose checksum shows the first damage.
fn safe_until(original: &[u8], parts: &[Part], kind: Kind) -> u64 {
    let bytes = join(parts);
    let first = original.iter().zip(&bytes).position(|(a, b)| a != b).unwrap_or(original.len().min(bytes.len()));
    let mut at = 0;
    for part in parts {
        let header = at + RECORD_BYTES;
        let end = header + part.payload.len();
        if first < header {
            // The checksum of BEGIN, and of a record that has none, is in the next record.
            let shows = !part.is(RecordType::Begin) && kind != Kind::NoTrailer;
            return if shows { at } else { end } as u64;
        }
        if first < end {
            return end as u64;
        }
        at = end;
    }
    at as u64
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn the_originals_pass() {
    let originals = Originals::read();
    let all = originals.all();
    assert!(all.len() >= 14, "{} streams", all.len());
    let mut rng = Rng(1);
    for original in all {
        let before = join(&original.parts);
        let verdict = judge(&mut rng, original.policy.clone(), &before);
        assert_eq!(verdict.ending, Ending::Complete, "{}", original.name);
        assert_eq!(verdict.released, before.len() as u64);
        // What repairs checksums finds nothing to repair.
        let mut parts = original.parts.clone();
        repair(&mut parts);
        assert!(join(&parts) == before, "{}", original.name);
    }
}

#[test]
fn two_thousand_mutants() {
    let (seed, count) = (number("ZMIGRATE_SEED", SEED), number("ZMIGRATE_MUTANTS", COUNT));
    eprintln!("mutants: seed {seed}, {count} of them");
    let originals = Originals::read();
    let out = std::env::var_os("ZMIGRATE_MUTANTS_OUT").map(std::path::PathBuf::from);
    if let Some(dir) = &out {
        fs::create_dir_all(dir).unwrap();
    }
    let mut tally: BTreeMap<(Kind, &str), [usize; 5]> = BTreeMap::new();
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    let mut index = String::new();
    for n in 0..count {
        let Mutant { original, kind, what, repaired, parts, mut rng } = originals.mutant(seed, n);
        let (before, bytes) = (join(&original.parts), join(&parts));
        let name =
            format!("{n} ({kind:?} of {}: {what}; {})", original.name, if repaired { "repaired" } else { "as it is" });
        let (verdict, memory) = memory::peak(|| judge(&mut rng, original.policy.clone(), &bytes));
        assert!(memory <= MAX_MEMORY, "mutant {name} took {memory} bytes");
        let complete = verdict.ending == Ending::Complete;
        if complete {
            assert_eq!((verdict.released, verdict.fed), (bytes.len() as u64, bytes.len() as u64), "mutant {name}");
            // The checksum of END itself may be missing, as from zfs-fuse; of what is in the stream, nothing has changed.
            let same = bytes.len() == before.len() && bytes[..bytes.len() - 32] == before[..before.len() - 32];
            assert!(repaired || same, "mutant {name} is damaged, and looks complete");
        } else {
            // Only of a stream whose end is missing is all released that came.
            let cut = match &verdict.ending {
                Ending::Damaged(fault) => fault.kind == FaultKind::Truncated,
                _ => true,
            };
            assert!(cut || verdict.released < bytes.len() as u64, "mutant {name}");
            if !repaired && kind != Kind::Two && bytes != before {
                let safe = safe_until(&before, &parts, kind);
                assert!(verdict.released <= safe, "mutant {name}: released {}, sound until {safe}", verdict.released);
            }
        }
        let slot = match &verdict.ending {
            Ending::Complete => 4,
            Ending::SavedWithoutEnd => 3,
            Ending::Damaged(fault) => {
                if fault.kind == FaultKind::Refused {
                    let letters: String = fault.cause.chars().filter(|c| !c.is_ascii_digit()).collect();
                    *causes.entry(letters).or_default() += 1;
                }
                match fault.kind {
                    FaultKind::Framing => 0,
                    FaultKind::Checksum => 1,
                    FaultKind::Refused => 2,
                    FaultKind::Truncated => 3,
                }
            }
        };
        tally.entry((kind, if repaired { "repaired" } else { "as it is" })).or_default()[slot] += 1;
        if let Some(dir) = out.as_ref().filter(|_| complete && bytes != before) {
            let file = format!("{n:05}.zst");
            fs::write(dir.join(&file), zstd::encode_all(&bytes[..], 3).unwrap()).unwrap();
            writeln!(index, "{file}\t{}\t{kind:?}\t{what}", original.name).unwrap();
        }
    }
    eprintln!(
        "{:16} {:9} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "kind", "checksums", "framing", "checksum", "refused", "cut off", "passed"
    );
    let mut totals = [0; 5];
    for ((kind, how), counts) in &tally {
        let [a, b, c, d, e] = counts;
        eprintln!("{:16} {how:9} {a:8} {b:8} {c:8} {d:8} {e:8}", format!("{kind:?}"));
        totals.iter_mut().zip(counts).for_each(|(total, n)| *total += n);
    }
    let [framing, checksum, refused, cut, passed] = totals;
    eprintln!(
        "in all: {framing} framing, {checksum} checksum, {refused} refused by {} rules, {cut} cut off, {passed} passed",
        causes.len()
    );
    if let Some(dir) = out {
        fs::write(dir.join("index.tsv"), index).unwrap();
        let causes: String = causes.iter().map(|(cause, n)| format!("{n}\t{cause}\n")).collect();
        fs::write(dir.join("causes.tsv"), causes).unwrap();
    }
    // They get where they should: to the rules, to many of them, and past them where only data differs.
    if count >= COUNT {
        assert!(refused > 500 && causes.len() > 50, "{refused} refused by {} rules", causes.len());
        assert!(passed > 100 && checksum > 200, "{passed} passed, {checksum} failed by their checksum");
    }
}
