//! A real Linux that flushes a lost page and dies of it, with Debian's QEMU on Bochs' Intel processor.

use std::path::Path;

use super::tally::Tally;
use crate::lab::storm::cells::Watch;
use crate::lab::storm::linux::LinuxLab;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::storm::linux::judge;

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
