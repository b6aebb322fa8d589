//! Storms: what the tiny VMM is asked to do, and what it counts for itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// In the initramfs: a host that finds it runs a storm instead of the scenario of the share.
pub const STORM_FILE: &str = "/storm.json";
pub const STORM_VMM_FILE: &str = "/storm-vmm";
/// The serial port that files leave the emulated host by, one JSON line each.
pub const SHIPPING_PORT: &str = "/dev/ttyS1";
/// Name of the line after the last file.
pub const ALL_SHIPPED: &str = "(all)";

pub const LINE_SIZE: u64 = 64;
pub const LINES: u64 = 64;

/// Where the guest's page tables have the page that is poisoned: another address than its own, so that the two cannot be
/// taken for one another.
pub const GUEST_VIRTUAL: u64 = 0x18_0000;

/// For shadow paging: kvm_intel's parameter and kvm_amd's; each ignores the other's.
pub const SHADOW_PAGING: &str = "ept=0 npt=0";

/// In the VMM's error: the plan's instruction does not exist on this processor.
pub const MISSING_INSTRUCTION: &str = "this processor has no";

/// CPUIDs of the guest after the poisoning: exits that touch no memory.
pub const BARE_EXITS: u64 = 64;

/// The storms of one boot, in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Storms {
    pub hostname: String,
    pub storms: Vec<Storm>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// The folder of its files below that of all; empty: that one itself.
    pub name: String,
    /// Options of `poisontrace run`; none: the VMM runs alone.
    pub daemon: Option<Vec<String>>,
    /// Ask poisontrace first what this kernel offers.
    #[serde(default)]
    pub check: bool,
    /// Record it with ftrace too.
    pub ftrace: bool,
    /// And with `perf kvm stat`.
    #[serde(default)]
    pub perf: bool,
    /// Kill the daemon (SIGKILL) while the storm lasts, this many times, and start another each time.
    #[serde(default)]
    pub kills: u32,
    /// And once in each of these states, of a daemon that attaches at poison.
    #[serde(default)]
    pub kills_while: Vec<State>,
    /// After the storm wait until the daemon detaches what its poison had it attach to the exits, and look what is left there.
    #[serde(default)]
    pub until_detached: bool,
    /// A VM that exits all the time while the daemon starts.
    #[serde(default)]
    pub bystander: bool,
    /// Look at what the daemon has on the hooks of every exit, before the poison and after the storm.
    #[serde(default)]
    pub look_at_exits: bool,
    /// Parameters of the processor's KVM module, which is loaded anew where the storm before had others.
    #[serde(default)]
    pub kvm: String,
    pub plan: StormPlan,
}

/// What a daemon is at that has nothing on the exits until there is poison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No poison yet.
    StandBy,
    /// There is, and a part of what it attaches is attached.
    Attaching,
    /// It is over, and a part is detached.
    Detaching,
}

/// The VMM's only argument, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StormPlan {
    pub mode: Mode,
    pub instruction: Instruction,
    /// How many exits the mode swallow takes before it ends.
    pub exits: u64,
    /// And then it goes on until SIGUSR1 comes.
    #[serde(default)]
    pub until_signal: bool,
    /// After each SIGBUS the VMM reads the registers by KVM_GET_SREGS2, as QEMU does where the kernel has it (5.14 on), in
    /// place of KVM_GET_SREGS.
    #[serde(default)]
    pub sregs2: bool,
    #[serde(default)]
    pub poison: Poison,
    #[serde(default)]
    pub page: Page,
    /// The guest's memory is a huge page that the VMM has pinned, as VFIO does: the kernel cannot split it.
    #[serde(default)]
    pub pinned: bool,
}

impl StormPlan {
    /// A walk of the guest over its page, which the VMM steps over; the page is lost by the VMM's word.
    pub const fn new(mode: Mode, instruction: Instruction) -> Self {
        Self {
            mode,
            instruction,
            exits: 0,
            until_signal: false,
            sregs2: false,
            poison: Poison::Software,
            page: Page::Data,
            pinned: false,
        }
    }
}

/// The page that is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Page {
    /// The one that the guest's instructions access.
    #[default]
    Data,
    /// One of the guest's page tables, which leads to that: the processor's page walk accesses it.
    Table,
}

/// The way in which the guest's page is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Poison {
    /// By the VMM's word: `madvise(MADV_HWPOISON)`.
    #[default]
    Software,
    /// The first line of the page is poisoned in the emulated machine's DRAM, and nobody knows. The guest first flushes every
    /// line, then loads the first: that load consumes the error (#MC). The storm follows.
    Dram,
}

/// The emulator's ports for poison in DRAM: a line's address in two halves, a command, and how often poison was consumed.
pub mod dram_ports {
    pub const FIRST: u16 = 0x8910;
    pub const ADDRESS_LOW: u16 = FIRST;
    pub const ADDRESS_HIGH: u16 = 0x8914;
    pub const COMMAND: u16 = 0x8918;
    pub const CONSUMED: u16 = 0x891c;
    pub const COUNT: u16 = 16;

    /// The line is poisoned from here on.
    pub const POISON: u32 = 1;
    /// It is no longer.
    pub const HEAL: u32 = 2;
}

/// The VMM's reaction to a SIGBUS that demands action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Sets the guest's RIP past the instruction.
    StepOver,
    /// Injects a machine check as QEMU does; the guest's handler returns past the instruction.
    Inject,
    /// Nothing: the guest runs into the same line again and again.
    Swallow,
    /// Raises SIGBUS again with the default action, as QEMU does where it cannot go on.
    Die,
    /// Steps over the whole page; then the guest reads it elsewhere in its code.
    WalkThenRead,
    /// The same with a write.
    WalkThenWrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instruction {
    Clflush,
    Clflushopt,
    Clwb,
    Load,
    Store,
}

