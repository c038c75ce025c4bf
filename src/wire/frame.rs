//! The frame: a fixed header of 32 bytes, then the payload. All numbers are little-endian.
//!
//! ```text
//! offset  0       1       2       4             8            16        20       24
//!         kind u8 codec u8 flags u16 payload u32 sequence u64 raw u32   zero u32 check u64
//! ```
//!
//! `payload` is the payload's length as carried, `raw` its length after decoding, `check` the XXH3-64 of the
//! decoded bytes. `sequence` numbers the frames of kind Data and Message of one channel and direction from 0, across
//! all connections that the channel uses; other kinds carry 0.
//!
//! Invariant: a header that decodes never asks for more than [`MAX_CHUNK`] bytes, carried or decoded.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::limits::MAX_CHUNK;

/// Bytes of a header.
pub const HEADER_LEN: usize = 32;

/// What a frame costs of a window beside its payload, so that a flood of empty frames is bounded too.
/// 512 bytes: twice what a frame takes in memory beside its payload.
pub const FRAME_COST: u64 = 512;

/// Further frames of the same message follow.
pub const FLAG_MORE: u16 = 1;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A chunk of a send stream. Sequenced.
    Data = 1,
    /// A message, or a part of one. Sequenced.
    Message = 2,
    /// How far the other direction has come ([`Ack`]). Not sequenced.
    Ack = 3,
    /// A sign of life that asks for a `Pong`; 8 bytes of the sender's own. Not sequenced.
    Ping = 4,
    /// The answer to a `Ping`, with its 8 bytes. Not sequenced.
    Pong = 5,
}

/// How the payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    None = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: FrameKind,
    /// How it is encoded.
    pub codec: Codec,
    /// [`FLAG_MORE`] or 0.
    pub flags: u16,
    /// Bytes of payload on the wire.
    pub payload_len: u32,
    /// Number of the frame in its channel and direction.
    pub sequence: u64,
    /// Bytes of payload after decoding.
    pub raw_len: u32,
    /// XXH3-64 of the decoded payload.
    pub check: u64,
}

/// A frame with its payload. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The payload as carried.
    pub payload: Bytes,
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A number that has no meaning in that place.
    #[error("a frame header has {what} {value}, which means nothing")]
    Unknown {
        /// The field.
        what: &'static str,
        /// What it said.
        value: u64,
    },
    /// A length over the limit.
    #[error("a frame announces {len} bytes, over the limit of {MAX_CHUNK}")]
    TooLong {
        /// What it said.
        len: u32,
    },
    /// The decoded bytes are not those that were sent.
    #[error("frame {sequence} arrived damaged: {what}")]
    Damaged {
        /// Which frame.
        sequence: u64,
        /// What does not fit.
        what: String,
    },
}

impl Header {
    /// The 32 bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        b[0] = self.kind as u8;
        b[1] = self.codec as u8;
        b[2..4].copy_from_slice(&self.flags.to_le_bytes());
        b[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        b[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        b[16..20].copy_from_slice(&self.raw_len.to_le_bytes());
        b[24..32].copy_from_slice(&self.check.to_le_bytes());
        b
    }

    /// Reads a header.
    ///
    /// # Errors
    /// For a kind, codec or flag that this version does not know, and for a length over the limit.
    pub fn decode(b: &[u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let unknown = |what, value: u64| FrameError::Unknown { what, value };
        let kind = match b[0] {
            1 => FrameKind::Data,
            2 => FrameKind::Message,
            3 => FrameKind::Ack,
            4 => FrameKind::Ping,
            5 => FrameKind::Pong,
            other => return Err(unknown("kind", other.into())),
        };
        let codec = match b[1] {
            0 => Codec::None,
            1 => Codec::Zstd,
            other => return Err(unknown("codec", other.into())),
        };
        let flags = u16::from_le_bytes([b[2], b[3]]);
        if flags & !FLAG_MORE != 0 {
            return Err(unknown("flags", flags.into()));
        }
        let header = Header {
            kind,
            codec,
            flags,
            payload_len: u32_at(4),
            sequence: u64_at(8),
            raw_len: u32_at(16),
            check: u64_at(24),
        };
        for len in [header.payload_len, header.raw_len] {
            if len as usize > MAX_CHUNK {
                return Err(FrameError::TooLong { len });
            }
        }
        Ok(header)
    }

    /// True for the kinds that are numbered, kept until acknowledged, and delivered in order exactly once.
    pub fn is_sequenced(&self) -> bool {
        matches!(self.kind, FrameKind::Data | FrameKind::Message)
    }
}

impl Frame {
    /// A frame of `raw` bytes carried as they are. The outbox gives the sequence number.
    pub fn plain(kind: FrameKind, flags: u16, raw: Bytes) -> Frame {
        let check = xxh3_64(&raw);
        Frame::checked(kind, flags, raw, check)
    }

    /// The same, of bytes whose XXH3-64 is known to be `check`.
    pub fn checked(kind: FrameKind, flags: u16, raw: Bytes, check: u64) -> Frame {
        let len = raw.len() as u32;
        let header = Header { kind, codec: Codec::None, flags, payload_len: len, sequence: 0, raw_len: len, check };
        Frame { header, payload: raw }
    }

    /// A frame whose payload was compressed from `raw_len` bytes with the checksum `check`.
    pub fn zstd(kind: FrameKind, flags: u16, payload: Bytes, raw_len: u32, check: u64) -> Frame {
        let payload_len = payload.len() as u32;
        let header = Header { kind, codec: Codec::Zstd, flags, payload_len, sequence: 0, raw_len, check };
        Frame { header, payload }
    }

    /// Bytes on the wire, header included.
    pub fn wire_len(&self) -> u64 {
        (HEADER_LEN + self.payload.len()) as u64
    }

    /// What the frame costs of a window: its payload, and [`FRAME_COST`] for keeping it at all.
    pub fn cost(&self) -> u64 {
        self.payload.len() as u64 + FRAME_COST
    }

    /// The decoded payload, proved equal to what was sent.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn open(&self) -> Result<Bytes, FrameError> {
        match self.header.codec {
            Codec::None => self.proved(&self.payload).map(|()| self.payload.clone()),
            Codec::Zstd => Opener::default().open(self).map(Bytes::copy_from_slice),
        }
    }

    fn damaged(&self, what: impl std::fmt::Display) -> FrameError {
        FrameError::Damaged { sequence: self.header.sequence, what: what.to_string() }
    }

    fn proved(&self, raw: &[u8]) -> Result<(), FrameError> {
        if raw.len() != self.header.raw_len as usize {
            return Err(self.damaged(format_args!("{} bytes instead of {}", raw.len(), self.header.raw_len)));
        }
        if xxh3_64(raw) != self.header.check {
            return Err(self.damaged("its checksum differs"));
        }
        Ok(())
    }
}

/// Opens one frame after the other without setting memory aside for each.
#[derive(Default)]
pub struct Opener {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    raw: Vec<u8>,
}

impl Opener {
    /// The decoded payload, proved equal to what was sent.
    ///
    /// # Errors
    /// When it does not decompress to exactly the announced bytes, or the checksum differs.
    pub fn open<'a>(&'a mut self, frame: &'a Frame) -> Result<&'a [u8], FrameError> {
        let raw = match frame.header.codec {
            Codec::None => &frame.payload[..],
            Codec::Zstd => {
                let undone = |e: std::io::Error| frame.damaged(format_args!("it does not decompress ({e})"));
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Decompressor::new().map_err(undone)?),
                };
                // Bounded by MAX_CHUNK, which Header::decode has checked.
                let len = frame.header.raw_len as usize;
                if self.raw.len() < len {
                    self.raw.resize(len, 0);
                }
                let len = zstd.decompress_to_buffer(&frame.payload, &mut self.raw[..len]).map_err(undone)?;
                &self.raw[..len]
            }
        };
        frame.proved(raw)?;
        Ok(raw)
    }
}

