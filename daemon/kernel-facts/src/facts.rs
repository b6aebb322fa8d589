//! Facts of a kernel: everything the plan needs and nothing else. Read once at start, or from a folder that was
//! written on another machine ([`saved`]).

pub mod live;
pub mod saved;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    btf::{Member, Prototype},
    format::Format,
    functions::MEM_ALLOC,
    kvm::Kvm,
};

/// Tracepoints that the plan may ask for, `group/name`.
pub const EVENTS: [&str; 17] = [
    "ras/memory_failure_event",
    "memory_failure/memory_failure_event",
    "mce/mce_record",
    "ras/mc_event",
    "ras/extlog_mem_event",
    "kvm/kvm_exit",
    "kvm/kvm_entry",
    "kvm/kvm_page_fault",
    "kvm/kvm_userspace_exit",
    "kvm/kvm_inj_exception",
    "kvm/kvm_msr",
    "kvm/kvm_pio",
    "kvm/kvm_nested_vmexit",
    "sched/sched_process_exit",
    "signal/signal_generate",
    "syscalls/sys_enter_ioctl",
    "syscalls/sys_exit_ioctl",
];

/// Both names of the tracepoint of `memory_failure()`: group `ras` up to 6.18 and from 7.2, `memory_failure` between.
pub const MEMORY_FAILURE_EVENTS: [&str; 2] = [EVENTS[0], EVENTS[1]];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// What the kernel's own BTF could be read for: `vmlinux`, and the modules that have one.
    pub btf: BTreeSet<String>,
    /// Those of [`super::functions::FUNCTIONS`] that BTF describes.
    pub functions: BTreeMap<String, Prototype>,
    /// Tracepoints, as a raw tracepoint program sees them.
    pub raw_tracepoints: BTreeMap<String, Prototype>,
    /// Structure members, `struct.member`.
    pub members: BTreeMap<String, Member>,
    /// Those of the functions that kallsyms lists, modules included: kprobes can bind to them.
    pub symbols: BTreeSet<String>,
    /// Whether the kernel has kprobes.
    pub kprobes: bool,
    /// KVM's modules, built in or loaded, with those of their parameters that matter.
    pub modules: BTreeMap<String, Module>,
    /// Effective capabilities of whoever read the facts, of those that matter.
    pub capabilities: BTreeSet<String>,
    /// `none`, `integrity` or `confidentiality`; `None` on a kernel without lockdown.
    pub lockdown: Option<String>,
    /// HardwareCorrupted of /proc/meminfo, kB.
    pub hardware_corrupted_kb: Option<u64>,
    /// What the kernel's clocks run on: `tsc`, as a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocksource: Option<String>,
    /// kernel.perf_event_paranoid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perf_event_paranoid: Option<i32>,
    /// Whether perf_event_open() was allowed by CAP_PERFMON without CAP_SYS_ADMIN, under that level; `None`: not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perfmon_suffices: Option<bool>,
    /// Ways of binding that are not to be used, though the kernel has them (`--disable-attach-type`).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub disabled_attach_types: BTreeSet<String>,
    /// Layouts of those of [`EVENTS`] that exist; stored as the kernel's own files.
    #[serde(skip)]
    pub events: BTreeMap<String, Format>,
}

/// One of KVM's modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Modules that use it; `None` where it is built in.
    pub users: Option<Vec<String>>,
    pub parameters: BTreeMap<String, String>,
}

/// Why facts cannot be read: what is missing, and how to get it.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error(
        "not root: reading the kernel's tracing files and loading BPF programs needs root (or CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH); run it with sudo"
    )]
    NotRoot,
    #[error(
        "this is a PID namespace of its own: the kernel's process numbers are not those of /proc here, so no VM would be named, or a wrong one; run it in the host's (Kubernetes: `hostPID: true`; Docker, Podman: `--pid=host`)"
    )]
    PidNamespace,
    #[error("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing")]
    NoTracefs,
    #[error(
        "this kernel has no BTF (no {0}): it needs CONFIG_DEBUG_INFO_BTF, which kernels of Debian 11, Ubuntu 20.10 and RHEL 8.2 on have"
    )]
    NoBtf(String),
    #[error("{0} cannot be used: {1}; is the kernel's BTF newer than this poisontrace?")]
    BadBtf(String, super::btf::BtfError),
    #[error("{0} is not empty: name a new folder for the facts")]
    NotEmpty(PathBuf),
    #[error(
        "{0} holds no facts of a kernel ({1}): name a folder that `poisontrace check --save-facts` wrote"
    )]
    NoFacts(PathBuf, String),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

impl Facts {
    /// Whether KVM can run guests.
    pub fn kvm(&self) -> Kvm {
        match self.modules.get("kvm") {
            None => Kvm::Absent,
            Some(Module {
                users: Some(users), ..
            }) if users.is_empty() => Kvm::Idle,
            Some(_) => Kvm::Ready,
        }
    }

    /// Whether nested paging is on (`ept` of kvm_intel, `npt` of kvm_amd); `None` where neither is loaded.
    pub fn nested_paging(&self) -> Option<bool> {
        let value = [("kvm_intel", "ept"), ("kvm_amd", "npt")]
            .iter()
            .find_map(|(module, parameter)| self.modules.get(*module)?.parameters.get(*parameter))?;
        Some(matches!(value.as_str(), "Y" | "1"))
    }

    /// What kvm_exit calls the host's kind of virtualization (`KVM_ISA_VMX`, `KVM_ISA_SVM`), by the module that is there.
    pub fn isa(&self) -> Option<u32> {
        [("kvm_intel", 1), ("kvm_amd", 2)]
            .iter()
            .find_map(|(module, isa)| self.modules.contains_key(*module).then_some(*isa))
    }

    /// Whether tracing programs may use hash maps that allocate an entry when it is inserted: from 6.1 on, where BPF has an
    /// allocator of its own for them. Before, the verifier warns of such a map with a call trace in the kernel's log
    /// (`check_map_prealloc`, kernel/bpf/verifier.c), and refuses it with PREEMPT_RT.
    pub fn maps_may_allocate(&self) -> bool {
        self.functions.contains_key(MEM_ALLOC.name) || self.symbols.contains(MEM_ALLOC.name)
    }

    /// Whether kvm_amd is there: its processors can deliver the bytes of an instruction that faults.
    pub fn svm(&self) -> bool {
        self.modules.contains_key("kvm_amd")
    }

    /// The layout of a tracepoint; that of `memory_failure()` is looked for in both its groups.
    pub fn event(&self, name: &str) -> Option<(&str, &Format)> {
        let names: &[&str] = match name {
            name if name == MEMORY_FAILURE_EVENTS[0] => &MEMORY_FAILURE_EVENTS,
            _ => &[name],
        };
        names
            .iter()
            .find_map(|name| self.events.get_key_value(*name))
            .map(|(name, format)| (name.as_str(), format))
    }
}
