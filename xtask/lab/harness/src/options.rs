//! Options of the experiments.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use lab_protocol::storm::{Instruction, Mode, Page, Poison};

use crate::Processor;
use crate::storms::storm_cases::Watch;

#[derive(Debug, Args)]
pub struct InstallOptions {
    #[command(flatten)]
    pub lab: LabOptions,
}

#[derive(Debug, Args)]
pub struct StormOptions {
    /// The emulated host's processor: Intel if not given, both with --all
    #[arg(long, value_enum)]
    pub cpu: Option<Processor>,
    /// Every kind of storm, one after the other, and a table of poisontrace's verdicts
    #[arg(long, conflicts_with_all = [
        "mode", "instruction", "poison", "page", "pinned", "exits", "read_guest_code", "tracepoints", "shadow_paging", "ftrace", "format"
    ])]
    pub all: bool,
    /// The guest that accesses the page: a loop in a tiny VMM's guest, or Debian's Linux 5.10 in Debian's QEMU, which
    /// flushes the page that QEMU reports as lost, and dies of it (Intel only; some minutes). The latter succeeds only if
    /// the guest's console and poisontrace's verdict show this
    #[arg(long, value_enum, default_value_t = Guest::Tiny)]
    pub guest: Guest,
    /// The VMM's reaction to each SIGBUS
    #[arg(long, value_parser = modes(), default_value = Mode::StepOver.name())]
    pub mode: Mode,
    /// The instruction that accesses each line of the page
    #[arg(long, value_parser = instructions(), default_value = Instruction::Clflush.name())]
    pub instruction: Instruction,
    /// Where the poison comes from: the VMM's madvise(), or a line of the emulated machine's DRAM, which nobody knows of until
    /// the guest loads it: its processor raises a machine check then, and the host's kernel takes the page out of use. Before
    /// that the guest flushes every line of the page, which raises none
    #[arg(long, value_parser = poisons(), default_value = Poison::Software.name())]
    pub poison: Poison,
    /// The page that is lost: the guest's data, or the page table that leads to it
    #[arg(long, value_parser = pages(), default_value = Page::Data.name(), conflicts_with = "poison")]
    pub page: Page,
    /// The guest's memory is one huge page that the VMM has pinned, as VFIO does: the kernel cannot take it out of use. With
    /// --poison dram: up to Linux 6.10 it kills the VMM by a SIGBUS that names no page
    #[arg(long, conflicts_with_all = ["page", "ftrace", "perf", "twice"])]
    pub pinned: bool,
    /// Exits that the mode swallow ends after
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub exits: u64,
    /// Kill poisontrace this many times while the storm lasts, and start it again each time: the counts must still be the
    /// VMM's (--mode swallow with many --exits lasts long enough)
    #[arg(long, default_value_t = 0, value_name = "TIMES")]
    pub kill_daemon: u32,
    /// Let poisontrace read the guest's code
    #[arg(long)]
    pub read_guest_code: bool,
    /// Let the VMM read its vCPU's registers by KVM_GET_SREGS2, as QEMU does: poisontrace must still find the guest's page
    /// tables
    #[arg(long)]
    pub sregs2: bool,
    /// Let poisontrace have tracepoints only, as on a kernel without kprobes
    #[arg(long, conflicts_with = "read_guest_code")]
    pub tracepoints: bool,
    /// Turn the host's nested paging (EPT, NPT) off
    #[arg(long, conflicts_with_all = ["read_guest_code", "tracepoints"])]
    pub shadow_paging: bool,
    /// When poisontrace attaches to the hooks that every exit passes [default: its own]
    #[arg(long, value_name = "WHEN", value_parser = ["on_poison", "always"])]
    pub hot_path: Option<String>,
    /// Wait until poisontrace has detached from them again
    #[arg(long, conflicts_with_all = ["all", "twice"])]
    pub until_detached: bool,
    /// Before the storm, so many times, poisontrace attaches all that poison has it attach and detaches it, beside a VM that exits
    /// all the time
    #[arg(long, default_value_t = 0, value_name = "TIMES", conflicts_with_all = ["all", "twice"])]
    pub cycles: u32,
    /// Record the same run with ftrace, and compare the sums; lengthens every time
    #[arg(long)]
    pub ftrace: bool,
    /// Record it with `perf kvm stat` too, without poisontrace and with it, and compare its times by reason with
    /// ftrace's; implies --ftrace
    #[arg(long)]
    pub perf: bool,
    /// Run it in two boots, and compare the latencies of both
    #[arg(long, conflicts_with_all = ["all", "ftrace", "perf", "format", "kill_daemon"])]
    pub twice: bool,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Copy the recording, the reports and the logs to this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Only the VMM, without the daemon
    #[arg(long, hide = true)]
    pub no_daemon: bool,
    /// Use this poisontrace instead of building one
    #[arg(long, hide = true, value_name = "FILE")]
    pub daemon: Option<PathBuf>,
    /// Use the lab's programs in this folder instead of building them
    #[arg(long, hide = true, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    #[command(flatten)]
    pub lab: LabOptions,
}

impl StormOptions {
    pub fn ftrace(&self) -> bool {
        self.ftrace || self.perf
    }

    pub fn watch(&self) -> Watch {
        match (self.read_guest_code, self.tracepoints, self.shadow_paging) {
            (true, ..) => Watch::GuestCode,
            (_, true, _) => Watch::Tracepoints,
            (.., true) => Watch::ShadowPaging,
            _ => Watch::Plain,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Guest {
    Tiny,
    Linux,
}

#[derive(Debug, Args)]
pub struct MatrixOptions {
    /// Only these series of kernels [default: all that the lab knows]
    #[arg(long, value_name = "SERIES,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Only this processor
    #[arg(long, value_enum)]
    pub cpu: Option<Processor>,
    /// Copy the table, the facts of each kernel and the reports to this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The report, and the VMM's counts beside it
    Text,
    /// poisontrace's JSON alone
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct LabOptions {
    /// Series of the kernel of host and guest
    #[arg(long, default_value = "6.12", value_name = "SERIES")]
    pub kernel: String,
}

fn modes() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name))
        .try_map(|name| Mode::named(&name).ok_or("no such mode"))
}

fn instructions() -> impl TypedValueParser<Value = Instruction> {
    PossibleValuesParser::new(Instruction::ALL.map(Instruction::name))
        .try_map(|name| Instruction::named(&name).ok_or("no such instruction"))
}

fn poisons() -> impl TypedValueParser<Value = Poison> {
    PossibleValuesParser::new(Poison::ALL.map(Poison::name))
        .try_map(|name| Poison::named(&name).ok_or("no such poison"))
}

fn pages() -> impl TypedValueParser<Value = Page> {
    PossibleValuesParser::new(Page::ALL.map(Page::name))
        .try_map(|name| Page::named(&name).ok_or("no such page"))
}
