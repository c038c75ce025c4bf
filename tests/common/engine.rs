//! A Docker Engine of our own: no bridge, no rules of iptables. It ends, with all of its containers, when it is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::run;

pub struct Engine {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Engine {
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
            assert!(began.elapsed() < Duration::from_secs(60), "dockerd does not come up: {}", log());
            sleep(Duration::from_millis(200));
        }
        it
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
    }
}
