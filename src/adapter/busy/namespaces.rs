//! The look into all mount namespaces: where filesystems are mounted, whoever sees it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use super::scan;
use crate::{
    port::busy::{Hold, Holder, Holders},
    types::{DatasetName, mounts},
};

/// Processes, and mounts of each, that are told of: one is enough to be wrong.
const MAX_TOLD: usize = 20;

/// What a process sees of mounts: its namespace, and its root, as what lies outside of that is not shown.
type View = (PathBuf, PathBuf);

pub fn mounted(filesystems: &[DatasetName], until: Instant) -> Result<Holders, String> {
    let here = mounts_of("self", filesystems).map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    let mut found = Holders { mounts: here, ..Holders::default() };
    let ours = fs::read_link("/proc/self/ns/mnt").map_err(|e| format!("/proc/self/ns/mnt: {e}"))?;
    let mut seen: BTreeSet<View> = BTreeSet::new();
    for entry in fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))? {
        if Instant::now() >= until {
            return Err("there is no time for more processes".to_owned());
        }
        if found.processes.len() >= MAX_TOLD {
            found.more = true;
            break;
        }
        let Some(pid) = entry.ok().and_then(|e| e.file_name().to_str()?.parse::<u32>().ok()) else { continue };
        // One that ended, or is none of ours to look into, tells nothing; another in its namespace may.
        let Some(view) = view_of(pid).filter(|view| view.0 != ours && !seen.contains(view)) else { continue };
        let Ok(places) = mounts_of(&pid.to_string(), filesystems) else { continue };
        seen.insert(view);
        let Some((started, _)) = scan::started(pid).filter(|_| !places.is_empty()) else { continue };
        let holds = places.into_iter().take(MAX_TOLD).map(Hold::Mount).collect();
        found.processes.push(Holder { pid, started, command: scan::command(pid), holds });
    }
    Ok(found)
}

fn view_of(pid: u32) -> Option<View> {
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
    Some((link("ns/mnt")?, link("root")?))
}

fn mounts_of(pid: &str, filesystems: &[DatasetName]) -> io::Result<Vec<PathBuf>> {
    let text = scan::read(Path::new(&format!("/proc/{pid}/mountinfo")))?;
    // Through one that is read-only, as monitoring has of all that is there, nothing is written.
    let wanted = |mount: &mounts::Mount| !mount.read_only && filesystems.iter().any(|name| mount.is_of(name));
    Ok(mounts::parse(&text).into_iter().filter(wanted).map(|mount| mount.at).collect())
}
