//! Changes of our own to Bochs' source: places that must be found exactly once, so that another version of it is noticed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

pub struct Change {
    pub file: &'static str,
    pub from: &'static str,
    pub to: &'static str,
}

/// Makes these changes; `adapt`: the file that has them.
pub fn make(source: &Path, changes: &[Change], adapt: &str) -> Result<()> {
    for change in changes {
        let path = source.join(change.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            text.matches(change.from).count() == 1,
            "{} is not the one that our change was made for: adapt packages/{adapt} of the harness",
            change.file
        );
        fs::write(&path, text.replace(change.from, change.to))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
