//! Pages: joining `memory_failure()`, the SIGBUS that it or KVM sends, and the exits, to one incident.

use std::collections::BTreeMap;

use super::{Correlator, IncidentNo, make_room, moments};
use crate::{
    event::{Event, PoisonExit, SigbusSeverity, totals::PageTotals},
    incident::{
        evidence::{Evidence, PAGE_SIZE},
        latency,
    },
};

/// Which incident an address of a VMM belongs to.
#[derive(Default)]
pub struct PageIndex {
    /// (pid, first byte) to (bytes, incident).
    ranges: BTreeMap<(u32, u64), (u64, IncidentNo)>,
}

impl PageIndex {
    fn find(&self, pid: u32, hva: u64) -> Option<IncidentNo> {
        let ((owner, base), (size, no)) = self.ranges.range(..=(pid, hva)).next_back()?;
        (*owner == pid && hva - base < *size).then_some(*no)
    }

    fn insert(&mut self, pid: u32, base: u64, size: u64, no: IncidentNo) {
        self.ranges.insert((pid, base), (size, no));
    }

    pub fn remove_pid(&mut self, pid: u32) {
        self.ranges.retain(|(owner, _), _| *owner != pid);
    }

    pub fn remove_incident(&mut self, no: IncidentNo) {
        self.ranges.retain(|_, (_, other)| *other != no);
    }

    pub fn incidents(&self) -> impl Iterator<Item = IncidentNo> + '_ {
        self.ranges.values().map(|(_, no)| *no)
    }
}

/// A `memory_failure()` under way on one thread.
pub struct Failure {
    t: u64,
    pub pfn: Option<u64>,
    flags: Option<u64>,
    incidents: Vec<IncidentNo>,
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

impl Correlator {
    pub(super) fn failure_begin(&mut self, event: &Event, pfn: u64, flags: u64) {
        make_room(&mut self.failures, self.limits.failures);
        self.failures.insert(
            event.tid,
            Failure {
                t: event.t,
                pfn: Some(pfn),
                flags: Some(flags),
                incidents: Vec::new(),
            },
        );
    }

    pub(super) fn failure_action(&mut self, event: &Event, pfn: u64, page_type: &str, result: &str) {
        let Some(failure) = self.failures.get_mut(&event.tid) else {
            return;
        };
        if *failure.pfn.get_or_insert(pfn) != pfn {
            return;
        }
        for no in failure.incidents.clone() {
            let Some(evidence) = self.touch(no) else { continue };
            evidence.pfn.get_or_insert(pfn);
            // "already poisoned" (6.11 on) is about the second report, not about the page.
            if evidence.recovery.is_none() || !page_type.contains("already poisoned") {
                evidence.page_type = Some(page_type.to_owned());
                evidence.recovery = Some(result.to_owned());
            }
            evidence.poison_at(event.t);
            evidence
                .timeline
                .add(event.t, moments::failure_action(page_type, result));
        }
    }

    pub(super) fn failure_end(&mut self, event: &Event, ret: i64) {
        let Some(failure) = self.failures.remove(&event.tid) else {
            return;
        };
        for no in failure.incidents {
            if let Some(evidence) = self.touch(no) {
                evidence.poison_at(event.t);
                if ret != 0 {
                    evidence.timeline.add(event.t, moments::failure_end(ret));
                }
            }
        }
    }

    pub(super) fn sigbus(&mut self, event: &Event, signal: Signal) {
        let pid = signal.target_pid;
        // pid 0: the target could not be read; without a process there is no VM to speak of.
        if pid == 0 || signal.lsb > MAX_LSB {
            return;
        }
        let vmm = self.processes.get(&pid).cloned().unwrap_or_default();
        let in_failure = self.failures.contains_key(&event.tid);
        let size = 1u64 << signal.lsb.max(12);
        let base = signal.hva & !(size - 1);
        let no = match self.pages.find(pid, signal.hva) {
            Some(no) => no,
            None => {
                let failure = self.failures.get(&event.tid);
                let mut evidence = Evidence::new(failure.map_or(event.t, |f| f.t), pid, vmm);
                evidence.hva = Some(base);
                evidence.lsb = Some(signal.lsb.max(12));
                if let Some(pfn) = failure.and_then(|f| f.pfn) {
                    evidence.pfn = Some(pfn);
                    let flags = failure.and_then(|f| f.flags);
                    evidence
                        .timeline
                        .add(evidence.t0, moments::failure_begin(pfn, flags));
                }
                let no = self.open(evidence);
                self.pages.insert(pid, base, size, no);
                no
            }
        };
        self.signalled_in_failure(event, signal.severity, no);
        let vcpu = self.vcpu_of(signal.target_tid);
        let Some(evidence) = self.touch(no) else { return };
        evidence.poison_at(event.t);
        let by_exit = !in_failure && !signal.forced && signal.target_tid == event.tid;
        evidence.signal(signal.severity, by_exit);
        if signal.forced && !in_failure {
            evidence.own_access += 1;
        }
        evidence
            .timeline
            .add(event.t, moments::sigbus(&signal, pid, vcpu));
    }

