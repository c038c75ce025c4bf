//! What is wrong with the data and their surroundings: damaged streams, a full target, snapshots that are gone, lost words.
//!
//! Each trial keeps [`Bystanders`] on the target: whatever happens, they must be there, unchanged.

use std::{fs, io::Write};

use rustix::process::Signal;

use crate::{
    Case, cases,
    common::{create_pool, destroy_pool, noise},
    process::{Done, wait_for},
    site::Site,
    zfs::{create, destroy, exists, get, mounted, populate, snapshot, snapshots, tags, zfs},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_zfs_that_works_late_is_asked_again,
        a_stream_with_one_wrong_bit_is_found,
        a_stream_that_ends_early_is_found,
        a_full_target_says_so_and_goes_on_when_there_is_room,
        a_full_pool_says_so_and_goes_on_when_there_is_room,
        a_snapshot_that_vanishes_before_it_is_sent,
        a_base_that_was_destroyed_is_a_persons_decision,
        a_done_that_is_lost_with_the_daemon_is_made_up_for,
        a_done_that_is_lost_with_everybody_is_made_up_for,
    ]
}

/// Snapshots with their GUIDs, the dataset's own among them, and two files.
type Look = (Vec<(String, String)>, [Vec<u8>; 2]);

/// Datasets of somebody else beside the targets.
pub struct Bystanders {
    names: Vec<String>,
    before: Vec<Look>,
}

impl Bystanders {
    /// Makes them.
    pub fn new(names: &[String]) -> Bystanders {
        for (n, name) in names.iter().enumerate() {
            if !exists(name) {
                create(name);
            }
            fs::write(mounted(name).join("precious"), noise(5000, n as u64)).unwrap();
            snapshot(name, "theirs");
            fs::write(mounted(name).join("later"), "not in the snapshot").unwrap();
        }
        let before = names.iter().map(|name| Bystanders::state(name)).collect();
        Bystanders { names: names.to_vec(), before }
    }

    /// GUIDs and files. What others have below the same directory is not of interest.
    fn state(name: &str) -> Look {
        let guid = get(name, "guid").0;
        let files = ["precious", "later"].map(|file| fs::read(mounted(name).join(file)).unwrap_or_default());
        (snapshots(name).into_iter().chain([("".to_owned(), guid)]).collect(), files)
    }

    /// Fails unless they are as they were.
    #[track_caller]
    pub fn are_untouched(&self) {
        for (name, before) in self.names.iter().zip(&self.before) {
            assert!(exists(name), "{name} is gone");
            assert!(Bystanders::state(name) == *before, "{name} was changed");
        }
    }
}

/// A `zfs` whose `send` goes through the filter that stands in `$DIR/filter`, if there is one. All is said to be well.
const FILTER: &str = "if [ \"$1\" = send ] && [ $# -gt 1 ] && [ -e \"$DIR/filter\" ]; then\n\
    zfs \"$@\" | bash \"$DIR/filter\"; cat >/dev/null; exit 0\n\
    fi\nexec zfs \"$@\"\n";

/// Pushes a first and a second snapshot through each of the filters, then without any.
fn through(filters: impl Fn(u64, u64) -> String) {
    let mut site = Site::quiet();
    site.more = site.wrapped_zfs("filtered", FILTER);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let others = Bystanders::new(&[site.w("in"), site.w("in/theirs"), site.w("other")]);
    let db = site.source("db", 300_000);
    let filter = site.dir.join("filter");
    let target = site.w("in/db");
    for step in ["s1", "s2"] {
        let before = if step == "s1" { Vec::new() } else { snapshots(&target) };
        for trial in 0..5 {
            // Streams of both steps are a little longer than their noise.
            fs::write(&filter, filters(trial, 300_000)).unwrap();
            let done = site.push("db", "in/db", &["-i"]).must(6);
            assert!(done.stderr.contains("error: "), "{}", done.stderr);
            assert!(done.stderr.contains("stream"), "{}", done.stderr);
            if step == "s1" {
                assert!(!exists(&target) || snapshots(&target).is_empty(), "{step} trial {trial}");
            } else {
                assert_eq!(snapshots(&target), before, "{step} trial {trial}");
                site.assert_same_files(&format!("{db}@s1"), &format!("{target}@s1"));
            }
            others.are_untouched();
        }
        fs::remove_file(&filter).unwrap();
        site.push("db", "in/db", &["-i"]).must(0);
        site.assert_same_files(&format!("{db}@{step}"), &format!("{target}@{step}"));
        if step == "s1" {
            populate(&db, 2, 300_000);
            snapshot(&db, "s2");
        }
    }
    assert_eq!(snapshots(&db), snapshots(&target));
    others.are_untouched();
}

