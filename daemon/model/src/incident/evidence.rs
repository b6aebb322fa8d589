//! What was seen about one poisoned page in one VM. Bounded: counts go on where lists stop.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{
    exits::Exits,
    limits::{Detail, PAGE_SIZE},
    log_evidence::LogEvidence,
    mca,
    model::{Severity, Via},
    origin::{Consumed, HardwareEvidence},
    termination::Termination,
    timeline::Timeline,
};
use crate::{
    compact_map::{self, CompactMap},
    event::{AttachDelay, Bank, OtherAddress, PoisonExit, SigbusSeverity, Vmm, totals::PageTotals},
};

/// Longest lists kept per incident.
const MAX_INJECTIONS: usize = 256;
const MAX_ENDS: usize = 32;
/// vCPU threads whose values are kept.
const MAX_THREADS: usize = 1024;
/// 4 KiB pages of a 2 MiB page.
const MAX_GPAS: usize = 512;

/// What the kernel had reported of poisoned memory when the first sign of a page came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostLoss {
    /// Not known: nobody watched.
    #[default]
    Unwatched,
    /// Neither memory_failure() nor HardwareCorrupted.
    Nothing,
    /// Memory, before the start or since, but not this page's so far.
    OtherMemory,
}

impl HostLoss {
    /// Of a page that two incidents were opened for.
    fn joined(self, other: Self) -> Self {
        if self == other { self } else { Self::OtherMemory }
    }
}

