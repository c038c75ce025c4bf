//! The history of all runs, in `state_dir/history`: JSON lines, the newest file and up to three older ones.
//!
//! Lines and not a database, because several processes write it (`zmigrated`, and `job run` from cron) while others read
//! it, and an embedded database lets one process in; because `jq` reads it; and because an append of one line is all that
//! a run needs. A line that a crash cut off is passed over, and the next one begins on a line of its own.
//!
//! Invariants: a run has a line when it begins and one when it ends, each synced before the run goes on, so one that was cut
//! off shows; the directory never holds more than [`FILES`] files of [`MAX_FILE_BYTES`] and a line.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::types::JobName;

/// Bytes after which a new file is begun: some ten thousand runs.
pub const MAX_FILE_BYTES: u64 = 8 << 20;
/// Files that are kept.
pub const FILES: usize = 4;
/// The longest line that is read. Writers stay far below: see [`MAX_STEPS`].
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Steps, and datasets that failed, that a line names: 500 of less than a kilobyte each.
pub const MAX_STEPS: usize = 500;
/// Notes that a line holds, of 400 characters each.
pub const MAX_NOTES: usize = 100;

/// One stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The snapshot, by its name on the source.
    pub snapshot: String,
    /// What it starts from; absent for a full one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// Bytes of the stream.
    pub raw_bytes: u64,
    /// Payload bytes on the wire.
    pub wire_bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// A dataset that did not go well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// On the source.
    pub dataset: String,
    /// `refused`, `failed` or `skipped`.
    pub result: String,
    /// Why.
    pub error: String,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub run: String,
    /// Of this job.
    pub job: JobName,
    /// Who began it: `schedule`, `cron` or `person`.
    pub by: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; absent in the line of its beginning.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<Timestamp>,
    /// `running`; then that of its report; `interrupted` for one that was begun and is not at work any more.
    pub result: String,
    /// The exit code.
    #[serde(default)]
    pub exit_code: u8,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// The snapshot that was taken.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot: Option<String>,
    /// Bytes of all streams.
    #[serde(default)]
    pub raw_bytes: u64,
    /// Payload bytes on the wire.
    #[serde(default)]
    pub wire_bytes: u64,
    /// Seconds for all of it.
    #[serde(default)]
    pub seconds: f64,
    /// Datasets that took part.
    #[serde(default)]
    pub datasets: usize,
    /// Snapshots that were destroyed.
    #[serde(default)]
    pub pruned: usize,
    /// How its comparison of both sides ended: `equal`, `different` or `failed`; absent where none was due.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verified: Option<String>,
    /// Its streams, at most [`MAX_STEPS`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub steps: Vec<Step>,
    /// What did not go well, at most [`MAX_STEPS`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub troubles: Vec<Trouble>,
    /// What a person should know of it, at most [`MAX_NOTES`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
    /// Why the run as a whole failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// The history of a state directory.
#[derive(Clone, Debug)]
pub struct History {
    dir: PathBuf,
    max_file_bytes: u64,
}

impl History {
    /// That of `state_dir/history`, which is made when first needed, for its owner alone.
    pub fn new(state_dir: &Path) -> History {
        History { dir: state_dir.join("history"), max_file_bytes: MAX_FILE_BYTES }
    }

    fn file(&self, age: usize) -> PathBuf {
        self.dir.join(if age == 0 { "runs.jsonl".to_owned() } else { format!("runs.{age}.jsonl") })
    }

    /// Adds a line, and waits until it is on disk.
    ///
    /// # Errors
    /// When it is not.
    pub fn append(&self, record: &Record) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let lock = OpenOptions::new().create(true).append(true).open(self.dir.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(self.file(0))?;
        if file.metadata()?.len() >= self.max_file_bytes {
            for age in (0..FILES - 1).rev() {
                match fs::rename(self.file(age), self.file(age + 1)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            file = OpenOptions::new().create(true).read(true).append(true).open(self.file(0))?;
        }
        let mut line = Vec::new();
        if file.metadata()?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                line.push(b'\n');
            }
        }
        serde_json::to_writer(&mut line, record)?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_data()?;
        File::open(&self.dir)?.sync_all()
    }

