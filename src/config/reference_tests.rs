//! Holds the defaults in docs/configuration.md to the code, and takes every piece of configuration that a document shows.

use std::{fs, path::PathBuf};

use super::*;

const REFERENCE: &str = include_str!("../../docs/configuration.md");

/// The least that the table of a key needs, a line for each key.
const LEAST: &[(&str, &[&str])] = &[
    ("peer", &["address = \"a\""]),
    ("grant", &["push = [\"t\"]"]),
    ("hook", &["stop = [\"/x\"]"]),
    ("job", &["direction = \"push\"", "dataset = \"t\"", "peer = \"p\"", "target = \"u\""]),
];

/// What a key stands beside, where it may not be alone.
const BESIDE: &[(&str, &str)] = &[
    ("grant.NAME.push", "pull = [\"t\"]"),
    ("hook.NAME.stop", "start = [\"/x\"]"),
    ("hook.NAME.docker_socket", "docker = \"x\""),
    ("hook.NAME.check_timeout_s", "check = [\"/x\"]"),
    ("job.NAME.exclude", "recursive = true"),
    ("job.NAME.verify_content", "verify = \"7d\""),
];

/// A configuration around `key`, with `line` in its place.
fn around(key: &str, line: Option<&str>) -> String {
    let beside = BESIDE.iter().find(|(other, _)| *other == key).map(|(_, line)| *line);
    let Some((table, last)) = key.split_once(".NAME.") else {
        return line.unwrap_or_default().to_owned();
    };
    let (_, least) = LEAST.iter().find(|(other, _)| *other == table).unwrap_or_else(|| panic!("{key}"));
    // One kind of hook excludes another; what is set already cannot be set again.
    let least = least.iter().filter(|line| !line.starts_with(&format!("{last} ="))).filter(|_| last != "docker_socket");
    let lines: Vec<&str> = least.copied().chain(beside).chain(line).collect();
    format!("[{table}.x]\n{}\n", lines.join("\n"))
}

/// The rows of the reference but those of `[limits]`: key and default.
fn rows() -> Vec<(&'static str, &'static str)> {
    let rows = REFERENCE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows = rows.map(|(key, rest)| (key, rest.split(" | ").next().unwrap_or_default()));
    rows.filter(|(key, _)| KEYS.contains(key)).collect()
}

#[test]
fn a_key_that_is_left_out_has_the_default_of_the_reference() {
    let rows = rows();
    assert_eq!(rows.len(), KEYS.len());
    for (key, default) in rows {
        let last = key.rsplit('.').next().unwrap_or(key);
        let without = around(key, None);
        if default.starts_with("none, required") {
            let error = Config::parse(&without, "z").expect_err(key).to_string();
            assert!(error.contains(&format!("has no {last}")), "{key}: {error}");
            continue;
        }
        Config::parse(&without, "z").unwrap_or_else(|e| panic!("{key}: {e}\n{without}"));
        if default == "none" || default.starts_with("none: ") {
            continue;
        }
        // `true` for push, `false` for pull; or: `false` for pull, else `true`.
        let pull = |text: &str| text.replace("direction = \"push\"", "direction = \"pull\"");
        let (push_default, pull_default) = match default.split_once(" for push, ") {
            Some((push, rest)) => (push, rest.strip_suffix(" for pull")),
            None => default.split_once(" for pull, else ").map_or((default, None), |(pull, rest)| (rest, Some(pull))),
        };
        for (default, turn) in [(Some(push_default), false), (pull_default, true)] {
            let Some(default) = default else { continue };
            let value = if default == "NAME" { "\"x\"" } else { default.trim_matches('`') };
            // Within its table, or as `zfs.command` at the top.
            let name = if key.contains(".NAME.") { last } else { key };
            let with = around(key, Some(&format!("{name} = {value}")));
            let (without, with) = if turn { (pull(&without), pull(&with)) } else { (without.clone(), with) };
            let read = |text: &str| Config::parse(text, "z").unwrap_or_else(|e| panic!("{key}: {e}\n{text}"));
            assert_eq!(read(&with), read(&without), "{key}: the reference says that {value} is its default");
        }
    }
}

/// The pieces of configuration in a document: fenced ones, and indented ones that begin with a table of ours.
fn pieces(document: &str) -> Vec<String> {
    let fenced = document.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned);
    let paragraphs = document.split("\n\n").filter(|p| {
        let name = p.trim_start_matches('\n').strip_prefix("    [");
        // Units of systemd begin with a capital.
        name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    });
    let indented = paragraphs.map(|p| p.lines().map(|line| line.trim_start()).collect::<Vec<_>>().join("\n"));
    fenced.chain(indented).collect()
}

/// The piece, as a part of a job if it begins with a key of one.
fn whole(piece: &str) -> String {
    let first = piece.lines().find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let key = first.split(" =").next().unwrap_or_default();
    if !KEYS.contains(&format!("job.NAME.{key}").as_str()) {
        return piece.to_owned();
    }
    let set = |least: &str| piece.lines().any(|line| line.starts_with(least.split('"').next().unwrap_or_default()));
    let (_, job) = LEAST[LEAST.len() - 1];
    let lines: Vec<&str> = job.iter().copied().filter(|least| !set(least)).collect();
    format!("[job.x]\n{}\n{piece}", lines.join("\n"))
}

#[test]
fn every_piece_of_configuration_in_the_documents_is_taken() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut documents: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    documents.push(root.join("README.md"));
    let mut taken = Vec::new();
    for path in documents {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for piece in pieces(&fs::read_to_string(&path).unwrap()) {
            let text = whole(&piece);
            Config::parse(&text, &name).unwrap_or_else(|e| panic!("{e}\n{text}"));
            taken.push(name.clone());
        }
    }
    // It does find them: in a fence, and indented.
    for name in ["README.md", "jobs.md", "configuration.md"] {
        assert!(taken.iter().any(|other| other == name), "{name} shows no configuration");
    }
}
