//! Cutovers under a program that writes all the time: not one acknowledged record may be missing or doubled, and never may
//! two sides be writable.

mod docker;
mod faults;
mod given_back;
mod hosts;
mod lost;
mod matrix;
mod phases;
mod points;
mod postgres;
mod story;
mod trouble;
mod undone;
mod watch;

use crate::Case;

pub fn cases() -> Vec<Case> {
    [
        story::cases(),
        faults::cases(),
        phases::cases(),
        trouble::cases(),
        hosts::cases(),
        lost::cases(),
        watch::cases(),
        matrix::cases(),
        undone::cases(),
    ]
    .concat()
}

pub use docker::{absent as docker_absent, cases as docker_cases};
pub use postgres::cases as postgres_cases;

mod bench {
    //! A unit that moves between east and west, and its writer.

    use std::{fs, os::unix::fs::PermissionsExt, path::Path, thread::sleep, time::Duration};

    use serde_json::Value;

    use crate::{
        process::{Done, Running, is_alive, wait_for},
        site::Site,
        zfs::{create, exists, get, zfs},
    };

    /// The writer: numbered records, each on disk before it is acknowledged outside of the dataset.
    const WRITER: &str = r#"#!/bin/bash
# writer.sh FILE ACKNOWLEDGED
n=$(tail -n 1 "$1" 2>/dev/null || true)
n=${n:-0}
trap 'exit 0' TERM
while :; do
  n=$((n + 1))
  echo "$n" >>"$1" && sync "$1" && echo "$n" >>"$2" || exit 1
done
"#;

    pub struct Bench {
        pub site: Site,
        /// The dataset's name in both pools: `app` here, `in/app` there.
        pub name: String,
    }

    impl Bench {
        /// East's `app` with a writer that hooks stop and start on either side.
        pub fn new() -> Bench {
            Bench::with(Site::quiet(), "app", "")
        }

        pub fn with(mut site: Site, name: &str, more: &str) -> Bench {
            let dir = site.dir.clone();
            let script = |name: &str, text: &str| {
                let path = dir.join(name);
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                path.display().to_string()
            };
            let writer = script("writer.sh", WRITER);
            let (acknowledged, pid) = (dir.join("acknowledged"), dir.join("writer.pid"));
            let (acknowledged, pid) = (acknowledged.display(), pid.display());
            let stop = script(
                "stop.sh",
                &format!(
                    "#!/bin/bash\np=$(cat {pid} 2>/dev/null) || exit 0\nkill \"$p\" 2>/dev/null\n\
                     while kill -0 \"$p\" 2>/dev/null; do sleep 0.01; done\nrm -f {pid}\necho stopped\n"
                ),
            );
            let start = |side: &str, pool: &str| {
                script(
                    &format!("start-{side}.sh"),
                    &format!(
                        "#!/bin/bash\np=$(cat {pid} 2>/dev/null) && kill -0 \"$p\" 2>/dev/null && exit 0\n\
                         at=$(zfs get -H -o value mountpoint \"${{ZMIGRATE_DATASETS%% *}}\")\n\
                         setsid {writer} \"$at/records\" {acknowledged} </dev/null >/dev/null 2>&1 &\n\
                         echo $! >{pid}\necho started on {side} in {pool}\n"
                    ),
                )
            };
            let hook = |start: String| {
                format!("[hook.writer]\nstop = [\"{stop}\"]\nstart = [\"{start}\"]\ntimeout_s = 20\n{more}")
            };
            site.more = hook(start("east", &site.east));
            site.west_more = hook(start("west", &site.west));
            let grants = format!("{}cutover = [\"{}/in\"]\n", site.default_grant(), site.west);
            site.write_configs(&grants, None);
            site.start_daemon();
            create(&site.e(name));
            create(&site.w("in"));
            Bench { site, name: name.to_owned() }
        }

        /// Another dataset at east, with a writer of its own.
        pub fn afresh(&mut self) {
            let n = self.name.strip_prefix("app-").and_then(|n| n.parse::<u32>().ok()).unwrap_or(0) + 1;
            self.name = format!("app-{n}");
            create(&self.east());
            fs::remove_file(self.site.dir.join("acknowledged")).unwrap();
        }

        /// A daemon that starts sets the fences of all units again, and would meet there what is meant for the next one.
        pub fn forget_the_unit_at_west(&self) {
            for file in fs::read_dir(self.site.dir.join("west.state/cutover")).unwrap().flatten() {
                if file.file_name().to_string_lossy().starts_with("host-") {
                    fs::remove_file(file.path()).unwrap();
                }
            }
        }

        pub fn east(&self) -> String {
            self.site.e(&self.name)
        }

        pub fn west(&self) -> String {
            self.site.w(&format!("in/{}", self.name))
        }

        /// Starts the writer on the side that serves, as the start hook would.
        pub fn write(&self) {
            let west = crate::zfs::exists(&self.west()) && is_writable(&self.west());
            let (hook, serving) = if west { ("start-west.sh", self.west()) } else { ("start-east.sh", self.east()) };
            let status = std::process::Command::new(self.site.dir.join(hook))
                .env("ZMIGRATE_DATASETS", serving)
                .status()
                .unwrap();
            assert!(status.success());
            self.wait_for_records(20);
        }

        /// Stops the writer.
        pub fn stop_writing(&self) {
            let status = std::process::Command::new(self.site.dir.join("stop.sh")).status().unwrap();
            assert!(status.success());
        }

