//! What trials do with `zfs` itself, and what they compare: files one by one, snapshots by GUID, properties with sources.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::Duration,
};

use xxhash_rust::xxh3::xxh3_128;

use crate::{
    common::{noise, run},
    site::Site,
};

/// `zfs ARGS`, which must go well.
#[track_caller]
pub fn zfs(args: &[&str]) -> String {
    run("zfs", args).unwrap()
}

pub fn exists(name: &str) -> bool {
    run("zfs", &["list", "-H", "-o", "name", name]).is_ok()
}

/// A property and where its value comes from.
#[track_caller]
pub fn get(name: &str, property: &str) -> (String, String) {
    let line = zfs(&["get", "-Hp", "-o", "value,source", property, name]);
    let (value, source) = line.trim_end_matches('\n').split_once('\t').unwrap();
    (value.to_owned(), source.to_owned())
}

#[track_caller]
pub fn create(name: &str) {
    zfs(&["create", "-p", name]);
}

#[track_caller]
pub fn snapshot(dataset: &str, tag: &str) {
    zfs(&["snapshot", &format!("{dataset}@{tag}")]);
}

/// Destroys what may be busy for a moment.
pub fn destroy(name: &str) -> Result<(), String> {
    let mut result = Ok(());
    for i in 0..10 {
        sleep(Duration::from_millis(50 * i));
        result = run("zfs", &["destroy", name]).map(drop);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Snapshots of a dataset, oldest first, with their GUIDs. `zfs get`, because zfs-fuse's `list` knows no `-p` and cuts numbers to three digits.
#[track_caller]
pub fn snapshots(dataset: &str) -> Vec<(String, String)> {
    let all = zfs(&["get", "-Hp", "-r", "-o", "name,property,value", "guid,createtxg", dataset]);
    let mut found: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for line in all.lines() {
        let [name, property, value] = line.split('\t').collect::<Vec<_>>()[..] else { continue };
        let Some((owner, tag)) = name.split_once('@') else { continue };
        if owner != dataset {
            continue;
        }
        let (createtxg, guid) = found.entry(tag).or_default();
        match property {
            "guid" => *guid = value,
            _ => *createtxg = value.parse().unwrap(),
        }
    }
    let mut snapshots: Vec<_> = found.into_iter().collect();
    snapshots.sort_by_key(|(_, (createtxg, _))| *createtxg);
    snapshots.into_iter().map(|(tag, (_, guid))| (tag.to_owned(), guid.to_owned())).collect()
}

#[track_caller]
pub fn tags(dataset: &str) -> Vec<String> {
    snapshots(dataset).into_iter().map(|(tag, _)| tag).collect()
}

/// Everything about a pool's datasets but what changes by itself.
#[track_caller]
pub fn state(pool: &str) -> Vec<String> {
    let volatile = ["used", "available", "usedby", "compressratio", "userrefs"];
    let all = zfs(&["get", "-rHp", "-o", "name,property,value,source", "all", pool]);
    let keep = |line: &&str| {
        let property = line.split('\t').nth(1).unwrap_or_default();
        !volatile.iter().any(|v| property.starts_with(v))
    };
    let mut lines: Vec<String> = all.lines().filter(keep).map(str::to_owned).collect();
    let guids = zfs(&["get", "-rHp", "-o", "name,property,value", "guid,createtxg", pool]);
    lines.extend(guids.lines().map(str::to_owned));
    lines
}

/// Where a filesystem is mounted; mounts it if need be.
#[track_caller]
pub fn mounted(dataset: &str) -> PathBuf {
    if get(dataset, "mounted").0 != "yes" {
        zfs(&["mount", dataset]);
    }
    get(dataset, "mountpoint").0.into()
}

/// What there is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Directory { mode: u32, owner: (u32, u32) },
    File { mode: u32, owner: (u32, u32), len: u64, digest: u128, modified: (i64, i64) },
    Link { to: PathBuf },
}

pub type Files = BTreeMap<PathBuf, Entry>;

/// All below a directory.
pub fn read_files(root: &Path) -> Files {
    let mut files = Files::new();
    read_into(root, root, &mut files);
    files
}

fn read_into(root: &Path, dir: &Path, files: &mut Files) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let (mode, owner) = (found.mode() & 0o7777, (found.uid(), found.gid()));
        let what = if found.is_symlink() {
            Entry::Link { to: fs::read_link(&path).unwrap() }
        } else if found.is_dir() {
            read_into(root, &path, files);
            Entry::Directory { mode, owner }
        } else {
            let digest = xxh3_128(&fs::read(&path).unwrap());
            Entry::File { mode, owner, len: found.len(), digest, modified: (found.mtime(), found.mtime_nsec()) }
        };
        files.insert(path.strip_prefix(root).unwrap().to_owned(), what);
    }
}

