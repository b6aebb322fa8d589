//! The commands.

mod check;
mod config;
mod daemon;
mod detach;
mod explain;
mod forecast;
mod incidents;
mod output;
mod progress;
mod renamed;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::{HotPathChoice, ListenAddress, Log, LogFormat, LogLevel},
    failure::Failure,
    service::logging,
};
use poisontrace_sources::inputs::path_template::Template;

/// Why did my KVM guest die on poisoned memory?
#[derive(Parser)]
#[command(name = "poisontrace", version = VERSION)]
struct Cli {
    #[command(flatten)]
    source: SourceArgs,
    #[command(subcommand)]
    command: Command,
}

/// Sources of settings: flags override the environment (POISONTRACE_ and the key), which overrides the file.
#[derive(Args)]
struct SourceArgs {
    /// Configuration file [default: /etc/poisontrace/poisontrace.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE", env = "POISONTRACE_CONFIG")]
    config: Option<PathBuf>,
    /// Log level; debug and trace include the diagnostics of the BPF programs [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

#[derive(Subcommand)]
enum Command {
    /// Attach the probes and record incidents until SIGINT or SIGTERM
    Run(RunArgs),
    /// Attach the probes and write all events to a recording; nothing is stored
    Record(RecordArgs),
    /// Explain why a guest died: an incident of the store, or of files
    Explain(ExplainArgs),
    /// List, export or delete the incidents of the store
    Incidents(IncidentsArgs),
    /// Replay recordings through the pipeline, in real time, with /metrics served
    Replay(ReplayArgs),
    /// Show which probes this kernel offers and the effect of missing ones; exit status 0 if a verdict is possible,
    /// 1 if not
    Check(check::CheckArgs),
    /// Show what a memory error would do to each guest of this host, why, and what to change; reads only. Exit status 0 if all
    /// facts were read, 1 if some were not (the answer names them), 2 if there is no answer
    Forecast(forecast::ForecastArgs),
    /// Remove the probes and totals that a killed daemon left in the kernel
    Detach,
    /// Full-screen view of the daemon: VMs at risk, open incidents, exits, probes
    Watch(WatchArgs),
    /// Check the configuration
    Config(ConfigArgs),
}

#[derive(Args)]
struct ConfigArgs {
    #[command(subcommand)]
    task: ConfigTask,
}

#[derive(Subcommand)]
enum ConfigTask {
    /// Report the problems of the configuration; exit status 0 if there are none
    Check {
        /// File to check [default: that of --config]
        file: Option<PathBuf>,
    },
}

/// How probes are attached.
#[derive(Args)]
struct ProbeArgs {
    /// Treat these attach types as if the kernel had none of them; the report names them
    #[arg(
        long,
        hide = true,
        value_name = "TYPE,…",
        value_delimiter = ',',
        value_parser = ["kprobe", "fentry", "tracepoint", "raw_tracepoint"]
    )]
    disable_attach_type: Vec<String>,
    /// Attach to the hooks that every exit of every guest passes while there is poison, where this kernel allows it, or
    /// always [default: on_poison]
    #[arg(long, value_name = "WHEN")]
    hot_path: Option<HotPathChoice>,
    /// Pages with totals in the kernel; a small number tests what happens when the table is full
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    page_totals: Option<u32>,
    /// Attach what poison attaches, and detach it again, so many times at start: a test
    #[arg(long, hide = true, value_name = "TIMES", default_value_t = 0)]
    rehearse: u32,
}

