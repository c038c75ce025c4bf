//! A volume's content: its length, and every MiB that is not all zeros.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    path::Path,
};

use super::{ContentError, hash};
use crate::types::content::{Entry, EntryKind};

/// Bytes of one entry.
const EXTENT: usize = 1 << 20;

pub struct Device {
    file: File,
    size: u64,
    /// The next extent; none before the volume itself was told.
    at: Option<u64>,
    shown: String,
}

impl Device {
    pub fn open(path: &Path, after: Option<&[u8]>) -> Result<Self, ContentError> {
        let shown = path.display().to_string();
        let io = |what| {
            let path = shown.clone();
            move |cause| ContentError::Io { what, path, cause }
        };
        let mut file = File::open(path).map_err(io("open"))?;
        let size = file.seek(SeekFrom::End(0)).map_err(io("seek in"))?;
        let at = match after {
            None => None,
            Some(b"") => Some(0),
            Some(after) => {
                let offset = std::str::from_utf8(after).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
                let unfit = || ContentError::Unfit { path: shown.clone(), why: "is no offset in a volume" };
                Some(offset.and_then(|offset| offset.checked_add(EXTENT as u64)).ok_or_else(unfit)?)
            }
        };
        Ok(Self { file, size, at, shown })
    }

    pub fn next(
        &mut self,
        read: &mut impl FnMut(u64) -> Result<(), ContentError>,
    ) -> Result<Option<Entry>, ContentError> {
        let entry = |path: Vec<u8>, kind| {
            Some(Entry { path, kind, mode: 0, uid: 0, gid: 0, mtime_ns: 0, link: None, xattrs: Vec::new() })
        };
        let io = |what, cause| ContentError::Io { what, path: self.shown.clone(), cause };
        let Some(mut at) = self.at else {
            self.at = Some(0);
            return Ok(entry(Vec::new(), EntryKind::Volume { size: self.size }));
        };
        let mut block = vec![0; EXTENT];
        while at < self.size {
            self.file.seek(SeekFrom::Start(at)).map_err(|e| io("seek in", e))?;
            let want = usize::try_from(self.size - at).unwrap_or(EXTENT).min(EXTENT);
            let n = hash::fill(&mut self.file, block.get_mut(..want).unwrap_or_default()).map_err(|e| io("read", e))?;
            if n < want {
                return Err(ContentError::Unfit { path: self.shown.clone(), why: "ended before its size" });
            }
            let bytes = block.get(..n).unwrap_or_default();
            read(n as u64)?;
            let here = at;
            at += n as u64;
            self.at = Some(at);
            if !hash::is_zero(bytes) {
                let kind = EntryKind::Extent { size: n as u64, hash: hash::plain(bytes) };
                return Ok(entry(format!("{here:016x}").into_bytes(), kind));
            }
        }
        Ok(None)
    }
}
