//! The handshake: the first bytes of every connection, inside TLS.
//!
//! ```text
//! initiator: "ZMIG" min u16 max u16 length u32 body      peer: "ZMIG" version u16 status u16 length u32 body
//! ```
//!
//! The twelve bytes in front never change between versions, so that two versions that share nothing can still tell
//! each other so. `status` 0 means that the body is a [`Welcome`]; anything else, that it is a [`Refusal`] whose
//! text is for people. Numbers are little-endian.

use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError, Use};
use crate::limits::MAX_HELLO;

/// The versions of the protocol that this build speaks, oldest and newest.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;
/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"ZMIG";
/// Bytes in front of a body.
pub const PREFACE_LEN: usize = 12;

/// Features, as bits; a connection uses those that both sides name.
pub mod features {
    /// Frames of one transfer may travel on several connections.
    pub const STRIPING: u64 = 1;
    /// Probes: a stream that the peer takes, judges and throws away.
    pub const PROBE: u64 = 2;
    /// The request `About`.
    pub const ABOUT: u64 = 4;
    /// The request `Cutover`.
    pub const CUTOVER: u64 = 8;
    /// The request `Verify`.
    pub const VERIFY: u64 = 16;
    /// The request `Prune`.
    pub const PRUNE: u64 = 32;
    /// The request `Retire`.
    pub const RETIRE: u64 = 64;
    /// The reply `AlreadyReceivedWith`.
    pub const NOTES: u64 = 128;
    /// The request `Prepare`.
    pub const PREPARE: u64 = 256;
    /// The request `Limit`.
    pub const LIMIT: u64 = 512;
    /// A dry run of `Prune` or `Retire` asks for no lock.
    pub const DRY: u64 = 1024;
    /// All that this build has.
    pub const OURS: u64 = STRIPING | PROBE | ABOUT | CUTOVER | VERIFY | PRUNE | RETIRE | NOTES | PREPARE | LIMIT | DRY;
}

/// A session's unguessable name; valid only together with the identity that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u128);

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Begins a session; the connection carries its control channel, number 0.
    Open,
    /// Carries a channel of a session that exists: after a loss, or for a transfer.
    Attach {
        /// The session.
        session: SessionId,
        /// Its channel; 0 is the control channel.
        channel: u32,
        /// Which of the channel's parallel connections it is, from 0; it replaces an older one of that number.
        stripe: u16,
        /// The lowest frame that the initiator does not have.
        next: u64,
    },
}

/// What the initiator says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Program and version, for the log.
    pub agent: String,
    /// Host name, for the log and for "who holds the target".
    pub host: String,
    /// The initiator's clock, in milliseconds since 1970, to notice skew.
    pub clock_unix_ms: u64,
    /// See [`features`].
    pub features: u64,
    /// Payload bytes of a transfer that the initiator is ready to hold.
    pub window: u64,
    /// What the connection is for.
    pub role: Role,
}

/// The peer agrees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Program and version.
    pub agent: String,
    /// The peer's clock, in milliseconds since 1970.
    pub clock_unix_ms: u64,
    /// The features that both have.
    pub features: u64,
    /// Payload bytes of a transfer that the peer is ready to hold.
    pub window: u64,
    /// The session that was opened or attached to.
    pub session: SessionId,
    /// The lowest frame of the channel that the peer does not have.
    pub next: u64,
}

/// Why a peer does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u16)]
pub enum RefusalCode {
    /// No version in common.
    Version = 1,
    /// The hello does not decode.
    Malformed = 2,
    /// The session is not known: the peer was restarted, or gave up waiting.
    UnknownSession = 3,
    /// The session has no such channel, or it has ended.
    UnknownChannel = 4,
    /// Too many sessions or connections.
    Busy = 5,
    /// The identity has no grant at all here.
    NotGranted = 6,
    /// The peer is being stopped.
    Draining = 7,
    /// A newer run of the same identity has taken over this session's target.
    Superseded = 8,
}

impl RefusalCode {
    fn from_u16(code: u16) -> Option<RefusalCode> {
        use RefusalCode::*;
        [Version, Malformed, UnknownSession, UnknownChannel, Busy, NotGranted, Draining, Superseded]
            .into_iter()
            .find(|c| *c as u16 == code)
    }
}

/// A refusal, with words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The reason as a number; `None` for one that this build does not know.
    pub code: Option<RefusalCode>,
    /// The reason in words.
    pub text: String,
}

/// Why the first bytes of a connection are not a handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The magic is missing.
    #[error("the other side does not speak zmigrate's protocol (it began with {0:02x?})")]
    NotZmigrate([u8; 4]),
    /// No version in common.
    #[error("the other side speaks versions {theirs_min} to {theirs_max} of the protocol, this one {} to {}", VERSIONS.start(), VERSIONS.end())]
    NoCommonVersion {
        /// Their oldest.
        theirs_min: u16,
        /// Their newest.
        theirs_max: u16,
    },
    /// The length in front of the body is over the limit.
    #[error("a handshake of {0} bytes is over the limit of {MAX_HELLO}")]
    TooLong(u32),
    /// The body does not decode.
    #[error(transparent)]
    Body(#[from] CodecError),
}

/// The twelve bytes in front of a hello or its answer: two numbers and the body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// Oldest version (hello), or the version chosen (answer).
    pub a: u16,
    /// Newest version (hello), or the status (answer).
    pub b: u16,
    /// Bytes of body that follow.
    pub body_len: u32,
}

