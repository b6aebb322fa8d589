//! What `poisontrace explain --from` says of a recording that the lab left, against what it must say.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::story::Told;
use xtask_support::command;

/// The incidents of a recording.
pub fn incidents(daemon: &Path, recording: &Path) -> Result<Vec<Value>> {
    ensure!(recording.is_file(), "the lab left no {}", recording.display());
    let output = command::clean(daemon)
        .args(["explain", "--format", "json", "--from"])
        .arg(recording)
        .output()
        .context("cannot start poisontrace")?;
    ensure!(
        output.status.success(),
        "explain --from {}: {}: {}",
        recording.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let answer: Value = serde_json::from_slice(&output.stdout).context("explain printed no JSON")?;
    Ok(answer["incidents"].as_array().cloned().unwrap_or_default())
}

/// Outcome, cause and confidence of each.
pub fn in_words(incidents: &[Value]) -> String {
    let word = |incident: &Value, key: &str| incident[key].as_str().unwrap_or("?").to_owned();
    let all: Vec<String> = incidents
        .iter()
        .map(|i| {
            format!(
                "{} by {} ({})",
                word(i, "outcome"),
                word(i, "cause"),
                word(i, "confidence")
            )
        })
        .collect();
    if all.is_empty() {
        return "no incident".to_owned();
    }
    all.join(", ")
}

/// One of the incidents must say so, or what else may be told; none may be there where nothing is to be told.
pub fn judge(told: &[Told], incidents: &[Value]) -> Result<()> {
    let found = in_words(incidents);
    let Some(first) = told.first() else {
        ensure!(
            incidents.is_empty(),
            "expected no incident, poisontrace says {found}"
        );
        return Ok(());
    };
    let is = |incident: &Value, told: &Told| {
        incident["outcome"] == told.outcome && incident["cause"] == told.cause
    };
    ensure!(
        incidents
            .iter()
            .any(|incident| told.iter().any(|told| is(incident, told))),
        "expected {} by {}, poisontrace says {found}",
        first.outcome,
        first.cause
    );
    Ok(())
}
