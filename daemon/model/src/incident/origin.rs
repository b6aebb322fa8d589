//! Where an error came from: the flags of `memory_failure()`, the bank that reported it, and what ran then.
//!
//! | origin | must see |
//! |---|---|
//! | `software_injection` | MF_SW_SIMULATED: debugfs, madvise |
//! | `firmware` | the kernel's record of a firmware error (APEI), or the firmware's extended log |
//! | `consumed_by_guest` | a #MC exit, KVM's own record of a guest's #MC, or MF_ACTION_REQUIRED on a thread with a vCPU loaded |
//! | `consumed_by_host` | MF_ACTION_REQUIRED on a thread without one, or a bank whose context is the kernel's or a process's |
//! | `found_by_scrubbing` | a bank of an error that nothing consumed: deferred (AMD), UCNA or SRAO (Intel) |
//!
//! EINJ looks like hardware: it is.

use alloc::{borrow::ToOwned, string::String};

use serde::{Deserialize, Serialize};

use super::{
    mca,
    model::{Dimm, Origin, OriginBasis, OriginKind, OriginMachineCheck},
};
use crate::{
    event::{HostMce, McContext},
    hex::Hex,
};

/// Flags of `memory_failure()` (include/linux/mm.h).
const MF_ACTION_REQUIRED: u64 = 1 << 1;
const MF_SW_SIMULATED: u64 = 1 << 5;

/// What was seen of the error itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HardwareEvidence {
    /// Flags of the first `memory_failure()` of the page.
    #[serde(default)]
    pub flags: Option<u64>,
    /// Whether the thread that it worked for had a vCPU loaded.
    #[serde(default)]
    pub in_kvm_run: Option<bool>,
    /// The guest was left by #MC for this page.
    #[serde(default)]
    pub consumed: Option<Consumed>,
    /// The bank that reported it.
    #[serde(default)]
    pub mce: Option<HostMce>,
    /// The memory module that EDAC named.
    #[serde(default)]
    pub label: Option<String>,
    /// The firmware's log reported it.
    #[serde(default)]
    pub firmware: bool,
}

/// The guest's own access met the error while it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumed {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub t: u64,
    /// The vCPU's thread.
    pub tid: u32,
    /// The vCPU, where it is known.
    pub vcpu: Option<u32>,
    /// Where the guest was interrupted.
    pub rip: Option<u64>,
    /// The #MC exit itself was seen; else the flags of `memory_failure()` on the vCPU's thread show it.
    pub exit_seen: bool,
}

impl HardwareEvidence {
    /// Whether the host's memory failed by the access of this thread.
    pub fn action_required(&self) -> bool {
        self.flags.is_some_and(|flags| flags & MF_ACTION_REQUIRED != 0)
    }

    /// Adds what is known of another incident of the same page.
    pub fn absorb(&mut self, other: Self) {
        if self.flags.is_none() {
            self.flags = other.flags;
            self.in_kvm_run = other.in_kvm_run;
        }
        self.consumed = self.consumed.or(other.consumed);
        self.mce = self.mce.or(other.mce);
        self.label = self.label.take().or(other.label);
        self.firmware |= other.firmware;
    }

    /// See the module.
    pub fn origin(&self) -> Origin {
        let (how, basis) = self.how();
        let shown = self
            .mce
            .filter(|mce| mce.bank.is_some() && how != OriginKind::SoftwareInjection);
        Origin {
            how,
            basis,
            machine_check: shown.map(|mce| OriginMachineCheck {
                cpu: mce.cpu,
                bank: mce.bank,
                status: Some(mce.status),
                addr: (mce.status.0 & mca::ADDRV != 0).then_some(mce.addr),
                misc: (mce.status.0 & mca::MISCV != 0).then_some(mce.misc),
                mcacod: Some(Hex(mce.status.0 & 0xffff)),
            }),
            dimm: self.label.clone().map(|label| Dimm { label }),
            by: by(basis, self).map(ToOwned::to_owned),
        }
    }

