//! Drives one storm: the daemon, the tiny VMM, the daemon's answer.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use lab_contract::storm::{STORM_FILE, STORM_VMM_FILE, Storm, StormResult};

use crate::daemon::{self, Daemon};
use crate::log::{Log, uptime};
use crate::machine::{self, SHARE};
use crate::vmm::in_words;
use crate::{append_kernel_log, shipping};

/// For the daemon to read what the probes tell and to close the incident.
const AFTER_END: Duration = Duration::from_millis(2000);
/// The emulator ends at once on power-off; what the console's port still holds would be lost.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub fn work() -> Result<()> {
    machine::quiet_console()?;
    let out = format!("{SHARE}/out");
    let log = Log::create(&format!("{out}/host.log"))?;
    let result = perform(&log);
    if let Err(error) = &result {
        log.line(&format!("lab: failed: {error:#}"));
    }
    append_kernel_log(&log)?;
    log.step("sending the files");
    let shipped = shipping::ship(&out);
    std::thread::sleep(LAST_WORDS);
    result.and(shipped)
}

fn perform(log: &Log) -> Result<()> {
    let text = fs::read_to_string(STORM_FILE).context("the initramfs has no storm")?;
    let storm: Storm = serde_json::from_str(&text).context("the storm is not readable")?;
    machine::name(&storm.hostname)?;
    let mut result = describe()?;
    let mut daemon = None;
    if storm.daemon {
        if storm.check {
            log.step("asking poisontrace what this kernel offers");
            daemon::check(log)?;
        }
        log.step("starting poisontrace");
        let more: &[&str] = if storm.read_guest_code {
            &["--read-guest-code"]
        } else {
            &[]
        };
        let started = Daemon::start("recording.ptrace", more, log)?;
        log.step("poisontrace is ready");
        result.daemon_kib_before = Some(started.resident_kib()?);
        daemon = Some(started);
    }
    run_vmm(&storm, &mut result, log)?;
    if let Some(daemon) = &mut daemon {
        std::thread::sleep(AFTER_END);
        daemon.running()?;
        result.daemon_kib_after = Some(daemon.resident_kib()?);
        log.step("asking poisontrace why");
        let explain = ["explain", "--last", "--format"];
        result.explain_exit = daemon::ask(&[&explain[..], &["json"]].concat(), "explain.json", log)?;
        daemon::ask(&[&explain[..], &["text"]].concat(), "explain.txt", log)?;
    }
    if let Some(daemon) = daemon {
        log.step("stopping poisontrace");
        result.daemon_exit = daemon.stop()?.map(|(status, _)| status);
    }
    fs::write(
        format!("{SHARE}/out/result.json"),
        serde_json::to_string_pretty(&result)?,
    )
    .context("cannot write the result")
}

fn run_vmm(storm: &Storm, result: &mut StormResult, log: &Log) -> Result<()> {
    log.step(&format!("{} by {}", storm.plan.instruction, storm.plan.mode));
    let started = uptime();
    let errors = File::create(format!("{SHARE}/out/vmm.log")).context("cannot write vmm.log")?;
    let output = Command::new(STORM_VMM_FILE)
        .arg(serde_json::to_string(&storm.plan)?)
        .stdin(Stdio::null())
        .stderr(errors)
        .output()
        .context("cannot start the VMM")?;
    fs::write(format!("{SHARE}/out/vmm.json"), &output.stdout).context("cannot write vmm.json")?;
    result.vmm_s = uptime() - started;
    result.vmm_end = in_words(output.status);
    result.vmm_signal = output.status.signal();
    log.step(&format!("the VMM {}", result.vmm_end));
    Ok(())
}

fn describe() -> Result<StormResult> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let field = |name: &str| {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map_or("", |(_, value)| value.trim())
    };
    Ok(StormResult {
        kernel: machine::kernel_release(),
        processor: field("model name").to_owned(),
        decode_assists: field("flags").split(' ').any(|flag| flag == "decodeassists"),
        ..StormResult::default()
    })
}
