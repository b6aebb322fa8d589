//! Ends: of the guest, of the VMM.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;

use super::{Correlator, IncidentNo, pages::New};
use crate::{
    event::{Event, EventKind},
    incident::{
        evidence::{End, Evidence, Refused},
        limits::PAGE_SIZE,
        termination::Termination,
        timeline::{TerminationEntry, TimelineEvent},
    },
};

const KVM_EXIT_SHUTDOWN: u32 = 8;
const KVM_EXIT_FAIL_ENTRY: u32 = 9;
const KVM_EXIT_INTERNAL_ERROR: u32 = 17;
const KVM_EXIT_SYSTEM_EVENT: u32 = 24;
const KVM_EXIT_MEMORY_FAULT: u32 = 39;

const PORT_PVPANIC: u64 = 0x505;
const PORT_RESET: u64 = 0xcf9;
const PORT_KEYBOARD: u64 = 0x64;
const PORT_PM1A: u64 = 0x604;
/// pvpanic event bits (QEMU docs/specs/pvpanic).
const PVPANIC_PANICKED: u64 = 1;
const PVPANIC_CRASH_LOADED: u64 = 2;
const PVPANIC_SHUTDOWN: u64 = 4;
/// A vCPU that starts anew does so in the entry that also ends its exit on poison, nanoseconds.
const SAME_ENTRY_NS: u64 = 10_000_000;
/// What KVM or the VMM refuse to show ends the guest at once: later than this it ended otherwise, nanoseconds.
const REFUSAL_ENDS_WITHIN_NS: u64 = 5_000_000_000;
/// `-EHWPOISON`.
const EHWPOISON: i32 = -133;
/// Reset control register: bit 2 makes bit 1's kind of reset happen.
const RESET_NOW: u64 = 4;

fn entry(end: &End, vcpu: Option<u32>) -> TimelineEvent {
    let of_the_guest = !matches!(
        end.sign,
        Termination::VmmExit(_) | Termination::VmmGone | Termination::VmDestroyed
    );
    TimelineEvent::Termination(Box::new(TerminationEntry {
        sign: end.sign.clone(),
        vcpu,
        other_page: !end.mine,
        late: end.mine && end.late && of_the_guest,
    }))
}

impl Correlator {
    pub(super) fn ended(&mut self, event: &Event) {
        let pid = event.pid;
        let mut found = sign(&event.what);
        if let EventKind::TaskExit { exit_code, .. } = &event.what {
            // The last thread to end may be a kernel worker of the process (kvm-nx-lpage-recovery), whose own
            // status is 0: the process ended as its leader did.
            if event.tid == pid && *exit_code != 0 {
                self.threads.of(event).exit_code = *exit_code;
            }
            let leader = self.threads.get(pid).map_or(0, |thread| thread.exit_code);
            if found == Some(Termination::VmmExit(0)) && leader != 0 {
                found = Some(Termination::VmmExit(leader));
            }
        }
        let Some(sign) = found else { return };
        let vcpu = event.vcpu.or_else(|| self.threads.vcpu_of(event.tid));
        if sign == Termination::PrivateMemory {
            self.private_memory_lost(event, vcpu);
            return;
        }
        let attribution = self.attribute(event, &sign);
        for no in self.incidents.of_process(pid).to_vec() {
            let last_sigbus = self.last_sigbus(pid, no);
            let Some(end) = self.end_of(no, event.t, &sign, &attribution) else {
                continue;
            };
            let entry = entry(&end, vcpu);
            if let Some(evidence) = self.incidents.touch(no) {
                if matches!(sign, Termination::VmmExit(_)) {
                    evidence.last_sigbus = last_sigbus;
                }
                if evidence.end(end) {
                    evidence.timeline.add(event.t, entry);
                }
            }
        }
        if matches!(sign, Termination::VmmExit(_) | Termination::VmmGone) {
            // The incidents stay with the pid: the VM itself is destroyed only after this.
            self.pages.remove_process(pid);
            self.threads.remove_process(pid);
            self.processes.remove(&pid);
            self.sigbus_handling.remove(&pid);
        }
    }

