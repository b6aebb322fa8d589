//! What the BPF programs have cost, by the kernel's own statistics (kernel.bpf_stats_enabled).

use super::load::Loaded;
use crate::sinks::metrics::ProgramCost;

impl Loaded {
    /// Runs and time of each loaded program; they stand still while the statistics are off.
    pub fn costs(&self) -> Vec<ProgramCost> {
        self.ebpf
            .programs()
            .filter_map(|(name, program)| {
                let info = program.info().ok()?;
                Some(ProgramCost {
                    name: name.to_owned(),
                    runs: info.run_count(),
                    run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                })
            })
            .collect()
    }
}
