//! Kernel traces as text: ftrace, trace-cmd report, perf script.

mod assembler;
mod fields;
mod groups;
mod instructions;
mod reason;
pub mod record;
mod signals;
mod thread;

pub use assembler::Assembler;
pub use fields::hex;
pub use signals::action;
