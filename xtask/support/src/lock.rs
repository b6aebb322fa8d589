//! One xtask at a time below one target folder: two would unpack and boot into the same places.

use std::fs::{self, File, TryLockError};

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::progress::Progress;

/// Held as long as the file is open.
pub fn take(paths: &Paths, progress: &Progress) -> Result<File> {
    fs::create_dir_all(&paths.target).with_context(|| format!("cannot create {}", paths.target.display()))?;
    let path = paths.target.join(".xtask-lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress.step("waiting for another xtask to end");
            file.lock().context("cannot wait for the other xtask")?;
        }
        Err(TryLockError::Error(error)) => return Err(error).context("cannot lock target/.xtask-lock"),
    }
    Ok(file)
}
