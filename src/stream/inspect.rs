//! What a stream is, for people and programs: `zmigrate stream inspect`.
//!
//! Nothing is judged but framing and checksums, so that strange streams can be looked at, too.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    features::begin_flag_names,
    fletcher::ByteOrder,
    parser::{Ending, FaultKind, Judge, Parser, StreamFault, Totals},
    record::{Begin, RECORD_BYTES, RawRecord, Record, RecordType},
};
use crate::types::human_bytes;

/// How many streams of a package are listed. All are counted.
pub const MAX_LISTED_STREAMS: usize = 100_000;

/// Reads a stream, in any pieces.
#[derive(Debug)]
pub struct Inspector {
    parser: Parser<Catalog>,
}

impl Default for Inspector {
    fn default() -> Self {
        Self::new()
    }
}

/// Notes the BEGIN records.
#[derive(Debug, Default)]
struct Catalog {
    first: Option<Begin>,
    streams: Vec<Substream>,
}

impl Judge for Catalog {
    fn record(&mut self, record: &Record, _: &RawRecord) -> Result<(), String> {
        let Record::Begin(begin) = record else { return Ok(()) };
        match &self.first {
            None => self.first = Some(begin.clone()),
            Some(_) if self.streams.len() < MAX_LISTED_STREAMS => self.streams.push(Substream::new(begin)),
            Some(_) => {}
        }
        Ok(())
    }
}

impl Inspector {
    /// An inspector before the first byte.
    pub fn new() -> Self {
        Self { parser: Parser::new(Catalog::default()) }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// At the first fault. The rest of the stream then has no meaning; [`Inspector::finish`] reports the fault.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), StreamFault> {
        self.parser.feed(input).map(|_| ())
    }

    /// What was found.
    pub fn finish(self) -> Inspection {
        let ending = self.parser.finish();
        let totals = *self.parser.totals();
        let catalog = self.parser.judge();
        let first = catalog.first.clone().unwrap_or_default();
        let stream_bytes = match &ending {
            // What follows the damage is not counted; what a truncated stream has, is.
            Ending::Damaged(fault) if fault.kind != FaultKind::Truncated => self.parser.released(),
            _ => self.parser.fed(),
        };
        let mut found = Inspection::new(&first, catalog.streams.clone(), &totals, &ending, stream_bytes);
        found.byte_order = match self.parser.byte_order() {
            Some(ByteOrder::Little) => "little",
            Some(ByteOrder::Big) => "big",
            None => "unknown",
        };
        found
    }
}

/// One stream of a package.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Substream {
    /// The snapshot's name at the source.
    pub to_name: String,
    /// The snapshot's GUID, in decimal.
    pub to_guid: String,
    /// The GUID of what it starts from, in decimal; `0` for a full stream.
    pub from_guid: String,
    /// `filesystem` or `volume`.
    pub kind: &'static str,
    /// Features by name.
    pub features: Vec<String>,
}

impl Substream {
    fn new(b: &Begin) -> Self {
        Self {
            to_name: printable(&b.to_name),
            to_guid: b.to_guid.to_string(),
            from_guid: b.from_guid.to_string(),
            kind: kind(b),
            features: b.features().names(),
        }
    }
}

/// How many records of a type, and the bytes of their payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RecordCount {
    /// Records.
    pub count: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
}

/// Where a damaged stream is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Index of the record; the first BEGIN is 0.
    pub record: u64,
    /// Bytes from the start of the stream.
    pub offset: u64,
    /// What is wrong.
    pub cause: String,
}

/// All that is known of a stream.
///
/// Of a package, `to_name`, GUIDs, features and flags are those of its own BEGIN, whose GUIDs are 0;
/// those of the streams in it are in `substreams`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The snapshot's name at the source.
    pub to_name: String,
    /// The snapshot's GUID, in decimal.
    pub to_guid: String,
    /// The GUID of what it starts from, in decimal; `0` for a full stream.
    pub from_guid: String,
    /// `filesystem`, `volume` or `package`; `unknown` for anything else.
    pub kind: &'static str,
    /// When the snapshot was made, in seconds since 1970; 0 for a package.
    pub creation_unix_s: u64,
    /// Features by name.
    pub features: Vec<String>,
    /// Flags of BEGIN by name.
    pub flags: Vec<String>,
    /// `little` or `big`: the byte order of the machine that made it; `unknown` if there is no stream.
    pub byte_order: &'static str,
    /// Records and payload bytes of each type that occurs.
    pub records: BTreeMap<&'static str, RecordCount>,
    /// Records of all types.
    pub total_records: u64,
    /// Bytes of all payloads.
    pub payload_bytes: u64,
    /// Bytes of the stream: records and payloads. Of a damaged stream, those before the damage.
    pub stream_bytes: u64,
    /// Payload bytes of blocks that ZFS compressed.
    pub compressed_bytes: u64,
    /// `compressed_bytes` over `payload_bytes`, 0 to 1.
    pub compressed_share: f64,
    /// Payload bytes of blocks that ZFS encrypted. A block can be both.
    pub encrypted_bytes: u64,
    /// `encrypted_bytes` over `payload_bytes`, 0 to 1.
    pub encrypted_share: f64,
    /// The streams in a package, in order; empty for a single stream.
    pub substreams: Vec<Substream>,
    /// True when the last END came and its checksum agreed.
    pub complete: bool,
    /// True when it looks like the output of `zfs send --saved`, which has no END.
    pub saved: bool,
    /// Where it is damaged.
    pub fault: Option<Fault>,
}

