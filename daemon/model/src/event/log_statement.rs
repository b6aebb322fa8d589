//! Statements of logs: host kernel, VMM, QMP, guest console. Reports by others, not observations of the probes.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

use super::SigbusSeverity;
use crate::{hex::Hex, incident::mca};

/// One statement: its place, its speaker, its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The file, as the answer names it.
    pub source: String,
    /// Line of the file, from 1; 0 where the source has none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub line: u64,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub speaker: Speaker,
    /// Which of the VMs that were distinguished it is about, from 1; 0: of none that is known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vm: u32,
    /// By which key its speaker was joined to that VM's others; `None` for the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<JoinKey>,
    /// Page of the host whose signal to this VMM stands before it in the same file, where it answers that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Hex>,
    /// The line, as it can be shown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Its time on its own clock, where that clock could not be aligned and the event's `t` is only its order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_clock: Option<String>,
    /// Its times by the clocks of the sources, each under its number: those of one clock can be compared, aligned or not.
    #[serde(skip)]
    pub times: Vec<(u32, u64)>,
    /// Its content.
    pub statement: LogStatement,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Who makes a statement, and the names by which one of another source can be joined to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Speaker {
    /// Whose message it is.
    pub role: Role,
    /// Host that logged it (`_HOSTNAME`, the syslog header).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Boot of that host: `_BOOT_ID`, or which boot within the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// Syslog tag, container or prefix of a relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Process that wrote or relayed the line (`_PID`, `tag[pid]`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `_SYSTEMD_UNIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// libvirt domain, or the VM's name by another manager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// What two speakers have in common that makes them speak of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "key", content = "value", rename_all = "snake_case")]
pub enum JoinKey {
    /// Process number.
    Pid(u32),
    /// Process number in two files, of which nothing shows that they are of one host.
    BarePid(u32),
    /// Unit of systemd.
    Unit(String),
    /// Tag of syslog.
    Tag(String),
    /// Domain of libvirt.
    Domain(String),
    /// UUID of the VM.
    Uuid(String),
    /// Address in the VMM.
    Hva(Hex),
    /// Page frame of the host.
    Pfn(Hex),
    /// Guest page address.
    Gpa(Hex),
    /// No key: wall clocks that agree, and nothing else at that time.
    Clock,
}

impl JoinKey {
    /// Whether it names the VM or the page, so that what rests on it can be certain.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Clock | Self::BarePid(_))
    }
}

/// Whose words a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The host's kernel.
    HostKernel,
    /// A kernel; nothing shows whether it is the host's or a guest's.
    Kernel,
    /// The VMM.
    Vmm,
    /// libvirt.
    Libvirt,
    /// QEMU's QMP.
    Qmp,
    /// The kernel of a guest, behind the speaker's tag, pid or unit.
    GuestKernel,
    /// systemd, auditd, rasdaemon, ps and the like.
    Tool,
    /// Not known.
    #[default]
    Unknown,
}

