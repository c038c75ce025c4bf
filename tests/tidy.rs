//! Holds up what no compiler checks: which layer may name which, sizes of files, words that do not belong, scripts' headers.
//!
//! Invariant: a layer names only those above it, and the pure layers name no runtime, clock, file, socket or process. Every
//! breach is a line `path:line: what is wrong`, and all are shown at once. It reads the source as text, so a name that a macro
//! puts together escapes it.

#![allow(clippy::unwrap_used, reason = "a test may end with a panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Files longer than this hold two things. Modules of tests count.
const LINES_PER_FILE: usize = 500;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Who may name whom. A module may name itself, and those listed.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &["limits"]),
    ("limits", &["types"]),
    ("stream", &["types", "limits"]),
    ("wire", &["types", "limits", "stream"]),
    ("plan", &["types", "limits", "stream"]),
    ("cutover", &["types", "limits", "plan"]),
    ("hook", &["types", "limits", "cutover"]),
    ("inventory", &["types", "limits", "stream"]),
    ("releases", &["types", "limits"]),
    ("jobs", &["types", "limits", "plan"]),
    ("config", &["types", "limits", "hook", "jobs", "plan", "identity"]),
    ("identity", &["types", "limits"]),
    ("content", &["types", "limits"]),
    ("port", &["types", "limits", "stream", "wire", "plan", "cutover", "hook", "jobs"]),
    ("channel", &["types", "limits", "wire", "port"]),
    ("pipe", &["types", "limits", "stream", "wire", "port", "channel"]),
    (
        "session",
        &[
            "types",
            "limits",
            "stream",
            "wire",
            "plan",
            "cutover",
            "inventory",
            "jobs",
            "content",
            "port",
            "identity",
            "channel",
            "pipe",
        ],
    ),
    (
        "driver",
        &[
            "types", "limits", "stream", "wire", "plan", "cutover", "jobs", "content", "port", "identity", "channel",
            "pipe", "session",
        ],
    ),
    ("doctor", &["types", "limits", "wire", "port", "releases", "jobs", "config", "identity", "channel", "session"]),
    ("runner", BELOW_DRIVER),
    ("daemon", BELOW_DRIVER),
    ("cli", BELOW_DRIVER),
    ("control", BELOW_DRIVER),
    ("web", BELOW_DRIVER),
    ("plugin", BELOW_DRIVER),
    (
        "adapter",
        &["types", "limits", "stream", "wire", "plan", "cutover", "hook", "jobs", "port", "config", "identity"],
    ),
    ("fake", &["types", "limits", "stream", "wire", "plan", "cutover", "port"]),
];

/// What the outermost layers may name. `host` is the wiring, and gives them the adapters as ports.
const BELOW_DRIVER: &[&str] = &[
    "types",
    "limits",
    "stream",
    "wire",
    "plan",
    "cutover",
    "hook",
    "port",
    "config",
    "identity",
    "channel",
    "pipe",
    "session",
    "driver",
    "host",
    "jobs",
    "runner",
    "daemon",
    "cli",
    "control",
    "web",
    "plugin",
    "inventory",
    "releases",
    "doctor",
];

/// Layers that decide, and therefore own no runtime, clock, file, socket or process.
const PURE: &[&str] =
    &["types", "limits", "stream", "wire", "plan", "cutover", "hook", "inventory", "releases", "jobs"];

/// What the pure layers must not name.
const EFFECTS: &[&str] = &[
    "tokio",
    "rustix",
    "std::fs",
    "std::process",
    "std::env",
    "std::thread",
    "SystemTime::now",
    "Instant::now",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::os::unix::net",
];

/// What tests of a pure layer may name all the same: `proptest` cases and fixtures live in files.
const EFFECTS_IN_TESTS: &[&str] = &["std::fs", "std::env", "std::thread"];

/// The parts of a package that implement the ports. Only the wiring and tests name them.
const IMPLEMENTATIONS: &[&str] = &["adapter", "fake"];

/// One line of a source file, without comments and the insides of literals.
struct Line {
    number: usize,
    code: String,
    in_test: bool,
}

