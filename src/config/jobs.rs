//! `[job.NAME]`: from plain values to a [`Job`].

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use jiff::tz::TimeZone;

use super::{
    Place, Problem,
    document::{Entry, Value},
};
use crate::{
    jobs::{
        Direction, Job, Remote,
        schedule::{Bandwidth, Hours, Schedule, Trigger},
        span::Span,
    },
    limits::{MIN_GONE, MIN_VERIFY},
    plan::EncryptionMode,
    types::{
        ByteSize, DatasetName, JobName, NameError, PeerAddress,
        transfer::{Compression, Streams, StreamsError},
    },
};

/// Jobs that a configuration may hold: each has a lock, a state and a place in every table.
const MAX_JOBS: usize = 1000;
/// Retries of one run.
const MAX_RETRIES: i128 = 100;
/// Datasets in parallel, as the command line takes them.
const MAX_PARALLEL: i128 = 64;
/// Words of a hook's command.
const MAX_WORDS: usize = 64;

/// Keys of jobs that replicate.
const OF_TWO_HOSTS: [&str; 14] = [
    "peer",
    "target",
    "jobs",
    "streams",
    "compress",
    "encryption",
    "bwlimit",
    "bwlimit_hours",
    "retries",
    "retry_wait",
    "keep_peer",
    "destroy_deleted",
    "verify",
    "verify_content",
];

/// What `direction` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Remote(Direction),
    Local,
}

/// The tables so far.
#[derive(Default)]
pub(super) struct JobTables {
    tables: BTreeMap<JobName, (Place, BTreeMap<String, Entry>)>,
}

impl JobTables {
    /// # Errors
    /// When NAME is none.
    pub fn table(&mut self, name: &str, at: &Place) -> Result<(), NameError> {
        self.tables.insert(name.parse()?, (at.clone(), BTreeMap::new()));
        Ok(())
    }

    /// A known key of a job. A name that does not parse was reported with its table.
    pub fn entry(&mut self, name: &str, key: &str, entry: &Entry) {
        if let Some((_, entries)) = name.parse::<JobName>().ok().and_then(|name| self.tables.get_mut(&name)) {
            entries.insert(key.to_owned(), entry.clone());
        }
    }

    /// All jobs that could be read. `reported` holds the paths of keys that are not known.
    pub fn finish(self, reported: &BTreeSet<Vec<String>>, problems: &mut Vec<Problem>) -> BTreeMap<JobName, Job> {
        let mut jobs = BTreeMap::new();
        for (i, (name, (at, entries))) in self.tables.into_iter().enumerate() {
            if i == MAX_JOBS {
                problems.push(Problem::new(&at, format!("there are more than {MAX_JOBS} jobs")));
                break;
            }
            let unknown = reported.iter().any(|path| path.len() > 2 && path[0] == "job" && path[1] == name.as_str());
            let mut table = Table { name: &name, entries, problems: Vec::new() };
            let job = table.job(&at);
            // What a misspelt key was meant to be is no news.
            let missing = |p: &Problem| unknown && p.at == at.to_string();
            problems.extend(table.problems.into_iter().filter(|p| !missing(p)));
            if let Some(job) = job {
                jobs.insert(name, job);
            }
        }
        jobs
    }
}

struct Table<'a> {
    name: &'a JobName,
    entries: BTreeMap<String, Entry>,
    problems: Vec<Problem>,
}

