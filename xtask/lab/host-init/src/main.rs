//! First process of the emulated host: prepares the machine, runs the scenario that the share holds, leaves the
//! result there, and powers off. In an emulator without a share, the initramfs holds a storm, and the files leave
//! by a serial port.

mod bench;
mod daemon;
mod flush;
mod ftrace;
mod log;
mod machine;
mod perf;
mod quiet;
mod rasdaemon;
mod scenario;
mod shipping;
mod storm;
mod switch;
mod vmm;
mod vmm_fates;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lab_protocol::flush::FLUSH_FILE;
use lab_protocol::storm::STORM_FILE;
use lab_protocol::{DONE, FAILED, RESULT_FILE, SCENARIO_FILE, SWITCH_FILE, Scenario};

use crate::log::Log;
use crate::machine::SHARE;

fn main() {
    let outcome = work();
    machine::write_back();
    match outcome {
        Ok(()) => println!("{DONE}"),
        Err(error) => println!("{FAILED}{error:#}"),
    }
    machine::power_off();
}

fn work() -> Result<()> {
    machine::bring_up()?;
    if Path::new(SWITCH_FILE).exists() {
        return switch::to_disk();
    }
    if bench::wanted() {
        machine::seed()?;
        return bench::work();
    }
    if Path::new(FLUSH_FILE).exists() {
        machine::seed()?;
        return flush::work();
    }
    if Path::new(STORM_FILE).exists() {
        machine::seed()?;
        return storm::work();
    }
    machine::mount_share()?;
    let log = Log::create(&format!("{SHARE}/out/host.log"))?;
    machine::log_taint(&log);
    let result = perform(&log);
    if let Err(error) = &result {
        log.line(&format!("lab: failed: {error:#}"));
    }
    machine::append_kernel_log(&log)?;
    result
}

fn perform(log: &Log) -> Result<()> {
    let text = fs::read_to_string(format!("{SHARE}/{SCENARIO_FILE}")).context("the share has no scenario")?;
    let scenario: Scenario = serde_json::from_str(&text).context("the scenario is not readable")?;
    machine::name(&scenario.hostname)?;
    let result = scenario::run(&scenario, log)?;
    fs::write(
        format!("{SHARE}/{RESULT_FILE}"),
        serde_json::to_string_pretty(&result)?,
    )
    .context("cannot write the result")
}
