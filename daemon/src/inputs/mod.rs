//! What the daemon reads beside its probes: /proc, /sys, VMMs' logs and QMP, guest memory.

pub mod guest_code;
pub mod kernel_counters;
pub mod machine;
pub mod poison_scan;
pub mod process_usage;
pub mod qmp;
pub mod vm_registry;
pub mod vmm_log;
