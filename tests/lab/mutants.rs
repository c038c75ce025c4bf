//! Mutants of real streams that the gate lets through, received by the kernel, and read.
//!
//! The gate cannot know all that a kernel trusts. So what passes it, though no ZFS has sent it, is given to one: a receive
//! may succeed or be refused, and what was received is mounted, listed, read, destroyed and scrubbed. Of mutants that the
//! gate refuses, the kernel gets what it would get: the records before the one that is refused, and then the end.
//!
//! Mutant N is the one of that number in `tests/mutants`. What a resumed stream goes on from is not among the fixtures, so mutants of such
//! streams are drawn like all others, and left out.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path, process::Command};

use zmigrate::{
    stream::{Tap, features::Features, gate::Gate, parser::Ending, record::RECORD_BYTES},
    types::{Guid, listing::DatasetKind},
};

use crate::{
    Case,
    guest::{Guest, lab},
    mutate::{Kind, join},
    streams::{COUNT, Mutant, Original, Originals, SEED},
    world::{DIR, World},
};

pub const CASES: &[Case] = &[("mutants_of_real_streams_harm_no_kernel", mutants_of_real_streams_harm_no_kernel)];

/// Of each real stream; at most so many of one kind of damage. With `ZMIGRATE_ALL_MUTANTS=1` all that the gate lets through, and as
/// many parts as otherwise.
const WHOLE: usize = 6;
const CUT: usize = 2;
const OF_A_KIND: usize = 2;
/// Those of more bytes get half as many.
const LARGE: usize = 400 << 10;
/// What is received before it is read, destroyed, and the next ones come.
const AT_ONCE: usize = 150;

/// Receives one stream: its bases, then the stream itself; says how that went. Six of them share a transaction group.
const RECEIVE: &str = r#"#!/bin/bash
# receive NAME FILE ORIGIN BASE...
cd "$(dirname "$0")"
name=$1 file=$2 origin=$3; shift 3
into=tank/mutants/$name
for base in "$@"; do
  timeout 240 zfs receive -s -u "$into" <"$base" 2>&1 || { echo "$name base $base"; exit; }
done
[ "$origin" = - ] || set -- -o origin="$origin"
[ "$origin" != - ] || set --
said=$(timeout 240 zfs receive -s -u "$@" "$into" <"$file" 2>&1)
case $? in
  0) echo "$name received" ;;
  124) echo "$name hangs" ;;
  *) echo "$name refused $(echo "$said" | tr '\n' ' ')" ;;
esac
"#;

/// Mounts what was received, and reads all of it, but no more than 4 MiB of one file: a mutant may say that it is endless.
const READ: &str = r#"#!/bin/bash
# read: what is below tank/mutants, filesystems and volumes.
cd "$(dirname "$0")"
mounted=0 failed=0 volumes=0
zfs list -H -r -t filesystem,volume -o name,type,mounted,keystatus tank/mutants | tail -n +2 >all
while read -r name type state key; do
  # Without its key, what is encrypted cannot be read.
  [ "$key" != unavailable ] || continue
  if [ "$type" = volume ]; then
    zfs set volmode=dev "$name" && volumes=$((volumes + 1))
  elif timeout 120 zfs mount "$name" 2>/dev/null; then mounted=$((mounted + 1)); else failed=$((failed + 1)); fi
