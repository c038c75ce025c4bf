use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::*;
use crate::port::busy::Hold;

/// A directory on a filesystem of its own, where the tests may mount one; else nobody can tell ours from others.
struct Site {
    at: tempfile::TempDir,
    children: Vec<Child>,
}

impl Site {
    /// None, aloud, where a tmpfs cannot be mounted.
    fn new() -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "zmigrate-test"]).arg(at.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("busy: a tmpfs cannot be mounted here, so this is not tested");
            return None;
        }
        Some(Self { at, children: Vec::new() })
    }

    fn path(&self) -> &Path {
        self.at.path()
    }

    fn shell(&mut self, script: &str) -> u32 {
        let mut command = Command::new("/bin/bash");
        command
            .args(["-c", script])
            .env("D", self.at.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        self.children.push(command.spawn().unwrap());
        self.children.last().unwrap().id()
    }

    fn look(&self) -> Holders {
        scan::holders(self.path(), Instant::now() + LOOK_WITHIN).unwrap()
    }

    /// Looks until that process is found to hold something that fits.
    fn find(&self, pid: u32, fits: impl Fn(&Hold) -> bool) -> Holder {
        for _ in 0..100 {
            let found = self.look();
            if let Some(holder) = found.processes.into_iter().find(|h| h.pid == pid && h.holds.iter().any(&fits)) {
                return holder;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("{pid} is not found: {:?}", self.look());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("umount").arg("-l").arg(self.at.path()).status();
    }
}

#[test]
fn a_mount_that_nobody_uses_is_held_by_nobody() {
    let Some(site) = Site::new() else { return };
    fs::write(site.path().join("file"), "x").unwrap();
    // Who clones the mounts meanwhile, as another test's zfs-fuse may, has them as well.
    let holders = site.look().processes;
    let holds = holders.iter().flat_map(|holder| &holder.holds);
    assert!(holds.clone().all(|hold| matches!(hold, Hold::Mount(_))), "{holders:?}");
}

#[test]
fn each_way_to_hold_a_mount_is_found_and_named() {
    let Some(mut site) = Site::new() else { return };
    let dir = site.path().to_owned();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::copy("/bin/sleep", dir.join("own-sleep")).unwrap();
    let cwd = site.shell("cd $D/sub; exec sleep 100");
    let open = site.shell("exec 7> $D/log; exec sleep 100");
    let runs = site.shell("exec $D/own-sleep 100");
    let gone = site.shell("exec 7> $D/tmp; rm $D/tmp; exec sleep 100");
    let told = site.find(cwd, |hold| matches!(hold, Hold::Cwd(_)));
    assert_eq!((told.command.as_str(), &told.holds), ("sleep", &vec![Hold::Cwd(dir.join("sub"))]));
    assert_eq!(told.to_string(), format!("sleep ({cwd}) works in {}", dir.join("sub").display()));
    assert_eq!(site.find(open, |hold| matches!(hold, Hold::Open(_))).holds, [Hold::Open(dir.join("log"))]);
    site.find(runs, |hold| *hold == Hold::Program(dir.join("own-sleep")));
    site.find(gone, |hold| matches!(hold, Hold::Open(path) if path.display().to_string().ends_with("tmp (deleted)")));
}

#[test]
fn a_mapped_file_whose_descriptor_is_closed_is_found() {
    let Some(mut site) = Site::new() else { return };
    // A library that the loader maps, and closes.
    let lib = fs::read_dir("/lib/x86_64-linux-gnu").into_iter().flatten().flatten().map(|e| e.path());
    let Some(lib) =
        lib.into_iter().find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libz.so.1")))
    else {
        eprintln!("busy: there is no library to map here");
        return;
    };
    let own = site.path().join("libown.so");
    fs::copy(lib, &own).unwrap();
    let pid = site.shell("LD_PRELOAD=$D/libown.so exec sleep 100");
    site.find(pid, |hold| *hold == Hold::Mapped(own.clone()));
}

#[test]
fn a_mount_in_another_namespace_is_found() {
    let Some(mut site) = Site::new() else { return };
    let dir = site.path().to_owned();
    let pid = site.shell("exec unshare -m --propagation private sleep 100");
    // Copied with the namespace: unmounting it here does not unmount it there.
    site.find(pid, |hold| *hold == Hold::Mount(dir.clone()));
}

#[test]
fn who_hangs_on_is_killed_and_who_was_not_meant_lives() {
    let Some(mut site) = Site::new() else { return };
    let polite = site.shell("cd $D; exec sleep 100");
    let stubborn = site.shell("trap '' TERM; cd $D; while :; do sleep 0.1; done");
    let polite = site.find(polite, |hold| matches!(hold, Hold::Cwd(_)));
    let stubborn = site.find(stubborn, |hold| matches!(hold, Hold::Cwd(_)));
    // An id that came to be another's since.
    let reused = Holder { started: polite.started + 1, ..polite.clone() };
    end(&[reused]).unwrap();
    assert!(scan::started(polite.pid).is_some_and(|(_, lives)| lives));
    let ourselves =
        Holder { pid: std::process::id(), started: scan::started(std::process::id()).unwrap().0, ..polite.clone() };
    let began = Instant::now();
    end(&[ourselves, polite.clone(), stubborn.clone()]).unwrap();
    assert!(began.elapsed() >= TERM_GRACE, "SIGTERM was given its time");
    for holder in [&polite, &stubborn] {
        assert!(!scan::started(holder.pid).is_some_and(|(_, lives)| lives), "{holder} lives");
    }
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let why = scan::holders(&PathBuf::from("/nonexistent/x"), Instant::now() + LOOK_WITHIN).unwrap_err();
    assert!(why.starts_with("/nonexistent/x: "), "{why}");
}
