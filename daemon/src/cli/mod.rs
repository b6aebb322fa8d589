//! The commands.

mod check;
mod config;
mod daemon;
mod detach;
mod explain;
mod incidents;
mod output;
mod progress;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::{ListenAddress, Log, LogFormat, LogLevel, Template},
    failure::Failure,
    service::logging,
};

/// Why did my KVM guest die on poisoned memory?
#[derive(Parser)]
#[command(name = "poisontrace", version = VERSION)]
struct Cli {
    #[command(flatten)]
    source: SourceArgs,
    #[command(subcommand)]
    command: Command,
}

/// Where settings come from: a flag wins over the environment (POISONTRACE_ and the key), that over the file.
#[derive(Args)]
struct SourceArgs {
    /// The configuration [default: /etc/poisontrace/poisontrace.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "POISONTRACE_CONFIG")]
    config: Option<PathBuf>,
    /// What is logged; at debug and trace the BPF programs' own diagnostics too [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

#[derive(Subcommand)]
enum Command {
    /// Attach the probes and record incidents until SIGINT or SIGTERM
    Run(RunArgs),
    /// Attach the probes and write a recording of all events, without the store
    Record(RecordArgs),
    /// Say why a guest died: an incident of the store, or of a recording
    Explain(ExplainArgs),
    /// List the incidents of the store, export them, delete old ones
    Incidents(IncidentsArgs),
    /// Let recordings go through the daemon's pipeline again, in their own time, with /metrics on
    Replay(ReplayArgs),
    /// Say which probes this kernel offers and what is lost without the others; exit status 0 if a verdict is
    /// possible, 1 if not
    Check(check::CheckArgs),
    /// Remove the probes and totals that a daemon which was killed has left in the kernel
    Detach,
    /// Follow the daemon on a full screen: VMs at risk, open incidents, exits, probes
    Watch(WatchArgs),
    /// Look at the configuration
    Config(ConfigArgs),
}

#[derive(Args)]
struct ConfigArgs {
    #[command(subcommand)]
    task: ConfigTask,
}

#[derive(Subcommand)]
enum ConfigTask {
    /// Say what is wrong with the configuration; exit status 0 if nothing is
    Check {
        /// The file to look at [default: that of --config]
        file: Option<PathBuf>,
    },
}

/// How probes are attached.
#[derive(Args)]
struct ProbeArgs {
    /// Do without these ways of binding, as if the kernel had none of them; said in the report
    #[arg(
        long,
        hide = true,
        value_name = "WAY,…",
        value_delimiter = ',',
        value_parser = ["kprobe", "fentry", "tracepoint", "raw_tracepoint"]
    )]
    without: Vec<String>,
    /// Keep totals of so few pages in the kernel: what happens when they are full is tried so
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    page_totals: Option<u32>,
}

