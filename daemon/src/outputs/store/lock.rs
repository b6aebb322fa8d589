//! One daemon to a state directory: two would write each other's incidents anew.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

use super::{StoreError, schema};

/// In the state directory. A file of its own: who may read the directory could lock that.
const NAME: &str = "daemon.lock";
const MODE: u32 = 0o600;

/// Held while this lives, and given up by the kernel when its process ends in any way (flock(2)).
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held open")] File);

impl Lock {
    /// `None`: nothing can be locked there, which the store will report when it is first written.
    ///
    /// # Errors
    /// Another daemon holds it.
    pub fn take(dir: &Path) -> Result<Option<Self>, StoreError> {
        let Ok(file) = open(dir) else { return Ok(None) };
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy(dir.to_owned())),
            Err(TryLockError::Error(_)) => Ok(None),
        }
    }
}

fn open(dir: &Path) -> io::Result<File> {
    schema::make_folder(dir)?;
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(dir.join(NAME))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_second_daemon_is_refused_until_the_first_has_ended() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        let first = Lock::take(&dir).unwrap();
        assert!(first.is_some());
        let refusal = Lock::take(&dir).unwrap_err().to_string();
        assert!(refusal.contains("--state-dir"), "{refusal}");
        drop(first);
        assert!(Lock::take(&dir).unwrap().is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_left_to_the_store() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Lock::take(&file.join("state")).unwrap().is_none());
    }
}
