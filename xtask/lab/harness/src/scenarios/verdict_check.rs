//! The verdicts of `poisontrace explain --from` on a recording of the lab, compared with the expected ones.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::story::Verdict;
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

/// One of the incidents must have one of the accepted verdicts; without any there must be no incident.
pub fn judge(accepted: &[Verdict], incidents: &[Value]) -> Result<()> {
    let found = in_words(incidents);
    let Some(first) = accepted.first() else {
        ensure!(
            incidents.is_empty(),
            "expected no incident, poisontrace reports {found}"
        );
        return Ok(());
    };
    let is = |incident: &Value, verdict: &Verdict| {
        incident["outcome"] == verdict.outcome && incident["cause"] == verdict.cause
    };
    ensure!(
        incidents
            .iter()
            .any(|incident| accepted.iter().any(|verdict| is(incident, verdict))),
        "expected {} by {}, poisontrace reports {found}",
        first.outcome,
        first.cause
    );
    Ok(())
}
