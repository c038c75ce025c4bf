//! The hosts of a fleet, its jobs, and the program that writes to their source.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use serde_json::Value;

use crate::{
    blows::Dice,
    common::{create_pool, destroy_pool, noise},
    process::{Running, wait_for},
    proxy::Proxy,
    site::{Site, issue, program},
    zfs::mounted,
};

/// See the drawing in the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Near,
    Far,
    Chain,
}

impl Job {
    pub const ALL: [Job; 3] = [Job::Near, Job::Far, Job::Chain];

    fn name(self) -> &'static str {
        ["near", "far", "chain"][self as usize]
    }

    /// Where it runs.
    fn host(self) -> &'static str {
        ["east", "east", "west"][self as usize]
    }

    /// What may prune for it: on its own host and at its peer, as they stand in [`HOSTS`].
    fn pruners(self) -> &'static [usize] {
        match self {
            Job::Near => &[0, 1],
            Job::Far | Job::Chain => &[2],
        }
    }
}

const HOSTS: [&str; 3] = ["east", "west", "north"];

/// A third host: a pool, an identity, and a daemon.
pub struct North {
    dir: PathBuf,
    pool: String,
    port: u16,
    starts: u32,
    daemon: Option<Running>,
}

impl North {
    fn new(site: &Site, pool_bytes: u64) -> North {
        let pool = site.east.replace("-east", "-north");
        create_pool(&pool, &site.dir.join(&pool), pool_bytes).unwrap();
        issue(&site.dir.join("ca"), "north", &site.dir.join("north"));
        let mut north = North { dir: site.dir.clone(), pool, port: 0, starts: 0, daemon: None };
        north.start(&site.limits);
        north
    }

    /// A dataset of it.
    pub fn n(&self, name: &str) -> String {
        format!("{}/{name}", self.pool)
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().pid()
    }

    fn start(&mut self, limits: &str) {
        let (dir, pool) = (self.dir.display(), &self.pool);
        let config = self.dir.join("north.toml");
        let grant = |name: &str| format!("[grant.{name}]\npush = [\"{pool}/in\"]\n");
        if !limits.is_empty() {
            let text = format!(
                "listen = \"127.0.0.1:0\"\nstate_dir = \"{dir}/north.state\"\nruntime_dir = \"{dir}/north.run\"\n\
                 [identity]\ndir = \"{dir}/north\"\n[limits]\n{limits}\n{}{}",
                grant("east"),
                grant("west")
            );
            fs::write(&config, text).unwrap();
        }
        self.starts += 1;
        let to = self.dir.join(format!("north-{}", self.starts));
        let args = ["--config", &*config.to_string_lossy()];
        let daemon = Running::start(&program("zmigrated"), &args, &to, &[("RUST_LOG", "info")]);
        wait_for("zmigrated on north to be ready", 20, || daemon.stderr().contains(" is ready"));
        if self.port == 0 {
            let log = daemon.stderr();
            let (_, rest) = log.split_once("listening on 127.0.0.1:").unwrap();
            self.port = rest.split(char::is_whitespace).next().unwrap().parse().unwrap();
            let text = fs::read_to_string(&config).unwrap();
            fs::write(&config, text.replace("127.0.0.1:0", &format!("127.0.0.1:{}", self.port))).unwrap();
        }
        self.daemon = Some(daemon);
    }

    /// Ends it by SIGKILL; it is there again after the pause.
    pub fn kill_and_start(&mut self, pause: Duration) {
        self.nobody_panicked();
        self.daemon = None;
        sleep(pause);
        self.start("");
    }

    #[track_caller]
    fn nobody_panicked(&self) {
        let log = self.daemon.as_ref().unwrap().stderr();
        assert!(!log.contains("panicked"), "zmigrated on north: {log}");
    }
}

impl Drop for North {
    fn drop(&mut self) {
        if let (true, Some(daemon)) = (std::thread::panicking(), &self.daemon) {
            let log = daemon.stderr();
            eprintln!("zmigrated on north said:\n{}", &log[log.len().saturating_sub(6000)..]);
        }
        self.daemon = None;
        destroy_pool(&self.pool);
    }
}

/// All three, with a link for each job.
pub struct Hosts {
    // Before the site, in whose directory it is.
    pub north: North,
    pub site: Site,
    /// As in [`Job::ALL`].
    pub proxies: [Proxy; 3],
    runs: u32,
}

impl Hosts {
    /// They run, and nothing is replicated yet. Their pools are for so many rounds: where a job is struck again and again, what the next
    /// host lacks is not pruned.
    pub fn new(rounds: u64) -> Hosts {
        let pool_bytes = (256 << 20) + rounds * (12 << 20);
        let mut site = Site::with_pools(pool_bytes);
        site.limits.push_str("\nidle_timeout_s = 5\nlink_lost_after_s = 60");
        site.write_configs(&site.default_grant(), None);
        site.start_daemon();
        let north = North::new(&site, pool_bytes);
        let proxies = [site.port, north.port, north.port].map(|port| Proxy::to(port, &[]));
        let at = |proxy: &Proxy| format!("[peer.north]\naddress = \"127.0.0.1:{}\"\n", proxy.port);
        let job = |job: Job, from: String, peer: &str, to: String, more: &str| {
            format!(
                "[job.{}]\ndirection = \"push\"\nrecursive = true\ndataset = \"{from}\"\npeer = \"{peer}\"\n\
                 target = \"{to}\"\nretries = 0\nbwlimit = \"4M\"\ncompress = \"none\"\nprefix = \"db\"\n{more}\n",
                job.name()
            )
        };
        let rules = "keep = \"last 2\"\nkeep_peer = \"last 4\"";
        let near = job(Job::Near, site.e("db"), "west", site.w("in/near"), rules);
        let far = job(Job::Far, site.e("db"), "north", north.n("in/far"), "snapshot = false\nkeep_peer = \"last 3\"");
        let rules = "snapshot = false\nkeep_peer = \"last 5\"";
        let chain = job(Job::Chain, site.w("in/near"), "north", north.n("in/chain"), rules);
        site.more = format!("{near}{far}{}", at(&proxies[1]));
        site.west_more = format!("{chain}{}", at(&proxies[2]));
        site.write_configs(&site.default_grant(), Some(proxies[0].port));
        // So that west's daemon knows who needs what it prunes.
        site.reload();
        Hosts { north, site, proxies, runs: 0 }
    }

