//! Pages: joining `memory_failure()`, the SIGBUS that it or KVM sends, and the exits, to one incident.

use alloc::{boxed::Box, vec::Vec};

use super::{Correlator, IncidentNo, sigbus_handling::ToThread};
use crate::{
    event::{Event, PoisonExit, SigbusSeverity, totals::PageTotals},
    hex::Hex,
    incident::{
        evidence::{Evidence, HostLoss},
        latency,
        limits::{Detail, PAGE_SIZE},
        timeline::{self, TimelineEvent},
    },
};

/// Incidents of one process whose page the kernel has not named ([`Evidence::unconfirmed`]).
const MAX_CLAIMS: usize = 256;

/// What is known of a page when its incident opens.
#[derive(Default)]
pub struct New {
    pub t0: Option<u64>,
    pub hva: Option<u64>,
    pub lsb: Option<u32>,
    pub pfn: Option<u64>,
}

/// The fields of a SIGBUS event.
pub struct Signal {
    pub hva: u64,
    pub severity: SigbusSeverity,
    pub lsb: u32,
    pub target_tid: u32,
    pub target_pid: u32,
    pub forced: bool,
}

/// Largest page: 1 GiB. A larger `lsb` is taken for a damaged event's.
const MAX_LSB: u32 = 30;
const LSB_2M: u32 = 21;
pub(super) const LSB_4K: u32 = 12;

pub(super) fn failure_begin(pfn: u64, flags: Option<u64>) -> TimelineEvent {
    TimelineEvent::FailureBegin { pfn: Hex(pfn), flags }
}

fn signal_entry(signal: &Signal, pid: u32, vcpu: Option<u32>) -> TimelineEvent {
    TimelineEvent::Signal(Box::new(timeline::Signal {
        severity: signal.severity,
        pid,
        tid: signal.target_tid,
        vcpu,
        hva: Some(Hex(signal.hva)),
    }))
}

fn guest_code(rip: u64, bytes: &str) -> TimelineEvent {
    TimelineEvent::GuestCode {
        rip: Hex(rip),
        bytes: bytes.into(),
    }
}

impl Correlator {
    /// Open incidents of VMs that hold this page of the host.
    pub(super) fn known_by_pfn(&self, pfn: u64) -> Vec<IncidentNo> {
        const HUGE_PAGE: u64 = 511;
        let holds = |no: &IncidentNo| {
            self.incidents
                .get(*no)
                .is_some_and(|e| e.holds_pfn(pfn) && !e.vmm_gone())
        };
        let named = self.pages.pfns.range(pfn & !HUGE_PAGE, pfn | HUGE_PAGE);
        named.filter(holds).collect()
    }

    /// The page of the host of an incident that was opened without.
    pub(super) fn name_pfn(&mut self, no: IncidentNo, pfn: u64) {
        if let Some(evidence) = self.incidents.touch(no)
            && evidence.pfn.is_none()
        {
            evidence.pfn = Some(pfn);
            self.index_pfn(no, pfn);
        }
    }

    pub(super) fn sigbus(&mut self, event: &Event, signal: Signal) {
        let pid = signal.target_pid;
        // pid 0: the target could not be read; without a process there is no VM.
        if pid == 0 || signal.lsb > MAX_LSB {
            return;
        }
        let in_failure = self.failures.on_thread(event.tid).is_some();
        let no = self.incident_signalled(event, &signal);
        self.signalled_in_failure(event, signal.severity, no);
        // What a guest consumed is no access of the VMM's own, though 5.10 signals it only after memory_failure().
        let of_guest = self
            .consumed_lately(event)
            .filter(|_| signal.forced && !in_failure);
        if let Some(pfn) = of_guest {
            self.name_pfn(no, pfn);
        }
        let own_access = signal.forced && !in_failure && of_guest.is_none();
        let to = ToThread {
            pid,
            tid: signal.target_tid,
            no,
            required: signal.severity == SigbusSeverity::ActionRequired,
            own_access,
        };
        self.signal_sent(event, &to);
        let vcpu = self.threads.vcpu_of(signal.target_tid);
        let by_exit = !in_failure && !signal.forced && signal.target_tid == event.tid;
        let required = signal.severity == SigbusSeverity::ActionRequired;
        // A VMM that the signal kills at once leaves no record of its exit.
        let of_vcpu = vcpu.is_some() || by_exit && required && self.session.kvm_alone_answers();
        let Some(evidence) = self.incidents.touch(no) else {
            return;
        };
        evidence.poison_at(event.t);
        evidence.signal(signal.severity, by_exit);
        if !by_exit {
            evidence.signalled = evidence.signalled.max(Some(event.t));
        }
        evidence.own_access += u64::from(own_access);
        evidence.vcpu_signalled |= of_vcpu;
        evidence.timeline.add(event.t, signal_entry(&signal, pid, vcpu));
    }

