//! What differs between two lists of entries, said so that a person can look at it.
//!
//! Both lists come in pages, each in the order of [`path_order`]; at most a page of each is kept. A directory that is on one
//! side only is told once, not with all that is in it.

use std::{cmp::Ordering, collections::VecDeque};

use crate::types::{
    content::{ContentPage, Entry, EntryKind, Xattr},
    printable,
};

/// How paths are ordered: component by component, each by its bytes. So what is in a directory comes right behind it.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/'))
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, made printable; for the root `/`.
    pub path: String,
    /// What, without the path.
    pub what: String,
}

/// One of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The first.
    First,
    /// The second.
    Second,
}

#[derive(Debug, Default)]
struct Half {
    name: &'static str,
    waiting: VecDeque<Entry>,
    /// The path of the newest entry that came.
    newest: Option<Vec<u8>>,
    ended: bool,
    /// A directory that only this side has: what is in it is not told.
    skipped: Option<Vec<u8>>,
}

/// A comparison that is given pages until it wants no more.
#[derive(Debug)]
pub struct Comparison {
    first: Half,
    second: Half,
    most: usize,
    found: Vec<Difference>,
    more: bool,
}

/// The other side sent entries that are not in order, or pages without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entries of a snapshot came out of order")]
pub struct OutOfOrder;

impl Comparison {
    /// Of the lists called so in sentences, such as `source` and `target`; ends when it has found `most` differences.
    pub fn new(first: &'static str, second: &'static str, most: usize) -> Self {
        let half = |name| Half { name, ..Half::default() };
        Self { first: half(first), second: half(second), most, found: Vec::new(), more: false }
    }

    /// Whose next page it needs, and after which path that begins; `None` when it is done.
    pub fn wants(&self) -> Option<(Which, Option<&[u8]>)> {
        let needs = |half: &Half| half.waiting.is_empty() && !half.ended;
        if self.more {
            None
        } else if needs(&self.first) {
            Some((Which::First, self.first.newest.as_deref()))
        } else if needs(&self.second) {
            Some((Which::Second, self.second.newest.as_deref()))
        } else {
            None
        }
    }

    /// Takes the page that it wanted.
    ///
    /// # Errors
    /// [`OutOfOrder`]: what comes from another host is not trusted to end.
    pub fn take(&mut self, which: Which, page: ContentPage) -> Result<(), OutOfOrder> {
        let half = match which {
            Which::First => &mut self.first,
            Which::Second => &mut self.second,
        };
        if page.entries.is_empty() && !page.last {
            return Err(OutOfOrder);
        }
        for entry in page.entries {
            if half.newest.as_deref().is_some_and(|newest| path_order(newest, &entry.path) != Ordering::Less) {
                return Err(OutOfOrder);
            }
            half.newest = Some(entry.path.clone());
            half.waiting.push_back(entry);
        }
        half.ended = page.last;
        self.advance();
        Ok(())
    }

    /// What was found, and whether there may be more.
    pub fn finish(self) -> (Vec<Difference>, bool) {
        (self.found, self.more)
    }

    fn advance(&mut self) {
        while !self.more {
            let (first, second) = (self.first.waiting.front(), self.second.waiting.front());
            match (first, second) {
                (Some(a), Some(b)) => match path_order(&a.path, &b.path) {
                    Ordering::Less => self.alone(Which::First),
                    Ordering::Greater => self.alone(Which::Second),
                    Ordering::Equal => self.both(),
                },
                (Some(_), None) if self.second.ended => self.alone(Which::First),
                (None, Some(_)) if self.first.ended => self.alone(Which::Second),
                _ => return,
            }
        }
    }

    fn alone(&mut self, which: Which) {
        let (half, other) = match which {
            Which::First => (&mut self.first, self.second.name),
            Which::Second => (&mut self.second, self.first.name),
        };
        let Some(entry) = half.waiting.pop_front() else { return };
        if half.skipped.as_deref().is_some_and(|dir| is_in(&entry.path, dir)) {
            return;
        }
        let what = match &entry.kind {
            EntryKind::Extent { size, .. } => format!("{} are zeros at the {other}", extent(&entry.path, *size)),
            EntryKind::Directory => {
                half.skipped = Some(entry.path.clone());
                format!("is only at the {}: a directory, with what is in it", half.name)
            }
            kind => format!("is only at the {}: {}", half.name, called(kind)),
        };
        self.found(&entry.path, what);
    }

