//! Whether and how hard to compress each chunk.
//!
//! The [`Governor`] is pure: it is told what a chunk is made of and where the transfer waits, and answers with a level.
//! Work is only spent where it buys time: the level rises while the link is behind, and falls, down to no compression
//! at all, while compressing itself is what everything else waits for, or is no faster than the link without it.

use std::time::Instant;

use bytes::Bytes;

use crate::wire::{
    frame::{Frame, FrameKind},
    message::Compression,
};

/// The levels of zstd that `auto` moves between; below the first, chunks go plain.
const LADDER: [i32; 9] = [-5, -1, 1, 2, 3, 4, 6, 8, 10];
/// Where `auto` starts: level 1.
const START: usize = 3;
/// A chunk must shrink by this share to be worth decompressing.
const WORTH_PERCENT: usize = 3;
/// Bytes that are tried before a whole chunk is, when the last one did not shrink.
const SAMPLE: usize = 32 << 10;
/// Below this backlog the link waits for what is packed: two frames of 8 MiB, the least that a channel uses of its window, are a quarter.
const IDLE: f32 = 0.3;
/// How much faster than the link a level must pack: it takes processors from encryption and from the receiver besides.
const FASTER: f32 = 1.5;
/// The most chunks in a row that go plain without a try.
const MAX_SKIP: u32 = 16;

/// What is known when a chunk is about to be packed.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The share of the chunk, 0 to 1, that ZFS has compressed or encrypted already.
    pub incompressible: f32,
    /// The share of the window, 0 to 1, that the link has not carried yet.
    pub backlog: f32,
    /// Chunks that wait for this thread, as a share of the places for them.
    pub waiting: f32,
    /// Bytes per second that the link carries when it is busy; 0 while unknown.
    pub link_bytes_per_s: f32,
}

/// See the module.
#[derive(Debug)]
pub struct Governor {
    mode: Compression,
    /// Index into the ladder plus one; 0 is plain.
    rung: usize,
    /// Chunks left that go without a try.
    skip: u32,
    /// How many will be skipped after the next failure.
    next_skip: u32,
    /// The last chunk shrank.
    shrinks: bool,
    /// Chunks since the rung was 0.
    plain_for: u32,
    /// Bytes per second that were packed at each level, a mean over the last chunks; 0 while unknown.
    speed: [f32; LADDER.len()],
}

/// What to do with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Carry it as it is.
    Plain,
    /// Try a sample first, then all of it at this level.
    Sample(i32),
    /// Compress it at this level.
    Compress(i32),
}

impl Governor {
    /// A governor for one transfer.
    pub fn new(mode: Compression) -> Governor {
        Governor { mode, rung: START, skip: 0, next_skip: 1, shrinks: false, plain_for: 0, speed: [0.0; LADDER.len()] }
    }

    /// What to do with the next chunk.
    pub fn decide(&mut self, now: Situation) -> Decision {
        let level = match self.mode {
            Compression::None => return Decision::Plain,
            Compression::Zstd(level) => i32::from(level),
            Compression::Auto => match self.move_rung(now) {
                0 => return Decision::Plain,
                rung => LADDER[rung - 1],
            },
        };
        if now.incompressible > 0.9 {
            return Decision::Plain;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Decision::Plain;
        }
        if self.shrinks { Decision::Compress(level) } else { Decision::Sample(level) }
    }

    fn move_rung(&mut self, now: Situation) -> usize {
        if self.rung > 0 && !self.pays(self.rung, now.link_bytes_per_s) {
            self.rung -= 1;
        } else if now.backlog > 0.5 && now.link_bytes_per_s > 0.0 {
            // Not before it is known what the link carries: a window that fills for the first time says nothing.
            let next = (self.rung + 1).min(LADDER.len());
            if self.pays(next, now.link_bytes_per_s) {
                self.rung = next;
            }
        } else if now.backlog < IDLE && now.waiting >= 0.75 {
            self.rung = self.rung.saturating_sub(1);
        }
        if self.rung == 0 {
            // The situation may have changed: try again now and then.
            self.plain_for += 1;
            if self.plain_for >= 4 * MAX_SKIP {
                self.plain_for = 0;
                self.rung = 1;
            }
        }
        self.rung
    }

