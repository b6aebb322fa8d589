//! The cost of poisontrace: the parts of `cargo xtask bench` that need its own code, on this machine and in the lab.

mod attached;
mod machine;
mod pipeline;

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
    Attach(attached::Options),
    /// Measure the programs on this machine's own kernel: sizes, time a run, the ring buffer's drain
    Programs(machine::Options),
    /// Measure the daemon on this machine: its start, its cost when idle, its delay in reporting a death
    Idle(machine::idle::Options),
    /// A VMM that dies of poison
    #[command(hide = true)]
    Victim,
    /// Feed events through decode, correlator and store, on one core
    Pipeline(pipeline::Options),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Attach(options) => attached::hold(&options),
        Command::Programs(options) => machine::run(&options),
        Command::Idle(options) => machine::idle::run(&options),
        Command::Victim => machine::idle::victim(),
        Command::Pipeline(options) => pipeline::run(&options),
    }
}
