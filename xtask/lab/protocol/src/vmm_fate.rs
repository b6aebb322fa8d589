//! Fates of a tiny VMM: what it does with lost memory, or its guest with a machine check. One process each.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// It touches lost memory that is not its guest's.
    OwnMemory,
    /// It does nothing about SIGBUS, and lets its guest run on.
    Swallow,
    /// It blocks SIGBUS: its vCPU never leaves the kernel.
    Blocked,
    /// The guest's handler touches another lost page (KVM_X86_SET_MCE with MCIP set).
    Nested,
    /// The guest runs with CR4.MCE = 0.
    MachineChecksOff,
    /// MCG_CTL is 0: KVM drops what KVM_X86_SET_MCE injects.
    Dropped,
    /// Two VMMs map the page that is lost.
    Shared,
    /// No poison: the file behind the guest's memory is truncated, and the VMM dies of BUS_ADRERR.
    Truncated,
}

impl VmmFate {
    pub const ALL: [Self; 11] = [
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
            Self::Truncated => "truncated",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fate| fate.name() == name)
    }
}

impl fmt::Display for VmmFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