/// The statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStatement {
    /// The host's kernel: SIGBUS (or, long ago, "Killing") for this page to this process.
    HostSignal {
        /// Page frame of the host.
        pfn: Hex,
        /// Name of the thread, as the kernel has it (15 bytes at most).
        comm: String,
        /// The process.
        pid: u32,
    },
    /// The host's kernel: what it did about the page.
    HostAction {
        /// Page frame of the host.
        pfn: Hex,
        /// Type of the page, in the kernel's terms (`mm/memory-failure.c`).
        page_type: String,
        /// Result of the recovery, in the kernel's terms.
        result: String,
    },
    /// The host's kernel: SIGKILL, because the page could not be unmapped.
    HostKilled {
        /// Page frame of the host.
        pfn: Hex,
        /// Name of the thread, as the kernel has it (15 bytes at most).
        comm: String,
        /// The process.
        pid: u32,
    },
    /// The audit subsystem or systemd: how a process ended.
    ProcessEnded {
        /// Command or unit.
        who: String,
        /// The process.
        pid: Option<u32>,
        /// How it ended.
        how: Ended,
        /// A VMM, and nothing else in the files is of any VM: its end is an incident by itself.
        #[serde(default, skip_serializing_if = "is_default")]
        lone: bool,
    },
    /// The host's kernel: a process touched poisoned memory by itself.
    OwnAccess {
        /// Name of the thread, as the kernel has it (15 bytes at most).
        comm: String,
        /// Process on the host that accessed the page.
        pid: u32,
        /// Virtual address in that process.
        hva: Hex,
    },
    /// The VMM: it injected the error into its guest.
    #[serde(alias = "vmm_told")]
    VmmInjected {
        /// Address in the VMM.
        hva: Option<Hex>,
        /// Guest page address.
        gpa: Option<Hex>,
        /// Action required or optional.
        severity: Option<SigbusSeverity>,
        /// Bytes of the lost large page ("on lost large page SIZE@ADDRESS").
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    },
    /// QEMU: poisoned memory that is not its guest's; it ends itself where `fatal`.
    VmmOwnMemory {
        /// The VMM ends.
        fatal: bool,
        /// Address in the VMM.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hva: Option<Hex>,
    },
    /// QEMU: it resets its guest, because a #MC met one in progress, or machine checks turned off.
    VmmReset {
        /// Because a machine check was in progress.
        recursive: bool,
    },
    /// QEMU: KVM_RUN failed with -EHWPOISON.
    RunFailed,
    /// Firecracker: it ends because of SIGBUS.
    VmmSigbus {
        /// `si_code`, if the VMM logs it.
        code: Option<i32>,
    },
    /// libvirt, or a VMM's command line: who the VM is.
    VmName {
        /// Name of the VM.
        name: Option<String>,
        /// UUID of the VM.
        uuid: Option<String>,
        /// Executable of the VMM.
        vmm: Option<String>,
        /// Of a line of `ps` or the like.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    },
    /// libvirt: a domain is started; what follows in its log is of another process.
    VmStarted {
        /// Name of the host.
        #[serde(default)]
        host: Option<String>,
        /// Name of the domain, where an event names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// libvirt: the domain is gone, and why.
    VmShutdown {
        /// libvirt's reason.
        reason: String,
    },
    /// The guest's kernel: a machine check, as far as its lines show it.
    GuestMce(MceReport),
    /// The guest's kernel: panic.
    GuestPanic {
        /// The message.
        text: String,
    },
    /// The host's kernel: a machine check of a physical processor.
    HostMce(MceReport),
    /// The host's kernel: panic. `physical`: its log shows that it ran on a physical machine.
    HostPanic {
        /// The message.
        text: String,
        /// The log shows a physical machine.
        physical: bool,
    },
    /// A kernel: panic of a machine check; nothing shows whether the host's or a guest's.
    KernelPanic {
        /// The message.
        text: String,
    },
    /// A kernel: software poisons this page (madvise, debugfs), so that no memory module is at fault.
    SoftwarePoison {
        /// Page frame of that kernel.
        pfn: Hex,
        /// A guest's kernel.
        #[serde(default, skip_serializing_if = "is_default")]
        guest: bool,
    },
    /// A kernel: its own software injects a machine check (mce-inject); no memory is lost.
    SoftwareMachineCheck {
        /// Number of the processor.
        cpu: u32,
    },
    /// A kernel's word on the machine that it runs on.
    Machine {
        /// Its content.
        about: Machine,
    },
    /// A kernel: the process on the processor that panicked.
    OnCpu {
        /// Name of the thread, as the kernel has it (15 bytes at most).
        comm: String,
        /// Its process number in the kernel that logged it (the host's or the guest's).
        pid: u32,
    },
    /// EDAC, APEI or a decoder of machine checks: an error of a DIMM.
    MemoryError {
        /// Page frame of the host.
        pfn: Option<Hex>,
        /// The DIMM as the machine labels it.
        dimm: Option<String>,
        /// The error was corrected.
        corrected: bool,
        /// How many errors it stands for.
        count: Option<u64>,
    },
    /// QEMU's monitor (`gpa2hpa`, `gpa2hva`) or a tool: one page's addresses.
    AddressMap {
        /// Guest page address.
        gpa: Option<Hex>,
        /// Address in the VMM.
        hva: Option<Hex>,
        /// Page frame of the host.
        pfn: Option<Hex>,
        /// The process.
        pid: Option<u32>,
    },
    /// QEMU: it does not migrate a guest with poisoned memory.
    MigrationRefused,
    /// A Windows guest's bug check, by the panic device of Hyper-V.
    BugCheck {
        /// Name of the libvirt domain.
        domain: Option<String>,
        /// Code and parameters.
        args: Vec<Hex>,
    },
    /// A known line that is no evidence.
    Other,
    /// The guest's kernel: its own memory_failure() signalled a process.
    GuestSignal {
        /// Page frame of the guest.
        pfn: Hex,
        /// Name of the process of the guest.
        comm: String,
        /// Its number in the guest.
        pid: u32,
    },
    /// The guest's kernel: what its own memory_failure() did.
    GuestAction {
        /// Page frame of the guest.
        pfn: Hex,
        /// Type of the page, in the kernel's terms (`mm/memory-failure.c`).
        page_type: String,
        /// Result of the recovery, in the kernel's terms.
        result: String,
    },
    /// QMP MEMORY_FAILURE.
    QmpMemoryFailure {
        /// Name of the libvirt domain.
        domain: Option<String>,
        /// `guest` or `hypervisor`.
        recipient: String,
        /// `ignore`, `inject`, `fatal` or `reset`.
        action: String,
        /// Action required (AR).
        action_required: bool,
        /// Because a machine check was in progress.
        recursive: bool,
    },
    /// QMP GUEST_PANICKED or GUEST_CRASHLOADED.
    QmpPanicked {
        /// Name of the libvirt domain.
        domain: Option<String>,
    },
    /// QMP RESET.
    QmpReset {
        /// Name of the libvirt domain.
        domain: Option<String>,
        /// On the guest's own request.
        guest: bool,
    },
    /// QMP SHUTDOWN.
    QmpShutdown {
        /// Name of the libvirt domain.
        domain: Option<String>,
        /// On the guest's own request.
        guest: bool,
        /// QEMU's reason.
        reason: Option<String>,
    },
}

impl LogStatement {
    /// The libvirt domain that an event names.
    pub fn domain(&self) -> Option<&str> {
        match self {
            Self::QmpMemoryFailure { domain, .. }
            | Self::QmpPanicked { domain }
            | Self::BugCheck { domain, .. }
            | Self::QmpReset { domain, .. }
            | Self::QmpShutdown { domain, .. }
            | Self::VmStarted { domain, .. } => domain.as_deref(),
            _ => None,
        }
    }
}

/// The machine that a kernel runs on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Machine {
    /// `Linux version …`: a boot begins.
    Boot(String),
    /// `DMI: …`, `Hardware name: …`.
    Dmi(String),
    /// `Hypervisor detected: …`, paravirtualization: the kernel of a guest.
    Hypervisor(String),
    /// `kvm_intel: …`, `kvm: VMX supported`: it can run guests.
    KvmHost,
    /// A driver of a physical memory controller.
    Edac,
}