impl Table<'_> {
    fn problem(&mut self, at: &Place, key: &str, why: impl std::fmt::Display) {
        self.problems.push(Problem::new(at, format!("job.{}.{key}: {why}", self.name)));
    }

    /// The text of a key, with its place.
    fn text(&mut self, key: &str) -> Option<(String, Place)> {
        let entry = self.entries.get(key)?.clone();
        match entry.value {
            Value::Text(text) => Some((text, entry.value_at)),
            other => {
                self.problem(&entry.value_at, key, format!("must be a string, not {}", other.kind()));
                None
            }
        }
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Option<T> {
        let (text, at) = self.text(key)?;
        text.parse().map_err(|e| self.problem(&at, key, e)).ok()
    }

    fn boolean(&mut self, key: &str, default: bool) -> bool {
        match self.entries.get(key).map(|entry| (entry.value.clone(), entry.value_at.clone())) {
            None => default,
            Some((Value::Boolean(is), _)) => is,
            Some((other, at)) => {
                self.problem(&at, key, format!("must be true or false, not {}", other.kind()));
                default
            }
        }
    }

    /// A list of texts, or one text alone, each parsed.
    fn list<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Vec<T> {
        let Some(entry) = self.entries.get(key).cloned() else { return Vec::new() };
        let items = match entry.value {
            Value::List(items) => items,
            one => vec![(one, entry.value_at)],
        };
        let mut all = Vec::new();
        for (item, at) in items {
            match item {
                Value::Text(text) => match text.parse() {
                    Ok(item) => all.push(item),
                    Err(e) => self.problem(&at, key, e),
                },
                other => self.problem(&at, key, format!("must hold strings, not {}", other.kind())),
            }
        }
        all
    }

    fn command(&mut self, key: &str) -> Vec<String> {
        let words: Vec<String> = self.list(key);
        let Some(at) = self.entries.get(key).map(|entry| entry.value_at.clone()) else { return words };
        match words.first() {
            Some(program) if !program.starts_with('/') => {
                self.problem(&at, key, format!("must begin with the absolute path of a program, not {program:?}"));
            }
            _ if words.len() > MAX_WORDS || words.iter().any(|word| word.contains('\0')) => {
                self.problem(&at, key, format!("must be at most {MAX_WORDS} words without NUL"));
            }
            _ => {}
        }
        words
    }

    fn job(&mut self, at: &Place) -> Option<Job> {
        let way = self.way();
        let needed: &[&str] = match way {
            Some(Way::Local) => &["dataset"],
            _ => &["direction", "dataset", "peer", "target"],
        };
        for key in needed {
            if !self.entries.contains_key(*key) {
                self.problems.push(Problem::new(at, format!("[job.{}] has no {key}", self.name)));
            }
        }
        if way == Some(Way::Local) {
            self.of_this_host_alone(at);
        }
        let dataset = self.parsed("dataset");
        // What is amiss with peer or target was reported; then there is no job.
        let remote = match way {
            Some(Way::Local) => Some(None),
            Some(Way::Remote(direction)) => {
                let (peer, target) = (self.parsed("peer"), self.parsed("target"));
                peer.zip(target).map(|(peer, target)| Some(Remote { direction, peer, target }))
            }
            None => {
                let _: (Option<PeerAddress>, Option<DatasetName>) = (self.parsed("peer"), self.parsed("target"));
                None
            }
        };
        let recursive = self.boolean("recursive", false);
        let exclude = self.list("exclude");
        let exclude_property = self.parsed("exclude_property");
        for key in ["exclude", "exclude_property"] {
            if let Some(entry) = self.entries.get(key).cloned().filter(|_| !recursive) {
                self.problem(&entry.key_at, key, "leaves out datasets below, which only recursive = true sends");
            }
        }
        for (key, hint) in [
            ("exclude_property", "use exclude, or pull what is wanted"),
            ("keep_peer", "a source is pruned by a job on its own host, which alone knows who else needs it"),
        ] {
            if let Some(entry) = self.entries.get(key).filter(|_| way == Some(Way::Remote(Direction::Pull))) {
                let text = format!("job.{}.{key} is for jobs that push", self.name);
                self.problems.push(Problem::new(&entry.key_at, text).hint(hint));
            }
        }
        let prefix = self.prefix();
        let job = Job {
            name: self.name.clone(),
            recursive,
            exclude,
            exclude_property,
            schedule: self.schedule(),
            bandwidth: self.bandwidth(),
            jobs: self.number("jobs", (1, MAX_PARALLEL), 1),
            streams: self.streams(),
            compress: self.parsed("compress").unwrap_or(Compression::Auto),
            encryption: self.encryption(),
            retries: self.number("retries", (0, MAX_RETRIES), 3),
            retry_wait: self.parsed("retry_wait").unwrap_or(Span::seconds(30)),
            snapshot: self.boolean("snapshot", way != Some(Way::Remote(Direction::Pull))),
            prefix: prefix?,
            keep: self.parsed("keep"),
            keep_peer: self.parsed("keep_peer"),
            destroy_deleted: self.destroy_deleted(recursive),
            verify: self.verify(),
            verify_content: self.boolean("verify_content", false),
            before: self.command("before"),
            after: self.command("after"),
            hook_timeout: self.parsed("hook_timeout").unwrap_or(Span::seconds(60)),
            max_lag: self.parsed("max_lag"),
            dataset: dataset?,
            remote: remote?,
        };
        Some(job)
    }

    /// What a job of this host alone cannot have, and what it must do.
    fn of_this_host_alone(&mut self, at: &Place) {
        for key in OF_TWO_HOSTS {
            if let Some(entry) = self.entries.get(key) {
                let text =
                    format!("job.{}.{key} is nothing for direction = \"local\", which has no other host", self.name);
                let hint = "take it out; or write \"push\" or \"pull\" to replicate, with peer and target";
                self.problems.push(Problem::new(&entry.key_at, text).hint(hint));
            }
        }
        if !self.boolean("snapshot", true) && !self.entries.contains_key("keep") {
            let text = format!("[job.{}] does nothing: it takes no snapshot, and has no keep to prune by", self.name);
            self.problems.push(Problem::new(at, text));
        }
    }

    fn destroy_deleted(&mut self, recursive: bool) -> Option<Span> {
        const KEY: &str = "destroy_deleted";
        let after: Span = self.parsed(KEY)?;
        let (_, at) = self.text(KEY)?;
        if !recursive {
            self.problem(&at, KEY, "is for datasets below, which only recursive = true sends");
        }
        if after.as_signed_s() < MIN_GONE.as_secs() {
            self.problem(&at, KEY, "must be a day at least, to notice in");
        }
        Some(after)
    }

    fn verify(&mut self) -> Option<Span> {
        let alone = !self.entries.contains_key("verify");
        if let Some(entry) = self.entries.get("verify_content").cloned().filter(|_| alone) {
            self.problem(&entry.key_at, "verify_content", "belongs to verify, which is not there");
        }
        let every: Span = self.parsed("verify")?;
        let (_, at) = self.text("verify")?;
        if every.as_s() < MIN_VERIFY.as_secs() {
            self.problem(&at, "verify", "must be an hour at least");
        }
        Some(every)
    }

    fn way(&mut self) -> Option<Way> {
        let (text, at) = self.text("direction")?;
        match text.as_str() {
            "push" => Some(Way::Remote(Direction::Push)),
            "pull" => Some(Way::Remote(Direction::Pull)),
            "local" => Some(Way::Local),
            _ => {
                self.problem(&at, "direction", format!("must be \"push\", \"pull\" or \"local\", not {text:?}"));
                None
            }
        }
    }

    /// Unless it is given, the job's name.
    fn prefix(&mut self) -> Option<crate::jobs::names::Prefix> {
        if self.entries.contains_key("prefix") { self.parsed("prefix") } else { self.name.as_str().parse().ok() }
    }

    fn schedule(&mut self) -> Schedule {
        let (cron, every, jitter) = (self.parsed("cron"), self.parsed("every"), self.parsed("jitter"));
        let at = |table: &Self, key: &str| table.entries.get(key).map(|entry| entry.key_at.clone());
        if let (Some(_), Some(at)) = (at(self, "cron"), at(self, "every")) {
            self.problem(&at, "every", "cannot stand beside cron; keep one of the two");
        }
        if let (None, Some(at)) = (at(self, "every"), at(self, "jitter")) {
            self.problem(&at, "jitter", "belongs to every, which is not there");
        }
        let trigger = match (cron, every) {
            (Some(cron), _) => Some(Trigger::Cron(cron)),
            (None, Some(every)) => Some(Trigger::Every { every, jitter }),
            (None, None) => None,
        };
        let zone = match self.text("time_zone") {
            None => TimeZone::UTC,
            Some((name, at)) => TimeZone::get(&name).unwrap_or_else(|_| {
                let text = format!("job.{}.time_zone: {name:?} is no time zone", self.name);
                self.problems.push(Problem::new(&at, text).hint("write one such as Europe/Berlin, or UTC"));
                TimeZone::UTC
            }),
        };
        Schedule { trigger, hours: self.list("hours"), zone }
    }

    /// `bwlimit = "100M"`, `bwlimit_hours = ["08:00-18:00 20M"]`.
    fn bandwidth(&mut self) -> Bandwidth {
        let otherwise = self.parsed::<Rate>("bwlimit").map(|rate| rate.0);
        let by_hour = self.list::<HoursAndRate>("bwlimit_hours").into_iter().map(|both| (both.0, both.1)).collect();
        Bandwidth { otherwise, by_hour }
    }

    /// A number within a range.
    fn number<T: TryFrom<i128> + Copy + std::fmt::Display>(&mut self, key: &str, range: (i128, i128), default: T) -> T {
        let Some(entry) = self.entries.get(key).cloned() else { return default };
        let (least, most) = range;
        match entry.value {
            Value::Integer(n) if (least..=most).contains(&n) => T::try_from(n).unwrap_or(default),
            _ => {
                let text = format!("must be {least} to {most}; the default is {default}");
                self.problem(&entry.value_at, key, text);
                default
            }
        }
    }

    fn streams(&mut self) -> Streams {
        let Some(entry) = self.entries.get("streams").cloned() else { return Streams::Auto };
        let text = match entry.value {
            Value::Integer(n) => n.to_string(),
            _ => return self.parsed("streams").unwrap_or(Streams::Auto),
        };
        text.parse().unwrap_or_else(|e: StreamsError| {
            self.problem(&entry.value_at, "streams", e.to_string());
            Streams::Auto
        })
    }

    fn encryption(&mut self) -> EncryptionMode {
        match self.text("encryption") {
            None => EncryptionMode::Default,
            Some((text, _)) if text == "raw" => EncryptionMode::Raw,
            Some((text, _)) if text == "plain" => EncryptionMode::Plain,
            Some((text, at)) => {
                self.problem(&at, "encryption", format!("must be \"raw\" or \"plain\", not {text:?}"));
                EncryptionMode::Default
            }
        }
    }
}

/// Bytes per second, at least one.
struct Rate(u64);

impl FromStr for Rate {
    type Err = String;
    fn from_str(s: &str) -> Result<Rate, String> {
        let rate = s.parse::<ByteSize>().map_err(|e| e.to_string())?.0;
        if rate == 0 { Err("a limit of nothing lets nothing through".to_owned()) } else { Ok(Rate(rate)) }
    }
}

struct HoursAndRate(Hours, u64);

impl FromStr for HoursAndRate {
    type Err = String;
    fn from_str(s: &str) -> Result<HoursAndRate, String> {
        let (hours, rate) = s.split_once(' ').ok_or_else(|| format!("{s:?} is not like \"08:00-18:00 20M\""))?;
        Ok(HoursAndRate(
            hours.parse().map_err(|e: crate::jobs::schedule::HoursError| e.to_string())?,
            rate.trim().parse::<Rate>()?.0,
        ))
    }
}
