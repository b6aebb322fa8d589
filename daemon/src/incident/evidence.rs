//! What was seen about one poisoned page in one VM. Bounded: counts go on where lists stop.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    exits::{Exits, Total},
    logged::Logged,
    mca,
    model::{Severity, Via},
};
use crate::event::{Bank, OtherAddress, PoisonExit, SigbusSeverity, Vmm, totals::PageTotals};

/// Longest lists kept per incident.
const MAX_TOLD: usize = 256;
const MAX_ENDS: usize = 32;
/// 4 KiB pages of a 2 MiB page.
const MAX_GPAS: usize = 512;
/// Timeline: this many first moments, and as many last ones.
const MAX_MOMENTS: usize = 96;

pub const PAGE_SIZE: u64 = 4096;

/// Everything known of one incident.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// CLOCK_MONOTONIC of the poisoning: `memory_failure()` entered, else the first sign.
    pub t0: u64,
    /// Latest event that belongs to it.
    pub last: u64,
    /// Latest event that is the poison's own (signal, exit, telling, delivery), not an end.
    pub last_poison: u64,
    pub pid: u32,
    pub vmm: Vmm,
    pub pfn: Option<u64>,
    /// First byte of the lost range in the VMM.
    pub hva: Option<u64>,
    pub gpa: Option<u64>,
    pub gpas: BTreeSet<u64>,
    /// The address of the last exit that was no GPA of this guest.
    pub other_address: Option<OtherAddress>,
    pub lsb: Option<u32>,
    pub page_type: Option<String>,
    pub recovery: Option<String>,
    pub ao_signals: u64,
    pub ar_signals: u64,
    /// AR signals that were forced on a thread outside `memory_failure()`: its own user-mode access.
    pub own_access: u64,
    pub exits: Exits,
    /// AR signals that KVM sent for an exit, as events told; the exits' totals may know of more.
    pub exit_signals: u64,
    pub told: Vec<Told>,
    pub told_ao: u64,
    pub told_ar: u64,
    /// #MC entries into the guest.
    pub delivered: u64,
    /// Threads that got one.
    pub delivered_to: BTreeSet<u32>,
    /// Threads with a delivered #MC whose handler has not cleared MCG_STATUS, and since when.
    pub open_mc: BTreeMap<u32, u64>,
    /// Handlers that finished (MCG_STATUS written 0), and the last one's time.
    pub finished: u64,
    pub last_finished: Option<u64>,
    pub ends: Vec<End>,
    pub timeline: Timeline,
    /// Records lost while this incident was open.
    pub lost: u64,
    /// Events that belong to it.
    pub events: u64,
    /// What logs told of it.
    pub logged: Logged,
}

/// A machine check as the VMM told it.
#[derive(Clone, Debug)]
pub struct Told {
    pub t: u64,
    pub tid: u32,
    pub vcpu: Option<u32>,
    pub via: Via,
    pub bank: Bank,
    pub mcg_status: Option<u64>,
    pub severity: Severity,
}

impl Told {
    pub fn overflow(&self) -> bool {
        self.bank.status.0 & mca::OVER != 0
    }
}

/// A sign of the guest's or the VMM's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub t: u64,
    pub sign: Sign,
    /// A #MC was open (delivered, handler not finished) at that time.
    pub mc_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// pvpanic: the guest's kernel says that it panicked.
    Panic,
    /// pvpanic: a crash kernel takes over.
    CrashLoaded,
    /// Reset by the guest through this port.
    ResetPort(u64),
    /// The guest turned itself off by ACPI.
    PowerOff,
    TripleFault,
    /// KVM_EXIT_SHUTDOWN.
    KvmShutdown,
    /// KVM_EXIT_SYSTEM_EVENT.
    SystemEvent,
    /// KVM_EXIT_INTERNAL_ERROR or FAIL_ENTRY.
    InternalError,
    /// KVM_EXIT_MEMORY_FAULT with this errno.
    MemoryFault(i32),
    /// A vCPU entered the guest at the reset vector.
    VcpuReset,
    /// The VMM's last thread ended with this wait status.
    VmmExit(i32),
    VmDestroyed,
    /// The threads that ran the guest ended; how is not known.
    VmmGone,
}

impl Evidence {
    pub fn new(t0: u64, pid: u32, vmm: Vmm) -> Self {
        Self {
            t0,
            last: t0,
            last_poison: t0,
            pid,
            vmm,
            pfn: None,
            hva: None,
            gpa: None,
            gpas: BTreeSet::new(),
            other_address: None,
            lsb: None,
            page_type: None,
            recovery: None,
            ao_signals: 0,
            ar_signals: 0,
            own_access: 0,
            exits: Exits::default(),
            exit_signals: 0,
            told: Vec::new(),
            told_ao: 0,
            told_ar: 0,
            delivered: 0,
            delivered_to: BTreeSet::new(),
            open_mc: BTreeMap::new(),
            finished: 0,
            last_finished: None,
            ends: Vec::new(),
            timeline: Timeline::default(),
            lost: 0,
            events: 0,
            logged: Logged::default(),
        }
    }

    /// Bytes lost, as far as the signals tell.
    pub fn size(&self) -> Option<u64> {
        self.lsb.filter(|lsb| *lsb < 64).map(|lsb| 1 << lsb)
    }

