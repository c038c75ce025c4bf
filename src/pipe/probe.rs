//! What stands at the ends of a probe's data path: a send stream that was made up, or around any bytes; and a target
//! that throws everything away.
//!
//! Invariant: what is made up here is a well-formed stream of one snapshot, so that a probe goes the way of a transfer. Its
//! payloads are summed once; the running checksum is joined from these sums, so that making the stream costs little
//! more than copying it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use async_trait::async_trait;

use crate::{
    port::zfs::{Process, Receiving, Sending, ZfsResult},
    stream::{
        features::Features,
        fletcher::{ByteOrder, Fletcher4, Sums},
        record::{Begin, Object, RECORD_BYTES, RawRecord, Record, RecordType, Write, byte_order, type_code},
        write::StreamWriter,
    },
    types::Guid,
    wire::message::ProbedStream,
};

/// Bytes of a made-up WRITE's block: the usual record size.
pub const BLOCK: usize = 128 << 10;
/// Blocks are whole sectors.
const SECTOR: usize = 512;
/// The GUID of the snapshot that a made-up stream is of.
const GUID: Guid = Guid(0x70_726f_6265);
/// The object that the blocks are of.
const FILE: u64 = 2;

/// A process that is always fine.
struct Fine;

#[async_trait]
impl Process for Fine {
    async fn wait(&mut self) -> ZfsResult<()> {
        Ok(())
    }

    fn kill(&mut self) {}
}

/// A sender of that stream.
pub fn sending(stream: Box<dyn Read + Send>) -> Sending {
    Sending { stream, process: Box::new(Fine) }
}

/// A receiver that throws everything away.
pub fn discarding() -> Receiving {
    Receiving { stream: Box::new(io::sink()), process: Box::new(Fine) }
}

/// Where the payloads of a made-up stream come from.
trait Payloads: Send {
    /// Goes to the next block; its sums from zero, or `None` at the end.
    fn advance(&mut self) -> io::Result<Option<Sums>>;

    /// The block: whole sectors, at most [`BLOCK`] bytes.
    fn block(&self) -> &[u8];
}

fn sums(block: &[u8]) -> Sums {
    let mut fletcher = Fletcher4::new(ByteOrder::Little);
    fletcher.update(block);
    fletcher.sums()
}

/// A pool of bytes, again and again.
struct Repeated {
    pool: Vec<u8>,
    sums: Vec<Sums>,
    at: usize,
    len: usize,
    left: u64,
}

impl Payloads for Repeated {
    fn advance(&mut self) -> io::Result<Option<Sums>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.at = (self.at + 1) % self.sums.len();
        let wanted = self.left.min(BLOCK as u64);
        self.left -= wanted;
        self.len = (wanted as usize).next_multiple_of(SECTOR);
        Ok(Some(if self.len == BLOCK { self.sums[self.at] } else { sums(self.block()) }))
    }

    fn block(&self) -> &[u8] {
        &self.pool[self.at * BLOCK..][..self.len]
    }
}

/// The bytes of any input, the last sector filled up with zeros.
struct Input {
    input: Box<dyn Read + Send>,
    block: Vec<u8>,
}

impl Payloads for Input {
    fn advance(&mut self) -> io::Result<Option<Sums>> {
        self.block.clear();
        self.input.by_ref().take(BLOCK as u64).read_to_end(&mut self.block)?;
        self.block.resize(self.block.len().next_multiple_of(SECTOR), 0);
        Ok((!self.block.is_empty()).then(|| sums(&self.block)))
    }

    fn block(&self) -> &[u8] {
        &self.block
    }
}

/// A send stream that is made while it is read: BEGIN, the OBJECT of a file, a WRITE for each of its blocks, END.
struct MadeUp {
    payloads: Box<dyn Payloads>,
    writer: StreamWriter,
    offset: u64,
    head: RawRecord,
    // How much of the head, and then of the block, has been read.
    head_at: usize,
    block_at: usize,
    block_len: usize,
    announced: bool,
    ended: bool,
}

