//! What `zmigrate ca token` prints and `zmigrate join` takes.
//!
//! ```text
//! zmj1_ base32( fingerprint of the CA (32) · id (8) · secret (20) · expires (8, seconds since 1970)
//!               · length of the name (1) · name · address · the first 4 bytes of SHA-256 of all before )
//! ```
//!
//! Base32 (RFC 4648) in lower case and without padding: one word to a double click, and no letter depends on its case.
//! Invariant: a [`JoinToken`] that was parsed is, up to a chance of 1 in 2^32, the one that was printed.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;

use super::{IdentityError, When, sha256};
use crate::types::{Endpoint, PeerName};

/// What every token of this version begins with.
pub const TOKEN_PREFIX: &str = "zmj1_";
/// A token with the longest name and address has 637 characters: 395 bytes, 5 bits each.
const MAX_TOKEN_CHARS: usize = 640;
const CHECKSUM_LEN: usize = 4;

/// Names a token's record at the authority. Not secret, but known to nobody else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenId(pub [u8; 8]);

/// What proves that the token is known: 160 random bits. The authority keeps its SHA-256 alone.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(pub [u8; 20]);

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// An invitation for one node, good once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the authority's certificate in DER.
    pub ca_fingerprint: [u8; 32],
    /// Which record of the authority it belongs to.
    pub id: TokenId,
    /// What proves that the token is known.
    pub secret: TokenSecret,
    /// When it ends, by the clock of the authority.
    pub expires: When,
    /// The node's name.
    pub name: PeerName,
    /// Where the authority answers.
    pub address: Endpoint,
}

/// Why a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as one.
    #[error("this is no join token: it does not begin with {TOKEN_PREFIX}")]
    NoToken,
    /// It begins as a token of another version.
    #[error("this token is of a version that this zmigrate does not know")]
    OtherVersion,
    /// A character was changed, added or lost.
    #[error("the token was mistyped or cut off: its checksum does not match")]
    Typo,
}

impl TokenError {
    /// What the operator can do, in one sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoToken => "give what `zmigrate ca token NAME --dir CA` printed, on the machine of the authority",
            Self::OtherVersion => "install the same zmigrate here and on the machine of the authority",
            Self::Typo => "copy the whole token again; it has no spaces and no line breaks",
        }
    }
}

impl TokenId {
    pub(super) fn random() -> Result<Self, IdentityError> {
        random().map(Self)
    }
}

impl TokenSecret {
    pub(super) fn random() -> Result<Self, IdentityError> {
        random().map(Self)
    }
}

fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IdentityError::Crypto {
        doing: "make a token",
        why: "the system gave no randomness".to_owned(),
    })?;
    Ok(bytes)
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(self.ca_fingerprint);
        bytes.extend(self.id.0);
        bytes.extend(self.secret.0);
        bytes.extend(self.expires.unix_s().to_be_bytes());
        // A name has at most 63 characters.
        bytes.push(name.len() as u8);
        bytes.extend(name);
        bytes.extend(self.address.to_string().as_bytes());
        let checksum = sha256(&bytes);
        bytes.extend(checksum.iter().take(CHECKSUM_LEN));
        write!(f, "{TOKEN_PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix(TOKEN_PREFIX) else {
            let other = text.starts_with("zmj") && text.contains('_');
            return Err(if other { TokenError::OtherVersion } else { TokenError::NoToken });
        };
        if text.len() > MAX_TOKEN_CHARS {
            return Err(TokenError::Typo);
        }
        let bytes = BASE32_NOPAD.decode(rest.to_ascii_uppercase().as_bytes()).map_err(|_| TokenError::Typo)?;
        let (body, checksum) =
            bytes.split_at_checked(bytes.len().saturating_sub(CHECKSUM_LEN)).ok_or(TokenError::Typo)?;
        if checksum != &sha256(body)[..CHECKSUM_LEN] {
            return Err(TokenError::Typo);
        }
        parse_body(body).ok_or(TokenError::Typo)
    }
}

fn parse_body(mut body: &[u8]) -> Option<JoinToken> {
    let ca_fingerprint = take(&mut body)?;
    let id = TokenId(take(&mut body)?);
    let secret = TokenSecret(take(&mut body)?);
    let expires = When::from_unix_s(u64::from_be_bytes(take(&mut body)?));
    let [name_len] = take(&mut body)?;
    let (name, address) = body.split_at_checked(usize::from(name_len))?;
    Some(JoinToken {
        ca_fingerprint,
        id,
        secret,
        expires,
        name: std::str::from_utf8(name).ok()?.parse().ok()?,
        address: std::str::from_utf8(address).ok()?.parse().ok()?,
    })
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            ca_fingerprint: [7; 32],
            id: TokenId([1, 2, 3, 4, 5, 6, 7, 8]),
            secret: TokenSecret([9; 20]),
            expires: When::from_unix_s(1_767_225_600),
            name: "east".parse().unwrap(),
            address: "ca.example.org:8551".parse().unwrap(),
        }
    }

    #[test]
    fn its_characters_are_pinned() {
        let text = token().to_string();
        assert_eq!(
            text,
            concat!(
                "zmj1_a4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqcaqdaqcqmbyibeeqscijbee",
                "qscijbeeqscijbeeqscijaaaaaadjkw4qabdfmfzxiy3bfzsxqylnobwgkltpojttuobvguys3dshkm"
            )
        );
        assert_eq!(text.parse::<JoinToken>().unwrap(), token());
        assert_eq!(format!("  {text}\n").parse::<JoinToken>().unwrap(), token());
        assert_eq!(text.replace(TOKEN_PREFIX, "zmj2_").parse::<JoinToken>(), Err(TokenError::OtherVersion));
        assert_eq!("east".parse::<JoinToken>(), Err(TokenError::NoToken));
        assert_eq!(TOKEN_PREFIX.parse::<JoinToken>(), Err(TokenError::Typo));
        assert!(!format!("{:?}", token()).contains(&hex::encode([9; 20])), "a log would hold the secret");
    }

    #[test]
    fn the_longest_is_taken() {
        let long = JoinToken {
            name: "x".repeat(63).parse().unwrap(),
            address: format!("{}:65535", "h".repeat(253)).parse().unwrap(),
            ..token()
        };
        let text = long.to_string();
        assert!(text.len() <= MAX_TOKEN_CHARS, "{}", text.len());
        assert_eq!(text.parse::<JoinToken>().unwrap(), long);
        assert_eq!("a".repeat(5000).parse::<JoinToken>(), Err(TokenError::NoToken));
        assert_eq!(format!("{TOKEN_PREFIX}{}", "a".repeat(5000)).parse::<JoinToken>(), Err(TokenError::Typo));
    }

    proptest! {
        #[test]
        fn any_one_wrong_character_is_named_as_a_typo(at in 5usize..160, with in "[a-z2-7]") {
            let text = token().to_string();
            let at = at.min(text.len() - 1);
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &with);
            if wrong != text {
                prop_assert_eq!(wrong.parse::<JoinToken>(), Err(TokenError::Typo));
            }
            let mut lost = text.clone();
            lost.remove(at);
            prop_assert_eq!(lost.parse::<JoinToken>(), Err(TokenError::Typo));
        }

        #[test]
        fn no_text_panics(text in "\\PC*", tail in "[a-z2-7]{0,300}") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("{TOKEN_PREFIX}{tail}").parse::<JoinToken>();
        }
    }
}