/// A source file taken apart.
struct Source {
    path: String,
    text: String,
    lines: Vec<Line>,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        Self::parse(path, text)
    }

    fn parse(path: String, text: String) -> Self {
        let bare = blank(&text);
        let whole_file_is_test = path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/");
        let mut lines = Vec::new();
        // The depth of braces at which the current `#[cfg(test)]` item began; it ends with its brace, or a semicolon.
        let (mut depth, mut test_at, mut pending) = (0_i32, None, false);
        for (i, code) in bare.lines().enumerate() {
            if test_at.is_none() && is_test_attribute(code) {
                pending = true;
            }
            let mut in_test = whole_file_is_test || pending || test_at.is_some();
            for c in code.chars() {
                match c {
                    '{' => {
                        if pending {
                            (test_at, pending) = (Some(depth), false);
                        }
                        depth += 1;
                    }
                    '}' => {
                        depth -= 1;
                        if test_at == Some(depth) {
                            test_at = None;
                        }
                    }
                    ';' if pending => pending = false,
                    _ => {}
                }
                in_test |= test_at.is_some();
            }
            lines.push(Line { number: i + 1, code: code.to_owned(), in_test });
        }
        Source { path, text, lines }
    }

    /// The top module a file belongs to: `plan` for `src/plan.rs` and `src/plan/step.rs`.
    fn layer(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
    }

    fn breach(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn is_test_attribute(code: &str) -> bool {
    let code: String = code.split_whitespace().collect();
    code.contains("#[cfg(test)]") || code.contains("#[cfg(all(test") || code.contains("#[cfg(any(test")
}

/// The text with comments and the insides of string and character literals turned into spaces; line breaks stay.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    // Copies `n` characters as spaces, and keeps line breaks.
    let skip = |out: &mut String, i: &mut usize, n: usize| {
        for _ in 0..n {
            if let Some(&c) = chars.get(*i) {
                out.push(if c == '\n' { '\n' } else { ' ' });
                *i += 1;
            }
        }
    };
    while i < chars.len() {
        let word_before = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        if at(i) == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                skip(&mut out, &mut i, 1);
            }
        } else if at(i) == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                if at(i) == '/' && at(i + 1) == '*' {
                    depth += 1;
                    skip(&mut out, &mut i, 2);
                } else if at(i) == '*' && at(i + 1) == '/' {
                    depth -= 1;
                    skip(&mut out, &mut i, 2);
                } else {
                    skip(&mut out, &mut i, 1);
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if !word_before && raw_string_hashes(&chars, i).is_some() {
            let (quote, hashes) = raw_string_hashes(&chars, i).unwrap();
            let n = quote + 1 - i;
            skip(&mut out, &mut i, n);
            while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|k| at(i + k) == '#')) {
                skip(&mut out, &mut i, 1);
            }
            skip(&mut out, &mut i, hashes + 1);
        } else if at(i) == '"' {
            skip(&mut out, &mut i, 1);
            while i < chars.len() && at(i) != '"' {
                let n = if at(i) == '\\' { 2 } else { 1 };
                skip(&mut out, &mut i, n);
            }
            skip(&mut out, &mut i, 1);
        } else if at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character; with one quote alone it is a lifetime.
            let n = if at(i + 1) == '\\' { 3 } else { 2 };
            skip(&mut out, &mut i, n);
            while i < chars.len() && at(i) != '\'' {
                skip(&mut out, &mut i, 1);
            }
            skip(&mut out, &mut i, 1);
        } else {
            out.push(at(i));
            i += 1;
        }
    }
    out
}

/// Where a raw string that starts at `i` has its quote, and how many hashes go with it.
fn raw_string_hashes(chars: &[char], i: usize) -> Option<(usize, usize)> {
    let mut j = i;
    if chars.get(j) == Some(&'b') {
        j += 1;
    }
    if chars.get(j) != Some(&'r') {
        return None;
    }
    j += 1;
    let from = j;
    while chars.get(j) == Some(&'#') {
        j += 1;
    }
    (chars.get(j) == Some(&'"')).then_some((j, j - from))
}

/// The top modules of this crate that a line of code names: after `crate::` or `zmigrate::`, also in a `{…}` list.
fn modules_named(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for root in ["crate::", "zmigrate::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &code[at + root.len()..];
            if let Some(list) = rest.strip_prefix('{') {
                names.extend(top_of_list(list));
            } else {
                names.push(word(rest));
            }
        }
    }
    names
}

