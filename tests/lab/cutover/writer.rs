//! A program that writes all the time, and the hook by which both guests stop and start it.

use std::{
    collections::HashSet,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    guest::{Guest, Said},
    world::{DIR, World},
};

/// What both daemons read, with more at its end, until this is dropped. They are shared, so one trial at a time changes it.
pub struct Declared<'a> {
    world: &'a World,
    _alone: MutexGuard<'static, ()>,
}

impl<'a> Declared<'a> {
    #[track_caller]
    pub fn new(world: &'a World, more: &str) -> Declared<'a> {
        static CHANGES: Mutex<()> = Mutex::new(());
        let alone = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let declared = Declared { world, _alone: alone };
        for guest in [world.one, world.two] {
            guest.sh(&format!(
                "cp {DIR}/zmigrate.toml {DIR}/before.toml; printf '%s' '{more}' >>{DIR}/zmigrate.toml; sync"
            ));
            let said = reload(guest);
            assert!(said.code == 0, "{}: {}{}", guest.name(), said.out, said.err);
        }
        declared
    }
}

impl Drop for Declared<'_> {
    fn drop(&mut self) {
        for guest in [self.world.one, self.world.two] {
            // A trial that failed may have left the guest off.
            let _ = guest.ask(&format!("mv {DIR}/before.toml {DIR}/zmigrate.toml"));
            let _ = reload(guest);
        }
    }
}

fn reload(guest: Guest) -> Said {
    guest.ask(&format!(
        "from=$(wc -l <{DIR}/zmigrated.log); kill -HUP $(cat {DIR}/zmigrated.pid); for i in $(seq 600); do \
         tail -n +$((from + 1)) {DIR}/zmigrated.log | grep -q 'were read again' && exit 0; sleep 0.1; done; exit 1"
    ))
}

/// Numbered records, each on disk before it is acknowledged outside of the dataset, on disk as well. Each names its writer's start, so that
/// who lost some of the last ones, and went on with their numbers, is found out.
const WRITER: &str = r#"#!/bin/bash
# writer.sh FILE
n=$(tail -n 1 "$1" 2>/dev/null || true)
n=${n%% *}
n=${n:-0} start=$HOSTNAME-$(date +%s%N)
trap 'exit 0' TERM
while :; do
  n=$((n + 1))
  echo "$n $start" >>"$1" && sync "$1" && echo "$n $start" >>DIR/acknowledged && sync DIR/acknowledged || exit 1
done
"#;
/// Hooks that find it by its name, too: numbers of processes begin anew with each boot. Of a volume it writes into the filesystem at
/// `DIR/disk`, which another hook mounts.
const WRITER_STOP: &str = r#"#!/bin/bash
p=$(cat DIR/writer.pid 2>/dev/null) || exit 0
lives() { [ "$(cat "/proc/$p/comm" 2>/dev/null)" = writer.sh ]; }
! lives || kill "$p"
while lives; do sleep 0.05; done
rm -f DIR/writer.pid
"#;
const WRITER_START: &str = r#"#!/bin/bash
p=$(cat DIR/writer.pid 2>/dev/null) && [ "$(cat "/proc/$p/comm" 2>/dev/null)" = writer.sh ] && exit 0
at=$(zfs get -H -o value mountpoint "${ZMIGRATE_DATASETS%% *}")
[ "$at" != - ] || at=DIR/disk
setsid DIR/writer.sh "$at/records" </dev/null >/dev/null 2>&1 &
echo $! >DIR/writer.pid
"#;

/// Prints the number of the newest record that was acknowledged, or nothing. A power cut may leave zeros where a line was not synced.
const NEWEST: &str = "tail -n 1 /root/zmlab/acknowledged 2>/dev/null | tr -d '\\0' | cut -d ' ' -f 1";

/// The writer that both guests' hook `writer` stops and starts.
pub struct Writer<'a> {
    world: &'a World,
    _declared: Declared<'a>,
}

