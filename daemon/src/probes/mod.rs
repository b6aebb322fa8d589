//! The BPF programs: loading and attaching them after the plan, and reading their records.

mod cost;
pub mod load;
pub mod source;
pub mod totals;
