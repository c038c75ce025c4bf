//! The packages that `scripts/package all` made: what is in the Debian package, what its completions complete in their shells,
//! whether systemd takes its units and how much they leave open, whether the static programs are static, and the image in a
//! Docker Engine of our own.
//!
//! What was not made, or needs what is not here, is reported as ignored, aloud; `ZMIGRATE_REQUIRE=package` turns that into
//! failures. The Debian package is installed, used and removed in the lab (`tests/lab/package.rs`).

// The harness is libtest-mimic, so clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod completions;
mod deb;
mod image;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Failed, Trial};

/// A name, and what is done with the package at that path.
type Case = (&'static str, fn(&Path));

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let must_be = std::env::var("ZMIGRATE_REQUIRE").unwrap_or_default().split(',').any(|word| word.trim() == "package");
    let mut trials = Vec::new();
    let of_deb = |program: &str| made("zmigrate_", ".deb").and_then(|p| need(p, &["dpkg-deb", program]));
    for (kind, found, cases) in [
        ("deb", of_deb("systemd-analyze"), deb::CASES),
        ("bash", of_deb("bash"), completions::BASH),
        ("zsh", of_deb("zsh"), completions::ZSH),
        ("fish", of_deb("fish"), completions::FISH),
        ("image", made("image", ".tar").and_then(|p| need(p, &["dockerd", "docker", "chroot"])), image::CASES),
    ] {
        if let (Err(why), false) = (&found, args.list) {
            eprintln!("package: NO {kind} HERE, its {} trials do not run: {why}", cases.len());
        }
        for &(name, run) in cases {
            let (found, ignored) = (found.clone(), found.is_err() && !must_be);
            let trial = move || {
                let path = found.map_err(Failed::from)?;
                let _timed = common::Timed::new(name);
                run(&path);
                Ok(())
            };
            trials.push(Trial::test(format!("{kind}::{name}"), trial).with_ignored_flag(ignored));
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

/// The file in `target/package` whose name begins and ends so.
fn made(begin: &str, end: &str) -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/package");
    let found = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(begin) && name.ends_with(end)
    });
    found.ok_or_else(|| format!("{begin}*{end} was not made: scripts/package all"))
}

/// That path, if these programs are there, and we are root.
fn need(path: PathBuf, programs: &[&str]) -> Result<PathBuf, String> {
    for program in programs {
        common::run("which", &[program]).map_err(|_| format!("there is no {program}; scripts/setup installs it"))?;
    }
    if common::run("id", &["-u"])?.trim() == "0" { Ok(path) } else { Err("it needs root".to_owned()) }
}
