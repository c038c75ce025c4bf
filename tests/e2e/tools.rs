//! What needs no ZFS: completions, man pages, `config check`, usage.

use std::fs;

use crate::{
    Case, cases,
    site::{issue, make_ca, zmigrate},
};

pub fn cases() -> Vec<Case> {
    cases![completions_and_man_pages, a_configuration_is_checked, usage_is_exit_code_2]
}

fn completions_and_man_pages() {
    for shell in ["bash", "zsh", "fish"] {
        let script = zmigrate(&["completions", shell]).must(0).stdout;
        assert!(script.contains("zmigrate") && script.contains("pull") && script.contains("bwlimit"), "{shell}");
    }
    zmigrate(&["completions", "cmd.exe"]).must(2);
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    zmigrate(&["man", &pages.to_string_lossy()]).must(0);
    for (page, word) in [("zmigrate.1", "push"), ("zmigrate-push.1", "bwlimit"), ("zmigrated.1", "SIGHUP")] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.starts_with(".ie") && text.contains(".TH") && text.contains(word), "{page}");
    }
}

fn a_configuration_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let ca = make_ca(dir.path(), "ca");
    issue(&ca, "east", &dir.path().join("pki"));
    let file = dir.path().join("z.toml");
    let base = format!("[identity]\ndir = \"{}\"\n", dir.path().join("pki").display());
    let check = |text: &str| {
        fs::write(&file, format!("{base}{text}")).unwrap();
        zmigrate(&["--config", &file.to_string_lossy(), "config", "check"])
    };
    let good = check("[peer.west]\naddress = \"localhost:8551\"\n").must(0);
    assert!(good.stdout.contains("the configuration"), "{}", good.stdout);
    let unknown = check("[peer.west]\nadress = \"localhost\"\n").must(2);
    for part in ["z.toml:4:1", "adress", "address"] {
        assert!(unknown.stderr.contains(part), "{part:?} is not in {}", unknown.stderr);
    }
    check("[limits]\nidle_timeout_s = 1\n").must(2).says(&["z.toml:4", "idle_timeout_s"]);
    // Well-formed, and cannot work.
    fs::remove_file(dir.path().join("pki/node.key")).unwrap();
    let bad = check("").must(2);
    assert!(bad.stdout.contains("node.key"), "{}", bad.stdout);
    zmigrate(&["--config", "/nonexistent.toml", "config", "check"]).must(2).says(&["/nonexistent.toml"]);
}

fn usage_is_exit_code_2() {
    for args in [
        &["push"][..],
        &["push", "tank/a", "tank/b"],
        &["push", "tank/a", "x:/b"],
        &["push", "-tank", "x:b"],
        &["push", "tank/a b/..", "x:b"],
        &["push", "a", "x:b", "--exclude", "y"],
        &["push", "a", "x:b", "-i", "-I"],
        &["push", "a", "x:b", "--bwlimit", "-3"],
        &["push", "a", "x:b", "--jobs", "0"],
        &["push", "a@s", "x:b", "--snapshot"],
        &["nonsense"],
    ] {
        let done = zmigrate(args);
        assert_eq!(done.code, Some(2), "{args:?}: {}", done.stderr);
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{args:?}");
    }
}
