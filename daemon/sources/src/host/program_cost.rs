//! What a BPF program has cost: the probes read it, metrics show it.

/// By the kernel's statistics (kernel.bpf_stats_enabled).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    pub name: String,
    pub runs: u64,
    /// Nanoseconds.
    pub run_ns: u64,
    /// Runs that the kernel left out, as another was at work on that processor.
    pub missed: u64,
}
