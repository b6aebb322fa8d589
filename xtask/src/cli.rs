//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::lab::scenarios::Story;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Everything a developer of poisontrace runs")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Task,
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Set up the BPF toolchain and the lab below target/, and do nothing else
    Setup(Lab),
    /// Build the BPF programs and the daemon
    Build,
    /// Build the daemon and start it on this host: `cargo xtask run -- --help`
    Run {
        /// Given to `poisontrace run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Poison a page of a real guest in an emulated host, and print what poisontrace says of it
    Demo(Demo),
    /// Run all tests
    Test(Test),
}

#[derive(Debug, Args)]
pub struct Lab {
    /// Series of the kernel of host and guest
    #[arg(long, default_value = "6.12", value_name = "SERIES")]
    pub kernel: String,
}

#[derive(Debug, Args)]
pub struct Demo {
    #[arg(long, value_enum, default_value_t = Story::Panic)]
    pub scenario: Story,
    /// Copy the recording, the reports and the logs to this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Only the lab, without the daemon: what kernel, QEMU and guest say
    #[arg(long, hide = true)]
    pub no_daemon: bool,
    #[command(flatten)]
    pub lab: Lab,
}

#[derive(Debug, Args)]
pub struct Test {
    /// Only the tests that need no emulated host
    #[arg(long)]
    pub no_lab: bool,
    #[command(flatten)]
    pub lab: Lab,
}
