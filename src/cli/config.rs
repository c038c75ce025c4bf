//! `zmigrate config`.

use serde::Serialize;

use super::{
    args::{ConfigCommand, Global},
    output::Output,
};
use crate::{
    config::{Severity, check},
    host,
    identity::When,
    types::Failure,
};

#[derive(Serialize)]
struct Checked {
    files: Vec<std::path::PathBuf>,
    findings: Vec<FindingObject>,
}

#[derive(Serialize)]
struct FindingObject {
    severity: &'static str,
    message: String,
    hint: Option<String>,
}

pub fn run(global: &Global, command: ConfigCommand, output: &Output) -> Result<u8, Failure> {
    let ConfigCommand::Check = command;
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let findings = check(&config, When::now());
    let worst = findings.iter().map(|f| f.severity).max();
    let mut text: Vec<String> = findings.iter().map(ToString::to_string).collect();
    text.push(match worst {
        Some(Severity::Error) => "the configuration has errors".to_owned(),
        Some(Severity::Warning) => "the configuration works; see the warnings".to_owned(),
        _ => "the configuration is good".to_owned(),
    });
    let object = Checked {
        files: config.files.clone(),
        findings: findings
            .into_iter()
            .map(|f| FindingObject {
                severity: match f.severity {
                    Severity::Note => "note",
                    Severity::Warning => "warning",
                    Severity::Error => "error",
                },
                message: f.message,
                hint: f.hint,
            })
            .collect(),
    };
    let exit_code = if worst == Some(Severity::Error) { 2 } else { 0 };
    output.verdict(exit_code, &object, text.join("\n"));
    Ok(exit_code)
}

/// With every field, for the test that holds docs/json.md to it.
#[cfg(test)]
pub(super) fn sample() -> serde_json::Value {
    let finding = FindingObject { severity: "note", message: "m".into(), hint: Some("h".into()) };
    serde_json::to_value(Checked { files: vec!["/f".into()], findings: vec![finding] }).unwrap()
}