    /// The incident of a signal: the page's own; that of a huge page around it or of a piece of it; else a new one.
    fn incident_signalled(&mut self, event: &Event, signal: &Signal) -> IncidentNo {
        let pid = signal.target_pid;
        let lsb = signal.lsb.max(LSB_4K);
        let base = signal.hva & !((1u64 << lsb) - 1);
        let failure = self.failures.on_thread(event.tid);
        let (began, pfn, flags) = failure.map_or((None, None, None), |f| (Some(f.t), f.pfn, f.flags));
        let failure_unseen = failure.is_none();
        let found = self
            .pages
            .of_hva(pid, signal.hva)
            .or_else(|| self.pages.within_hvas(pid, base, 1 << lsb))
            // Another page of the host at this address: QEMU maps a poisoned page anew when its guest is reset.
            .filter(|no| {
                pfn.is_none_or(|pfn| {
                    self.incidents
                        .get(*no)
                        .is_none_or(|e| e.pfn.is_none() || e.holds_pfn(pfn))
                })
            })
            .or_else(|| self.piece_of_silent(pid, signal.hva));
        let Some(no) = found else {
            if failure_unseen
                && signal.severity == SigbusSeverity::ActionRequired
                && lsb == LSB_4K
                && let Some(no) = self.open_silent(event, pid, base)
            {
                return no;
            }
            let no = self.open_new(
                event,
                pid,
                New {
                    t0: began,
                    hva: Some(base),
                    lsb: Some(lsb),
                    pfn,
                },
            );
            if let (Some(pfn), Some(evidence)) = (pfn, self.incidents.get_mut(no)) {
                evidence.timeline.add(evidence.t0, failure_begin(pfn, flags));
            }
            return no;
        };
        let unnamed = self.incidents.get(no).is_some_and(|e| e.pfn.is_none());
        if let (true, Some(pfn), Some(began)) = (unnamed, pfn, began) {
            // The vCPU was faster than memory_failure(), which names the page only now.
            self.name_pfn(no, pfn);
            if let Some(evidence) = self.incidents.touch(no) {
                evidence.timeline.add(began, failure_begin(pfn, flags));
            }
        }
        let widened = self
            .incidents
            .touch(no)
            .is_some_and(|evidence| evidence.widen(base, lsb));
        if widened {
            self.pages.insert_hva(pid, base, 1 << lsb, no);
        }
        no
    }

    /// A second piece of what is one huge page, if the host lost one for which no process was signalled: QEMU asks for early
    /// notice, others learn of their page 4 KiB by 4 KiB. Only where there is one such page is it this one.
    fn piece_of_silent(&mut self, pid: u32, hva: u64) -> Option<IncidentNo> {
        let base = hva & !((1u64 << LSB_2M) - 1);
        let no = self.pages.within_hvas(pid, base, 1 << LSB_2M)?;
        if self.incidents.get(no)?.pfn.is_some() {
            return None;
        }
        let silent = self.failures.take_only_silent(true)?;
        let evidence = self.incidents.touch(no)?;
        evidence.widen(base, LSB_2M);
        evidence.page_type = Some(silent.page_type);
        evidence.recovery = Some(silent.result);
        evidence.joined_by_time = true;
        self.name_pfn(no, silent.pfn);
        self.pages.insert_hva(pid, base, 1 << LSB_2M, no);
        Some(no)
    }

    /// The incident of a page that a VM is the first to access, if the host lost one page for which no process was
    /// signalled, and none before the probes were attached: it can be no other.
    fn open_silent(&mut self, event: &Event, pid: u32, hva: u64) -> Option<IncidentNo> {
        if self.session.hardware_corrupted_kb != Some(0) {
            return None;
        }
        let silent = self.failures.take_only_silent(false)?;
        let new = New {
            t0: Some(silent.t),
            hva: Some(hva),
            lsb: Some(LSB_4K),
            pfn: Some(silent.pfn),
        };
        let no = self.open_new(event, pid, new);
        let evidence = self.incidents.touch(no)?;
        let begin = failure_begin(silent.pfn, silent.flags);
        let action = TimelineEvent::action(&silent.page_type, &silent.result);
        evidence.hardware.flags = silent.flags;
        evidence.timeline.add(silent.t, begin);
        evidence.timeline.add(silent.t, action);
        evidence.page_type = Some(silent.page_type);
        evidence.recovery = Some(silent.result);
        evidence.joined_by_time = true;
        Some(no)
    }

