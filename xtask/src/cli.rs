//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lab_harness::Processor;
use lab_harness::options::{InstallOptions, LabOptions, MatrixOptions, StormOptions};
use lab_harness::scenarios::Story;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Everything a developer of poisontrace runs")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Task,
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Set up the BPF toolchain and the lab below target/, and do nothing else
    Setup(LabOptions),
    /// Build the BPF programs and the daemon
    Build,
    /// Build the daemon and start it on this host: `cargo xtask run -- --help`
    Run {
        /// Given to `poisontrace run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Make the packages: target/dist/poisontrace.deb and .rpm
    Dist,
    /// Poison a page of a real guest in an emulated host, and print poisontrace's report
    Demo(Demo),
    /// Single experiments in the lab
    Lab {
        #[command(subcommand)]
        experiment: Experiment,
    },
    /// Measure the cost of poisontrace, and write the table
    Bench(BenchOptions),
    /// Take the documentation's pictures of the report again, in Chromium
    Pictures,
    /// Fuzz the parsers of outside input (daemon/fuzz); findings are kept below target/fuzz/work
    Fuzz(Fuzz),
    /// Run a mixed load through the whole daemon, and print memory, losses and correct verdicts over time. Succeeds only if
    /// memory is flat, nothing is lost and every verdict is correct
    Soak(Soak),
    /// Run all tests
    Test(Test),
}

#[derive(Debug, Subcommand)]
pub enum Experiment {
    /// Let a guest walk over a poisoned page with a real CLFLUSH, and print poisontrace's report.
    /// Succeeds only if its counts are those of the VMM
    Storm(StormOptions),
    /// Install the .deb in a real Debian 12 under its own systemd: run, poison, upgrade, stop, purge (needs root)
    Install(InstallOptions),
    /// Run every kernel on every processor: bindings of the probes, sizes of the programs, and the verdict on each
    /// scenario. Succeeds only if every verdict is correct
    Matrix(MatrixOptions),
}

#[derive(Debug, Args)]
pub struct Demo {
    #[arg(long, value_enum, default_value_t = Story::Panic)]
    pub scenario: Story,
    /// Copy the recording, the reports and the logs to this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Only the lab, without the daemon: logs of kernel, QEMU and guest
    #[arg(long, hide = true)]
    pub no_daemon: bool,
    /// Record the guest with ftrace instead, as on a host where no tracer runs
    #[arg(long, hide = true, requires = "no_daemon")]
    pub ftrace: bool,
    /// Series of the guest's kernel, if not the host's: 5.10 has no panic device of the lab's kind
    #[arg(long, hide = true, value_name = "SERIES")]
    pub guest_kernel: Option<String>,
    /// Turn the host's nested paging off
    #[arg(long, hide = true)]
    pub shadow_paging: bool,
    /// Unload and load KVM under the daemon first; then once more with a daemon that has tracepoints only
    #[arg(long, hide = true, conflicts_with = "shadow_paging")]
    pub reloads: bool,
    #[command(flatten)]
    pub lab: LabOptions,
}

#[derive(Debug, Args)]
pub struct BenchOptions {
    /// Only this emulated processor
    #[arg(long, value_enum)]
    pub cpu: Option<Processor>,
    /// Exits of each kind
    #[arg(long, default_value_t = 102_400, value_name = "N")]
    pub exits: u32,
    /// Only these parts: exits in the emulated host; programs, pipeline and the idle daemon on this machine (needs root)
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    pub part: Vec<BenchPart>,
    /// Only these configurations, beside the one with nothing attached
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave out perf, trace-cmd and bpftrace
    #[arg(long)]
    pub no_peers: bool,
    /// A short run on Intel without peers that fails where a ratio is worse than in xtask/bench/cost.json
    #[arg(long)]
    pub quick: bool,
    /// Measure the programs of this BPF object, attached as the daemon attaches its own: to try designs
    #[arg(long, hide = true, value_name = "FILE")]
    pub object: Option<PathBuf>,
    #[command(flatten)]
    pub lab: LabOptions,
}

impl BenchOptions {
    /// Options of the tests' measurement.
    pub fn quick(lab: &LabOptions) -> Self {
        Self {
            cpu: None,
            exits: 0,
            part: Vec::new(),
            only: Vec::new(),
            no_peers: true,
            quick: true,
            object: None,
            lab: lab.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    Exits,
    Programs,
    Pipeline,
    Idle,
}

impl BenchPart {
    pub fn name(self) -> &'static str {
        match self {
            Self::Exits => "exits",
            Self::Programs => "programs",
            Self::Pipeline => "pipeline",
            Self::Idle => "idle",
        }
    }
}

#[derive(Debug, Args)]
pub struct Fuzz {
    /// Only this target
    pub target: Option<String>,
    /// Length of each target's run
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

#[derive(Debug, Args)]
pub struct Soak {
    /// Length of the run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub minutes: u32,
}

#[derive(Debug, Args)]
pub struct Test {
    /// Print the tiers and parts and how long each takes, and run nothing
    #[arg(long, exclusive = true)]
    pub list: bool,
    /// Only the tests that need no emulated host
    #[arg(long)]
    pub no_lab: bool,
    /// Also all scenarios of the lab, packages and costs, and the parts that need a browser and tmux
    #[arg(long)]
    pub full: bool,
    /// Only this part
    #[arg(long, value_enum, conflicts_with = "full")]
    pub only: Option<Part>,
    /// Only these scenarios
    #[arg(long, value_enum, requires = "only", value_delimiter = ',')]
    pub story: Vec<Story>,
    /// Length of the flood of `--only tenants`, minutes; without it, ten seconds
    #[arg(long, requires = "only", value_parser = clap::value_parser!(u32).range(1..))]
    pub minutes: Option<u32>,
    #[command(flatten)]
    pub lab: LabOptions,
}

/// Parts of the tests that can be run alone
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Dashboards, rules and runbooks, with Debian's Prometheus
    Dashboards,
    /// A thousand recorded hosts with 30 days of incidents, scraped by Debian's Prometheus; not part of --full
    Fleet,
    /// Incidents of three hosts in one store, by Debian's rsyslog (needs root); not part of --full
    Shipping,
    /// The report in Chromium, watch in tmux
    Browser,
    /// Licences, duplicates and sources of the dependencies, by cargo-deny
    Dependencies,
    /// Poison that predates the daemon, and a daemon that misses it, in the lab
    Late,
    /// Storms on Intel and on AMD, in the lab
    Storms,
    /// A daemon that is killed in the middle of a storm, in the lab
    Killed,
    /// A Linux guest that flushes its poisoned page and dies of it, in the lab
    Flush,
    /// All other scenarios of the lab, in one boot
    Scenarios,
    /// Both packages: built, and their contents checked
    Packages,
    /// The .deb in a Debian 12 under its own systemd
    Install,
    /// libvirt's domains, and containers of a VMM and of poisontrace, in such a Debian
    Libvirt,
    /// The cost of exits against the committed table, in the lab
    Cost,
    /// Attacks of hostile tenants, with their figures; debug and release builds on 10,000 mutated inputs
    Tenants,
    /// The parsers of events under Miri, with a nightly toolchain by rustup; not part of --full
    Miri,
}
