//! The probes by name, what each is attached to, and why it is not: as types, which the report crate words.

use alloc::{string::String, vec::Vec};
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! probes {
    ($($(#[$doc:meta])* $probe:ident $name:literal,)+) => {
        /// A row of the probe table.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ProbeId {
            $($(#[$doc])* $probe,)+
            /// A row of another version, by its name.
            Other(String),
        }

        impl ProbeId {
            /// The rows of this version.
            pub const ALL: &[Self] = &[$(Self::$probe),+];

            /// Stable name, as `check`, metrics and recordings have it.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$probe => $name,)+
                    Self::Other(name) => name,
                }
            }

            /// The row of that name.
            pub fn named(name: &str) -> Self {
                match name {
                    $($name => Self::$probe,)+
                    other => Self::Other(other.into()),
                }
            }
        }
    };
}

probes! {
    /// The function `memory_failure()`.
    MemoryFailure "memory_failure",
    /// The tracepoint of its result.
    MemoryFailureEvent "memory_failure_event",
    /// A bank of the host's processor.
    MceRecord "mce_record",
    /// Errors that EDAC reports.
    McEvent "mc_event",
    /// Errors that the firmware reports to the extended log.
    ExtlogMemEvent "extlog_mem_event",
    /// SIGBUS for poison to another thread, or what stands in for it.
    SendSigMceerr "send_sig_mceerr",
    /// SIGBUS that the kernel forces on a thread for its own access.
    ForceSigMceerr "force_sig_mceerr",
    /// Exits of guests.
    KvmExit "kvm_exit",
    /// EPT violations and nested page faults: GPA and access.
    KvmPageFault "kvm_page_fault",
    /// `get_user_pages_unlocked()`, by which KVM meets the poison.
    Gup "gup",
    /// Exits to user space.
    KvmUserspaceExit "kvm_userspace_exit",
    /// Entries into guests.
    KvmEntry "kvm_entry",
    /// Exits of nested (L2) guests.
    KvmNestedVmexit "kvm_nested_vmexit",
    /// The ioctls by which a VMM injects; people know it as `kvm_inject_mce`.
    VcpuIoctlMce "vcpu_ioctl_mce",
    /// Exceptions that KVM injects.
    KvmInjException "kvm_inj_exception",
    /// MSRs that the guest reads and writes.
    KvmMsr "kvm_msr",
    /// Ports that the guest reads and writes.
    KvmPio "kvm_pio",
    /// Ends of threads.
    SchedProcessExit "sched_process_exit",
    /// Ends of VMs.
    VmDestroyed "vm_destroyed",
    /// Bytes of the faulting instruction (SVM).
    Instruction "instruction",
    /// Page tables of the guest (`--read-guest-code`).
    GuestCode "guest_code",
    /// Memory slots of the VM (`--read-guest-code`).
    Memslots "memslots",
}

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for ProbeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ProbeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::named(&name))
    }
}

/// One row of the probe table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// The row.
    #[serde(rename = "name")]
    pub probe: ProbeId,
    /// `None`: not attached.
    pub binding: Option<ProbeBinding>,
    /// Why it is not attached (to its first choice), and what it cannot read.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub why: Vec<ProbeReason>,
    /// Text of another version: what cannot be reported without a probe that this version does not know.
    #[serde(default, alias = "lost", skip_serializing_if = "Option::is_none")]
    pub unavailable_info: Option<String>,
}

/// What a probe is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeBinding {
    /// These, from the start.
    Attached(Vec<Hook>),
    /// Held by these until there is poison; by nothing, if there is none.
    Standby(Vec<Hook>),
    /// No probe of ours: the evidence is in the files of an import.
    Imported,
    /// Text of another version.
    #[serde(untagged)]
    Text(String),
}

