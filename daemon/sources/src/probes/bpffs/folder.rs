//! The daemon's folder of the BPF file system, which may be writable for everybody: it is checked by descriptor, and
//! only entries that a daemon makes are removed.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, open, openat, unlinkat},
    io::Errno,
    process::geteuid,
};

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes a folder; one that exists is left as it is.
pub fn make(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
        _ => Ok(()),
    }
}

/// Opens `path`, which must be a folder of this process' user that nobody else can write to or replace.
///
/// # Errors
/// Whose it is instead, and what to do.
pub fn open_own(path: &Path) -> io::Result<OwnedFd> {
    let refused = |why: String| io::Error::other(format!("{} {why}", path.display()));
    let (parent, name) = split(path)?;
    let above = open(parent, DIRECTORY, Mode::empty())?;
    let stat = fstat(&above)?;
    if stat.st_mode & WRITABLE_BY_OTHERS != 0 && stat.st_mode & STICKY == 0 {
        return Err(refused(format!(
            "can be replaced by others: chmod +t {}",
            parent.display()
        )));
    }
    let folder = enter(above.as_fd(), name).map_err(|err| link_refused(path, err))?;
    let stat = fstat(&folder)?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(refused(format!(
            "belongs to user {}: run `poisontrace detach` as root",
            stat.st_uid
        )));
    }
    if stat.st_mode & WRITABLE_BY_OTHERS != 0 {
        return Err(refused("is writable for other users: chmod go-w it".to_owned()));
    }
    Ok(folder)
}

/// Opens the folder `path` whoever owns it, as the service's belongs to its dynamic user. All that is done in it must
/// go by this descriptor.
///
/// # Errors
/// If it is no folder; a symbolic link to one is none.
pub fn open_any(path: &Path) -> io::Result<OwnedFd> {
    let (parent, name) = split(path)?;
    let above = open(parent, DIRECTORY, Mode::empty())?;
    enter(above.as_fd(), name).map_err(|err| link_refused(path, err))
}

fn split(path: &Path) -> io::Result<(&Path, &Path)> {
    path.parent()
        .zip(path.file_name())
        .map(|(parent, name)| (parent, Path::new(name)))
        .ok_or_else(|| io::Error::other(format!("{} has no parent folder", path.display())))
}

fn link_refused(path: &Path, err: Errno) -> io::Error {
    match err {
        Errno::NOTDIR | Errno::LOOP => io::Error::other(format!(
            "{} is not a folder (a symbolic link?): remove it",
            path.display()
        )),
        err => err.into(),
    }
}

