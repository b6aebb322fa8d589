//! What a statement of a log names (process, page), and what its kind is to an incident.

use super::by_page::Addresses;
use crate::{
    event::log_statement::LogStatement,
    hex::Hex,
    incident::{evidence::Evidence, limits::PAGE_SIZE},
};

/// What a statement knows of its page.
#[derive(Clone, Copy, Default)]
pub(super) struct Names {
    pub pid: Option<u32>,
    pub pfn: Option<u64>,
    pub hva: Option<u64>,
    pub gpa: Option<u64>,
}

impl Names {
    /// Of a statement.
    pub fn of(statement: &LogStatement) -> Self {
        let hex = |value: &Option<Hex>| value.map(|value| value.0);
        match statement {
            LogStatement::HostSignal { pfn, pid, .. } | LogStatement::HostKilled { pfn, pid, .. } => Self {
                pid: Some(*pid),
                pfn: Some(pfn.0),
                ..Self::default()
            },
            LogStatement::HostAction { pfn, .. }
            | LogStatement::MemoryError { pfn: Some(pfn), .. }
            | LogStatement::SoftwarePoison { pfn, guest: false } => Self {
                pfn: Some(pfn.0),
                ..Self::default()
            },
            LogStatement::ProcessEnded { pid, .. } => Self {
                pid: *pid,
                ..Self::default()
            },
            LogStatement::OwnAccess { pid, hva, .. } => Self {
                pid: Some(*pid),
                hva: Some(hva.0),
                ..Self::default()
            },
            LogStatement::VmmInjected { hva, gpa, .. } => Self {
                hva: hex(hva),
                gpa: hex(gpa),
                ..Self::default()
            },
            LogStatement::HostMce(mce) => Self {
                pfn: mce.page().map(|page| page / PAGE_SIZE),
                ..Self::default()
            },
            LogStatement::AddressMap { gpa, hva, pfn, pid } => Self {
                pid: *pid,
                pfn: hex(pfn),
                hva: hex(hva),
                gpa: hex(gpa),
            },
            LogStatement::GuestMce(mce) => Self {
                gpa: mce.page().and(mce.addr).map(|addr| addr.0),
                ..Self::default()
            },
            LogStatement::VmmOwnMemory { hva, .. } => Self {
                hva: hex(hva),
                ..Self::default()
            },
            LogStatement::GuestSignal { pfn, .. }
            | LogStatement::GuestAction { pfn, .. }
            | LogStatement::SoftwarePoison { pfn, guest: true } => Self {
                gpa: pfn.0.checked_mul(PAGE_SIZE),
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    pub fn addresses(&self) -> Addresses {
        [self.pfn, self.hva, self.gpa]
    }

    pub fn has_page(&self) -> bool {
        self.pfn.is_some() || self.hva.is_some() || self.gpa.is_some()
    }

    /// Whether an incident is of the page that is named; `None`: it is not known by an address of that kind.
    pub fn is_of(&self, e: &Evidence) -> Option<bool> {
        let size = e.size().unwrap_or(PAGE_SIZE);
        let page = |at: u64| at & !(PAGE_SIZE - 1);
        let by_pfn = self.pfn.zip(e.pfn).map(|(pfn, known)| pfn == known);
        let by_hva = self
            .hva
            .zip(e.hva)
            .map(|(hva, known)| hva.wrapping_sub(known) < size);
        let by_gpa = self
            .gpa
            .zip(e.gpa)
            .map(|(gpa, known)| (known ^ page(gpa)) < size || e.gpas.contains(&page(gpa)));
        by_pfn.or(by_hva).or(by_gpa)
    }
}

/// The host's kernel signals before its guest or VMM can answer.
pub(super) const fn is_cause(statement: &LogStatement) -> bool {
    matches!(
        statement,
        LogStatement::HostSignal { .. } | LogStatement::HostKilled { .. }
    )
}

/// What comes of a signal: by the VMM, the guest or their end.
pub(super) const fn is_effect(statement: &LogStatement) -> bool {
    matches!(
        statement,
        LogStatement::VmmInjected { .. }
            | LogStatement::QmpMemoryFailure { .. }
            | LogStatement::QmpPanicked { .. }
            | LogStatement::QmpReset { .. }
            | LogStatement::GuestMce(_)
            | LogStatement::GuestPanic { .. }
            | LogStatement::GuestSignal { .. }
            | LogStatement::GuestAction { .. }
            | LogStatement::BugCheck { .. }
            | LogStatement::VmmSigbus { .. }
            | LogStatement::ProcessEnded { .. }
    )
}

/// Statements that are events of an incident, not facts about its VM or machine.
pub(super) const fn in_timeline(statement: &LogStatement) -> bool {
    !matches!(
        statement,
        LogStatement::VmName { .. }
            | LogStatement::Machine { .. }
            | LogStatement::OnCpu { .. }
            | LogStatement::VmStarted { .. }
            | LogStatement::SoftwareMachineCheck { .. }
            | LogStatement::Other
            | LogStatement::MemoryError { .. }
            | LogStatement::AddressMap { .. }
    )
}
