//! Exits cost no more than in the committed table.

use anyhow::{Result, ensure};

use crate::bench;
use crate::tally::Tally;
use lab_harness::options::LabOptions;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

pub fn run(paths: &Paths, lab: &LabOptions, tally: &mut Tally, progress: &Progress) {
    let cheap = || -> Result<()> {
        let worse = bench::dearer(paths, lab, progress)?;
        ensure!(
            worse.is_empty(),
            "dearer than xtask/bench/cost.json: {}",
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
        );
    });
}
