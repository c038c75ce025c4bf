//! Writes the lists that a stream and a resume token carry: XDR (RFC 4506) as in `nvpair.c`.

use std::io::Write;

/// A list under construction.
#[derive(Debug)]
pub struct NvWriter(Vec<u8>);

const BOOLEAN: u32 = 1;
const UINT64: u32 = 8;
const STRING: u32 = 9;
const NVLIST: u32 = 19;

fn text(s: &str) -> Vec<u8> {
    let mut out = (s.len() as u32).to_be_bytes().to_vec();
    out.extend(s.as_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

impl Default for NvWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl NvWriter {
    /// An empty list with unique names.
    pub fn new() -> Self {
        Self(vec![0, 0, 0, 0, 0, 0, 0, 1])
    }

    fn pair(mut self, name: &str, kind: u32, elements: u32, value: &[u8]) -> Self {
        let name = text(name);
        let size = 8 + name.len() + 8 + value.len();
        for word in [size as u32, size as u32 + 16] {
            self.0.extend(word.to_be_bytes());
        }
        self.0.extend(name);
        self.0.extend(kind.to_be_bytes());
        self.0.extend(elements.to_be_bytes());
        self.0.extend(value);
        self
    }

    /// Adds a number.
    pub fn u64(self, name: &str, n: u64) -> Self {
        self.pair(name, UINT64, 1, &n.to_be_bytes())
    }

    /// Adds a text.
    pub fn str(self, name: &str, s: &str) -> Self {
        self.pair(name, STRING, 1, &text(s))
    }

    /// Adds a name without value, if `on`.
    pub fn flag(self, name: &str, on: bool) -> Self {
        if on { self.pair(name, BOOLEAN, 0, &[]) } else { self }
    }

    /// Adds a list.
    pub fn list(self, name: &str, list: NvWriter) -> Self {
        self.pair(name, NVLIST, 1, &list.body())
    }

    fn body(mut self) -> Vec<u8> {
        self.0.extend([0; 8]);
        self.0
    }

    /// The packed list.
    pub fn packed(self) -> Vec<u8> {
        let mut out = vec![1, 1, 0, 0];
        out.extend(self.body());
        out
    }

    /// The packed list as a resume token (`receive_resume_token` in `dsl_dataset.c`).
    pub fn token(self) -> String {
        let packed = self.packed();
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        let data = z.write_all(&packed).and_then(|()| z.finish()).unwrap_or_default();
        let words = data.as_chunks::<4>().0.iter().map(|w| u64::from(u32::from_le_bytes(*w)));
        format!("1-{:x}-{:x}-{}", words.fold(0u64, u64::wrapping_add), packed.len(), hex::encode(data))
    }
}