impl Inspection {
    fn new(begin: &Begin, substreams: Vec<Substream>, totals: &Totals, ending: &Ending, stream_bytes: u64) -> Self {
        let payload_bytes = totals.total_payload_bytes();
        let share = |part: u64| if payload_bytes == 0 { 0.0 } else { part as f64 / payload_bytes as f64 };
        let of = |t: RecordType| RecordCount {
            count: totals.records[t as usize],
            payload_bytes: totals.payload_bytes[t as usize],
        };
        let seen = RecordType::ALL.into_iter().filter(|t| of(*t).count > 0);
        Self {
            to_name: printable(&begin.to_name),
            to_guid: begin.to_guid.to_string(),
            from_guid: begin.from_guid.to_string(),
            kind: kind(begin),
            creation_unix_s: begin.creation,
            features: begin.features().names(),
            flags: begin_flag_names(begin.flags),
            byte_order: "unknown",
            records: seen.map(|t| (t.name(), of(t))).collect(),
            total_records: totals.total_records(),
            payload_bytes,
            stream_bytes,
            compressed_bytes: totals.compressed_bytes,
            compressed_share: share(totals.compressed_bytes),
            encrypted_bytes: totals.encrypted_bytes,
            encrypted_share: share(totals.encrypted_bytes),
            substreams,
            complete: *ending == Ending::Complete,
            saved: *ending == Ending::SavedWithoutEnd,
            fault: match ending {
                Ending::Damaged(f) => Some(Fault { record: f.record, offset: f.offset, cause: f.cause.clone() }),
                _ => None,
            },
        }
    }

    /// The exit code of a program that inspected it: 0 when whole or saved, 6 when damaged.
    pub fn exit_code(&self) -> u8 {
        if self.fault.is_none() { 0 } else { 6 }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = self.text(&mut out);
        out
    }

    fn text(&self, out: &mut String) -> std::fmt::Result {
        let none = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        if let (0, Some(f)) = (self.total_records, &self.fault) {
            return writeln!(out, "no ZFS send stream: {}", f.cause);
        }
        writeln!(out, "{} {}", self.kind, self.to_name)?;
        if self.kind != "package" {
            writeln!(out, "  GUID      {}", self.to_guid)?;
            let from = if self.from_guid == "0" { "nothing: a full stream" } else { &self.from_guid };
            writeln!(out, "  from      {from}")?;
        }
        writeln!(out, "  features  {}", none(&self.features))?;
        writeln!(out, "  flags     {}", none(&self.flags))?;
        writeln!(out, "  sender    {}-endian", self.byte_order)?;
        for s in &self.substreams {
            let from = if s.from_guid == "0" { String::new() } else { format!(" from {}", s.from_guid) };
            writeln!(out, "  contains  {} {} GUID {}{from}", s.kind, s.to_name, s.to_guid)?;
        }
        writeln!(out, "\n  {:<16}{:>10}{:>16}", "record", "count", "payload bytes")?;
        for (name, r) in &self.records {
            writeln!(out, "  {name:<16}{:>10}{:>16}", r.count, r.payload_bytes)?;
        }
        writeln!(out, "  {:<16}{:>10}{:>16}", "all", self.total_records, self.payload_bytes)?;
        let overhead = self.total_records * RECORD_BYTES as u64;
        writeln!(out, "\n  {} in all, {} of it record headers", human_bytes(self.stream_bytes), human_bytes(overhead))?;
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        writeln!(
            out,
            "  {} of the payload is compressed, {} encrypted",
            percent(self.compressed_share),
            percent(self.encrypted_share)
        )?;
        match &self.fault {
            None if self.saved => writeln!(
                out,
                "  no END: the state of an interrupted receive (zfs send --saved), or cut off between two records"
            ),
            None => writeln!(out, "  complete: every checksum agrees"),
            Some(f) => writeln!(out, "  DAMAGED at byte {} (record {}): {}", f.offset, f.record, f.cause),
        }
    }
}

fn kind(b: &Begin) -> &'static str {
    match b.objset_type {
        _ if b.is_compound() => "package",
        2 => "filesystem",
        3 => "volume",
        _ => "unknown",
    }
}

/// A name from a stream may hold anything: what could steer a terminal is shown as an escape.
fn printable(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests;