impl MadeUp {
    fn new(payloads: Box<dyn Payloads>) -> MadeUp {
        let mut writer = StreamWriter::new(ByteOrder::Little);
        let head = writer.head(&Record::Begin(Begin {
            version_info: 1 | Features::SA_SPILL.0 << 2,
            objset_type: 2,
            to_guid: GUID,
            to_name: "zmigrate@probe".into(),
            ..Begin::default()
        }));
        MadeUp {
            payloads,
            writer,
            offset: 0,
            head,
            head_at: 0,
            block_at: 0,
            block_len: 0,
            announced: false,
            ended: false,
        }
    }

    /// Goes to the next record.
    fn advance(&mut self) -> io::Result<()> {
        (self.head_at, self.block_at, self.block_len) = (0, 0, 0);
        if !self.announced {
            let file =
                Object { object: FILE, object_type: 19, blksz: BLOCK as u32, to_guid: GUID, ..Object::default() };
            self.head = self.writer.head(&Record::Object(file));
            self.announced = true;
            return Ok(());
        }
        let Some(sums) = self.payloads.advance()? else {
            self.head = self.writer.head(&self.writer.end_record());
            self.ended = true;
            return Ok(());
        };
        self.block_len = self.payloads.block().len();
        let logical_size = self.block_len as u64;
        let write = Write {
            object: FILE,
            object_type: 19,
            offset: self.offset,
            logical_size,
            to_guid: GUID,
            ..Write::default()
        };
        self.offset += logical_size;
        self.head = self.writer.head(&Record::Write(write));
        self.writer.payload(logical_size / 4, sums);
        Ok(())
    }
}

impl Read for MadeUp {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let rest = &mut out[filled..];
            let (from, at) = if self.head_at < RECORD_BYTES {
                (&self.head[self.head_at..], &mut self.head_at)
            } else if self.block_at < self.block_len {
                (&self.payloads.block()[self.block_at..], &mut self.block_at)
            } else if self.ended {
                break;
            } else {
                self.advance()?;
                continue;
            };
            let n = from.len().min(rest.len());
            rest[..n].copy_from_slice(&from[..n]);
            *at += n;
            filled += n;
        }
        Ok(filled)
    }
}

/// What [`repeated`] and [`around`] make.
const MADE_UP: ProbedStream = ProbedStream { to_guid: GUID, from_guid: None, raw: false, resumes: false };

/// A stream whose payloads are `bytes` bytes of the pool, again and again. An empty pool stands for one block of zeros;
/// what does not fill a block is left out.
pub fn repeated(mut pool: Vec<u8>, bytes: u64) -> (Box<dyn Read + Send>, ProbedStream) {
    let whole = pool.len() / BLOCK * BLOCK;
    pool.resize(whole.max(BLOCK), 0);
    let sums: Vec<Sums> = pool.chunks_exact(BLOCK).map(sums).collect();
    let at = sums.len() - 1;
    (Box::new(MadeUp::new(Box::new(Repeated { pool, sums, at, len: 0, left: bytes }))), MADE_UP)
}

/// A stream whose payloads are the bytes of `input`.
pub fn around(input: Box<dyn Read + Send>) -> (Box<dyn Read + Send>, ProbedStream) {
    (Box::new(MadeUp::new(Box::new(Input { input, block: Vec::with_capacity(BLOCK) }))), MADE_UP)
}

