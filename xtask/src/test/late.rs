//! Poison that predates the daemon: the daemon finds the page and its VM, sees the first access, and lists the evidence
//! that it cannot have. A daemon that missed the failure reports that the kernel counted one more.
//! This daemon may read guest code, so it also knows the instruction.

use anyhow::{Context, Result, ensure};
use lab_protocol::daemon_lines::MISSED_FAILURES;
use lab_protocol::{AT_RISK_FILE, GuestResult, LabResult, MISSED, MISSED_METRICS};
use serde_json::Value;

use super::schema::Schema;
use crate::tally::Tally;
use lab_harness::run_files::Files;
use lab_harness::scenarios::story::{LATE_NAME, LATE_PREFIX};

const NAME: &str = "lab::late";

pub fn examine(result: &LabResult, files: &Files, schema: &Schema, tally: &mut Tally) {
    let Some(guest) = result
        .guests
        .iter()
        .find(|guest| guest.file_prefix == LATE_PREFIX)
    else {
        return;
    };
    let file = format!("{LATE_PREFIX}explain.json");
    tally.check(NAME, "report_follows_the_schema", schema.holds(files, &file));
    tally.check(
        NAME,
        "guest_is_at_risk_before_it_touches",
        at_risk(files, &file, guest),
    );
    tally.check(
        NAME,
        "missed_failure_is_counted_and_logged",
        files
            .contains(MISSED_METRICS, MISSED)
            .and_then(|()| files.contains("host.log", MISSED_FAILURES)),
    );
    tally.check(NAME, "first_touch_is_seen", first_touch(files, &file, guest));
    tally.check(NAME, "what_came_before_is_not_known", before(files, &file, guest));
    tally.check(
        NAME,
        "instruction_is_read_from_the_guest",
        instruction(files, &file),
    );
}

/// The application reads the page with a load.
fn instruction(files: &Files, file: &str) -> Result<()> {
    let flush = incident(files, file)?["flush"].clone();
    ensure!(flush["basis"] == "instruction_bytes", "basis {}", flush["basis"]);
    ensure!(flush["verdict"] == "no_flush", "verdict {}", flush["verdict"]);
    let text = flush["instruction"].as_str().unwrap_or_default();
    ensure!(text.starts_with("mov"), "instruction {text:?}");
    Ok(())
}

fn incident(files: &Files, file: &str) -> Result<Value> {
    let answer = files.json(file)?;
    answer["incidents"].get(0).cloned().context("no incident")
}

fn first_touch(files: &Files, file: &str, guest: &GuestResult) -> Result<()> {
    let incident = incident(files, file)?;
    let gpa = guest
        .gpa
        .map(|gpa| format!("{gpa:#x}"))
        .context("the guest named no page")?;
    ensure!(
        incident["vm"]["name"] == LATE_NAME,
        "VM {}",
        incident["vm"]["name"]
    );
    ensure!(
        incident["page"]["gpa"] == gpa.as_str(),
        "gpa {}, poisoned {gpa}",
        incident["page"]["gpa"]
    );
    ensure!(
        incident["exits"]["count"] == 1,
        "{} exits",
        incident["exits"]["count"]
    );
    let required = &incident["signals"]["action_required"];
    ensure!(*required == 1, "{required} action required");
    ensure!(incident["cause"] == "contained", "cause {}", incident["cause"]);
    Ok(())
}

/// The page's incident is there before the guest touches it, and is the one that goes on.
fn at_risk(files: &Files, file: &str, guest: &GuestResult) -> Result<()> {
    let list = files.json(&format!("{LATE_PREFIX}{AT_RISK_FILE}"))?;
    let found = list["incidents"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|incident| incident["vm"]["name"] == LATE_NAME)
        .context("no incident of a guest at risk")?;
    ensure!(found["cause"] == "not_touched", "cause {}", found["cause"]);
    ensure!(found["outcome"] == "running", "outcome {}", found["outcome"]);
    same_frame(found, guest)?;
    let later = incident(files, file)?;
    ensure!(
        later["id"] == found["id"],
        "incidents {} and {}",
        found["id"],
        later["id"]
    );
    Ok(())
}

fn same_frame(incident: &Value, guest: &GuestResult) -> Result<()> {
    let pfn = guest.pfn.map(|pfn| format!("{pfn:#x}")).context("no pfn")?;
    ensure!(
        incident["page"]["pfn"] == pfn.as_str(),
        "pfn {}, poisoned {pfn}",
        incident["page"]["pfn"]
    );
    Ok(())
}

fn before(files: &Files, file: &str, guest: &GuestResult) -> Result<()> {
    let incident = incident(files, file)?;
    same_frame(&incident, guest)?;
    let optional = &incident["signals"]["action_optional"];
    ensure!(optional.is_null(), "{optional} action optional");
    let missing = incident["missing"].to_string();
    ensure!(missing.contains("memory_failure()"), "missing: {missing}");
    Ok(())
}