impl<'a> Writer<'a> {
    #[track_caller]
    pub fn declare(world: &'a World) -> Writer<'a> {
        Writer::declare_with(world, "")
    }

    /// The same, and more of both configurations.
    #[track_caller]
    pub fn declare_with(world: &'a World, more: &str) -> Writer<'a> {
        let scratch = tempfile::tempdir().unwrap();
        let scripts = [("writer.sh", WRITER), ("writer-stop.sh", WRITER_STOP), ("writer-start.sh", WRITER_START)];
        let files = scripts.map(|(name, text)| {
            let path = scratch.path().join(name);
            fs::write(&path, text.replace("DIR", DIR)).unwrap();
            path.display().to_string()
        });
        for guest in [world.one, world.two] {
            guest.lab("cp", &files.each_ref().map(String::as_str));
            guest.sh(&format!("cd /root; chmod 755 writer*.sh; mv writer*.sh {DIR}/; sync"));
        }
        let hook = format!(
            "[hook.writer]\nstop = [\"{DIR}/writer-stop.sh\"]\nstart = [\"{DIR}/writer-start.sh\"]\ntimeout_s = 60\n{more}"
        );
        Writer { world, _declared: Declared::new(world, &hook) }
    }

    /// A new dataset of the first guest, and a writer in it that has written some.
    #[track_caller]
    pub fn begin(&self, source: &str) {
        self.begin_in(source, &format!("zfs create {source}"));
    }

    /// The same in what this script makes and mounts.
    #[track_caller]
    pub fn begin_in(&self, source: &str, make: &str) {
        for guest in [self.world.one, self.world.two] {
            guest.sh(&format!("{DIR}/writer-stop.sh; rm -f {DIR}/acknowledged"));
        }
        self.world.one.sh(&format!("{make}; ZMIGRATE_DATASETS={source} {DIR}/writer-start.sh"));
        self.writes(self.world.one);
    }

    /// The newest record that a guest has acknowledged.
    #[track_caller]
    fn acknowledged(&self, guest: Guest) -> u64 {
        let last = guest.sh(NEWEST);
        if last.is_empty() { 0 } else { last.parse().unwrap() }
    }

    /// Waits until more is acknowledged there.
    #[track_caller]
    pub fn writes(&self, guest: Guest) {
        let from = self.acknowledged(guest);
        let more = format!("[ \"$({NEWEST})\" -ge {} ]", from + 5);
        guest.until(Duration::from_secs(60), &more);
    }

    /// Ends it; each acknowledged record must be in what serves, once, and in its order.
    #[track_caller]
    pub fn must_have_it_all(&self, what: &str, serving: Guest, dataset: &str) {
        self.must_have_it_all_at(what, serving, &format!("/{dataset}"));
    }

    /// The same, where what serves is mounted at that place.
    #[track_caller]
    pub fn must_have_it_all_at(&self, what: &str, serving: Guest, at: &str) {
        self.writes(serving);
        for guest in [self.world.one, self.world.two] {
            guest.sh(&format!("{DIR}/writer-stop.sh"));
        }
        let records = serving.sh(&format!("cat {at}/records"));
        for (n, line) in (1..).zip(records.lines()) {
            assert_eq!(line.split(' ').next(), Some(&*n.to_string()), "{what}: line {n} is {line:?}");
        }
        let there: HashSet<&str> = records.lines().collect();
        for guest in [self.world.one, self.world.two] {
            let acknowledged = guest.sh(&format!("cat {DIR}/acknowledged 2>/dev/null | tr -d '\\0'"));
            let missing: Vec<&str> = acknowledged.lines().filter(|line| !there.contains(line)).collect();
            assert!(
                missing.is_empty(),
                "{what}: {} records that {} acknowledged are not there, such as {:?}",
                missing.len(),
                guest.name(),
                missing[0]
            );
        }
    }
}
