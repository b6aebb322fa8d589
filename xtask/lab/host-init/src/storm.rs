//! Drives storms, one after the other: the daemon, the tiny VMM, the daemon's answer.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use lab_protocol::bench::{Kind, Loop};
use lab_protocol::daemon_lines;
use lab_protocol::storm::{
    Counters, FTRACE_FILE, PERF_FILE, STORM_FILE, STORM_VMM_FILE, State, Storm, StormResult, Storms,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::{self, Daemon};
use crate::ftrace::Ftrace;
use crate::log::{Log, uptime};
use crate::machine::{self, SHARE};
use crate::perf::Perf;
use crate::shipping;
use crate::vmm::in_words;

/// For the users of KVM to release it.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// For the daemon to read the probes' records and to close the incident.
const AFTER_END: Duration = Duration::from_millis(2000);
/// Between the storm's beginning, or the daemon's, and its end by SIGKILL; and until the next one.
const BETWEEN_KILLS: Duration = Duration::from_millis(150);
const UNWATCHED: Duration = Duration::from_millis(100);
/// The emulator ends at once on power-off; what the console's port still holds would be lost.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub fn work() -> Result<()> {
    ship_what_comes_of(perform)
}

/// In an emulator without a shared folder: runs it, and sends the files that it leaves.
pub fn ship_what_comes_of(perform: impl FnOnce(&Log) -> Result<()>) -> Result<()> {
    machine::quiet_console()?;
    let out = format!("{SHARE}/out");
    let log = Log::create(&format!("{out}/host.log"))?;
    machine::log_taint(&log);
    let result = perform(&log);
    if let Err(error) = &result {
        log.line(&format!("lab: failed: {error:#}"));
    }
    machine::append_kernel_log(&log)?;
    log.step("sending the files");
    let shipped = shipping::ship(&out);
    std::thread::sleep(LAST_WORDS);
    result.and(shipped)
}

