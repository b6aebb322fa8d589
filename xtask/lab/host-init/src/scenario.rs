//! Drives one scenario: the daemon, then one guest after the other.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab_protocol::daemon_cli::READ_GUEST_CODE;
use lab_protocol::daemon_lines;
use lab_protocol::{
    AT_RISK, AT_RISK_FILE, Before, FORECAST_FILE, Fate, GUEST_FTRACE_FILE, GUEST_HANDLER_PAGE,
    GUEST_PAGE_READY, GUEST_PANICS, GuestPlan, GuestResult, LAST_METRICS, LabResult, MACHINE_CHECK, MISSED,
    MISSED_METRICS, REATTACHED, RELOADED_METRICS, Scenario, words,
};

use crate::daemon::{self, Daemon};
use crate::ftrace::Ftrace;
use crate::log::{Log, uptime};
use crate::machine::SHARE;
use crate::rasdaemon::Rasdaemon;
use crate::vmm::{Seen, Vmm, in_words};
use crate::{machine, vmm_fates};

const TWIN_NAME: &str = "twin-guest";
const TWIN_UUID: &str = "5e1f1e55-0000-4000-8000-000000007219";
const RECORDING: &str = "recording.ptrace";
/// On two idle cores a guest takes 15 s on a 7.3 host, and several times that on a 6.1 or 5.10 host.
const BOOT_LIMIT: Duration = Duration::from_secs(150);
const END_LIMIT: Duration = Duration::from_secs(90);
/// Between the poison and the touch, so that the two notifications cannot be taken for one.
const BEFORE_TOUCH: Duration = Duration::from_secs(2);
/// For the kernel to find what its processor reports: seen within 3 s.
const POLLED_WITHIN: Duration = Duration::from_secs(30);
/// For the daemon to look at the host's pages and the VMM's.
const SURVEY_LIMIT: Duration = Duration::from_secs(30);
/// For a reset to be seen.
const REBOOT_SHOWS: Duration = Duration::from_secs(10);
/// For the daemon to close the incident.
const AFTER_END: Duration = Duration::from_millis(1500);

pub fn run(scenario: &Scenario, log: &Log) -> Result<LabResult> {
    let mut result = LabResult {
        kernel: machine::kernel_release(),
        ..LabResult::default()
    };
    let mut daemon = None;
    if scenario.daemon && !scenario.guests.is_empty() {
        log.step("asking poisontrace what this kernel offers");
        result.check_exit = daemon::check("check.txt", log)?;
        result.facts_exit = daemon::save_facts(log)?;
        log.step("starting poisontrace");
        daemon = Some(Daemon::start(RECORDING, &[], log)?);
        log.step("poisontrace is ready");
    }
    if scenario.guests.iter().any(|guest| guest.huge_pages) {
        machine::reserve_huge_pages()?;
    }
    for plan in &scenario.guests {
        let mut outcome = play(scenario, plan, &mut daemon, log);
        if outcome.is_ok() && plan.before.is_some() && cut_short(plan)? {
            log.step("QEMU ended before the guest's story did; running it once more");
            outcome = play(scenario, plan, &mut daemon, log);
        }
        let mut guest = match outcome {
            // The guests after it are independent of it; its recording shows the failure.
            Err(error) if matches!(plan.before, Some(Before::AnotherDaemon { .. })) => {
                log.step(&format!("the guest {} failed: {error:#}", plan.file_prefix));
                GuestResult {
                    file_prefix: plan.file_prefix.clone(),
                    vmm_end: format!("{error:#}"),
                    ..GuestResult::default()
                }
            }
            run => run?,
        };
        std::thread::sleep(AFTER_END);
        if let Some(daemon) = &mut daemon {
            daemon.running()?;
            ask(&mut guest, log)?;
            if matches!(&plan.before, Some(Before::AnotherDaemon { options }) if !options.is_empty()) {
                machine::loopback_up()?;
                let file = format!("{SHARE}/out/{}{LAST_METRICS}", plan.file_prefix);
                fs::write(file, daemon.metrics("")?).context("cannot keep the metrics")?;
            }
        }
        result.guests.push(guest);
    }
    if let Some(daemon) = daemon {
        log.step("stopping poisontrace");
        let stopped = daemon.stop()?;
        result.daemon_exit = stopped.map(|(status, _)| status);
        result.daemon_stop_ms = stopped.map(|(_, took)| took);
    }
    for fate in &scenario.fates {
        let end = vmm_fates::run(*fate, log)?;
        result.fates.push((fate.to_string(), end));
    }
    Ok(result)
}

