//! What is kept of a job between its runs, in `state_dir/jobs`: `NAME.json`, `NAME.lock`, and `NAME.paused` while it is.
//!
//! Invariants: only who holds the lock writes the state; a state is replaced whole or not at all. The pause has a file of its
//! own, so that a job can be paused while it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::verify::Verified;
use crate::{
    jobs::{Job, lag::Lag, spare::Need},
    plan::ExcludePattern,
    port::needs::Needs,
    types::{DatasetName, Failure, FailureClass, Guid, JobName},
};

/// The longest state that is read: 100,000 datasets of 600 bytes.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// How a run went, or that it goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    /// Its id, as in the history.
    pub run: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; absent while it goes on, and for one that was cut off.
    pub ended: Option<Timestamp>,
    /// As in its report.
    pub result: String,
    /// As in its report.
    pub exit_code: u8,
    /// Why it failed.
    pub error: Option<String>,
    /// Bytes of its streams.
    pub raw_bytes: u64,
    /// Payload bytes on the wire.
    pub wire_bytes: u64,
    /// Snapshots that it destroyed.
    pub pruned: u64,
}

impl LastRun {
    /// It was begun, is not at work, and did not end.
    pub fn cut_off(&mut self) {
        "interrupted".clone_into(&mut self.result);
        self.exit_code = FailureClass::Interrupted.exit_code();
        self.error.get_or_insert_with(|| "it was cut off".to_owned());
    }
}

/// How far a run has come: written once a second by whoever runs it, for whoever watches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The run.
    pub run: String,
    /// Bytes of its streams so far.
    pub raw_bytes: u64,
    /// The estimate of all of them, where there is one.
    pub planned_bytes: Option<u64>,
    /// Bytes per second over the last second or so.
    pub rate_bytes_per_s: u64,
    /// Steps that are done.
    pub steps_done: usize,
    /// Steps of the plan.
    pub steps_planned: usize,
    /// What is being transferred, at most a few.
    pub active: Vec<String>,
}

/// The longest progress that is read: some names.
const MAX_PROGRESS_BYTES: u64 = 64 << 10;

/// What is known of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    /// The dataset that it reads; of another one, nothing of this counts.
    pub source: String,
    /// The dataset that it writes, and where.
    pub target: String,
    /// The run that was begun last.
    pub last: Option<LastRun>,
    /// The one before it, or what became of it: the last that ended.
    #[serde(default)]
    pub last_ended: Option<LastRun>,
    /// When a run went well last.
    pub last_good: Option<Timestamp>,
    /// When both sides were looked at last.
    pub looked: Option<Timestamp>,
    /// What was seen then.
    pub lags: Vec<Lag>,
    /// What was left out then: patterns of names below the root.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Datasets of the target that were renamed at the source, by their GUIDs: what tells it may be pruned.
    #[serde(default)]
    pub renamed: BTreeSet<Guid>,
    /// What stayed for a target that may have been given up, when it was pruned last.
    #[serde(default)]
    pub kept_for: Option<String>,
    /// What its verifications found.
    #[serde(default)]
    pub verified: Verified,
    /// When it was first seen, so that what is missed before its first run is made up for.
    #[serde(default)]
    pub first_seen: Option<Timestamp>,
    /// Runs since the state began: all, and those that failed.
    pub runs: u64,
    /// See `runs`.
    pub failed_runs: u64,
    /// Bytes on the wire in all.
    pub wire_bytes: u64,
}

impl JobState {
    /// Takes in that a run begins. One that was begun and did not end was cut off, and did not go well.
    pub fn begin(&mut self, run: LastRun) {
        if let Some(mut before) = self.last.replace(run) {
            if before.ended.is_none() {
                before.cut_off();
                self.runs += 1;
                self.failed_runs += 1;
            }
            self.last_ended = Some(before);
        }
    }

    /// True if it is about this very job, and not one that had its name.
    pub fn is_of(&self, job: &Job) -> bool {
        (self.source.as_str(), self.target.as_str()) == (job.dataset.as_str(), place(job).as_str())
    }
}

/// The target with its peer; of a job of this host alone, what is no target's place.
pub fn place(job: &Job) -> String {
    job.remote.as_ref().map_or("-".to_owned(), |remote| format!("{} {}", remote.peer, remote.target))
}

/// How often a lock is tried again, and how long after.
const LOCK_TRIES: u32 = 5;
/// See [`LOCK_TRIES`].
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The directory.
#[derive(Clone, Debug)]
pub struct JobFiles {
    dir: PathBuf,
}

/// Holds a job until it is dropped.
#[derive(Debug)]
pub struct JobLock {
    _file: File,
}