fn perform(log: &Log) -> Result<()> {
    let text = fs::read_to_string(STORM_FILE).context("the initramfs has no storm")?;
    let storms: Storms = serde_json::from_str(&text).context("the storms are not readable")?;
    machine::name(&storms.hostname)?;
    let mut loaded = String::new();
    for storm in &storms.storms {
        let folder = format!("{SHARE}/out/{}", storm.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {folder}"))?;
        if storm.kvm != loaded {
            log.step(&format!("loading KVM anew {}", storm.kvm));
            machine::unload_kvm(PATIENCE)?;
            machine::load_kvm(&storm.kvm)?;
            loaded.clone_from(&storm.kvm);
        }
        let mut result = describe()?;
        // The others can still be run.
        if let Err(error) = one(storm, &folder, &mut result, log) {
            log.line(&format!("lab: {} failed: {error:#}", storm.name));
            result.error = Some(format!("{error:#}"));
        }
        fs::write(
            format!("{folder}/result.json"),
            serde_json::to_string_pretty(&result)?,
        )
        .context("cannot write the result")?;
        if let Ok(counters) = fs::read(format!("{folder}/vmm.json"))
            && let Ok(counters) = serde_json::from_slice::<Counters>(&counters)
        {
            machine::forget_poison(counters.pfn, log);
        }
    }
    Ok(())
}

fn one(storm: &Storm, folder: &str, result: &mut StormResult, log: &Log) -> Result<()> {
    // Before the daemon: of two probes at one tracepoint the first to come is the first to see.
    let ftrace_is_off = !storm.ftrace;
    let ftrace = storm.ftrace.then(Ftrace::start).transpose()?;
    let perf = storm.perf.then(Perf::start).transpose()?;
    let mut daemon = None;
    if let Some(options) = &storm.daemon {
        if storm.check {
            log.step("asking poisontrace what this kernel offers");
            daemon::check(&inside(storm, "check.txt"), log)?;
        }
        let bystander = storm.bystander.then(exiting_vm).transpose()?;
        log.step("starting poisontrace");
        let recording = inside(storm, "recording.ptrace");
        let mut started = Daemon::start_afresh(&recording, options, log)?;
        log.step("poisontrace is ready");
        if let Some(mut vm) = bystander {
            anyhow::ensure!(
                vm.try_wait()?.is_none(),
                "the VM that exits all the time has ended"
            );
            vm.kill().context("cannot kill a VM")?;
            vm.wait().context("cannot wait for a VM")?;
        }
        result.daemon_kib_before = Some(started.resident_kib()?);
        if storm.look_at_exits {
            result.on_exits_before = Some(started.on_exits()?);
        }
        if storm.kills_while.contains(&State::StandBy) {
            started = replaced(storm, started, options, "stand-by", result, log)?;
            result.killed_while.push(State::StandBy);
        }
        daemon = Some(started);
    }
    let clocks = ftrace.as_ref().map(Ftrace::record);
    daemon = match (daemon, &storm.daemon) {
        (Some(first), Some(options)) if storm.kills > 0 || !storm.kills_while.is_empty() => {
            Some(run_vmm_killing(storm, folder, first, options, result, log)?)
        }
        (daemon, _) => {
            run_vmm(storm, folder, result, log)?;
            daemon
        }
    };
    if let Some(perf) = perf {
        log.step("asking perf for its report");
        perf.save(&format!("{folder}/{PERF_FILE}"))?;
    }
    if let (Some(ftrace), Some(before)) = (ftrace, clocks) {
        result.clocks = Some([before?, ftrace.save(&format!("{folder}/{FTRACE_FILE}"))?]);
    }
    if let Some(daemon) = &mut daemon {
        std::thread::sleep(AFTER_END);
        daemon.running()?;
        result.daemon_kib_after = Some(daemon.resident_kib()?);
        if storm.look_at_exits {
            result.on_exits_after = Some(daemon.on_exits()?);
        }
        log.step("asking poisontrace why");
        for format in ["json", "text"] {
            let extension = if format == "json" { "json" } else { "txt" };
            let file = inside(storm, &format!("explain.{extension}"));
            let exit = daemon::ask(&["explain", "--last", "--format", format], &file, log)?;
            result.explain_exit = result.explain_exit.max(exit);
        }
    }
    if storm.kills_while.contains(&State::Detaching)
        && let (Some(mut first), Some(options)) = (daemon.take(), &storm.daemon)
    {
        log.step("waiting until poisontrace begins to detach from the exits");
        first.wait_for_detaching()?;
        // The answer is older.
        let mut behind = StormResult::default();
        daemon = Some(replaced(storm, first, options, "detaching", &mut behind, log)?);
        result.killed_while.push(State::Detaching);
    }
    if let (Some(daemon), true) = (&mut daemon, storm.until_detached) {
        log.step("waiting until poisontrace detaches from the exits");
        daemon.wait_for(daemon_lines::DETACHES_EXITS)?;
        result.on_exits_detached = Some(daemon.on_exits()?);
    }
    if let Some(daemon) = daemon {
        log.step("stopping poisontrace");
        let stopped = daemon.stop()?;
        result.daemon_exit = stopped.map(|(status, _)| status);
        result.daemon_stop_ms = stopped.map(|(_, took)| took);
        if ftrace_is_off {
            result.left_attached = Some(machine::left_attached());
        }
    }
    if let (Some(options), true) = (&storm.daemon, storm.kills > 0) {
        log.step("killing poisontrace for good");
        let recording = inside(storm, "recording-last.ptrace");
        Daemon::start_again(&recording, options, log)?.kill()?;
        result.left_by_death = Some(machine::attached().len());
        daemon::detach(log)?;
        result.left_after_detach = Some(machine::left_attached());
    }
    Ok(())
}

/// A VM whose guest does nothing but leave it.
fn exiting_vm() -> Result<Child> {
    let plan = Loop {
        kind: Kind::Cpuid,
        exits: u32::MAX,
        poisoned: false,
    };
    Command::new(STORM_VMM_FILE)
        .arg(serde_json::to_string(&plan)?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start a VM")
}

/// A file of this storm, in the folder of all.
fn inside(storm: &Storm, file: &str) -> String {
    if storm.name.is_empty() {
        file.to_owned()
    } else {
        format!("{}/{file}", storm.name)
    }
}

/// Kills the daemon, looks whether it had stored an incident, and starts another.
fn replaced(
    storm: &Storm,
    first: Daemon,
    options: &[String],
    name: &str,
    result: &mut StormResult,
    log: &Log,
) -> Result<Daemon> {
    log.step("killing poisontrace");
    first.kill()?;
    std::thread::sleep(UNWATCHED);
    let stored = daemon::has_incident(&inside(storm, &format!("stored-{name}.json")), log)?;
    result.killed_with_incident += u32::from(stored);
    log.step("starting poisontrace again");
    let recording = inside(storm, &format!("recording-{name}.ptrace"));
    let daemon = Daemon::start_again(&recording, options, log)?;
    log.step("poisontrace is ready again");
    Ok(daemon)
}

/// Runs the VMM while daemon after daemon is killed and replaced.
fn run_vmm_killing(
    storm: &Storm,
    folder: &str,
    first: Daemon,
    options: &[String],
    result: &mut StormResult,
    log: &Log,
) -> Result<Daemon> {
    let vmm = start_vmm(storm, folder, log)?;
    let pid = Pid::from_child(&vmm.child);
    std::thread::scope(|scope| {
        let mut theirs = StormResult::default();
        let vmm = scope.spawn(move || vmm.wait(folder, &mut theirs, log).map(|()| theirs));
        let daemon = kill_and_replace(storm, first, options, result, || !vmm.is_finished(), log);
        // Also where a daemon failed: the storm would not end.
        if storm.plan.until_signal && !vmm.is_finished() {
            kill_process(pid, Signal::USR1).context("cannot signal the VMM")?;
        }
        let theirs = vmm
            .join()
            .map_err(|_| anyhow::anyhow!("the VMM's thread ended early"))??;
        result.vmm_s = theirs.vmm_s;
        result.vmm_end = theirs.vmm_end;
        result.vmm_signal = theirs.vmm_signal;
        daemon
    })
}

/// Kills counted are those in the middle of the storm.
fn kill_and_replace(
    storm: &Storm,
    first: Daemon,
    options: &[String],
    result: &mut StormResult,
    storms: impl Fn() -> bool,
    log: &Log,
) -> Result<Daemon> {
    let mut daemon = first;
    if storm.kills_while.contains(&State::Attaching) {
        daemon.wait_for(daemon_lines::ATTACHES_EXITS)?;
        daemon = replaced(storm, daemon, options, "attaching", result, log)?;
        if storms() {
            result.killed_while.push(State::Attaching);
        }
    }
    for n in 1..=storm.kills {
        std::thread::sleep(BETWEEN_KILLS);
        let before = storms();
        daemon = replaced(storm, daemon, options, &n.to_string(), result, log)?;
        result.killed += u32::from(before && storms());
    }
    Ok(daemon)
}

fn run_vmm(storm: &Storm, folder: &str, result: &mut StormResult, log: &Log) -> Result<()> {
    start_vmm(storm, folder, log)?.wait(folder, result, log)
}

struct RunningVmm {
    child: Child,
    started: f64,
}

fn start_vmm(storm: &Storm, folder: &str, log: &Log) -> Result<RunningVmm> {
    log.step(&format!("{} by {}", storm.plan.instruction, storm.plan.mode));
    let started = uptime();
    let errors = File::create(format!("{folder}/vmm.log")).context("cannot write vmm.log")?;
    let child = Command::new(STORM_VMM_FILE)
        .arg(serde_json::to_string(&storm.plan)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .context("cannot start the VMM")?;
    Ok(RunningVmm { child, started })
}

impl RunningVmm {
    fn wait(self, folder: &str, result: &mut StormResult, log: &Log) -> Result<()> {
        let output = self.child.wait_with_output().context("cannot wait for the VMM")?;
        fs::write(format!("{folder}/vmm.json"), &output.stdout).context("cannot write vmm.json")?;
        result.vmm_s = uptime() - self.started;
        result.vmm_end = in_words(output.status);
        result.vmm_signal = output.status.signal();
        log.step(&format!("the VMM {}", result.vmm_end));
        Ok(())
    }
}

pub fn describe() -> Result<StormResult> {
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
        nested_paging: nested_paging(),
        decode_assists: field("flags").split(' ').any(|flag| flag == "decodeassists"),
        ..StormResult::default()
    })
}

fn nested_paging() -> bool {
    ["kvm_intel/parameters/ept", "kvm_amd/parameters/npt"]
        .iter()
        .filter_map(|parameter| fs::read_to_string(format!("/sys/module/{parameter}")).ok())
        .any(|value| matches!(value.trim(), "Y" | "1"))
}
