//! What goes to stdout and stderr, and how.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where the programs print")]

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

use super::args::OutputFormat;
use crate::types::{Failure, FailureClass};

/// The result of a command, as text or JSON.
pub struct Output {
    format: OutputFormat,
    quiet: bool,
    /// Objects that are to be part of another one.
    gathered: Option<Mutex<Vec<serde_json::Value>>>,
}

#[derive(Serialize)]
struct FailureObject<'a> {
    result: &'static str,
    exit_code: u8,
    error: &'a Failure,
}

impl Output {
    /// Prints in that format; `quiet` keeps text results back.
    pub fn new(format: OutputFormat, quiet: bool) -> Output {
        Output { format, quiet, gathered: None }
    }

    /// One like this that keeps objects for [`Output::gathered`], as a command prints one object alone.
    pub fn gathering(&self) -> Output {
        Output { gathered: Some(Mutex::default()), ..Output::new(self.format, self.quiet) }
    }

    /// The objects so far, in their order.
    pub fn gathered(&self) -> Vec<serde_json::Value> {
        let mut objects = self.gathered.as_ref().map(|all| all.lock().unwrap_or_else(PoisonError::into_inner));
        objects.as_mut().map(|all| std::mem::take(&mut **all)).unwrap_or_default()
    }

    fn object(&self, object: &impl Serialize) {
        match &self.gathered {
            Some(all) => {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(
                    serde_json::to_value(object).unwrap_or_else(|e| serde_json::json!({ "error": e.to_string() })),
                );
            }
            None => print_line(&json(object)),
        }
    }

    /// True if a program reads the result.
    pub fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints a result: the object as JSON, or the text.
    pub fn result(&self, object: &impl Serialize, text: impl std::fmt::Display) {
        match self.format {
            OutputFormat::Json => self.object(object),
            OutputFormat::Text if self.quiet => {}
            OutputFormat::Text => {
                let text = text.to_string();
                if !text.is_empty() {
                    print_line(text.trim_end_matches('\n'));
                }
            }
        }
    }

    /// As [`Output::result`], of a command that judges: what it found wrong is an error, which `quiet` does not keep back.
    pub fn verdict(&self, exit_code: u8, object: &impl Serialize, text: impl std::fmt::Display) {
        if exit_code == 0 { self.result(object, text) } else { self.must_say(object, text) }
    }

    /// As [`Output::result`], and not kept back by `quiet`: for what the command is there to print.
    pub fn must_say(&self, object: &impl Serialize, text: impl std::fmt::Display) {
        match self.format {
            OutputFormat::Json => self.object(object),
            OutputFormat::Text => print_line(text.to_string().trim_end_matches('\n')),
        }
    }

    /// Prints a failure that ends the command: words on stderr, and the object on stdout for programs.
    pub fn failure(&self, failure: &Failure) {
        print_failure(failure);
        if self.is_json() {
            let exit_code = failure.class.exit_code();
            self.object(&FailureObject { result: "failed", exit_code, error: failure });
        }
    }
}

fn json(object: &impl Serialize) -> String {
    serde_json::to_string_pretty(object).unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"))
}

/// A closed stdout, as with `| head`, is no reason to panic.
fn print_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Words for a person: the cause, then what to do.
pub fn print_failure(failure: &Failure) {
    let _ = writeln!(std::io::stderr(), "error: {failure}");
    if let Some(hint) = &failure.hint {
        let _ = writeln!(std::io::stderr(), "hint: {hint}");
    }
}

/// A line on stderr.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Sends tracing to stderr. `RUST_LOG` overrules the flags.
pub fn log_to_stderr(verbose: u8, quiet: bool, json: bool) {
    let daemon_or_verbose = if json || verbose > 0 { "info" } else { "warn" };
    let default = match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) if is_daemon() => "info",
        (_, 0 | 1) => daemon_or_verbose,
        (_, 2) => "zmigrate=debug,info",
        _ => "zmigrate=trace,debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(BoxMakeWriter::new(std::io::stderr));
    // A second initialisation, as in tests, changes nothing.
    let _ = if json {
        builder.json().try_init().map_err(drop)
    } else if is_daemon() {
        builder.with_target(false).with_ansi(false).try_init().map_err(drop)
    } else {
        builder.with_target(false).without_time().with_ansi(false).try_init().map_err(drop)
    };
}

fn is_daemon() -> bool {
    std::env::args_os().next().is_some_and(|name| name.to_string_lossy().ends_with("zmigrated"))
}

/// The async runtime.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(FailureClass::Internal, format!("cannot start threads: {e}")))
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(super) fn failure_sample(error: &Failure) -> serde_json::Value {
    serde_json::to_value(FailureObject { result: "failed", exit_code: error.class.exit_code(), error }).unwrap()
}