fn random(trial: u64, below: u64) -> u64 {
    u64::from_le_bytes(noise(8, 77 + trial)[..].try_into().unwrap()) % below
}

fn a_stream_with_one_wrong_bit_is_found() {
    through(|trial, len| {
        // In the header of the stream, at its end, and anywhere.
        let at = [70, len - 1, random(2, len), random(3, len), random(4, len)][trial as usize];
        format!(
            "exec perl -e 'binmode STDIN; binmode STDOUT; local $/; my $s = <STDIN>; \
             substr($s, {at}, 1) = chr(ord(substr($s, {at}, 1)) ^ {}); print $s'\n",
            1 << (trial % 8)
        )
    });
}

fn a_stream_that_ends_early_is_found() {
    through(|trial, len| {
        let keep = [0, 312, len - 1, random(5, len), random(6, len)][trial as usize];
        format!("head -c {keep}\n")
    });
}

fn a_full_target_says_so_and_goes_on_when_there_is_room() {
    let site = Site::new();
    let others = Bystanders::new(&[site.w("in"), site.w("in/theirs")]);
    let db = site.source("db", 300_000);
    site.push("db", "in/db", &[]).must(0);
    populate(&db, 2, 12 << 20);
    snapshot(&db, "s2");
    zfs(&["set", "quota=6M", &site.w("in")]);
    for _ in 0..2 {
        let done = site.push("db", "in/db", &[]).must(6);
        let said = &done.stderr;
        assert!(said.contains("out of space") || said.contains("quota exceeded"), "{said}");
        assert!(said.contains("hint: free space in the target's pool or raise its quota"), "{said}");
        assert_eq!(tags(&site.w("in/db")), ["s1"]);
        others.are_untouched();
    }
    zfs(&["set", "quota=none", &site.w("in")]);
    site.push("db", "in/db", &[]).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    others.are_untouched();
}

/// No quota: not a block is left in the whole pool.
fn a_full_pool_says_so_and_goes_on_when_there_is_room() {
    let mut site = Site::quiet();
    destroy_pool(&site.west);
    create_pool(&site.west, &site.dir.join(&site.west), 160 << 20).unwrap();
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let others = Bystanders::new(&[site.w("in"), site.w("in/theirs")]);
    let db = site.source("db", 300_000);
    let target = site.w("in/db");
    site.push("db", "in/db", &[]).must(0);
    populate(&db, 2, 4 << 20);
    snapshot(&db, "s2");
    let (before, props, files) =
        (snapshots(&target), get(&target, "zmigrate:held"), site.files(&format!("{target}@s1")));
    create(&site.w("log"));
    let mut file = fs::File::create(mounted(&site.w("log")).join("filler")).unwrap();
    // Until not a block is left: ever less at a time.
    for len in [1 << 20, 64 << 10, 4 << 10] {
        let full = (0..400).any(|n| file.write_all(&noise(len, n)).and_then(|()| file.sync_all()).is_err());
        assert!(full, "a pool of 160 MiB took all of it");
    }
    drop(file);
    for _ in 0..2 {
        let done = site.push("db", "in/db", &[]).must(6);
        assert!(done.stderr.contains("out of space"), "{}", done.stderr);
        assert!(done.stderr.contains("hint: free space in the target's pool or raise its quota"), "{}", done.stderr);
        assert_eq!((snapshots(&target), get(&target, "zmigrate:held")), (before.clone(), props.clone()));
        others.are_untouched();
    }
    // By its dataset: zfs-fuse is slow to free a file's blocks, and takes a moment to let go of one.
    wait_for("the end of what fills the pool", 10, || destroy(&site.w("log")).is_ok());
    let available = || get(&site.w("in"), "available").0.parse::<u64>().unwrap();
    wait_for("the space of what is gone", 30, || available() > 100 << 20);
    // Read only now: to mount it takes a directory, and to clone it some room.
    assert!(site.files(&format!("{target}@s1")) == files, "the files of {target}@s1");
    site.push("db", "in/db", &[]).must(0);
    site.assert_equal(&db, &target);
    others.are_untouched();
}

