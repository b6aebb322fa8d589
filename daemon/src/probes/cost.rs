//! What the BPF programs have cost, by the kernel's statistics (kernel.bpf_stats_enabled), and the runs that it left out.

use std::os::fd::AsFd as _;

use super::{bpf, load::Loaded};
use crate::sinks::metrics::ProgramCost;

impl Loaded {
    /// Runs and time of each loaded program, which stand still while the statistics are off; missed runs, which do not.
    pub fn costs(&self) -> Vec<ProgramCost> {
        self.ebpf
            .programs()
            .filter_map(|(name, program)| {
                let info = program.info().ok()?;
                Some(ProgramCost {
                    name: name.to_owned(),
                    runs: info.run_count(),
                    run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                    missed: bpf::missed_runs(program.fd().ok()?.as_fd()).unwrap_or(0),
                })
            })
            .collect()
    }
}
