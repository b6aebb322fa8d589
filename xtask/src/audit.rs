//! cargo-audit, which holds a lock file against a copy of RustSec's advisory database.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::tool;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const VERSION: &str = "0.22.2";
/// Names a clone of `https://github.com/rustsec/advisory-db`: whoever runs the tests fetches it, as they go to no network.
pub const DATABASE: &str = "POISONTRACE_ADVISORY_DB";

pub fn set_up(paths: &Paths, progress: &Progress) -> Result<PathBuf> {
    tool::set_up(paths, ("cargo-audit", VERSION), progress)
}

/// # Errors
/// With the advisories against what the lock file names.
pub fn check(paths: &Paths, tool: &Path, database: &Path, lock: &Path, name: &str) -> Result<()> {
    let mut audit = command::clean(tool);
    audit
        .current_dir(&paths.root)
        // Whether a version has been withdrawn since is asked of the registry; its age is the caller's to judge.
        .args([
            "audit",
            "--no-fetch",
            "--stale",
            "--no-yanked",
            "--color",
            "never",
        ])
        .args(["--deny", "warnings"])
        .arg("--db")
        .arg(database)
        .arg("--file")
        .arg(lock);
    let log = paths.target.join("audit").join(format!("{name}.log"));
    command::logged(&mut audit, &log, &format!("cargo audit of {}", lock.display()))
}
