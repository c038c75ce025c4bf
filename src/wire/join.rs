//! What a node that joins and the authority say to each other, inside TLS: one request, one answer.
//!
//! ```text
//! header = "ZMJN" · version (u16) · length (u32), big-endian        then a message as in [`codec`](super::codec)
//! ```

use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError, Use};
use crate::limits::{MAX_HELLO, MAX_JOIN_ANSWER};

/// Bytes before each message.
pub const JOIN_HEADER_LEN: usize = 10;
const MAGIC: &[u8; 4] = b"ZMJN";
const VERSION: u16 = 1;

/// What the node asks. It has no `Debug`: the secret belongs into no log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Which token.
    pub id: [u8; 8],
    /// The proof that it knows the token.
    pub secret: [u8; 20],
    /// The name that it asks for.
    pub name: String,
    /// A certificate signing request in DER (RFC 2986).
    pub csr: Vec<u8>,
    /// Program and version.
    pub agent: String,
}

/// What the authority answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// The token is spent, and this is the identity.
    Issued {
        /// `node.pem`.
        cert_pem: String,
        /// `ca.pem`.
        ca_pem: String,
        /// `crl.pem`.
        crl_pem: String,
    },
    /// No.
    Refused {
        /// A [`JoinRefusal`] as a number.
        code: u16,
        /// The reason in words.
        text: String,
    },
}

/// Why the authority says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum JoinRefusal {
    /// The request does not decode, or its signing request is not in order.
    Malformed = 1,
    /// There is no such token.
    UnknownToken = 2,
    /// The secret is wrong.
    WrongSecret = 3,
    /// The token is dead: used, replaced, or tried too often.
    Spent = 4,
    /// The token's time is over.
    Expired = 5,
    /// The token is for another name.
    WrongName = 6,
    /// The name holds a certificate by now.
    NameTaken = 7,
    /// Too many ask at the same time.
    Busy = 8,
    /// The authority itself failed.
    Failed = 9,
}

impl JoinRefusal {
    /// The reason behind a number; `None` for one that this build does not know.
    pub fn from_code(code: u16) -> Option<JoinRefusal> {
        use JoinRefusal::*;
        [Malformed, UnknownToken, WrongSecret, Spent, Expired, WrongName, NameTaken, Busy, Failed]
            .into_iter()
            .find(|c| *c as u16 == code)
    }
}

/// Why bytes are not what a node that joins, or its authority, says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Other bytes, or a version that is not known.
    #[error("the other side does not speak version {VERSION} of the join protocol")]
    NotJoin,
    /// Longer than it may be.
    #[error("a message of {len} bytes is over the limit of {max}")]
    TooLong {
        /// What it announced.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// The bytes do not decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Which of the two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinMessage {
    /// [`JoinRequest`].
    Request,
    /// [`JoinAnswer`].
    Answer,
}

impl JoinMessage {
    /// The most bytes that it may have.
    pub fn limit(self) -> usize {
        match self {
            JoinMessage::Request => MAX_HELLO,
            JoinMessage::Answer => MAX_JOIN_ANSWER,
        }
    }
}

fn frame(body: &[u8], kind: JoinMessage) -> Result<Vec<u8>, JoinError> {
    if body.len() > kind.limit() {
        return Err(JoinError::TooLong { len: body.len(), max: kind.limit() });
    }
    // Within the limit, so within u32.
    let len = (body.len() as u32).to_be_bytes();
    Ok([&MAGIC[..], &VERSION.to_be_bytes(), &len, body].concat())
}

/// The bytes of a request, header included.
///
/// # Errors
/// When it is too long.
pub fn encode_request(request: &JoinRequest) -> Result<Vec<u8>, JoinError> {
    frame(&codec::encode(request, Use::Hello)?, JoinMessage::Request)
}