impl JobFiles {
    /// Those in `state_dir/jobs`, which is made when first needed, for its owner alone.
    pub fn new(state_dir: &Path) -> JobFiles {
        JobFiles { dir: state_dir.join("jobs") }
    }

    fn path(&self, name: &JobName, kind: &str) -> PathBuf {
        self.dir.join(format!("{name}.{kind}"))
    }

    fn failed(&self, what: &str, path: &Path, e: &io::Error) -> Failure {
        Failure::new(FailureClass::Usage, format!("cannot {what} {}: {e}", path.display()))
            .hint("check state_dir in the configuration, and who owns it")
    }

    fn make_dir(&self) -> Result<(), Failure> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|e| self.failed("make", &self.dir, &e))
    }

    /// Takes a job, unless another run has it. Does not wait.
    ///
    /// # Errors
    /// `Locked` when it is at work, `Usage` when the lock cannot be tried.
    pub fn lock(&self, name: &JobName) -> Result<JobLock, Failure> {
        self.make_dir()?;
        let path = self.path(name, "lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|e| self.failed("open", &path, &e))?;
        let mut tried = flock(&file, FlockOperation::NonBlockingLockExclusive);
        // Who only asks whether it is at work holds it for a moment, see `is_running`.
        for _ in 0..LOCK_TRIES {
            if tried != Err(rustix::io::Errno::WOULDBLOCK) {
                break;
            }
            std::thread::sleep(LOCK_PAUSE);
            tried = flock(&file, FlockOperation::NonBlockingLockExclusive);
        }
        match tried {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut by = String::new();
                let _ = (&mut file).take(200).read_to_string(&mut by);
                let by = if by.trim().is_empty() { "another process" } else { by.trim() };
                return Err(Failure::new(FailureClass::Locked, format!("job {name} is at work already, in {by}")));
            }
            Err(e) => return Err(self.failed("lock", &path, &e.into())),
        }
        // For people alone.
        let text = format!("pid {}, since {}", std::process::id(), Timestamp::now());
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{text}"));
        Ok(JobLock { _file: file })
    }

    /// Shows how far a run has come, or takes that away. Nothing depends on it.
    pub fn show_progress(&self, name: &JobName, progress: Option<&Progress>) {
        let path = self.path(name, "progress");
        let Some(progress) = progress else {
            let _ = fs::remove_file(path);
            return;
        };
        let new = self.path(name, "progress.new");
        let text = serde_json::to_vec(progress).unwrap_or_default();
        let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
    }

    /// How far the run that is at work has come, where it says so.
    pub fn progress(&self, name: &JobName) -> Option<Progress> {
        let mut text = Vec::new();
        File::open(self.path(name, "progress")).ok()?.take(MAX_PROGRESS_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// True while a run of the job is at work.
    pub fn is_running(&self, name: &JobName) -> bool {
        let held = |file: File| flock(&file, FlockOperation::NonBlockingLockShared).is_err();
        File::open(self.path(name, "lock")).is_ok_and(held)
    }

    /// True if the job is paused.
    pub fn is_paused(&self, name: &JobName) -> bool {
        self.path(name, "paused").exists()
    }

    /// Pauses or resumes a job; says whether that changed anything.
    ///
    /// # Errors
    /// When the file cannot be made or removed.
    pub fn set_paused(&self, name: &JobName, paused: bool) -> Result<bool, Failure> {
        self.make_dir()?;
        let path = self.path(name, "paused");
        let done =
            if paused { File::create_new(&path).and_then(|file| file.sync_all()) } else { fs::remove_file(&path) };
        match done.map_err(|e| (e.kind(), e)) {
            Ok(()) => {
                let _ = File::open(&self.dir).and_then(|dir| dir.sync_all());
                Ok(true)
            }
            Err((io::ErrorKind::AlreadyExists, _)) if paused => Ok(false),
            Err((io::ErrorKind::NotFound, _)) if !paused => Ok(false),
            Err((_, e)) => Err(self.failed(if paused { "make" } else { "remove" }, &path, &e)),
        }
    }

    /// What is known of a job; nothing if it never ran, or is another than the one that did.
    ///
    /// # Errors
    /// When there is a state and it cannot be read.
    pub fn load(&self, job: &Job) -> Result<JobState, Failure> {
        let path = self.path(&job.name, "json");
        let state = match self.read(&path)? {
            None => JobState::default(),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                self.failed("read", &path, &e.into())
                    .hint("it is damaged; the next run moves it away and makes a new one")
            })?,
        };
        Ok(if state.is_of(job) { state } else { JobState::default() })
    }

    /// The same, for whoever holds the lock: what cannot be read is moved away to `NAME.json.damaged`, and said. Nothing is lost but
    /// figures, and until the run's end all snapshots stay, because nothing is known of what targets have.
    ///
    /// # Errors
    /// When it cannot be read or moved.
    pub fn load_or_set_aside(&self, job: &Job) -> Result<(JobState, Option<String>), Failure> {
        let path = self.path(&job.name, "json");
        let parses = |bytes: Vec<u8>| serde_json::from_slice::<JobState>(&bytes).is_ok();
        // Also one that another user left, who ran the job by hand.
        if self.read(&path).is_ok_and(|read| read.is_none_or(parses)) {
            return Ok((self.load(job)?, None));
        }
        let aside = self.path(&job.name, "json.damaged");
        fs::rename(&path, &aside).map_err(|e| self.failed("move away", &path, &e))?;
        Ok((JobState::default(), Some(format!("{} could not be read and is now {}", path.display(), aside.display()))))
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(MAX_STATE_BYTES + 1).read_to_end(&mut bytes)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed("read", path, &e)),
            Ok(_) if bytes.len() as u64 > MAX_STATE_BYTES => {
                Err(self.failed("read", path, &io::Error::other("it is too long")))
            }
            Ok(_) => Ok(Some(bytes)),
        }
    }

    /// Since when a job that never ran has been there. What is not written down yet is, but while it is at work.
    ///
    /// # Errors
    /// When its state cannot be read or written.
    pub fn first_seen(&self, job: &Job, now: Timestamp) -> Result<Timestamp, Failure> {
        // One of the future is of a clock that was wrong.
        let seen = |state: &JobState| state.first_seen.filter(|at| *at <= now);
        if let Some(at) = seen(&self.load(job)?) {
            return Ok(at);
        }
        let _lock = match self.lock(&job.name) {
            Err(failure) if failure.class == FailureClass::Locked => return Ok(now),
            lock => lock?,
        };
        // Somebody may have run it meanwhile.
        let state = self.load(job)?;
        if let Some(at) = seen(&state) {
            return Ok(at);
        }
        let (source, target) = (job.dataset.to_string(), place(job));
        self.save(job, &JobState { source, target, first_seen: Some(now), ..state })?;
        Ok(now)
    }

    /// Replaces what is known. For whoever holds the lock.
    ///
    /// # Errors
    /// When it is not safely on disk; then the old state is.
    pub fn save(&self, job: &Job, state: &JobState) -> Result<(), Failure> {
        self.make_dir()?;
        let path = self.path(&job.name, "json");
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            serde_json::to_writer(&mut file, state)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| self.failed("write", &path, &e))
    }
}