    pub fn touched(&self) -> bool {
        self.exits.any() || self.own_access > 0
    }

    pub fn vmm_gone(&self) -> bool {
        self.sign(|sign| matches!(sign, Sign::VmmExit(_) | Sign::VmmGone))
            .is_some()
    }

    /// Whether KVM itself has shown that this process runs a guest on this page.
    pub fn kvm_seen(&self) -> bool {
        self.exits.any()
            || self.sign(|sign| *sign == Sign::VmDestroyed).is_some()
            || !self.told.is_empty()
            || self.delivered > 0
            || self.logged.proves_guest()
    }

    pub fn poison_at(&mut self, t: u64) {
        self.last = self.last.max(t);
        self.last_poison = self.last_poison.max(t);
    }

    /// A SIGBUS was sent; `by_exit`: by KVM, for an exit of the thread that it was sent to.
    pub fn signal(&mut self, severity: SigbusSeverity, by_exit: bool) {
        match severity {
            SigbusSeverity::ActionOptional => self.ao_signals += 1,
            SigbusSeverity::ActionRequired if by_exit => self.exit_signals += 1,
            SigbusSeverity::ActionRequired => self.ar_signals += 1,
        }
    }

    /// All AR signals: `total` is the exits'.
    pub fn action_required(&self, total: &Total) -> u64 {
        self.ar_signals + self.exit_signals.max(total.page.signals)
    }

    /// Adds a poison exit of thread `tid`.
    pub fn exit(&mut self, tid: u32, vcpu: Option<u32>, exit: &PoisonExit) {
        if let Some(gpa) = exit.gpa {
            self.touched_page(gpa.0 & !(PAGE_SIZE - 1));
        }
        self.other_address = exit.other_address.or(self.other_address);
        self.exits.add(tid, vcpu, exit);
    }

    /// Takes the kernel's totals of one page and thread.
    pub fn totals(&mut self, tid: u32, totals: &PageTotals) {
        self.touched_page(totals.gpa.0);
        self.exits.kernel(tid, totals);
    }

    fn touched_page(&mut self, page: u64) {
        self.gpa.get_or_insert(page);
        if self.gpas.len() < MAX_GPAS {
            self.gpas.insert(page);
        }
    }

    pub fn tell(&mut self, told: Told) {
        match told.severity {
            Severity::Ao => self.told_ao += 1,
            Severity::Ar => self.told_ar += 1,
            Severity::Broadcast | Severity::Other => {}
        }
        if self.told.len() < MAX_TOLD {
            self.told.push(told);
        }
    }

    /// #MC entered the guest on this thread.
    pub fn deliver(&mut self, t: u64, tid: u32) {
        self.delivered += 1;
        self.delivered_to.insert(tid);
        self.open_mc.insert(tid, t);
    }

    /// The guest's handler on this thread wrote 0 to MCG_STATUS.
    pub fn finish(&mut self, t: u64, tid: u32) -> bool {
        if self.open_mc.remove(&tid).is_none() {
            return false;
        }
        self.finished += 1;
        self.last_finished = Some(t);
        true
    }

    pub fn end(&mut self, t: u64, sign: Sign) {
        self.last = self.last.max(t);
        // The same sign again (a vCPU each, a port written twice) is no news.
        if self.ends.len() < MAX_ENDS && !self.ends.iter().any(|end| end.sign == sign) {
            let mc_open = !self.open_mc.is_empty();
            self.ends.push(End { t, sign, mc_open });
        }
    }

    pub fn sign(&self, wanted: impl Fn(&Sign) -> bool) -> Option<&End> {
        self.ends.iter().find(|end| wanted(&end.sign))
    }
}

/// What happened when: the first and the last moments, and how many fell out between.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    first: Vec<(u64, String)>,
    last: std::collections::VecDeque<(u64, String)>,
    skipped: u64,
}

impl Timeline {
    pub fn add(&mut self, t: u64, text: String) {
        if self.first.len() < MAX_MOMENTS {
            self.first.push((t, text));
            return;
        }
        if self.last.len() == MAX_MOMENTS {
            self.last.pop_front();
            self.skipped += 1;
        }
        self.last.push_back((t, text));
    }

    /// All moments in order of time; one of them says how many are not shown.
    pub fn moments(&self) -> Vec<(u64, String)> {
        let mut moments = self.first.clone();
        if let (true, Some((t, _))) = (self.skipped > 0, self.last.front()) {
            moments.push((
                *t,
                format!("({} moments before this one are not kept)", self.skipped),
            ));
        }
        moments.extend(self.last.iter().cloned());
        moments.sort_by_key(|(t, _)| *t);
        moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_says_what_it_left_out() {
        let mut timeline = Timeline::default();
        for t in 0..1000 {
            timeline.add(t, format!("exit {t}"));
        }
        let moments = timeline.moments();
        assert_eq!(moments.len(), 2 * MAX_MOMENTS + 1);
        assert!(
            moments.iter().any(|(_, text)| text.contains("808 moments")),
            "{moments:?}"
        );
        assert_eq!(moments.last().map(|(t, _)| *t), Some(999));
    }
}
