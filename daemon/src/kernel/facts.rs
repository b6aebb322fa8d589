//! Facts of the running kernel, read once at start. Everything the plan needs and nothing else, so that facts
//! of another machine can be handed to it as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    btf::{Btf, Member},
    format::Format,
};

/// Tracepoints that the plan may ask for, `group/name`.
pub const EVENTS: [&str; 12] = [
    "ras/memory_failure_event",
    "memory_failure/memory_failure_event",
    "kvm/kvm_exit",
    "kvm/kvm_entry",
    "kvm/kvm_page_fault",
    "kvm/kvm_userspace_exit",
    "kvm/kvm_inj_exception",
    "kvm/kvm_msr",
    "kvm/kvm_pio",
    "sched/sched_process_exit",
    "syscalls/sys_enter_ioctl",
    "syscalls/sys_exit_ioctl",
];

/// Functions that the plan may ask for.
pub const FUNCTIONS: [&str; 7] = [
    "memory_failure",
    "send_sig_mceerr",
    "force_sig_mceerr",
    "get_user_pages_unlocked",
    "kvm_arch_vcpu_ioctl",
    "kvm_arch_destroy_vm",
    "kvm_mmu_page_fault",
];

/// Struct members that the probes read.
pub const MEMBERS: [&str; 7] = [
    "task_struct.pid",
    "task_struct.tgid",
    "task_struct.comm",
    "task_struct.exit_code",
    "task_struct.signal",
    "signal_struct.live",
    "signal_struct.group_exit_code",
];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Layouts of those of [`EVENTS`] that exist.
    pub events: BTreeMap<String, Format>,
    /// Those of [`FUNCTIONS`] that vmlinux BTF describes: fentry and fexit can bind to them.
    pub btf_functions: BTreeSet<String>,
    /// Those of [`FUNCTIONS`] that kallsyms lists, modules included: kprobes can bind to them.
    pub symbols: BTreeSet<String>,
    pub members: BTreeMap<String, Member>,
    /// Whether the kernel has kprobes.
    pub kprobes: bool,
    /// Whether nested paging is on, of kvm_intel (`ept`) or kvm_amd (`npt`); `None` where neither is loaded.
    pub nested_paging: Option<bool>,
    /// Whether kvm_amd is loaded: its processors can deliver the bytes of an instruction that faults.
    pub svm: bool,
    /// HardwareCorrupted of /proc/meminfo, kB.
    pub hardware_corrupted_kb: Option<u64>,
}

/// Why the facts cannot be read: what is missing, and how to get it.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error(
        "not root: reading the kernel's tracing files and loading BPF programs needs root (or CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH); run it with sudo"
    )]
    NotRoot,
    #[error("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing")]
    NoTracefs,
    #[error(
        "this kernel has no BTF (no {0}): it needs CONFIG_DEBUG_INFO_BTF, which kernels of Debian 11, Ubuntu 20.10 and RHEL 8.2 on have"
    )]
    NoBtf(String),
    #[error("{0} cannot be used: {1}; is the kernel's BTF newer than this poisontrace?")]
    BadBtf(String, super::btf::BtfError),
    #[error("KVM is not loaded (no kvm tracepoints): modprobe kvm_intel or kvm_amd, then start again")]
    NoKvm,
    #[error("cannot read {0}: {1}")]
    Io(PathBuf, io::Error),
}

const BTF: &str = "sys/kernel/btf/vmlinux";

impl Facts {
    /// Reads the facts of the running kernel.
    ///
    /// # Errors
    /// What is missing so badly that nothing can be attached.
    pub fn of_this_kernel() -> Result<Self, FactsError> {
        if !rustix::process::geteuid().is_root() {
            return Err(FactsError::NotRoot);
        }
        Self::read(Path::new("/"))
    }

    /// Reads the facts of the kernel whose files lie under `root`.
    ///
    /// # Errors
    /// As [`Facts::of_this_kernel`].
    pub fn read(root: &Path) -> Result<Self, FactsError> {
        let tracefs = tracefs(root)?;
        let btf_path = root.join(BTF);
        let bytes = match fs::read(&btf_path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(FactsError::NoBtf(format!("/{BTF}")));
            }
            Err(err) => return Err(FactsError::Io(btf_path, err)),
        };
        let btf = Btf::parse(&bytes).map_err(|err| FactsError::BadBtf(format!("/{BTF}"), err))?;
        let events = events(&tracefs);
        if !events.keys().any(|name| name.starts_with("kvm/")) {
            return Err(FactsError::NoKvm);
        }
        Ok(Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            events,
            btf_functions: btf.functions(&FUNCTIONS),
            symbols: symbols(&root.join("proc/kallsyms")),
            members: btf.members(&MEMBERS),
            kprobes: root.join("sys/bus/event_source/devices/kprobe/type").exists()
                || tracefs.join("kprobe_events").exists(),
            nested_paging: nested_paging(root),
            svm: root.join("sys/module/kvm_amd").is_dir(),
            hardware_corrupted_kb: hardware_corrupted_kb(root),
        })
    }
}