/// What the jobs of this host need of its datasets, by what their last runs saw.
#[derive(Debug)]
pub struct JobNeeds {
    jobs: BTreeMap<JobName, Job>,
    files: JobFiles,
    /// What was read, as long as the file is the same: a prune asks once for each dataset.
    read: Mutex<BTreeMap<JobName, (FileStamp, Arc<JobState>)>>,
}

/// Inode, length and time of change in nanoseconds: a state that was replaced has another.
type FileStamp = (u64, u64, i64, i64);

impl JobNeeds {
    /// Of these jobs.
    pub fn new(jobs: BTreeMap<JobName, Job>, files: JobFiles) -> JobNeeds {
        JobNeeds { jobs, files, read: Mutex::default() }
    }
}

impl JobNeeds {
    /// What is known of a job; `None` where that cannot be read.
    fn state(&self, job: &Job) -> Option<Arc<JobState>> {
        let stamp = fs::metadata(self.files.path(&job.name, "json"))
            .map(|m| (m.ino(), m.len(), m.ctime(), m.ctime_nsec()))
            .unwrap_or_default();
        let mut read = self.read.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, state)) = read.get(&job.name).filter(|(seen, _)| *seen == stamp) {
            return Some(Arc::clone(state));
        }
        let state = Arc::new(self.files.load(job).ok()?);
        read.insert(job.name.clone(), (stamp, Arc::clone(&state)));
        Some(state)
    }
}

