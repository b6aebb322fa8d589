//! A storm whose page was poisoned in DRAM: the guest's load consumed the error, and that is kept apart from the exits.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::lab::StormRun;

/// # Errors
/// The emulator's and the VMM's counts are not those of one consumed error, or the answer does not show it as what it was.
pub fn holds(run: &StormRun, incident: &Value) -> Result<()> {
    let counters = &run.counters;
    ensure!(
        counters.flush_machine_checks == 0,
        "CLFLUSH of a poisoned line raised {} machine checks",
        counters.flush_machine_checks
    );
    ensure!(
        counters.machine_checks == 1 && counters.consumed == 1,
        "{} machine checks by the emulator, {} errors consumed by the guest",
        counters.machine_checks,
        counters.consumed
    );
    let origin = &incident["origin"];
    ensure!(origin["how"] == "consumed_by_guest", "the origin is {origin}");
    let rip = format!("RIP {:#x}", counters.consumed_rip);
    let exit = incident["timeline"]
        .as_array()
        .context("no timeline")?
        .iter()
        .find(|entry| entry["kind"] == "mc_exit")
        .context("the timeline has no exit by #MC")?;
    ensure!(
        exit["message"].as_str().unwrap_or_default().contains(&rip),
        "the load is at {rip}; the timeline has {}",
        exit["message"]
    );
    Ok(())
}

/// The page was one that the kernel could not take out of use: the VMM was killed, and no signal named the page.
///
/// # Errors
/// The VMM lived, or the answer has another reason for its death.
pub fn pinned(run: &StormRun, incident: &Value) -> Result<()> {
    ensure!(
        run.counters.sigbus_plain == 1 && run.counters.machine_checks == 1,
        "the VMM counted {:?}",
        run.counters
    );
    ensure!(
        incident["outcome"] == "vmm_killed" && incident["cause"] == "unmap_failed",
        "the answer is {} by {}",
        incident["outcome"],
        incident["cause"]
    );
    Ok(())
}