    fn how(&self) -> (OriginKind, OriginBasis) {
        let flags = self.flags.unwrap_or(0);
        if flags & MF_SW_SIMULATED != 0 {
            return (OriginKind::SoftwareInjection, OriginBasis::FailureFlags);
        }
        if self.firmware || self.mce.is_some_and(|mce| mce.bank.is_none()) {
            return (OriginKind::Firmware, OriginBasis::MachineCheck);
        }
        let of_guest = self.mce.is_some_and(|mce| mce.context == McContext::Guest);
        if of_guest || self.consumed.is_some_and(|consumed| consumed.exit_seen) {
            return (OriginKind::ConsumedByGuest, OriginBasis::MachineCheck);
        }
        // kill_me_maybe() is the one caller with this flag: the access was the thread's own. KVM hands a guest's #MC in
        // as one of user mode, on the vCPU's thread.
        match (self.action_required(), self.in_kvm_run) {
            (true, Some(true)) => return (OriginKind::ConsumedByGuest, OriginBasis::FailureFlags),
            (true, Some(false)) => return (OriginKind::ConsumedByHost, OriginBasis::FailureFlags),
            _ => {}
        }
        match self.mce {
            Some(mce) if mca::consumed(mce.vendor, mce.status.0) => match mce.context {
                McContext::User | McContext::Kernel => {
                    (OriginKind::ConsumedByHost, OriginBasis::MachineCheck)
                }
                McContext::Guest | McContext::None => (OriginKind::Unknown, OriginBasis::MachineCheck),
            },
            Some(_) => (OriginKind::FoundByScrubbing, OriginBasis::MachineCheck),
            None => (OriginKind::Unknown, OriginBasis::None),
        }
    }
}

/// The kernel's part that reported it.
fn by(basis: OriginBasis, e: &HardwareEvidence) -> Option<&'static str> {
    match basis {
        OriginBasis::FailureFlags => Some("memory_failure"),
        OriginBasis::MachineCheck if e.mce.is_some() => Some("mce_record"),
        OriginBasis::MachineCheck if e.firmware => Some("extlog_mem_event"),
        OriginBasis::MachineCheck => Some("kvm_exit"),
        OriginBasis::Log | OriginBasis::NoMemoryFailure | OriginBasis::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::McVendor;

    const DEFERRED: u64 = 0x9c00_1800_0000_0000;
    /// SRAR, data load (Intel SDM volume 3, "Architecturally Defined SRAR Errors").
    const DATA_LOAD: u64 = 0xbd80_0000_0000_0134;

    fn mce(status: u64, context: McContext) -> HostMce {
        HostMce {
            cpu: Some(0),
            bank: Some(1),
            status: Hex(status),
            addr: Hex(0x10_9d30_0000),
            misc: Hex(0x8c),
            mcg_status: Hex(0),
            context,
            vendor: if status == DEFERRED {
                McVendor::Amd
            } else {
                McVendor::Intel
            },
        }
    }

    fn how(e: &HardwareEvidence) -> &'static str {
        e.origin().how.word()
    }

    #[test]
    fn a_deferred_error_was_found_and_not_consumed() {
        let e = HardwareEvidence {
            flags: Some(0),
            mce: Some(mce(DEFERRED, McContext::None)),
            ..HardwareEvidence::default()
        };
        assert_eq!(how(&e), "found_by_scrubbing");
        let shown = e.origin().machine_check.unwrap();
        assert_eq!((shown.bank, shown.addr), (Some(1), Some(Hex(0x10_9d30_0000))));
    }

    #[test]
    fn an_error_is_consumed_by_whom_it_interrupted() {
        let of = |context| HardwareEvidence {
            mce: Some(mce(DATA_LOAD, context)),
            ..HardwareEvidence::default()
        };
        assert_eq!(how(&of(McContext::Guest)), "consumed_by_guest");
        assert_eq!(how(&of(McContext::User)), "consumed_by_host");
        assert_eq!(how(&of(McContext::Kernel)), "consumed_by_host");
        assert_eq!(how(&of(McContext::None)), "unknown");
    }

    #[test]
    fn without_a_bank_the_thread_of_memory_failure_shows_who_consumed_it() {
        let of = |in_kvm_run| HardwareEvidence {
            flags: Some(MF_ACTION_REQUIRED),
            in_kvm_run,
            ..HardwareEvidence::default()
        };
        assert_eq!(how(&of(Some(true))), "consumed_by_guest");
        assert_eq!(how(&of(Some(false))), "consumed_by_host");
        assert_eq!(how(&of(None)), "unknown");
    }

    #[test]
    fn software_stays_software_whatever_a_bank_says() {
        let e = HardwareEvidence {
            flags: Some(MF_SW_SIMULATED),
            mce: Some(mce(DEFERRED, McContext::None)),
            ..HardwareEvidence::default()
        };
        assert_eq!(how(&e), "software_injection");
        assert_eq!(e.origin().machine_check, None);
    }

    #[test]
    fn the_firmware_reports_under_no_bank() {
        let mut firmware = mce(DEFERRED, McContext::None);
        firmware.bank = None;
        let e = HardwareEvidence {
            mce: Some(firmware),
            ..HardwareEvidence::default()
        };
        assert_eq!(how(&e), "firmware");
        assert_eq!(e.origin().machine_check, None);
    }
}
