//! Fates of a tiny VMM: what it does with poisoned memory, or its guest with a machine check. One process each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::daemon_cli;

/// In the shared folder.
pub const SCENARIO_VMM_FILE: &str = "bin/scenario-vmm";

/// The fates of `scenario-vmm NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmFate {
    /// SIGBUS has its default action.
    NoHandler,
    /// Its handler ends it with status 149, as Firecracker's does.
    #[serde(rename = "exit-149")]
    Exit149,
    /// Another SIGBUS comes before the first was dealt with, and its handler raises it again, as QEMU's does.
    SecondSigbus,
    /// It touches poisoned memory that is not its guest's.
    OwnMemory,
    /// It does nothing about SIGBUS, and lets its guest run on.
    Swallow,
    /// It blocks SIGBUS: its vCPU never leaves the kernel.
    Blocked,
    /// The guest's handler touches another poisoned page (KVM_X86_SET_MCE with MCIP set).
    Nested,
    /// The guest runs with CR4.MCE = 0.
    MachineChecksOff,
    /// MCG_CTL is 0: KVM drops what KVM_X86_SET_MCE injects.
    Dropped,
    /// Two VMMs map the page that is lost.
    Shared,
    /// One process with two VMs: a page of one is lost, its guest accesses it before and after the other VM is destroyed.
    TwoVms,
    /// No poison: the file behind the guest's memory is truncated, and the VMM dies of BUS_ADRERR.
    Truncated,
    /// No poison: with a VM open, it sends itself the signals of poison.
    #[serde(rename = "forged-signals")]
    Forged,
    /// The same by a process that has no VM.
    #[serde(rename = "signals-without-vm")]
    ForgedWithoutVm,
    /// No poison: the page of the guest is marked by userfaultfd.
    #[serde(rename = "marked-guest-page")]
    Marked,
    /// No poison: with a VM open, it reads marked pages of its own.
    #[serde(rename = "marked-pages")]
    MarkedOwn,
}

/// Accesses of the guest of [`VmmFate::TwoVms`] to its poisoned page: each is swallowed.
pub const TWO_VMS_EXITS: u32 = 20;

impl VmmFate {
    /// Poison that only the VMM claims, as any user can.
    pub const CLAIMS: [Self; 4] = [Self::Forged, Self::ForgedWithoutVm, Self::Marked, Self::MarkedOwn];
    pub const ALL: [Self; 12] = [
        Self::NoHandler,
        Self::Exit149,
        Self::SecondSigbus,
        Self::OwnMemory,
        Self::Swallow,
        Self::Blocked,
        Self::Nested,
        Self::MachineChecksOff,
        Self::Dropped,
        Self::Shared,
        Self::TwoVms,
        Self::Truncated,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::NoHandler => "no-handler",
            Self::Exit149 => "exit-149",
            Self::SecondSigbus => "second-sigbus",
            Self::OwnMemory => "own-memory",
            Self::Swallow => "swallow",
            Self::Blocked => "blocked",
            Self::Nested => "nested",
            Self::MachineChecksOff => "machine-checks-off",
            Self::Dropped => "dropped",
            Self::Shared => "shared",
            Self::TwoVms => "two-vms",
            Self::Truncated => "truncated",
            Self::Forged => "forged-signals",
            Self::ForgedWithoutVm => "signals-without-vm",
            Self::Marked => "marked-guest-page",
            Self::MarkedOwn => "marked-pages",
        }
    }

    /// Options of its daemon: a process's own signals are seen where the functions that send the kernel's cannot be probed.
    pub fn daemon_options(self) -> Vec<String> {
        match self {
            Self::Forged | Self::ForgedWithoutVm => vec![daemon_cli::without("fentry,kprobe")],
            _ => Vec::new(),
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter().chain(Self::CLAIMS);
        all.find(|fate| fate.name() == name)
    }
}

impl fmt::Display for VmmFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
