//! What xtask and the lab's harness share: paths, processes, progress, and Debian packages below target/.

pub mod command;
pub mod debian;
pub mod lock;
pub mod paths;
pub mod preflight;
pub mod progress;
pub mod stamp;
pub mod unpacked;
