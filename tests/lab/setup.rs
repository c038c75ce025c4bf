//! Looks for the guests, and makes in them what the trials need: pools, programs, identities, daemons.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::{
    guest::{Guest, lab},
    world::{DIR, World},
};

/// Prints a digest of a snapshot's content, seen through a clone.
const DIGEST: &str = r#"#!/bin/bash
# digest SNAPSHOT: of names, kinds, modes, owners, times, xattrs and bytes; of a volume, of its bytes.
set -euo pipefail
clone=${1%%/*}/look-$$ at=/root/zmlab/look-$$
end() { for _ in 1 2 3 4 5 6 7 8 9; do zfs destroy "$clone" 2>/dev/null && break; sleep 0.3; done; rmdir "$at" 2>/dev/null || true; }
trap end EXIT
if [ "$(zfs get -H -o value type "${1%@*}")" = volume ]; then
  zfs clone -o volmode=dev -o readonly=on "$1" "$clone"
  # udev takes its time on a busy machine, and may take the device away once more for a moment.
  for _ in $(seq 600); do [ -b "/dev/zvol/$clone" ] && break; sleep 0.1; done
  sha256sum <"/dev/zvol/$clone" || { udevadm settle; sleep 2; sha256sum <"/dev/zvol/$clone"; }
else
  zfs clone -o canmount=noauto -o readonly=on -o mountpoint="$at" "$1" "$clone"
  zfs mount "$clone"
  (cd "$at" && python3 - <<'END'
import hashlib, os, stat
h = hashlib.sha256()
def take(path):
    s = os.lstat(path)
    h.update(repr((path, s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_nlink)).encode())
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        h.update(repr((name, os.getxattr(path, name, follow_symlinks=False))).encode())
    if stat.S_ISLNK(s.st_mode):
        h.update(os.readlink(path).encode())
    elif stat.S_ISREG(s.st_mode):
        with open(path, 'rb') as f:
            while chunk := f.read(1 << 20):
                h.update(chunk)
for above, below, files in os.walk('.'):
    below.sort()
    for name in ['.'] + sorted(files) + [b for b in below if os.path.islink(os.path.join(above, b))]:
        take(os.path.join(above, name))
print(h.hexdigest())
END
)
fi
"#;

/// Why there is no lab, if there is none.
pub fn absent() -> Result<(), String> {
    let status = lab(&["status"]);
    for guest in [Guest(1), Guest(2)] {
        if !status.out.contains(&format!("node {}: runs", guest.0)) {
            return Err(format!("guest {} is not up: scripts/lab up {}", guest.0, guest.0));
        }
        let said = guest.ask("zfs version");
        if said.code != 0 {
            return Err(format!("guest {} does not answer: {}", guest.0, said.err.trim()));
        }
    }
    Ok(())
}

fn program(guest: Guest, script: &str) -> Result<String, String> {
    let said = guest.ask(script);
    if said.code == 0 { Ok(said.out) } else { Err(format!("{}: {script}: {}", guest.name(), said.err)) }
}

/// Makes everything.
pub fn world() -> Result<World, String> {
    let world = World { one: Guest(1), two: Guest(2) };
    let binaries = [env!("CARGO_BIN_EXE_zmigrate"), env!("CARGO_BIN_EXE_zmigrated")];
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    let at = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    zmigrate(&["ca", "init", "--dir", &at("ca")])?;
    fs::write(at("digest"), DIGEST).map_err(|e| e.to_string())?;
    for guest in [world.one, world.two] {
        clean(guest)?;
        program(
            guest,
            &format!(
                "mkdir -p {DIR}/pki; zpool create -f -m /tank tank /dev/vdb1; zfs create tank/src; zfs create tank/dst"
            ),
        )?;
        guest.lab("install", &binaries);
        let name = guest.name();
        zmigrate(&["ca", "issue", &name, "--dir", &at("ca"), "--out", &at(&name)])?;
        let toml = scratch.path().join("zmigrate.toml");
        fs::write(&toml, config(guest)).map_err(|e| e.to_string())?;
        let mut files: Vec<String> =
            ["ca.pem", "node.pem", "node.key", "crl.pem"].map(|f| at(&format!("{name}/{f}"))).to_vec();
        files.extend([at("digest"), at("zmigrate.toml")]);
        guest.lab("cp", &files.iter().map(String::as_str).collect::<Vec<_>>());
        program(
            guest,
            &format!(
                "cd /root; mv ca.pem node.pem node.key crl.pem {DIR}/pki/; mv digest zmigrate.toml {DIR}/; chmod 600 {DIR}/pki/node.key; \
                 chmod 755 {DIR}/digest; head -c 32 /dev/urandom >{DIR}/key; sync"
            ),
        )?;
        world.start_daemon(guest);
    }
    Ok(world)
}

/// Sees that both guests are up with their pool and a daemon, after a trial that was alone and failed.
pub fn revive(world: &World) -> Result<(), String> {
    let dead = |guest: Guest, script: &str| guest.ask(script).code != 0;
    for guest in [world.one, world.two] {
        if dead(guest, "true") {
            let said = lab(&["boot", &guest.0.to_string()]);
            if said.code != 0 {
                return Err(format!("{} does not come up: {}", guest.name(), said.err));
            }
        }
        program(guest, &format!("rm -f {DIR}/pause; zpool list tank >/dev/null 2>&1 || zpool import -f tank"))?;
        if dead(guest, &format!("[ \"$(cat /proc/$(cat {DIR}/zmigrated.pid)/comm)\" = zmigrated ]")) {
            program(guest, "pkill -9 -x zmigrated || true")?;
            world.start_daemon(guest);
        }
    }
    Ok(())
}

/// The configuration of a guest's node. What each may do to the other is the same both ways. The window is small, so that
/// `zfs send` cannot run far ahead of a limited link and be over before a trial looks for it.
fn config(guest: Guest) -> String {
    let other = Guest(3 - guest.0);
    let (n, m, name) = (guest.0, other.0, other.name());
    format!(
        "listen = \"172.31.0.{n}:8551\"\nstate_dir = \"{DIR}/state\"\nruntime_dir = \"{DIR}/run\"\n\
         [identity]\ndir = \"{DIR}/pki\"\n\
         [peer.{name}]\naddress = \"172.31.0.{m}:8551\"\n\
         [peer.unprivileged]\naddress = \"172.31.0.{m}:8552\"\nidentity = \"{name}\"\n\
         [peer.package]\naddress = \"172.31.0.{m}:8553\"\nidentity = \"{name}\"\n\
         [grant.{name}]\npush = [\"tank/src\", \"tank/dst\", \"tight/in\"]\npull = [\"tank/src\", \"tank/dst\"]\n\
         cutover = [\"tank/src\", \"tank/dst\"]\n\
         [limits]\nidle_timeout_s = 10\nwindow_bytes = 4194304\n"
    )
}

fn zmigrate(args: &[&str]) -> Result<(), String> {
    let out = Command::new(Path::new(env!("CARGO_BIN_EXE_zmigrate"))).args(args).output().map_err(|e| e.to_string())?;
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

/// Removes all that the suite makes, also what a run that was killed left.
fn clean(guest: Guest) -> Result<(), String> {
    // First goes the systemd of a guest: what is mounted there keeps its pool busy.
    program(
        guest,
        &format!(
            "me=$(ps -o sid= -p $$); for p in $(pgrep -f '^bash -c set -eu; export LC_ALL=C; '); do \
             if [ \"$(ps -o sid= -p $p)\" != \"$me\" ]; then kill -9 $p || true; fi; done; \
             for f in {DIR}/*.pid; do if grep -qs ^zmigrate /proc/$(cat $f 2>/dev/null)/comm; then kill -9 $(cat $f) || true; fi; done; \
             {}; for i in $(seq 600); do pgrep -x zfs >/dev/null || break; sleep 0.1; done; \
             zpool list tank >/dev/null 2>&1 || zpool import -f tank >/dev/null 2>&1 || true; \
             for i in $(seq 100); do mountpoint -q {DIR}/disk || break; pkill -9 -x writer.sh || true; umount {DIR}/disk || sleep 0.1; done; \
             if zpool list tank >/dev/null 2>&1; then zpool destroy -f tank; fi; \
             if zpool list tight >/dev/null 2>&1; then zpool destroy -f tight; fi; \
             if id zmlab >/dev/null 2>&1; then userdel zmlab; fi; \
             rm -rf {DIR} /tmp/zmlab /usr/local/bin/zmigrate /usr/local/bin/zmigrated",
            crate::package::REMOVE
        ),
    )
    .map(drop)
}

/// Removes it again.
pub fn remove(world: &World) {
    for guest in [world.one, world.two] {
        // A guest that a trial left off is nothing to clean.
        if guest.ask("true").code != 0 {
            eprintln!("lab: guest {} does not answer; what was made in it stays", guest.0);
            continue;
        }
        let mut tries = 0;
        while let Err(why) = clean(guest) {
            tries += 1;
            if tries == 5 {
                eprintln!("lab: guest {} is not clean: {why}", guest.0);
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