/// Everything known of one incident. Its JSON is what a daemon that starts again goes on with
/// (`incident.state` of the store).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// CLOCK_MONOTONIC of the poisoning: `memory_failure()` entered, else the first sign.
    pub t0: u64,
    /// Latest event that belongs to it.
    pub last: u64,
    /// Latest event that is the poison's own (signal, exit, injection, delivery), not an end.
    pub last_poison: u64,
    /// Process (thread group) of the VMM on the host.
    pub pid: u32,
    /// All of a VMM's incidents share it.
    pub vmm: Arc<Vmm>,
    /// Page frame of the host.
    pub pfn: Option<u64>,
    /// What the kernel had reported when the incident began.
    #[serde(default)]
    pub host_loss: HostLoss,
    /// A signal went to a thread that runs a vCPU.
    #[serde(default)]
    pub vcpu_signalled: bool,
    /// First byte of the lost range in the VMM.
    pub hva: Option<u64>,
    /// `hva` as it was when the incident got its name, where more is known now.
    pub named_hva: Option<u64>,
    /// Guest page address.
    pub gpa: Option<u64>,
    /// 4 KiB pages of a huge page that were accessed.
    pub gpas: BTreeSet<u64>,
    /// The address of the last exit that was no GPA of this guest.
    pub other_address: Option<OtherAddress>,
    /// log2 of the size of the page.
    pub lsb: Option<u32>,
    /// Type of the page, in the kernel's terms (`mm/memory-failure.c`).
    pub page_type: Option<String>,
    /// Result of the recovery, in the kernel's terms.
    pub recovery: Option<String>,
    /// AO signals to the VMM.
    pub ao_signals: u64,
    /// AR signals to the VMM.
    pub ar_signals: u64,
    /// AR signals that were forced on a thread outside `memory_failure()`: its own user-mode access.
    pub own_access: u64,
    /// Exits on the page.
    pub exits: Exits,
    /// AR signals that KVM sent for an exit, as events show them; the exits' totals may know of more.
    pub exit_signals: u64,
    /// When the last signal was sent that answers no exit.
    #[serde(default)]
    pub signalled: Option<u64>,
    /// Injected machine checks, in order.
    #[serde(alias = "told")]
    pub machine_checks: Vec<McInjection>,
    /// AO injections.
    #[serde(alias = "told_ao")]
    pub ao_injections: u64,
    /// AR injections.
    #[serde(alias = "told_ar")]
    pub ar_injections: u64,
    /// #MC entries into the guest.
    pub delivered: u64,
    /// Threads that got one.
    pub delivered_to: BTreeSet<u32>,
    /// Threads with a delivered #MC whose handler has not cleared MCG_STATUS, and since when.
    pub open_mc: BTreeMap<u32, u64>,
    /// Number of #MC handlers that finished (MCG_STATUS written 0).
    pub finished: u64,
    /// When the guest's #MC handler last finished.
    pub last_finished: Option<u64>,
    /// Action-required signals that the VMM has not answered by an injection, by the thread they were sent to.
    #[serde(alias = "asked")]
    pub pending_sigbus: CompactMap<u32, PendingSigbus>,
    /// RIP of each thread's last exit on the page.
    rips: CompactMap<u32, u64>,
    /// Machine checks that KVM_X86_SET_MCE took, and with which the vCPU went on without a #MC.
    pub dropped: u64,
    /// Action-required signals to a vCPU on which a #MC was open, of this page or of another, and which entered the guest
    /// without an injection.
    #[serde(default)]
    #[serde(alias = "passed_over")]
    pub injections_skipped: u64,
    /// CR4.MCE of the vCPU at its last exit on the page.
    pub mce_enabled: Option<bool>,
    /// Set when the VMM has ended: the SIGBUS that it was sent last.
    pub last_sigbus: Option<LastSigbus>,
    /// Signs that the guest or the VMM ended.
    pub ends: Vec<End>,
    /// What happened when.
    pub timeline: Timeline,
    /// Records lost while this incident was open.
    pub lost: u64,
    /// The pfn was joined by time alone: it is of a memory failure that signalled no process.
    pub joined_by_time: bool,
    /// Nanoseconds during which guest termination was not traced, though an error was injected or the guest ended.
    #[serde(default)]
    pub blind_ns: u64,
    /// How long kvm_exit and kvm_entry were not attached, where it had exits meanwhile.
    #[serde(default)]
    pub attach_delay: Option<AttachDelay>,
    /// Poisoned before the probes were attached, and found afterwards.
    #[serde(default)]
    pub predates: bool,
    /// Events that belong to it.
    pub events: u64,
    /// Its id and `started_at` by the daemon that first reported it, whose wall clock may have been another.
    pub known_as: Option<(String, Option<String>)>,
    /// What logs show of it.
    pub logged: LogEvidence,
    /// What was seen of the error itself.
    #[serde(default)]
    pub hardware: HardwareEvidence,
    /// Runs of the programs that the kernel skipped while it was open.
    #[serde(default)]
    pub runs_missed: u64,
    /// `memory_failure()` for an access of the VMM's own thread, which sent it no SIGBUS that names the page.
    #[serde(default)]
    pub unisolated: Option<Unisolated>,
}

/// Memory that could not be taken out of use: the kernel ends the process that accessed it, without BUS_MCEERR
/// (`kill_me_now`, `kill_procs` where unmapping fails), and whoever accesses it next meets the error again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unisolated {
    /// When `memory_failure()` returned.
    pub t: u64,
    /// What it returned: a negative errno.
    pub ret: i64,
}

/// A machine check as the VMM injected it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct McInjection {
    /// Monotonic nanoseconds.
    pub t: u64,
    /// The thread.
    pub tid: u32,
    /// Number of the vCPU.
    pub vcpu: Option<u32>,
    /// By which ioctl, or that a log shows it.
    pub via: Via,
    /// The bank as it was injected.
    pub bank: Bank,
    /// MCG_STATUS.
    pub mcg_status: Option<u64>,
    /// Action required or optional.
    pub severity: Severity,
    /// Where that vCPU had last touched the page.
    pub rip: Option<u64>,
}

impl McInjection {
    /// Whether the bank had STATUS.OVER.
    pub fn overflow(&self) -> bool {
        self.bank.status.0 & mca::OVER != 0
    }
}

