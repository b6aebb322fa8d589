//! The kernel's own recordings, in an instance of its own: of a storm, which poisontrace's sums are held against; of a
//! guest's death, which it explains without having been there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lab_protocol::storm::{GUP_ENTER, GUP_GROUP, GUP_RETURN};
use rustix::time::{ClockId, clock_gettime};

const TRACEFS: &str = "/sys/kernel/tracing";
const INSTANCE: &str = "/sys/kernel/tracing/instances/lab";
const GUP: &str = "get_user_pages_unlocked";
/// Room for some 10,000 exits, on each processor.
const BUFFER_KIB: &str = "8192";
/// As somebody without poisontrace would choose them; of the two last but one each kernel has one.
const OF_A_GUEST: [&str; 10] = [
    "kvm/kvm_exit",
    "kvm/kvm_entry",
    "kvm/kvm_page_fault",
    "kvm/kvm_inj_exception",
    "kvm/kvm_userspace_exit",
    "signal/signal_generate",
    "signal/signal_deliver",
    "sched/sched_process_exit",
    "ras/memory_failure_event",
    "memory_failure/memory_failure_event",
];

pub struct Ftrace(());

impl Ftrace {
    /// Enables the events of a storm; nothing is recorded yet.
    pub fn start() -> Result<Self> {
        let kprobes = format!("{TRACEFS}/kprobe_events");
        // Of an earlier storm.
        fs::remove_dir(INSTANCE).ok();
        write(&kprobes, "")?;
        write(
            &kprobes,
            &format!("p:{GUP_GROUP}/{GUP_ENTER} {GUP}\nr:{GUP_GROUP}/{GUP_RETURN} {GUP} ret=$retval:s64\n"),
        )?;
        // As text, the other clocks have microseconds only.
        instance("x86-tsc")?;
        for event in [
            "kvm/kvm_exit",
            "kvm/kvm_page_fault",
            "kvm/kvm_userspace_exit",
            "kvm/kvm_entry",
            &format!("{GUP_GROUP}/{GUP_ENTER}"),
            &format!("{GUP_GROUP}/{GUP_RETURN}"),
        ] {
            enable(event)?;
        }
        Ok(Self(()))
    }

    /// Enables the events of a guest's death by poison, and of all signals SIGBUS only.
    pub fn of_a_guest() -> Result<Self> {
        instance("mono")?;
        for event in OF_A_GUEST {
            if !Path::new(&events(event)).exists() {
                continue;
            }
            if event.starts_with("signal/") {
                write(&format!("{}/filter", events(event)), "sig == 7")?;
            }
            enable(event)?;
        }
        Ok(Self(()))
    }

    /// Records from here on; the clocks of this moment.
    pub fn record(&self) -> Result<(u64, u64)> {
        write(&format!("{INSTANCE}/tracing_on"), "1")?;
        Ok(clocks())
    }

    /// Ends the recording, and takes it out of the kernel.
    pub fn save(self, file: &str) -> Result<(u64, u64)> {
        write(&format!("{INSTANCE}/tracing_on"), "0")?;
        let clocks = clocks();
        let trace = fs::read(format!("{INSTANCE}/trace")).context("cannot read the trace")?;
        fs::write(file, trace).with_context(|| format!("cannot write {file}"))?;
        fs::remove_dir(INSTANCE).with_context(|| format!("cannot remove {INSTANCE}"))?;
        write(&format!("{TRACEFS}/kprobe_events"), "")?;
        Ok(clocks)
    }
}

/// An empty one that does not record yet.
fn instance(clock: &str) -> Result<()> {
    fs::create_dir(INSTANCE).with_context(|| format!("cannot create {INSTANCE}"))?;
    write(&format!("{INSTANCE}/tracing_on"), "0")?;
    write(&format!("{INSTANCE}/buffer_size_kb"), BUFFER_KIB)?;
    write(&format!("{INSTANCE}/trace_clock"), clock)
}

fn events(event: &str) -> String {
    format!("{INSTANCE}/events/{event}")
}

fn enable(event: &str) -> Result<()> {
    write(&format!("{}/enable", events(event)), "1")
}

/// Cycles, and CLOCK_MONOTONIC in nanoseconds.
fn clocks() -> (u64, u64) {
    let now = clock_gettime(ClockId::Monotonic);
    // SAFETY: every x86-64 processor has RDTSC, and nothing here forbids it to user space.
    let cycles = unsafe { core::arch::x86_64::_rdtsc() };
    let ns = now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned();
    (cycles, ns)
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {:?} to {path}", text.trim_end()))
}
