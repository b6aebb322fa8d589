//! Benchmarks of exits: what the emulated host is asked to run, and what it measured.

use std::fmt;

use serde::{Deserialize, Serialize};

/// In the initramfs: a host that finds it runs benchmarks.
pub const BENCH_FILE: &str = "/bench.json";
/// In the results: one [`Measured`] a line.
pub const MEASURED_FILE: &str = "measured.jsonl";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bench {
    pub hostname: String,
    pub steps: Vec<Step>,
}

/// One configuration, and what is measured in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub watch: Watch,
    /// Poison another VM before anything is measured.
    pub other_victim: bool,
    pub loops: Vec<Loop>,
}

/// The tracer of the exits meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    Nothing,
    /// A program; it ends by SIGINT.
    Program {
        command: Vec<String>,
        ready: Ready,
        /// A file that it leaves; its size shows whether it saw something.
        leaves: Option<String>,
    },
    /// Events of tracefs that are switched on (`kvm/kvm_exit`), and nobody reads.
    Ftrace {
        events: Vec<String>,
    },
}

/// When a program is at work.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// Once it has printed this.
    Prints(String),
    /// It prints nothing: after this time, ms.
    After(u64),
    /// It prints nothing: once it no longer uses the processor.
    Quiet,
}

/// The VMM's only argument, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loop {
    pub kind: Kind,
    pub exits: u32,
    /// Poison one of the VM's own pages first.
    pub poisoned: bool,
}

/// How the guest leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// CPUID: KVM answers, the guest goes on at once.
    Cpuid,
    /// RDMSR of an MSR that KVM keeps.
    Msr,
    /// OUT to a port of the VMM: KVM_RUN returns.
    Pio,
    /// HLT: KVM_RUN returns, and the VMM wakes the vCPU at once.
    Hlt,
    /// The first touch of a page: EPT violation or nested page fault, and the host-side gup.
    Fault,
    /// A load from a poisoned page, again and again: the same, a gup that fails, SIGBUS, and KVM_RUN returns. The VMM
    /// does nothing about it.
    Poison,
}

impl Kind {
    /// Those that a host without poison sees.
    pub const ALL: [Self; 5] = [Self::Cpuid, Self::Msr, Self::Pio, Self::Hlt, Self::Fault];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cpuid => "cpuid",
            Self::Msr => "msr",
            Self::Pio => "pio",
            Self::Hlt => "hlt",
            Self::Fault => "fault",
            Self::Poison => "poison",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The VMM's result of a loop: one JSON line on its standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// From the first entry to the last exit, by the time stamp counter.
    pub ticks: u64,
    /// The same by CLOCK_MONOTONIC, ns.
    pub wall_ns: u64,
    /// The vCPU thread's own time of it (CLOCK_THREAD_CPUTIME_ID), ns.
    pub own_ns: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub step: String,
    pub plan: Loop,
    pub spent: Spent,
}

/// The emulated host, and the end of each step's program.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BenchResult {
    pub kernel: String,
    pub processor: String,
    pub ended: Vec<Ended>,
}

/// How a step's program ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ended {
    pub step: String,
    pub end: String,
    /// Size of the file that it leaves.
    pub left: Option<u64>,
    /// Lines that it printed last.
    pub last_words: Vec<String>,
}
