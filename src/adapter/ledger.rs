//! Ledgers as files of lines in the state directory, each line synced before it counts, each file locked with `flock(2)`
//! while a process owns it. The kernel drops the lock when the process dies.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    limits::MAX_LEDGER_BYTES,
    port::ledger::{Ledger, LedgerError, Ledgers, Opened, Stamp},
};

/// A note is a line of some hundred bytes.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct FileLedgers {
    dir: PathBuf,
}

struct FileLedger {
    file: File,
    /// Where a note is left.
    note: PathBuf,
    bytes: u64,
    /// A write failed, so the end of the file is not known.
    broken: bool,
}

impl FileLedgers {
    /// Ledgers in `state_dir/cutover`, which is made when first needed, for its owner alone.
    pub fn new(state_dir: &Path) -> FileLedgers {
        FileLedgers { dir: state_dir.join("cutover") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.jsonl"))
    }

    fn note(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.note"))
    }

    /// The lock that is shared by all who wait for the ledger.
    fn wanted(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.want"))
    }
}

/// The word that a process waits for a ledger.
struct Wanted(File);

impl Drop for Wanted {
    fn drop(&mut self) {
        // As below.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl Drop for FileLedger {
    fn drop(&mut self) {
        // Closing it would do, but for a process that is just being started and still has it open, until it runs its program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Ledger for FileLedger {
    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier line could not be written"));
        }
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(b'\n');
        if line.contains('\n') || self.bytes + bytes.len() as u64 > MAX_LEDGER_BYTES {
            return Err(io::Error::other("the line, or the whole, is too long"));
        }
        self.broken = true;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.broken = false;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn is_half_full(&self) -> bool {
        self.bytes > MAX_LEDGER_BYTES / 2
    }

    fn note(&mut self, line: &str) -> io::Result<()> {
        // By rename, so that who reads meets a whole one.
        let new = self.note.with_extension("note.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(line.as_bytes())?;
        fs::rename(&new, &self.note)
    }
}

fn failed(path: &Path, e: impl std::fmt::Display) -> LedgerError {
    LedgerError::Io(format!("{}: {e}", path.display()))
}

/// The whole lines, and how many bytes they are.
fn whole_lines(path: &Path, file: &mut File) -> Result<(Vec<String>, u64), LedgerError> {
    let mut bytes = Vec::new();
    file.take(MAX_LEDGER_BYTES + 1).read_to_end(&mut bytes).map_err(|e| failed(path, e))?;
    if bytes.len() as u64 > MAX_LEDGER_BYTES {
        return Err(failed(path, format!("longer than {MAX_LEDGER_BYTES} bytes")));
    }
    // What follows the last line end was being written when the process died: it was never acted on.
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let text = std::str::from_utf8(&bytes[..whole]).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        failed(path, format!("line {line} is not text; restore it from a backup, nothing was changed"))
    })?;
    Ok((text.lines().map(str::to_owned).collect(), whole as u64))
}

impl Ledgers for FileLedgers {
    fn open(&self, name: &str) -> Result<Opened, LedgerError> {
        let path = self.path(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(|e| failed(&self.dir, e))?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(&path, e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LedgerError::Owned),
            Err(e) => return Err(failed(&path, e)),
        }
        let length = file.metadata().map_err(|e| failed(&path, e))?.len();
        if length == 0 {
            // It may have just been made, and the directory with it: the names must survive a crash, too.
            for dir in [Some(self.dir.as_path()), self.dir.parent()].into_iter().flatten() {
                File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| failed(dir, e))?;
            }
        }
        let (lines, whole) = whole_lines(&path, &mut file)?;
        if length > whole {
            tracing::warn!(
                "{}: the last {} bytes are a line that a crash tore; they are cut off",
                path.display(),
                length - whole
            );
            file.set_len(whole).and_then(|()| file.sync_data()).map_err(|e| failed(&path, e))?;
        }
        // A line whose writer was killed before it synced it is read from memory all the same, and will be acted on.
        file.sync_data().map_err(|e| failed(&path, e))?;
        let ledger = Box::new(FileLedger { file, note: self.note(name), bytes: whole, broken: false });
        Ok(Opened { ledger, lines })
    }

