//! The alert rules and the dashboard: Prometheus' own `promtool` takes the rules, and both name metrics that there are.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use zmigrate::daemon::metrics::METRICS;

use crate::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![rules_and_dashboard_name_metrics_that_there_are]
}

pub fn promtool_cases() -> Vec<Case> {
    cases![promtool_takes_the_rules, rules_tell_when_they_should]
}

fn docs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// Why `promtool` cannot be asked, if so.
pub fn absent() -> Option<String> {
    match Command::new("promtool").arg("--version").output() {
        Ok(out) if out.status.success() => None,
        Ok(out) => Some(format!("promtool --version: {}", out.status)),
        Err(e) => Some(format!("there is no promtool (Debian's package prometheus has it): {e}")),
    }
}

fn promtool_takes_the_rules() {
    let out = Command::new("promtool").args(["check", "rules"]).arg(docs("alert-rules.yml")).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let rules = std::fs::read_to_string(docs("alert-rules.yml")).unwrap().matches("- alert:").count();
    assert!(out.status.success() && said.contains(&format!("SUCCESS: {rules} rules found")), "{said}");
}

/// A job that is late, by its lag or, without a peer, by its last run; and nobody else.
fn rules_tell_when_they_should() {
    let test = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/alert-rules-test.yml");
    let out = Command::new("promtool").args(["test", "rules"]).arg(test).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains("SUCCESS"), "{said}");
}

fn rules_and_dashboard_name_metrics_that_there_are() {
    let known: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    for file in ["alert-rules.yml", "grafana-dashboard.json"] {
        let text = fs::read_to_string(docs(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<&str> = words.filter(|word| word.starts_with("zmigrate_")).collect();
        assert!(named.len() > 4 && named.is_subset(&known), "{file}: {:?}", named.difference(&known));
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(docs("grafana-dashboard.json")).unwrap()).unwrap();
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() >= 8));
}