#[derive(Args)]
struct StateArgs {
    /// Folder of the store [env: POISONTRACE_STATE_DIR] [default: /var/lib/poisontrace]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Also write all events to a recording
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    probes: ProbeArgs,
    /// Pin nothing below /sys/fs/bpf/poisontrace: if the daemon is killed, its probes are detached, and events are missed
    /// until it runs again
    #[arg(long)]
    no_pins: bool,
    #[command(flatten)]
    vmm: VmmArgs,
    #[command(flatten)]
    web: WebArgs,
    /// Add metrics by VM (label vm)
    #[arg(long)]
    per_vm_metrics: bool,
    /// Seconds after the last poison event during which a guest's death is attributed to it [default: 600]
    #[arg(long, value_name = "SECONDS")]
    attribution_window: Option<u32>,
    /// Log format and destination [default: auto]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Args)]
struct WebArgs {
    /// Address of /metrics; "": no server [default: 127.0.0.1:9847]
    #[arg(long = "web.listen-address", value_name = "ADDRESS:PORT")]
    listen_address: Option<ListenAddress>,
    /// TLS, client certificates and users, in the format of Prometheus' exporter-toolkit
    #[arg(long = "web.config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Also serve the incidents of the store at /incidents and /api/v1/incidents; refused without TLS and a user, unless on
    /// loopback
    #[arg(long = "web.incidents")]
    incidents: bool,
}

#[derive(Args, Clone, Copy)]
struct GuestArgs {
    /// Read the instruction that accessed a poisoned page from guest memory (at most 15 bytes, and the page-table entries
    /// on the way); off by default, noted in the report. The read is a plain copy by the kernel: if memory beside the poisoned
    /// page is bad too, and not yet reported, it can panic the host
    #[arg(long)]
    read_guest_code: bool,
}

#[derive(Args)]
struct VmmArgs {
    /// Path of a VMM's log, with {name}, {uuid} or {pid}; read while an incident of the VM is open; "": not read
    /// [default: /var/log/libvirt/qemu/{name}.log]
    #[arg(long, value_name = "TEMPLATE")]
    vmm_log: Option<Template>,
    /// Path of a QMP socket of the VMM that no other client uses, with the same keys; events are read, no commands are sent
    /// [default: none]
    #[arg(long, value_name = "TEMPLATE")]
    qmp: Option<Template>,
}

#[derive(Args)]
struct RecordArgs {
    /// Recording to write; an existing file is not overwritten
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    probes: ProbeArgs,
}

#[derive(Args)]
struct ReplayArgs {
    /// Recordings to replay, in this order
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    from: Vec<PathBuf>,
    /// Store the incidents in this folder, as `run` does, and update those that it has [default: nothing is stored]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// With the recorded pauses, or without
    #[arg(long, default_value = "real")]
    speed: Speed,
    /// Longest pause, seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    max_pause: u64,
    /// Keep serving /metrics after the last recording, until SIGINT or SIGTERM
    #[arg(long)]
    keep_serving: bool,
    #[command(flatten)]
    web: WebArgs,
    /// Add metrics by VM (label vm)
    #[arg(long)]
    per_vm_metrics: bool,
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
    /// Read files instead of the store ("-": standard input); explains all their incidents, unless one is named. Any mix of
    /// recordings, kernel traces as text (ftrace, trace-cmd report, perf script), kernel logs, QEMU and libvirt
    /// logs, guest consoles, QMP events and rasdaemon's database, recognised by content
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// Seconds after the last poison event during which a guest's death is attributed to it
    #[arg(long, value_name = "SECONDS", requires = "from", default_value_t = 600)]
    attribution_window: u64,
    /// Accept recordings and compressed files that end in the middle
    #[arg(long, requires = "from")]
    allow_truncated: bool,
    /// Print the evidence that the answer rests on (lines of logs, events, totals), the key by which each source was joined,
    /// and the rule that each supports
    #[arg(long)]
    why: bool,
    /// The first screen alone: what happened, why and how sure that is, which guest, page and memory module, what to do
    #[arg(long, conflicts_with = "why")]
    brief: bool,
    /// html: one self-contained page, for screen and paper
    #[arg(long, default_value = "text")]
    format: ReportFormat,
    /// Output file [default: standard output]; an existing file is replaced
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args)]
struct WatchArgs {
    #[command(flatten)]
    state: StateArgs,
    /// URL of the daemon's metrics [default: from the configuration's listen address]
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
    /// Write all stored incidents as JSON lines, each with its verdict history and sampled events
    Export {
        /// Only this incident
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Output file [default: standard output]; an existing file is not overwritten
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Delete incidents by the age of their last change, then, while the store is too large, those of the VM that has
    /// most; the daemon may be running
    #[command(group = clap::ArgGroup::new("limit").required(true).multiple(true).args(["older_than", "max_size"]))]
    Prune {
        /// Delete incidents whose last change is older, such as 12h or 90d
        #[arg(long, value_name = "AGE", value_parser = incidents::age)]
        older_than: Option<std::time::Duration>,
        /// Delete incidents until the store is smaller, such as 500K, 64M or 2G
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
    if let Some(message) = renamed::flag(std::env::args_os()) {
        eprintln!("poisontrace: {message}");
        return ExitCode::from(2);
    }
    let cli = Cli::parse();
    dispatch(cli).unwrap_or_else(|failure| {
        eprintln!(
            "poisontrace: {}",
            poisontrace_model::text::sanitise(failure.text(), 2000)
        );
        ExitCode::from(2)
    })
}

fn dispatch(cli: Cli) -> Outcome {
    match cli.command {
        Command::Run(args) => daemon::run(&args, &cli.source),
        Command::Record(args) => daemon::record(&args, &cli.source),
        Command::Replay(args) => daemon::replay(&args, &cli.source),
        Command::Explain(args) => {
            log_to_stderr(&cli.source);
            explain::explain(args, &cli.source)
        }
        Command::Incidents(args) => {
            log_to_stderr(&cli.source);
            incidents::incidents(&args, &cli.source)
        }
        Command::Watch(args) => watch::watch(&args, &cli.source),
        Command::Check(args) => {
            log_to_stderr(&cli.source);
            check::check(&args, &cli.source)
        }
        Command::Forecast(args) => {
            log_to_stderr(&cli.source);
            forecast::forecast(&args)
        }
        Command::Detach => detach::detach(),
        Command::Config(args) => config::config(&args, &cli.source),
    }
}
