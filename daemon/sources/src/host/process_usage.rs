//! What the daemon itself uses, from /proc/self.

use std::fs;

/// Resident memory, and user and system time so far.
pub struct Usage {
    pub resident_bytes: i64,
    pub cpu_seconds: f64,
}

impl Usage {
    /// `None` where /proc cannot be read.
    pub fn read() -> Option<Self> {
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let pages: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        let page = i64::try_from(rustix::param::page_size()).ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // Fields 14 and 15 of proc_pid_stat(5), counted after the comm, which may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Self {
            resident_bytes: pages.checked_mul(page)?,
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        })
    }
}
