//! A Docker Engine of our own: no bridge, no rules of iptables, an image of one static busybox. It ends, with all of its containers and
//! mounts, when it is dropped.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{need, run};

pub struct Engine {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Engine {
    /// Whether there can be one with its image, and why not.
    pub fn look() -> Result<(), String> {
        need(&["dockerd", "docker", "busybox"])
    }

    /// Starts it, and waits until it answers.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let log = fs::File::create(at("log")).unwrap();
        let daemon = Command::new("dockerd")
            .args([
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
                "-p",
                &at("pid"),
                "-H",
                &format!("unix://{}", at("s")),
            ])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--storage-driver=vfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let it = Self { dir, daemon };
        let began = Instant::now();
        while it.docker(&["version"]).is_err() {
            let log = || fs::read_to_string(it.dir.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(300), "dockerd does not come up: {}", log());
            sleep(Duration::from_millis(200));
        }
        it
    }

    /// The same with the image `box`, of a static busybox that is `/bin/sh` as well.
    pub fn with_box() -> Self {
        let it = Self::new();
        let root = it.dir().join("root/bin");
        fs::create_dir_all(&root).unwrap();
        fs::copy(run("which", &["busybox"]).unwrap().trim(), root.join("busybox")).unwrap();
        symlink("busybox", root.join("sh")).unwrap();
        let at = |name: &str| it.dir().join(name).display().to_string();
        run("tar", &["-C", &at("root"), "-cf", &at("root.tar"), "."]).unwrap();
        it.docker(&["import", &at("root.tar"), "box"]).unwrap();
        it
    }

    /// Makes a container of `box` that will run this script, and does not start it.
    #[track_caller]
    pub fn create(&self, name: &str, options: &[&str], script: &str) {
        let args =
            [&["create", "--name", name, "--network", "none"], options, &["box", "/bin/sh", "-c", script]].concat();
        self.docker(&args).unwrap();
    }

    /// What Docker says of a container: `created`, `running`, `exited`.
    #[track_caller]
    pub fn status(&self, name: &str) -> String {
        self.docker(&["inspect", "-f", "{{.State.Status}}", name]).unwrap().trim().to_owned()
    }

    /// A directory that is gone with the engine.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Runs `docker`, for what it prints.
    pub fn docker(&self, args: &[&str]) -> Result<String, String> {
        run("docker", &[&["-H", &format!("unix://{}", self.socket().display())], args].concat())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Ok(all) = self.docker(&["ps", "-aq"]) {
            for id in all.split_whitespace() {
                let _ = self.docker(&["rm", "-f", id]);
            }
        }
        // dockerd ends its containerd on SIGTERM.
        let _ = run("kill", &[&self.daemon.id().to_string()]);
        let _ = self.daemon.wait();
        // What it left mounted would keep the directory. The newest first: it may lie in an older one.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for at in places.into_iter().rev().filter(|at| Path::new(at).starts_with(self.dir())) {
            let _ = run("umount", &[at]);
        }
    }
}
