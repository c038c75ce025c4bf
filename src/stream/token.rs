//! Resume tokens (`receive_resume_token` in `zfsprops(7)`): where an interrupted `zfs receive -s` stopped.
//!
//! `1-<checksum>-<packed length>-<data>`, all in hexadecimal after the version: the data is a zlib stream
//! of a packed nvlist, the checksum the first word of the fletcher-4 of that zlib stream
//! (`zfs_send_resume_token_to_nvlist` in `libzfs_sendrecv.c`).
//!
//! Invariant: inflating stops at the length that the token announces, which is bounded.

use std::io::Read;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::nvlist::{self, Limits, NvError, NvList};
use crate::types::Guid;

/// The longest token that is looked at, in characters. Real ones have 200 to 700; redaction lists make
/// them longer. A property's value ends at 8 KiB (`ZAP_MAXVALUELEN`), so this is generous.
pub const MAX_TOKEN_BYTES: usize = 64 << 10;
/// The longest packed nvlist that is inflated, in bytes.
pub const MAX_PACKED_BYTES: u64 = 1 << 20;

/// What `zfs send -t` would send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeToken {
    /// The snapshot being sent, by the name that it had on the source.
    pub to_name: String,
    /// The snapshot being sent.
    pub to_guid: Guid,
    /// The snapshot or bookmark that the stream starts from; `None` for a full stream.
    pub from_guid: Option<Guid>,
    /// The object at which sending goes on.
    pub object: u64,
    /// The offset in that object, in bytes.
    pub offset: u64,
    /// Bytes received so far.
    pub bytes: u64,
    /// `-L` was used.
    pub large_block: bool,
    /// `-e` was used.
    pub embed: bool,
    /// `-c` was used.
    pub compressed: bool,
    /// `-w` was used.
    pub raw: bool,
    /// It was a redacted send, or one from a redaction bookmark.
    pub redacted: bool,
}

/// Why a text is not a resume token. Shown after "resume token".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Empty, or `-`, which is how `zfs get` prints a property without a value.
    #[error("resume token is empty: the dataset has no interrupted receive")]
    Absent,
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("resume token is longer than {MAX_TOKEN_BYTES} characters")]
    TooLong,
    /// Not of the form `1-HEX-HEX-HEX`.
    #[error("resume token is malformed: {0}")]
    Malformed(&'static str),
    /// A version other than 1.
    #[error("resume token has version {0}; only version 1 is known")]
    Version(u32),
    /// The checksum does not fit the data.
    #[error("resume token is damaged: its checksum is {found:x}, but {announced:x} is announced")]
    Checksum {
        /// What the token says.
        announced: u64,
        /// What its data gives.
        found: u64,
    },
    /// The data does not inflate to the announced length.
    #[error("resume token is damaged: its data does not inflate to {0} bytes")]
    Inflate(u64),
    /// What was packed is no nvlist.
    #[error("resume token holds no valid list")]
    List(#[source] NvError),
    /// A value is absent or of the wrong type.
    #[error("resume token has no valid `{0}`")]
    Missing(&'static str),
}

impl fmt::Display for ResumeToken {
    /// For people: one line for each thing that is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "snapshot   {} (GUID {})", self.to_name.escape_default(), self.to_guid)?;
        match self.from_guid {
            Some(guid) => writeln!(f, "from       GUID {guid}")?,
            None => writeln!(f, "from       nothing: a full stream")?,
        }
        writeln!(f, "received   {} bytes of stream, up to object {} offset {}", self.bytes, self.object, self.offset)?;
        let flags = [
            (self.large_block, "large-block"),
            (self.embed, "embed"),
            (self.compressed, "compressed"),
            (self.raw, "raw"),
            (self.redacted, "redacted"),
        ];
        let flags: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        write!(f, "flags      {}", if flags.is_empty() { "none".to_owned() } else { flags.join(" ") })
    }
}

impl ResumeToken {
    /// Reads a token as `zfs get -Hp -o value receive_resume_token` prints it. White space around it is ignored.
    ///
    /// # Errors
    /// When the text is no token, is damaged, or is beyond the bounds of this module.
    pub fn parse(text: &str) -> Result<ResumeToken, TokenError> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        if text.is_empty() || text == "-" {
            return Err(TokenError::Absent);
        }
        ResumeToken::from_list(&unpack(text)?)
    }

    fn from_list(list: &NvList) -> Result<ResumeToken, TokenError> {
        let number = |name| list.u64(name).ok_or(TokenError::Missing(name));
        let to_name = list.str("toname").ok_or(TokenError::Missing("toname"))?;
        // The name ends up in messages and is compared with the plan: nothing invisible may hide in it.
        let plain = |c: char| !c.is_control() && c != char::REPLACEMENT_CHARACTER;
        if to_name.is_empty() || to_name.len() > 255 || !to_name.chars().all(plain) {
            return Err(TokenError::Missing("toname"));
        }
        let from_guid = match list.get("fromguid") {
            None => None,
            Some(_) => Some(Guid(number("fromguid")?)).filter(|guid| guid.0 != 0),
        };
        let redactions = ["redact_snaps", "book_redact_snaps", "bookmark_redact_snaps", "redact_book"];
        Ok(ResumeToken {
            to_name: to_name.to_owned(),
            to_guid: Guid(number("toguid")?),
            from_guid,
            object: number("object")?,
            offset: number("offset")?,
            bytes: number("bytes")?,
            large_block: list.has("largeblockok"),
            embed: list.has("embedok"),
            compressed: list.has("compressok"),
            raw: list.has("rawok"),
            redacted: redactions.iter().any(|name| list.has(name)),
        })
    }
}

