//! Kernel traces as text: ftrace, trace-cmd report, perf script.

mod assembler;
mod fields;
mod groups;
pub mod record;
mod thread;

pub use assembler::{Assembler, action};
pub use fields::hex;
