//! What to do now, most urgent first, as types: the report crate words it.

use crate::hex::Hex;
use alloc::{string::String, vec::Vec};

/// One step for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    StartGuest {
        name: Option<String>,
    },
    /// The guest holds a poisoned page: migration fails or kills the VMM.
    DoNotMigrate,
    /// The vCPU cannot get past the page.
    ResetStuckGuest,
    /// MCA overflow recovery and SUCCOR for the guest's CPU model.
    AddOverflowRecovery,
    /// Every notice is fatal to the guest's CPU model.
    UseErrorRecovery,
    FindOtherPages,
    EnableMachineChecks,
    AvoidVmm,
    FindSimultaneousErrors,
    LeaveGuestAlone,
    FixMceControls,
    RestartPrivateGuest,
    KeepConsole,
    UpdateGuestKernel,
    KillVmm,
    LookElsewhere,
    /// Other guests used the same page: ids of their incidents.
    ExplainRelated {
        ids: Vec<String>,
        /// Incidents that are not named.
        more: u64,
    },
    FindDimm {
        pfn: Hex,
    },
    SearchKernelLog,
    /// The host has lost no memory.
    CheckClaim,
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
