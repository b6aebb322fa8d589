//! What outlives the daemon, in a folder of its own of the BPF file system: the maps, and the links that keep the
//! programs attached. Killed in the middle of a storm, the daemon's programs count on; the next daemon loads its own
//! with the same maps and takes over.
//!
//! ```text
//! /sys/fs/bpf/poisontrace/
//!   layout-3/            maps, by the version of their layout (poisontrace_probes::MAP_LAYOUT)
//!     PAGES EVENTS LOST VICTIMS VCPUS REPORTED
//!     daemon-4711/       one daemon's programs
//!       ARMED            its flag
//!       <program> …      its links
//! ```
//!
//! The old programs run until the new ones are attached; the two flags are then changed one after the other, first that
//! of the new ones. Both work on the same maps, so that an exit that both see is counted once. None escapes both: at a
//! tracepoint the old ones run first, so that one that finds itself held is followed by a new one that does not; at a
//! function the new ones run first, and a call between the two changes may be seen by neither, but an exit on poison
//! passes two of them, and each tells (`get_user_pages_unlocked`, `send_sig_mceerr`).

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use poisontrace_probes::{MAP_LAYOUT, arming};
use rustix::fs::{FlockOperation, Mode, OFlags};

/// Where the folder is.
pub const ROOT: &str = "/sys/fs/bpf/poisontrace";
/// The maps that outlive the daemon.
pub const MAPS: [&str; 6] = ["PAGES", "EVENTS", "LOST", "VICTIMS", "VCPUS", "REPORTED"];

/// The section of the flag, which holds nothing else.
const SECTION: &str = ".data.armed";
const FLAG: &str = "ARMED";
/// uapi `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The kernel's totals as a daemon before left them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinnedTotals {
    /// Its programs are still attached and count.
    Counting,
    /// Its programs are gone; the totals are still there.
    Idle,
    Absent,
}

/// This daemon's place, held until it is dropped.
pub struct Pins {
    root: PathBuf,
    maps: PathBuf,
    mine: PathBuf,
    /// Daemons before this one that have left their programs attached.
    before: Vec<PathBuf>,
    /// Totals of a daemon before were there.
    totals: bool,
    _lock: OwnedFd,
}

impl Pins {
    /// Takes the folder `root`, and makes it if it is not there. `None`, with the reason in the log: the daemon's
    /// programs end with it.
    pub fn take(root: &Path) -> Option<Self> {
        match Self::open(root) {
            Ok(pins) => Some(pins),
            Err(err) => {
                tracing::warn!(
                    folder = %root.display(),
                    reason = %err,
                    "nothing is pinned: if the daemon is killed, what happens until it is started again is not seen"
                );
                None
            }
        }
    }

    fn open(root: &Path) -> io::Result<Self> {
        let mount = root.parent().unwrap_or(root);
        let found = rustix::fs::statfs(mount).map(|found| found.f_type as u64);
        if found != Ok(BPF_FS_MAGIC) {
            return Err(io::Error::other(format!(
                "no BPF file system at {} (mount -t bpf bpf {0})",
                mount.display()
            )));
        }
        make(root)?;
        let lock = rustix::fs::open(
            root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::other("another poisontrace is running with it"))?;
        let name = format!("layout-{MAP_LAYOUT}");
        for other in entries(root)? {
            if other.file_name().is_some_and(|other| *other != *name) {
                tracing::warn!(
                    found = %other.display(),
                    "pinned maps of another layout are replaced; their counts go on from what is stored"
                );
                remove(&other)?;
            }
        }
        let maps = root.join(name);
        make(&maps)?;
        let mine = maps.join(format!("daemon-{}", rustix::process::getpid().as_raw_nonzero()));
        if mine.exists() {
            // A daemon of this process number died before: it is one of those before, under another name.
            fs::rename(&mine, maps.join("daemon-before"))?;
        }
        let before = entries(&maps)?.into_iter().filter(|path| path.is_dir()).collect();
        make(&mine)?;
        Ok(Self {
            root: root.to_owned(),
            totals: maps.join(MAPS[0]).exists(),
            maps,
            mine,
            before,
            _lock: lock,
        })
    }