/// The first words of a `use` list's own members, up to its closing brace.
fn top_of_list(list: &str) -> Vec<String> {
    let (mut depth, mut start, mut out) = (0, true, Vec::new());
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && !c.is_whitespace() => {
                out.push(word(&list[i..]));
                start = false;
            }
            _ => {}
        }
    }
    out
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Statements that begin with `use` may run over several lines: joins them, under the number of the first.
fn statements(source: &Source) -> Vec<(usize, bool, String)> {
    let mut out: Vec<(usize, bool, String)> = Vec::new();
    let mut open = false;
    for line in &source.lines {
        let code = line.code.trim();
        if open {
            let last = out.last_mut().unwrap();
            let _ = write!(last.2, " {code}");
        } else {
            out.push((line.number, line.in_test, code.to_owned()));
        }
        let begins = code.starts_with("use ") || (code.starts_with("pub") && code.contains(" use "));
        open = (open || begins) && !code.contains(';');
    }
    out
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &Path, keep: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return out };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            out.extend(files_below(&path, keep));
        } else if keep(&path) {
            out.push(path);
        }
    }
    out
}

fn rust_sources() -> Vec<Source> {
    let root = root();
    let files = files_below(&root.join("src"), &|p| p.extension().is_some_and(|e| e == "rs"));
    assert!(files.len() > 3, "src/ was not found");
    let mut sources: Vec<Source> = files.iter().map(|p| Source::read(&root, p)).collect();
    mark_test_files(&mut sources);
    sources
}

/// A file that is there for `#[cfg(test)] mod name;` is all test.
fn mark_test_files(sources: &mut [Source]) {
    let mut stems = Vec::new();
    for source in sources.iter() {
        let dir = source.path.strip_suffix("/mod.rs").or_else(|| source.path.strip_suffix("/lib.rs"));
        let dir = dir.unwrap_or_else(|| source.path.trim_end_matches(".rs"));
        for line in source.lines.iter().filter(|l| l.in_test) {
            if let Some((_, rest)) = line.code.split_once("mod ")
                && rest.trim_end().ends_with(';')
            {
                stems.push(format!("{dir}/{}", word(rest)));
            }
        }
    }
    for source in sources {
        if stems.iter().any(|s| source.path == format!("{s}.rs") || source.path.starts_with(&format!("{s}/"))) {
            source.lines.iter_mut().for_each(|l| l.in_test = true);
        }
    }
}

fn hold(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

fn layer_breaches(source: &Source) -> Vec<String> {
    let layer = source.layer();
    let mut out = Vec::new();
    let free = matches!(layer, "lib" | "bin" | "host" | "main");
    let allowed = LAYERS.iter().find(|(name, _)| *name == layer).map(|(_, allowed)| *allowed);
    if allowed.is_none() && !free {
        out.push(source.breach(1, format_args!("module `{layer}` has no place among the layers of tests/tidy.rs")));
    }
    for (number, in_test, code) in statements(source) {
        for name in modules_named(&code) {
            let implementation = IMPLEMENTATIONS.contains(&name.as_str());
            if name == layer || (in_test && implementation) {
                continue;
            }
            if implementation && layer != "host" && layer != "lib" {
                out.push(
                    source.breach(number, format_args!("only host.rs and tests name `{name}`, which implements ports")),
                );
            } else if let Some(allowed) = allowed
                && LAYERS.iter().any(|(known, _)| *known == name)
                && !allowed.contains(&name.as_str())
            {
                out.push(
                    source.breach(number, format_args!("`{layer}` must not name `{name}`, which is not above it")),
                );
            }
        }
    }
    out
}

fn purity_breaches(source: &Source) -> Vec<String> {
    if !PURE.contains(&source.layer()) {
        return Vec::new();
    }
    let mut out = Vec::new();
    for (number, in_test, code) in statements(source) {
        // `use std::{fs, io}` names std::fs as well.
        let listed = code.split_once("std::{").map(|(_, list)| top_of_list(list)).unwrap_or_default();
        for effect in EFFECTS {
            if in_test && EFFECTS_IN_TESTS.contains(effect) {
                continue;
            }
            let in_list = effect.strip_prefix("std::").is_some_and(|name| listed.iter().any(|l| l == name));
            if in_list || names(&code, effect) {
                out.push(
                    source.breach(number, format_args!("`{}` is pure and must not name `{effect}`", source.layer())),
                );
            }
        }
    }
    out
}

/// Whether `code` has `path` as whole words.
fn names(code: &str, path: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    code.match_indices(path)
        .any(|(at, _)| edge(code[..at].chars().next_back()) && edge(code[at + path.len()..].chars().next()))
}

fn panic_breaches(source: &Source) -> Vec<String> {
    let calls = [".unwrap()", ".expect(", ".unwrap_err()", ".expect_err("];
    let bad = |line: &&Line| !line.in_test && calls.iter().any(|c| line.code.contains(c));
    source
        .lines
        .iter()
        .filter(bad)
        .map(|line| source.breach(line.number, "unwrap or expect outside of tests: return an error, or match"))
        .collect()
}

fn word_breaches(path: &str, text: &str) -> Vec<String> {
    // Put together here, so that this file passes its own rule.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["/wo", "rk/"].concat()];
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for w in words.iter().filter(|w| line.contains(w.as_str())) {
            out.push(format!("{path}:{}: `{w}` does not belong here", i + 1));
        }
    }
    out
}

