//! `/proc/PID/mountinfo`, taken apart: see proc(5). Pure.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use super::DatasetName;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Major and minor number of the filesystem's device: what `stat` says of files on it.
    pub device: (u32, u32),
    /// The directory within the filesystem that is mounted.
    pub root: PathBuf,
    /// Where it is mounted, as the process of this file sees it.
    pub at: PathBuf,
    /// Whether nothing can be written through it, whatever the filesystem itself allows.
    pub read_only: bool,
    /// The type, such as `ext4` or `zfs`.
    pub kind: String,
    /// What is mounted: a device, or a dataset's or snapshot's name.
    pub source: OsString,
}

impl Mount {
    /// Whether it is of that filesystem of ZFS, or of a directory in it.
    pub fn is_of(&self, filesystem: &DatasetName) -> bool {
        matches!(self.kind.as_str(), "zfs" | "fuse.zfs") && self.source == filesystem.as_str()
    }
}

/// All mounts that the text names; a line that does not parse is left out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|b| *b == b' ');
    // The ids of the mount and of its parent.
    let (_, _) = (words.next()?, words.next()?);
    let (major, minor) = std::str::from_utf8(words.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let (root, at) = (path(words.next()?), path(words.next()?));
    let read_only = words.next()?.split(|b| *b == b',').any(|option| option == b"ro");
    // Optional fields, up to a dash.
    words.by_ref().find(|word| *word == b"-")?;
    let kind = String::from_utf8_lossy(words.next()?).into_owned();
    let source = OsString::from_vec(unescape(words.next()?));
    Some(Mount { device, root, at, read_only, kind, source })
}

fn path(word: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(word)).into()
}

/// Space, tab, newline and backslash are written as three octal digits (`mangle` in the kernel's `fs/proc_namespace.c`).
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits.map(|d| d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'))).and_then(|n| u8::try_from(n).ok())
        {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                     37 35 0:49 / /tank rw - zfs tank/db\\040x rw\nnonsense\n38 35 0:50 / /a rw no dash\n";
        let all = parse(text);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].device, all[0].root.as_os_str(), all[0].at.as_os_str()),
            ((98, 0), "/mnt1".as_ref(), "/mnt 2\\x".as_ref())
        );
        assert_eq!((all[1].kind.as_str(), all[1].source.to_str()), ("zfs", Some("tank/db x")));
        assert!(parse(&std::fs::read("/proc/self/mountinfo").unwrap()).iter().any(|m| m.at.as_os_str() == "/proc"));
    }
}
