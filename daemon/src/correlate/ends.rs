//! Ends: of the guest, of the VMM.

use super::{Correlator, IncidentNo, moments};
use crate::{
    event::{Event, What},
    incident::evidence::Sign,
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
/// Reset control register: bit 2 makes bit 1's kind of reset happen.
const RESET_NOW: u64 = 4;

impl Correlator {
    pub(super) fn ended(&mut self, event: &Event) {
        let pid = event.pid;
        let mut found = sign(&event.what);
        if let What::TaskExit { exit_code, .. } = &event.what {
            // The last thread to end may be a kernel worker of the process (kvm-nx-lpage-recovery), whose own
            // status is 0: the process ended as its leader did.
            if event.tid == pid && *exit_code != 0 {
                self.thread(event).exit_code = *exit_code;
            }
            let leader = self.threads.get(&pid).map_or(0, |thread| thread.exit_code);
            if found == Some(Sign::VmmExit(0)) && leader != 0 {
                found = Some(Sign::VmmExit(leader));
            }
        }
        let Some(sign) = found else { return };
        let vcpu = event.vcpu.or_else(|| self.vcpu_of(event.tid));
        for no in self.by_pid.get(&pid).cloned().unwrap_or_default() {
            if !self.belongs(no, event.t, &sign) {
                continue;
            }
            if let Some(evidence) = self.touch(no) {
                let known = evidence.sign(|other| *other == sign).is_some();
                evidence.end(event.t, sign.clone());
                if !known {
                    evidence.timeline.add(event.t, moments::end(&sign, vcpu));
                }
            }
        }
        if matches!(sign, Sign::VmmExit(_) | Sign::VmmGone) {
            // The incidents stay with the pid: the VM itself is destroyed only after this.
            self.pages.remove_pid(pid);
            self.gpas.remove_pid(pid);
            self.threads.retain(|_, thread| thread.pid != pid);
            self.processes.remove(&pid);
        }
    }

    /// A guest that dies late still belongs to its poison, for a while; the VMM's own end always.
    fn belongs(&self, no: IncidentNo, t: u64, sign: &Sign) -> bool {
        let Some(evidence) = self.incidents.get(&no) else {
            return false;
        };
        match sign {
            // The kernel destroys the VM after the VMM's last thread has ended.
            Sign::VmDestroyed => true,
            _ if evidence.vmm_gone() => false,
            Sign::VmmExit(_) | Sign::VmmGone => true,
            _ => t.saturating_sub(evidence.last_poison) <= self.limits.late_death_ns,
        }
    }
}

fn sign(what: &What) -> Option<Sign> {
    Some(match what {
        What::UserspaceExit { reason, errno } => match *reason {
            KVM_EXIT_SHUTDOWN => Sign::KvmShutdown,
            KVM_EXIT_SYSTEM_EVENT => Sign::SystemEvent,
            KVM_EXIT_FAIL_ENTRY | KVM_EXIT_INTERNAL_ERROR => Sign::InternalError,
            KVM_EXIT_MEMORY_FAULT => Sign::MemoryFault(*errno),
            _ => return None,
        },
        What::Pio { port, value, .. } => match (port.0, value.0) {
            (PORT_PVPANIC, v) if v & PVPANIC_PANICKED != 0 => Sign::Panic,
            (PORT_PVPANIC, v) if v & PVPANIC_CRASH_LOADED != 0 => Sign::CrashLoaded,
            (PORT_PVPANIC, v) if v & PVPANIC_SHUTDOWN != 0 => Sign::PowerOff,
            (PORT_RESET, v) if v & RESET_NOW != 0 => Sign::ResetPort(PORT_RESET),
            (PORT_KEYBOARD, 0xfe) => Sign::ResetPort(PORT_KEYBOARD),
            (PORT_PM1A, _) => Sign::PowerOff,
            _ => return None,
        },
        What::VcpuReset { .. } => Sign::VcpuReset,
        What::TripleFault { .. } => Sign::TripleFault,
        // Only the last thread's end is the VMM's; where the count is not known, none is taken for it.
        What::TaskExit {
            exit_code,
            live: Some(0),
            ..
        } => Sign::VmmExit(*exit_code),
        What::VmDestroyed => Sign::VmDestroyed,
        What::VmmGone => Sign::VmmGone,
        What::ResetAsked { port } => Sign::ResetPort(port.0),
        _ => return None,
    })
}
