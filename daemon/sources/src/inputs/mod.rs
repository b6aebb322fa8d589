//! What the daemon reads beside its probes: /proc, /sys, VMMs' logs and QMP, guest memory.

pub mod forecast;
pub mod guest_code;
pub mod path_template;
pub mod poison_scan;
pub mod qmp;
pub mod vm_registry;
pub mod vmm_log;
pub mod vmm_places;
