//! Where a VMM's log lies: a path of the host's, or one below the root of the container that the VMM runs in. Who names a VM
//! names its log, so nothing but a regular file is ever opened: opening a device may do something.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, open, openat};

/// See the module.
#[derive(Debug)]
pub enum Place {
    /// A path of the host's.
    Host(PathBuf),
    /// A path in the container, in which no link is followed.
    Container {
        /// Root of the container; held, as its process may end first.
        root: OwnedFd,
        /// From that root on.
        path: PathBuf,
    },
}

impl Place {
    /// In the root of a VMM that runs in a container. `proc`: `/proc`.
    pub fn in_container(proc: &Path, pid: u32, path: PathBuf) -> io::Result<Self> {
        let root = proc.join(pid.to_string()).join("root");
        let root = open(
            &root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self::Container { root, path })
    }

    /// As messages name it.
    pub fn path(&self) -> &Path {
        match self {
            Self::Host(path) | Self::Container { path, .. } => path,
        }
    }

    /// What is under the name now, not opened. Without openat2(2), which `RestrictSUIDSGID=` of the unit refuses.
    pub fn find(&self) -> io::Result<File> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (root, path) = match self {
            Self::Host(path) => return Ok(open(path, flags, Mode::empty())?.into()),
            Self::Container { root, path } => (root, path),
        };
        let mut at = root.try_clone()?;
        for part in path.components() {
            at = match part {
                Component::RootDir => continue,
                // A link that is opened so is no folder, and leads nowhere.
                Component::Normal(name) => openat(&at, name, flags, Mode::empty())?,
                _ => return Err(io::Error::other("not a plain path")),
            };
        }
        Ok(at.into())
    }

    /// The file, for reading.
    pub fn open(&self) -> io::Result<File> {
        let found = self.find()?;
        if !found.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        // What was looked at, though another may be under its name by now.
        let held = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(open(held, flags, Mode::empty())?.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _, os::unix::fs::symlink};

    use super::*;

    fn text(place: &Place) -> io::Result<String> {
        let mut text = String::new();
        place.open()?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// A container whose process is `7` of `proc`.
    fn container(dir: &Path) -> PathBuf {
        let root = dir.join("rootfs");
        fs::create_dir_all(root.join("var/log")).unwrap();
        fs::create_dir_all(dir.join("proc/7")).unwrap();
        symlink(&root, dir.join("proc/7/root")).unwrap();
        root
    }

    #[test]
    fn the_log_of_a_vmm_in_a_container_is_in_its_root_also_when_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let root = container(dir.path());
        let log = PathBuf::from("/var/log/shop_db-7.log");
        let place = Place::in_container(&dir.path().join("proc"), 7, log).unwrap();
        assert_eq!(text(&place).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(root.join("var/log/shop_db-7.log"), "one\n").unwrap();
        fs::remove_dir_all(dir.path().join("proc/7")).unwrap();
        assert_eq!(text(&place).unwrap(), "one\n");
        assert!(Place::in_container(&dir.path().join("proc"), 8, PathBuf::new()).is_err());
    }

    #[test]
    fn no_link_in_a_container_leads_to_a_file_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let root = container(dir.path());
        let secret = dir.path().join("secret.log");
        fs::write(&secret, "the host's\n").unwrap();
        symlink(dir.path(), root.join("out")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        symlink(&secret, root.join("link.log")).unwrap();
        symlink("var", root.join("inside")).unwrap();
        fs::write(root.join("var/log/own.log"), "its own\n").unwrap();
        let at = |path: &str| {
            text(&Place::in_container(&dir.path().join("proc"), 7, PathBuf::from(path)).unwrap())
        };
        for path in [
            "/out/secret.log",
            "/up/secret.log",
            "/../secret.log",
            "/link.log",
            "/inside/log/own.log",
            "/var/log",
        ] {
            assert!(at(path).is_err(), "{path}");
        }
        assert_eq!(at("/var/log/own.log").unwrap(), "its own\n");
    }
}
