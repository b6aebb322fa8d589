//! Files that hold guest addresses: readable by owner and group only.

use std::{
    fs::{File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use crate::failure::Failure;

const MODE: u32 = 0o640;

/// Creates a file; one that exists is left alone.
pub fn create(path: &Path) -> Result<File, Failure> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
        .map_err(|err| {
            Failure::new(match err.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("{} exists: name another file, or remove it", path.display())
                }
                _ => format!("cannot create {}: {err}", path.display()),
            })
        })
}

/// Writes the whole file or none of it, in place of one that exists.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A device or a pipe cannot be replaced by a file.
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return File::options().write(true).open(path)?.write_all(text.as_bytes());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
