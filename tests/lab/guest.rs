//! One guest, reached through `scripts/lab`.

use std::{
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// What a command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs `scripts/lab`.
pub fn lab(args: &[&str]) -> Said {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lab"));
    let out = command.args(args).stdin(Stdio::null()).output().unwrap();
    Said {
        code: out.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// A guest of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest(pub u8);

impl Guest {
    /// The name of its certificate, and of the peer in the other's configuration.
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// Runs a script as root; it ends at its first failure.
    pub fn ask(self, script: &str) -> Said {
        lab(&["ssh", &self.0.to_string(), &format!("set -eu; export LC_ALL=C; {script}")])
    }

    /// Runs a script that must succeed, for what it prints.
    #[track_caller]
    pub fn sh(self, script: &str) -> String {
        let said = self.ask(script);
        assert!(said.code == 0, "{}: {script}: exit {}\n{}{}", self.name(), said.code, said.out, said.err);
        said.out.trim_end().to_owned()
    }

    /// Runs a script until it succeeds, which takes guests on an idle machine less than `within`; five times that is waited, for one
    /// that does much else.
    #[track_caller]
    pub fn until(self, within: Duration, script: &str) -> String {
        let started = Instant::now();
        let within = within * 5;
        loop {
            let said = self.ask(script);
            if said.code == 0 {
                return said.out.trim_end().to_owned();
            }
            let waited = started.elapsed();
            assert!(waited < within, "{}: not within {within:?}: {script}\n{}{}", self.name(), said.out, said.err);
            sleep(Duration::from_millis(200));
        }
    }

    /// Runs a step of the lab itself, such as `crash`.
    #[track_caller]
    pub fn lab(self, verb: &str, files: &[&str]) {
        let n = self.0.to_string();
        let said = lab(&[&[verb, n.as_str()], files].concat());
        assert!(said.code == 0, "scripts/lab {verb} {n}: exit {}\n{}{}", said.code, said.out, said.err);
    }

    /// The value of a property.
    #[track_caller]
    pub fn get(self, name: &str, property: &str) -> String {
        self.sh(&format!("zfs get -Hp -o value {property} '{name}'"))
    }

    /// `name=value source` of each property.
    #[track_caller]
    pub fn properties(self, name: &str, properties: &[&str]) -> Vec<String> {
        let said = self.sh(&format!("zfs get -Hp -o property,value,source {} '{name}'", properties.join(",")));
        let line = |line: &str| match *line.split('\t').collect::<Vec<_>>() {
            [property, value, source] => format!("{property}={value} {source}"),
            _ => line.to_owned(),
        };
        said.lines().map(line).collect()
    }

    /// `tag guid` of each snapshot of a dataset, oldest first.
    #[track_caller]
    pub fn snapshots(self, dataset: &str) -> Vec<String> {
        let list = format!("zfs list -Hp -d 1 -t snapshot -s createtxg -o name,guid '{dataset}'");
        self.sh(&list).lines().map(|line| line.split('@').nth(1).unwrap_or("?").replace('\t', " ")).collect()
    }

    /// `name tag` of each of our holds on a dataset's snapshots.
    #[track_caller]
    pub fn holds(self, dataset: &str) -> Vec<String> {
        let script = format!(
            "s=$(zfs list -H -d 1 -t snapshot -o name '{dataset}'); [ -z \"$s\" ] || zfs holds -H $s | awk '{{print $1, $2}}'"
        );
        self.sh(&script).lines().filter(|l| l.contains(" zmigrate:")).map(str::to_owned).collect()
    }

    /// The names of a dataset's bookmarks.
    #[track_caller]
    pub fn bookmarks(self, dataset: &str) -> Vec<String> {
        self.sh(&format!("zfs list -H -d 1 -t bookmark -o name '{dataset}'")).lines().map(str::to_owned).collect()
    }

    /// A digest of all that a snapshot holds: names, kinds, modes, owners, times, xattrs and bytes; of a volume, its
    /// bytes.
    #[track_caller]
    pub fn digest(self, snapshot: &str) -> String {
        self.sh(&format!("/root/zmlab/digest '{snapshot}'"))
    }
}
