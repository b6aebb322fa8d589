//! What outlives the daemon, in a folder of its own of the BPF file system: the maps, and the links that keep the
//! programs attached. Killed in the middle of a storm, the daemon's programs count on; the next daemon loads its own
//! with the same maps and takes over.
//!
//! ```text
//! /sys/fs/bpf/poisontrace/
//!   layout-8/            maps, by the version of their layout (poisontrace_probes::MAP_LAYOUT)
//!     PAGES EVENTS LOST VICTIMS VCPUS REPORTED SIGNALS
//!     daemon-4711/       one daemon's programs
//!       ARMED            its flag
//!       <program> …      its links
//! ```
//!
//! The old programs run until the new ones are attached; the two flags are then changed one after the other, first that
//! of the new ones. Both work on the same maps, so that an exit that both see is counted once. None escapes both: at a
//! tracepoint the old ones run first, so that one that finds itself held is followed by a new one that does not; at a
//! function the new ones run first, and a call between the two changes may be seen by neither, but an exit on poison
//! passes two of them, and each reports it (`get_user_pages_unlocked`, `send_sig_mceerr`).

mod folder;

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use folder::{Level, make, open_any, open_own};
use poisontrace_probes::{MAP_LAYOUT, arming};
use rustix::fs::{FlockOperation, flock, fstatfs, statfs};

/// Where the folder is.
pub const ROOT: &str = "/sys/fs/bpf/poisontrace";
/// The maps that outlive the daemon.
pub const MAPS: [&str; 7] = [
    "PAGES", "EVENTS", "LOST", "VICTIMS", "VCPUS", "REPORTED", "SIGNALS",
];

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

fn is_bpffs(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|found| found.f_type as u64 == BPF_FS_MAGIC)
}

fn not_mounted(root: &Path) -> io::Error {
    io::Error::other(format!(
        "no BPF file system at {} (mount -t bpf bpf {0})",
        root.parent().unwrap_or(root).display()
    ))
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
        // Without a BPF file system sysfs is there, which lets nobody make a folder.
        make(root).map_err(|err| match is_bpffs(root.parent().unwrap_or(root)) {
            true => err,
            false => not_mounted(root),
        })?;
        let lock = open_own(root).or_else(|refusal| match fs::remove_dir(root) {
            // The service leaves an empty folder behind that belongs to its dynamic user; root may replace it.
            Ok(()) => make(root).and_then(|()| open_own(root)),
            Err(_) => Err(refusal),
        })?;
        let file_system = fstatfs(&lock).map(|found| found.f_type as u64);
        if file_system != Ok(BPF_FS_MAGIC) {
            // The folder was made in another file system.
            let _ = fs::remove_dir(root);
            return Err(not_mounted(root));
        }
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::other("another poisontrace is running with it"))?;
        let name = format!("layout-{MAP_LAYOUT}");
        for other in folder::folders(root)? {
            if other.file_name().is_some_and(|other| *other != *name) {
                tracing::warn!(
                    found = %other.display(),
                    "pinned maps of another layout are replaced; their counts go on from what is stored"
                );
                remove_layout(&other)?;
            }
        }
        let maps = root.join(name);
        make(&maps)?;
        let mine = maps.join(format!("daemon-{}", rustix::process::getpid().as_raw_nonzero()));
        if mine.exists() {
            // A daemon of this process number died before: it is one of those before, under another name.
            fs::rename(&mine, maps.join("daemon-before"))?;
        }
        let before = folder::folders(&maps)?;
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
            false => folder::remove(&self.mine, Level::Daemon),
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

    /// Makes the new programs the ones at work, and detaches those of daemons before. Returns the new ones' flag.
    ///
    /// # Errors
    /// If the flag cannot be set: the old programs are then left at work.
    pub fn take_over(&mut self, ebpf: &mut aya::Ebpf, predates: bool) -> Result<Array<MapData, u32>, String> {
        let data = flag(ebpf)?;
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
            folder::remove(&daemon, Level::Daemon).map_err(|err| format!("{}: {err}", daemon.display()))?;
        }
        Ok(mine)
    }
}

/// The map of the flag that the programs go by ([`arming`]).
///
/// # Errors
/// An object without it.
pub fn flag(ebpf: &mut aya::Ebpf) -> Result<MapData, String> {
    section(ebpf, SECTION)
}

/// The map of a section that holds one global.
///
/// # Errors
/// An object without it.
pub fn section(ebpf: &mut aya::Ebpf, name: &str) -> Result<MapData, String> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        Some(_) => Err(format!("the object's section {name} is not an array")),
        None => Err(format!("the object has no section {name}")),
    }
}

/// Removes all that is pinned in `root`, which detaches the programs of a daemon that is gone. Returns how many maps
/// and links there were. The folder may belong to another user, as that of the service does.
///
/// # Errors
/// If something cannot be removed.
pub fn detach(root: &Path) -> io::Result<usize> {
    let folder = match open_any(root) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(0),
        found => found?,
    };
    let removed = folder::empty(folder.as_fd(), Level::Root, root)?;
    use io::ErrorKind::{DirectoryNotEmpty, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    match fs::remove_dir(root) {
        // A service's folder in a file system that is not its own: empty, it does no harm.
        Err(err)
            if !matches!(
                err.kind(),
                DirectoryNotEmpty | PermissionDenied | ReadOnlyFilesystem | ResourceBusy
            ) =>
        {
            Err(err)
        }
        _ => Ok(removed),
    }
}

/// Removes a folder of pinned maps and links, if a daemon has made it.
fn remove_layout(path: &Path) -> io::Result<usize> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    match Level::Root.folder(name) {
        Some(level) => folder::remove(path, level),
        None => Ok(0),
    }
}

/// Whether a daemon holds the folder.
pub fn in_use(root: &Path) -> bool {
    open_any(root).is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err())
}
