//! Writes man pages and shell completions into a folder: `cargo run --example manual -- DIR`. Not part of the
//! binary, which needs neither.

use std::{env, fs, io, path::PathBuf};

use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let dir = env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other("usage: manual DIR"))?;
    fs::create_dir_all(&dir)?;
    let mut command = without_help(poisontrace::cli::command());
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "poisontrace", &dir)?;
    }
    clap_mangen::generate_to(command, &dir)
}

/// A page for `poisontrace help run` would duplicate that of `poisontrace run`.
fn without_help(command: clap::Command) -> clap::Command {
    command
        .disable_help_subcommand(true)
        .mut_subcommands(without_help)
}
