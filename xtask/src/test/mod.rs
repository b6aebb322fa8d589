//! `cargo xtask test`, in tiers: what needs nothing first, the lab last.

mod bad_files;
mod browser;
mod control;
mod cost;
pub mod dashboards;
mod dependencies;
mod flush;
mod fuzz;
mod killed;
mod late;
mod miri;
mod packages;
mod reloads;
mod replay;
mod report;
mod scenarios;
mod schema;
mod storm;
mod watch;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::builds;
use crate::cli::{Part, Test};
use crate::install;
use crate::tally::Tally;
use lab_harness::run_files::Files;
use lab_harness::scenarios::story::Story;
use lab_harness::scenarios::{Lab, Run};
use lab_harness::storms::StormLab;
use xtask_support::debian::Apt;
use xtask_support::paths::Paths;
use xtask_support::preflight;
use xtask_support::progress::Progress;

pub fn test(paths: &Paths, options: &Test, progress: &Progress) -> Result<ExitCode> {
    if let Some(part) = options.only {
        return alone(paths, options, part, progress);
    }
    progress.note("tier 0: build");
    let object = builds::probes(paths, progress)?;
    let daemon = builds::daemon_with(paths, &object, progress)?;

    progress.note("tier 1: unit tests and recorded scenarios");
    let units = progress.aside(|| builds::workspace_tests(paths, &object))?;

    let mut tally = Tally::default();
    fuzz::examine(paths, &mut tally, progress);

    match Apt::unavailable() {
        Some(reason) => tally.skip("dashboards", &reason),
        None => dashboards::run(paths, &daemon, &mut tally, progress)?,
    }

    progress.note("tier 2: the lab");
    let skipped = options
        .no_lab
        .then(|| "--no-lab".to_owned())
        .or_else(lab_harness::unavailable);
    match skipped {
        Some(reason) => tally.skip("lab", &reason),
        None => run_lab(paths, options, &daemon, &mut tally, progress)?,
    }
    if options.full {
        progress.note("tier 3: a browser");
        looked_at(paths, &daemon, &mut tally, progress)?;
        progress.note("tier 4: dependencies and packages");
        dependencies::examine(paths, &mut tally, progress);
        packages::run(paths, &mut tally, progress);
        installed(paths, options, &mut tally, progress);
        if !options.no_lab && lab_harness::unavailable().is_none() {
            progress.note("tier 5: what exits cost");
            cost::run(paths, &options.lab, &mut tally, progress);
        }
    }
    progress.finish();
    let in_ci = env::var_os("CI").is_some_and(|value| value == "true");
    if in_ci && tally.skipped > 0 {
        println!("CI=true: what is skipped is a failure");
    }
    println!("{tally}");
    let good = units && tally.failed == 0 && !(in_ci && tally.skipped > 0);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One part, with the daemon as it was built last.
fn alone(paths: &Paths, options: &Test, part: Part, progress: &Progress) -> Result<ExitCode> {
    let mut tally = Tally::default();
    match part {
        Part::Dashboards => dashboards::run(paths, &paths.daemon(), &mut tally, progress)?,
        Part::Browser => looked_at(paths, &paths.daemon(), &mut tally, progress)?,
        Part::Dependencies => dependencies::examine(paths, &mut tally, progress),
        Part::Late => {
            let programs = builds::lab_programs(paths, progress)?;
            let kernel = &options.lab.kernel;
            let lab = Lab::set_up(paths, kernel, kernel, &programs, progress)?;
            let scenario = Story::Survive.scenario_among_others();
            let run = lab.run("test-late", &scenario, &paths.daemon(), progress)?;
            let files = Files { out: &run.out };
            let schema = schema::Schema::read(&paths.root)?;
            progress.aside(|| late::examine(&run.result, &files, &schema, &mut tally));
        }
        Part::Killed => {
            let programs = builds::lab_programs(paths, progress)?;
            let lab = StormLab::set_up(paths, &options.lab.kernel, &programs, progress)?;
            killed::run(&lab, &paths.daemon(), &mut tally, progress);
        }
        Part::Flush => {
            let programs = builds::lab_programs(paths, progress)?;
            let kernel = &options.lab.kernel;
            flush::run(paths, kernel, &programs, &paths.daemon(), &mut tally, progress);
        }
        Part::Scenarios => {
            let programs = builds::lab_programs(paths, progress)?;
            let kernel = &options.lab.kernel;
            let lab = Lab::set_up(paths, kernel, kernel, &programs, progress)?;
            let stories = if options.story.is_empty() {
                &scenarios::ALL[..]
            } else {
                &options.story
            };
            scenarios::run(stories, &lab, &paths.daemon(), &mut tally, progress);
        }
        Part::Packages => packages::run(paths, &mut tally, progress),
        Part::Miri => miri::run(paths, &mut tally, progress),
        Part::Cost => cost::run(paths, &options.lab, &mut tally, progress),
        Part::Install => installed(paths, options, &mut tally, progress),
    }
    progress.finish();
    println!("{tally}");
    Ok(if tally.failed == 0 && tally.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The .deb under real systemd.
fn installed(paths: &Paths, options: &Test, tally: &mut Tally, progress: &Progress) {
    match lab_harness::install::unavailable() {
        Some(reason) => tally.skip("lab::install", &reason),
        None => install::examine(paths, &options.lab.kernel, tally, progress),
    }
}

fn looked_at(paths: &Paths, daemon: &Path, tally: &mut Tally, progress: &Progress) -> Result<()> {
    preflight::ensure(&preflight::FOR_LOOKING, progress)?;
    progress.step("looking at the report in Chromium");
    progress.aside(|| browser::run(paths, daemon, tally));
    progress.step("watching a replay in tmux");
    progress.aside(|| watch::run(paths, daemon, tally));
    Ok(())
}

fn run_lab(
    paths: &Paths,
    options: &Test,
    daemon: &Path,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<()> {
    let programs = builds::lab_programs(paths, progress)?;
    let lab = Lab::set_up(
        paths,
        &options.lab.kernel,
        &options.lab.kernel,
        &programs,
        progress,
    )?;
    let schema = schema::Schema::read(&paths.root)?;
    for (story, scenario) in [
        (Story::Panic, Story::Panic.scenario()),
        (Story::Survive, Story::Survive.scenario_among_others()),
    ] {
        let name = format!("lab::{}", story.name());
        match lab.run(&format!("test-{}", story.name()), &scenario, daemon, progress) {
            Ok(run) => {
                progress.aside(|| examine(&name, story, &run, daemon, &schema, tally));
            }
            Err(error) => progress.aside(|| tally.check(&name, "runs", Err(error))),
        }
    }
    let scenario = Story::Panic.scenario_with_reloads();
    match lab.run("test-reloads", &scenario, daemon, progress) {
        Ok(run) => progress.aside(|| {
            let files = Files { out: &run.out };
            report::examine(RELOADS, Story::Panic, &run, &files, tally);
            reloads::examine(RELOADS, &files, &schema, tally);
        }),
        Err(error) => progress.aside(|| tally.check(RELOADS, "runs", Err(error))),
    }
    if options.full {
        scenarios::run(&scenarios::ALL, &lab, daemon, tally, progress);
    }
    match StormLab::set_up(paths, &options.lab.kernel, &programs, progress) {
        Ok(lab) => {
            storm::run(&lab, daemon, &schema, tally, progress);
            if options.full {
                killed::run(&lab, daemon, tally, progress);
                flush::run(paths, &options.lab.kernel, &programs, daemon, tally, progress);
            }
        }
        Err(error) => progress.aside(|| tally.check("lab::storm", "set_up", Err(error))),
    }
    Ok(())
}

const RELOADS: &str = "lab::reload";

/// Everything that must hold after a scenario.
fn examine(name: &str, story: Story, run: &Run, daemon: &Path, schema: &schema::Schema, tally: &mut Tally) {
    let files = Files { out: &run.out };
    tally.check(name, "runs", Ok(()));
    report::examine(name, story, run, &files, tally);
    tally.check(
        name,
        "report_follows_the_schema",
        schema.holds(&files, "explain.json"),
    );
    control::examine(&run.result, &files, tally);
    late::examine(&run.result, &files, schema, tally);
    replay::examine(name, &files, daemon, schema, tally);
    // What is wrong with a file does not depend on the scenario: once is enough.
    if story == Story::Panic {
        bad_files::examine(&files, daemon, tally);
    }
}
