//! The recording of a scenario, explained on the developer's machine by someone without privileges.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::schema::Schema;
use crate::tally::Tally;
use lab_harness::run_files::Files;
use xtask_support::command;

/// Debian's nobody and nogroup.
const NOBODY: u32 = 65534;

pub fn examine(name: &str, files: &Files, daemon: &Path, schema: &Schema, tally: &mut Tally) {
    tally.check(
        name,
        "recording_explains_the_same_without_privileges",
        same(files, daemon, schema),
    );
}

fn same(files: &Files, daemon: &Path, schema: &Schema) -> Result<()> {
    let bench = Bench::new(daemon)?;
    let recording = fs::read(files.path("recording.ptrace")).context("the lab left no recording")?;
    let output = bench.explain(&recording)?;
    ensure!(
        output.status.success(),
        "explain --from: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let mut replayed: Value =
        serde_json::from_slice(&output.stdout).context("explain --from printed no JSON")?;
    schema.valid(&replayed)?;
    let mut live = files.json("explain.json")?;
    for report in [&mut replayed, &mut live] {
        for incident in report["incidents"].as_array_mut().into_iter().flatten() {
            // Part of it is the wall clock of the run.
            incident["id"] = Value::Null;
        }
    }
    if let Some(pointer) = first_difference(&live, &replayed, "") {
        anyhow::bail!(
            "the recording gives another value at {pointer}: live {}, replayed {}",
            live.pointer(&pointer).unwrap_or(&Value::Null),
            replayed.pointer(&pointer).unwrap_or(&Value::Null)
        );
    }
    Ok(())
}

fn first_difference(left: &Value, right: &Value, at: &str) -> Option<String> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => a
            .keys()
            .chain(b.keys())
            .find_map(|key| first_difference(&left[key], &right[key], &format!("{at}/{key}"))),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(index, (a, b))| first_difference(a, b, &format!("{at}/{index}"))),
        _ => (left != right).then(|| at.to_owned()),
    }
}

/// A folder that everybody can read, with the program in it: the workspace may be closed to others.
pub struct Bench {
    folder: TempDir,
    program: PathBuf,
}

impl Bench {
    pub fn new(daemon: &Path) -> Result<Self> {
        let folder = TempDir::new().context("cannot make a temporary folder")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let program = folder.path().join("poisontrace");
        fs::copy(daemon, &program).with_context(|| format!("cannot copy {}", daemon.display()))?;
        Ok(Self { folder, program })
    }

    /// `poisontrace explain --from` of a file with this content, without privileges.
    pub fn explain(&self, content: &[u8]) -> Result<Output> {
        let file = self.folder.path().join("recording.ptrace");
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        let mut explain: Command = command::clean(&self.program);
        explain
            .args(["explain", "--format", "json", "--from"])
            .arg(&file)
            .current_dir(self.folder.path());
        if rustix::process::geteuid().is_root() {
            explain.uid(NOBODY).gid(NOBODY);
        }
        explain.output().context("cannot start poisontrace")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_is_named_by_where_it_is() {
        let live = json!({"incidents": [{"cause": "contained", "exits": {"count": 1}}]});
        let other = json!({"incidents": [{"cause": "contained", "exits": {"count": 2}}]});
        assert_eq!(
            first_difference(&live, &other, "").as_deref(),
            Some("/incidents/0/exits/count")
        );
        assert_eq!(first_difference(&live, &live, ""), None);
    }
}
