//! Machine checks that the VMM injects. QEMU writes the banks with KVM_SET_MSRS, again and again with the rest of the
//! state; an error counts once, when #MC is queued for a bank that changed, or queued anew after a delivery.

use super::{Correlator, IncidentNo, thread_table::Pending};
use crate::{
    event::{Bank, Event},
    incident::{
        evidence::McInjection,
        limits::PAGE_SIZE,
        mca,
        model::{Severity, Via},
        timeline::{Injection, TimelineEvent},
    },
};
use alloc::{boxed::Box, vec::Vec};

/// CR4.MCE: machine checks are enabled.
const CR4_MCE: u64 = 1 << 6;
/// Incidents of one vCPU's unfinished handlers: one nests at most, but a delivery may be missed.
const MAX_IN_MC: usize = 64;

impl Correlator {
    pub(super) fn set_msrs(
        &mut self,
        event: &Event,
        mcg_status: Option<u64>,
        banks: &[Bank],
        truncated: bool,
        unreadable: bool,
    ) {
        if unreadable || truncated {
            for no in self.incidents.of_process(event.pid).to_vec() {
                if let Some(evidence) = self.incidents.touch(no) {
                    let truncated = !unreadable;
                    evidence
                        .timeline
                        .add(event.t, TimelineEvent::MsrsUnread { truncated });
                }
            }
        }
        // A list without machine-check MSRs (QEMU sets the TSC by one of its own) shows nothing of the banks.
        if unreadable || (mcg_status.is_none() && banks.is_empty()) {
            return;
        }
        let thread = self.threads.of(event);
        let mut new_injections = Vec::new();
        for bank in banks {
            if thread.banks.get(&bank.bank) == Some(bank) {
                continue;
            }
            let pending = Pending {
                t: event.t,
                bank: *bank,
                mcg_status,
                via: Via::SetMsrs,
            };
            if mca::raises_mc(bank.status.0) {
                thread.pending.retain(|other| other.bank.bank != bank.bank);
                thread.pending.push(pending);
            } else {
                new_injections.push(pending);
            }
        }
        thread.banks = banks.iter().map(|bank| (bank.bank, *bank)).collect();
        thread.mcg_status = mcg_status;
        for injection in new_injections {
            self.record_injection(event, injection);
        }
    }

    pub(super) fn set_mce(&mut self, event: &Event, mcg_status: u64, bank: &Bank) {
        let injection = Pending {
            t: event.t,
            bank: *bank,
            mcg_status: Some(mcg_status),
            via: Via::SetMce,
        };
        self.record_injection(event, injection);
        self.threads.of(event).outstanding = mca::raises_mc(bank.status.0);
    }

    pub(super) fn queued(&mut self, event: &Event, pending: bool, injected: bool) {
        let thread = self.threads.of(event);
        if thread.pending.is_empty() {
            // The state was put again with the #MC still in it (outstanding), or caught in the middle of its
            // delivery (injected): nothing new. Otherwise the same banks were injected a second time.
            if thread.outstanding || injected || !pending {
                return;
            }
            let mcg_status = thread.mcg_status;
            let again = thread.banks.values().filter(|bank| mca::raises_mc(bank.status.0));
            thread.pending = again
                .map(|bank| Pending {
                    t: event.t,
                    bank: *bank,
                    mcg_status,
                    via: Via::SetMsrs,
                })
                .collect();
        }
        self.record_pending(event);
    }

    fn record_pending(&mut self, event: &Event) {
        let thread = self.threads.of(event);
        let pending = core::mem::take(&mut thread.pending);
        thread.outstanding = true;
        for injection in pending {
            self.record_injection(event, injection);
        }
    }

    /// `rip`: where the #MC interrupts the guest.
    pub(super) fn delivered(&mut self, event: &Event, rip: Option<u64>) {
        self.guest_got_injection(event);
        if !self.threads.of(event).pending.is_empty() {
            // KVM_SET_VCPU_EVENTS went unseen; the delivery proves the injection.
            self.record_pending(event);
        }
        let thread = self.threads.of(event);
        thread.outstanding = false;
        let injection = thread.machine_checks;
        let Some(no) = injection.or_else(|| self.incidents.latest_of(event.pid)) else {
            return;
        };
        let vcpu = event.vcpu.or_else(|| self.threads.vcpu_of(event.tid));
        let in_mc = &mut self.threads.of(event).in_mc;
        if !in_mc.contains(&no) && in_mc.len() < MAX_IN_MC {
            in_mc.push(no);
        }
        if let Some(evidence) = self.incidents.touch(no) {
            evidence.poison_at(event.t);
            evidence.deliver(event.t, event.tid);
            if let Some(rip) = rip {
                evidence.interrupted_at(event.tid, rip);
            }
            evidence
                .timeline
                .add(event.t, TimelineEvent::McDelivered { vcpu });
        }
    }

