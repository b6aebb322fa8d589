//! Shared by xtask and the lab's harness: paths, processes, progress, and Debian packages below target/.

pub mod command;
pub mod debian;
pub mod durations;
pub mod lock;
pub mod paths;
pub mod preflight;
pub mod progress;
pub mod stamp;
pub mod unpacked;