fn tracefs(root: &Path) -> Result<PathBuf, FactsError> {
    ["sys/kernel/tracing", "sys/kernel/debug/tracing"]
        .iter()
        .map(|dir| root.join(dir))
        .find(|dir| dir.join("events").is_dir())
        .ok_or(FactsError::NoTracefs)
}

fn events(tracefs: &Path) -> BTreeMap<String, Format> {
    EVENTS
        .iter()
        .filter_map(|name| {
            let text = fs::read_to_string(tracefs.join("events").join(name).join("format")).ok()?;
            Some(((*name).to_owned(), Format::parse(&text)))
        })
        .collect()
}

/// Those of [`FUNCTIONS`] that are text symbols; streamed, as the file has 200,000 lines.
fn symbols(kallsyms: &Path) -> BTreeSet<String> {
    use io::BufRead as _;
    let mut found = BTreeSet::new();
    let Ok(file) = fs::File::open(kallsyms) else {
        return found;
    };
    for line in io::BufReader::with_capacity(1 << 16, file).lines() {
        let Ok(line) = line else { break };
        // `ffffffff81000000 T name	[module]`
        let mut words = line.split_ascii_whitespace().skip(1);
        let (Some(kind), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        if matches!(kind, "T" | "t") && FUNCTIONS.contains(&name) {
            found.insert(name.to_owned());
        }
    }
    found
}

fn nested_paging(root: &Path) -> Option<bool> {
    let parameter = |path: &str| fs::read_to_string(root.join("sys/module").join(path)).ok();
    let text = parameter("kvm_intel/parameters/ept").or_else(|| parameter("kvm_amd/parameters/npt"))?;
    Some(matches!(text.trim(), "Y" | "1"))
}

/// HardwareCorrupted, kB.
pub fn hardware_corrupted_kb(root: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("HardwareCorrupted:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder with what `with` names of: btf, tracefs, kvm.
    fn root(with: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        if with.contains(&"btf") {
            // A header, no types, the empty string.
            put(
                BTF,
                &[
                    0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0,
                ],
            );
        }
        if with.contains(&"bad btf") {
            put(BTF, b"junk");
        }
        if with.contains(&"tracefs") {
            put("sys/kernel/tracing/events/sched/sched_process_exit/format", b"");
        }
        if with.contains(&"kvm") {
            put(
                "sys/kernel/tracing/events/kvm/kvm_exit/format",
                b"\tfield:unsigned int vcpu_id;\toffset:56;\tsize:4;\tsigned:0;\n",
            );
        }
        put("proc/kallsyms", b"ffffffff81000000 T memory_failure\nffffffffc0000000 t kvm_arch_vcpu_ioctl\t[kvm]\nffffffff82000000 D send_sig_mceerr\n");
        put("proc/meminfo", b"MemTotal: 1 kB\nHardwareCorrupted:     8 kB\n");
        put("sys/module/kvm_amd/parameters/npt", b"Y\n");
        root
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let err = |with: &[&str]| Facts::read(root(with).path()).unwrap_err().to_string();
        assert!(
            err(&["btf", "kvm"][..1]).contains("mount -t tracefs"),
            "no tracefs"
        );
        assert!(
            err(&["tracefs", "kvm"]).contains("CONFIG_DEBUG_INFO_BTF"),
            "no BTF"
        );
        assert!(
            err(&["tracefs", "kvm", "bad btf"]).contains("cannot be used"),
            "damaged BTF"
        );
        assert!(err(&["tracefs", "btf"]).contains("modprobe"), "no KVM");
    }

    #[test]
    fn facts_are_read_from_where_the_kernel_keeps_them() {
        let facts = Facts::read(root(&["tracefs", "btf", "kvm"]).path()).unwrap();
        assert_eq!(facts.events["kvm/kvm_exit"].offset("vcpu_id", 4), Some(56));
        // Functions of modules count, data does not.
        assert!(facts.symbols.contains("kvm_arch_vcpu_ioctl") && !facts.symbols.contains("send_sig_mceerr"));
        assert_eq!(
            (facts.hardware_corrupted_kb, facts.nested_paging),
            (Some(8), Some(true))
        );
    }
}