/// Destroys `$DIR/victim` when a hold on it is asked for: after the plan was made, before anything is held.
const THIEF: &str = "if [ \"$1\" = hold ] && [ -e \"$DIR/victim\" ] && [[ \"$*\" = *\"$(cat \"$DIR/victim\")\"* ]] && mv \"$DIR/victim\" \"$DIR/taken\" 2>/dev/null; then\n\
    zfs destroy \"$(cat \"$DIR/taken\")\" >&2 || exit 99\n\
    fi\nexec zfs \"$@\"\n";

fn a_snapshot_that_vanishes_before_it_is_sent() {
    let mut site = Site::quiet();
    site.more = site.wrapped_zfs("thief", THIEF);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let others = Bystanders::new(&[site.w("in"), site.w("in/theirs")]);
    let db = site.source("db", 100_000);
    // As the first step, and as a later one, whose base it is then.
    for (round, victim) in [(0, "s1"), (1, "s3")] {
        if round == 1 {
            populate(&db, 3, 50_000);
            snapshot(&db, "s3");
        }
        populate(&db, 4 + round, 50_000);
        snapshot(&db, &format!("s{}", 2 + 2 * round));
        fs::write(site.dir.join("victim"), format!("{db}@{victim}")).unwrap();
        let done = site.push("db", "in/db", &[]);
        assert!(!exists(&format!("{db}@{victim}")), "nothing was stolen, so this proves nothing: {}", done.stderr);
        assert_eq!(done.code, Some(3), "{}", done.stderr);
        assert!(done.stderr.contains("was destroyed since the run was planned; run it again"), "{}", done.stderr);
        others.are_untouched();
        site.push("db", "in/db", &[]).must(0);
        site.assert_equal(&db, &site.w("in/db"));
    }
    others.are_untouched();
}

fn a_base_that_was_destroyed_is_a_persons_decision() {
    let site = Site::new();
    let others = Bystanders::new(&[site.w("in"), site.w("in/theirs")]);
    let db = site.source("db", 100_000);
    site.push("db", "in/db", &[]).must(0);
    let target = site.w("in/db");
    let before = snapshots(&target);
    // An operator takes the hold off by hand. There are no bookmarks here that would do instead.
    zfs(&["release", &format!("zmigrate:{}", get(&target, "zmigrate:job").0), &format!("{db}@s1")]);
    populate(&db, 2, 50_000);
    snapshot(&db, "s2");
    zfs(&["destroy", &format!("{db}@s1")]);
    for options in [&[][..], &["--rollback"]] {
        let done = site.push("db", "in/db", options).must(3);
        assert!(done.stderr.contains("have no snapshot in common"), "{}", done.stderr);
        assert!(done.stderr.contains("hint: "), "{}", done.stderr);
        assert_eq!(snapshots(&target), before);
        others.are_untouched();
    }
    // What the hint says works.
    site.push("db", "in/fresh", &[]).must(0);
    site.assert_equal(&db, &site.w("in/fresh"));
    assert_eq!(snapshots(&target), before);
    others.are_untouched();
}

