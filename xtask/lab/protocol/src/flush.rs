//! A real guest whose kernel flushes a page that the host has lost.

use serde::{Deserialize, Serialize};

use super::GuestPlan;

/// In the initramfs: a host that finds it runs this guest instead of a storm.
pub const FLUSH_FILE: &str = "/flush.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlushPlan {
    pub hostname: String,
    /// Parameters of the processor's KVM module.
    pub kvm: String,
    /// Options of `poisontrace run`.
    pub daemon: Vec<String>,
    /// It has a memory file; one of its pages is lost before the VM starts.
    pub guest: GuestPlan,
    /// That page.
    pub gpa: u64,
    /// The machine check that QEMU's monitor injects for it.
    pub machine_check: MachineCheck,
}

/// A machine-check bank, as IA32_MCi_STATUS and its neighbours have it (Intel SDM volume 3, 16.3.2).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct MachineCheck {
    pub bank: u8,
    pub status: u64,
    pub misc: u64,
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
}

/// The emulated host's result; seconds of its uptime.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FlushResult {
    pub kernel: String,
    pub processor: String,
    pub pfn: u64,
    pub started_s: f64,
    pub page_ready_s: f64,
    pub injected_s: f64,
    pub ended_s: f64,
    /// How the VMM ended, in words.
    pub vmm_end: String,
    pub explain_exit: Option<i32>,
    pub daemon_exit: Option<i32>,
}
