//! What test programs share that work on a real ZFS: which one is here, commands around it, scratch pools, noise; a Docker Engine.

#![allow(dead_code, reason = "each test program uses its own part of it")]

pub mod engine;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant},
};

/// Pools that are still there, with the directory of each.
static POOLS: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());

/// Whether the `n`th trial is of this process: `ZMIGRATE_PART=2/3` runs every third, from the second on. Trials of one kind,
/// which take about as long, are next to each other.
pub fn is_of_this_part(n: usize) -> bool {
    let Ok(part) = std::env::var("ZMIGRATE_PART") else { return true };
    let numbers = part.split_once('/').and_then(|(k, of)| Some((k.parse().ok()?, of.parse().ok()?)));
    let (k, of): (usize, usize) = numbers.filter(|(k, of)| (1..=*of).contains(k)).expect("ZMIGRATE_PART is K/N");
    n % of == k - 1
}

/// Says when it is dropped how long a trial took, passed or failed; `scripts/test` shows the slowest.
pub struct Timed {
    name: String,
    since: Instant,
}

impl Timed {
    pub fn new(name: impl ToString) -> Timed {
        Timed { name: name.to_string(), since: Instant::now() }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        eprintln!("time: {:.1} s {}", self.since.elapsed().as_secs_f64(), self.name);
    }
}

/// Runs a program to its end; its stdout, or what it said on stderr.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    // By its path: with a PATH of the child's own the standard library would fork this whole process for each command.
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|dir| Path::new(dir).join(program));
    let found = places.into_iter().find(|path| path.is_file()).unwrap_or_else(|| program.into());
    let mut command = Command::new(found);
    command.args(args).env("LC_ALL", "C").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let out = command.output().map_err(|e| format!("cannot run {program}: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(format!("{program} {}: {}: {}", args.join(" "), out.status, said.trim()))
}

/// Whether these programs are there, and we are root; what is missing, if not.
pub fn need(programs: &[&str]) -> Result<(), String> {
    for program in programs {
        run("which", &[program]).map_err(|_| format!("there is no {program}"))?;
    }
    if run("id", &["-u"])?.trim() == "0" { Ok(()) } else { Err("it needs root".to_owned()) }
}

/// Whether the kernel's ZFS, or zfs-fuse, answers here; why not, if it does not.
pub fn look(kernel: bool) -> Result<(), String> {
    if kernel {
        if !Path::new("/dev/zfs").exists() {
            return Err("the kernel's ZFS is not loaded (no /dev/zfs)".into());
        }
        return run("zpool", &["list", "-H"]).map(drop);
    }
    if Path::new("/dev/zfs").exists() {
        return Err("the kernel's ZFS is loaded, so zfs and zpool are not zfs-fuse's".into());
    }
    run("zpool", &["list", "-H"]).map_err(|why| format!("no zfs-fuse daemon answers: {why}"))?;
    match run("zfs", &["version"]) {
        Err(why) if why.contains("unrecognized command") => Ok(()),
        other => Err(format!("zfs is not zfs-fuse's: {other:?}")),
    }
}

/// Makes a pool on a sparse file `dir/vdev`, mounted at `dir/mnt`. It stays until [`destroy_pool`] or [`destroy_pools`].
pub fn create_pool(pool: &str, dir: &Path, bytes: u64) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let file = dir.join("vdev");
    let made = fs::File::create(&file).and_then(|f| f.set_len(bytes));
    made.map_err(|e| format!("{}: {e}", file.display()))?;
    let mount = dir.join("mnt");
    let (mount, file) = (mount.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    if let Ok(mut pools) = POOLS.lock() {
        pools.push((pool.to_owned(), dir.to_owned()));
    }
    run("zpool", &["create", "-m", &mount, pool, &file]).map(drop)
}

/// Destroys a pool of [`create_pool`] and its directory.
pub fn destroy_pool(pool: &str) {
    let taken = POOLS.lock().ok().and_then(|mut pools| {
        let at = pools.iter().position(|(name, _)| name == pool)?;
        Some(pools.remove(at))
    });
    if let Some((pool, dir)) = taken {
        destroy(&pool, &dir);
    }
}

/// Destroys every pool that is left.
pub fn destroy_pools() {
    for (pool, dir) in POOLS.lock().map(|mut p| std::mem::take(&mut *p)).unwrap_or_default() {
        destroy(&pool, &dir);
    }
}

fn destroy(pool: &str, dir: &Path) {
    // zfs-fuse is busy for a moment after a release.
    let gone = (0..20).any(|i| {
        sleep(Duration::from_millis(100 * i));
        let _ = run("zpool", &["destroy", "-f", pool]);
        run("zpool", &["list", "-H", pool]).is_err()
    });
    if gone {
        let _ = fs::remove_dir_all(dir);
    } else {
        eprintln!("pool {pool} could not be destroyed");
    }
}

/// Bytes that do not compress, from a seed (SplitMix64).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let word = std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    });
    word.flatten().take(len).collect()
}