    /// False if a level is known to pack hardly faster than the link carries what is not packed at all. Packing takes
    /// longer at each higher level.
    fn pays(&self, rung: usize, link_bytes_per_s: f32) -> bool {
        self.speed[..rung].iter().all(|speed| *speed == 0.0 || *speed > FASTER * link_bytes_per_s)
    }

    /// Learns how long a chunk took to compress at a level of the ladder.
    pub fn took(&mut self, level: i32, bytes: usize, seconds: f32) {
        if let Some(at) = LADDER.iter().position(|l| *l == level) {
            let speed = bytes as f32 / seconds.max(1e-6);
            let mean = &mut self.speed[at];
            *mean = if *mean == 0.0 { speed } else { 0.75 * *mean + 0.25 * speed };
        }
    }

    /// Learns whether the chunk, or its sample, shrank.
    pub fn learn(&mut self, shrank: bool) {
        self.shrinks = shrank;
        if shrank {
            self.next_skip = 1;
        } else {
            self.skip = self.next_skip;
            self.next_skip = (self.next_skip * 2).min(MAX_SKIP);
        }
    }
}

fn is_worth(packed: usize, raw: usize) -> bool {
    packed * 100 <= raw * (100 - WORTH_PERCENT)
}

/// Packs chunks into frames.
pub struct Packer {
    governor: Governor,
    zstd: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

impl Packer {
    /// A packer for one transfer.
    ///
    /// # Errors
    /// When zstd cannot get its memory.
    pub fn new(mode: Compression, largest_chunk: usize) -> std::io::Result<Packer> {
        Ok(Packer {
            governor: Governor::new(mode),
            zstd: zstd::bulk::Compressor::new(1)?,
            scratch: vec![0; zstd::zstd_safe::compress_bound(largest_chunk)],
        })
    }

    /// The frame that carries `raw`, whose XXH3-64 is `check`.
    pub fn pack(&mut self, raw: Bytes, check: u64, now: Situation) -> Frame {
        let packed = match self.governor.decide(now) {
            Decision::Plain => None,
            Decision::Compress(level) => self.compress_timed(&raw, level),
            Decision::Sample(level) => {
                let at = raw.len().saturating_sub(SAMPLE) / 2;
                let sample = raw.slice(at..raw.len().min(at + SAMPLE));
                self.compress(&sample, LADDER[0]).is_some().then(|| self.compress_timed(&raw, level)).flatten()
            }
        };
        match packed {
            Some(len) => {
                let payload = Bytes::copy_from_slice(&self.scratch[..len]);
                Frame::zstd(FrameKind::Data, 0, payload, raw.len() as u32, check)
            }
            None => Frame::checked(FrameKind::Data, 0, raw, check),
        }
    }

    fn compress_timed(&mut self, raw: &[u8], level: i32) -> Option<usize> {
        let started = Instant::now();
        let packed = self.compress(raw, level);
        self.governor.took(level, raw.len(), started.elapsed().as_secs_f32());
        packed
    }