fn unpack(text: &str) -> Result<NvList, TokenError> {
    let mut parts = text.splitn(4, '-');
    let mut part = |what| parts.next().filter(|p| !p.is_empty()).ok_or(TokenError::Malformed(what));
    let version = part("it has no version")?;
    let version = number(version, 10).ok_or(TokenError::Malformed("the version is no number"))?;
    if version != 1 {
        return Err(TokenError::Version(u32::try_from(version).unwrap_or(u32::MAX)));
    }
    let announced = number(part("it has no checksum")?, 16).ok_or(TokenError::Malformed("the checksum is not hex"))?;
    let packed = number(part("it has no length")?, 16).ok_or(TokenError::Malformed("the length is not hex"))?;
    let data = part("it has no data")?;
    if packed == 0 || packed > MAX_PACKED_BYTES {
        return Err(TokenError::Malformed("its length is out of bounds"));
    }
    let data = hex::decode(data).map_err(|_| TokenError::Malformed("the data is not hex"))?;
    // The words are summed in the byte order of the machine that made the token.
    let (little, big) = (first_sum(&data, u32::from_le_bytes), first_sum(&data, u32::from_be_bytes));
    if announced != little && announced != big {
        return Err(TokenError::Checksum { announced, found: little });
    }
    let mut list = Vec::new();
    // One byte more than announced shows a stream that goes on.
    let inflated = flate2::read::ZlibDecoder::new(data.as_slice()).take(packed + 1).read_to_end(&mut list);
    if inflated.is_err() || list.len() as u64 != packed {
        return Err(TokenError::Inflate(packed));
    }
    nvlist::decode(&list, Limits::SMALL).map_err(TokenError::List)
}

/// Digits only: `from_str_radix` would take a sign as well.
fn number(text: &str, radix: u32) -> Option<u64> {
    if !text.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

/// The first word of fletcher-4: the plain sum of the whole 32-bit words.
fn first_sum(data: &[u8], word: impl Fn([u8; 4]) -> u32) -> u64 {
    data.as_chunks::<4>().0.iter().fold(0, |sum: u64, w| sum.wrapping_add(word(*w).into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TOKEN: &str = include_str!("../../fixtures/streams/resume.token");

    #[test]
    fn the_fixture_says_what_zstream_token_said() {
        let token = ResumeToken::parse(TOKEN).unwrap();
        let expected = ResumeToken {
            to_name: "gen/big@a".into(),
            to_guid: Guid(653471467656000829),
            from_guid: None,
            object: 2,
            offset: 1048576,
            bytes: 2100336,
            large_block: true,
            embed: true,
            compressed: true,
            raw: false,
            redacted: false,
        };
        assert_eq!(token, expected);
    }

    #[test]
    fn a_changed_digit_is_found() {
        let token = TOKEN.trim();
        for at in 0..token.len() {
            let mut changed = token.as_bytes().to_vec();
            changed[at] = match changed[at] {
                b'-' => b'0',
                b'0' => b'1',
                _ => b'0',
            };
            let changed = String::from_utf8(changed).unwrap();
            if changed != token {
                assert!(ResumeToken::parse(&changed).is_err(), "byte {at}: {changed}");
            }
        }
        for len in 0..token.len() {
            assert!(ResumeToken::parse(&token[..len]).is_err(), "cut off at {len}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_by_name() {
        assert_eq!(ResumeToken::parse("-"), Err(TokenError::Absent));
        assert_eq!(ResumeToken::parse(" \n"), Err(TokenError::Absent));
        assert_eq!(ResumeToken::parse("2-1-1-00"), Err(TokenError::Version(2)));
        assert_eq!(ResumeToken::parse("1-1-1-0g"), Err(TokenError::Malformed("the data is not hex")));
        assert_eq!(ResumeToken::parse("1-+1-1-00"), Err(TokenError::Malformed("the checksum is not hex")));
        assert_eq!(ResumeToken::parse("1-1-ffffffff-00"), Err(TokenError::Malformed("its length is out of bounds")));
        assert_eq!(ResumeToken::parse(&"1".repeat(MAX_TOKEN_BYTES + 1)), Err(TokenError::TooLong));
    }

    /// A token around any packed bytes, with a valid checksum.
    fn token_of(packed: &[u8], announced: usize) -> String {
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        z.write_all(packed).unwrap();
        let data = z.finish().unwrap();
        format!("1-{:x}-{announced:x}-{}", first_sum(&data, u32::from_le_bytes), hex::encode(data))
    }

    #[test]
    fn a_bomb_is_not_inflated_beyond_what_it_announces() {
        let bomb = vec![0; 20 << 20];
        assert_eq!(ResumeToken::parse(&token_of(&bomb, 1000)), Err(TokenError::Inflate(1000)));
    }

    #[test]
    fn a_list_without_guid_is_refused() {
        // An empty XDR list: header, version 0, unique names, two zero words.
        let mut list = vec![1, 1, 0, 0];
        list.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ResumeToken::parse(&token_of(&list, list.len())), Err(TokenError::Missing("toname")));
    }
}