done <all
udevadm settle 2>/dev/null
timeout 240 ls -lR at >seen 2>/dev/null; echo "ls $?"
timeout 240 find at -type f -exec head -qc 4M {} + 2>/dev/null >bytes; echo "cat $?"
timeout 240 getfattr -R -h -d -m - at >attributes 2>/dev/null; echo "getfattr $?"
for disk in /dev/zvol/tank/mutants/*; do
  [ ! -b "$disk" ] || timeout 120 head -c 64M "$disk" >>bytes || echo "volume $?"
done
echo "mounted $mounted, not mounted $failed, volumes $volumes, lines $(wc -l <seen), bytes $(wc -c <bytes)"
rm bytes
for name in $(zfs list -H -r -o name -t filesystem tank/mutants | tail -n +2); do zfs unmount "$name" 2>/dev/null; done
true
"#;

/// What the kernel gets of a stream, and whether that is all of it. Of a stream that is not whole, the sink
/// holds back the last record that was released.
fn released(m: &Mutant) -> (Vec<u8>, bool) {
    let mut bytes = join(&m.parts);
    let mut tap = Tap::new(Gate::new(m.original.policy.clone()));
    let _ = tap.feed(&bytes);
    let complete = tap.finish() == Ending::Complete;
    bytes.truncate(tap.released() as usize);
    if !complete {
        bytes.truncate(bytes.len().saturating_sub(RECORD_BYTES));
    }
    (bytes, complete)
}

/// What must be received before a stream, oldest first, and the clone's origin, if it makes one.
fn bases<'a>(all: &'a [Original], of: &Original) -> (Vec<&'a Original>, Option<&'a Original>) {
    if of.begin.from_guid == Guid(0) {
        return (Vec::new(), None);
    }
    // Blocks that are large must be large in both.
    let large = |o: &Original| o.begin.features().contains(Features::LARGE_BLOCKS);
    let mut fits = all.iter().filter(|o| o.begin.to_guid == of.begin.from_guid && !o.policy.resuming);
    let base = fits.clone().find(|o| large(o) == large(of)).or_else(|| fits.next());
    let base = base.unwrap_or_else(|| panic!("no base of {} is in the fixtures", of.name));
    // `DRR_FLAG_CLONE`.
    if of.begin.flags & 1 != 0 {
        return (Vec::new(), Some(base));
    }
    let (mut before, origin) = bases(all, base);
    before.push(base);
    (before, origin)
}

/// Chosen mutants, by the number that each has.
struct Chosen<'a> {
    n: u64,
    mutant: Mutant<'a>,
    complete: bool,
}

impl Chosen<'_> {
    fn name(&self) -> String {
        format!("m{}", self.n)
    }

    fn describe(&self) -> String {
        let m = &self.mutant;
        let sums = if m.repaired { "repaired" } else { "as it is" };
        format!("mutant {} ({:?} of {}: {}; {sums})", self.n, m.kind, m.original.name, m.what)
    }
}

/// Takes mutants until there are enough of each original, and writes into `dir` what is received of each.
fn choose<'a>(originals: &'a Originals, dir: &Path) -> Vec<Chosen<'a>> {
    let every = std::env::var("ZMIGRATE_ALL_MUTANTS").is_ok_and(|value| value == "1");
    let before: BTreeMap<&str, Vec<u8>> = originals.all().iter().map(|o| (&*o.name, join(&o.parts))).collect();
    let (mut chosen, mut resuming) = (Vec::new(), 0);
    let mut counts: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    let mut kinds: BTreeMap<(&str, bool, Kind), usize> = BTreeMap::new();
    for n in 0..COUNT {
        let mutant = originals.mutant(SEED, n);
        if mutant.original.policy.resuming {
            resuming += 1;
            continue;
        }
        let original = &mutant.original.name[..];
        let whole = before[original].len();
        let most = |complete| match complete {
            true if every => usize::MAX,
            complete => (if complete { WHOLE } else { CUT }) / if whole > LARGE { 2 } else { 1 },
        };
        if [true, false].iter().all(|c| counts.get(&(original, *c)).is_some_and(|n| *n >= most(*c))) {
            continue;
        }
        let (bytes, complete) = released(&mutant);
        let count = counts.entry((original, complete)).or_default();
        let of_kind = kinds.entry((original, complete, mutant.kind)).or_default();
        let is_enough = *of_kind >= OF_A_KIND && !(every && complete);
        if *count >= most(complete) || is_enough || bytes.is_empty() || bytes == before[original] {
            continue;
        }
        *count += 1;
        *of_kind += 1;
        fs::write(dir.join(format!("m{n}")), bytes).unwrap();
        chosen.push(Chosen { n, mutant, complete });
    }
    eprintln!(
        "of {COUNT} mutants, {resuming} are of resumed streams, and left out; of the others {} are chosen",
        chosen.len()
    );
    assert!(resuming > 0, "no resumed stream is among the originals, though tests/mutants draws from some");
    chosen
}

/// Packs what lies in `dir`, and unpacks it in the guest, in `DIR/mutants`.
fn take_over(guest: Guest, dir: &Path) {
    let pack = dir.with_extension("tar.gz");
    let tar = Command::new("tar").arg("-C").arg(dir).arg("-czf").arg(&pack).arg(".").status().unwrap();
    assert!(tar.success());
    guest.lab("cp", &[&pack.to_string_lossy()]);
    let name = pack.file_name().unwrap().to_string_lossy().into_owned();
    guest.sh(&format!(
        "mkdir -p {DIR}/mutants; cd {DIR}/mutants; tar -xzf /root/{name}; rm /root/{name}; chmod +x receive read"
    ));
}

fn mutants_of_real_streams_harm_no_kernel(w: &World) {
    let guest = w.two;
    let originals = Originals::read();
    let all = originals.all();
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("zmlab-mutants");
    fs::create_dir(&dir).unwrap();
    let chosen = choose(&originals, &dir);
    let (mut origins, mut jobs) = (String::new(), String::new());
    for one in &chosen {
        let original = one.mutant.original;
        let (before, origin) = bases(all, original);
        let mut line = format!("{0} {0} ", one.name());
        if let Some(origin) = origin {
            // Origins are received once, before all others.
            let (mut chain, none) = bases(all, origin);
            assert!(none.is_none(), "a clone of a clone");
            chain.push(origin);
            let tag = origin.begin.to_name.split('@').nth(1).unwrap();
            write!(line, "tank/mutants/origin-{}@{tag}", origin.name).unwrap();
            let (last, first) = chain.split_last().unwrap();
            let names: Vec<&str> = first.iter().map(|o| &*o.name).collect();
            let job = format!("origin-{0} {0} - {1}\n", last.name, names.join(" "));
            if !origins.contains(&job) {
                origins.push_str(&job);
            }
            chain.iter().for_each(|o| fs::write(dir.join(&o.name), join(&o.parts)).unwrap());
        } else {
            line.push('-');
        }
        for base in before {
            fs::write(dir.join(&base.name), join(&base.parts)).unwrap();
            write!(line, " {}", base.name).unwrap();
        }
        jobs.push_str(&line);
        jobs.push('\n');
    }
    for (name, text) in [("origins", &*origins), ("jobs", &jobs), ("receive", RECEIVE), ("read", READ)] {
        fs::write(dir.join(name), text).unwrap();
    }
    take_over(guest, &dir);
    guest.sh(&format!(
        "zfs create -o canmount=off -o mountpoint={DIR}/mutants/at -o readonly=on -o setuid=off -o devices=off -o exec=off \
         tank/mutants"
    ));
    let said = guest.sh(&format!(
        "cd {DIR}/mutants; xargs -r -L 1 ./receive <origins; split -l {AT_ONCE} jobs part-; for part in part-*; do \
         xargs -L 1 -P 6 ./receive <$part; ./read >>reads; \
         for name in $(zfs list -H -d 1 -o name tank/mutants | grep '/m[0-9]'); do zfs destroy -r $name; done; done"
    ));
    let read = guest.sh(&format!("cat {DIR}/mutants/reads"));
    guest.sh(&format!("zfs destroy -r tank/mutants; rm -r {DIR}/mutants; zpool scrub -w tank"));
    let health = guest.sh("zpool status -x tank");
    eprintln!("{health}");
    judge(&chosen, &said, &read);
    assert!(health.contains("is healthy"), "{health}");
    let panics = lab(&["panics", &guest.0.to_string()]);
    assert!(panics.code == 0, "{}{}", panics.out, panics.err);
}

/// What the receives said must be what may be.
fn judge(chosen: &[Chosen], said: &str, read: &str) {
    let verdicts: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut tally: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for one in chosen {
        let verdict = verdicts.get(&*one.name()).unwrap_or(&"was not tried");
        let counts = tally.entry(&one.mutant.original.name).or_default();
        if *verdict == "received" {
            // A part of a stream is no stream.
            if !one.complete {
                wrong.push(format!("a part was taken as the whole: {}", one.describe()));
            }
            counts[0] += 1;
            continue;
        }
        if !verdict.starts_with("refused") {
            wrong.push(format!("{}: {verdict}", one.describe()));
        }
        counts[if one.complete { 1 } else { 2 }] += 1;
        if one.complete {
            let reason = verdict.rsplit(": ").next().unwrap_or_default().trim().to_owned();
            *reasons.entry(reason).or_default() += 1;
        }
    }
    eprintln!("{:16} {:>8} {:>8} {:>8}", "of", "received", "refused", "parts");
    for (name, [received, refused, parts]) in &tally {
        eprintln!("{name:16} {received:8} {refused:8} {parts:8}");
    }
    reasons.iter().for_each(|(reason, n)| eprintln!("refused {n:4}: {reason}"));
    eprintln!("{read}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Without this, nothing would have been tried.
    for (name, [received, ..]) in &tally {
        assert!(*received > 0, "no mutant of {name} was received");
    }
    assert!(chosen.len() >= 80, "{} mutants", chosen.len());
    let number = |word: &str| -> u64 {
        let of = |line: &str| {
            let rest = line.split(&format!("{word} ")).nth(1).unwrap_or_default();
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse::<u64>().unwrap()
        };
        read.lines().filter(|line| line.starts_with("mounted ")).map(of).sum()
    };
    assert!(number("mounted") > 40 && number("volumes") > 0 && number("bytes") > 8 << 20, "{read}");
    assert!(chosen.iter().any(|one| one.mutant.original.policy.kind == Some(DatasetKind::Volume)));
    assert!(!read.lines().any(|line| line.ends_with(" 124")), "a reader hung: {read}");
}
