//! Everything a developer of poisontrace runs: `cargo xtask --help`.

mod audit;
mod bench;
mod browser;
mod builds;
mod cli;
mod dashboards;
mod demo;
mod deny;
mod dist;
mod fleet;
mod fuzz;
mod install;
mod libvirt;
mod pictures;
mod prometheus;
mod soak;
mod tally;
mod test;
mod tool;
mod toolchain;
mod unpacked;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::builds::Profile;
use crate::cli::{Cli, Experiment, Task};
use lab_harness::options::StormOptions;
use lab_harness::scenarios::Lab;
use lab_harness::storms::StormLab;
use lab_harness::{matrix, storms};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::{lock, preflight};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let progress = Progress::default();
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
    // Needs nothing of the machine.
    if let Task::Test(options) = task
        && options.list
    {
        print!("{}", test::list::text());
        return Ok(ExitCode::SUCCESS);
    }
    let paths = Paths::find()?;
    if !preflight::ensure(&preflight::ALWAYS, progress)? {
        return Ok(ExitCode::from(2));
    }
    let _lock = lock::take(&paths, progress)?;
    match task {
        Task::Setup(options) => {
            let toolchain = toolchain::set_up(&paths, progress)?;
            progress.note(format!("BPF programs are built by {}", toolchain.description()));
            let programs = builds::lab_programs(&paths, progress)?;
            Lab::set_up(&paths, &options.kernel, &options.kernel, &programs, progress)?;
            StormLab::set_up(&paths, &options.kernel, &programs, progress)?;
        }
        Task::Build => {
            builds::daemon(&paths, Profile::Release, progress)?;
        }
        Task::Run { arguments } => builds::run(&paths, progress, arguments)?,
        Task::Dist => {
            let [deb, rpm] = dist::dist(&paths, progress)?;
            progress.note(format!("{}\n{}", deb.display(), rpm.display()));
        }
        Task::Demo(options) => demo::demo(&paths, options, progress)?,
        Task::Lab {
            experiment: Experiment::Storm(options),
        } => {
            return storms::storm(
                &paths,
                options,
                &storm_programs(&paths, options, progress)?,
                progress,
            );
        }
        Task::Bench(options) => return bench::bench(&paths, options, progress),
        Task::Pictures => {
            let daemon = builds::daemon(&paths, Profile::Dev, progress)?;
            pictures::take(&paths, &daemon, progress)?;
        }
        Task::Lab {
            experiment: Experiment::Install(options),
        } => return install::install(&paths, options, progress),
        Task::Lab {
            experiment: Experiment::Matrix(options),
        } => {
            let daemon = builds::daemon(&paths, Profile::Dev, progress)?;
            let programs = builds::lab_programs(&paths, progress)?;
            return matrix::matrix(&paths, options, &daemon, &programs, progress);
        }
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

/// The programs of a storm: those that the command line names, else built.
fn storm_programs(paths: &Paths, options: &StormOptions, progress: &Progress) -> Result<storms::Programs> {
    Ok(storms::Programs {
        daemon: match (&options.daemon, options.no_daemon) {
            (_, true) => None,
            (Some(daemon), false) => Some(daemon.clone()),
            (None, false) => Some(builds::daemon(paths, Profile::Dev, progress)?),
        },
        lab: match &options.programs {
            Some(programs) => programs.clone(),
            None => builds::lab_programs(paths, progress)?,
        },
    })
}
