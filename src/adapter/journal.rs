//! The journal as a file of JSON lines in the state directory, each synced before it counts.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::Serialize;

use crate::port::journal::{Entry, Journal, Phase};

/// See the module.
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    file: Mutex<Option<File>>,
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
        FileJournal { path: state_dir.join("journal.jsonl"), file: Mutex::new(None) }
    }

    fn open(&self) -> io::Result<File> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        // The name itself must survive a crash, too.
        File::open(dir)?.sync_all()?;
        Ok(file)
    }
}

impl Journal for FileJournal {
    fn append(&self, by: &str, phase: &Phase, entry: &Entry) -> io::Result<()> {
        let line = Line { at: jiff::Timestamp::now().to_string(), pid: std::process::id(), by, phase, entry };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if file.is_none() {
            *file = Some(self.open()?);
        }
        let Some(open) = file.as_mut() else { return Err(io::Error::other("the journal is not open")) };
        // One write, in append mode: lines of several processes do not mix.
        open.write_all(&bytes)?;
        open.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
