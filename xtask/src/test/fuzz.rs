//! The fuzz targets, a minute over all of them: that they build and start, and that no seed and nothing near one
//! breaks a parser. To look for more, `cargo xtask fuzz --seconds 600`.

use anyhow::{Result, bail};

use crate::fuzz::Fuzz;
use crate::tally::Tally;
use xtask_support::progress::Progress;

/// All targets together, on two cores.
const SECONDS: u32 = 60;
/// A test takes the same way each time; new ones are looked for by hand.
const SEED: u32 = 1;

pub fn examine(fuzz: Result<Fuzz>, tally: &mut Tally, progress: &Progress) {
    let fuzz = match fuzz {
        Ok(fuzz) => fuzz,
        Err(error) => return progress.aside(|| tally.check("fuzz", "builds", Err(error))),
    };
    progress.step(format!("fuzzing for {SECONDS} s"));
    let each = (2 * SECONDS / u32::try_from(fuzz.targets.len()).unwrap_or(1).max(1)).max(5);
    let mut checked = 0;
    fuzz.run(&fuzz.targets, each, SEED, |target, outcome| {
        checked += 1;
        progress.aside(|| tally.check("fuzz", target, outcome));
    });
    progress.aside(|| tally.check("fuzz", "all_targets_ran", any(checked)));
}

fn any(checked: usize) -> Result<()> {
    if checked == 0 {
        bail!("daemon/fuzz has no targets");
    }
    Ok(())
}