    /// Compresses into the scratch buffer; the length, if it was worth it.
    fn compress(&mut self, raw: &[u8], level: i32) -> Option<usize> {
        let packed = self
            .zstd
            .set_compression_level(level)
            .and_then(|()| self.zstd.compress_to_buffer(raw, &mut self.scratch[..]))
            .ok()
            .filter(|len| is_worth(*len, raw.len()));
        self.governor.learn(packed.is_some());
        packed
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    const EVEN: Situation = Situation { incompressible: 0.0, backlog: 0.3, waiting: 0.5, link_bytes_per_s: 0.0 };

    #[test]
    fn the_level_follows_the_bottleneck() {
        let mut governor = Governor::new(Compression::Auto);
        governor.learn(true);
        assert_eq!(governor.decide(EVEN), Decision::Compress(1));
        let link_is_slow = Situation { backlog: 0.9, link_bytes_per_s: 1.0e6, ..EVEN };
        let levels: Vec<_> = (0..9).map(|_| governor.decide(link_is_slow)).collect();
        assert_eq!(levels.last(), Some(&Decision::Compress(10)));
        // The last frame or two are always on their way.
        let cpu_is_slow = Situation { backlog: 0.25, waiting: 1.0, ..EVEN };
        let levels: Vec<_> = (0..9).map(|_| governor.decide(cpu_is_slow)).collect();
        assert_eq!(levels.last(), Some(&Decision::Plain));
        // The source being slow is no reason to change anything.
        assert!((0..200).any(|_| governor.decide(Situation { backlog: 0.0, waiting: 0.0, ..EVEN }) != Decision::Plain));
    }

    #[test]
    fn a_link_that_is_faster_than_packing_gets_plain_chunks() {
        let mut governor = Governor::new(Compression::Auto);
        governor.learn(true);
        let behind = Situation { backlog: 0.9, link_bytes_per_s: 1.0e9, ..EVEN };
        let mut packed = 0;
        for _ in 0..1000 {
            if let Decision::Compress(level) = governor.decide(behind) {
                packed += 1;
                governor.took(level, 1 << 20, 1.0 / 600.0);
            }
        }
        // But for the first ones, only a try now and then.
        assert!((5..40).contains(&packed), "{packed} of 1000 chunks were packed");
        // When the link gets slower, packing pays again.
        let slow = Situation { link_bytes_per_s: 1.0e8, ..behind };
        let last = (0..20).map(|_| governor.decide(slow)).last();
        assert!(matches!(last, Some(Decision::Compress(10))), "{last:?}");
    }

    #[test]
    fn what_does_not_shrink_is_tried_ever_more_rarely() {
        let mut governor = Governor::new(Compression::Zstd(3));
        let mut tries = 0;
        for _ in 0..170 {
            if governor.decide(EVEN) != Decision::Plain {
                tries += 1;
                governor.learn(false);
            }
        }
        assert!((10..16).contains(&tries), "{tries} tries");
        governor.learn(true);
        governor.skip = 0;
        assert_eq!(governor.decide(EVEN), Decision::Compress(3));
    }

    #[test]
    fn blocks_that_zfs_compressed_or_encrypted_go_plain() {
        let mut governor = Governor::new(Compression::Zstd(3));
        assert_eq!(governor.decide(Situation { incompressible: 0.95, ..EVEN }), Decision::Plain);
        assert_ne!(governor.decide(EVEN), Decision::Plain);
        assert_eq!(Governor::new(Compression::None).decide(EVEN), Decision::Plain);
    }

    #[test]
    fn packed_chunks_open_to_what_they_were() {
        let mut packer = Packer::new(Compression::Zstd(3), 1 << 20).unwrap();
        let text = Bytes::from("zfs send | zfs receive\n".repeat(10_000));
        let noise: Vec<u8> = (0..100_000u32).map(|n| (xxh3_64(&n.to_le_bytes()) & 255) as u8).collect();
        for raw in [text.clone(), Bytes::from(noise), Bytes::new(), Bytes::from_static(b"x"), text.clone()] {
            let frame = packer.pack(raw.clone(), xxh3_64(&raw), EVEN);
            assert_eq!(frame.open().unwrap(), raw);
        }
        let frame = Packer::new(Compression::Zstd(3), 1 << 20).unwrap().pack(text.clone(), xxh3_64(&text), EVEN);
        assert!(frame.payload.len() < text.len() / 50);
    }
}
