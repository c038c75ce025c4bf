//! The journal as a file of JSON lines in the state directory, each synced before it counts.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::port::journal::{Entry, Journal, Phase};

/// Bytes after which a new file is begun: some thirty thousand snapshots that went.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Files that are kept: `journal.jsonl`, and `journal.1.jsonl` for the one before it and so on.
const FILES: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct FileJournal {
    dir: PathBuf,
    max_file_bytes: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    pid: u32,
    by: &'a str,
    #[serde(flatten)]
    phase: &'a Phase,
    #[serde(flatten)]
    entry: &'a Entry,
}

impl FileJournal {
    /// A journal in `state_dir/journal.jsonl`; both are made when first needed.
    pub fn new(state_dir: &Path) -> FileJournal {
        FileJournal { dir: state_dir.to_owned(), max_file_bytes: MAX_FILE_BYTES }
    }

    /// The file `n` files ago.
    fn path(&self, n: usize) -> PathBuf {
        self.dir.join(if n == 0 { "journal.jsonl".to_owned() } else { format!("journal.{n}.jsonl") })
    }

    /// The newest file, under a lock that other processes keep to: one that was full is put aside first.
    fn open(&self) -> io::Result<File> {
        fs::create_dir_all(&self.dir)?;
        loop {
            let path = self.path(0);
            let file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            let held = file.metadata()?;
            // Another process may have put it aside before we had the lock.
            if fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())) {
                if held.len() == 0 {
                    // The name itself must survive a crash, too.
                    File::open(&self.dir)?.sync_all()?;
                }
                if held.len() < self.max_file_bytes {
                    return Ok(file);
                }
                for n in (0..FILES - 1).rev() {
                    match fs::rename(self.path(n), self.path(n + 1)) {
                        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// True if what is written next begins a line.
fn ends_in_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Journal for FileJournal {
    fn append(&self, by: &str, phase: &Phase, entry: &Entry) -> io::Result<()> {
        let line = Line { at: jiff::Timestamp::now().to_string(), pid: std::process::id(), by, phase, entry };
        let mut file = self.open()?;
        // A line that a full disk or a crash cut off is not to take the next one along.
        let mut bytes = if ends_in_a_line(&mut file)? { Vec::new() } else { vec![b'\n'] };
        serde_json::to_writer(&mut bytes, &line)?;
        bytes.push(b'\n');
        file.write_all(&bytes)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_takes_none_along() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::AbortPartial { dataset: "tank/a".parse().unwrap() };
        let journal = FileJournal::new(dir.path());
        journal.append("dc1", &Phase::Intent, &entry).unwrap();
        let path = dir.path().join("journal.jsonl");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
        journal.append("dc1", &Phase::Done, &entry).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let good: Vec<bool> = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()).collect();
        assert_eq!(good, [true, false, true], "{text}");
    }

    #[test]
    fn lines_are_json_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let entry = Entry::AbortPartial { dataset: "tank/a".parse().unwrap() };
        for phase in [Phase::Intent, Phase::Failed { cause: "busy".into() }] {
            FileJournal::new(&state).append("dc1", &phase, &entry).unwrap();
        }
        let text = fs::read_to_string(state.join("journal.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["phase"], &lines[0]["what"]), (&"intent".into(), &"abort_partial".into()));
        assert_eq!(
            (&lines[1]["cause"], &lines[1]["dataset"], &lines[1]["by"]),
            (&"busy".into(), &"tank/a".into(), &"dc1".into())
        );
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let journal = FileJournal { dir: dir.path().to_owned(), max_file_bytes: 1000 };
        let threads = [0, 1].map(|by| {
            let journal = FileJournal { dir: dir.path().to_owned(), ..journal };
            std::thread::spawn(move || {
                for n in 0..40 {
                    let entry = Entry::AbortPartial { dataset: format!("tank/{by}-{n}").parse().unwrap() };
                    journal.append("dc1", &Phase::Done, &entry).unwrap();
                }
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        let last = Entry::AbortPartial { dataset: "tank/last".parse().unwrap() };
        journal.append("dc1", &Phase::Done, &last).unwrap();
        let text = |n| fs::read_to_string(journal.path(n)).unwrap_or_default();
        assert!(text(FILES).is_empty() && (1..FILES).all(|n| (1000..1400).contains(&text(n).len())));
        // The last of each are there, whole, the newest in the newest file.
        let all: String = (0..FILES).rev().map(text).collect();
        let lines: Vec<serde_json::Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(
            lines.iter().any(|line| line["dataset"] == "tank/0-39")
                && lines.iter().any(|line| line["dataset"] == "tank/1-39")
        );
        assert!(text(0).contains("tank/last") && lines.last().unwrap()["dataset"] == "tank/last");
    }
}
