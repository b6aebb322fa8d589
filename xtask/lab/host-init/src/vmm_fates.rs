//! Tiny VMMs, one after the other: each with a daemon of its own, so that each leaves a recording of its own.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use lab_protocol::vmm_fate::{SCENARIO_VMM_FILE, VmmFate};
use lab_protocol::{FORECAST_FILE, FORECAST_TO};

use crate::daemon::Daemon;
use crate::log::Log;
use crate::machine::SHARE;
use crate::vmm::in_words;

/// For the daemon to read the probes' records.
const AFTER_END: Duration = Duration::from_millis(1500);

/// Returns how the VMM ended.
pub fn run(fate: VmmFate, log: &Log) -> Result<String> {
    log.step(&format!("starting poisontrace for a VMM: {fate}"));
    let mut daemon = Daemon::start_afresh(&format!("{fate}.ptrace"), &fate.daemon_options(), log)?;
    let attack = VmmFate::CLAIMS.contains(&fate);
    let _limited = attack.then(|| daemon.limit()).transpose()?;
    let output = Command::new(format!("{SHARE}/{SCENARIO_VMM_FILE}"))
        .arg(fate.name())
        .env(FORECAST_TO, format!("{SHARE}/out/{fate}-{FORECAST_FILE}"))
        .stdin(Stdio::null())
        .output()
        .context("cannot start the VMM")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let end = in_words(output.status);
    log.step(&format!("the VMM {end} {}", errors.trim_end()));
    std::thread::sleep(AFTER_END);
    daemon.running()?;
    if attack {
        daemon.keep_figures(
            &format!("{fate}.figures"),
            &String::from_utf8_lossy(&output.stdout),
        )?;
    }
    daemon.stop()?;
    Ok(end)
}
