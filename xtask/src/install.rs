//! `cargo xtask lab install`, and the same as part of the full test.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use lab_harness::debian::Performed;
use lab_harness::install;
use lab_harness::options::InstallOptions;

use crate::builds;
use crate::dist;
use crate::tally::Tally;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

pub fn install(paths: &Paths, options: &InstallOptions, progress: &Progress) -> Result<ExitCode> {
    if let Some(reason) = install::unavailable() {
        bail!(reason);
    }
    let mut tally = Tally::default();
    examine(paths, &options.lab.kernel, &mut tally, progress);
    progress.finish();
    println!("{tally}");
    Ok(if tally.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The same as a part of the tests, skipped where the machine cannot do it.
pub fn test(paths: &Paths, series: &str, tally: &mut Tally, progress: &Progress) {
    match install::unavailable() {
        Some(reason) => tally.skip("lab::install", &reason),
        None => examine(paths, series, tally, progress),
    }
}

/// Each check of the emulated Debian as a test.
fn examine(paths: &Paths, series: &str, tally: &mut Tally, progress: &Progress) {
    const NAME: &str = "lab::install";
    let installed = run(paths, series, progress);
    progress.aside(|| match installed {
        Ok(performed) => report(NAME, &performed, tally),
        Err(error) => tally.check(NAME, "runs", Err(error)),
    });
}

/// A line for each check of the emulated Debian.
pub fn report(name: &str, performed: &Performed, tally: &mut Tally) {
    for check in &performed.checks {
        let outcome = match &check.failed {
            None => Ok(()),
            Some(why) => Err(anyhow!("{why}; see {}", performed.out.display())),
        };
        tally.check(name, &check.name, outcome);
    }
}

fn run(paths: &Paths, series: &str, progress: &Progress) -> Result<Performed> {
    let programs = builds::lab_programs(paths, progress)?;
    dist::prepare(paths, progress)?;
    let first = paths.target.join("dist/install-first.deb");
    let deb = dist::deb(paths, None, progress)?;
    std::fs::copy(&deb, &first).with_context(|| format!("cannot copy {}", deb.display()))?;
    let second = dist::deb(paths, Some(install::UPGRADE), progress)?;
    install::run(paths, series, &programs, [&first, &second], progress)
}
