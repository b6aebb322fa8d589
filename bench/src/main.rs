//! What poisontrace costs: the parts of `cargo xtask bench` that need its own code, on this machine and in the lab.

mod attached;

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
}

#[derive(clap::Args)]
struct Attach {
    #[arg(long)]
    object: PathBuf,
    /// Arm from the start
    #[arg(long)]
    armed: bool,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Attach(options) => attached::hold(&options),
    }
}