/// A `zfs` that kills whoever started it right after a receive has committed.
const ASSASSIN: &str = "if [ \"$1\" = receive ] && [ $# -gt 1 ]; then\n\
    echo \"$*\" >>\"$DIR/receives\"\n\
    zfs \"$@\"; rc=$?\n\
    if [ $rc = 0 ] && mv \"$DIR/contract\" \"$DIR/fulfilled\" 2>/dev/null; then kill -9 $PPID; fi\n\
    exit $rc\n\
    fi\nexec zfs \"$@\"\n";

fn receives(site: &Site) -> usize {
    fs::read_to_string(site.dir.join("receives")).unwrap_or_default().lines().count()
}

/// The daemon dies between the commit and its word. Gives the site once the daemon runs again, and what the push said
/// that it had asked for, unless it was killed as well.
fn lose_the_word(also_the_run: bool) {
    let mut site = Site::quiet();
    site.west_more = site.wrapped_zfs("assassin", ASSASSIN);
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let others = Bystanders::new(&[site.w("in"), site.w("in/theirs")]);
    let db = site.source("db", 200_000);
    let target = site.w("in/db");
    for step in ["s1", "s2"] {
        if step == "s2" {
            populate(&db, 2, 200_000);
            snapshot(&db, "s2");
        }
        let before = receives(&site);
        fs::write(site.dir.join("contract"), "").unwrap();
        let push = site.start_push("db", "in/db", &[]);
        wait_for("the death of the daemon", 30, || site.dir.join("fulfilled").exists());
        fs::remove_file(site.dir.join("fulfilled")).unwrap();
        assert_eq!(site.reap_daemon(5), None);
        // It has committed, and nobody has been told.
        assert!(tags(&target).contains(&step.to_owned()));
        if also_the_run {
            push.signal(Signal::KILL);
            push.wait(5);
            site.start_daemon();
            site.push("db", "in/db", &[]).must(0);
        } else {
            site.start_daemon();
            let Done { stderr, .. } = push.wait(60).must(0);
            assert!(stderr.contains("trying again"), "{stderr}");
        }
        assert_eq!(receives(&site) - before, 1, "it was sent twice");
        site.assert_equal(&db, &target);
        // What comes after the data was made up for: protections, the record, the holds of both sides.
        for (property, value) in [("readonly", "on"), ("canmount", "noauto"), ("zmigrate:held", step)] {
            assert_eq!(get(&target, property), (value.into(), "local".into()), "{property}");
        }
        assert_eq!(held(&target), [step]);
        assert_eq!(held(&db), [step]);
        others.are_untouched();
    }
}

/// The snapshots of a dataset that are held, each as often as it is.
pub fn held(dataset: &str) -> Vec<String> {
    let all = zfs(&["get", "-Hp", "-r", "-o", "name,value", "userrefs", dataset]);
    let one = |line: &str| {
        let (name, holds) = line.split_once('\t')?;
        let (owner, tag) = name.split_once('@')?;
        let holds: usize = holds.parse().ok()?;
        (owner == dataset).then(|| vec![tag.to_owned(); holds])
    };
    all.lines().filter_map(one).flatten().collect()
}

fn a_done_that_is_lost_with_the_daemon_is_made_up_for() {
    lose_the_word(false);
}

fn a_done_that_is_lost_with_everybody_is_made_up_for() {
    lose_the_word(true);
}

/// A `zfs` whose module or daemon is not there yet.
const LATE: &str = r#"
if [ -e "$DIR/absent" ]; then
  echo "internal error: failed to initialize ZFS library" >&2
  exit 1
fi
exec zfs "$@"
"#;

fn a_zfs_that_works_late_is_asked_again() {
    let mut site = Site::quiet();
    site.west_more = site.wrapped_zfs("late", LATE);
    let absent = site.dir.join("absent");
    fs::write(&absent, "").unwrap();
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let db = site.source("db", 10_000);
    let done = site.push("db", "in/db", &[]);
    assert_ne!(done.code, Some(0));
    let done = done.says(&["failed to initialize ZFS library"]);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    fs::remove_file(absent).unwrap();
    site.push("db", "in/db", &[]).must(0);
    site.assert_equal(&db, &site.w("in/db"));
}