    /// Poison in guest_memfd sends no signal: KVM_RUN itself shows it, and not of its page.
    fn private_memory_lost(&mut self, event: &Event, vcpu: Option<u32>) {
        let known = self.incidents.live_of(event.pid).find(|no| {
            self.incidents
                .get(*no)
                .is_some_and(|e| e.private_fault().is_some())
        });
        let no = known.unwrap_or_else(|| self.open_new(event, event.pid, New::default()));
        let Some(end) = self.end_of(no, event.t, &Termination::PrivateMemory, &Attribution::default()) else {
            return;
        };
        let entry = entry(&end, vcpu);
        let page = match &event.what {
            EventKind::UserspaceExit { gpa, .. } => gpa.map(|gpa| gpa.0 & !(PAGE_SIZE - 1)),
            _ => None,
        };
        if let Some(evidence) = self.incidents.touch(no) {
            evidence.gpa = evidence.gpa.or(page);
            evidence.poison_at(event.t);
            if evidence.end(end) {
                evidence.timeline.add(event.t, entry);
            }
        }
    }

    /// The end as it concerns one incident; `None` where it does not.
    fn end_of(&self, no: IncidentNo, t: u64, sign: &Termination, attribution: &Attribution) -> Option<End> {
        let evidence = self.incidents.get(no)?;
        // The kernel destroys the VM after the VMM's last thread has ended.
        if evidence.vmm_gone() && *sign != Termination::VmDestroyed {
            return None;
        }
        Some(End {
            t,
            sign: sign.clone(),
            mc_open: false,
            handled: false,
            accessed: false,
            mine: attribution.of.is_empty() || attribution.of.contains(&no),
            late: t.saturating_sub(evidence.last_poison) > self.attribution_window_ns,
            refused: attribution.refused.filter(|_| attribution.of.contains(&no)),
        })
    }

    /// Which of a VM's poisoned pages a sign of the guest's end is of.
    fn attribute(&self, event: &Event, sign: &Termination) -> Attribution {
        let all = || self.incidents.live_evidence_of(event.pid);
        if let Some((pending_sigbus, on, nested)) = self.refusal(event, sign) {
            let of = all()
                .filter(|(no, e)| *no == pending_sigbus || nested && e.open_mc.contains_key(&on))
                .map(|(no, _)| no)
                .collect();
            return Attribution {
                of,
                refused: Some(Refused { nested }),
            };
        }
        // The end of the VMM, and a guest that turns itself off, concern each page.
        let everyones = matches!(
            sign,
            Termination::VmmExit(_) | Termination::VmmGone | Termination::VmDestroyed | Termination::PowerOff
        );
        if everyones {
            return Attribution::default();
        }
        let in_handler: BTreeSet<IncidentNo> = all()
            .filter(|(_, e)| !e.open_mc.is_empty() || e.skips_injections())
            .map(|(no, _)| no)
            .collect();
        let of = if in_handler.is_empty() {
            let latest = all()
                .filter(|(_, e)| e.accessed())
                .max_by_key(|(_, e)| e.last_poison);
            latest.map(|(no, _)| no).into_iter().collect()
        } else {
            in_handler
        };
        Attribution { of, refused: None }
    }

