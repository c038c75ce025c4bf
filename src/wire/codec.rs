//! The only place that knows how a message becomes bytes: bincode 2 in its standard configuration
//! (variable-length integers, little-endian), under a size limit.

use serde::{Serialize, de::DeserializeOwned};

use crate::limits::{MAX_HELLO, MAX_REPLY, MAX_REQUEST};

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Larger than the limit for its kind.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The bytes do not decode, or some are left over.
    #[error("a message does not decode: {0}")]
    Malformed(String),
}

/// What a message is used for; decides its size limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A handshake.
    Hello,
    /// From an initiator to a peer.
    Request,
    /// From a peer to an initiator.
    Reply,
}

impl Use {
    /// The most bytes that such a message may have.
    pub fn limit(self) -> usize {
        match self {
            Use::Hello => MAX_HELLO,
            Use::Request => MAX_REQUEST,
            Use::Reply => MAX_REPLY,
        }
    }
}

/// The bytes of a message.
///
/// # Errors
/// When it is larger than its kind may be: the other side would refuse it, so it is not sent.
pub fn encode<T: Serialize>(message: &T, r#use: Use) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(message, bincode::config::standard())
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    check_size(bytes.len(), r#use)?;
    Ok(bytes)
}

/// The message in `bytes`, all of them.
///
/// # Errors
/// When there are too many bytes, they do not decode, or some are left over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], r#use: Use) -> Result<T, CodecError> {
    check_size(bytes.len(), r#use)?;
    let malformed = |e: bincode::error::DecodeError| CodecError::Malformed(e.to_string());
    // The limit is on what decoding may claim, and is a constant of the configuration's type.
    let (message, used) = match r#use {
        Use::Hello => bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<MAX_HELLO>()),
        Use::Request => {
            bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<MAX_REQUEST>())
        }
        Use::Reply => bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<MAX_REPLY>()),
    }
    .map_err(malformed)?;
    if used != bytes.len() {
        return Err(CodecError::Malformed(format!("{} bytes are left over", bytes.len() - used)));
    }
    Ok(message)
}

fn check_size(bytes: usize, r#use: Use) -> Result<(), CodecError> {
    let limit = r#use.limit();
    if bytes > limit { Err(CodecError::TooLarge { bytes, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_field_cannot_claim_memory() {
        // A string that says it has 2^62 bytes.
        let lie = [253, 0, 0, 0, 0, 0, 0, 0, 0x40];
        assert!(decode::<String>(&lie, Use::Hello).is_err());
        assert!(decode::<Vec<u64>>(&lie, Use::Request).is_err());
    }

    #[test]
    fn left_over_bytes_are_an_error() {
        let mut bytes = encode(&7u32, Use::Hello).unwrap();
        assert_eq!(decode::<u32>(&bytes, Use::Hello), Ok(7));
        bytes.push(0);
        assert!(decode::<u32>(&bytes, Use::Hello).is_err());
        assert!(encode(&vec![0u8; MAX_HELLO + 1], Use::Hello).is_err());
    }
}