fn enter(above: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    openat(above, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// The folders below the daemon's own.
#[derive(Clone, Copy)]
pub enum Level {
    Root,
    Layout,
    Daemon,
}

impl Level {
    /// The level of an own folder of this name; `None`: a daemon makes none of this name here.
    pub fn folder(self, name: &str) -> Option<Self> {
        match self {
            Self::Root => name
                .strip_prefix("layout-")?
                .parse::<u32>()
                .ok()
                .map(|_| Self::Layout),
            Self::Layout => name.starts_with("daemon-").then_some(Self::Daemon),
            Self::Daemon => None,
        }
    }

    /// Whether a daemon pins maps or links of this name here.
    fn pin(self, name: &str) -> bool {
        let all = |wanted: fn(char) -> bool| !name.is_empty() && name.chars().all(wanted);
        match self {
            Self::Root => false,
            Self::Layout => all(|c| c.is_ascii_uppercase() || c == '_'),
            Self::Daemon => {
                name == super::FLAG || all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            }
        }
    }
}

/// The folders in `folder`; links to folders are none.
pub fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes what daemons have made in the folder `path`, and the folder if that empties it; returns the number of pins.
/// Every step goes by descriptor: an owner who replaces a folder by a link meanwhile leads nowhere else.
///
/// # Errors
/// If `path` is no folder, or something in it cannot be removed.
pub fn remove(path: &Path, level: Level) -> io::Result<usize> {
    let removed = empty(open_any(path)?.as_fd(), level, path)?;
    match fs::remove_dir(path) {
        Err(err) if err.kind() != io::ErrorKind::DirectoryNotEmpty => Err(err),
        _ => Ok(removed),
    }
}

/// Removes what daemons have made in an open folder, which `path` names in the log. Folders go first: they hold the
/// links, so that nothing is counted into maps that are about to go.
pub fn empty(folder: BorrowedFd<'_>, level: Level, path: &Path) -> io::Result<usize> {
    let (mut folders, mut pins) = (Vec::new(), Vec::new());
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_owned();
        let text = name.to_str().unwrap_or_default();
        if text == "." || text == ".." {
            continue;
        }
        match level.folder(text) {
            Some(below) if entry.file_type() == FileType::Directory => folders.push((name, below)),
            None if entry.file_type() == FileType::RegularFile && level.pin(text) => pins.push(name),
            _ => tracing::warn!(
                path = %path.join(text).display(),
                "not made by poisontrace: left as it is"
            ),
        }
    }
    let mut removed = 0;
    for (name, below) in folders {
        let text = name.to_str().unwrap_or_default();
        let inner = enter(folder, Path::new(text))?;
        removed += empty(inner.as_fd(), below, &path.join(text))?;
        match unlinkat(folder, &name, AtFlags::REMOVEDIR) {
            Err(err) if err != Errno::NOTEMPTY => return Err(err.into()),
            _ => {}
        }
    }
    for name in pins {
        unlinkat(folder, &name, AtFlags::empty())?;
        removed += 1;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_planted_link_or_a_folder_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        make(&theirs).unwrap();
        let planted = dir.path().join("poisontrace");
        symlink(&theirs, &planted).unwrap();
        make(&planted).unwrap();
        let problem = open_own(&planted).unwrap_err().to_string();
        assert!(
            problem.ends_with("is not a folder (a symbolic link?): remove it"),
            "{problem}"
        );
        assert!(open_own(&theirs).is_ok());
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(open_own(&theirs).is_err());
    }

    #[test]
    fn a_folder_that_others_can_replace_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("poisontrace");
        make(&own).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(open_own(&own).is_err());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(open_own(&own).is_ok());
    }

    #[test]
    fn a_planted_link_is_not_followed_when_pins_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        fs::create_dir_all(theirs.join("daemon-7")).unwrap();
        fs::write(theirs.join("PAGES"), "").unwrap();
        let root = dir.path().join("poisontrace");
        symlink(&theirs, &root).unwrap();
        assert!(remove(&root, Level::Root).is_err());
        fs::remove_file(&root).unwrap();
        fs::create_dir(&root).unwrap();
        symlink(&theirs, root.join("layout-3")).unwrap();
        assert_eq!(remove(&root, Level::Root).unwrap(), 0);
        assert!(theirs.join("PAGES").exists() && theirs.join("daemon-7").exists());
    }

    #[test]
    fn only_what_a_daemon_makes_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("poisontrace");
        let daemon = root.join("layout-3/daemon-7");
        fs::create_dir_all(&daemon).unwrap();
        fs::create_dir(root.join("cilium")).unwrap();
        for own in [
            "layout-3/PAGES",
            "layout-3/daemon-7/ARMED",
            "layout-3/daemon-7/kvm_exit",
        ] {
            fs::write(root.join(own), "").unwrap();
        }
        for foreign in ["cilium/PAGES", "layout-3/Other", "map"] {
            fs::write(root.join(foreign), "").unwrap();
        }
        symlink(root.join("cilium"), root.join("layout-3/daemon-9")).unwrap();
        assert_eq!(remove(&root, Level::Root).unwrap(), 3);
        assert!(!daemon.exists());
        for foreign in ["cilium/PAGES", "layout-3/Other", "layout-3/daemon-9", "map"] {
            assert!(root.join(foreign).exists(), "{foreign}");
        }
    }
}