    /// The page, the vCPU thread, and whether a #MC was open there, if this end is that of a guest which could not be
    /// reported. KVM ends KVM_RUN with KVM_EXIT_SHUTDOWN where KVM_X86_SET_MCE met MCIP or CR4.MCE = 0
    /// (`kvm_vcpu_ioctl_x86_set_mce`); QEMU makes the same test itself before it shows anything, and resets
    /// (`do_inject_x86_mce`), or ends with status 0 with `-no-reboot`. A VMM that has let one pass before
    /// does not do that. What the guest did itself must have been visible.
    fn refusal(&self, event: &Event, sign: &Termination) -> Option<(IncidentNo, u32, bool)> {
        let by_kvm = match sign {
            Termination::KvmShutdown => true,
            Termination::VcpuReset | Termination::VmmExit(0) => false,
            _ => return None,
        };
        let all = || self.incidents.live_evidence_of(event.pid);
        // The guest did it itself: by a triple fault, or by a port.
        let itself = |e: &Evidence, since: u64| {
            let by = |sign: &Termination| {
                matches!(
                    sign,
                    Termination::TripleFault | Termination::ResetPort(_) | Termination::PowerOff
                )
            };
            e.ends.iter().any(|end| by(&end.sign) && end.t >= since)
        };
        let (no, tid, pending_sigbus) = all()
            .flat_map(|(no, e)| {
                e.pending_sigbus
                    .iter()
                    .map(move |(tid, pending_sigbus)| (no, *tid, *pending_sigbus))
            })
            .filter(|(no, _, _)| by_kvm || self.incidents.get(*no).is_some_and(|e| !e.let_one_pass()))
            .filter(|(_, tid, pending_sigbus)| {
                pending_sigbus.injected == by_kvm && (!by_kvm || *tid == event.tid)
            })
            .max_by_key(|(_, _, pending_sigbus)| pending_sigbus.t)?;
        let ran_on = pending_sigbus
            .ran_on
            .is_some_and(|t| event.t.saturating_sub(t) > SAME_ENTRY_NS);
        let late = event.t.saturating_sub(pending_sigbus.t) > REFUSAL_ENDS_WITHIN_NS;
        if ran_on
            || late
            || all().any(|(_, e)| itself(e, pending_sigbus.t))
            || !self.all_seen(pending_sigbus.t)
        {
            return None;
        }
        Some((no, tid, pending_sigbus.mc_open))
    }
}

/// See [`Correlator::attribution`]; `of` empty: nothing shows them apart.
#[derive(Default)]
struct Attribution {
    of: BTreeSet<IncidentNo>,
    refused: Option<Refused>,
}

fn sign(what: &EventKind) -> Option<Termination> {
    Some(match what {
        EventKind::UserspaceExit { reason, errno, .. } => match *reason {
            KVM_EXIT_SHUTDOWN => Termination::KvmShutdown,
            KVM_EXIT_SYSTEM_EVENT => Termination::SystemEvent,
            KVM_EXIT_FAIL_ENTRY | KVM_EXIT_INTERNAL_ERROR => Termination::InternalError,
            // With EFAULT a page is to change between private and shared.
            KVM_EXIT_MEMORY_FAULT if *errno == EHWPOISON => Termination::PrivateMemory,
            _ => return None,
        },
        EventKind::Pio { port, value, .. } => match (port.0, value.0) {
            (PORT_PVPANIC, v) if v & PVPANIC_PANICKED != 0 => Termination::Panic,
            (PORT_PVPANIC, v) if v & PVPANIC_CRASH_LOADED != 0 => Termination::CrashLoaded,
            (PORT_PVPANIC, v) if v & PVPANIC_SHUTDOWN != 0 => Termination::PowerOff,
            (PORT_RESET, v) if v & RESET_NOW != 0 => Termination::ResetPort(PORT_RESET),
            (PORT_KEYBOARD, 0xfe) => Termination::ResetPort(PORT_KEYBOARD),
            (PORT_PM1A, _) => Termination::PowerOff,
            _ => return None,
        },
        EventKind::VcpuReset { .. } => Termination::VcpuReset,
        EventKind::TripleFault { .. } => Termination::TripleFault,
        // Only the last thread's end is the VMM's; where the count is not known, none is taken for it.
        EventKind::TaskExit {
            exit_code,
            live: Some(0),
            ..
        } => Termination::VmmExit(*exit_code),
        EventKind::VmDestroyed => Termination::VmDestroyed,
        EventKind::VmmGone => Termination::VmmGone,
        EventKind::ResetAsked { port } => Termination::ResetPort(port.0),
        _ => return None,
    })
}
