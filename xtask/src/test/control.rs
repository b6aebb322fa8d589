//! A guest that ran, and a VMM that was killed without any poison: no incident may come of it.

use anyhow::{Context, Result, ensure};
use lab_protocol::{GuestResult, LabResult};
use serde_json::Value;

use crate::tally::Tally;
use lab_harness::run_files::Files;
use lab_harness::scenarios::story::CONTROL_PREFIX;

const NAME: &str = "lab::control";

pub fn examine(result: &LabResult, files: &Files, tally: &mut Tally) {
    let Some(guest) = result
        .guests
        .iter()
        .find(|guest| guest.file_prefix == CONTROL_PREFIX)
    else {
        return;
    };
    tally.check(NAME, "vmm_was_killed", killed(guest));
    tally.check(NAME, "no_incident", no_incident(files, guest));
    tally.check(NAME, "nothing_to_explain", nothing_to_explain(guest));
}

fn killed(guest: &GuestResult) -> Result<()> {
    const SIGKILL: i32 = 9;
    ensure!(guest.vmm_signal == Some(SIGKILL), "QEMU {}", guest.vmm_end);
    Ok(())
}

fn no_incident(files: &Files, guest: &GuestResult) -> Result<()> {
    ensure!(
        guest.incidents_exit == Some(0),
        "poisontrace incidents: exit status {:?}",
        guest.incidents_exit
    );
    let count = listed(&files.json(&format!("{CONTROL_PREFIX}incidents.json"))?)?;
    ensure!(count == 0, "{count} incidents without poison");
    Ok(())
}

fn nothing_to_explain(guest: &GuestResult) -> Result<()> {
    let status = guest.explain_exit.context("poisontrace explain was not asked")?;
    ensure!(
        status != 0,
        "poisontrace explain --last succeeded without an incident"
    );
    Ok(())
}

/// How many incidents `poisontrace incidents --format json` lists.
pub fn listed(json: &Value) -> Result<usize> {
    let list = json.as_array().or_else(|| json["incidents"].as_array());
    Ok(list
        .with_context(|| format!("no list of incidents in {json}"))?
        .len())
}