#[derive(Args)]
struct StateArgs {
    /// Where incidents are stored [env: POISONTRACE_STATE_DIR] [default: /var/lib/poisontrace]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Also write a recording of all events
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    probes: ProbeArgs,
    /// Pin nothing below /sys/fs/bpf/poisontrace: where the daemon is killed its probes go with it, and what happens until
    /// it is started again is not seen
    #[arg(long)]
    no_pins: bool,
    #[command(flatten)]
    vmm: VmmArgs,
    #[command(flatten)]
    web: WebArgs,
    /// Add metrics by VM (label vm)
    #[arg(long)]
    vm_labels: bool,
    /// How long after the last sign of poison a guest's death still counts as its [default: 600]
    #[arg(long, value_name = "SECONDS")]
    late_death: Option<u32>,
    /// Where the log goes [default: auto]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Args)]
struct WebArgs {
    /// Where /metrics is served; "" serves nothing [default: 127.0.0.1:9847]
    #[arg(long = "web.listen-address", value_name = "ADDRESS:PORT")]
    listen_address: Option<ListenAddress>,
    /// TLS, client certificates and users, in the form of Prometheus' exporter-toolkit
    #[arg(long = "web.config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,
}

#[derive(Args, Clone, Copy)]
struct GuestArgs {
    /// Read the instruction that touched a poisoned page from the guest's memory (at most 15 bytes, and the page-table
    /// entries on the way); off by default, and said in the report
    #[arg(long)]
    read_guest_code: bool,
}

#[derive(Args)]
struct VmmArgs {
    /// Where a VMM's log is, with {name}, {uuid} or {pid} in it; read while an incident of the VM is open; "": not read
    /// [default: /var/log/libvirt/qemu/{name}.log]
    #[arg(long, value_name = "TEMPLATE")]
    vmm_log: Option<Template>,
    /// A QMP socket of the VMM's that no other client uses, likewise; only listened to [default: none]
    #[arg(long, value_name = "TEMPLATE")]
    qmp: Option<Template>,
}

#[derive(Args)]
struct RecordArgs {
    /// The recording; a file that exists is not overwritten
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    probes: ProbeArgs,
}

#[derive(Args)]
struct ReplayArgs {
    /// Recordings, one after the other
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    from: Vec<PathBuf>,
    /// Store the incidents in this folder, as `run` does; one that is stored already is brought up to date [default: nothing
    /// is stored]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// As it happened, or as fast as it goes
    #[arg(long, default_value = "real")]
    speed: Speed,
    /// Pauses longer than this are cut to it, seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    longest_pause: u64,
    /// Go on serving after the last recording, until SIGINT or SIGTERM
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    web: WebArgs,
    /// Add metrics by VM (label vm)
    #[arg(long)]
    vm_labels: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Speed {
    Real,
    Max,
}

#[derive(Args)]
struct ExplainArgs {
    #[command(flatten)]
    state: StateArgs,
    /// The incident's id
    #[arg(value_name = "ID", conflicts_with_all = ["last", "vm"])]
    id: Option<String>,
    /// The incident that began last (the default for the store)
    #[arg(long)]
    last: bool,
    /// The last incident of the VM of this name
    #[arg(long, value_name = "NAME", conflicts_with = "last")]
    vm: Option<String>,
    /// Read files instead of the store ("-": standard input); all their incidents, unless one is named. Any mix of
    /// recordings, kernel traces as text (ftrace, trace-cmd report, perf script), kernel logs, QEMU and libvirt
    /// logs, guest consoles, QMP events and rasdaemon's database, each known by its content
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// How long after the last sign of poison a guest's death still counts as its
    #[arg(long, value_name = "SECONDS", requires = "from", default_value_t = 600)]
    late_death: u64,
    /// Explain what is there of a recording whose end is missing
    #[arg(long, requires = "from")]
    allow_truncated: bool,
    /// html: one page that needs nothing else, for a browser or for paper
    #[arg(long, default_value = "text")]
    format: ReportFormat,
    /// Write to this file instead of standard output; one that exists is replaced
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args)]
struct WatchArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Where the daemon's metrics are [default: what the configuration lets it listen on]
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
}

#[derive(Args)]
struct IncidentsArgs {
    #[command(flatten)]
    state: StateArgs,
    #[arg(long, default_value = "text")]
    format: Format,
    #[command(subcommand)]
    action: Option<IncidentsAction>,
}

#[derive(Subcommand)]
enum IncidentsAction {
    /// Write all that is stored as JSON lines, one incident a line: with its verdict history and its kept events
    Export {
        /// Only this incident
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Instead of standard output; a file that exists is not overwritten
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Delete incidents by the age of their last change, then the oldest while the store is too large; the daemon
    /// may be running
    Prune {
        /// 12h, 90d
        #[arg(long, value_name = "AGE", value_parser = incidents::age, required_unless_present = "max_size")]
        older_than: Option<std::time::Duration>,
        /// 500K, 64M, 2G
        #[arg(long, value_name = "SIZE", value_parser = incidents::size)]
        max_size: Option<u64>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Text,
    Json,
    Html,
}

/// A command's result: its exit status, or why it could not be done (status 2).
type Outcome = Result<ExitCode, Failure>;

/// Version and revision.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("POISONTRACE_BUILT_FROM"),
    ")"
);

/// The log of a command that answers and ends.
fn log_to_stderr(source: &SourceArgs) {
    logging::start(&Log {
        level: source.log_level.unwrap_or(LogLevel::Info),
        format: LogFormat::Text,
    });
}

/// The command line's description, for man pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    dispatch(&cli).unwrap_or_else(|failure| {
        eprintln!(
            "poisontrace: {}",
            poisontrace_model::text::sanitise(failure.text(), 2000)
        );
        ExitCode::from(2)
    })
}

fn dispatch(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Run(args) => daemon::run(args, &cli.source),
        Command::Record(args) => daemon::record(args, &cli.source),
        Command::Replay(args) => daemon::replay(args, &cli.source),
        Command::Explain(args) => {
            log_to_stderr(&cli.source);
            explain::explain(args, &cli.source)
        }
        Command::Incidents(args) => {
            log_to_stderr(&cli.source);
            incidents::incidents(args, &cli.source)
        }
        Command::Watch(args) => watch::watch(args, &cli.source),
        Command::Check(args) => {
            log_to_stderr(&cli.source);
            check::check(args)
        }
        Command::Detach => detach::detach(),
        Command::Config(args) => config::config(args, &cli.source),
    }
}
