//! The kernel's own counters, to be held against what the probes saw.

use std::{fs, path::Path};

use super::families::NODE_COUNTERS;

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

/// Finds failures that the kernel counted and no probe saw.
#[derive(Default)]
pub struct Reconciler {
    /// The kernel's count when the probes were attached.
    base: Option<u64>,
    actions: u64,
    /// Calls that returned 0: what there is where memory_failure_event is not attached.
    ends: u64,
    unseen: u64,
    /// What was missing at the last look: an event on its way is not missing.
    missing: u64,
}

impl Reconciler {
    /// An action of `memory_failure()` was seen.
    pub fn saw(&mut self) {
        self.actions += 1;
    }

    /// A call of `memory_failure()` was seen to return 0.
    pub fn saw_end(&mut self) {
        self.ends += 1;
    }

    fn seen(&self) -> u64 {
        match self.actions {
            0 => self.ends,
            actions => actions,
        }
    }

    /// Compares with the kernel's count, and returns how many more are known to be unseen: those that were
    /// missing at the last look as well.
    pub fn look(&mut self, kernel: Option<u64>) -> u64 {
        let Some(kernel) = kernel else { return 0 };
        let seen = self.seen();
        let base = *self.base.get_or_insert(kernel.saturating_sub(seen));
        let counted = kernel.saturating_sub(base);
        let missing = counted.saturating_sub(seen + self.unseen);
        let new = missing.min(self.missing);
        self.unseen += new;
        self.missing = missing - new;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_no_probe_saw_is_counted_once_and_one_on_its_way_is_not() {
        let mut reconciler = Reconciler::default();
        assert_eq!(reconciler.look(Some(7)), 0, "what was before does not count");
        assert_eq!(reconciler.look(Some(8)), 0, "its event may be on its way");
        reconciler.saw();
        assert_eq!(reconciler.look(Some(8)), 0);
        assert_eq!(reconciler.look(Some(10)), 0);
        assert_eq!(reconciler.look(Some(10)), 2);
        assert_eq!(reconciler.look(Some(10)), 0);
        assert_eq!(reconciler.look(None), 0);
    }

    #[test]
    fn without_the_tracepoint_the_returns_of_memory_failure_are_what_was_seen() {
        let mut reconciler = Reconciler::default();
        assert_eq!(reconciler.look(Some(0)), 0);
        reconciler.saw_end();
        assert_eq!((reconciler.look(Some(1)), reconciler.look(Some(1))), (0, 0));
    }

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
