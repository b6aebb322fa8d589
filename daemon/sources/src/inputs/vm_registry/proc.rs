//! What /proc shows of a process. All of it is its owner's to choose and to multiply, so each read is bounded.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{cgroup, cmdline};
use poisontrace_model::{event::Vmm, text::sanitise};

/// Longest command line and cgroup text that is read, bytes.
const MAX_TEXT: u64 = 64 * 1024;
/// Longest name, characters.
const MAX_NAME: usize = 128;
/// Descriptors of one process that are looked at: a VMM opens its VM early, and /proc lists them in order.
const MAX_DESCRIPTORS: usize = 2048;

/// Whether a process holds a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Vm,
    None,
    /// None among the first descriptors; it has more.
    TooMany,
    /// It cannot be looked at, or is ending: its VM may have been among what was closed.
    Unknown,
}

impl Holds {
    pub fn is_vmm(self) -> Option<bool> {
        match self {
            Self::Vm => Some(true),
            Self::None => Some(false),
            Self::TooMany | Self::Unknown => None,
        }
    }
}

/// The number that was given to a thread or process last (loadavg, fifth field). It shows an idle host's daemon that there
/// is nothing to look for, and costs one small file's reading in place of a list of /proc.
pub fn last_pid(proc: &Path) -> Option<String> {
    let text = fs::read_to_string(proc.join("loadavg")).ok()?;
    Some(text.split_whitespace().nth(4)?.to_owned())
}

/// When the process started, clock ticks since boot; `None`: it is gone.
pub fn start_ticks(proc: &Path, pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(folder(proc, pid).join("stat")).ok()?;
    // Field 22, counted after the comm in parentheses, which may itself hold spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether one of its descriptors is a KVM VM or vCPU (virt/kvm/kvm_main.c).
pub fn holds_a_vm(proc: &Path, pid: u32) -> Holds {
    let Ok(descriptors) = fs::read_dir(folder(proc, pid).join("fd")) else {
        return Holds::Unknown;
    };
    let mut looked_at = 0;
    for descriptor in descriptors.flatten() {
        if looked_at == MAX_DESCRIPTORS {
            return Holds::TooMany;
        }
        looked_at += 1;
        if fs::read_link(descriptor.path()).is_ok_and(|to| is_kvm(&to)) {
            return Holds::Vm;
        }
    }
    match looked_at {
        0 => Holds::Unknown,
        _ => Holds::None,
    }
}

/// What is known of a process; `is_vmm` as [`holds_a_vm`] has found.
pub fn read(proc: &Path, pid: u32, is_vmm: Option<bool>) -> Vmm {
    let dir = folder(proc, pid);
    let arguments = cmdline::split(&read_bounded(&dir.join("cmdline")));
    let placed = cgroup::placed(&String::from_utf8_lossy(&read_bounded(&dir.join("cgroup"))));
    let named = cmdline::identify(&arguments);
    let executable = fs::read_link(dir.join("exe")).ok();
    let executable = executable
        .as_deref()
        .and_then(|path| path.file_name())
        .map(|name| name.to_string_lossy());
    let comm = || fs::read_to_string(dir.join("comm")).ok();
    let clean = |text: &str| sanitise(text.trim_end(), MAX_NAME);
    let machine = placed.libvirt;
    if let (Some(machine), Some(name)) = (&machine, &named.name)
        && machine != name
    {
        let (machine, name) = (clean(machine), clean(name));
        tracing::warn!(
            pid,
            machine,
            name,
            "a VM's command line has another name than libvirt's cgroup, which holds"
        );
    }
    Vmm {
        name_guess: None,
        is_vmm,
        // libvirt's cgroup first: a command line is its owner's to choose.
        name: machine.or(named.name).as_deref().map(clean),
        uuid: named.uuid.as_deref().map(clean),
        // A deleted executable (an upgrade under a running VMM) is still its name.
        vmm: executable
            .map(|name| clean(name.trim_end_matches(" (deleted)")))
            .or_else(|| comm().as_deref().map(clean)),
        container: placed.container.map(Box::new),
        start_ticks: start_ticks(proc, pid),
    }
}

fn folder(proc: &Path, pid: u32) -> PathBuf {
    proc.join(pid.to_string())
}

/// `anon_inode:kvm-vm`, `anon_inode:kvm-vcpu:0`, …
fn is_kvm(to: &Path) -> bool {
    to.to_str().is_some_and(|to| to.starts_with("anon_inode:kvm-v"))
}

fn read_bounded(path: &Path) -> Vec<u8> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // A process that vanishes half-way leaves what was read.
        let _ = file.take(MAX_TEXT).read_to_end(&mut bytes);
    }
    bytes
}
