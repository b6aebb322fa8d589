//! A real guest whose kernel flushes a page that the host has lost. The page is lost before the VM starts, so
//! that QEMU gets no signal and injects nothing by itself; its monitor injects the machine check of another VMM.

use std::fs::{self, File};
use std::ptr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab_protocol::flush::{FLUSH_FILE, FlushPlan, FlushResult};
use lab_protocol::pagemap::page_frame;
use lab_protocol::{GUEST_PAGE_READY, RESULT_FILE};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::daemon::{self, Daemon};
use crate::log::{Log, uptime};
use crate::machine::{self, SHARE};
use crate::storm;
use crate::vmm::{MEMORY_MIB, Seen, Vmm, in_words};

const PAGE: usize = 4096;
/// Of the emulated host's own time, in which a guest takes some seconds; a QEMU that has stopped its guest prints nothing.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(60);
/// For the daemon to close the incident.
const AFTER_END: Duration = Duration::from_secs(2);

pub fn work() -> Result<()> {
    storm::ship_what_comes_of(perform)
}

fn perform(log: &Log) -> Result<()> {
    let text = fs::read_to_string(FLUSH_FILE).context("the initramfs has no plan")?;
    let plan: FlushPlan = serde_json::from_str(&text).context("the plan is not readable")?;
    machine::name(&plan.hostname)?;
    let described = storm::describe()?;
    let mut result = FlushResult {
        kernel: described.kernel,
        processor: described.processor,
        ..FlushResult::default()
    };
    machine::unload_kvm(storm::PATIENCE)?;
    machine::load_kvm(&plan.kvm)?;
    log.step("starting poisontrace");
    let mut daemon = Daemon::start_afresh("recording.ptrace", &plan.daemon, log)?;
    log.step("poisontrace is ready");
    let ran = run_guest(&plan, &mut result, log);
    if ran.is_ok() {
        std::thread::sleep(AFTER_END);
        daemon.running()?;
        log.step("asking poisontrace why");
        for (format, file) in [("json", "explain.json"), ("text", "explain.txt")] {
            let exit = daemon::ask(&["explain", "--last", "--format", format], file, log)?;
            result.explain_exit = result.explain_exit.max(exit);
        }
    }
    log.step("stopping poisontrace");
    result.daemon_exit = daemon.stop()?.map(|(status, _)| status);
    fs::write(
        format!("{SHARE}/{RESULT_FILE}"),
        serde_json::to_string_pretty(&result)?,
    )
    .context("cannot write the result")?;
    ran
}

fn run_guest(plan: &FlushPlan, result: &mut FlushResult, log: &Log) -> Result<()> {
    let file = plan
        .guest
        .memory_file
        .as_deref()
        .context("the guest has no memory file")?;
    result.pfn = lose_page(file, plan.gpa)?;
    log.step(&format!(
        "page frame {:#x} is lost, the guest's {:#x}",
        result.pfn, plan.gpa
    ));
    log.step("booting the guest");
    result.started_s = uptime();
    let mut vmm = Vmm::start(&plan.guest)?;
    loop {
        match vmm.wait_line("", BOOT_LIMIT) {
            Seen::Line(line) if line.contains(GUEST_PAGE_READY) => break,
            // It takes minutes: let whoever waits see that something happens.
            Seen::Line(line) => log.step(&format!("the guest prints {line}")),
            Seen::Closed => bail!("QEMU {} before the guest was up", in_words(vmm.wait(END_LIMIT)?)),
            Seen::Nothing => {
                vmm.kill()?;
                bail!("the guest printed nothing for {} s", BOOT_LIMIT.as_secs());
            }
        }
    }
    result.page_ready_s = uptime();
    log.step("injecting the machine check");
    vmm.machine_check(&plan.machine_check, plan.gpa)?;
    result.injected_s = uptime();
    result.vmm_end = in_words(vmm.wait(END_LIMIT)?);
    result.ended_s = uptime();
    log.step(&format!("QEMU {}", result.vmm_end));
    Ok(())
}

/// Makes the guest's memory file, and has the host lose one page of it that no process has mapped. The kernel keeps a
/// poisoned page of a file in memory, and lets nobody have it (`shmem_error_remove_folio`). Returns its page frame.
fn lose_page(file: &str, gpa: u64) -> Result<u64> {
    let memory = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(file)
        .with_context(|| format!("cannot create {file}"))?;
    memory.set_len(u64::from(MEMORY_MIB) << 20)?;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let page = unsafe {
        mmap(
            ptr::null_mut(),
            PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &memory,
            gpa,
        )
    }
    .context("cannot map the page")?;
    // SAFETY: the mapping above is PAGE writable bytes.
    unsafe { page.cast::<u8>().write_volatile(0) };
    let pfn = page_frame(page.addr() as u64);
    // SAFETY: the mapping above, into which no pointer is kept.
    unsafe { munmap(page, PAGE) }.context("munmap")?;
    let pfn = pfn
        .context("cannot read /proc/self/pagemap")?
        .context("the page to poison is not present")?;
    fs::write("/sys/kernel/debug/hwpoison/corrupt-pfn", format!("{pfn:#x}"))
        .context("the kernel did not poison the page")?;
    Ok(pfn)
}
