//! Records a set-up beside it, so that a second run does nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// `wanted` is what was asked for: another wish means another set-up. `installed` is what the query gave, for
/// whoever wants to know.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub wanted: Vec<String>,
    pub installed: Vec<String>,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("installed.json")
}

pub fn read(folder: &Path, wanted: &[String]) -> Option<Stamp> {
    let text = fs::read_to_string(file(folder)).ok()?;
    serde_json::from_str::<Stamp>(&text)
        .ok()
        .filter(|stamp| stamp.wanted == wanted)
}

/// Written last: a set-up that was interrupted has no stamp and is done again.
pub fn write(folder: &Path, stamp: &Stamp) -> Result<()> {
    let path = file(folder);
    fs::write(&path, serde_json::to_string_pretty(stamp)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// An empty folder, whatever an earlier, interrupted set-up left.
pub fn start_over(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}
