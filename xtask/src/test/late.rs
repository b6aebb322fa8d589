//! Poison that predates the daemon: it arms itself at its start, sees the first touch, and says what it cannot know.
//! This daemon may read guest code, so it also knows the instruction.

use anyhow::{Context, Result, ensure};
use lab_contract::{GuestResult, LabResult};
use serde_json::Value;

use super::files::Files;
use super::schema::Schema;
use super::tally::Tally;
use crate::lab::scenarios::{LATE_NAME, LATE_PREFIX};

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
    tally.check(NAME, "first_touch_is_seen", first_touch(files, &file, guest));
    tally.check(NAME, "what_came_before_is_not_known", before(files, &file));
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

fn before(files: &Files, file: &str) -> Result<()> {
    let incident = incident(files, file)?;
    ensure!(
        incident["page"]["pfn"].is_null(),
        "pfn {}",
        incident["page"]["pfn"]
    );
    let optional = &incident["signals"]["action_optional"];
    ensure!(optional.is_null(), "{optional} action optional");
    let missing = incident["missing"].to_string();
    ensure!(missing.contains("memory_failure()"), "missing: {missing}");
    Ok(())
}