/// An action-required signal that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSigbus {
    /// Monotonic nanoseconds.
    pub t: u64,
    /// A #MC was open on that thread, of any page.
    pub mc_open: bool,
    /// KVM_X86_SET_MCE injected it, and no #MC has come yet.
    #[serde(alias = "told")]
    pub injected: bool,
    /// When the vCPU entered the guest again without an injection.
    pub ran_on: Option<u64>,
}

/// The SIGBUS that a VMM was sent last before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSigbus {
    /// Monotonic nanoseconds.
    pub t: u64,
    /// It was of this incident's page.
    pub of_this_page: bool,
    /// The thread that it was sent to went on, or injected an error: the VMM outlived it.
    pub outlived: bool,
    /// The VMM had outlived one before: it has a handler.
    pub handled_before: bool,
    /// Another one to the same thread had not been answered.
    pub one_pending: bool,
    /// Sent for an access of the VMM's own.
    pub own_access: bool,
}

/// A sign of the guest's or the VMM's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Monotonic nanoseconds.
    pub t: u64,
    /// What was seen.
    pub sign: Termination,
    /// A #MC of this page was open (delivered, handler not finished) at that time.
    pub mc_open: bool,
    /// All that had entered the guest until then was handled to its end, and no signal waited for an answer.
    pub handled: bool,
    /// The page had been accessed until then.
    #[serde(alias = "met")]
    pub accessed: bool,
    /// It may concern this page: false where another page's #MC was open and this one's was not.
    pub mine: bool,
    /// It came after the attribution window.
    pub late: bool,
    /// Why it could not be injected, if that is why it ended.
    pub refused: Option<Refused>,
}

/// An error that could not be injected: neither QEMU nor KVM gives a #MC to a vCPU whose MCG_STATUS.MCIP is set, or whose
/// CR4.MCE is clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A #MC was open on that vCPU.
    pub nested: bool,
}

/// In place of the thread's value before; not where there are too many threads.
fn keep<V>(values: &mut CompactMap<u32, V>, tid: u32, value: V) {
    if values.len() < MAX_THREADS || values.contains_key(&tid) {
        values.insert(tid, value);
    }
}

impl Evidence {
    /// That of a page of the VMM `pid`, poisoned at `t0` (monotonic nanoseconds).
    pub fn new(t0: u64, pid: u32, vmm: Arc<Vmm>) -> Self {
        Self {
            t0,
            last: t0,
            last_poison: t0,
            pid,
            vmm,
            pfn: None,
            host_loss: HostLoss::default(),
            vcpu_signalled: false,
            hva: None,
            named_hva: None,
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
            signalled: None,
            machine_checks: Vec::new(),
            ao_injections: 0,
            ar_injections: 0,
            delivered: 0,
            delivered_to: BTreeSet::new(),
            open_mc: BTreeMap::new(),
            finished: 0,
            last_finished: None,
            pending_sigbus: CompactMap::default(),
            rips: CompactMap::default(),
            dropped: 0,
            injections_skipped: 0,
            mce_enabled: None,
            last_sigbus: None,
            ends: Vec::new(),
            timeline: Timeline::default(),
            lost: 0,
            joined_by_time: false,
            blind_ns: 0,
            attach_delay: None,
            predates: false,
            events: 0,
            known_as: None,
            logged: LogEvidence::default(),
            hardware: HardwareEvidence::default(),
            runs_missed: 0,
            unisolated: None,
        }
    }

    /// How much the incident keeps of each exit and event.
    pub fn set_detail(&mut self, detail: Detail) {
        self.exits.exit_samples.detail = detail;
        self.timeline.detail = detail;
    }

    /// More of the page is lost than was known: 2^`lsb` bytes from `base` on. Returns whether that is so.
    pub fn widen(&mut self, base: u64, lsb: u32) -> bool {
        let wider = self.lsb.is_none_or(|known| known < lsb);
        if wider {
            self.lsb = Some(lsb);
            self.named_hva = self.named_hva.or(self.hva);
            self.hva = Some(base);
        }
        wider
    }

