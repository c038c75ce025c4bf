//! The real streams of `fixtures/streams`, one by one, and their mutants, by number.

use std::{fs, path::Path};

use zmigrate::{
    stream::{
        features::Features,
        gate::GatePolicy,
        record::{Begin, Record},
    },
    types::{Guid, listing::DatasetKind},
};

use crate::{
    mutate::{Kind, Part, mutate, parts, repair},
    rng::Rng,
};

/// What mutants are drawn from, unless somebody asks for others.
pub const SEED: u64 = 0x6d75_7461_6e74;
/// As many are drawn of it.
pub const COUNT: u64 = 2000;

/// A real stream: where it is from, its parts, and what it needs at the receiver.
pub struct Original {
    pub name: String,
    #[allow(dead_code, reason = "the lab looks for the stream that this one starts from")]
    pub begin: Begin,
    pub parts: Vec<Part>,
    pub policy: GatePolicy,
}

/// All real streams. Mutants are drawn from all of them or not at all, so that a number means the same mutant wherever it is drawn.
pub struct Originals {
    all: Vec<Original>,
    /// Their parts, from which mutants take what they get of others.
    plain: Vec<Vec<Part>>,
}

impl Originals {
    /// Reads them.
    pub fn read() -> Originals {
        let all = originals();
        let plain = all.iter().map(|o| o.parts.clone()).collect();
        Originals { all, plain }
    }

    /// In the order of their names.
    pub fn all(&self) -> &[Original] {
        &self.all
    }

    /// The mutant of that seed with that number.
    pub fn mutant(&self, seed: u64, n: u64) -> Mutant<'_> {
        let mut rng = Rng(seed ^ n.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let original = &self.all[rng.below(self.all.len())];
        let kind = Kind::ALL[n as usize % Kind::ALL.len()];
        let mut parts = original.parts.clone();
        let what = mutate(&mut rng, kind, &mut parts, &self.plain);
        let repaired = rng.below(4) != 0;
        if repaired {
            repair(&mut parts);
        }
        Mutant { original, kind, what, repaired, parts, rng }
    }
}

/// All of them; those of a package stand for themselves, and its head and its END do not.
fn originals() -> Vec<Original> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/streams");
    let mut names: Vec<String> = fs::read_dir(&dir)
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".zstream.zst").map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(names.len(), 12);
    let mut all = Vec::new();
    for name in names {
        let bytes = zstd::decode_all(fs::File::open(dir.join(format!("{name}.zstream.zst"))).unwrap()).unwrap();
        let mut at = 0;
        let mut n = 0;
        while at < bytes.len() {
            let (parts, len) = parts(&bytes[at..]);
            at += len;
            let Some(Record::Begin(begin)) = parts[0].record().filter(|_| parts.len() > 1) else { continue };
            if begin.is_compound() {
                continue;
            }
            let policy = GatePolicy {
                raw: begin.features().contains(Features::RAW),
                resuming: begin.features().contains(Features::RESUMING),
                kind: Some(if begin.objset_type == 3 { DatasetKind::Volume } else { DatasetKind::Filesystem }),
                ..GatePolicy::step(Some(begin.from_guid).filter(|g| *g != Guid(0)), begin.to_guid)
            };
            n += 1;
            let name = if n > 1 { format!("{name}.{n}") } else { name.clone() };
            all.push(Original { name, begin, parts, policy });
        }
    }
    all
}

/// One damaged stream.
pub struct Mutant<'a> {
    pub original: &'a Original,
    pub kind: Kind,
    /// What was done to it.
    pub what: String,
    /// Whether its checksums were made right again: three in four are.
    pub repaired: bool,
    pub parts: Vec<Part>,
    /// The numbers that come next.
    #[allow(dead_code, reason = "the lab draws no more of them")]
    pub rng: Rng,
}
