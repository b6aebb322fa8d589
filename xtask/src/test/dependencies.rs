//! Dependencies: licences, duplicates and bans, sources. Advisories want their database from the network, which tests
//! must not: `cargo deny check advisories` by hand.

use crate::deny;
use crate::tally::Tally;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "dependencies";

pub fn examine(paths: &Paths, tally: &mut Tally, progress: &Progress) {
    let tool = match progress.task("cargo-deny", || deny::set_up(paths, progress)) {
        Ok(tool) => tool,
        Err(error) => return progress.aside(|| tally.check(NAME, "cargo_deny_builds", Err(error))),
    };
    for what in ["licenses", "bans", "sources"] {
        progress.aside(|| tally.check(NAME, what, deny::check(paths, &tool, what)));
    }
}
