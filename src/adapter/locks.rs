//! Locks on targets as `flock(2)` on files in the state directory, which outlives the daemon's service and belongs to it alone. The kernel drops them when a process dies.
//!
//! A lock on `tank/a/b` is an exclusive lock on the file of `tank/a/b` and shared ones on those of `tank` and `tank/a`,
//! so two runs meet if one's target is at, above or below the other's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::{FlockOperation, flock};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    port::locks::{LockError, LockGuard, Locks},
    types::DatasetName,
};

/// The longest name that becomes a file's as it is: with `.lock` behind it, the 255 bytes that a file's name may have.
const LONGEST: usize = 250;
/// Of a longer one, so much is kept before its hash, so that people know it.
const KEPT: usize = 200;

/// See the module.
#[derive(Debug)]
pub struct FileLocks {
    dir: PathBuf,
}

struct Guard {
    files: Vec<File>,
}

impl LockGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        // Closing them would do, but for a process that is just being started and still has them open, until it runs its program.
        for file in &self.files {
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

impl FileLocks {
    /// Locks in `state_dir/locks`, which is made when first needed, for its owner alone.
    pub fn new(state_dir: &Path) -> FileLocks {
        FileLocks { dir: state_dir.join("locks") }
    }

    fn path(&self, dataset: &DatasetName) -> PathBuf {
        // `!` and `~` are no characters of a dataset's name, so no two datasets share a file.
        let name = dataset.as_str().replace('/', "!");
        self.dir.join(match name.get(..KEPT) {
            Some(begin) if name.len() > LONGEST => format!("{begin}~{:032x}.lock", xxh3_128(name.as_bytes())),
            _ => format!("{name}.lock"),
        })
    }

    /// Says who holds `target` or something below it, from what holders wrote into their files.
    fn holder(&self, target: &DatasetName) -> String {
        let prefix = format!("{}!", target.as_str().replace('/', "!"));
        let own = self.path(target);
        let below = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
        });
        std::iter::once(own)
            .chain(below)
            .filter(|path| File::open(path).is_ok_and(|f| flock(&f, FlockOperation::NonBlockingLockShared).is_err()))
            .find_map(|path| {
                let mut text = String::new();
                File::open(path).ok()?.take(1024).read_to_string(&mut text).ok()?;
                Some(text.trim().to_owned()).filter(|text| !text.is_empty())
            })
            .unwrap_or_else(|| "another run".to_owned())
    }
}

impl Locks for FileLocks {
    fn acquire(&self, target: &DatasetName, holder: &str) -> Result<Box<dyn LockGuard>, LockError> {
        let failed = |why: String| LockError::Failed { target: target.clone(), why };
        let mut dir = DirBuilder::new();
        dir.recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|e| failed(format!("cannot make {}: {e}", self.dir.display())))?;
        let mut files = Vec::new();
        let wanted = target
            .ancestors()
            .into_iter()
            .map(|above| (above, FlockOperation::NonBlockingLockShared))
            .chain([(target.clone(), FlockOperation::NonBlockingLockExclusive)]);
        for (dataset, operation) in wanted {
            let path = self.path(&dataset);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|e| failed(format!("cannot open {}: {e}", path.display())))?;
            match flock(&file, operation) {
                Ok(()) if is_at(&file, &path) => files.push(file),
                // Somebody removed the file in between: whoever comes next would lock another.
                Ok(()) => return Err(failed(format!("{} was removed while it was locked", path.display()))),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LockError::Held { target: target.clone(), by: self.holder(&dataset) });
                }
                Err(e) => return Err(failed(format!("cannot lock {}: {e}", path.display()))),
            }
        }
        if let Some(own) = files.last_mut() {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
            // For people alone: a lock without these words is a lock all the same.
            let _ = own
                .set_len(0)
                .and_then(|()| own.rewind())
                .and_then(|()| writeln!(own, "{holder}, since {}", utc(since)));
        }
        Ok(Box::new(Guard { files }))
    }
}

/// True if the open file is the one that the path names.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

fn utc(unix_s: u64) -> String {
    jiff::Timestamp::from_second(unix_s as i64).map_or_else(|_| format!("{unix_s}"), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MAX_NAME_BYTES;

    fn ds(name: &str) -> DatasetName {
        name.parse().unwrap()
    }

    #[test]
    fn the_longest_names_have_locks_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let locks = FileLocks::new(dir.path());
        let long = |last: char| ds(&format!("tank/{}{last}", "x".repeat(MAX_NAME_BYTES - 6)));
        let held = locks.acquire(&long('a'), "dc1 on db7").unwrap();
        match locks.acquire(&long('a'), "me") {
            Err(LockError::Held { by, .. }) => assert!(by.starts_with("dc1 on db7, since "), "{by}"),
            other => panic!("{:?}", other.err()),
        }
        assert!(locks.acquire(&ds("tank"), "me").is_err());
        let beside = locks.acquire(&long('b'), "me").unwrap();
        drop((held, beside));
        locks.acquire(&long('a'), "me").unwrap();
    }

    /// As earlier releases call them, for they may run beside this one.
    #[test]
    fn files_are_named_as_ever() {
        let locks = FileLocks::new(Path::new("/s"));
        assert_eq!(locks.path(&ds("tank/a")), Path::new("/s/locks/tank!a.lock"));
        let longest = format!("tank/{}", "x".repeat(LONGEST - 5));
        let file = format!("/s/locks/{}.lock", longest.replace('/', "!"));
        assert_eq!(locks.path(&ds(&longest)), Path::new(&file));
    }

    #[test]
    fn one_run_at_a_time_at_above_and_below() {
        let dir = tempfile::tempdir().unwrap();
        let locks = FileLocks::new(dir.path());
        let held = locks.acquire(&ds("tank/a"), "dc1 on db7").unwrap();
        for other in ["tank/a", "tank/a/b", "tank"] {
            match FileLocks::new(dir.path()).acquire(&ds(other), "me") {
                Err(LockError::Held { by, .. }) => assert!(by.starts_with("dc1 on db7, since "), "{other}: {by}"),
                Err(e) => panic!("{other}: {e}"),
                Ok(_) => panic!("{other} was locked twice"),
            }
        }
        let beside = [locks.acquire(&ds("tank/ab"), "me").unwrap(), locks.acquire(&ds("tank2"), "me").unwrap()];
        drop(held);
        assert!(locks.acquire(&ds("tank/a/b"), "me").is_ok());
        assert!(locks.acquire(&ds("tank"), "me").is_err());
        drop(beside);
        assert!(locks.acquire(&ds("tank"), "me").is_ok());
    }
}