/// The host's preparation, and the guest.
fn play(
    scenario: &Scenario,
    plan: &GuestPlan,
    daemon: &mut Option<Daemon>,
    log: &Log,
) -> Result<GuestResult> {
    if let (Some(before), true) = (&plan.before, scenario.daemon) {
        prepare(before, plan, daemon, log)?;
    }
    let ftrace = scenario.ftrace.then(Ftrace::of_a_guest).transpose()?;
    run_guest(plan, ftrace, daemon, log)
}

/// Whether the guest that was to panic late was gone before: now and then QEMU ends with status 0 and no message under
/// emulation, and the longer a guest lives the likelier.
fn cut_short(plan: &GuestPlan) -> Result<bool> {
    if !plan.words.iter().any(|word| word == words::THEN_PANIC) {
        return Ok(false);
    }
    let file = format!("{SHARE}/out/{}console.txt", plan.file_prefix);
    let console = fs::read_to_string(file).context("cannot read the guest's console")?;
    Ok(!console.contains(GUEST_PANICS))
}

/// For the daemon to release KVM.
const PATIENCE: Duration = Duration::from_secs(10);

fn prepare(before: &Before, plan: &GuestPlan, daemon: &mut Option<Daemon>, log: &Log) -> Result<()> {
    match before {
        Before::ReloadKvm => {
            let daemon = daemon.as_mut().context("no daemon is running")?;
            log.step("unloading KVM under the running daemon");
            machine::unload_kvm(PATIENCE)?;
            daemon.wait_for(daemon_lines::RELEASES_KVM)?;
            log.step("loading KVM again");
            machine::load_kvm("")?;
            daemon.wait_for(daemon_lines::ATTACHES_AGAIN)?;
            log.step("asking for the metrics");
            machine::loopback_up()?;
            let metrics = daemon.metrics(REATTACHED)?;
            fs::write(format!("{SHARE}/out/{RELOADED_METRICS}"), metrics).context("cannot keep the metrics")
        }
        Before::DaemonBeforeKvm { options, parameters } => {
            log.step("stopping poisontrace, and unloading KVM");
            if let Some(daemon) = daemon.take() {
                daemon.stop()?;
            }
            machine::unload_kvm(PATIENCE)?;
            log.step(&format!("starting poisontrace without KVM {}", options.join(" ")));
            let recording = format!("{}{RECORDING}", plan.file_prefix);
            // That of the daemon before, which saw nothing: a recording is not overwritten.
            fs::remove_file(format!("{SHARE}/out/{recording}")).ok();
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let mut started = Daemon::spawn(&recording, &options, log)?;
            started.wait_for(daemon_lines::WAITS_FOR_KVM)?;
            log.step(&format!("loading KVM {parameters}"));
            machine::load_kvm(parameters)?;
            started.wait_for(daemon_lines::READY)?;
            *daemon = Some(started);
            Ok(())
        }
        Before::AnotherDaemon { options } => {
            log.step(&format!("starting poisontrace afresh: {}", plan.file_prefix));
            if let Some(daemon) = daemon.take() {
                daemon.stop()?;
            }
            let recording = format!("{}{RECORDING}", plan.file_prefix);
            // That of a story that was cut short.
            fs::remove_file(format!("{SHARE}/out/{recording}")).ok();
            machine::forget_all_poison(log)?;
            *daemon = Some(Daemon::start_afresh(&recording, options, log)?);
            Ok(())
        }
    }
}

fn ask(guest: &mut GuestResult, log: &Log) -> Result<()> {
    log.step("asking poisontrace why");
    let file = |name: &str| format!("{}{name}", guest.file_prefix);
    let explain = ["explain", "--last", "--format"];
    guest.explain_exit = daemon::ask(&[&explain[..], &["json"]].concat(), &file("explain.json"), log)?;
    daemon::ask(&[&explain[..], &["text"]].concat(), &file("explain.txt"), log)?;
    guest.incidents_exit = daemon::ask(&["incidents", "--format", "json"], &file("incidents.json"), log)?;
    Ok(())
}

