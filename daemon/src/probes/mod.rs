//! The BPF programs: loading and attaching them after the plan, and reading their records.

pub mod binding;
mod cost;
mod fentry_btf;
pub mod load;
pub mod memory;
pub mod reserved;
pub mod source;
pub mod totals;
