//! Kernel traces as text: ftrace, trace-cmd report, perf script.

mod assembler;
mod fields;
mod groups;
pub mod record;
mod signals;
mod thread;

pub use assembler::Assembler;
pub use fields::hex;
