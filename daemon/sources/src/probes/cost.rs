//! What the BPF programs have cost, by the kernel's statistics (kernel.bpf_stats_enabled), and the runs that it left out.

use std::os::fd::AsFd as _;

use super::{bpf, load::Loaded};
use crate::host::program_cost::ProgramCost;

impl Loaded {
    /// Runs and time of each loaded program, which stand still while the statistics are off; missed runs, which do not.
    pub fn costs(&self) -> Vec<ProgramCost> {
        self.ebpf
            .programs()
            .filter_map(|(name, program)| {
                let info = bpf::program_info(program.fd().ok()?.as_fd()).ok()?;
                Some(ProgramCost {
                    name: name.to_owned(),
                    runs: info.run_cnt,
                    run_ns: info.run_time_ns,
                    // Counted from Linux 5.12 on; for programs of tracepoints and kprobes later.
                    missed: info.recursion_misses,
                })
            })
            .collect()
    }
}
