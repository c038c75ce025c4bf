//! What tells one cutover from another: its id and its epoch, and the words for sides, places and times.
//!
//! Invariant: the two together name one attempt to move the writable side, for ever. An id is never used twice, and an
//! epoch that is over never comes back, so a message that is late can be told from one that is due.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The id of a cutover: a random number, written with at least eight hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CutoverId(pub u64);

impl fmt::Display for CutoverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for CutoverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<CutoverId> for String {
    fn from(id: CutoverId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for CutoverId {
    type Error = NoLeg;

    fn try_from(text: String) -> Result<Self, NoLeg> {
        text.parse()
    }
}

impl FromStr for CutoverId {
    type Err = NoLeg;

    fn from_str(s: &str) -> Result<Self, NoLeg> {
        let digits = (8..=16).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let id = u64::from_str_radix(s, 16).ok().map(CutoverId).filter(|id| digits && id.to_string() == s);
        id.ok_or_else(|| NoLeg::new("cutover id", s))
    }
}

/// How often the writable side of a unit has changed: 0 before the first cutover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after this.
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

/// One attempt to make the epoch `epoch` begin, which moves the writable side.
///
/// Written `id:epoch`, as in the property `zmigrate:fence`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Leg {
    /// Of the cutover.
    pub id: CutoverId,
    /// The epoch that begins if this one is promoted.
    pub epoch: Epoch,
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.epoch.0)
    }
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Leg {
    type Err = NoLeg;

    fn from_str(s: &str) -> Result<Self, NoLeg> {
        let bad = || NoLeg::new("fence", s);
        let (id, epoch) = s.split_once(':').ok_or_else(bad)?;
        let leg = Leg { id: id.parse()?, epoch: Epoch(epoch.parse().map_err(|_| bad())?) };
        if leg.to_string() == s { Ok(leg) } else { Err(bad()) }
    }
}

/// A text that names no cutover.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not as zmigrate writes it")]
pub struct NoLeg {
    kind: &'static str,
    text: String,
}

impl NoLeg {
    fn new(kind: &'static str, text: &str) -> Self {
        // A hostile text must not fill the log.
        Self { kind, text: text.chars().take(40).collect() }
    }
}

/// The part that a host plays in one leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// It is writable now, and is left.
    Source,
    /// It becomes writable.
    Target,
}

/// A host as the coordinator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// Where the coordinator runs.
    Here,
    /// Across the link.
    Peer,
}

impl Node {
    /// The other one.
    pub fn other(self) -> Node {
        match self {
            Node::Here => Node::Peer,
            Node::Peer => Node::Here,
        }
    }
}

/// A point in time, or a length of it: milliseconds, since 1970 where it is a point. Each machine reads one host's clock only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// This much later.
    pub fn plus(self, length: Millis) -> Millis {
        Millis(self.0.saturating_add(length.0))
    }

    /// This much earlier, or shorter.
    pub fn minus(self, length: Millis) -> Millis {
        Millis(self.0.saturating_sub(length.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 10_000 { write!(f, "{:.1} s", self.0 as f64 / 1000.0) } else { write!(f, "{} s", self.0 / 1000) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_reads_back_as_it_was_written_and_nothing_else_does() {
        let leg = Leg { id: CutoverId(0x4f2a), epoch: Epoch(3) };
        assert_eq!(leg.to_string(), "00004f2a:3");
        assert_eq!("00004f2a:3".parse(), Ok(leg));
        assert_eq!(u64::MAX, "ffffffffffffffff".parse::<CutoverId>().unwrap().0);
        for bad in
            ["", "4f2a:3", "00004f2a", "00004F2A:3", "00004f2a:03", "00004f2a:+3", "+0004f2a:3", "000000004f2a:3"]
        {
            assert!(bad.parse::<Leg>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn legs_travel_as_text_in_json() {
        let leg = Leg { id: CutoverId(0x4f2a), epoch: Epoch(3) };
        let text = serde_json::to_string(&leg).unwrap();
        assert_eq!(text, r#"{"id":"00004f2a","epoch":3}"#);
        assert_eq!(serde_json::from_str::<Leg>(&text).unwrap(), leg);
    }
}
