//! The report for people: one line a check, wrapped for 80 columns, with what to do below.

use std::fmt::Write;

use super::{Level, Report};

const WIDTH: usize = 80;
/// Where the text begins: behind `FAIL  peer grant  `.
const INDENT: usize = 18;

/// All checks and a last line that counts them. With `quiet` only what is not OK, and nothing if there is nothing.
pub fn text(report: &Report, quiet: bool) -> String {
    let mut text = String::new();
    for check in report.checks.iter().filter(|check| !quiet || check.level != Level::Ok) {
        let word = match check.level {
            Level::Ok => "OK",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        paragraph(&mut text, &format!("{word:<4}  {:<10}  ", check.topic), INDENT, &check.message);
        if let Some(hint) = &check.hint {
            paragraph(&mut text, &format!("{:INDENT$}→ ", ""), INDENT + 2, hint);
        }
    }
    let count = |level: Level| report.checks.iter().filter(|check| check.level == level).count();
    let (fail, warn, ok) = (count(Level::Fail), count(Level::Warn), count(Level::Ok));
    if !quiet {
        // Writing into a String does not fail.
        let _ = match (fail, warn) {
            (0, 0) => write!(text, "all {ok} checks are OK"),
            _ => write!(text, "{fail} failed, {warn} warnings, {ok} OK; what failed first is to be mended first"),
        };
    }
    text
}

/// Words behind `head`, and further lines `indent` columns in. What is longer than a line stays whole: it may be a path.
fn paragraph(to: &mut String, head: &str, indent: usize, words: &str) {
    let mut line = head.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            to.push_str(line.trim_end());
            to.push('\n');
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    to.push_str(line.trim_end());
    to.push('\n');
}