fn size_breach(path: &str, lines: usize) -> Option<String> {
    let excused = LONG_FILES.iter().any(|(p, _)| *p == path);
    (lines > LINES_PER_FILE && !excused)
        .then(|| format!("{path}:{lines}: {lines} lines, more than {LINES_PER_FILE}: it holds two things"))
}

fn doc_breach(source: &Source) -> Option<String> {
    let first = source.text.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
    let all_test = source.lines.iter().all(|l| l.in_test);
    (!first.starts_with("//!") && !all_test).then(|| source.breach(1, "does not open with module docs (//!)"))
}

fn script_breaches(path: &str, text: &str, executable: bool) -> Vec<String> {
    let mut out = Vec::new();
    let mut lines = text.lines();
    if !lines.next().is_some_and(|l| l.starts_with("#!")) {
        out.push(format!("{path}:1: no #! line"));
    }
    let names_itself = lines.next().is_some_and(|l| l.starts_with("# ") && l.contains(&format!("{path}:")));
    if !names_itself {
        out.push(format!("{path}:2: the header comment must begin with `# {path}: ` and say what it does"));
    }
    let header: Vec<&str> = text.lines().skip(1).take_while(|l| l.starts_with('#')).collect();
    if !header.iter().any(|l| l.to_lowercase().contains("leave") || l.contains("Ends with")) {
        out.push(format!("{path}:2: the header comment does not say what it leaves behind"));
    }
    let bash = text.lines().next().is_some_and(|l| l.ends_with("bash"));
    if bash && !path.ends_with("lab.d/init") && !text.lines().any(|l| l == "set -euo pipefail") {
        out.push(format!("{path}:1: no `set -euo pipefail`"));
    }
    if !executable {
        out.push(format!("{path}:1: is not executable"));
    }
    out
}

#[test]
fn layers_name_only_those_above() {
    hold(rust_sources().iter().flat_map(layer_breaches).collect());
}

#[test]
fn pure_layers_have_no_effects() {
    hold(rust_sources().iter().flat_map(purity_breaches).collect());
}

#[test]
fn nothing_unwraps_outside_of_tests() {
    hold(rust_sources().iter().flat_map(panic_breaches).collect());
}

#[test]
fn files_are_short() {
    hold(rust_sources().iter().filter_map(|s| size_breach(&s.path, s.text.lines().count())).collect());
}

#[test]
fn modules_open_with_docs() {
    hold(rust_sources().iter().filter_map(doc_breach).collect());
}