    fn read(&self, name: &str) -> Result<Vec<String>, LedgerError> {
        let path = self.path(name);
        match File::open(&path) {
            Ok(mut file) => whole_lines(&path, &mut file).map(|(lines, _)| lines),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(failed(&path, e)),
        }
    }

    fn stamp(&self, name: &str) -> Option<Stamp> {
        let of = fs::metadata(self.path(name)).ok()?;
        Some(Stamp(of.len(), of.modified().ok()))
    }

    fn noted(&self, name: &str) -> Option<String> {
        let mut text = String::new();
        File::open(self.note(name)).and_then(|file| file.take(MAX_NOTE_BYTES).read_to_string(&mut text)).ok()?;
        Some(text)
    }

    fn is_owned(&self, name: &str) -> bool {
        let shared = |file| flock(&file, FlockOperation::NonBlockingLockShared);
        File::open(self.path(name)).is_ok_and(|file| shared(file) == Err(rustix::io::Errno::WOULDBLOCK))
    }

    fn want(&self, name: &str) -> Option<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(self.wanted(name)).ok()?;
        flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
        Some(Box::new(Wanted(file)))
    }

    fn is_wanted(&self, name: &str) -> bool {
        let alone = |file| flock(&file, FlockOperation::NonBlockingLockExclusive);
        File::open(self.wanted(name)).is_ok_and(|file| alone(file) == Err(rustix::io::Errno::WOULDBLOCK))
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, LedgerError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(&self.dir, e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| failed(&self.dir, e))?.file_name();
            let name = name.to_str().and_then(|n| n.strip_suffix(".jsonl"));
            names.extend(name.filter(|n| n.starts_with(prefix)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn place(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_and_a_torn_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let ledgers = FileLedgers::new(dir.path());
        assert!(ledgers.read("a").unwrap().is_empty() && ledgers.names("").unwrap().is_empty());
        let mut a = ledgers.open("a").unwrap();
        a.ledger.append("one").unwrap();
        a.ledger.append("two").unwrap();
        assert!(a.ledger.append("no\nline").is_err());
        assert_eq!(ledgers.noted("a"), None);
        a.ledger.note("a first").unwrap();
        a.ledger.note("second").unwrap();
        assert_eq!((ledgers.noted("a").as_deref(), ledgers.noted("b")), (Some("second"), None));
        assert!(matches!(ledgers.open("a"), Err(LedgerError::Owned)));
        assert!(ledgers.is_owned("a") && !ledgers.is_owned("b"));
        let wants = [ledgers.want("a").unwrap(), ledgers.want("a").unwrap()];
        assert!(ledgers.is_wanted("a") && !ledgers.is_wanted("b"));
        assert_eq!(ledgers.names("").unwrap(), ["a"], "who waits is no ledger");
        drop(wants);
        assert!(!ledgers.is_wanted("a"));
        drop(a);
        assert!(!ledgers.is_owned("a"));
        let path = dir.path().join("cutover/a.jsonl");
        fs::write(&path, "one\ntwo\n{\"rec").unwrap();
        assert_eq!(ledgers.read("a").unwrap(), ["one", "two"]);
        let mut a = ledgers.open("a").unwrap();
        assert_eq!(a.lines, ["one", "two"]);
        a.ledger.append("three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(ledgers.names("a").unwrap(), ["a"]);
    }

    #[test]
    fn what_is_no_text_is_an_error_that_names_the_line_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ledgers = FileLedgers::new(dir.path());
        drop(ledgers.open("a").unwrap());
        let path = dir.path().join("cutover/a.jsonl");
        fs::write(&path, b"one\n\xff\xfe\ntorn").unwrap();
        let Err(e) = ledgers.open("a") else { panic!("it was taken") };
        assert!(e.to_string().contains("line 2"), "{e}");
        assert_eq!(fs::read(&path).unwrap(), b"one\n\xff\xfe\ntorn");
    }
}