impl Machine {
    /// Whether it shows that the kernel is a guest's (`Some(false)`: a physical machine's).
    pub fn is_guest(&self) -> Option<bool> {
        match self {
            Self::Boot(_) | Self::KvmHost => None,
            Self::Hypervisor(_) => Some(true),
            Self::Edac => Some(false),
            Self::Dmi(text) => Some(is_virtual(text)),
        }
    }
}

/// Whether DMI's text is that of a virtual machine.
fn is_virtual(dmi: &str) -> bool {
    const HYPERVISORS: [&str; 32] = [
        // QEMU's device tree for ARM and RISC-V (hw/arm/virt.c: "linux,dummy-virt").
        "dummy-virt",
        "qemu",
        "bochs",
        "kvm",
        "kubevirt",
        "standard pc",
        "google compute engine",
        "virtual",
        "vmware",
        "xen",
        "innotek",
        "parallels",
        "openstack",
        "ovirt",
        "rhev",
        "rhel-av",
        "nutanix ahv",
        "alibaba cloud ecs",
        "tencent cloud",
        "digitalocean",
        "hetzner",
        "linode",
        "cloud hypervisor",
        "cloud-hypervisor",
        "firecracker",
        "bhyve",
        "crosvm",
        "scaleway",
        "upcloud",
        "vultr",
        "amazon ec2",
        "smartdc hvm",
    ];
    let dmi = dmi.to_lowercase();
    let dmi = dmi.split(", bios").next().unwrap_or_default();
    // Bare-metal instances carry the cloud's name too.
    !dmi.contains(".metal") && HYPERVISORS.iter().any(|name| dmi.contains(name))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By this signal.
    Signal(u32),
    /// With this status.
    Exit(u32),
    /// The kernel killed it for lack of memory.
    OutOfMemory,
}

impl MceReport {
    /// As QEMU injects a memory error: bank 9, and MISC with the page's granularity.
    pub fn by_qemu(&self) -> bool {
        const BANK: u32 = 9;
        const MISC: u64 = 0x8c;
        self.bank == Some(BANK) && self.misc.is_none_or(|misc| misc.0 == MISC)
    }

    /// Whether the kernel found it in a bank, by polling or when it booted: it is of an earlier time, and no panic is its.
    pub fn is_polled(&self) -> bool {
        !self.by_software && !self.exception && self.mcg_status.is_some_and(|mcg| mcg.0 & mca::MCIP == 0)
    }

