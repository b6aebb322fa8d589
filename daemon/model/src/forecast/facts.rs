//! What a forecast is made of. Each fact is known, or not, with the reason.

use alloc::{string::String, vec::Vec};

use super::terms::{Reason, Sigbus, VmmKind};
use crate::event::McVendor;

/// A fact, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// The fact.
    Is(T),
    /// Why it is not known.
    Not(Reason),
}

impl<T> Known<T> {
    /// The fact, if it is known.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Is(fact) => Some(fact),
            Self::Not(_) => None,
        }
    }

    /// Whether it is known and so.
    pub fn is(&self, f: impl FnOnce(&T) -> bool) -> bool {
        self.known().is_some_and(f)
    }
}

/// Facts of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// vm.memory_failure_early_kill: each process that has mapped the page is signalled at once.
    pub early_kill: Known<bool>,
    /// vm.memory_failure_recovery; off: the kernel panics for each error.
    pub recovery: Known<bool>,
    /// vm.panic_on_unrecoverable_memory_failure (Linux 7.3).
    pub panic_on_unrecoverable: Known<bool>,
    /// Memory controllers that have an EDAC driver.
    pub edac_controllers: Known<u32>,
    /// The firmware looks at errors first (ACPI HEST).
    pub firmware_first: Known<bool>,
    /// The processor's vendor.
    pub vendor: Known<McVendor>,
    /// The processor and its kernel can recover from an error that is consumed: MCG_SER_P (Intel), SUCCOR (AMD).
    pub recovers: Known<bool>,
    /// KVM runs its guests by AMD's SVM.
    pub svm: Known<bool>,
    /// HardwareCorrupted, bytes: poison that is there already.
    pub hardware_corrupted: Known<u64>,
}

/// What is behind a VM's memory, bytes as the kernel counts what is present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    /// In pages of 4 KiB or in transparent huge pages.
    pub small: u64,
    /// Of these in transparent huge pages.
    pub transparent: Option<u64>,
    /// In pages of hugetlbfs.
    pub hugetlb: u64,
    /// Size of most of these, bytes.
    pub hugetlb_page: Option<u64>,
    /// In files of a DAX device.
    pub dax: bool,
    /// It has guest_memfd: private memory.
    pub guest_memfd: bool,
    /// VFIO devices are open: guest memory is pinned.
    pub vfio: bool,
    /// Processes of other VMs that have mapped a file of the memory.
    pub shared_with: Vec<u32>,
}

impl Backing {
    /// Whether an error takes a huge page of hugetlbfs; `None`: there is memory of both kinds.
    pub const fn in_hugetlb(&self) -> Option<bool> {
        // A VMM's own memory beside the guest's.
        const OWN: u64 = 64 << 20;
        match (self.hugetlb > 0, self.small > self.hugetlb / 8 + OWN) {
            (false, _) => Some(false),
            (true, false) => Some(true),
            (true, true) => None,
        }
    }

    /// Whether it is a transparent huge page; `None`: there are both, or it is not known.
    pub fn in_transparent(&self) -> Option<bool> {
        match self.transparent? {
            0 => Some(false),
            bytes if bytes >= self.small - self.small / 8 => Some(true),
            _ => None,
        }
    }
}

/// Facts of a vCPU, read in the kernel; `None`: this kernel's layout does not show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuFacts {
    /// Its number.
    pub id: u32,
    /// MCG_CAP as the guest sees it.
    pub mcg_cap: Option<u64>,
    /// MCG_STATUS.
    pub mcg_status: Option<u64>,
    /// MCG_CTL.
    pub mcg_ctl: Option<u64>,
    /// CR4 as KVM keeps it.
    pub cr4: Option<u64>,
    /// Its banks were read.
    pub banks_read: bool,
    /// Banks that hold a valid error: number and STATUS.
    pub held: Vec<(u8, u64)>,
    /// Vendor by CPUID.
    pub vendor: Option<McVendor>,
    /// CPUID 0x80000007 EBX, 0 where the guest has no such leaf.
    pub ras: Option<u32>,
}

/// Facts of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFacts {
    /// The VMM's process.
    pub pid: u32,
    /// Name of the VM.
    pub name: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// The VMM's program.
    pub vmm: Option<String>,
    /// How this program handles SIGBUS, by its name.
    pub kind: VmmKind,
    /// QEMU's version, major and minor.
    pub qemu: Known<(u32, u32)>,
    /// SIGBUS in the VMM.
    pub sigbus: Known<Sigbus>,
    /// Its memory.
    pub backing: Known<Backing>,
    /// Number of its vCPUs.
    pub vcpu_count: Known<u32>,
    /// The guest's kernel was started with machine checks off; `None`: its command line is not the VMM's.
    pub mce_off: Option<bool>,
    /// Its vCPUs.
    pub vcpus: Known<Vec<VcpuFacts>>,
}
