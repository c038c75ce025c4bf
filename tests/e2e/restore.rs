//! What docs/restore.md says, typed as it stands there.

use std::fs;

use crate::{
    Case, cases,
    common::run,
    site::Site,
    zfs::{get, populate, snapshot},
};

pub fn cases() -> Vec<Case> {
    cases![a_copy_takes_the_place_of_a_lost_source_and_goes_home]
}

const TEXT: &str = include_str!("../../docs/restore.md");

/// The commands of a section that begin with `with`, without their comments.
fn commands(section: &str, with: &str) -> Vec<Vec<String>> {
    let text = TEXT.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("    "));
    let commands = lines.map(|line| line.split('#').next().unwrap_or_default().trim());
    let commands = commands.filter(|line| line.starts_with(with));
    commands.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn a_copy_takes_the_place_of_a_lost_source_and_goes_home() {
    let site = Site::new();
    let (db, copy) = (site.source("db", 100_000), site.w("in/db"));
    site.push("db", "in/db", &[]).must(0);
    // It goes on for a while, and what it writes then is lost.
    populate(&db, 2, 50_000);
    snapshot(&db, "lost");
    let serves = site.dir.join("serves");
    let named = |words: &[String]| -> Vec<String> {
        let place = |word: &String| {
            word.replace("tank/from-east/db", &copy)
                .replace("tank/db", &db)
                .replace("/srv/db", serves.to_str().unwrap())
        };
        words.iter().map(place).collect()
    };
    let steps = commands("Let a copy serve", "zfs");
    let of_a_filesystem: Vec<_> = steps.iter().filter(|words| words.last().unwrap().ends_with("/db")).collect();
    assert!(of_a_filesystem.len() >= 7, "{steps:?}");
    for words in of_a_filesystem {
        let words = named(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run(words[0], &words[1..]).unwrap();
    }
    fs::write(serves.join("new"), "written at the copy").unwrap();
    for property in ["zmigrate:job", "readonly", "exec", "setuid", "devices"] {
        assert_ne!(get(&copy, property).1, if property == "readonly" { "default" } else { "local" }, "{property}");
    }
    // The old source comes to life again.
    for words in commands("Replicate back", "zfs unmount") {
        let words = named(&words);
        run(&words[0], &[&words[1], &words[2]]).unwrap();
    }
    let pulls: Vec<_> = commands("Replicate back", "zmigrate pull");
    assert_eq!(pulls.len(), 2);
    for (words, code) in pulls.iter().zip([3, 0]) {
        let words = named(words);
        let words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        site.start(&words).wait(60).must(code);
    }
    site.assert_equal(&copy, &db);
    assert!(!site.files(&format!("{db}@{}", crate::zfs::tags(&db).last().unwrap())).is_empty());
    assert_eq!(get(&db, "readonly").0, "on");
}
