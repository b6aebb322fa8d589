//! Exits are no dearer than the committed table says.

use anyhow::{Result, ensure};

use super::Tally;
use crate::bench;
use crate::cli;
use crate::paths::Paths;
use crate::progress::Progress;

pub fn run(paths: &Paths, lab: &cli::Lab, tally: &mut Tally, progress: &Progress) {
    let cheap = || -> Result<()> {
        let worse = bench::dearer(paths, lab, progress)?;
        ensure!(
            worse.is_empty(),
            "dearer than xtask/cost/cost.json: {}",
            worse.join("; ")
        );
        Ok(())
    };
    let outcome = cheap();
    progress.aside(|| {
        tally.check(
            "lab::cost",
            "exits_are_no_dearer_than_the_committed_table",
            outcome,
        )
    });
}
