//! The limits of the daemon's unit as a control group, for a daemon that no systemd starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const UNIT: &str = include_str!("../../../../daemon/packaging/poisontrace.service");
/// Where control groups are mounted.
pub const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// cgroup(7): of `CPUQuota=`, microseconds.
const PERIOD: u64 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitLimits {
    /// `MemoryMax=`.
    pub memory_bytes: u64,
    /// `TasksMax=`.
    pub tasks: u64,
    /// `CPUQuota=`.
    pub cpu_percent: u64,
}

impl UnitLimits {
    /// Of the unit in the packages.
    pub fn of_the_unit() -> Option<Self> {
        Self::of(UNIT)
    }

    fn of(unit: &str) -> Option<Self> {
        let setting = |name: &str| {
            let mut values = unit
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            values.next_back()
        };
        Some(Self {
            memory_bytes: setting("MemoryMax")?.strip_suffix('M')?.parse::<u64>().ok()? << 20,
            tasks: setting("TasksMax")?.parse().ok()?,
            cpu_percent: setting("CPUQuota")?.strip_suffix('%')?.parse().ok()?,
        })
    }
}

/// A control group, which is removed when this is dropped, if no process is in it then.
pub struct Group {
    folders: Vec<PathBuf>,
}

impl Group {
    /// Makes one below `root`, of version 2 or, where the controllers are mounted apart, of version 1.
    pub fn create(root: &Path, name: &str, limits: UnitLimits) -> io::Result<Self> {
        let (quota, memory) = (limits.cpu_percent * PERIOD / 100, limits.memory_bytes);
        let version_2 = root.join("cgroup.controllers").exists();
        if version_2 {
            fs::write(root.join("cgroup.subtree_control"), "+memory +pids +cpu")?;
        }
        let settings = [
            (
                "memory",
                "memory.max",
                "memory.limit_in_bytes",
                memory.to_string(),
                memory.to_string(),
            ),
            (
                "pids",
                "pids.max",
                "pids.max",
                limits.tasks.to_string(),
                limits.tasks.to_string(),
            ),
            (
                "cpu",
                "cpu.max",
                "cpu.cfs_quota_us",
                format!("{quota} {PERIOD}"),
                quota.to_string(),
            ),
        ];
        let mut folders = Vec::new();
        for (controller, file_2, file_1, value_2, value_1) in settings {
            let (folder, file, value) = match version_2 {
                true => (root.join(name), file_2, value_2),
                false => (root.join(controller).join(name), file_1, value_1),
            };
            match fs::create_dir(&folder) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
                _ => {}
            }
            fs::write(folder.join(file), value)?;
            folders.push(folder);
        }
        folders.dedup();
        Ok(Self { folders })
    }

    /// Moves a process into it.
    pub fn take(&self, pid: u32) -> io::Result<()> {
        self.folders
            .iter()
            .try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // A group that is left does no harm.
            fs::remove_dir(folder).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_limits_are_read() {
        let unit = "[Service]\nMemoryMax=256M\nCPUQuota=100%\nTasksMax=128\n";
        let limits = UnitLimits::of(unit).unwrap();
        assert_eq!(
            (limits.memory_bytes, limits.tasks, limits.cpu_percent),
            (268_435_456, 128, 100)
        );
        assert!(UnitLimits::of_the_unit().is_some());
    }
}
