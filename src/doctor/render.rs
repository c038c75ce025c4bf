//! The report for people: one line a check, wrapped for 80 columns, with what to do below.

use std::fmt::Write;

use super::{Level, Report};
use crate::types::paragraph;

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
            (0, 1) => write!(text, "1 warning, {ok} OK"),
            (0, _) => write!(text, "{warn} warnings, {ok} OK"),
            _ => write!(text, "{fail} failed, {warn} warnings, {ok} OK; mend what failed first first"),
        };
    }
    text
}
