//! The BPF programs: loading and attaching them after the plan, and reading their records.

mod attach;
pub mod binding;
mod bpf;
pub mod bpffs;
mod clock;
pub mod cost;
mod fentry_btf;
pub mod kvm;
pub mod load;
pub mod memory;
mod preallocated;
pub mod probe;
pub mod source;
mod standby;
pub mod totals;
pub mod tracepoint;
pub mod vcpus;
