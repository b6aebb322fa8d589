//! The verdicts of `poisontrace explain --from` on a recording of the lab, compared with the expected ones.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_protocol::vmm_fate::{TWO_VMS_EXITS, VmmFate};
use lab_protocol::{DEFERRED_STATUS, RASDAEMON_DATABASE};
use serde_json::Value;

use super::story::{Story, Verdict, of_fate};
use xtask_support::command;

/// The incidents of a recording.
pub fn incidents(daemon: &Path, recording: &Path) -> Result<Vec<Value>> {
    explain(daemon, &[recording])
}

/// The incidents of all files together.
pub fn explain(daemon: &Path, files: &[&Path]) -> Result<Vec<Value>> {
    for file in files {
        ensure!(file.is_file(), "the lab left no {}", file.display());
    }
    let output = command::clean(daemon)
        .args(["explain", "--format", "json", "--from"])
        .args(files)
        .output()
        .context("cannot start poisontrace")?;
    ensure!(
        output.status.success(),
        "explain --from {files:?}: {}: {}",
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

/// What must be known of a tiny VMM.
pub fn of_vmm(fate: VmmFate, incidents: &[Value]) -> Result<()> {
    if !VmmFate::CLAIMS.contains(&fate) {
        judge(of_fate(fate).as_slice(), incidents)?;
        return exits(fate, incidents);
    }
    if fate == VmmFate::Marked {
        judge(of_fate(fate).as_slice(), incidents)?;
    }
    claims(incidents, fate != VmmFate::ForgedWithoutVm)
}

/// Incidents of one process at most, of poison that it alone claims.
const MAX_CLAIMS: usize = 256;

/// Poison that no kernel has lost is a claim in each incident, and none is certain; of a process without a VM there is none.
pub fn claims(incidents: &[Value], of_a_vm: bool) -> Result<()> {
    claims_as(&["claimed"], incidents, of_a_vm)
}

/// The same on a host that had poisoned memory before: a page that its kernel has not named may be one of those.
pub fn claims_after_a_loss(fate: VmmFate, incidents: &[Value]) -> Result<()> {
    if fate == VmmFate::Marked {
        judge(of_fate(fate).as_slice(), incidents)?;
    }
    claims_as(
        &["claimed", "unknown"],
        incidents,
        fate != VmmFate::ForgedWithoutVm,
    )?;
    for incident in incidents {
        let pfn = &incident["page"]["pfn"];
        ensure!(pfn.is_null(), "a claim of {} is of pfn {pfn}", incident["id"]);
    }
    Ok(())
}

fn claims_as(origins: &[&str], incidents: &[Value], of_a_vm: bool) -> Result<()> {
    let count = incidents.len();
    ensure!(
        (count > 0) == of_a_vm && count <= MAX_CLAIMS,
        "{count} incidents of claims"
    );
    for incident in incidents {
        let (how, confidence) = (&incident["origin"]["how"], &incident["confidence"]);
        ensure!(
            how.as_str().is_some_and(|how| origins.contains(&how)) && confidence != "certain",
            "a claim of {} is {how}, {confidence}",
            incident["id"]
        );
    }
    Ok(())
}

/// The exits of two VMs in one process are all those of the one that lost a page, before and after the other is gone.
fn exits(fate: VmmFate, incidents: &[Value]) -> Result<()> {
    if fate != VmmFate::TwoVms {
        return Ok(());
    }
    let incident = incidents.first().context("no incident")?;
    let count = &incident["exits"]["count"];
    ensure!(
        *count == TWO_VMS_EXITS,
        "{count} exits in place of {TWO_VMS_EXITS}"
    );
    Ok(())
}

/// The error that the host's processor reported must be named, with its bank, and as nothing that software did.
pub fn origin(story: Story, incidents: &[Value]) -> Result<()> {
    if story != Story::MachineCheck {
        return Ok(());
    }
    let incident = incidents.first().context("no incident")?;
    let hex = |pointer: &str| -> Result<u64> {
        let text = incident
            .pointer(pointer)
            .and_then(Value::as_str)
            .and_then(|text| text.strip_prefix("0x"))
            .with_context(|| format!("{pointer} is no address: {}", incident["origin"]))?;
        Ok(u64::from_str_radix(text, 16)?)
    };
    ensure!(
        incident["origin"]["how"] == "found_by_scrubbing",
        "the origin is {}",
        incident["origin"]
    );
    let status = hex("/origin/machine_check/status")?;
    ensure!(status == DEFERRED_STATUS, "STATUS is {status:#x}");
    let (addr, pfn) = (hex("/origin/machine_check/addr")?, hex("/page/pfn")?);
    ensure!(addr == pfn << 12, "ADDR is {addr:#x}, of pfn {pfn:#x}");
    Ok(())
}

/// rasdaemon ran beside poisontrace and stored the same error: what is imported of its database beside the kernel's log must name
/// the same page, bank and time.
pub fn rasdaemon(daemon: &Path, out: &Path, prefix: &str, incidents: &[Value]) -> Result<()> {
    /// Seconds; rasdaemon's times are whole ones.
    const APART: u64 = 2;
    let incident = incidents.first().context("no incident")?;
    let name = format!("{prefix}{RASDAEMON_DATABASE}");
    let imported =
        explain(daemon, &[&out.join("host.log"), &out.join(&name)]).context("rasdaemon's database")?;
    let same = imported
        .iter()
        .find(|other| other["page"]["pfn"] == incident["page"]["pfn"])
        .with_context(|| format!("no imported incident of page {}", incident["page"]["pfn"]))?;
    let entries = same["timeline"].as_array().context("no timeline")?;
    let (message, source) = entries
        .iter()
        .filter_map(|entry| Some((entry["message"].as_str()?, entry["source"].as_str()?)))
        .find(|(_, source)| source.starts_with(&name))
        .context("rasdaemon stored nothing of the page")?;
    let words: Vec<&str> = message.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let bank = &incident["origin"]["machine_check"];
    for register in ["bank", "status", "addr"] {
        let ours = match &bank[register] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        ensure!(
            words.contains(&&*ours),
            "{register} is {ours}; rasdaemon has: {message}"
        );
    }
    let ours = incident["started_at"].as_str().unwrap_or_default();
    ensure!(
        second_of_day(ours)?.abs_diff(second_of_day(source)?) <= APART,
        "it began at {ours}; rasdaemon has: {source}"
    );
    Ok(())
}

/// Of the first time in the text, as in `2026-11-22T15:45:34.123Z`.
fn second_of_day(text: &str) -> Result<u64> {
    let (_, time) = text
        .split_once('T')
        .with_context(|| format!("no time in {text}"))?;
    time.get(..8)
        .with_context(|| format!("no time in {text}"))?
        .split(':')
        .try_fold(0, |sum, part| Ok(sum * 60 + part.parse::<u64>()?))
}
