//! Everything a developer of poisontrace runs: `cargo xtask --help`.

mod apt;
mod bench;
mod browser;
mod builds;
mod cli;
mod command;
mod dashboards;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod install;
mod lab;
mod lock;
mod matrix;
mod paths;
mod pictures;
mod preflight;
mod progress;
mod prometheus;
mod soak;
mod stamp;
mod storm;
mod test;
mod tool;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::cli::{Cli, Experiment, Task};
use crate::lab::Lab;
use crate::lab::storm::StormLab;
use crate::paths::Paths;
use crate::progress::Progress;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let progress = Progress::new();
    let outcome = perform(&cli.command, &progress);
    progress.finish();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: &Task, progress: &Progress) -> Result<ExitCode> {
    let paths = Paths::find()?;
    if !preflight::ensure(&preflight::ALWAYS, progress)? {
        return Ok(ExitCode::from(2));
    }
    let _lock = lock::take(&paths, progress)?;
    match task {
        Task::Setup(options) => {
            toolchain::set_up(&paths, progress)?;
            let programs = builds::lab_programs(&paths, progress)?;
            Lab::set_up(&paths, &options.kernel, &options.kernel, &programs, progress)?;
            StormLab::set_up(&paths, &options.kernel, &programs, progress)?;
        }
        Task::Build => {
            builds::daemon(&paths, progress)?;
        }
        Task::Run { arguments } => builds::run(&paths, progress, arguments)?,
        Task::Dist => {
            let [deb, rpm] = dist::dist(&paths, progress)?;
            progress.note(format!("{}\n{}", deb.display(), rpm.display()));
        }
        Task::Demo(options) => demo::demo(&paths, options, progress)?,
        Task::Lab {
            experiment: Experiment::Storm(options),
        } => return storm::storm(&paths, options, progress),
        Task::Bench(options) => return bench::bench(&paths, options, progress),
        Task::Pictures => {
            let daemon = builds::daemon(&paths, progress)?;
            pictures::take(&paths, &daemon, progress)?;
        }
        Task::Dashboards => dashboards::write(&paths)?,
        Task::Lab {
            experiment: Experiment::Install(options),
        } => return install::install(&paths, options, progress),
        Task::Lab {
            experiment: Experiment::Matrix(options),
        } => return matrix::matrix(&paths, options, progress),
        Task::Fuzz(options) => {
            let target = options.target.as_deref();
            if !fuzz::fuzz(&paths, target, options.seconds, progress)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Soak(options) => return soak::soak(&paths, options.minutes, progress),
        Task::Test(options) => return test::test(&paths, options, progress),
    }
    Ok(ExitCode::SUCCESS)
}
