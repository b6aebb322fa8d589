//! Exits that touch no guest memory, wait for nothing and stay in the kernel: what a bare exit and entry costs on this
//! host. Kept per CPU, by kind of exit, of VMs that had poison.

/// CPUID: VMX exit reason 10, SVM exit code 0x72.
pub const CPUID: u32 = 0;
/// RDMSR and WRMSR: 31 and 32, 0x7c.
pub const MSR: u32 = 1;
/// Interrupt window: 7; SVM's VINTR 0x64.
pub const INTERRUPT_WINDOW: u32 = 2;
/// VMX preemption timer: 52.
pub const PREEMPTION_TIMER: u32 = 3;
pub const KINDS: u32 = 4;