/// Where one program is attached. Tracepoints are named `group:name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// A tracepoint.
    Tracepoint(String),
    /// A raw tracepoint: arguments by BTF.
    RawTracepoint(String),
    /// Entry of a function, by trampoline.
    Fentry(String),
    /// Return of a function, by trampoline.
    Fexit(String),
    /// Entry of a function, by breakpoint.
    Kprobe(String),
    /// Return of a function, by breakpoint.
    Kretprobe(String),
}

impl Hook {
    /// Its kind and its name, as `check` prints them.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Tracepoint(name) => ("tracepoint", name),
            Self::RawTracepoint(name) => ("raw_tracepoint", name),
            Self::Fentry(name) => ("fentry", name),
            Self::Fexit(name) => ("fexit", name),
            Self::Kprobe(name) => ("kprobe", name),
            Self::Kretprobe(name) => ("kretprobe", name),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind} {name}")
    }
}

/// Why a probe is not attached (to its first choice), or what it cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeReason {
    /// This kernel has no such tracepoint (`group:name`).
    NoTracepoint(String),
    /// It has them, if at all, without these fields.
    NoTracepointFields {
        /// `group:name`.
        tracepoints: Vec<String>,
        /// Fields that are missing.
        fields: Vec<String>,
    },
    /// No BTF describes the arguments of this tracepoint.
    NoTracepointBtf(String),
    /// The BTF of vmlinux has no such function.
    NoFunctionBtf(String),
    /// This kernel has no kprobes.
    NoKprobes,
    /// kallsyms does not list this function.
    NoSymbol(String),
    /// A function has other parameters than the programs read.
    Prototype {
        /// The function.
        function: String,
        /// As this kernel has it.
        known: Signature,
        /// As the programs read it.
        expected: Signature,
    },
    /// No BTF describes the function: its arguments are taken on trust.
    PrototypeAssumed(String),
    /// Another row's stand-in (a tracepoint) shows the same events.
    ShownBy {
        /// The tracepoint.
        tracepoint: String,
        /// The row that it stands in for.
        of: ProbeId,
    },
    /// Only SVM hands out the bytes of an instruction that faults.
    SvmOnly,
    /// A field that the programs read is absent, or of another shape.
    NoField(MissingField),
    /// A structure without that field: the row is not offered at all.
    NoMember {
        /// The structure.
        of: String,
        /// The field.
        field: MissingField,
    },
    /// Lockdown in confidentiality mode.
    LockedDown,
    /// KVM is not loaded.
    KvmAbsent,
    /// KVM was unloaded while the probes were attached.
    KvmUnloaded,
    /// This way of attaching is disabled (`--disable-attach-type`).
    Disabled(String),
    /// A probe is attached otherwise than this takes.
    Needs(ProbeId),
    /// The kernel's clocks run on something else than the time stamp counter.
    Clocksource(String),
    /// kernel.perf_event_paranoid, under which perf events take CAP_SYS_ADMIN, which a service gives up.
    PerfEventParanoid(i32),
    /// The module of the processor's virtualization is not there.
    IsaUnknown,
    /// The configuration has it so.
    Configured,
    /// None of the files of an import has its evidence.
    NotInFiles,
    /// An error as it arose when the probe was attached, or the text of another version: it is shown, and never read.
    #[serde(untagged)]
    Text(String),
}

/// Parameters and return value of a function, as far as the programs read them (`u64`, `pointer`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Parameters, in order.
    pub takes: Vec<String>,
    /// Return value; `None`: not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns: Option<String>,
}

/// A field that the programs read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingField {
    /// Global of the BPF object that holds its offset.
    pub global: String,
    /// Name in the structure or tracepoint.
    pub name: String,
    /// Shapes in which the programs can read it (`u64`).
    pub shapes: Vec<String>,
}

/// Former versions have one text for all reasons.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ProbeReason>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Reasons {
        Many(Vec<ProbeReason>),
        One(String),
    }
    Ok(match Option::<Reasons>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Reasons::Many(reasons)) => reasons,
        Some(Reasons::One(text)) => alloc::vec![ProbeReason::Text(text)],
    })
}
