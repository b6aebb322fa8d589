//! The machine that poisontrace runs on, as every part may ask it: identity, clocks, process numbers, and what the kernel
//! counts by itself. It knows no other module of the daemon.

pub mod kernel_counters;
pub mod machine;
pub mod process;
pub mod process_usage;
pub mod program_cost;
