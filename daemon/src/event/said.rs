//! What the logs of others say: the host's kernel, the VMM, QMP, the guest's console. Testimony, where the
//! other events are observation.

use serde::{Deserialize, Serialize};

use super::SigbusSeverity;
use crate::hex::Hex;

/// One statement, and who made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saying {
    /// The file, as the answer names it.
    pub source: String,
    /// Its time on its own clock, where that clock could not be aligned and the event's `t` is only its order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_clock: Option<String>,
    #[serde(flatten)]
    pub said: Said,
}

/// The statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Said {
    /// The host's kernel: SIGBUS (or, long ago, "Killing") for this page to this process.
    HostSignal { pfn: Hex, comm: String, pid: u32 },
    /// The host's kernel: what it did about the page.
    HostAction {
        pfn: Hex,
        page_type: String,
        result: String,
    },
    /// The host's kernel: SIGKILL, because the page could not be unmapped.
    HostKilled { pfn: Hex, comm: String, pid: u32 },
    /// The audit subsystem or systemd: how a process ended.
    ProcessEnded {
        who: String,
        pid: Option<u32>,
        how: Ended,
    },
    /// The host's kernel: a process touched lost memory by itself.
    OwnAccess { comm: String, pid: u32, hva: Hex },
    /// The VMM: it told its guest.
    VmmTold {
        hva: Option<Hex>,
        gpa: Option<Hex>,
        severity: Option<SigbusSeverity>,
    },
    /// QEMU: lost memory that is not its guest's; it ends itself where `fatal`.
    VmmOwnMemory { fatal: bool },
    /// QEMU: it resets its guest, because a #MC met one in progress, or machine checks turned off.
    VmmReset { recursive: bool },
    /// QEMU: KVM_RUN failed with -EHWPOISON.
    RunFailed,
    /// Firecracker: it ends because of SIGBUS.
    VmmSigbus { code: Option<i32> },
    /// libvirt, or a VMM's command line: who the VM is.
    VmName {
        name: Option<String>,
        uuid: Option<String>,
        vmm: Option<String>,
    },
    /// libvirt: the domain is gone, and why.
    VmShutdown { reason: String },
    /// The guest's kernel: a machine check, as far as its lines told.
    GuestMce(GuestMce),
    /// The guest's kernel: panic.
    GuestPanic { text: String },
    /// The guest's kernel: its own memory_failure() signalled a process.
    GuestSignal { pfn: Hex, comm: String, pid: u32 },
    /// The guest's kernel: what its own memory_failure() did.
    GuestAction {
        pfn: Hex,
        page_type: String,
        result: String,
    },
    /// QMP MEMORY_FAILURE.
    QmpMemoryFailure {
        domain: Option<String>,
        recipient: String,
        action: String,
        action_required: bool,
        recursive: bool,
    },
    /// QMP GUEST_PANICKED or GUEST_CRASHLOADED.
    QmpPanicked { domain: Option<String> },
    /// QMP RESET.
    QmpReset { domain: Option<String>, guest: bool },
    /// QMP SHUTDOWN.
    QmpShutdown {
        domain: Option<String>,
        guest: bool,
        reason: Option<String>,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Signal(u32),
    Exit(u32),
}

/// A machine check as a kernel printed it, gathered from its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GuestMce {
    pub cpu: Option<u32>,
    pub mcg_status: Option<Hex>,
    pub bank: Option<u32>,
    pub status: Option<Hex>,
    pub addr: Option<Hex>,
    pub misc: Option<Hex>,
    pub cs: Option<u32>,
    pub rip: Option<Hex>,
    /// Function of the RIP, as the kernel printed it.
    pub symbol: Option<String>,
    /// The kernel's reason ("Machine check: …").
    pub reason: Option<String>,
}
