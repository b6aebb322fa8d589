//! The kernel's own counters, to be held against what the probes saw.

use std::{fs, path::Path};

/// Counters of /sys/devices/system/node/node*/memory_failure (drivers/base/node.c).
pub const NODE_COUNTERS: [&str; 5] = ["total", "ignored", "failed", "delayed", "recovered"];

/// What the kernel counts by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// HardwareCorrupted of /proc/meminfo, bytes.
    pub hardware_corrupted: Option<u64>,
    /// Sums over the nodes, in the order of [`NODE_COUNTERS`]; kernels before 6.4 have none.
    pub nodes: Option<[u64; NODE_COUNTERS.len()]>,
}

impl KernelCounters {
    /// Reads them below `root` (`/`).
    pub fn read(root: &Path) -> Self {
        Self {
            hardware_corrupted: hardware_corrupted(root),
            nodes: nodes(root),
        }
    }
}

fn hardware_corrupted(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix("HardwareCorrupted:"))?;
    let kb: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kb * 1024)
}

fn nodes(root: &Path) -> Option<[u64; NODE_COUNTERS.len()]> {
    let mut sums = None;
    for entry in fs::read_dir(root.join("sys/devices/system/node")).ok()?.flatten() {
        // Beside the nodes there are lists of them.
        if !entry.file_name().as_encoded_bytes().starts_with(b"node") {
            continue;
        }
        let folder = entry.path().join("memory_failure");
        for (n, name) in NODE_COUNTERS.iter().enumerate() {
            if let Some(count) = fs::read_to_string(folder.join(name))
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok())
            {
                sums.get_or_insert([0; NODE_COUNTERS.len()])[n] += count;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_the_nodes() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc")).unwrap();
        fs::write(
            root.path().join("proc/meminfo"),
            "MemTotal: 1 kB\nHardwareCorrupted:     8 kB\n",
        )
        .unwrap();
        for node in ["node0", "node1"] {
            let folder = root
                .path()
                .join("sys/devices/system/node")
                .join(node)
                .join("memory_failure");
            fs::create_dir_all(&folder).unwrap();
            for name in NODE_COUNTERS {
                fs::write(folder.join(name), "2\n").unwrap();
            }
        }
        let counters = KernelCounters::read(root.path());
        assert_eq!(counters.hardware_corrupted, Some(8192));
        assert_eq!(counters.nodes, Some([4; 5]));
        assert_eq!(
            KernelCounters::read(Path::new("/no/such/root")),
            KernelCounters::default()
        );
    }
}
