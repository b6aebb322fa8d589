//! Process numbers.

use std::fs;

/// The process of a thread, from `/proc`; `None`: it is gone, or cannot be read.
pub fn process_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}