    /// Whether a memory controller reports the error: by its code, or AMD's unified memory controller (hardware id 0x96 in
    /// MCA_IPID; `smca_hwid_mcatypes`, arch/x86/kernel/cpu/mce/amd.c).
    pub fn of_memory(&self) -> bool {
        let umc = |ipid: Hex| ipid.0 >> 32 & 0xfff == 0x96;
        self.ipid.is_some_and(umc)
            || self
                .status
                .is_some_and(|status| mca::of_memory_controller(status.0))
    }

    /// What only a physical processor reports.
    pub fn by_hardware(&self) -> bool {
        // Real inventory numbers fill 64 bits.
        const SMALLEST_PPIN: u64 = 1 << 32;
        self.ppin.is_some_and(|ppin| ppin.0 >= SMALLEST_PPIN) || self.ipid.is_some_and(|ipid| ipid.0 != 0)
    }

    /// Hyper-V shows its guests no microcode revision.
    pub fn by_hyper_v(&self) -> bool {
        self.microcode.is_some_and(|revision| revision.0 == 0xffff_ffff)
    }

    /// What a bank of AMD's scalable MCA reports has an address of memory where poison was consumed, or a memory controller speaks
    /// (`amd_mce_usable_address()`, arch/x86/kernel/cpu/mce/amd.c); else it may be an instruction's or none.
    fn amd_names_data(&self) -> bool {
        const MEMORY_CONTROLLER: u64 = 0x96;
        let Some(ipid) = self.ipid.filter(|ipid| ipid.0 != 0) else {
            return true;
        };
        let poison = self.status.is_some_and(|status| status.0 & mca::POISON != 0);
        poison || ipid.0 >> 32 & 0xfff == MEMORY_CONTROLLER
    }

    /// First byte of the page, where the address is a physical one: MCi_MISC may name another kind (bits 8:6, address
    /// mode; SDM volume 3, IA32_MCi_MISC), and no processor has more than 52 bits of physical address.
    pub fn page(&self) -> Option<u64> {
        const SEGMENT_OFFSET: u64 = 0;
        const LINEAR: u64 = 1;
        let status = self.status.map_or(0, |status| status.0);
        // AMD's MISC is a counter, with its highest bits set.
        let of_intel = |misc: &u64| *misc < 0x1000 && (*misc != 0 || status & mca::MISCV != 0);
        let misc = self.misc.map(|misc| misc.0).filter(of_intel);
        let physical = misc.is_none_or(|misc| !matches!(misc >> 6 & 7, SEGMENT_OFFSET | LINEAR));
        // An internal timer error has the instruction's address.
        let of_data = status & 0xffff != mca::INTERNAL_TIMER;
        let addr = self
            .addr
            .filter(|addr| physical && of_data && self.amd_names_data() && addr.0 >> 52 == 0)?;
        Some(addr.0 & !0xfff)
    }
}

/// A machine check as a kernel printed it, gathered from its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MceReport {
    /// Number of the processor.
    pub cpu: Option<u32>,
    /// MCG_STATUS.
    pub mcg_status: Option<Hex>,
    /// Number of the bank.
    pub bank: Option<u32>,
    /// MCi_STATUS.
    pub status: Option<Hex>,
    /// MCi_ADDR.
    pub addr: Option<Hex>,
    /// MCi_MISC.
    pub misc: Option<Hex>,
    /// Its kernel's lines show a physical machine, too: whether it was injected is not certain.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub doubtful: bool,
    /// Protected processor inventory number: no VMM gives a guest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppin: Option<Hex>,
    /// Identity of a bank of AMD's scalable MCA, which guests do not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipid: Option<Hex>,
    /// Number of the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<u32>,
    /// APIC id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apic: Option<Hex>,
    /// Revision of the microcode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microcode: Option<Hex>,
    /// The kernel logs that a process accessed the page ("in user-access").
    #[serde(default, skip_serializing_if = "is_default")]
    pub user_access: bool,
    /// Software of its own kernel injected it (mce-inject).
    #[serde(default, skip_serializing_if = "is_default")]
    pub by_software: bool,
    /// Its kernel logs nothing behind it, and its next boot follows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_words: bool,
    /// Printed for an exception ("Machine Check Exception"), not for a polled bank.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exception: bool,
    /// When the kernel took it, seconds since 1970 by its own clock ("TIME").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// Code segment selector: its low bits are the privilege.
    pub cs: Option<u32>,
    /// RIP that the kernel printed: the host's or the guest's, by the speaker.
    pub rip: Option<Hex>,
    /// Function of the RIP, as the kernel printed it.
    pub symbol: Option<String>,
    /// The kernel's reason ("Machine check: …").
    pub reason: Option<String>,
}