    /// The newest `most` runs, of one job or of all, oldest first. One that never ended is `interrupted`, unless
    /// `is_running` says that its job is at work and it is that job's newest.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(
        &self,
        job: Option<&JobName>,
        most: usize,
        is_running: impl Fn(&JobName) -> bool,
    ) -> io::Result<Vec<Record>> {
        let mut runs: Vec<Record> = Vec::new();
        // Two jobs may come by the same id.
        let mut places: HashMap<(JobName, String), usize> = HashMap::new();
        for age in (0..FILES).rev() {
            let file = match File::open(self.file(age)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            loop {
                line.clear();
                if reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                    break;
                }
                let Ok(record) = serde_json::from_slice::<Record>(&line) else { continue };
                if job.is_some_and(|job| *job != record.job) {
                    continue;
                }
                match places.entry((record.job.clone(), record.run.clone())) {
                    Entry::Occupied(at) => runs[*at.get()] = record,
                    Entry::Vacant(free) => {
                        free.insert(runs.len());
                        runs.push(record);
                    }
                }
            }
        }
        let mut newest: HashMap<JobName, usize> = HashMap::new();
        for (at, run) in runs.iter().enumerate() {
            newest.insert(run.job.clone(), at);
        }
        for (at, run) in runs.iter_mut().enumerate().filter(|(_, run)| run.ended.is_none()) {
            if newest.get(&run.job) != Some(&at) || !is_running(&run.job) {
                "interrupted".clone_into(&mut run.result);
            }
        }
        let skip = runs.len().saturating_sub(most);
        Ok(runs.split_off(skip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: usize, job: &str, ended: bool) -> Record {
        let at = |seconds: usize| Timestamp::from_second(1_764_000_000 + seconds as i64).unwrap();
        Record {
            run: format!("r{n}"),
            job: job.parse().unwrap(),
            by: "cron".into(),
            started: at(n),
            ended: ended.then(|| at(n + 1)),
            result: if ended { "done" } else { "running" }.into(),
            exit_code: 0,
            attempts: 1,
            snapshot: None,
            raw_bytes: 5,
            wire_bytes: 4,
            seconds: 1.0,
            datasets: 1,
            pruned: 0,
            verified: None,
            steps: Vec::new(),
            troubles: Vec::new(),
            notes: Vec::new(),
            error: None,
        }
    }

    fn ids(runs: &[Record]) -> Vec<&str> {
        runs.iter().map(|r| r.run.as_str()).collect()
    }

    #[test]
    fn a_run_that_ended_is_one_record_and_one_that_was_cut_off_shows() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path());
        assert!(history.read(None, 10, |_| false).unwrap().is_empty());
        for (n, job, ended) in [(1, "a", false), (1, "a", true), (2, "b", false), (3, "a", false), (4, "a", false)] {
            history.append(&record(n, job, ended)).unwrap();
        }
        let runs = history.read(None, 10, |job| job.as_str() == "a").unwrap();
        let results: Vec<_> = runs.iter().map(|r| (r.run.as_str(), r.result.as_str())).collect();
        assert_eq!(results, [("r1", "done"), ("r2", "interrupted"), ("r3", "interrupted"), ("r4", "running")]);
        assert_eq!(ids(&history.read(Some(&"a".parse().unwrap()), 2, |_| false).unwrap()), ["r3", "r4"]);
    }

    /// A crash at any byte of a line costs that line and no other.
    #[test]
    fn a_line_that_was_cut_off_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path());
        history.append(&record(1, "a", true)).unwrap();
        let whole = fs::read(history.file(0)).unwrap();
        for cut in 0..whole.len() {
            let torn = [whole.as_slice(), &whole[..cut]].concat();
            fs::write(history.file(0), torn).unwrap();
            history.append(&record(2, "a", true)).unwrap();
            assert_eq!(ids(&history.read(None, 10, |_| false).unwrap()), ["r1", "r2"], "cut at {cut}");
        }
    }

    #[test]
    fn its_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let history = History { max_file_bytes: 2000, ..History::new(dir.path()) };
        for n in 0..200 {
            history.append(&record(n, "a", true)).unwrap();
        }
        let sizes: Vec<u64> =
            (0..FILES + 1).filter_map(|age| fs::metadata(history.file(age)).ok()).map(|m| m.len()).collect();
        assert!(sizes.len() == FILES && sizes.iter().all(|size| *size < 2500), "{sizes:?}");
        let runs = history.read(None, 1000, |_| false).unwrap();
        assert!(runs.len() > 15 && ids(&runs).last() == Some(&"r199"), "{}", runs.len());
    }
}
