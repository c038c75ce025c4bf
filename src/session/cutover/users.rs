//! Who uses what is to be fenced: who keeps it from being unmounted, and who still has it mounted after that.
//!
//! Invariant: only a process that uses a mount or device is ever ended, never one that merely has the mount among others.

use std::path::PathBuf;

use super::fence::zfs_failed;
use crate::{
    port::busy::{Busy, Holder},
    types::{DatasetName, Failure, mounts::Mount},
};

/// Holders that are named: enough to know what has to be stopped.
const SHOWN_HOLDERS: usize = 5;

/// Where these datasets are mounted, as far as one can see into them: not where their `mountpoint` says, for there may be
/// something else, and whoever uses that is none of ours.
pub(super) fn places_of(datasets: &[&DatasetName], mounts: &[Mount]) -> Vec<PathBuf> {
    let is_one = |m: &Mount| datasets.iter().any(|name| m.is_of(name));
    let on_top = |m: &&Mount| mounts.iter().rfind(|other| other.at == m.at).is_some_and(is_one);
    mounts.iter().filter(|m| is_one(m)).filter(on_top).map(|m| m.at.clone()).collect()
}

/// Says who uses one of these places; with `kill_busy` ends those processes instead, and nothing is wrong any more.
pub(super) async fn in_use(
    busy: &dyn Busy,
    dataset: &DatasetName,
    places: &[PathBuf],
    kill_busy: bool,
) -> Result<(), Failure> {
    let mut processes = Vec::new();
    let mut mounts = Vec::new();
    for place in places.iter().filter(|p| p.is_absolute() && p.exists()) {
        match busy.holders(place).await {
            Ok(found) => {
                processes.extend(found.processes);
                mounts.extend(found.mounts);
            }
            Err(why) => tracing::warn!("cannot find out who uses {}: {why}", place.display()),
        }
    }
    processes.dedup();
    // On a host of systemd dozens of services have a copy of every mount, which keeps nothing busy.
    let (users, others): (Vec<Holder>, Vec<Holder>) = processes.into_iter().partition(Holder::uses);
    if kill_busy && !users.is_empty() {
        let who = shown(users.iter().map(ToString::to_string));
        tracing::warn!(%dataset, "ending what keeps it busy: {who}");
        return busy.end(&users).await.map_err(|why| zfs_failed(format!("{dataset} is in use: {why}")));
    }
    let mounts = mounts.iter().map(|m| format!("mounted at {}", m.display()));
    let who = shown(users.iter().map(ToString::to_string).chain(mounts).chain(others.iter().map(ToString::to_string)));
    let who = if who.is_empty() { "nobody who can be seen".to_owned() } else { who };
    Err(zfs_failed(format!("{dataset} is in use by {who}"))
        .hint("stop that by a hook or by hand, or give --kill-busy, which ends the processes that use it"))
}

/// Whether none of these filesystems is mounted anywhere any more. A mount namespace that does not take part in the host's
/// unmounts, such as a container's, keeps its mount, and what is mapped there still reaches the disk.
///
/// # Errors
/// Names who has one of them.
pub(super) async fn must_have_left(busy: &dyn Busy, filesystems: &[DatasetName]) -> Result<(), Failure> {
    let left = busy.mounted(filesystems).await.map_err(zfs_failed)?;
    let here = left.mounts.iter().map(|m| format!("it is mounted at {}", m.display()));
    let who = shown(here.chain(left.processes.iter().map(ToString::to_string)));
    if who.is_empty() {
        return Ok(());
    }
    let what = match filesystems {
        [one] => one.to_string(),
        _ => "a filesystem of the unit".to_owned(),
    };
    Err(zfs_failed(format!("{what} was unmounted, and is still mounted elsewhere: {who}")).hint(
        "stop that by a hook; a container that has the mount with the propagation `rslave` loses it with the host",
    ))
}

fn shown(all: impl Iterator<Item = String>) -> String {
    all.take(SHOWN_HOLDERS).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::{
        port::busy::{Hold, Holders},
        types::mounts,
    };

    /// These hold whatever is asked about; the second are who was ended.
    struct Host(Vec<Holder>, Mutex<Vec<Holder>>);

    #[async_trait]
    impl Busy for Host {
        async fn holders(&self, _: &std::path::Path) -> Result<Holders, String> {
            Ok(Holders { processes: self.0.clone(), ..Holders::default() })
        }

        async fn mounted(&self, _: &[DatasetName]) -> Result<Holders, String> {
            Ok(Holders::default())
        }

        async fn end(&self, holders: &[Holder]) -> Result<(), String> {
            self.1.lock().unwrap().extend_from_slice(holders);
            Ok(())
        }
    }

    fn holder(pid: u32, command: &str, hold: Hold) -> Holder {
        Holder { pid, started: 1, command: command.into(), holds: vec![hold] }
    }

    #[tokio::test]
    async fn who_merely_has_a_copy_of_the_mount_is_named_and_never_ended() {
        let db = "tank/db".parse().unwrap();
        let logind = holder(600, "systemd-logind", Hold::Mount("/srv/db".into()));
        let shell = holder(900, "bash", Hold::Cwd("/srv/db".into()));
        let host = Host(vec![logind.clone(), shell.clone()], Mutex::default());
        let places = [PathBuf::from("/")];
        in_use(&host, &db, &places, true).await.unwrap();
        assert_eq!(*host.1.lock().unwrap(), [shell]);
        let why = in_use(&host, &db, &places, false).await.unwrap_err().to_string();
        assert!(why.contains("by bash (900) works in /srv/db; systemd-logind (600) has mounted"), "{why}");
        let host = Host(vec![logind], Mutex::default());
        let why = in_use(&host, &db, &places, true).await.unwrap_err().to_string();
        assert!(why.contains("systemd-logind (600)") && host.1.lock().unwrap().is_empty(), "{why}");
    }

    /// Whoever is found there may be killed.
    #[test]
    fn only_what_is_mounted_is_looked_into() {
        let line = |at: &str, source: &str| format!("36 35 98:0 / {at} rw - zfs {source} rw\n");
        let text = line("/", "/dev/vda1")
            + &line("/srv/db", "tank/db")
            + &line("/srv/hidden", "tank/db")
            + &line("/srv/hidden", "tmpfs")
            + &line("/srv/other", "tank/dbx");
        let mounts = mounts::parse(text.as_bytes());
        let (db, new): (DatasetName, DatasetName) = ("tank/db".parse().unwrap(), "tank/new".parse().unwrap());
        assert_eq!(places_of(&[&db, &new], &mounts), [PathBuf::from("/srv/db")]);
        assert!(places_of(&[&new], &mounts).is_empty());
    }
}
