//! A real ext4 on a loop device, frozen and thawed.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use zmigrate::{
    hook::HookKind,
    port::hook::{HookErrorKind, HookVerb},
};

use crate::{
    Case, call,
    common::{need, run},
};

pub fn look() -> Result<(), String> {
    need(&["fsfreeze", "mkfs.ext4", "losetup"])?;
    run("losetup", &["-f"]).map(drop)
}

pub fn cases() -> Vec<Case> {
    vec![("a_filesystem_is_frozen_and_thawed_also_twice", a_filesystem_is_frozen_and_thawed_also_twice)]
}

struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let it = Self { dir };
        let image = it.dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(it.mount()).unwrap();
        let (image, mount) = (image.display().to_string(), it.mount().display().to_string());
        run("mkfs.ext4", &["-q", &image]).unwrap();
        run("mount", &["-o", "loop", &image, &mount]).unwrap();
        it
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let mount = self.mount().display().to_string();
        let _ = run("fsfreeze", &["-u", &mount]);
        let _ = run("umount", &[&mount]);
    }
}

fn a_filesystem_is_frozen_and_thawed_also_twice() {
    let site = Site::new();
    let kind = HookKind::Fsfreeze { mountpoint: site.mount() };
    call(&kind, HookVerb::Prepare, 10).unwrap();
    call(&kind, HookVerb::Start, 10).unwrap();
    call(&kind, HookVerb::Stop, 10).unwrap();
    call(&kind, HookVerb::Stop, 10).unwrap();
    let file = site.mount().join("file");
    let mut writer = Command::new("touch").arg(&file).stdin(Stdio::null()).spawn().unwrap();
    sleep(Duration::from_millis(500));
    assert!(writer.try_wait().unwrap().is_none() && !file.exists(), "a frozen filesystem takes no writes");
    call(&kind, HookVerb::Start, 10).unwrap();
    assert!(writer.wait().unwrap().success() && file.exists());
    call(&kind, HookVerb::Start, 10).unwrap();
    let below = HookKind::Fsfreeze { mountpoint: site.mount().join("lost+found") };
    let error = call(&below, HookVerb::Prepare, 10).unwrap_err();
    assert!(error.kind == HookErrorKind::Missing && error.cause.contains("nothing is mounted at"), "{error}");
}