fn run_guest(
    plan: &GuestPlan,
    ftrace: Option<Ftrace>,
    daemon: &mut Option<Daemon>,
    log: &Log,
) -> Result<GuestResult> {
    let mut result = GuestResult {
        file_prefix: plan.file_prefix.clone(),
        ..GuestResult::default()
    };
    let (mut vmm, gpa) = boot_guest(plan, log, &mut result)?;
    result.gpa = Some(gpa);
    result.page_ready_s = Some(uptime());
    if daemon.is_some() {
        log.step("asking poisontrace what an error would do");
        daemon::forecast(&format!("{}{FORECAST_FILE}", plan.file_prefix), log)?;
    }
    if let Some(ftrace) = &ftrace {
        ftrace.record()?;
    }
    let mut twin = None;
    match plan.fate {
        Fate::Poison => {
            poison(&mut vmm, gpa, &mut result, log)?;
            touch(&mut vmm, log);
        }
        Fate::PoisonHandlerToo => {
            let handler = result
                .handler_gpa
                .context("the guest named no page of its handler")?;
            poison(&mut vmm, handler, &mut result, log)?;
            poison(&mut vmm, gpa, &mut result, log)?;
            touch(&mut vmm, log);
        }
        Fate::PoisonShared => {
            // The twin takes the monitor's place.
            let pfn = vmm.page_frame(gpa)?;
            log.step("starting a VM over the same memory");
            twin = Some(Vmm::start(&twin_of(plan))?);
            poison_frame(pfn, gpa, &mut result, log)?;
            touch(&mut vmm, log);
        }
        Fate::MachineCheck => {
            let rasdaemon = Rasdaemon::start(&plan.file_prefix, log)?;
            machine_check(&mut vmm, gpa, &mut result, log)?;
            rasdaemon.stop(&plan.file_prefix, log)?;
            touch(&mut vmm, log);
        }
        Fate::SoftOffline => {
            let address = vmm.page_frame(gpa)? << 12;
            log.step("soft-offlining the guest's page");
            fs::write(
                "/sys/devices/system/memory/soft_offline_page",
                format!("{address:#x}"),
            )
            .context("the kernel did not take the page offline")?;
            touch(&mut vmm, log);
        }
        Fate::PoisonBeforeDaemon => {
            log.step("stopping poisontrace before the poison");
            if let Some(daemon) = daemon.take() {
                daemon.stop()?;
            }
            log.step("starting a poisontrace that sees no memory failure");
            let blind = Daemon::start_blind("blind-recording.ptrace", log)?;
            poison(&mut vmm, gpa, &mut result, log)?;
            machine::loopback_up()?;
            fs::write(format!("{SHARE}/out/{MISSED_METRICS}"), blind.metrics(MISSED)?)
                .context("cannot keep the metrics")?;
            blind.stop()?;
            log.step("starting poisontrace after the poison");
            let recording = format!("{}{RECORDING}", plan.file_prefix);
            *daemon = Some(Daemon::start(&recording, &[READ_GUEST_CODE], log)?);
            wait_for_risk(&format!("{}{AT_RISK_FILE}", plan.file_prefix), log)?;
            touch(&mut vmm, log);
        }
        Fate::KillVmm => {
            log.step("killing the VMM of a healthy guest");
            vmm.kill()?;
        }
    }
    if plan.reboots {
        std::thread::sleep(REBOOT_SHOWS);
        log.step("killing the VMM of a guest that may have started anew");
        vmm.kill()?;
    }
    let status = vmm.wait(END_LIMIT)?;
    if let Some(mut twin) = twin {
        log.step("killing the VMM of the other VM");
        twin.kill()?;
        twin.wait(END_LIMIT)?;
    }
    if let Some(ftrace) = ftrace {
        ftrace.save(&format!("{SHARE}/out/{}{GUEST_FTRACE_FILE}", plan.file_prefix))?;
    }
    result.ended_s = uptime();
    result.vmm_end = in_words(status);
    result.vmm_exit = status.code();
    result.vmm_signal = status.signal();
    log.step(&format!("QEMU {}", result.vmm_end));
    Ok(result)
}

