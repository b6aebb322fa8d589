//! The facts of a forecast that files show: the host's settings and processor, and each VMM's process. Reads only; no guest
//! memory; each read is bounded, and so are the time and the number of processes.
//!
//! | part | reads |
//! |---|---|
//! | [`host`] | sysctl, EDAC, ACPI HEST, /proc/cpuinfo, MCG_CAP |
//! | `process` | descriptors, signals, threads, command line, QEMU's version |
//! | `memory` | what is behind the memory, and who else has mapped it |

pub mod host;
mod memory;
mod process;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::vm_registry::proc;
use poisontrace_model::forecast::{
    facts::{Known, VmFacts},
    terms::{Reason, VmmKind},
};

use memory::FileKey;
pub use process::Versions;

/// Processes that are looked at.
const MAX_PROCESSES: usize = 131_072;
/// VMs that are answered for.
const MAX_VMS: usize = 8192;
/// Threads that read; most of the time is the kernel's, in making text.
const MAX_READERS: usize = 4;
/// How long all of it may take. What is left out is counted.
const BUDGET: Duration = Duration::from_secs(10);
/// Of which walks over page tables (smaps), which only huge and pinned memory asks for.
const WALKS: Duration = Duration::from_millis(400);

/// What was found.
#[derive(Debug, Default)]
pub struct Vms {
    /// One for each VMM, by pid.
    pub vms: Vec<VmFacts>,
    /// Processes whose descriptors may not be read.
    pub denied: u64,
    /// Processes that there was no time or no room for.
    pub left_out: u64,
}

/// How long it may take.
struct Deadlines {
    all: Instant,
    walks: Instant,
}

impl Deadlines {
    fn from_now() -> Self {
        let now = Instant::now();
        Self {
            all: now + BUDGET,
            walks: now + WALKS,
        }
    }
}

/// What one reader has found.
#[derive(Default)]
struct Part {
    vms: Vec<(VmFacts, Vec<FileKey>)>,
    denied: u64,
    left_out: u64,
}

/// Reads the facts of all VMs below `proc` (`/proc`). Their vCPUs are not among what it shows.
pub fn vms(proc: &Path) -> Vms {
    let Ok(entries) = fs::read_dir(proc) else {
        return Vms::default();
    };
    let pids: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(MAX_PROCESSES)
        .collect();
    let (next, versions, deadlines) = (AtomicUsize::new(0), Versions::default(), Deadlines::from_now());
    let readers = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_READERS));
    let parts: Vec<Part> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..readers)
            .map(|_| scope.spawn(|| read_part(proc, &pids, &next, &versions, &deadlines)))
            .collect();
        // A reader that panicked leaves what the others have.
        readers
            .into_iter()
            .filter_map(|reader| reader.join().ok())
            .collect()
    });
    together(parts)
}

/// The same of VMs that are known, on the caller's thread. `versions` is kept from one time to the next.
pub fn vms_of(proc: &Path, pids: &[u32], versions: &Versions) -> Vms {
    let next = AtomicUsize::new(0);
    together(vec![read_part(
        proc,
        pids,
        &next,
        versions,
        &Deadlines::from_now(),
    )])
}

fn read_part(
    proc: &Path,
    pids: &[u32],
    next: &AtomicUsize,
    versions: &Versions,
    deadlines: &Deadlines,
) -> Part {
    let mut part = Part::default();
    while let Some(pid) = pids.get(next.fetch_add(1, Ordering::Relaxed)) {
        if Instant::now() > deadlines.all || part.vms.len() >= MAX_VMS {
            part.left_out += 1;
            continue;
        }
        let dir = proc.join(pid.to_string());
        match process::descriptors(&dir) {
            Ok(descriptors) if descriptors.vm => {
                part.left_out += u64::from(descriptors.more);
                part.vms.push(vm(proc, *pid, &descriptors, versions, deadlines));
            }
            Ok(descriptors) => part.left_out += u64::from(descriptors.more),
            Err(Reason::NotPermitted) => part.denied += 1,
            // It has ended meanwhile.
            Err(_) => {}
        }
    }
    part
}

fn vm(
    proc: &Path,
    pid: u32,
    descriptors: &process::Descriptors,
    versions: &Versions,
    deadlines: &Deadlines,
) -> (VmFacts, Vec<FileKey>) {
    let dir = proc.join(pid.to_string());
    let identity = proc::read(proc, pid, Some(true));
    let kind = process::kind(identity.vmm.as_deref());
    let status = process::Status::read(&dir);
    let (files, dax) = memory::files(&dir);
    let backing = memory::backing(&dir, status.as_ref(), descriptors, dax, deadlines.walks);
    let facts = VmFacts {
        pid,
        name: identity.name,
        uuid: identity.uuid,
        vmm: identity.vmm,
        kind,
        qemu: match kind {
            VmmKind::Qemu => versions.of(&dir),
            _ => Known::Not(Reason::NotShown),
        },
        sigbus: process::sigbus(&dir, status.as_ref()),
        backing,
        vcpu_count: match descriptors.more {
            true => Known::Not(Reason::Truncated),
            false => Known::Is(descriptors.vcpus),
        },
        mce_off: process::mce_off(&dir),
        vcpus: Known::Not(Reason::NoIterator),
    };
    (facts, files)
}

/// Puts the parts together, and finds the VMs that have mapped the same file.
fn together(parts: Vec<Part>) -> Vms {
    let mut all = Vms::default();
    let mut users: BTreeMap<FileKey, Vec<u32>> = BTreeMap::new();
    let mut found = Vec::new();
    for part in parts {
        all.denied += part.denied;
        all.left_out += part.left_out;
        found.extend(part.vms);
    }
    found.sort_by_key(|(vm, _)| vm.pid);
    let over = found.len().saturating_sub(MAX_VMS);
    all.left_out += over as u64;
    found.truncate(MAX_VMS);
    for (vm, files) in &found {
        for file in files {
            users.entry(*file).or_default().push(vm.pid);
        }
    }
    for (mut vm, files) in found {
        if let Known::Is(backing) = &mut vm.backing {
            let others = files.iter().filter_map(|file| users.get(file)).flatten();
            let mut others: Vec<u32> = others.copied().filter(|pid| *pid != vm.pid).collect();
            others.sort_unstable();
            others.dedup();
            backing.shared_with = others;
        }
        all.vms.push(vm);
    }
    all
}
