//! cargo-deny, which holds the dependencies against `deny.toml`.

use std::path::PathBuf;

use anyhow::Result;

use crate::tool;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const VERSION: &str = "0.20.2";

pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    tool::set_up(paths, ("cargo-deny", VERSION), progress)
}

/// One of cargo-deny's checks, without the network.
///
/// # Errors
/// With what it has to say against the dependencies.
pub fn check(paths: &Paths, tool: &PathBuf, what: &str) -> Result<()> {
    let mut deny = command::clean(tool);
    deny.current_dir(&paths.root).args([
        "--offline",
        "--color",
        "never",
        "check",
        "--hide-inclusion-graph",
        what,
    ]);
    let log = paths.target.join("deny").join(format!("{what}.log"));
    command::logged(&mut deny, &log, &format!("cargo deny check {what}"))
}