/// Until the daemon has found the page that was lost before its start; its answer is kept in the file.
fn wait_for_risk(file: &str, log: &Log) -> Result<()> {
    log.step("asking poisontrace for guests at risk");
    let deadline = Instant::now() + SURVEY_LIMIT;
    loop {
        daemon::ask(&["incidents", "--format", "json"], file, log)?;
        let answer = fs::read_to_string(format!("{SHARE}/out/{file}")).context("no answer")?;
        if answer.contains(AT_RISK) || Instant::now() > deadline {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Poisons the guest's page, and leaves time for what comes of that alone.
fn poison(vmm: &mut Vmm, gpa: u64, result: &mut GuestResult, log: &Log) -> Result<()> {
    let pfn = vmm.page_frame(gpa)?;
    poison_frame(pfn, gpa, result, log)
}

/// A VM over the memory of another, which would write to it if it ran.
fn twin_of(plan: &GuestPlan) -> GuestPlan {
    GuestPlan {
        file_prefix: format!("{}twin-", plan.file_prefix),
        name: TWIN_NAME.to_owned(),
        uuid: TWIN_UUID.to_owned(),
        paused: true,
        ..plan.clone()
    }
}

fn poison_frame(pfn: u64, gpa: u64, result: &mut GuestResult, log: &Log) -> Result<()> {
    result.pfn = Some(pfn);
    log.step(&format!("poisoning page frame {pfn:#x}, the guest's {gpa:#x}"));
    result.poisoned_s = Some(uptime());
    fs::write("/sys/kernel/debug/hwpoison/corrupt-pfn", format!("{pfn:#x}"))
        .context("the kernel did not poison the page")?;
    std::thread::sleep(BEFORE_TOUCH);
    Ok(())
}

/// Lets the developer's machine write the error into a bank of this one's processor, which the kernel looks at from time to
/// time; and waits until it has.
fn machine_check(vmm: &mut Vmm, gpa: u64, result: &mut GuestResult, log: &Log) -> Result<()> {
    const INTERVAL: &str = "/sys/devices/system/machinecheck/machinecheck0/check_interval";
    let pfn = vmm.page_frame(gpa)?;
    result.pfn = Some(pfn);
    fs::write(INTERVAL, "1").context("the kernel does not poll its machine-check banks")?;
    result.poisoned_s = Some(uptime());
    log.step(&format!("{MACHINE_CHECK}{:#x}", pfn << 12));
    let deadline = Instant::now() + POLLED_WITHIN;
    while !machine::hardware_corrupted()? {
        if Instant::now() > deadline {
            bail!("the kernel did not take the page out of use");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(BEFORE_TOUCH);
    Ok(())
}

fn touch(vmm: &mut Vmm, log: &Log) {
    log.step("the guest's application touches the page");
    // The guest may be dead of the first notification already.
    if let Err(error) = vmm.type_line("g") {
        log.line(&format!("{error:#}"));
    }
}

fn address_after(line: &str, words: &str) -> Option<u64> {
    let digits = line.split_once(words)?.1.trim().strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

/// Starts the guest, and waits for its application's page.
fn boot_guest(plan: &GuestPlan, log: &Log, result: &mut GuestResult) -> Result<(Vmm, u64)> {
    for last_try in [false, true] {
        log.step(&format!("booting the guest {}", plan.name));
        result.attempts += 1;
        result.started_s = uptime();
        let mut vmm = Vmm::start(plan)?;
        if plan.fate == Fate::PoisonHandlerToo
            && let Seen::Line(line) = vmm.wait_line(GUEST_HANDLER_PAGE, BOOT_LIMIT)
        {
            result.handler_gpa = address_after(&line, GUEST_HANDLER_PAGE);
        }
        match vmm.wait_line(GUEST_PAGE_READY, BOOT_LIMIT) {
            Seen::Line(line) => {
                let gpa = address_after(&line, GUEST_PAGE_READY)
                    .with_context(|| format!("the guest names no page: {line}"))?;
                log.step(&format!("the guest's page is at {gpa:#x}"));
                return Ok((vmm, gpa));
            }
            Seen::Nothing => {
                vmm.kill()?;
                let limit = BOOT_LIMIT.as_secs();
                if last_try {
                    bail!("the guest was not up within {limit} s, twice; see console.txt");
                }
                log.step(&format!(
                    "the guest was not up within {limit} s; trying once more"
                ));
            }
            Seen::Closed => {
                let end = in_words(vmm.wait(Duration::from_secs(5))?);
                if last_try {
                    bail!("QEMU {end} before the guest was up, twice; see console.txt and qemu.log");
                }
                // Seen now and then under emulation, with status 0 and no message; cause unknown.
                log.step(&format!("QEMU {end} before the guest was up; trying once more"));
            }
        }
    }
    bail!("the guest did not start")
}
