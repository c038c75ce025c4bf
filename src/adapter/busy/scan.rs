//! The look at all processes: files are told by the device numbers that `statx` gives without asking their filesystem.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, StatxFlags, statx},
    io::Errno,
};

use crate::{
    port::busy::{Hold, Holder, Holders},
    types::mounts,
};

/// Processes that are told of.
const MAX_HOLDERS: usize = 100;
/// Ways to hold that are told of one process.
const MAX_HOLDS: usize = 8;
/// Bytes read of one process's maps or mounts: some 40,000 mappings.
const MAX_TEXT: u64 = 4 << 20;

/// A device's major and minor number.
type Device = (u32, u32);

/// What is looked for.
struct Wanted {
    /// Files on these filesystems.
    files_on: BTreeSet<Device>,
    /// These block devices themselves.
    devices: BTreeSet<Device>,
}

/// What a link in `/proc` leads to.
struct Seen {
    on: Device,
    /// The device that it is.
    device: Option<Device>,
}

pub fn holders(path: &Path, until: Instant) -> Result<Holders, String> {
    let error = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let seen = look(path).map_err(|e| error(&e))?;
    let wanted = match seen.device {
        Some(device) => {
            let devices = with_partitions(device);
            Wanted { files_on: devices.clone(), devices }
        }
        None => Wanted { files_on: BTreeSet::from([seen.on]), devices: BTreeSet::new() },
    };
    let mut found = Holders::default();
    let own_namespace = fs::read_link("/proc/self/ns/mnt").ok();
    if seen.device.is_some() {
        found.mounts = mounts_of("self", &wanted).unwrap_or_default();
    }
    // One process stands for all that share a mount namespace.
    let mut namespaces = BTreeSet::from_iter(own_namespace);
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))? {
        if Instant::now() >= until || all.len() > MAX_HOLDERS {
            found.more = true;
            break;
        }
        let Some(pid) = entry.ok().and_then(|e| e.file_name().to_str()?.parse::<u32>().ok()) else { continue };
        // One that ends while it is looked at holds nothing any more.
        let Some((started, true)) = started(pid) else { continue };
        match holds_of(pid, &wanted, &mut namespaces) {
            Ok(holds) if holds.is_empty() => {}
            Ok(holds) => {
                all.insert(pid, Holder { pid, started, command: command(pid), holds });
            }
            Err(()) => found.hidden += 1,
        }
    }
    found.more |= all.len() > MAX_HOLDERS;
    found.processes = all.into_values().take(MAX_HOLDERS).collect();
    Ok(found)
}

/// When a process began, and whether it lives: a zombie holds nothing. See proc(5) for the fields of `stat`.
pub fn started(pid: u32) -> Option<(u64, bool)> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name may hold spaces and parentheses.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let started = fields.get(19)?.parse().ok()?;
    Some((started, !matches!(fields.first(), Some(&"Z" | &"X"))))
}

/// A process's name, for people.
pub fn command(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    crate::types::printable(String::from_utf8_lossy(&command).trim_end())
}

/// # Errors
/// When we may not look into it.
fn holds_of(pid: u32, wanted: &Wanted, namespaces: &mut BTreeSet<PathBuf>) -> Result<Vec<Hold>, ()> {
    let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let mut holds = Vec::new();
    for name in ["cwd", "root", "exe"] {
        let link = at(name);
        match look(&link) {
            Ok(seen) if wanted.has(&seen) => holds.push(match name {
                "cwd" => Hold::Cwd(target(&link)),
                "root" => Hold::Root(target(&link)),
                _ => Hold::Program(target(&link)),
            }),
            Err(Errno::ACCESS | Errno::PERM) => return Err(()),
            // A kernel thread has no program.
            Ok(_) | Err(_) => {}
        }
    }
    if let Ok(entries) = fs::read_dir(at("fd")) {
        let links = entries.flatten().map(|entry| entry.path());
        let ours = links.filter(|link| look(link).is_ok_and(|seen| wanted.has(&seen)));
        let room = MAX_HOLDS.saturating_sub(holds.len());
        holds.extend(ours.take(room).map(|link| Hold::Open(target(&link))));
    }
    if holds.is_empty()
        && let Ok(text) = read(&at("maps"))
        && let Some(path) = text.split(|b| *b == b'\n').find_map(|line| mapped(line, wanted))
    {
        holds.push(Hold::Mapped(path));
    }
    if let Ok(namespace) = fs::read_link(at("ns/mnt"))
        && namespaces.insert(namespace)
    {
        let mounts = mounts_of(&pid.to_string(), wanted).unwrap_or_default();
        holds.extend(mounts.into_iter().take(MAX_HOLDS).map(Hold::Mount));
    }
    Ok(holds)
}

impl Wanted {
    fn has(&self, seen: &Seen) -> bool {
        match seen.device {
            Some(device) if self.devices.contains(&device) => true,
            _ => self.files_on.contains(&seen.on),
        }
    }
}

/// What is known of a file without asking its filesystem, which may be remote and hang.
fn look(path: &Path) -> Result<Seen, Errno> {
    let seen = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
    let block = FileType::from_raw_mode(u32::from(seen.stx_mode)) == FileType::BlockDevice;
    let device = block.then_some((seen.stx_rdev_major, seen.stx_rdev_minor));
    Ok(Seen { on: (seen.stx_dev_major, seen.stx_dev_minor), device })
}

fn target(link: &Path) -> PathBuf {
    fs::read_link(link).unwrap_or_else(|_| link.to_owned())
}

pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, MAX_TEXT), &mut text)?;
    Ok(text)
}

fn mounts_of(pid: &str, wanted: &Wanted) -> io::Result<Vec<PathBuf>> {
    let text = read(Path::new(&format!("/proc/{pid}/mountinfo")))?;
    let on = |mount: &mounts::Mount| wanted.files_on.contains(&mount.device);
    Ok(mounts::parse(&text).into_iter().filter(on).map(|mount| mount.at).collect())
}

/// The path of a mapping, as in `7f..-7f.. r-xp 00001000 fd:01 1234   /usr/bin/x`, if it is on what is looked for.
fn mapped(line: &[u8], wanted: &Wanted) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let line = line.to_vec();
    let text = String::from_utf8_lossy(&line);
    let device = text.split(' ').nth(3)?;
    let (major, minor) = device.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let from = line.iter().position(|b| *b == b'/')?;
    wanted.files_on.contains(&device).then(|| std::ffi::OsString::from_vec(line[from..].to_vec()).into())
}

/// A disk, and its partitions, each of which has a device of its own.
fn with_partitions(device: Device) -> BTreeSet<Device> {
    let dir = format!("/sys/dev/block/{}:{}", device.0, device.1);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let parse = |text: String| {
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let partitions = entries
        .filter(|entry| entry.path().join("partition").exists())
        .filter_map(|entry| parse(fs::read_to_string(entry.path().join("dev")).ok()?));
    partitions.chain([device]).collect()
}