/// The bytes of an answer, header included.
///
/// # Errors
/// When it is too long.
pub fn encode_answer(answer: &JoinAnswer) -> Result<Vec<u8>, JoinError> {
    frame(&codec::encode(answer, Use::Reply)?, JoinMessage::Answer)
}

/// How many bytes follow a header; within the limit of that message.
///
/// # Errors
/// For other bytes, and a length over the limit.
pub fn decode_header(header: &[u8; JOIN_HEADER_LEN], kind: JoinMessage) -> Result<usize, JoinError> {
    let [m0, m1, m2, m3, v0, v1, l0, l1, l2, l3] = *header;
    if [m0, m1, m2, m3] != *MAGIC || u16::from_be_bytes([v0, v1]) != VERSION {
        return Err(JoinError::NotJoin);
    }
    let (len, max) = (u32::from_be_bytes([l0, l1, l2, l3]) as usize, kind.limit());
    if len > max { Err(JoinError::TooLong { len, max }) } else { Ok(len) }
}

/// The request in `body`.
///
/// # Errors
/// When it does not decode.
pub fn decode_request(body: &[u8]) -> Result<JoinRequest, JoinError> {
    Ok(codec::decode(body, Use::Hello)?)
}

/// The answer in `body`.
///
/// # Errors
/// When it does not decode.
pub fn decode_answer(body: &[u8]) -> Result<JoinAnswer, JoinError> {
    Ok(codec::decode(body, Use::Reply)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> JoinRequest {
        JoinRequest { id: [1; 8], secret: [2; 20], name: "east".into(), csr: vec![3, 4], agent: "z".into() }
    }

    #[test]
    fn the_bytes_are_pinned() {
        let bytes = encode_request(&request()).unwrap();
        let expected = concat!(
            "5a4d4a4e",
            "0001",
            "00000026", // header: 38 bytes follow
            "0101010101010101",
            "0202020202020202020202020202020202020202",
            "0465617374",
            "020304",
            "017a"
        );
        assert_eq!(hex::encode(&bytes), expected);
        let header = bytes[..JOIN_HEADER_LEN].try_into().unwrap();
        assert_eq!(decode_header(&header, JoinMessage::Request), Ok(38));
        assert!(decode_request(&bytes[JOIN_HEADER_LEN..]).unwrap() == request());
        let refused = JoinAnswer::Refused { code: JoinRefusal::Expired as u16, text: "no".into() };
        let bytes = encode_answer(&refused).unwrap();
        assert_eq!(hex::encode(&bytes), "5a4d4a4e0001000000050105026e6f");
        assert_eq!(decode_answer(&bytes[JOIN_HEADER_LEN..]), Ok(refused));
    }

    #[test]
    fn what_is_too_long_is_found_in_the_header() {
        let header = |len: u32| -> [u8; JOIN_HEADER_LEN] {
            [b"ZMJN\0\x01".as_slice(), &len.to_be_bytes()].concat().try_into().unwrap()
        };
        assert_eq!(decode_header(&header(MAX_HELLO as u32), JoinMessage::Request), Ok(MAX_HELLO));
        for kind in [JoinMessage::Request, JoinMessage::Answer] {
            assert!(matches!(decode_header(&header(u32::MAX), kind), Err(JoinError::TooLong { .. })));
            assert!(decode_header(&header(kind.limit() as u32 + 1), kind).is_err());
        }
        let long = JoinRequest { csr: vec![0; MAX_HELLO], ..request() };
        assert!(encode_request(&long).is_err());
        assert_eq!(decode_header(b"GET / HTTP", JoinMessage::Request), Err(JoinError::NotJoin));
    }

    #[test]
    fn every_refusal_has_its_number() {
        for code in 1..=9 {
            assert_eq!(JoinRefusal::from_code(code).map(|c| c as u16), Some(code));
        }
        assert_eq!(JoinRefusal::from_code(10), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_request(&bytes);
            let _ = decode_answer(&bytes);
        }
    }
}
