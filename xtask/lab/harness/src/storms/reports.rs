//! The files that a storm leaves.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_protocol::storm::{FTRACE_FILE, PERF_FILE};
use serde_json::Value;

use super::lab::StormRun;

/// Files that `--keep` copies.
pub const KEPT: [&str; 10] = [
    "check.txt",
    "recording.ptrace",
    "explain.json",
    "explain.txt",
    "vmm.json",
    "vmm.log",
    "result.json",
    "host.log",
    FTRACE_FILE,
    PERF_FILE,
];

/// The one incident of a storm's report, and the report as it was printed.
pub fn incident(run: &StormRun) -> Result<(Value, String)> {
    let json = file(run, "explain.json")?;
    let report: Value = serde_json::from_str(&json).with_context(|| no_report(&run.out))?;
    let incidents = report["incidents"].as_array().map_or(0, Vec::len);
    ensure!(
        incidents == 1,
        "{incidents} incidents in place of one; see {}",
        run.out.display()
    );
    Ok((report["incidents"][0].clone(), json))
}

pub fn file(run: &StormRun, name: &str) -> Result<String> {
    let path = run.out.join(name);
    fs::read_to_string(&path).with_context(|| format!("the lab left no {}", path.display()))
}

fn no_report(out: &Path) -> String {
    format!(
        "poisontrace explain gave no report; see {}",
        out.join("host.log").display()
    )
}
