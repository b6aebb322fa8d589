//! What poisontrace costs: the parts of `cargo xtask bench` that need its own code, on this machine and in the lab.

mod attached;
mod pipeline;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "poisontrace-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Attach the programs of an object as the daemon does, and wait for SIGINT
    Attach(Attach),
    /// Feed events through decode, correlator and store, on one core
    Pipeline {
        #[arg(long, value_enum)]
        input: pipeline::Input,
        #[arg(long)]
        events: u64,
    },
}

#[derive(clap::Args)]
struct Attach {
    #[arg(long)]
    object: PathBuf,
    /// As if there were poison from the start: the hooks are those of an armed host
    #[arg(long)]
    armed: bool,
    /// So many VMs besides have had poison
    #[arg(long, default_value_t = 0)]
    victims: u32,
    /// So many pages have totals
    #[arg(long, default_value_t = 0)]
    pages: u32,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Attach(options) => attached::hold(&options),
        Command::Pipeline { input, events } => pipeline::run(input, events),
    }
}

/// Resident memory of this process, KiB.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().split(' ').next()?.parse().ok()
}