impl Preface {
    /// Reads the twelve bytes.
    ///
    /// # Errors
    /// For another magic, or a body over the limit.
    pub fn decode(bytes: &[u8; PREFACE_LEN]) -> Result<Preface, HelloError> {
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(HelloError::NotZmigrate(magic));
        }
        let body_len = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if body_len as usize > MAX_HELLO {
            return Err(HelloError::TooLong(body_len));
        }
        Ok(Preface {
            a: u16::from_le_bytes([bytes[4], bytes[5]]),
            b: u16::from_le_bytes([bytes[6], bytes[7]]),
            body_len,
        })
    }

    fn with_body(a: u16, b: u16, body: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&a.to_le_bytes());
        out.extend_from_slice(&b.to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(body);
        out
    }

    /// The newest version that both sides speak, if this is a hello's preface.
    ///
    /// # Errors
    /// When there is none.
    pub fn common_version(&self) -> Result<u16, HelloError> {
        let newest = self.b.min(*VERSIONS.end());
        if newest >= self.a.max(*VERSIONS.start()) {
            Ok(newest)
        } else {
            Err(HelloError::NoCommonVersion { theirs_min: self.a, theirs_max: self.b })
        }
    }
}

/// The bytes of a hello.
///
/// # Errors
/// When it is too large, which takes a host name of kilobytes.
pub fn encode_hello(hello: &Hello) -> Result<Vec<u8>, HelloError> {
    Ok(Preface::with_body(*VERSIONS.start(), *VERSIONS.end(), &codec::encode(hello, Use::Hello)?))
}

/// The bytes of a welcome.
///
/// # Errors
/// When it is too large.
pub fn encode_welcome(version: u16, welcome: &Welcome) -> Result<Vec<u8>, HelloError> {
    Ok(Preface::with_body(version, 0, &codec::encode(welcome, Use::Hello)?))
}

/// The bytes of a refusal. Its text is cut to what a handshake may hold.
pub fn encode_refusal(code: RefusalCode, text: &str) -> Vec<u8> {
    let text: String = text.chars().take(MAX_HELLO / 4).collect();
    Preface::with_body(0, code as u16, text.as_bytes())
}

/// The answer to a hello.
///
/// # Errors
/// When the body does not decode, or the peer goes on in a version that this side does not speak.
pub fn decode_answer(preface: Preface, body: &[u8]) -> Result<Result<(u16, Welcome), Refusal>, HelloError> {
    if preface.b == 0 {
        if !VERSIONS.contains(&preface.a) {
            return Err(HelloError::NoCommonVersion { theirs_min: preface.a, theirs_max: preface.a });
        }
        return Ok(Ok((preface.a, codec::decode(body, Use::Hello)?)));
    }
    // A stranger's text goes to a terminal: control characters do not.
    let text = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).collect();
    Ok(Err(Refusal { code: RefusalCode::from_u16(preface.b), text }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn preface(bytes: &[u8]) -> Preface {
        Preface::decode(bytes[..PREFACE_LEN].try_into().unwrap()).unwrap()
    }

    #[test]
    fn bytes_are_pinned() {
        let hello = Hello {
            agent: "z".into(),
            host: "h".into(),
            clock_unix_ms: 1,
            features: 1,
            window: 2,
            role: Role::Attach { session: SessionId(3), channel: 4, stripe: 0, next: 5 },
        };
        let bytes = encode_hello(&hello).unwrap();
        assert_eq!(hex::encode(&bytes), "5a4d4947010001000c000000017a016801010201030400 05".replace(' ', ""));
        let welcome =
            Welcome { agent: "z".into(), clock_unix_ms: 1, features: 1, window: 2, session: SessionId(3), next: 4 };
        let bytes = encode_welcome(1, &welcome).unwrap();
        assert_eq!(hex::encode(&bytes), "5a4d49470100000007000000017a0101020304");
        assert_eq!(decode_answer(preface(&bytes), &bytes[PREFACE_LEN..]), Ok(Ok((1, welcome))));
        let bytes = encode_refusal(RefusalCode::Busy, "full\x1b[2J");
        assert_eq!(hex::encode(&bytes), "5a4d49470000050008000000 66756c6c1b5b324a".replace(' ', ""));
        let refusal = decode_answer(preface(&bytes), &bytes[PREFACE_LEN..]).unwrap().unwrap_err();
        assert_eq!(refusal, Refusal { code: Some(RefusalCode::Busy), text: "full[2J".into() });
    }

    #[test]
    fn versions_are_agreed_on_or_refused() {
        let p = |a, b| Preface { a, b, body_len: 0 }.common_version();
        assert_eq!(p(1, 1), Ok(1));
        assert_eq!(p(1, 9), Ok(1));
        assert!(p(2, 9).unwrap_err().to_string().contains("speaks versions 2 to 9"));
        assert!(p(0, 0).is_err());
        // A peer that goes on in a version that was not offered.
        let welcome =
            Welcome { agent: "z".into(), clock_unix_ms: 1, features: 1, window: 2, session: SessionId(3), next: 4 };
        let bytes = encode_welcome(2, &welcome).unwrap();
        let answer = decode_answer(preface(&bytes), &bytes[PREFACE_LEN..]);
        assert!(matches!(answer, Err(HelloError::NoCommonVersion { theirs_min: 2, .. })), "{answer:?}");
        assert!(matches!(Preface::decode(b"GET / HTTP/1"), Err(HelloError::NotZmigrate(_))));
        assert!(matches!(Preface::decode(b"ZMIG\x01\0\x01\0\xff\xff\xff\xff"), Err(HelloError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn any_answer_decodes_or_fails_cleanly(a: u16, b: u16, body: Vec<u8>) {
            let _ = decode_answer(Preface { a, b, body_len: body.len() as u32 }, &body);
        }
    }
}