    /// Opens an incident of a VMM's page. Claims without end are one in the end: the latest takes them.
    pub(super) fn open_new(&mut self, event: &Event, pid: u32, new: New) -> IncidentNo {
        let host_loss = self.host_loss();
        if host_loss != HostLoss::Unwatched
            && new.pfn.is_none()
            && let Some(no) = self.incidents.last_unconfirmed(pid, MAX_CLAIMS)
        {
            self.incidents.note_refused();
            return no;
        }
        let vmm = self.processes.get(&pid).cloned().unwrap_or_default();
        let mut evidence = Evidence::new(new.t0.unwrap_or(event.t), pid, vmm);
        evidence.hva = new.hva;
        evidence.lsb = new.lsb;
        evidence.pfn = new.pfn;
        evidence.host_loss = host_loss;
        evidence.set_detail(Detail::beside(self.incidents.of_process(pid).len()));
        let no = self.open(evidence);
        if let Some(hva) = new.hva {
            self.pages
                .insert_hva(pid, hva, 1 << new.lsb.unwrap_or(LSB_4K), no);
        }
        no
    }

    pub(super) fn poison_exit(&mut self, event: &Event, exit: &PoisonExit) {
        let pid = event.pid;
        let found = exit
            .hva
            .and_then(|hva| self.pages.of_hva(pid, hva.0))
            .or_else(|| exit.gpa.and_then(|gpa| self.pages.of_gpa(pid, gpa.0)));
        let no = match found {
            Some(no) => no,
            None => {
                // gup hit the poison, and the signal was not seen: still an incident.
                let new = New {
                    t0: exit.exit_ns,
                    hva: exit.hva.map(|hva| hva.0 & !(PAGE_SIZE - 1)),
                    ..New::default()
                };
                self.open_new(event, pid, new)
            }
        };
        let tid = event.tid;
        let vcpu = event.vcpu.or_else(|| self.threads.vcpu_of(tid));
        let before = self.threads.of(event).exited.replace(no);
        let Some(evidence) = self.incidents.touch(no) else {
            return;
        };
        evidence.poison_at(event.t);
        evidence.exit(tid, vcpu, exit);
        if exit.recovered {
            evidence.attach_delay = evidence.attach_delay.or(self.attach_delay);
        }
        let at = exit.exit_ns.or(exit.fault_ns).unwrap_or(event.t);
        evidence.timeline.add(at, TimelineEvent::exit(exit, vcpu));
        evidence.correct_address();
        self.walk_goes_on(event, exit, no, before);
    }

    /// Totals may be read after the VMM's end: they are those of its last incident on the page.
    pub(super) fn page_totals(&mut self, event: &Event, totals: &PageTotals) {
        let gpa = totals.gpa.0;
        let found = self.pages.of_gpa(event.pid, gpa).or_else(|| {
            let all = self.incidents.of_process(event.pid);
            all.iter()
                .rev()
                .copied()
                .find(|no| self.incidents.get(*no).is_some_and(|e| e.gpas.contains(&gpa)))
        });
        let baseline_exit = latency::BaselineExit::cheapest(&self.baseline_exits);
        if let Some(evidence) = found.and_then(|no| self.incidents.touch(no)) {
            evidence.totals(event.tid, totals);
            evidence.exits.baseline_exit = baseline_exit.or(evidence.exits.baseline_exit.take());
        }
    }

    pub(super) fn reentry(&mut self, event: &Event, exit_ns: u64, entry_ns: u64) {
        self.thread_goes_on(event);
        // The thread's last exit, unless the thread has been forgotten since.
        let last = self.threads.get(event.tid).and_then(|thread| thread.exited);
        if last.is_some_and(|no| self.reentry_of(no, event, exit_ns, entry_ns)) {
            return;
        }
        for no in self.incidents.of_process(event.pid).to_vec() {
            if self.reentry_of(no, event, exit_ns, entry_ns) {
                return;
            }
        }
    }

    fn reentry_of(&mut self, no: IncidentNo, event: &Event, exit_ns: u64, entry_ns: u64) -> bool {
        let evidence = self.incidents.get_mut(no);
        if !evidence.is_some_and(|e| e.exits.reentry(event.tid, exit_ns, entry_ns)) {
            return false;
        }
        let injections_skipped = self.incidents.touch(no).is_some_and(|evidence| {
            evidence.poison_at(event.t);
            evidence.reentered(event.tid, entry_ns)
        });
        if injections_skipped {
            let open: Vec<IncidentNo> = self
                .incidents
                .live_of(event.pid)
                .filter(|other| {
                    let open = |e: &Evidence| e.open_mc.contains_key(&event.tid);
                    *other == no || self.incidents.get(*other).is_some_and(open)
                })
                .collect();
            for no in open {
                if let Some(evidence) = self.incidents.change(no) {
                    evidence.injections_skipped += 1;
                }
            }
        }
        true
    }

    /// The instruction at a RIP that touched a page: of every incident in which that RIP did.
    pub(super) fn guest_code(&mut self, event: &Event, rip: u64, bytes: &str) {
        let live: Vec<IncidentNo> = self.incidents.live_of(event.pid).collect();
        for no in live {
            let taken = self
                .incidents
                .get_mut(no)
                .is_some_and(|e| e.exits.guest_code(rip, bytes));
            if taken && let Some(evidence) = self.incidents.touch(no) {
                evidence.timeline.add(event.t, guest_code(rip, bytes));
            }
        }
    }
}
