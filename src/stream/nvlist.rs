//! Packed nvlists: the payload of BEGIN records and of resume tokens.
//!
//! Two encodings exist (`sys/nvpair_impl.h`, `nvpair.c`): *native*, a dump of C structures in the byte
//! order of the machine that packed it, and *XDR* (RFC 4506), always big-endian. The first byte tells
//! which, the second the byte order (0 is big-endian).
//!
//! Invariant: decoding stops at the bounds in [`Limits`], and at the end of the input; each pair is
//! at least 16 bytes of input, so that what is allocated stays within a small multiple of what was read.

/// Bounds on one packed nvlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest packed list, in bytes.
    pub bytes: usize,
    /// How deep lists may be nested; the outermost has depth 1.
    pub depth: usize,
    /// How many pairs and array elements there may be in all.
    pub items: usize,
}

impl Limits {
    /// For a resume token, or the BEGIN of a single stream: some flags, the wrapped keys of an encrypted
    /// dataset, and lists of redaction snapshots. Real ones are below 4 KiB.
    pub const SMALL: Limits = Limits { bytes: 1 << 20, depth: 8, items: 1 << 16 };
    /// For the BEGIN of a package, which lists every dataset, snapshot and property. libzfs refuses
    /// lists above 64 MiB.
    pub const PACKAGE: Limits = Limits { bytes: 64 << 20, depth: 16, items: 4 << 20 };
}

/// The value of a pair. Numbers of all widths are widened to 64 bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A flag that is there or not (`DATA_TYPE_BOOLEAN`).
    Flag,
    /// `DATA_TYPE_BOOLEAN_VALUE`.
    Bool(bool),
    /// Any unsigned integer.
    U64(u64),
    /// Any signed integer, and `hrtime`.
    I64(i64),
    /// Text. Bytes that are not UTF-8 have become U+FFFD.
    Str(String),
    /// Bytes: `DATA_TYPE_BYTE_ARRAY`, `DATA_TYPE_UINT8_ARRAY`.
    Bytes(Vec<u8>),
    /// `DATA_TYPE_UINT64_ARRAY`.
    U64s(Vec<u64>),
    /// A list in the list.
    List(NvList),
    /// An array of lists.
    Lists(Vec<NvList>),
    /// A type that no stream or token uses: framed, but not decoded. The code is that of `data_type_t`.
    Other(u32),
}

/// A decoded nvlist, in the order of the input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NvList {
    pairs: Vec<(String, Value)>,
    unique: bool,
}

impl NvList {
    /// All pairs.
    pub fn pairs(&self) -> &[(String, Value)] {
        &self.pairs
    }

    /// True when the list says that no name occurs twice (`NV_UNIQUE_NAME`). In one that does not, the kernel finds nothing
    /// by its name.
    pub fn is_unique(&self) -> bool {
        self.unique
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// True when a pair of that name exists, whatever its value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The unsigned number of that name.
    pub fn u64(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::U64(n) => Some(*n),
            _ => None,
        }
    }

    /// The text of that name.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The list of that name.
    pub fn list(&self, name: &str) -> Option<&NvList> {
        match self.get(name)? {
            Value::List(l) => Some(l),
            _ => None,
        }
    }
}

/// Why bytes are not an nvlist that will be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvError {
    /// Longer than [`Limits::bytes`].
    #[error("nvlist is longer than {0} bytes")]
    TooLong(usize),
    /// Nested deeper than [`Limits::depth`].
    #[error("nvlist is nested deeper than {0}")]
    TooDeep(usize),
    /// More pairs and elements than [`Limits::items`].
    #[error("nvlist has more than {0} items")]
    TooMany(usize),
    /// Ends in the middle.
    #[error("nvlist is cut off")]
    Truncated,
    /// Anything else.
    #[error("nvlist is malformed: {0}")]
    Malformed(&'static str),
}