/// How far a receiver has come: the payload of an Ack frame, 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// The lowest sequence number that has not arrived; all before it need not be kept any longer.
    pub next: u64,
    /// The sum of [`Frame::cost`] of the frames that the receiver has taken out of its memory since the channel began.
    pub consumed: u64,
}

impl Ack {
    /// The frame that carries it.
    pub fn to_frame(self) -> Frame {
        let mut b = [0; 16];
        b[..8].copy_from_slice(&self.next.to_le_bytes());
        b[8..].copy_from_slice(&self.consumed.to_le_bytes());
        Frame::plain(FrameKind::Ack, 0, Bytes::copy_from_slice(&b))
    }

    /// Reads an Ack frame's payload.
    ///
    /// # Errors
    /// When it has not 16 bytes.
    pub fn from_payload(payload: &[u8]) -> Result<Ack, FrameError> {
        let b: &[u8; 16] = payload
            .try_into()
            .map_err(|_| FrameError::Unknown { what: "acknowledgement of length", value: payload.len() as u64 })?;
        let u64_at = |at: usize| b[at..at + 8].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        Ok(Ack { next: u64_at(0), consumed: u64_at(8) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let mut frame = Frame::plain(FrameKind::Data, FLAG_MORE, Bytes::from_static(b"zfs"));
        frame.header.sequence = 0x0102_0304_0506_0708;
        assert_eq!(
            hex::encode(frame.header.encode()),
            "0100010003000000080706050403020103000000000000004326ff7ea3480743"
        );
        let ack = Ack { next: 258, consumed: 3 }.to_frame();
        assert_eq!(hex::encode(&ack.payload), "02010000000000000300000000000000");
        assert_eq!(Ack::from_payload(&ack.payload), Ok(Ack { next: 258, consumed: 3 }));
    }

    #[test]
    fn damage_is_found() {
        let raw = Bytes::from(vec![7u8; 4096]);
        let packed = Bytes::from(zstd::bulk::compress(&raw, 1).unwrap());
        let good = Frame::zstd(FrameKind::Data, 0, packed.clone(), 4096, xxh3_64(&raw));
        assert_eq!(good.open().unwrap(), raw);
        for bad in [
            Frame::zstd(FrameKind::Data, 0, packed.slice(..packed.len() - 1), 4096, xxh3_64(&raw)),
            Frame::zstd(FrameKind::Data, 0, packed.clone(), 4095, xxh3_64(&raw)),
            Frame::zstd(FrameKind::Data, 0, packed.clone(), 5000, xxh3_64(&raw)),
            Frame::zstd(FrameKind::Data, 0, packed, 4096, 0),
        ] {
            assert!(bad.open().is_err());
        }
    }

    proptest! {
        #[test]
        fn any_32_bytes_decode_within_bounds_or_not_at_all(b in prop::array::uniform32(any::<u8>())) {
            if let Ok(h) = Header::decode(&b) {
                prop_assert!(h.payload_len as usize <= MAX_CHUNK && h.raw_len as usize <= MAX_CHUNK);
            }
        }

        #[test]
        fn headers_round_trip(sequence: u64, check: u64, len in 0u32..1 << 20, more: bool) {
            let h = Header {
                kind: FrameKind::Message, codec: Codec::Zstd, flags: more.into(), payload_len: len, sequence, raw_len: len, check,
            };
            prop_assert_eq!(Header::decode(&h.encode()), Ok(h));
        }
    }
}
