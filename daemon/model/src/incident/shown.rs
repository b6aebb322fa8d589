//! What evidence shows: the questions that verdict, story and correlator ask of it. Nothing here changes it.

use super::{
    evidence::{End, Evidence, HostLoss},
    exits::Total,
    limits::SPIN_EXITS,
    termination::Termination,
};

impl Evidence {
    /// Bytes lost, as far as the signals show.
    pub fn size(&self) -> Option<u64> {
        self.lsb.filter(|lsb| *lsb < 64).map(|lsb| 1 << lsb)
    }

    /// Whether this page of the host is the lost one, or a piece of it.
    pub fn holds_pfn(&self, pfn: u64) -> bool {
        let shift = self.lsb.unwrap_or(12).clamp(12, 63) - 12;
        self.pfn.is_some_and(|known| known >> shift == pfn >> shift)
    }

    /// Whether an exit or an AR signal shows an access.
    pub fn touched(&self) -> bool {
        self.exits.any()
            || self.own_access > 0
            || self.private_fault().is_some()
            || self.hardware.consumed.is_some()
    }

    /// KVM_RUN gave up with EHWPOISON: guest_memfd.
    pub fn private_fault(&self) -> Option<&End> {
        self.sign(|sign| *sign == Termination::PrivateMemory)
    }

    /// Whether every #MC that entered the guest was handled to its end, and no signal waits for an answer.
    pub fn handled(&self) -> bool {
        let waits = self
            .pending_sigbus
            .iter()
            .any(|(_, pending_sigbus)| pending_sigbus.ran_on.is_none());
        self.finished > 0 && self.open_mc.is_empty() && !waits
    }

    /// Whether the guest itself touched it.
    pub fn accessed_by_guest(&self) -> bool {
        self.exits.any()
            || self.exit_signals > 0
            || self.private_fault().is_some()
            || self.hardware.consumed.is_some()
    }

    /// Whether the guest, its VMM or KVM had to do with the page after it was lost.
    pub fn accessed(&self) -> bool {
        self.touched() || self.ar_signals + self.exit_signals + self.ar_injections + self.delivered > 0
    }

    /// Whether the VMM has ended.
    pub fn vmm_gone(&self) -> bool {
        self.sign(|sign| matches!(sign, Termination::VmmExit(_) | Termination::VmmGone))
            .is_some()
    }

    /// Whether the kernel, watched from the start, has lost no memory that this page can be: then the sign of poison is a
    /// claim of its process. userfaultfd marks pages as poisoned (UFFDIO_POISON, Linux 6.6; live migration does), a page that
    /// cannot be read from swap looks the same, and a process may send itself the signal (rt_sigqueueinfo(2)).
    pub fn claimed(&self) -> bool {
        self.host_loss == HostLoss::Nothing && self.unconfirmed()
    }

    /// Whether the kernel has not named this page, though what it loses was watched: it may be a page that was lost before, or a
    /// claim.
    pub fn unconfirmed(&self) -> bool {
        self.host_loss != HostLoss::Unwatched
            && self.pfn.is_none()
            && self.recovery.is_none()
            && self.private_fault().is_none()
    }

    /// Whether KVM has shown a vCPU of this process.
    pub fn vcpu_seen(&self) -> bool {
        self.vcpu_signalled
            || self.hardware.consumed.is_some()
            || self.exits.any()
            || !self.machine_checks.is_empty()
            || self.delivered > 0
    }

    /// Whether KVM itself has shown that this process runs a guest on this page.
    pub fn kvm_seen(&self) -> bool {
        self.exits.any()
            || self.sign(|sign| *sign == Termination::VmDestroyed).is_some()
            || !self.machine_checks.is_empty()
            || self.delivered > 0
            || self.hardware.consumed.is_some()
            || self.logged.proves_guest()
    }

    /// All AR signals: `total` is the exits'.
    pub fn action_required(&self, total: &Total) -> u64 {
        self.ar_signals
            .saturating_add(self.exit_signals.max(total.page.signals))
    }

    /// Whether the VMM lets errors pass that meet an unfinished #MC, and the vCPU meets them again and again.
    pub fn skips_injections(&self) -> bool {
        self.injections_skipped.max(self.logged.injections_skipped) >= SPIN_EXITS
    }

    /// Whether the VMM has let an error of this page pass, so that an end soon after the last one is no answer to it.
    pub fn let_one_pass(&self) -> bool {
        let answered = self.ar_injections.max(self.delivered);
        self.dropped > 0 || self.ar_signals + self.exit_signals > answered + 1
    }

    /// Whether nothing but its exits shows its page: no failure of the host, no signal that names an address, no word of
    /// a log.
    pub fn known_by_exits_alone(&self) -> bool {
        let signals_without_address = self.logged.trace && self.hva.is_none();
        self.exits.any()
            && self.own_access + self.ao_signals + self.ar_signals == 0
            && (self.exit_signals == 0 || signals_without_address)
            && self.pfn.is_none()
            && !self.predates
            && !self.logged.alone
            && self.logged.sources.is_empty()
    }

    /// The first end that is `wanted`.
    pub fn sign(&self, wanted: impl Fn(&Termination) -> bool) -> Option<&End> {
        self.ends.iter().find(|end| wanted(&end.sign))
    }
}