/// Decodes a packed nvlist.
///
/// Up to 7 zero bytes may follow the list, since senders may round a payload up to 8.
///
/// # Errors
/// When the bytes are no nvlist, or are beyond `limits`.
pub fn decode(input: &[u8], limits: Limits) -> Result<NvList, NvError> {
    if input.len() > limits.bytes {
        return Err(NvError::TooLong(limits.bytes));
    }
    let [encoding, endian, _, _, body @ ..] = input else { return Err(NvError::Truncated) };
    let big = match (encoding, endian) {
        (1, 0 | 1) => true,
        (0, 0) => true,
        (0, 1) => false,
        (0 | 1, _) => return Err(NvError::Malformed("unknown byte order")),
        _ => return Err(NvError::Malformed("unknown encoding")),
    };
    let mut d = Decoder { rest: body, big, xdr: *encoding == 1, limits, items: 0 };
    let unique = d.list_header()?;
    let list = d.pairs(1, unique)?;
    if d.rest.len() > 7 || d.rest.iter().any(|b| *b != 0) {
        return Err(NvError::Malformed("bytes follow the list"));
    }
    Ok(list)
}

struct Decoder<'a> {
    rest: &'a [u8],
    big: bool,
    xdr: bool,
    limits: Limits,
    items: usize,
}

// `data_type_t` of sys/nvpair.h.
mod data_type {
    pub const BOOLEAN: u32 = 1;
    pub const BYTE: u32 = 2;
    pub const INT16: u32 = 3;
    pub const UINT16: u32 = 4;
    pub const INT32: u32 = 5;
    pub const UINT32: u32 = 6;
    pub const INT64: u32 = 7;
    pub const UINT64: u32 = 8;
    pub const STRING: u32 = 9;
    pub const BYTE_ARRAY: u32 = 10;
    pub const UINT64_ARRAY: u32 = 16;
    pub const HRTIME: u32 = 18;
    pub const NVLIST: u32 = 19;
    pub const NVLIST_ARRAY: u32 = 20;
    pub const BOOLEAN_VALUE: u32 = 21;
    pub const INT8: u32 = 22;
    pub const UINT8: u32 = 23;
    pub const UINT8_ARRAY: u32 = 26;
    pub const DOUBLE: u32 = 27;
}
use data_type as t;

/// The size of the C structure that stands for a list inside a native pair (`nvlist_t`).
const NATIVE_LIST: usize = 24;
/// The fixed head of a native pair: size, name size, reserve, elements, type (`nvpair_t`).
const NATIVE_PAIR: usize = 16;