impl Needs for JobNeeds {
    fn of(&self, dataset: &DatasetName, except: Option<&JobName>) -> Vec<Need> {
        let need = |job: &Job| {
            let by = format!("job {}", job.name);
            let Some(state) = self.state(job) else { return Some(Need { by, has: None }) };
            let lag = state.lags.iter().find(|lag| lag.source == *dataset);
            // What it left out when it looked last, as by a property. What it has not seen yet it may want.
            let below = dataset.relative_to(&job.dataset).unwrap_or_default();
            let covers = |pattern: &String| pattern.parse::<ExcludePattern>().is_ok_and(|p| p.excludes(below));
            if lag.is_none() && !below.is_empty() && state.left_out.iter().any(covers) {
                return None;
            }
            Some(Need { by, has: lag.and_then(|lag| lag.common.as_ref()).map(|common| common.guid) })
        };
        self.jobs.values().filter(|job| except != Some(&job.name) && job.sends(dataset)).filter_map(need).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, jobs::Remote};

    fn job() -> Job {
        let text = "[job.db]\ndirection = \"push\"\ndataset = \"t/db\"\npeer = \"b\"\ntarget = \"t/x\"\ncron = \"0 3 * * *\"\n";
        Config::parse(text, "z").unwrap().jobs.into_values().next().unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_state_of_an_older_release_is_read() {
        let (dir, job) = (tempfile::tempdir().unwrap(), job());
        let files = JobFiles::new(dir.path());
        files.make_dir().unwrap();
        let text = r#"{"source":"t/db","target":"b t/x","last":null,"last_good":null,"looked":null,"lags":[],"runs":7,"failed_runs":1,"wire_bytes":5}"#;
        fs::write(files.path(&job.name, "json"), text).unwrap();
        let state = files.load(&job).unwrap();
        assert_eq!((state.runs, state.first_seen, state.kept_for, state.renamed.len()), (7, None, None, 0));
        assert_eq!(state.verified, Verified::default());
    }

    /// So a time that passed while the host was off is one that was missed, and a new job waits for its first.
    #[test]
    fn when_a_job_was_first_seen_outlives_the_daemon() {
        let (dir, job) = (tempfile::tempdir().unwrap(), job());
        let files = JobFiles::new(dir.path());
        let (seen, later) = (at("2026-11-25T22:00:00Z"), at("2026-11-26T07:00:00Z"));
        let due = |now: Timestamp| {
            let since = files.first_seen(&job, now).unwrap();
            job.schedule.is_due(files.load(&job).unwrap().last.map(|last| last.started), since, now, job.seed())
        };
        assert!(!due(seen));
        assert!(due(later), "the host was off at three");
        let state = files.load(&job).unwrap();
        assert!(state.first_seen == Some(seen) && state.is_of(&job) && state.last.is_none(), "{state:?}");
        // A clock that was ahead then says nothing.
        files.save(&job, &JobState { first_seen: Some(at("2036-01-01T00:00:00Z")), ..state }).unwrap();
        assert_eq!(files.first_seen(&job, later).unwrap(), later);
        assert_eq!(files.load(&job).unwrap().first_seen, Some(later));
        // While a run is at work only it writes; and one with another target is another job.
        let elsewhere = Remote { target: "t/y".parse().unwrap(), ..job.remote.clone().unwrap() };
        let other = Job { remote: Some(elsewhere), ..job.clone() };
        let lock = files.lock(&job.name).unwrap();
        assert_eq!(files.first_seen(&other, seen).unwrap(), seen);
        assert_eq!(files.load(&job).unwrap().first_seen, Some(later));
        drop(lock);
        files.first_seen(&other, seen).unwrap();
        assert_eq!(files.load(&other).unwrap().first_seen, Some(seen));
    }

    /// A dataset without snapshots is in no lag: once it has some, all stay until it is seen that the target has one.
    #[test]
    fn what_no_lag_tells_of_is_needed_whole() {
        let (dir, job) = (tempfile::tempdir().unwrap(), job());
        let job = Job { recursive: true, ..job };
        let files = JobFiles::new(dir.path());
        let needs = JobNeeds::new([(job.name.clone(), job.clone())].into(), files.clone());
        let has =
            |name: &str| needs.of(&name.parse().unwrap(), None).into_iter().map(|need| need.has).collect::<Vec<_>>();
        assert_eq!(has("t/db/new"), [None]);
        let common = crate::jobs::lag::Common { tag: "s".parse().unwrap(), guid: Guid(7), taken_unix_s: 5 };
        let lag = Lag {
            source: "t/db".parse().unwrap(),
            target: "t/x".parse().unwrap(),
            common: Some(common),
            unsent_snapshots: None,
            unsent_bytes: None,
        };
        let (source, target) = (job.dataset.to_string(), place(&job));
        files.save(&job, &JobState { source, target, lags: vec![lag], ..JobState::default() }).unwrap();
        assert_eq!((has("t/db"), has("t/db/new")), (vec![Some(Guid(7))], vec![None]));
    }
}
