//! Signs that the guest or its VMM ended.

use serde::{Deserialize, Serialize};

/// One sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Termination {
    /// pvpanic: the guest's kernel states that it panicked.
    Panic,
    /// pvpanic: a crash kernel takes over.
    CrashLoaded,
    /// Reset by the guest through this port.
    ResetPort(u64),
    /// The guest turned itself off by ACPI.
    PowerOff,
    /// A triple fault.
    TripleFault,
    /// KVM_EXIT_SHUTDOWN.
    KvmShutdown,
    /// KVM_EXIT_SYSTEM_EVENT.
    SystemEvent,
    /// KVM_EXIT_INTERNAL_ERROR or FAIL_ENTRY.
    InternalError,
    /// KVM_EXIT_MEMORY_FAULT with EHWPOISON.
    PrivateMemory,
    /// A vCPU entered the guest at the reset vector.
    VcpuReset,
    /// The VMM's last thread ended with this wait status.
    VmmExit(i32),
    /// KVM destroyed the VM.
    VmDestroyed,
    /// The threads that ran the guest ended; how is not known.
    VmmGone,
}