#[test]
fn no_words_that_do_not_belong() {
    let root = root();
    let mut files = Vec::new();
    for dir in ["src", "tests", "scripts", "packaging", "benches", "docs", "fuzz/fuzz_targets", ".ci"] {
        files.extend(files_below(&root.join(dir), &|_| true));
    }
    files.extend(
        fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "md")),
    );
    let mut breaches = Vec::new();
    for file in files {
        // Fixtures of bytes are no text.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        breaches.extend(word_breaches(&file.strip_prefix(&root).unwrap().to_string_lossy(), &text));
    }
    hold(breaches);
}

#[test]
fn scripts_say_what_they_do() {
    use std::os::unix::fs::PermissionsExt;
    let root = root();
    let runs = |p: &Path| fs::read(p).is_ok_and(|bytes| bytes.starts_with(b"#!"));
    let mut files = files_below(&root.join("scripts"), &runs);
    // What lies directly in scripts/ is there to be run, #! or not.
    files.extend(
        fs::read_dir(root.join("scripts")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file() && !runs(p)),
    );
    files.push(root.join(".ci/run"));
    let mut breaches = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let executable = fs::metadata(&file).unwrap().permissions().mode() & 0o111 == 0o111;
        breaches.extend(script_breaches(&file.strip_prefix(&root).unwrap().to_string_lossy(), &text, executable));
    }
    hold(breaches);
}

/// The rules themselves, each given something to find. Otherwise a rule that finds nothing would look like a tidy tree.
mod rules {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::parse(path.to_owned(), text.to_owned())
    }

    #[test]
    fn a_layer_below_is_found_also_in_lists() {
        let s = source(
            "src/plan/mod.rs",
            "//! x\nuse crate::{\n    types::Guid,\n    session::Run,\n};\nfn f() { crate::cli::go() }\n",
        );
        let found = layer_breaches(&s);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("src/plan/mod.rs:2: `plan` must not name `session`"), "{found:?}");
        assert!(found[1].starts_with("src/plan/mod.rs:6: `plan` must not name `cli`"), "{found:?}");
    }

    #[test]
    fn implementations_are_for_the_wiring_and_tests() {
        let text = "use crate::fake::Zfs;\n#[cfg(test)]\nmod tests {\n    use crate::fake::Zfs;\n}\n";
        assert_eq!(layer_breaches(&source("src/session/mod.rs", text)).len(), 1);
        assert_eq!(layer_breaches(&source("src/host.rs", text)).len(), 0);
        assert_eq!(layer_breaches(&source("src/bin/zmigrate.rs", "use zmigrate::adapter::cli::Zfs;\n")).len(), 1);
    }

    #[test]
    fn an_unknown_module_needs_a_place() {
        assert_eq!(layer_breaches(&source("src/misc.rs", "//! x\n")).len(), 1);
    }

    #[test]
    fn effects_are_found_but_not_in_comments_and_strings() {
        let text = "use std::{fs, io};\n// tokio\nconst A: &str = \"tokio\";\nfn f() { let t = std::time::Instant::now(); }\nlet x = tokios;\n";
        let found = purity_breaches(&source("src/cutover/step.rs", text));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("src/cutover/step.rs:1:") && found[1].starts_with("src/cutover/step.rs:4:"),
            "{found:?}"
        );
        assert!(purity_breaches(&source("src/pipe/mod.rs", text)).is_empty());
    }

    #[test]
    fn unwrap_is_found_before_and_after_tests() {
        let text = "fn a() { b().unwrap(); }\n#[cfg(test)]\nmod t {\n    fn c() { d('{').unwrap(); let r = r#\"\"}\"#; }\n}\nfn e<'a>() { f().expect(\"x\"); }\n";
        let lines: Vec<String> = panic_breaches(&source("src/x.rs", text));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("src/x.rs:1:") && lines[1].starts_with("src/x.rs:6:"), "{lines:?}");
    }

    #[test]
    fn words_sizes_docs_and_scripts_are_found() {
        assert_eq!(word_breaches("a", &["fine", &["TO", "DO"].concat()].join("\n")).len(), 1);
        assert!(
            size_breach("src/a.rs", LINES_PER_FILE + 1).is_some() && size_breach("src/a.rs", LINES_PER_FILE).is_none()
        );
        assert!(doc_breach(&source("src/a.rs", "use x;\n")).is_some());
        assert_eq!(script_breaches("scripts/a", "#!/bin/bash\necho\n", false).len(), 4);
    }
}