    fn both(&mut self) {
        let (Some(a), Some(b)) = (self.first.waiting.pop_front(), self.second.waiting.pop_front()) else { return };
        if a != b {
            for what in differences(&a, &b, self.first.name, self.second.name) {
                self.found(&a.path, what);
            }
        }
    }

    fn found(&mut self, path: &[u8], what: String) {
        if self.found.len() >= self.most {
            self.more = true;
            return;
        }
        let path = if path.is_empty() { "/".to_owned() } else { printable(&String::from_utf8_lossy(path)) };
        self.found.push(Difference { path, what });
    }
}

fn is_in(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn called(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Directory => "a directory",
        EntryKind::File { .. } => "a file",
        EntryKind::Symlink { .. } => "a symbolic link",
        EntryKind::CharDevice { .. } => "a character device",
        EntryKind::BlockDevice { .. } => "a block device",
        EntryKind::Fifo => "a named pipe",
        EntryKind::Socket => "a socket",
        EntryKind::Volume { .. } => "a volume",
        EntryKind::Extent { .. } => "a piece of a volume",
    }
}

fn extent(path: &[u8], size: u64) -> String {
    let offset = std::str::from_utf8(path).ok().and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
    format!("bytes {offset} to {}", offset.saturating_add(size).saturating_sub(1))
}

fn text(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// What differs between two entries of one path.
fn differences(a: &Entry, b: &Entry, first: &str, second: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut two = |what: &str, x: String, y: String| {
        if x != y {
            all.push(format!("{what}{x} at the {first}, {y} at the {second}"));
        }
    };
    match (&a.kind, &b.kind) {
        (EntryKind::File { size: x, hash: h }, EntryKind::File { size: y, hash: i }) => {
            two("", format!("{x} bytes"), format!("{y} bytes"));
            if x == y && h != i {
                all.push(format!("the content differs ({x} bytes)"));
            }
        }
        (EntryKind::Extent { size: x, .. }, EntryKind::Extent { .. }) if a.kind != b.kind => {
            all.push(format!("{} differ", extent(&a.path, *x)));
        }
        (EntryKind::Volume { size: x }, EntryKind::Volume { size: y }) => {
            two("", format!("{x} bytes"), format!("{y} bytes"));
        }
        (EntryKind::Symlink { target: x }, EntryKind::Symlink { target: y }) => {
            two("points to ", text(x), text(y));
        }
        (EntryKind::CharDevice { device: x }, EntryKind::CharDevice { device: y })
        | (EntryKind::BlockDevice { device: x }, EntryKind::BlockDevice { device: y }) => {
            two("device ", format!("{}:{}", x.0, x.1), format!("{}:{}", y.0, y.1));
        }
        (x, y) => two("", called(x).to_owned(), called(y).to_owned()),
    }
    let mut two = |what: &str, x: String, y: String| {
        if x != y {
            all.push(format!("{what}{x} at the {first}, {y} at the {second}"));
        }
    };
    two("mode ", format!("{:04o}", a.mode), format!("{:04o}", b.mode));
    two("owner ", format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid));
    let time = |ns: i64| format!("{}.{:09}", ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    two("changed at ", time(a.mtime_ns), time(b.mtime_ns));
    let links = |e: &Entry| e.link.map_or("one name".to_owned(), |link| format!("{} names", link.names));
    two("", links(a), links(b));
    if let (Some(x), Some(y)) = (a.link, b.link)
        && x.inode != y.inode
        && x.names == y.names
    {
        all.push("shares its content with other names than at the other side".to_owned());
    }
    xattrs(&a.xattrs, &b.xattrs, first, second, &mut all);
    all
}

fn xattrs(a: &[Xattr], b: &[Xattr], first: &str, second: &str, all: &mut Vec<String>) {
    let find = |list: &'_ [Xattr], name: &[u8]| list.iter().find(|xattr| xattr.name == name).cloned();
    for xattr in a {
        match find(b, &xattr.name) {
            None => all.push(format!("the attribute {} is only at the {first}", text(&xattr.name))),
            Some(other) if other != *xattr => all.push(format!("the attribute {} differs", text(&xattr.name))),
            Some(_) => {}
        }
    }
    for xattr in b.iter().filter(|xattr| find(a, &xattr.name).is_none()) {
        all.push(format!("the attribute {} is only at the {second}", text(&xattr.name)));
    }
}