    /// A sign of the poison itself, at time `t`.
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

    /// An action-required signal now waits for the VMM's answer. `mc_open`: on that thread, of any page.
    pub fn ask(&mut self, t: u64, tid: u32, mc_open: bool) {
        let pending_sigbus = PendingSigbus {
            t,
            mc_open,
            injected: false,
            ran_on: None,
        };
        keep(&mut self.pending_sigbus, tid, pending_sigbus);
    }

    /// Adds a poison exit of thread `tid`.
    pub fn exit(&mut self, tid: u32, vcpu: Option<u32>, exit: &PoisonExit) {
        if let Some(gpa) = exit.gpa {
            self.touched_page(gpa.0 & !(PAGE_SIZE - 1));
        }
        if let Some(rip) = exit.rip {
            keep(&mut self.rips, tid, rip.0);
        }
        self.other_address = exit.other_address.or(self.other_address);
        self.exits.add(tid, vcpu, exit);
    }

    /// The guest's own access met the error: where it was is where a #MC for it interrupts it.
    pub fn consume(&mut self, consumed: Consumed) {
        if let Some(rip) = consumed.rip {
            keep(&mut self.rips, consumed.tid, rip);
        }
        self.hardware.consumed.get_or_insert(consumed);
    }

    /// #MC entered the guest at `rip`, which KVM did not have when the guest consumed the error.
    pub fn interrupted_at(&mut self, tid: u32, rip: u64) {
        let Some(consumed) = &mut self.hardware.consumed else {
            return;
        };
        if consumed.tid == tid && consumed.rip.is_none() {
            consumed.rip = Some(rip);
            self.timeline.left_at(consumed.t, rip);
            keep(&mut self.rips, tid, rip);
        }
    }

    /// The vCPU entered the guest again after an exit on the page. Returns whether it did so with a #MC open on it, and
    /// without an injection for this access.
    pub fn reentered(&mut self, tid: u32, entry_ns: u64) -> bool {
        let Some(pending_sigbus) = self.pending_sigbus.get_mut(&tid) else {
            return false;
        };
        if pending_sigbus.injected {
            self.dropped += 1;
            self.pending_sigbus.remove(&tid);
            return false;
        }
        let first = pending_sigbus.ran_on.is_none();
        pending_sigbus.ran_on.get_or_insert(entry_ns);
        first && pending_sigbus.mc_open
    }

    /// Adds what is known of an incident that turned out to be of this page.
    pub fn absorb(&mut self, other: Self) {
        self.t0 = self.t0.min(other.t0);
        self.last = self.last.max(other.last);
        self.last_poison = self.last_poison.max(other.last_poison);
        self.host_loss = self.host_loss.joined(other.host_loss);
        self.vcpu_signalled |= other.vcpu_signalled;
        self.pfn = self.pfn.or(other.pfn);
        self.hva = self.hva.or(other.hva);
        self.named_hva = self.named_hva.or(other.named_hva);
        self.lsb = self.lsb.or(other.lsb);
        self.page_type = self.page_type.take().or(other.page_type);
        self.recovery = self.recovery.take().or(other.recovery);
        self.ao_signals += other.ao_signals;
        self.ar_signals += other.ar_signals;
        self.own_access += other.own_access;
        self.exits.absorb(other.exits);
        self.exit_signals += other.exit_signals;
        self.signalled = self.signalled.max(other.signalled);
        self.machine_checks.extend(other.machine_checks);
        self.machine_checks.sort_by_key(|injection| injection.t);
        self.machine_checks.truncate(MAX_INJECTIONS);
        self.ao_injections += other.ao_injections;
        self.ar_injections += other.ar_injections;
        self.delivered += other.delivered;
        self.delivered_to.extend(other.delivered_to);
        self.open_mc.extend(other.open_mc);
        self.finished += other.finished;
        self.last_finished = self.last_finished.max(other.last_finished);
        for (tid, pending_sigbus) in other.pending_sigbus {
            keep(&mut self.pending_sigbus, tid, pending_sigbus);
        }
        self.dropped += other.dropped;
        self.injections_skipped += other.injections_skipped;
        self.mce_enabled = self.mce_enabled.or(other.mce_enabled);
        self.ends.extend(other.ends);
        self.ends.sort_by_key(|end| end.t);
        self.ends.truncate(MAX_ENDS);
        self.timeline.absorb(other.timeline);
        self.lost += other.lost;
        self.joined_by_time |= other.joined_by_time;
        self.blind_ns = self.blind_ns.max(other.blind_ns);
        self.attach_delay = self.attach_delay.or(other.attach_delay);
        self.predates |= other.predates;
        self.logged.trace |= other.logged.trace;
        self.runs_missed = self.runs_missed.max(other.runs_missed);
        self.hardware.absorb(other.hardware);
        self.unisolated = self.unisolated.or(other.unisolated);
    }

