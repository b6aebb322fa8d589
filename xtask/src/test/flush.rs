//! A real Linux that flushes a poisoned page and dies of it, with Debian's QEMU on Bochs' Intel processor.

use std::path::Path;

use crate::tally::Tally;
use lab_harness::storms::flush_check::judge;
use lab_harness::storms::linux_guest::LinuxLab;
use lab_harness::storms::storm_cases::Watch;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "lab::flush";

/// `series`: of the host's kernel.
pub fn run(
    paths: &Paths,
    series: &str,
    programs: &Path,
    daemon: &Path,
    tally: &mut Tally,
    progress: &Progress,
) {
    let outcome = LinuxLab::set_up(paths, series, programs, progress)
        .and_then(|lab| lab.run("test-flush", daemon, Watch::GuestCode.options(), progress))
        .and_then(|run| judge(&run, true));
    progress.aside(|| tally.check(NAME, "linux_flushes_the_page_and_dies", outcome));
}