/// A file: as it is if it is one whole send stream, by its first and last record; otherwise a stream around its bytes.
///
/// # Errors
/// When it cannot be read.
pub fn file(mut file: File) -> io::Result<(Box<dyn Read + Send>, ProbedStream)> {
    if !file.metadata()?.is_file() {
        return Ok(around(Box::new(file)));
    }
    let stream = whole_stream(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(match stream {
        Some(stream) => (Box::new(file), stream),
        None => around(Box::new(file)),
    })
}

/// What the gate must know of a file that begins with the BEGIN of a single stream and ends with an END of it.
fn whole_stream(file: &mut File) -> io::Result<Option<ProbedStream>> {
    let len = file.metadata()?.len();
    if len < 2 * RECORD_BYTES as u64 {
        return Ok(None);
    }
    let mut record_at = |at| -> io::Result<RawRecord> {
        let mut raw = [0; RECORD_BYTES];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut raw)?;
        Ok(raw)
    };
    let (first, last) = (record_at(0)?, record_at(len - RECORD_BYTES as u64)?);
    let Some(order) = byte_order(&first) else { return Ok(None) };
    if type_code(&last, order) != RecordType::End as u32 {
        return Ok(None);
    }
    Ok(match (Record::decode(&first, order), Record::decode(&last, order)) {
        (Some(Record::Begin(begin)), Some(Record::End { to_guid, .. }))
            if begin.is_substream() && begin.to_guid == to_guid =>
        {
            Some(ProbedStream {
                to_guid,
                from_guid: Some(begin.from_guid).filter(|guid| *guid != Guid(0)),
                raw: begin.features().contains(Features::RAW),
                resumes: begin.features().contains(Features::RESUMING),
            })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::stream::{
        gate::{Gate, GatePolicy},
        parser::{Ending, Parser},
        record::Record,
    };

    /// Reads a stream in pieces of `piece` bytes, judges it as the peer does, and gives its bytes.
    fn judged((mut stream, probed): (Box<dyn Read + Send>, ProbedStream), piece: usize) -> Vec<u8> {
        let policy = GatePolicy {
            raw: probed.raw,
            resuming: probed.resumes,
            ..GatePolicy::step(probed.from_guid, probed.to_guid)
        };
        let mut parser = Parser::new(Gate::new(policy));
        let (mut all, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            let n = stream.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            parser.feed(&buffer[..n]).unwrap();
            all.extend_from_slice(&buffer[..n]);
        }
        assert_eq!(parser.finish(), Ending::Complete);
        all
    }

    /// The payloads of a made-up stream.
    fn payloads(stream: &[u8]) -> Vec<u8> {
        let (mut at, mut all) = (0, Vec::new());
        while at < stream.len() {
            let raw: &RawRecord = stream[at..].first_chunk().unwrap();
            let record = Record::decode(raw, ByteOrder::Little).unwrap();
            at += RECORD_BYTES;
            let len = record.payload_bytes() as usize;
            all.extend_from_slice(&stream[at..at + len]);
            at += len;
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_made_up_is_a_sound_stream(bytes in 0u64..600_000, blocks in 0usize..3, piece in 1usize..300_000) {
            let pool: Vec<u8> = (0..blocks * BLOCK).map(|i| (i * i / 7) as u8).collect();
            let made = payloads(&judged(repeated(pool.clone(), bytes), piece.max(200)));
            prop_assert_eq!(made.len() as u64, bytes.next_multiple_of(512));
            if blocks > 0 {
                prop_assert!(made.iter().zip(pool.iter().cycle()).all(|(a, b)| a == b));
            }
        }

        #[test]
        fn any_bytes_travel_as_they_are(bytes in 0usize..300_000) {
            let input: Vec<u8> = (0..bytes).map(|i| (i / 3) as u8).collect();
            let mut made = payloads(&judged(around(Box::new(io::Cursor::new(input.clone()))), 70_000));
            prop_assert!(made.len() - bytes < 512);
            made.truncate(bytes);
            prop_assert_eq!(made, input);
        }
    }

    fn on_disk(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_whole_stream_goes_as_it_is_and_anything_else_inside_one() {
        let stream = judged(repeated(vec![7; BLOCK], 200_000), 4096);
        assert_eq!(judged(file(on_disk(&stream)).unwrap(), 4096), stream);
        for other in [&stream[..stream.len() - 1], &stream[..stream.len() - RECORD_BYTES], &stream[8..], b"short", b""]
        {
            let made = payloads(&judged(file(on_disk(other)).unwrap(), 4096));
            assert_eq!(&made[..other.len()], other);
        }
    }
}