/// The VMM's own counters: one JSON line on its standard output, before it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// SIGBUS with the codes BUS_MCEERR_AR and BUS_MCEERR_AO, those of the act of poisoning in a count of their own.
    pub sigbus_ar: u64,
    pub sigbus_ao: u64,
    pub sigbus_while_poisoning: Vec<String>,
    /// Returns from KVM_RUN that came with a SIGBUS of the page.
    pub exits: u64,
    /// Bit n: line n of the page had an exit.
    pub line_bitmap: u64,
    pub distinct_rips: u64,
    /// Times that KVM_GET_SREGS2 was answered.
    #[serde(default)]
    pub sregs2: u64,
    /// SIGBUS for the error that the guest consumed by #MC, which is no exit on the page, and the guest's RIP then.
    #[serde(default)]
    pub consumed: u64,
    #[serde(default)]
    pub consumed_rip: u64,
    /// SIGBUS with another code than those of poison: it names no page, and ends the VMM.
    #[serde(default)]
    pub sigbus_plain: u64,
    /// By the emulator's own count: #MC that poison in DRAM raised while the guest flushed its page, and in all.
    #[serde(default)]
    pub flush_machine_checks: u32,
    #[serde(default)]
    pub machine_checks: u32,
    /// Machine checks given to KVM_X86_SET_MCE, and entries of the guest's handler.
    pub injected: u64,
    pub handled: u64,
    pub hva: u64,
    pub gpa: u64,
    pub pfn: u64,
    /// The guest's code came to its end.
    pub finished: bool,
    /// KVM_RUN that ended with a SIGBUS of the page, nanoseconds: the median of the first of them. The mean would be of
    /// what else the emulated host's one processor had to do.
    pub run_ns: u64,
}

/// The emulated host's result of a storm.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StormResult {
    pub kernel: String,
    pub processor: String,
    /// SVM's decode assists: KVM gets the instruction's bytes with the exit.
    pub decode_assists: bool,
    /// EPT or NPT; else KVM shadows the guest's page tables.
    #[serde(default)]
    pub nested_paging: bool,
    pub vmm_end: String,
    pub vmm_signal: Option<i32>,
    pub vmm_s: f64,
    pub explain_exit: Option<i32>,
    pub daemon_exit: Option<i32>,
    /// Daemons that were killed and replaced while the storm lasted.
    #[serde(default)]
    pub killed: u32,
    /// The states in which others were.
    #[serde(default)]
    pub killed_while: Vec<State>,
    /// How many of all these had stored an incident, when they were killed before the answer.
    #[serde(default)]
    pub killed_with_incident: u32,
    /// Probes and pins left after the daemon had ended; `None`: not checked.
    #[serde(default)]
    pub left_attached: Option<Vec<String>>,
    /// How much was attached or pinned after a daemon was killed for good, and what still was after `poisontrace detach`.
    #[serde(default)]
    pub left_by_death: Option<usize>,
    #[serde(default)]
    pub left_after_detach: Option<Vec<String>>,
    /// The daemon's programs on the hooks that every exit passes, and perf events that it holds open: before the storm, after it,
    /// and once they are detached again. `None`: not looked at.
    #[serde(default)]
    pub on_exits_before: Option<Vec<String>>,
    #[serde(default)]
    pub on_exits_after: Option<Vec<String>>,
    #[serde(default)]
    pub on_exits_detached: Option<Vec<String>>,
    /// Milliseconds that the daemon took to end.
    #[serde(default)]
    pub daemon_stop_ms: Option<u64>,
    /// Resident memory of the daemon when it was ready, and after the storm.
    pub daemon_kib_before: Option<u64>,
    pub daemon_kib_after: Option<u64>,
    /// Processor cycles, ftrace's clock, and CLOCK_MONOTONIC in nanoseconds, at the same two moments.
    pub clocks: Option<[(u64, u64); 2]>,
    /// Why it could not be run to its end.
    pub error: Option<String>,
}

/// ftrace's recording: the file `trace` of its instance.
pub const FTRACE_FILE: &str = "ftrace.txt";
/// The report of `perf kvm stat`.
pub const PERF_FILE: &str = "perf.txt";
/// Kprobe events around `get_user_pages_unlocked`, in a group of their own.
pub const GUP_GROUP: &str = "storm";
pub const GUP_ENTER: &str = "gup_enter";
pub const GUP_RETURN: &str = "gup_return";

/// A file on its way out of the emulated host; the line after the last one has their number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shipped {
    pub name: String,
    pub length: usize,
    /// base64 of a gzip file
    pub content: String,
}

impl Page {
    pub const ALL: [Self; 2] = [Self::Data, Self::Table];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Table => "table",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.name() == name)
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Poison {
    pub const ALL: [Self; 2] = [Self::Software, Self::Dram];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Dram => "dram",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|poison| poison.name() == name)
    }
}

impl Mode {
    pub const ALL: [Self; 6] = [
        Self::StepOver,
        Self::Inject,
        Self::Swallow,
        Self::Die,
        Self::WalkThenRead,
        Self::WalkThenWrite,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::StepOver => "step-over",
            Self::Inject => "inject",
            Self::Swallow => "swallow",
            Self::Die => "die",
            Self::WalkThenRead => "walk-then-read",
            Self::WalkThenWrite => "walk-then-write",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl Instruction {
    pub const ALL: [Self; 5] = [
        Self::Clflush,
        Self::Clflushopt,
        Self::Clwb,
        Self::Load,
        Self::Store,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Clflush => "clflush",
            Self::Clflushopt => "clflushopt",
            Self::Clwb => "clwb",
            Self::Load => "load",
            Self::Store => "store",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|instruction| instruction.name() == name)
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
