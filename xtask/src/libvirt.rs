//! Real libvirt and containers in the emulated Debian, as a part of the tests.

use std::path::Path;

use anyhow::Result;
use lab_harness::libvirt;

use crate::install;
use crate::tally::Tally;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "lab::libvirt";

/// Skipped where the machine cannot do it. `programs`: the lab's own; `daemon`: what runs in the emulated host.
pub fn test(
    paths: &Paths,
    series: &str,
    programs: &Path,
    daemon: &Path,
    tally: &mut Tally,
    progress: &Progress,
) {
    if let Some(reason) = libvirt::unavailable() {
        return tally.skip(NAME, &reason);
    }
    let compared = libvirt::run(paths, series, programs, daemon, progress);
    progress.aside(|| report(compared, tally));
}

fn report(compared: Result<libvirt::Compared>, tally: &mut Tally) {
    match compared {
        Ok(compared) => {
            print!("{}", compared.table);
            install::report(NAME, &compared.performed, tally);
        }
        Err(error) => tally.check(NAME, "runs", Err(error)),
    }
}