/// Fills a filesystem with a bit of everything. `noise_bytes` of it do not compress.
#[track_caller]
pub fn populate(dataset: &str, seed: u64, noise_bytes: usize) {
    let at = mounted(dataset);
    let write = |name: &str, bytes: &[u8], mode: u32| {
        let path = at.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(&format!("noise-{seed}"), &noise(noise_bytes, seed), 0o600);
    write("text", "the same line again and again\n".repeat(20_000 + seed as usize).as_bytes(), 0o644);
    write("bin/run", b"#!/bin/sh\nexit 0\n", 0o755);
    write("bin/setuid", b"#!/bin/sh\nid\n", 0o4755);
    write("deep/er/still/übermäßig", &noise(3000, seed + 1), 0o640);
    write("empty", b"", 0o444);
    fs::set_permissions(at.join("deep/er"), fs::Permissions::from_mode(0o1777)).unwrap();
    rustix::fs::chown(at.join("empty"), Some(rustix::fs::Uid::from_raw(1234)), Some(rustix::fs::Gid::from_raw(99)))
        .unwrap();
    let holes = fs::File::create(at.join("holes")).unwrap();
    holes.set_len(3_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"in the middle", 1_234_567).unwrap();
    holes.sync_all().unwrap();
    if fs::symlink_metadata(at.join("link")).is_err() {
        symlink("deep/er/still/übermäßig", at.join("link")).unwrap();
        symlink("/nowhere at all", at.join("dangling")).unwrap();
    }
}

impl Site {
    /// The files of a snapshot, through a clone that is gone again afterwards.
    #[track_caller]
    pub fn files(&self, snapshot: &str) -> Files {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let pool = snapshot.split('/').next().unwrap();
        let (clone, at) = (format!("{pool}/read-{n}"), self.dir.join(format!("read-{n}")));
        let mountpoint = format!("mountpoint={}", at.display());
        zfs(&["clone", "-o", "readonly=on", "-o", &mountpoint, snapshot, &clone]);
        mounted(&clone);
        let files = read_files(&at);
        destroy(&clone).unwrap();
        files
    }

    /// Fails unless both have the same snapshots, by GUID and in order, with the same files.
    #[track_caller]
    pub fn assert_equal(&self, source: &str, target: &str) {
        let (here, there) = (snapshots(source), snapshots(target));
        assert!(!here.is_empty(), "{source} has no snapshots, so this proves nothing");
        assert_eq!(here, there, "snapshots of {source} and {target}");
        for (tag, _) in &here {
            self.assert_same_files(&format!("{source}@{tag}"), &format!("{target}@{tag}"));
        }
    }

    #[track_caller]
    pub fn assert_same_files(&self, one: &str, other: &str) {
        let (here, there) = (self.files(one), self.files(other));
        assert!(!here.is_empty(), "{one} has no files, so this proves nothing");
        let names = here.keys().chain(there.keys());
        let differ: Vec<_> = names.filter(|n| here.get(*n) != there.get(*n)).collect();
        let first = differ.first().map(|n| (here.get(*n), there.get(*n)));
        assert!(differ.is_empty(), "{one} and {other} differ in {differ:?}; the first: {first:?}");
    }

    /// A filesystem of east with files and a snapshot.
    #[track_caller]
    pub fn source(&self, name: &str, noise_bytes: usize) -> String {
        let dataset = self.e(name);
        create(&dataset);
        populate(&dataset, 1, noise_bytes);
        snapshot(&dataset, "s1");
        dataset
    }
}
