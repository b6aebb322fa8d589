//! `cargo xtask lab install`, and the same as part of the full test.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};

use crate::builds;
use crate::cli::InstallOptions;
use crate::lab::install;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::test::Tally;

pub fn install(paths: &Paths, options: &InstallOptions, progress: &Progress) -> Result<ExitCode> {
    if let Some(reason) = install::unavailable() {
        bail!(reason);
    }
    let mut tally = Tally::default();
    examine(paths, &options.lab.kernel, &mut tally, progress);
    progress.finish();
    println!("{tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Each check of the emulated Debian as a test.
pub fn examine(paths: &Paths, series: &str, tally: &mut Tally, progress: &Progress) {
    const NAME: &str = "lab::install";
    let installed = builds::lab_programs(paths, progress)
        .and_then(|programs| install::run(paths, series, &programs, progress));
    progress.aside(|| match installed {
        Ok(installed) => {
            for check in &installed.checks {
                let outcome = match &check.failed {
                    None => Ok(()),
                    Some(why) => Err(anyhow!("{why}; see {}", installed.out.display())),
                };
                tally.check(NAME, &check.name, outcome);
            }
        }
        Err(error) => tally.check(NAME, "runs", Err(error)),
    });
}