        pub fn acknowledged(&self) -> u64 {
            numbers(&self.site.dir.join("acknowledged")).pop().unwrap_or(0)
        }

        /// The newest acknowledged record. No other was acknowledged twice: the next writer would write anew what was lost.
        #[track_caller]
        fn each_acknowledged_once(&self) -> u64 {
            let all = numbers(&self.site.dir.join("acknowledged"));
            let again = all.windows(2).find(|pair| pair[1] <= pair[0]);
            assert!(again.is_none(), "acknowledged records were lost, and written anew: {again:?}");
            all.last().copied().unwrap_or(0)
        }

        /// Waits until that many more records are acknowledged.
        #[track_caller]
        pub fn wait_for_records(&self, more: u64) {
            let from = self.acknowledged();
            wait_for("the writer", 30, || self.acknowledged() >= from + more);
        }

        pub fn writer_runs(&self) -> bool {
            let pid = fs::read_to_string(self.site.dir.join("writer.pid")).ok().and_then(|p| p.trim().parse().ok());
            pid.is_some_and(is_alive)
        }

        /// `zmigrate cutover start app west:in/app …`.
        pub fn start(&self, more: &[&str]) -> Running {
            self.start_with(more, &[])
        }

        pub fn start_with(&self, more: &[&str], environment: &[(&str, &str)]) -> Running {
            self.start_within("60s", more, environment)
        }

        pub fn start_within(&self, downtime: &str, more: &[&str], environment: &[(&str, &str)]) -> Running {
            let (east, west) = (self.east(), format!("west:{}", self.west()));
            let args =
                ["cutover", "start", &east, &west, "--hook", "writer", "--max-downtime", downtime, "--output", "json"];
            self.site.start_with(&[&args[..], more].concat(), environment)
        }

        pub fn cutover(&self, args: &[&str]) -> Done {
            self.site.start(&[&["cutover"], args, &["--output", "json"]].concat()).wait(120)
        }

        /// The cutover of this unit, as `status` shows it.
        pub fn status(&self) -> Value {
            let done = self.cutover(&["status"]).must(0);
            let value: Value = serde_json::from_str(&done.stdout).unwrap();
            let east = self.east();
            let ours = |c: &&Value| c["source"] == east.as_str() || c["target"] == east.as_str();
            value["cutovers"].as_array().unwrap().iter().rfind(ours).cloned().unwrap_or_default()
        }

        /// What the ledgers of a host's part hold, `east` or `west`.
        pub fn journal(&self, host: &str) -> String {
            let files = fs::read_dir(self.site.dir.join(format!("{host}.state/cutover"))).unwrap().flatten();
            let name = |file: &fs::DirEntry| file.file_name().to_string_lossy().into_owned();
            let ledgers = files.filter(|file| name(file).starts_with("host-") && name(file).ends_with(".jsonl"));
            ledgers.map(|file| fs::read_to_string(file.path()).unwrap()).collect()
        }

        /// Exactly one side is writable, and it holds each acknowledged record once. Returns true if that is west.
        #[track_caller]
        pub fn assert_one_side_has_it_all(&self) -> bool {
            let (east, west) = (is_writable(&self.east()), is_writable(&self.west()));
            assert!(east != west, "east writable: {east}, west writable: {west}");
            let serving = if west { self.west() } else { self.east() };
            // First: the writer may be at work, and acknowledges what it has written.
            let acknowledged = self.each_acknowledged_once();
            let at = get(&serving, "mountpoint").0;
            let text = fs::read_to_string(Path::new(&at).join("records")).unwrap_or_default();
            let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
            let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
            assert_eq!(numbers, expected, "a record is missing or doubled");
            let there = numbers.len() as u64;
            assert!(there >= acknowledged, "of {acknowledged} acknowledged records there are {there}");
            west
        }

        /// At no moment both.
        #[track_caller]
        pub fn assert_not_two_sides(&self) {
            assert!(!(is_writable(&self.east()) && is_writable(&self.west())), "two sides are writable");
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = std::process::Command::new(self.site.dir.join("stop.sh")).status();
            sleep(Duration::from_millis(20));
        }
    }

    /// The numbers in a file, but for a line that is just being written.
    fn numbers(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        whole.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Whether a program could write to it now: it is mounted, and not read-only.
    pub fn is_writable(dataset: &str) -> bool {
        if !exists(dataset) || get(dataset, "mounted").0 != "yes" {
            return false;
        }
        let probe = Path::new(&get(dataset, "mountpoint").0).join(".probe");
        let written = fs::write(&probe, "x").is_ok();
        let _ = fs::remove_file(&probe);
        written
    }

    /// `dataset property value source` of all that a fence changes or might, of a dataset and those below it, and zmigrate's own marks.
    #[track_caller]
    pub fn settings(dataset: &str) -> Vec<String> {
        let properties =
            "readonly,canmount,setuid,exec,devices,mountpoint,mounted,snapdir,zmigrate:fence,zmigrate:serving";
        let all = zfs(&["get", "-rHp", "-o", "name,property,value,source", properties, dataset]);
        all.lines().filter(|line| !line.contains('@')).map(|line| line.replace('\t', " ")).collect()
    }

    pub fn json(done: &Done) -> Value {
        serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", done.stdout, done.stderr))
    }
}
