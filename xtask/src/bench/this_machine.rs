//! Measurements on this machine itself, without an emulator, by poisontrace-bench.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::builds::{self, Profile};
use crate::cli::BenchPart;
use xtask_support::command;
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;

/// Prints the tables and keeps them in `folder`.
pub fn measure(paths: &Paths, parts: &[BenchPart], folder: &Path, progress: &Progress) -> Result<()> {
    let object = builds::probes(paths, progress)?;
    let daemon = builds::daemon_with(paths, &object, Profile::Release, progress)?;
    let tool = builds::bench_tool(paths, &object, progress)?;
    fs::create_dir_all(folder)?;
    for part in parts {
        let name = part.name();
        let mut measure = command::clean(&tool);
        measure
            .arg(name)
            .arg("--json")
            .arg(folder.join(format!("{name}.json")));
        match part {
            BenchPart::Exits => continue,
            BenchPart::Programs => {
                let empty = builds::empty_probes(paths, progress)?;
                measure.arg("--object").arg(&object).arg("--empty").arg(empty);
            }
            BenchPart::Pipeline => {}
            BenchPart::Idle => {
                let state = folder.join("state");
                xtask_support::stamp::start_over(&state)?;
                measure.arg("--daemon").arg(&daemon).arg("--state-dir").arg(state);
            }
        }
        progress.step(format!("measuring {name} on this machine"));
        let table = command::output(&mut measure).with_context(|| format!("measuring {name}"))?;
        progress.finish();
        println!("{table}");
        let path = folder.join(format!("{name}.md"));
        fs::write(&path, table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