    pub fn pools(&self) -> [&str; 3] {
        [&self.site.east, &self.site.west, &self.north.pool]
    }

    /// The source, then its targets: near, far, chain.
    pub fn roots(&self) -> [String; 4] {
        [self.site.e("db"), self.site.w("in/near"), self.north.n("in/far"), self.north.n("in/chain")]
    }

    /// Each of them with what is below it.
    pub fn datasets(&self) -> Vec<String> {
        self.roots().iter().flat_map(|root| [root.clone(), format!("{root}/a")]).collect()
    }

    /// The daemon that a job talks to.
    pub fn daemon_of(&self, job: Job) -> u32 {
        if job == Job::Near { self.site.daemon_pid() } else { self.north.pid() }
    }

    pub fn start(&mut self, job: Job) -> Running {
        self.zmigrate(job, &["job", "run", job.name(), "--cron"])
    }

    /// Only what a job's rules say, without a run.
    #[track_caller]
    pub fn prune(&mut self, job: Job) {
        self.zmigrate(job, &["prune", job.name()]).wait(120).must(0);
    }

    fn zmigrate(&mut self, job: Job, args: &[&str]) -> Running {
        self.runs += 1;
        let config = self.site.dir.join(format!("{}.toml", job.host())).to_string_lossy().into_owned();
        let args = [&["--config", config.as_str()], args].concat();
        Running::start(&program("zmigrate"), &args, &self.site.dir.join(format!("job-{}", self.runs)), &[])
    }

    fn journal(&self, host: &str) -> String {
        fs::read_to_string(self.site.dir.join(format!("{host}.state/journal.jsonl"))).unwrap_or_default()
    }

    /// How long the journals of [`HOSTS`] are.
    pub fn journals(&self) -> [usize; 3] {
        HOSTS.map(|host| self.journal(host).len())
    }

    /// Whether a host that prunes for this job has begun to since its journal was that long, and not said how it went.
    pub fn prunes(&self, job: Job, marks: &[usize; 3]) -> bool {
        job.pruners().iter().any(|at| {
            let text = self.journal(HOSTS[*at]);
            let news = text.get(marks[*at]..).unwrap_or_default();
            news.lines()
                .rfind(|line| line.contains("\"what\":\"prune\""))
                .is_some_and(|line| line.contains("\"intent\""))
        })
    }

    /// What was to be pruned, as the journals tell: snapshots and their GUIDs.
    pub fn pruned(&self) -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        for host in HOSTS {
            for line in self.journal(host).lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                if (&line["what"], &line["phase"]) == (&"prune".into(), &"intent".into()) {
                    all.insert((line["snapshot"].as_str().unwrap().to_owned(), line["guid"].to_string()));
                }
            }
        }
        all
    }

    /// What a job has written down as common: source, target, GUID. One for each dataset where there is any.
    pub fn bases(&self, job: Job) -> Vec<(String, String, String)> {
        let path = self.site.dir.join(format!("{}.state/jobs/{}.json", job.host(), job.name()));
        let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
        let state: Value = serde_json::from_str(&text).unwrap();
        let lags = state["lags"].as_array().unwrap().iter().filter(|lag| lag["common"].is_object());
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        lags.map(|lag| (word(&lag["source"]), word(&lag["target"]), lag["common"]["guid"].to_string())).collect()
    }

    #[track_caller]
    pub fn nobody_panicked(&self) {
        let log = self.site.log();
        assert!(!log.contains("panicked"), "zmigrated on west: {log}");
        self.north.nobody_panicked();
    }
}

/// A program that writes all the time.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn start(datasets: &[String]) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, places) = (Arc::clone(&stop), datasets.iter().map(|d| mounted(d)).collect::<Vec<_>>());
        let thread = spawn(move || {
            let mut dice = Dice(1);
            while !stopped.load(SeqCst) {
                let at = &places[dice.below(places.len() as u64) as usize];
                let file = at.join(format!("f{}", dice.below(6)));
                match dice.below(8) {
                    0 => drop(fs::remove_file(file)),
                    1 => drop(fs::rename(file, at.join("renamed"))),
                    _ => fs::write(file, noise(1 + dice.below(40_000) as usize, dice.below(1 << 40))).unwrap(),
                }
                sleep(Duration::from_millis(60));
            }
        });
        Writer { stop, thread: Some(thread) }
    }

    /// It must have been able to write all the time.
    pub fn stop(mut self) {
        self.stop.store(true, SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