    /// Ties a signal to the `memory_failure()` that sent it, on the same thread.
    pub(super) fn signalled_in_failure(&mut self, event: &Event, severity: SigbusSeverity, no: IncidentNo) {
        if let Some(failure) = self.failures.get_mut(&event.tid) {
            if !failure.incidents.contains(&no) {
                failure.incidents.push(no);
            }
        } else if severity == SigbusSeverity::ActionOptional && !self.session.has("memory_failure") {
            // No probe on memory_failure(): its event on this thread still names the pfn.
            make_room(&mut self.failures, self.limits.failures);
            self.failures.insert(
                event.tid,
                Failure {
                    t: event.t,
                    pfn: None,
                    flags: None,
                    incidents: vec![no],
                },
            );
        }
    }

    pub(super) fn poison_exit(&mut self, event: &Event, exit: &PoisonExit) {
        let pid = event.pid;
        let found = exit
            .hva
            .and_then(|hva| self.pages.find(pid, hva.0))
            .or_else(|| exit.gpa.and_then(|gpa| self.incident_of_gpa(pid, gpa.0)));
        let no = match found {
            Some(no) => no,
            None => {
                // Poison met by gup without a signal that we saw: still an incident.
                let vmm = self.processes.get(&pid).cloned().unwrap_or_default();
                let mut evidence = Evidence::new(exit.exit_ns.unwrap_or(event.t), pid, vmm);
                evidence.hva = exit.hva.map(|hva| hva.0 & !(PAGE_SIZE - 1));
                let hva = evidence.hva;
                let no = self.open(evidence);
                if let Some(hva) = hva {
                    self.pages.insert(pid, hva, PAGE_SIZE, no);
                }
                no
            }
        };
        let tid = event.tid;
        let vcpu = event.vcpu.or_else(|| self.vcpu_of(tid));
        let Some(evidence) = self.touch(no) else { return };
        evidence.poison_at(event.t);
        evidence.exit(tid, vcpu, exit);
        let at = exit.exit_ns.or(exit.fault_ns).unwrap_or(event.t);
        evidence.timeline.add(at, moments::poison_exit(exit, vcpu));
    }

    /// Totals may be read after the VMM's end: they are those of its last incident on the page.
    pub(super) fn page_totals(&mut self, event: &Event, totals: &PageTotals) {
        let gpa = totals.gpa.0;
        let found = self.incident_of_gpa(event.pid, gpa).or_else(|| {
            let all = self.by_pid.get(&event.pid)?;
            all.iter()
                .rev()
                .copied()
                .find(|no| self.incidents.get(no).is_some_and(|e| e.gpas.contains(&gpa)))
        });
        let floor = latency::Floor::cheapest(&self.floor);
        if let Some(evidence) = found.and_then(|no| self.touch(no)) {
            evidence.totals(event.tid, totals);
            evidence.exits.floor = floor.or(evidence.exits.floor.take());
        }
    }

    pub(super) fn reentry(&mut self, event: &Event, exit_ns: u64, entry_ns: u64) {
        for no in self.by_pid.get(&event.pid).cloned().unwrap_or_default() {
            let mine = self
                .incidents
                .get_mut(&no)
                .is_some_and(|e| e.exits.reentry(event.tid, exit_ns, entry_ns));
            if mine {
                if let Some(evidence) = self.touch(no) {
                    evidence.poison_at(event.t);
                }
                return;
            }
        }
    }

    /// The instruction at a RIP that touched a page: of every incident in which that RIP did.
    pub(super) fn guest_code(&mut self, event: &Event, rip: u64, bytes: &str) {
        let live: Vec<IncidentNo> = self.live_of(event.pid).collect();
        for no in live {
            let taken = self
                .incidents
                .get_mut(&no)
                .is_some_and(|e| e.exits.guest_code(rip, bytes));
            if taken && let Some(evidence) = self.touch(no) {
                evidence.timeline.add(event.t, moments::guest_code(rip, bytes));
            }
        }
    }

    /// Incidents of this process while it lives, newest first.
    pub(super) fn live_of(&self, pid: u32) -> impl Iterator<Item = IncidentNo> + '_ {
        let all = self.by_pid.get(&pid).map(Vec::as_slice).unwrap_or_default();
        all.iter()
            .rev()
            .copied()
            .filter(|no| self.incidents.get(no).is_some_and(|e| !e.vmm_gone()))
    }

    /// The incident of a GPA of this VM: the same 4 KiB page, or the same huge page.
    pub(super) fn incident_of_gpa(&self, pid: u32, gpa: u64) -> Option<IncidentNo> {
        let page = gpa & !(PAGE_SIZE - 1);
        self.live_of(pid).find(|no| {
            self.incidents.get(no).is_some_and(|e| {
                let size = e.size().unwrap_or(PAGE_SIZE);
                e.gpa.is_some_and(|known| known == page || (known ^ page) < size) || e.gpas.contains(&page)
            })
        })
    }
}