    /// The guest wrote 0 to MCG_STATUS. `mc_on`: the thread on which the #MC entered it, where that is another.
    pub(super) fn handler_finished(&mut self, event: &Event, mc_on: Option<u32>) {
        let vcpu = event.vcpu.or_else(|| self.threads.vcpu_of(event.tid));
        let entered = mc_on.filter(|tid| {
            let thread = self.threads.get(*tid);
            thread.is_some_and(|thread| thread.pid == event.pid && !thread.in_mc.is_empty())
        });
        let on = entered.unwrap_or_else(|| {
            self.threads.of(event);
            event.tid
        });
        let thread = self.threads.get_mut(on);
        let mut open = thread
            .map(|thread| core::mem::take(&mut thread.in_mc))
            .unwrap_or_default();
        if open.is_empty() {
            // The thread has been forgotten since, or the delivery was not seen.
            open = self.incidents.of_process(event.pid).to_vec();
        }
        for no in open {
            let finished = self.incidents.get_mut(no).is_some_and(|e| e.finish(event.t, on));
            if finished && let Some(evidence) = self.incidents.touch(no) {
                evidence.poison_at(event.t);
                evidence
                    .timeline
                    .add(event.t, TimelineEvent::HandlerFinished { vcpu });
            }
        }
    }

    fn record_injection(&mut self, event: &Event, injection: Pending) {
        self.guest_got_injection(event);
        let severity = mca::severity(injection.bank.status.0);
        let Some(no) = self.incident_injected(event.pid, &injection.bank, severity) else {
            return;
        };
        let vcpu = event.vcpu.or_else(|| self.threads.vcpu_of(event.tid));
        let injection = McInjection {
            t: injection.t,
            tid: event.tid,
            vcpu,
            via: injection.via,
            bank: injection.bank,
            mcg_status: injection.mcg_status,
            severity,
            rip: None,
        };
        self.threads.of(event).machine_checks = Some(no);
        let Some(evidence) = self.incidents.touch(no) else {
            return;
        };
        evidence.poison_at(event.t);
        if severity != Severity::Broadcast && injection.bank.status.0 & mca::ADDRV != 0 {
            evidence
                .gpa
                .get_or_insert(injection.bank.addr.0 & !(PAGE_SIZE - 1));
        }
        let entry = Injection {
            vcpu: injection.vcpu,
            severity: injection.severity,
            bank: injection.bank,
        };
        evidence
            .timeline
            .add(injection.t, TimelineEvent::Injection(Box::new(entry)));
        evidence.record_injection(injection);
    }

    /// The incident of a bank: that of its address; else, of the pages whose GPA is not known yet, the one at
    /// the same place within its 2 MiB (VMMs align guest memory so), else the one that was signalled first: SIGBUS is
    /// answered in the order in which it comes. A bank without an address follows the last injection.
    fn incident_injected(&self, pid: u32, bank: &Bank, severity: Severity) -> Option<IncidentNo> {
        const ALIGNED: u64 = (2 << 20) - 1;
        if severity == Severity::Broadcast || bank.status.0 & mca::ADDRV == 0 {
            return self.incidents.latest_of(pid);
        }
        if let Some(no) = self.pages.of_gpa(pid, bank.addr.0) {
            return Some(no);
        }
        let candidates = || {
            self.incidents
                .live_evidence_of(pid)
                .filter(|(_, e)| e.gpa.is_none() && e.private_fault().is_none())
        };
        let mut placed = candidates().filter(|(_, e)| {
            let size = e.size().unwrap_or(PAGE_SIZE);
            e.hva
                .is_some_and(|hva| (hva ^ bank.addr.0) & ALIGNED & !(size - 1) == 0)
        });
        let only = match (placed.next(), placed.next()) {
            (Some((no, _)), None) => Some(no),
            _ => None,
        };
        only.or_else(|| candidates().min_by_key(|(_, e)| e.last_poison).map(|(no, _)| no))
    }

    /// CR4.MCE of a vCPU, as its VMM reads it after an exit on poison.
    pub(super) fn registers(&mut self, event: &Event, sregs: &crate::event::Sregs) {
        let pending_sigbus = self.incidents.live_of(event.pid).find(|no| {
            self.incidents
                .get(*no)
                .is_some_and(|e| e.pending_sigbus.get(&event.tid).is_some())
        });
        if let Some(evidence) = pending_sigbus.and_then(|no| self.incidents.touch(no)) {
            evidence.mce_enabled = Some(sregs.cr4.0 & CR4_MCE != 0);
        }
    }
}
