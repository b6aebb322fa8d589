//! Output as a person sees it: the report in Chromium, `watch` in tmux.

use std::path::Path;

use anyhow::Result;
use xtask_support::paths::Paths;
use xtask_support::preflight;
use xtask_support::progress::Progress;

use super::{browser, watch};
use crate::tally::Tally;

pub fn run(paths: &Paths, daemon: &Path, tally: &mut Tally, progress: &Progress) -> Result<()> {
    preflight::ensure(&preflight::FOR_LOOKING, progress)?;
    progress.step("looking at the report in Chromium");
    progress.task("browser", || {
        progress.aside(|| browser::run(paths, daemon, tally));
    });
    progress.step("watching a replay in tmux");
    progress.task("watch", || progress.aside(|| watch::run(paths, daemon, tally)));
    Ok(())
}
