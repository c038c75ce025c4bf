//! What is in the Debian package, and what systemd thinks of its units.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{Case, common::run};

pub const CASES: &[Case] = &[
    ("what_is_in_it", what_is_in_it),
    ("what_it_says_of_itself", what_it_says_of_itself),
    ("its_programs_run_and_have_pages", its_programs_run_and_have_pages),
    ("systemd_takes_its_units_also_with_the_drop_in_for_root", systemd_takes_its_units_also_with_the_drop_in_for_root),
    ("its_units_leave_little_open", its_units_leave_little_open),
];

/// The most that `systemd-analyze security` may say, in tenths: what stays is the network, /dev/zfs, and users that are the
/// host's own, as `zfs allow` means them.
const EXPOSURE: &str = "20";
const UNITS: [&str; 3] = ["zmigrated.service", "zmigrate-job@db.service", "zmigrate-job@db.timer"];

/// Unpacks it.
pub fn unpacked(deb: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    run("dpkg-deb", &["-R", &deb.display().to_string(), &dir.path().display().to_string()]).unwrap();
    dir
}

fn what_is_in_it(deb: &Path) {
    let list = run("dpkg-deb", &["-c", &deb.display().to_string()]).unwrap();
    // -rw-r--r-- root/root SIZE DATE TIME ./PATH
    let files: BTreeMap<&str, &str> = list
        .lines()
        .filter(|line| !line.starts_with('d'))
        .map(|line| (line.split_whitespace().nth(5).unwrap().trim_start_matches("./"), line))
        .collect();
    for (path, line) in &files {
        assert!(line.contains(" root/root ") || line.contains(" 0/0 "), "{line}");
        let runs = path.starts_with("usr/bin/") || *path == "usr/share/doc/zmigrate/examples/mysql-freeze";
        let mode = if runs { "-rwxr-xr-x" } else { "-rw-r--r--" };
        assert!(line.starts_with(mode), "{line}");
        assert!(path.starts_with("usr/"), "nothing lies elsewhere, nor in /etc, which belongs to the node: {path}");
    }
    for path in [
        "usr/bin/zmigrate",
        "usr/bin/zmigrated",
        "usr/lib/systemd/system/zmigrated.service",
        "usr/lib/systemd/system/zmigrate-job@.service",
        "usr/lib/systemd/system/zmigrate-job@.timer",
        "usr/share/bash-completion/completions/zmigrate",
        "usr/share/zsh/vendor-completions/_zmigrate",
        "usr/share/fish/vendor_completions.d/zmigrate.fish",
        "usr/share/doc/zmigrate/examples/zmigrate.example.toml",
        "usr/share/doc/zmigrate/examples/root.conf",
        "usr/share/doc/zmigrate/unprivileged.md",
        "usr/share/doc/zmigrate/copyright",
        "usr/share/man/man1/zmigrate.1.gz",
        "usr/share/man/man1/zmigrate-push.1.gz",
        "usr/share/man/man1/zmigrate-job-run.1.gz",
        "usr/share/man/man1/zmigrated.1.gz",
    ] {
        assert!(files.contains_key(path), "{path} is missing:\n{list}");
    }
}

fn what_it_says_of_itself(deb: &Path) {
    let field = |name: &str| run("dpkg-deb", &["-f", &deb.display().to_string(), name]).unwrap().trim().to_owned();
    assert_eq!(field("Package"), "zmigrate");
    assert!(field("Version").starts_with(concat!(env!("CARGO_PKG_VERSION"), "-")), "{}", field("Version"));
    let depends = field("Depends");
    assert!(depends.contains("libc6 (>= ") && depends.contains("adduser"), "{depends}");
    assert!(field("Recommends").contains("zfsutils-linux"));
    let dir = unpacked(deb);
    let scripts = dir.path().join("DEBIAN");
    for (name, does) in [
        ("postinst", "deb-systemd-invoke"),
        ("prerm", "deb-systemd-invoke stop"),
        ("postrm", "deb-systemd-helper purge"),
    ] {
        let text = fs::read_to_string(scripts.join(name)).unwrap();
        assert!(text.contains(does) && !text.contains("#DEBHELPER#"), "{name}:\n{text}");
        run("sh", &["-n", &scripts.join(name).display().to_string()]).unwrap();
    }
    assert!(!scripts.join("conffiles").exists());
}

fn its_programs_run_and_have_pages(deb: &Path) {
    let dir = unpacked(deb);
    let at = |path: &str| dir.path().join(path).display().to_string();
    for name in ["zmigrate", "zmigrated"] {
        let version = run(&at(&format!("usr/bin/{name}")), &["--version"]).unwrap();
        assert_eq!(version.trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
        // Debug information is four fifths of what cargo builds.
        let sections = run("readelf", &["-SW", &at(&format!("usr/bin/{name}"))]).unwrap();
        assert!(
            sections.contains(" .text ") && !sections.contains(" .debug_info "),
            "{name} was not stripped:\n{sections}"
        );
    }
    let page = run("zcat", &[&at("usr/share/man/man1/zmigrate-push.1.gz")]).unwrap();
    assert!(page.contains(".TH zmigrate-push 1") && page.contains("rollback"), "{page}");
}

/// A root directory with the package's units and the targets of this host, which they name.
fn with_targets(deb: &Path) -> tempfile::TempDir {
    let root = unpacked(deb);
    run(
        "sh",
        &["-c", &format!("cp /usr/lib/systemd/system/*.target {}/usr/lib/systemd/system/", root.path().display())],
    )
    .unwrap();
    // ExecReload.
    fs::create_dir(root.path().join("bin")).unwrap();
    fs::copy("/bin/kill", root.path().join("bin/kill")).unwrap();
    root
}

fn systemd_takes_its_units_also_with_the_drop_in_for_root(deb: &Path) {
    let root = with_targets(deb);
    let verify = || {
        let script =
            format!("systemd-analyze verify --man=no --root={} {} 2>&1", root.path().display(), UNITS.join(" "));
        run("sh", &["-c", &script])
    };
    assert_eq!(verify(), Ok(String::new()));
    let beside = root.path().join("etc/systemd/system/zmigrated.service.d");
    fs::create_dir_all(&beside).unwrap();
    fs::copy(root.path().join("usr/share/doc/zmigrate/examples/root.conf"), beside.join("root.conf")).unwrap();
    assert_eq!(verify(), Ok(String::new()));
}

fn its_units_leave_little_open(deb: &Path) {
    let root = with_targets(deb);
    for unit in &UNITS[..2] {
        let root = format!("--root={}", root.path().display());
        let said = run("systemd-analyze", &["security", "--offline=true", "--threshold", EXPOSURE, &root, unit]);
        assert!(said.as_ref().is_ok_and(|text| text.contains("exposure level")), "{unit}: {said:?}");
    }
}
