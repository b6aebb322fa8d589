//! What to do now, most urgent first, as types: the report crate words it.

use crate::hex::Hex;
use alloc::{string::String, vec::Vec};

/// One step for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// The guest or its VMM is down.
    StartGuest {
        /// Name of the VM.
        name: Option<String>,
    },
    /// The same of a guest that runs in a pod.
    StartGuestOfPod {
        /// Name of the VM.
        name: Option<String>,
        /// UID of the pod.
        pod_uid: String,
    },
    /// The guest holds a poisoned page: migration fails or kills the VMM.
    DoNotMigrate,
    /// The vCPU cannot get past the page.
    ResetStuckGuest,
    /// MCA overflow recovery and SUCCOR for the guest's CPU model.
    AddOverflowRecovery,
    /// Every notice is fatal to the guest's CPU model.
    UseErrorRecovery,
    /// Further pages of the guest may be poisoned.
    FindOtherPages,
    /// The guest's machine checks are off.
    EnableMachineChecks,
    /// This VMM has no handler.
    AvoidVmm,
    /// Two errors came at a time.
    FindSimultaneousErrors,
    /// The page is the VMM's own.
    LeaveGuestAlone,
    /// MCG_CAP or the bank controls drop errors.
    FixMceControls,
    /// Private memory is lost.
    RestartPrivateGuest,
    /// The guest's kernel consumed the error.
    KeepConsole,
    /// The guest flushes a poisoned page.
    UpdateGuestKernel,
    /// The vCPU spins on the page.
    KillVmm,
    /// The page is still in use: whoever accesses it next is killed, or the host panics.
    EvacuateHost,
    /// Poison is not the cause.
    LookElsewhere,
    /// Other guests used the same page: ids of their incidents.
    ExplainRelated {
        /// Ids of the first few.
        ids: Vec<String>,
        /// Incidents that are not named.
        more: u64,
    },
    /// The module of this page.
    FindDimm {
        /// Page frame of the host.
        pfn: Hex,
    },
    /// The hardware named the DIMM.
    ReplaceDimm {
        /// The DIMM, as the machine labels it.
        label: String,
    },
    /// No page frame is known.
    SearchKernelLog,
    /// The host has lost no memory.
    CheckClaim,
    /// The host is down with all its guests.
    RestartGuestsElsewhere,
    /// The host's kernel consumed the error.
    KeepHostDump,
    /// The host died of its processor or board, not of memory.
    ExamineProcessor,
    /// A kernel's panic, the host's or a guest's.
    FindKernel,
    /// The guest runs on a platform of others: what is to be done on its host is theirs.
    AskPlatform {
        /// The platform, as the guest's kernel names it.
        name: String,
    },
    /// A SIGBUS whose reason is not known ended the VMM.
    FindSigbusReason,
    /// The VMM goes on with a poisoned page of its own.
    ReplaceVmm,
    /// Windows stopped on a hardware error.
    KeepMinidump,
    /// A forecast: the host panics for each error (vm.memory_failure_recovery = 0).
    EnableRecovery,
    /// A forecast: the early notice kills a VMM that has no handler (vm.memory_failure_early_kill = 1).
    DisableEarlyKill,
    /// A forecast: KVM on AMD hides MCG_SER_P from a guest with Intel's CPU model.
    UseHostVendor,
    /// A forecast: this QEMU injects Intel's machine checks into an AMD guest.
    UpdateQemu,
    /// A forecast: a whole huge page is lost at once.
    AvoidHugePages,
    /// A forecast: a transparent huge page that VFIO has pinned cannot be split.
    AvoidPinnedThp,
    /// A forecast: the host's processor cannot recover from an error that is consumed.
    UseRecoveringHost,
    /// A forecast: an error lies in a bank of the vCPU, or its machine check has not ended.
    RestartBeforeError,
}

impl NextStep {
    /// Whether it is a setting of the host, or of the guest's definition, that anybody can change.
    pub const fn is_setting(&self) -> bool {
        matches!(
            self,
            Self::EnableRecovery
                | Self::DisableEarlyKill
                | Self::UseHostVendor
                | Self::UseErrorRecovery
                | Self::AddOverflowRecovery
                | Self::EnableMachineChecks
                | Self::AvoidHugePages
                | Self::AvoidPinnedThp
        )
    }
}

/// The incidents of other VMs that held the same page of the host.
#[derive(Clone, Debug, Default)]
pub struct Related {
    /// Ids of the first few.
    pub named: Vec<String>,
    /// All of them.
    pub total: u64,
}

impl Related {
    /// The number of all, where more than those that are named.
    pub fn total_beyond_named(&self) -> Option<u64> {
        (self.total > self.named.len() as u64).then_some(self.total)
    }
}