    /// The totals as a daemon before left them; to be asked before [`Pins::take_over`].
    pub fn totals(&self) -> PinnedTotals {
        match (self.totals, self.before.is_empty()) {
            (false, _) => PinnedTotals::Absent,
            (true, false) if aya::features().bpf_perf_link() => PinnedTotals::Counting,
            (true, _) => PinnedTotals::Idle,
        }
    }

    /// Removes all that is pinned; where the programs of a daemon before are still at work, only what is this one's.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn clear(self) -> io::Result<usize> {
        match self.before.is_empty() {
            true => detach(&self.root),
            false => remove(&self.mine),
        }
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// Where a program's link is pinned.
    pub fn link(&self, program: &str) -> PathBuf {
        self.mine.join(program)
    }

    /// Makes the new programs the ones at work, and detaches those of daemons before.
    ///
    /// # Errors
    /// If the flag cannot be set: the old programs are then left at work.
    pub fn take_over(&mut self, ebpf: &mut aya::Ebpf, predates: bool) -> Result<(), String> {
        let flag = ebpf.take_map(SECTION).ok_or("the object has no flag")?;
        let Map::Array(data) = flag else {
            return Err("the object's flag is no array".to_owned());
        };
        data.pin(self.mine.join(FLAG)).map_err(|err| err.to_string())?;
        let mut mine: Array<MapData, u32> =
            Array::try_from(Map::Array(data)).map_err(|err| err.to_string())?;
        let mut others = Vec::new();
        for daemon in &self.before {
            // A daemon that died while it attached has no flag, and programs that are held.
            let Ok(data) = MapData::from_pin(daemon.join(FLAG)) else {
                continue;
            };
            others.push(Array::<MapData, u32>::try_from(Map::Array(data)).map_err(|err| err.to_string())?);
        }
        let value = if predates { arming::ARMED } else { arming::IDLE };
        mine.set(0, value, 0).map_err(|err| err.to_string())?;
        for flag in &mut others {
            if flag.get(&0, 0).is_ok_and(|value| value == arming::ARMED) {
                mine.set(0, arming::ARMED, 0).map_err(|err| err.to_string())?;
            }
            flag.set(0, arming::QUIESCED, 0).map_err(|err| err.to_string())?;
        }
        for daemon in self.before.drain(..) {
            remove(&daemon).map_err(|err| format!("{}: {err}", daemon.display()))?;
        }
        Ok(())
    }
}

/// Removes all that is pinned in `root`, which detaches the programs of a daemon that is gone. Returns how many maps
/// and links there were.
///
/// # Errors
/// If something cannot be removed.
pub fn detach(root: &Path) -> io::Result<usize> {
    match fs::symlink_metadata(root) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(err) => Err(err),
        Ok(_) => {
            let mut removed = 0;
            for path in links_first(root)? {
                removed += remove(&path)?;
            }
            use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
            match fs::remove_dir(root) {
                // A service's folder in a file system that is not its own: empty, it does no harm.
                Err(err) if !matches!(err.kind(), PermissionDenied | ReadOnlyFilesystem | ResourceBusy) => {
                    Err(err)
                }
                _ => Ok(removed),
            }
        }
    }
}

/// Whether a daemon holds the folder.
pub fn in_use(root: &Path) -> bool {
    let Ok(folder) = fs::File::open(root) else {
        return false;
    };
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err()
}

fn make(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
        _ => Ok(()),
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// Removes a folder and all in it; returns the number of files. Links go first, so that nothing is counted into maps
/// that are on their way out.
fn remove(path: &Path) -> io::Result<usize> {
    if !fs::symlink_metadata(path)?.is_dir() {
        fs::remove_file(path)?;
        return Ok(1);
    }
    let mut removed = 0;
    for path in links_first(path)? {
        removed += remove(&path)?;
    }
    fs::remove_dir(path)?;
    Ok(removed)
}

/// What is in a folder, folders first: they hold the links.
fn links_first(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
        entries(folder)?.into_iter().partition(|path| path.is_dir());
    folders.extend(files);
    Ok(folders)
}