    /// Takes the addresses that a walk over the page contradicts out of the page's own.
    pub fn correct_address(&mut self) {
        if self.gpas.len() < 2 || self.size().is_some_and(|size| size > PAGE_SIZE) {
            return;
        }
        let total = self.exits.total();
        self.gpas.retain(|gpa| !total.misread.contains(gpa));
        if self.gpa.is_some_and(|gpa| total.misread.contains(&gpa)) {
            self.gpa = total.walk.and_then(|walk| walk.page).or(self.gpa);
        }
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

    /// Keeps an injection.
    pub fn record_injection(&mut self, mut injection: McInjection) {
        injection.rip = self.rips.get(&injection.tid).copied();
        if injection.via == Via::SetMsrs {
            self.pending_sigbus.remove(&injection.tid);
        } else if mca::raises_mc(injection.bank.status.0) {
            if self.pending_sigbus.get(&injection.tid).is_none() {
                let mc_open = self.open_mc.contains_key(&injection.tid);
                self.ask(injection.t, injection.tid, mc_open);
            }
            if let Some(pending_sigbus) = self.pending_sigbus.get_mut(&injection.tid) {
                pending_sigbus.injected = true;
            }
        }
        match injection.severity {
            Severity::Ao => self.ao_injections += 1,
            Severity::Ar => self.ar_injections += 1,
            Severity::Broadcast | Severity::Other => {}
        }
        if self.machine_checks.len() < MAX_INJECTIONS {
            compact_map::push(&mut self.machine_checks, injection);
        }
    }

    /// #MC entered the guest on this thread.
    pub fn deliver(&mut self, t: u64, tid: u32) {
        self.delivered += 1;
        self.delivered_to.insert(tid);
        self.open_mc.insert(tid, t);
        self.pending_sigbus.remove(&tid);
    }

    /// The guest's handler on this thread wrote 0 to MCG_STATUS.
    pub fn finish(&mut self, t: u64, tid: u32) -> bool {
        if self.open_mc.remove(&tid).is_none() {
            return false;
        }
        if self.open_mc.is_empty() {
            // A tree that has been emptied keeps a node.
            self.open_mc = BTreeMap::new();
        }
        self.finished += 1;
        self.last_finished = Some(t);
        true
    }

    /// Notes a sign of an end. Returns whether it is news.
    pub fn end(&mut self, mut end: End) -> bool {
        self.last = self.last.max(end.t);
        end.mc_open = !self.open_mc.is_empty();
        end.handled = self.handled();
        end.accessed = self.accessed();
        // The same sign again (a vCPU each, a port written twice) is no news.
        let again = |other: &End| {
            let state = |end: &End| (end.mc_open, end.mine, end.late, end.refused);
            other.sign == end.sign && state(other) == state(&end)
        };
        if self.ends.len() >= MAX_ENDS || self.ends.iter().any(again) {
            return false;
        }
        compact_map::push(&mut self.ends, end);
        true
    }
}
