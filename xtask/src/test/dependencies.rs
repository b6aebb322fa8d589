//! Dependencies: licences, duplicates and bans, sources, and, where a database of advisories is given, those.

use std::path::Path;

use crate::tally::Tally;
use crate::{audit, deny};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

const NAME: &str = "dependencies";
/// The workspace's, the BPF programs among its members; and the fuzz targets', where they have been built.
const LOCK_FILES: [(&str, &str); 2] = [("workspace", "Cargo.lock"), ("fuzz", "daemon/fuzz/Cargo.lock")];

pub fn examine(paths: &Paths, tally: &mut Tally, progress: &Progress) {
    let tool = match progress.task("cargo-deny", || deny::set_up(paths, progress)) {
        Ok(tool) => tool,
        Err(error) => return progress.aside(|| tally.check(NAME, "cargo_deny_builds", Err(error))),
    };
    for what in ["licenses", "bans", "sources"] {
        progress.aside(|| tally.check(NAME, what, deny::check(paths, &tool, what)));
    }
    match std::env::var_os(audit::DATABASE) {
        Some(database) => advisories(Path::new(&database), paths, tally, progress),
        None => progress.aside(|| {
            println!(
                "advisories are not looked at: {} names no database (daemon/docs/testing.md)",
                audit::DATABASE
            );
        }),
    }
}

fn advisories(database: &Path, paths: &Paths, tally: &mut Tally, progress: &Progress) {
    let tool = match progress.task("cargo-audit", || audit::set_up(paths, progress)) {
        Ok(tool) => tool,
        Err(error) => return progress.aside(|| tally.check(NAME, "cargo_audit_builds", Err(error))),
    };
    for (name, lock) in LOCK_FILES {
        let lock = paths.root.join(lock);
        if lock.is_file() {
            let outcome = audit::check(paths, &tool, database, &lock, name);
            progress.aside(|| tally.check(NAME, &format!("advisories_of_{name}"), outcome));
        }
    }
}
