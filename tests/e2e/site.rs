//! Two hosts in one: a pool, an identity and a configuration each, and `zmigrated` on the second.
//!
//! ```text
//! east: zmigrate, pool zme-…-east ──(TLS on loopback, perhaps a proxy between)── west: zmigrated, pool zme-…-west
//! ```
//!
//! Invariant: whatever a trial does, its processes and pools are gone when its site is dropped.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    common::{create_pool, destroy_pool},
    process::{Done, Running, patience, send_signal, wait_for},
};

const POOL_BYTES: u64 = 256 << 20;

/// See the module.
pub struct Site {
    pub dir: PathBuf,
    /// The pool of the host where `zmigrate` runs.
    pub east: String,
    /// The pool of the host where `zmigrated` runs.
    pub west: String,
    /// Where `zmigrated` listens.
    pub port: u16,
    /// Lines for `[limits]` on both hosts. A small window, so that both `zfs` processes live as long as the transfer.
    pub limits: String,
    /// More of east's configuration, and of west's.
    pub more: String,
    pub west_more: String,
    /// More of the environment of west's daemon.
    pub daemon_environment: Vec<(String, String)>,
    daemon: Option<Child>,
    runs: AtomicU32,
}

/// The environment of a program whose clock is an hour ahead; only what it takes for the time of day is.
pub fn an_hour_ahead() -> Vec<(String, String)> {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    assert!(Path::new(library).exists(), "{library} is missing: scripts/setup installs it");
    [("LD_PRELOAD", library), ("FAKETIME", "+1h"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("NO_FAKE_STAT", "1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// One of the two programs.
pub fn program(name: &str) -> PathBuf {
    match (std::env::var_os("ZMIGRATE_BIN_DIR"), name) {
        (Some(dir), _) => Path::new(&dir).join(name),
        (None, "zmigrated") => env!("CARGO_BIN_EXE_zmigrated").into(),
        (None, _) => env!("CARGO_BIN_EXE_zmigrate").into(),
    }
}

/// Runs `zmigrate` to its end without a site.
#[track_caller]
pub fn zmigrate(args: &[&str]) -> Done {
    let out = Command::new(program("zmigrate")).args(args).env_remove("RUST_LOG").output().unwrap();
    Done {
        code: out.status.code(),
        stdout: String::from_utf8(out.stdout).unwrap(),
        stderr: String::from_utf8(out.stderr).unwrap(),
    }
}

/// Makes an authority in `dir/NAME`.
pub fn make_ca(dir: &Path, name: &str) -> PathBuf {
    let ca = dir.join(name);
    zmigrate(&["ca", "init", "--dir", &ca.to_string_lossy()]).must(0);
    ca
}

/// Issues a node's certificate into `out`.
pub fn issue(ca: &Path, name: &str, out: &Path) {
    zmigrate(&["ca", "issue", name, "--dir", &ca.to_string_lossy(), "--out", &out.to_string_lossy()]).must(0);
}

impl Site {
    /// Pools, authority, certificates; `east` may push into and pull from `WEST/in`. The daemon runs.
    pub fn new() -> Site {
        let mut site = Site::quiet();
        site.write_configs(&site.default_grant(), None);
        site.start_daemon();
        site
    }

    /// The same without a daemon and without configurations.
    pub fn quiet() -> Site {
        Site::with_pools(POOL_BYTES)
    }

    /// The same with pools of that size, on sparse files.
    pub fn with_pools(bytes: u64) -> Site {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("zme-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&id);
        fs::create_dir_all(&dir).unwrap();
        let site = Site {
            east: format!("{id}-east"),
            west: format!("{id}-west"),
            dir,
            port: 0,
            limits: "window_bytes = 4194304".into(),
            more: String::new(),
            west_more: String::new(),
            daemon_environment: Vec::new(),
            daemon: None,
            runs: AtomicU32::new(0),
        };
        for pool in [&site.east, &site.west] {
            create_pool(pool, &site.dir.join(pool), bytes).unwrap();
        }
        let ca = make_ca(&site.dir, "ca");
        for name in ["east", "west"] {
            issue(&ca, name, &site.dir.join(name));
        }
        site
    }

    pub fn default_grant(&self) -> String {
        format!("[grant.east]\npush = [\"{0}/in\"]\npull = [\"{0}/in\"]\n", self.west)
    }

    /// Writes both configurations: the grants of west, and the port at which east looks for it.
    pub fn write_configs(&self, grants: &str, peer_port: Option<u16>) {
        let host = |name: &str| {
            let dir = self.dir.display();
            format!(
                "state_dir = \"{dir}/{name}.state\"\nruntime_dir = \"{dir}/{name}.run\"\n[identity]\ndir = \"{dir}/{name}\"\n[limits]\n{}\n",
                self.limits
            )
        };
        let peer = peer_port.unwrap_or(self.port).max(1);
        let east = format!("{}{}[peer.west]\naddress = \"127.0.0.1:{peer}\"\n", host("east"), self.more);
        let west = format!("listen = \"127.0.0.1:{}\"\n{}{}{grants}", self.port, host("west"), self.west_more);
        fs::write(self.dir.join("east.toml"), east).unwrap();
        fs::write(self.dir.join("west.toml"), west).unwrap();
    }

    /// Lines of configuration for another `zfs`: a script of that name, which the real ones are behind. It begins with
    /// `#!/bin/bash`; `$DIR` is the site's directory.
    pub fn wrapped_zfs(&self, name: &str, script: &str) -> String {
        let at = self.dir.join(name);
        fs::create_dir_all(&at).unwrap();
        let script = format!("#!/bin/bash\nDIR={}\n{script}", self.dir.display());
        for (program, text) in [("zfs", script.as_str()), ("zpool", "#!/bin/bash\nexec zpool \"$@\"\n")] {
            let path = at.join(program);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        format!("[zfs]\ncommand = \"{}\"\n", at.join("zfs").display())
    }

    /// Starts `zmigrated`, and keeps its port for the next start.
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none());
        let log = self.dir.join("west.log");
        let before = self.log().len();
        let out = fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(program("zmigrated"))
            .args(["--config", &self.dir.join("west.toml").to_string_lossy()])
            .env("RUST_LOG", std::env::var("ZMIGRATE_TEST_LOG").unwrap_or("info".into()))
            .envs(self.daemon_environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        wait_for("zmigrated to be ready", 10, || self.log()[before..].contains(" is ready"));
        let log = self.log()[before..].to_owned();
        let (_, rest) = log.split_once("listening on 127.0.0.1:").unwrap();
        let port: u16 = rest.split(char::is_whitespace).next().unwrap().parse().unwrap();
        if self.port != port {
            self.port = port;
            for name in ["east.toml", "west.toml"] {
                let path = self.dir.join(name);
                let text = fs::read_to_string(&path).unwrap();
                let text = text.replace("address = \"127.0.0.1:1\"", &format!("address = \"127.0.0.1:{port}\""));
                fs::write(path, text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{port}\"")))
                    .unwrap();
            }
        }
    }

    /// A daemon on east as well. It is killed when dropped.
    pub fn start_daemon_here(&self, environment: &[(&str, &str)]) -> Running {
        let path = self.dir.join("east.toml");
        let text = fs::read_to_string(&path).unwrap();
        if !text.starts_with("listen") {
            fs::write(&path, format!("listen = \"127.0.0.1:0\"\n{text}")).unwrap();
        }
        let environment = [&[("RUST_LOG", "info")], environment].concat();
        let args = ["--config", &*path.to_string_lossy()];
        let running = Running::start(&program("zmigrated"), &args, &self.dir.join("daemon-here"), &environment);
        wait_for("zmigrated on east to be ready", 20, || running.stderr().contains(" is ready"));
        running
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    pub fn signal_daemon(&self, signal: rustix::process::Signal) {
        send_signal(self.daemon_pid(), signal);
    }

    /// Waits for the daemon to end by itself, as [`wait_for`] does; its exit code, `None` for a signal.
    pub fn reap_daemon(&mut self, within_s: u64) -> Option<i32> {
        let mut child = self.daemon.take().unwrap();
        let deadline = Instant::now() + patience(within_s);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("zmigrated did not end within {:?}:\n{}", patience(within_s), self.log());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// True while west's daemon has not ended.
    pub fn daemon_lives(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Forgets a daemon that has ended.
    pub fn bury_daemon(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// All that `zmigrated` has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("west.log")).unwrap_or_default()
    }

    /// Reloads the daemon and waits until it says that it is done.
    pub fn reload(&self) -> String {
        let before = self.log().len();
        self.signal_daemon(rustix::process::Signal::HUP);
        wait_for("the reload", 5, || {
            let log = self.log();
            let new = &log[before..];
            new.contains("certificates and revocations were read again") || new.contains("the identity does not load")
        });
        self.log()[before..].to_owned()
    }

    /// Revokes `name` and gives west the new list.
    pub fn revoke(&self, name: &str) {
        let ca = self.dir.join("ca");
        zmigrate(&["ca", "revoke", name, "--dir", &ca.to_string_lossy()]).must(0);
        fs::copy(ca.join("crl.pem"), self.dir.join("west/crl.pem")).unwrap();
    }

    /// Starts `zmigrate` on east.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_with(args, &[])
    }

    /// The same with more in its environment.
    pub fn start_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Running {
        let config = self.dir.join("east.toml");
        let config = config.to_string_lossy();
        let mut all = vec!["--config", &config];
        all.extend(args);
        let n = self.runs.fetch_add(1, Ordering::Relaxed);
        Running::start(&program("zmigrate"), &all, &self.dir.join(format!("run-{n}")), environment)
    }

    /// `zmigrate push EAST/from WEST/to options…`.
    pub fn push(&self, from: &str, to: &str, options: &[&str]) -> Done {
        self.start_push(from, to, options).wait(120)
    }

    pub fn start_push(&self, from: &str, to: &str, options: &[&str]) -> Running {
        let (from, to) = (format!("{}/{from}", self.east), format!("west:{}/{to}", self.west));
        self.start(&[&["push", &from, &to], options].concat())
    }

    /// `zmigrate pull WEST/from EAST/to options…`.
    pub fn pull(&self, from: &str, to: &str, options: &[&str]) -> Done {
        self.start_pull(from, to, options).wait(120)
    }

    pub fn start_pull(&self, from: &str, to: &str, options: &[&str]) -> Running {
        let (from, to) = (format!("west:{}/{from}", self.west), format!("{}/{to}", self.east));
        self.start(&[&["pull", &from, &to], options].concat())
    }

    /// A dataset of east.
    pub fn e(&self, name: &str) -> String {
        format!("{}/{name}", self.east)
    }

    /// A dataset of west.
    pub fn w(&self, name: &str) -> String {
        format!("{}/{name}", self.west)
    }

    /// Pool names, directory, GUIDs, sizes, times and process ids of a text are replaced, so that it can be pinned.
    pub fn filters(&self) -> Vec<(String, &'static str)> {
        [
            (self.dir.to_string_lossy().as_ref(), "[DIR]"),
            (&self.east, "EAST"),
            (&self.west, "WEST"),
            (r"zmigrate_\d{4}-\d\d-\d\dT[\d:.]+Z", "[NOW]"),
            (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "[TIME]"),
            (r"\d+(\.\d+)? ([KMG]iB|B)/s", "[RATE]"),
            (r"\d+(\.\d+)? ([KMG]iB|B)\b", "[SIZE]"),
            (r"in \d+\.\d s", "in [SECONDS]"),
            (r"\d+ % saved", "[N] % saved"),
            (r"GUID \d+", "GUID [GUID]"),
            (r#""(\w*guid)": \d+"#, r#""$1": "[GUID]""#),
            (r#""(\w*bytes)": \d+"#, r#""$1": "[BYTES]""#),
            (r#""seconds": [\d.e-]+"#, r#""seconds": "[SECONDS]""#),
            (r"127\.0\.0\.1:\d+", "[ADDRESS]"),
            (r"\(pid \d+\)", "(pid [PID])"),
        ]
        .map(|(pattern, with)| (pattern.to_owned(), with))
        .into()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("zmigrated said:\n{}", &log[log.len().saturating_sub(6000)..]);
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for pool in [&self.east, &self.west] {
            destroy_pool(pool);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
