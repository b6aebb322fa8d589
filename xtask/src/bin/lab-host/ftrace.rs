//! The kernel's own recording of a storm, in an instance of its own: what poisontrace's sums are held against.

use std::fs;

use anyhow::{Context, Result};
use lab_contract::storm::{GUP_ENTER, GUP_GROUP, GUP_RETURN};
use rustix::time::{ClockId, clock_gettime};

const TRACEFS: &str = "/sys/kernel/tracing";
const INSTANCE: &str = "/sys/kernel/tracing/instances/storm";
const GUP: &str = "get_user_pages_unlocked";
/// Room for some 10,000 exits.
const BUFFER_KIB: &str = "8192";

pub struct Ftrace(());

impl Ftrace {
    /// Enables the events; nothing is recorded yet.
    pub fn start() -> Result<Self> {
        let kprobes = format!("{TRACEFS}/kprobe_events");
        // Of an earlier storm.
        fs::remove_dir(INSTANCE).ok();
        write(&kprobes, "")?;
        write(
            &kprobes,
            &format!("p:{GUP_GROUP}/{GUP_ENTER} {GUP}\nr:{GUP_GROUP}/{GUP_RETURN} {GUP} ret=$retval:s64\n"),
        )?;
        fs::create_dir(INSTANCE).with_context(|| format!("cannot create {INSTANCE}"))?;
        write(&format!("{INSTANCE}/tracing_on"), "0")?;
        write(&format!("{INSTANCE}/buffer_size_kb"), BUFFER_KIB)?;
        // As text, the other clocks have microseconds only.
        write(&format!("{INSTANCE}/trace_clock"), "x86-tsc")?;
        for event in [
            "kvm/kvm_exit",
            "kvm/kvm_page_fault",
            "kvm/kvm_userspace_exit",
            "kvm/kvm_entry",
            &format!("{GUP_GROUP}/{GUP_ENTER}"),
            &format!("{GUP_GROUP}/{GUP_RETURN}"),
        ] {
            write(&format!("{INSTANCE}/events/{event}/enable"), "1")?;
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
