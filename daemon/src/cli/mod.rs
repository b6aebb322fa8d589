//! The commands.

mod attach;
mod check;
mod explain;
mod incidents;
mod output;
mod pipeline;
mod progress;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Why did my KVM guest die on poisoned memory?
#[derive(Parser)]
#[command(name = "poisontrace", version)]
struct Cli {
    /// What is written to stderr; at debug and trace the BPF programs' own diagnostics too
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Subcommand)]
enum Command {
    /// Attach the probes and record incidents until SIGINT or SIGTERM
    Run(RunArgs),
    /// Attach the probes and write a recording of all events, without the store
    Record(RecordArgs),
    /// Say why a guest died: an incident of the store, or of a recording
    Explain(ExplainArgs),
    /// List the incidents of the store
    Incidents(IncidentsArgs),
    /// Say which probes this kernel offers and what is lost without the others; exit status 0 if a verdict is
    /// possible, 1 if not
    Check(check::CheckArgs),
}

#[derive(Args)]
struct StateArgs {
    /// Where incidents are stored
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/poisontrace",
        env = "POISONTRACE_STATE_DIR"
    )]
    state_dir: PathBuf,
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
    probes: attach::ProbeArgs,
}

#[derive(Args, Clone, Copy)]
struct GuestArgs {
    /// Read the instruction that touched a poisoned page from the guest's memory (at most 15 bytes, and the page-table
    /// entries on the way); off by default, and said in the report
    #[arg(long)]
    read_guest_code: bool,
}

#[derive(Args)]
struct RecordArgs {
    /// The recording; a file that exists is not overwritten
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    probes: attach::ProbeArgs,
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
    /// Explain what is there of a recording whose end is missing
    #[arg(long, requires = "from")]
    allow_truncated: bool,
    #[arg(long, default_value = "text")]
    format: Format,
}

#[derive(Args)]
struct IncidentsArgs {
    #[command(flatten)]
    state: StateArgs,
    #[arg(long, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// A command that cannot do what it was asked: one line for stderr.
#[derive(Debug)]
pub struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(err: E) -> Self {
        Self(err.to_string())
    }
}

impl Failure {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A command's result: its exit status, or why it could not be done (status 2).
type Outcome = Result<ExitCode, Failure>;

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    logging(cli.log_level);
    let result = match cli.command {
        Command::Run(args) => run::run(&args, probe_log_level(cli.log_level)),
        Command::Record(args) => run::record(&args, probe_log_level(cli.log_level)),
        Command::Explain(args) => explain::explain(&args),
        Command::Incidents(args) => incidents::incidents(&args),
        Command::Check(args) => check::check(&args),
    };
    result.unwrap_or_else(|Failure(text)| {
        eprintln!("poisontrace: {}", crate::text::sanitise(&text, 2000));
        ExitCode::from(2)
    })
}

fn logging(level: LogLevel) {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // aya's own account of its work is of use only when something is wrong with it.
    let filter = tracing_subscriber::EnvFilter::new(format!("{level},aya=warn,aya_obj=warn"));
    use std::io::IsTerminal as _;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
}

/// Levels of `aya_log`: 0 none, … 4 debug.
fn probe_log_level(level: LogLevel) -> u8 {
    match level {
        LogLevel::Debug | LogLevel::Trace => aya_log::Level::Debug as u8,
        _ => 0,
    }
}