impl<'a> Decoder<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], NvError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(NvError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn u32(&mut self) -> Result<u32, NvError> {
        let b: [u8; 4] = self.take(4)?.try_into().map_err(|_| NvError::Truncated)?;
        Ok(if self.big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) })
    }

    fn u64(&mut self) -> Result<u64, NvError> {
        let b: [u8; 8] = self.take(8)?.try_into().map_err(|_| NvError::Truncated)?;
        Ok(if self.big { u64::from_be_bytes(b) } else { u64::from_le_bytes(b) })
    }

    fn count(&mut self, items: usize) -> Result<(), NvError> {
        self.items = self.items.saturating_add(items);
        if self.items > self.limits.items { Err(NvError::TooMany(self.limits.items)) } else { Ok(()) }
    }

    /// Version and flags; tells whether names are unique (`NV_UNIQUE_NAME`).
    fn list_header(&mut self) -> Result<bool, NvError> {
        if self.u32()? != 0 {
            return Err(NvError::Malformed("unknown version"));
        }
        Ok(self.u32()? & 1 != 0)
    }

    fn pairs(&mut self, depth: usize, unique: bool) -> Result<NvList, NvError> {
        if depth > self.limits.depth {
            return Err(NvError::TooDeep(self.limits.depth));
        }
        let mut pairs = Vec::new();
        loop {
            let pair = if self.xdr { self.xdr_pair(depth)? } else { self.native_pair(depth)? };
            let Some(pair) = pair else { break };
            self.count(1)?;
            pairs.push(pair);
        }
        if unique {
            // Two values under one name would be read differently by different readers.
            let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            if names.windows(2).any(|w| w[0] == w[1]) {
                return Err(NvError::Malformed("a name occurs twice"));
            }
        }
        Ok(NvList { pairs, unique })
    }

    fn xdr_pair(&mut self, depth: usize) -> Result<Option<(String, Value)>, NvError> {
        let before = self.rest.len();
        let (size, decoded) = (self.u32()? as usize, self.u32()?);
        if size == 0 && decoded == 0 {
            return Ok(None);
        }
        if size < 20 || size > before {
            return Err(NvError::Malformed("the size of a pair"));
        }
        // The pair is decoded from its own slice, so that it cannot reach beyond its size.
        let pair = self.take(size - 8)?;
        let after = std::mem::replace(&mut self.rest, pair);
        let name = self.xdr_text()?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| NvError::Malformed("a name is not UTF-8"))?;
        let (kind, n) = (self.u32()?, self.u32()? as usize);
        let value = self.xdr_value(kind, n, depth)?;
        if !self.rest.is_empty() {
            return Err(NvError::Malformed("bytes follow a value"));
        }
        self.rest = after;
        Ok(Some((name, value)))
    }

    fn xdr_text(&mut self) -> Result<&'a [u8], NvError> {
        let len = self.u32()? as usize;
        self.padded(len)
    }

    fn padded(&mut self, len: usize) -> Result<&'a [u8], NvError> {
        let bytes = self.take(len)?;
        self.take(len.next_multiple_of(4) - len)?;
        Ok(bytes)
    }

    fn xdr_value(&mut self, kind: u32, n: usize, depth: usize) -> Result<Value, NvError> {
        scalar_count(kind, n)?;
        Ok(match kind {
            t::BOOLEAN => Value::Flag,
            t::BOOLEAN_VALUE => Value::Bool(self.u32()? != 0),
            t::BYTE | t::UINT8 | t::UINT16 | t::UINT32 => Value::U64(self.u32()?.into()),
            t::INT8 | t::INT16 | t::INT32 => Value::I64((self.u32()? as i32).into()),
            t::UINT64 => Value::U64(self.u64()?),
            t::INT64 | t::HRTIME => Value::I64(self.u64()? as i64),
            t::STRING => Value::Str(String::from_utf8_lossy(self.xdr_text()?).into_owned()),
            t::BYTE_ARRAY => Value::Bytes(self.padded(n)?.to_vec()),
            t::UINT8_ARRAY => {
                // One word for each byte, after the count (xdr_array of xdr_char).
                self.array_count(n)?;
                Value::Bytes(self.take(n.checked_mul(4).ok_or(NvError::Truncated)?)?.chunks(4).map(|w| w[3]).collect())
            }
            t::UINT64_ARRAY => {
                self.array_count(n)?;
                Value::U64s(self.u64s(n)?)
            }
            t::NVLIST => {
                let unique = self.list_header()?;
                Value::List(self.pairs(depth + 1, unique)?)
            }
            t::NVLIST_ARRAY => {
                let mut lists = Vec::new();
                for _ in 0..n {
                    self.count(1)?;
                    let unique = self.list_header()?;
                    lists.push(self.pairs(depth + 1, unique)?);
                }
                Value::Lists(lists)
            }
            other => self.skipped(other)?,
        })
    }

    fn array_count(&mut self, n: usize) -> Result<(), NvError> {
        if self.u32()? as usize != n { Err(NvError::Malformed("the length of an array")) } else { Ok(()) }
    }

    fn u64s(&mut self, n: usize) -> Result<Vec<u64>, NvError> {
        self.count(n)?;
        if n > self.rest.len() / 8 {
            return Err(NvError::Truncated);
        }
        (0..n).map(|_| self.u64()).collect()
    }

    fn skipped(&mut self, kind: u32) -> Result<Value, NvError> {
        if kind == 0 || kind > t::DOUBLE {
            return Err(NvError::Malformed("unknown type of value"));
        }
        self.rest = &[];
        Ok(Value::Other(kind))
    }

    fn native_pair(&mut self, depth: usize) -> Result<Option<(String, Value)>, NvError> {
        let before = self.rest;
        let size = self.u32()? as usize;
        if size == 0 {
            return Ok(None);
        }
        if size < NATIVE_PAIR || !size.is_multiple_of(8) {
            return Err(NvError::Malformed("the size of a pair"));
        }
        self.rest = before;
        let pair = self.take(size)?;
        let after = std::mem::replace(&mut self.rest, &pair[4..]);
        let lengths = self.u32()?;
        let name_size = if self.big { lengths >> 16 } else { lengths & 0xffff } as usize;
        let (n, kind) = (self.u32()? as usize, self.u32()?);
        let name = self.take(name_size)?.split_last().filter(|(nul, _)| **nul == 0).map(|(_, name)| name);
        let name = name.and_then(|n| String::from_utf8(n.to_vec()).ok()).ok_or(NvError::Malformed("a name"))?;
        let head = NATIVE_PAIR + name_size;
        self.take(head.next_multiple_of(8) - head)?;
        scalar_count(kind, n)?;
        let value = match kind {
            // The structures in the pair are placeholders; the lists themselves follow the pair.
            t::NVLIST | t::NVLIST_ARRAY => {
                let unique = self.native_lists(kind, n)?;
                self.rest = after;
                let mut lists = Vec::new();
                for unique in unique {
                    lists.push(self.pairs(depth + 1, unique)?);
                }
                return Ok(Some((
                    name,
                    if kind == t::NVLIST { Value::List(lists.pop().unwrap_or_default()) } else { Value::Lists(lists) },
                )));
            }
            _ => self.native_value(kind, n)?,
        };
        // What is left of the pair is the padding to 8.
        if self.rest.len() > 7 {
            return Err(NvError::Malformed("bytes follow a value"));
        }
        self.rest = after;
        Ok(Some((name, value)))
    }

    /// For each list that follows, whether its names are unique.
    fn native_lists(&mut self, kind: u32, n: usize) -> Result<Vec<bool>, NvError> {
        if kind == t::NVLIST_ARRAY {
            // An array of pointers, zeroed by the packer.
            self.take(n.checked_mul(8).ok_or(NvError::Truncated)?)?;
        }
        self.count(n)?;
        if n > self.rest.len() / NATIVE_LIST {
            return Err(NvError::Truncated);
        }
        let mut unique = Vec::with_capacity(n);
        for _ in 0..n {
            unique.push(self.list_header()?);
            self.take(NATIVE_LIST - 8)?;
        }
        Ok(unique)
    }

    fn native_value(&mut self, kind: u32, n: usize) -> Result<Value, NvError> {
        Ok(match kind {
            t::BOOLEAN => Value::Flag,
            t::BOOLEAN_VALUE => Value::Bool(self.u32()? != 0),
            t::BYTE | t::UINT8 => Value::U64(self.take(1)?[0].into()),
            t::INT8 => Value::I64((self.take(1)?[0] as i8).into()),
            t::UINT16 => Value::U64(self.u16()?.into()),
            t::INT16 => Value::I64((self.u16()? as i16).into()),
            t::UINT32 => Value::U64(self.u32()?.into()),
            t::INT32 => Value::I64((self.u32()? as i32).into()),
            t::UINT64 => Value::U64(self.u64()?),
            t::INT64 | t::HRTIME => Value::I64(self.u64()? as i64),
            t::STRING => {
                let end = self.rest.iter().position(|b| *b == 0).ok_or(NvError::Malformed("text without end"))?;
                let text = self.take(end + 1)?;
                Value::Str(String::from_utf8_lossy(&text[..end]).into_owned())
            }
            t::BYTE_ARRAY | t::UINT8_ARRAY => Value::Bytes(self.take(n)?.to_vec()),
            t::UINT64_ARRAY => Value::U64s(self.u64s(n)?),
            other => self.skipped(other)?,
        })
    }

    fn u16(&mut self) -> Result<u16, NvError> {
        let b: [u8; 2] = self.take(2)?.try_into().map_err(|_| NvError::Truncated)?;
        Ok(if self.big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) })
    }
}

/// A value that is no array has one element, and a flag none.
fn scalar_count(kind: u32, n: usize) -> Result<(), NvError> {
    let expected = match kind {
        t::BOOLEAN => 0,
        t::BYTE..=t::STRING | t::HRTIME | t::NVLIST | t::BOOLEAN_VALUE..=t::UINT8 | t::DOUBLE => 1,
        _ => return Ok(()),
    };
    if n == expected { Ok(()) } else { Err(NvError::Malformed("the number of elements")) }
}

#[cfg(test)]
mod tests;
