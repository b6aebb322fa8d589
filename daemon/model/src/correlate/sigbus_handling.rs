//! Which SIGBUS of poison a VMM has answered, a process each: what its own end is held against.

use super::{Correlator, IncidentNo};
use crate::{compact_map::CompactMap, event::Event, incident::evidence::LastSigbus};

/// Threads of one VMM whose unanswered signals are kept.
const MAX_PENDING: usize = 1024;
/// A VMM that is sent another one so much later has outlived the one before, nanoseconds: the default action ends all
/// threads at once.
const OUTLIVED_NS: u64 = 1_000_000_000;

/// See the module.
#[derive(Default)]
pub struct SigbusHandling {
    /// By thread; whether it was sent for an access of the VMM's own.
    pending: CompactMap<u32, bool>,
    handled: bool,
    last: Option<Sent>,
}

struct Sent {
    t: u64,
    tid: u32,
    no: IncidentNo,
    own_access: bool,
    one_pending: bool,
    outlived: bool,
}

/// A SIGBUS to a thread of a VMM.
pub struct ToThread {
    pub pid: u32,
    pub tid: u32,
    pub no: IncidentNo,
    pub required: bool,
    pub own_access: bool,
}

impl SigbusHandling {
    fn sent(&mut self, t: u64, signal: &ToThread) {
        if let Some(last) = &self.last {
            self.handled |= last.outlived || t.saturating_sub(last.t) > OUTLIVED_NS;
        }
        self.last = Some(Sent {
            t,
            tid: signal.tid,
            no: signal.no,
            own_access: signal.own_access,
            // Its own access, tried again after the handler: the same one.
            one_pending: self
                .pending
                .get(&signal.tid)
                .is_some_and(|own| !(*own && signal.own_access)),
            outlived: false,
        });
        if signal.required && self.pending.len() < MAX_PENDING {
            self.pending.insert(signal.tid, signal.own_access);
        }
    }

    fn goes_on(&mut self, tid: u32) {
        self.pending.remove(&tid);
        if let Some(last) = self.last.as_mut().filter(|last| last.tid == tid) {
            last.outlived = true;
        }
    }

    fn injected(&mut self, tid: u32) {
        self.handled = true;
        self.goes_on(tid);
    }

    fn at_end(&self, no: IncidentNo) -> Option<LastSigbus> {
        self.last.as_ref().map(|last| LastSigbus {
            t: last.t,
            of_this_page: last.no == no,
            outlived: last.outlived,
            handled_before: self.handled,
            one_pending: last.one_pending,
            own_access: last.own_access,
        })
    }
}

impl Correlator {
    /// A SIGBUS was sent to a thread of a VMM.
    pub(super) fn signal_sent(&mut self, event: &Event, signal: &ToThread) {
        let is_vmm = |pid: &u32| {
            self.processes
                .get(pid)
                .is_some_and(|vmm| vmm.is_vmm == Some(true))
        };
        self.sigbus_handling
            .get_or_default_sparing(signal.pid, |pid, _| is_vmm(pid))
            .sent(event.t, signal);
        if signal.required {
            let mc_open = self.mc_open_on(signal.pid, signal.tid);
            if let Some(evidence) = self.incidents.get_mut(signal.no) {
                evidence.ask(event.t, signal.tid, mc_open);
            }
        }
    }

    /// The thread entered its guest, or spoke to KVM of it: it has outlived its SIGBUS.
    pub(super) fn thread_goes_on(&mut self, event: &Event) {
        if let Some(handling) = self.sigbus_handling.get_mut(&event.pid) {
            handling.goes_on(event.tid);
        }
    }

    /// The VMM injected an error into its guest: it has a handler.
    pub(super) fn guest_got_injection(&mut self, event: &Event) {
        if let Some(handling) = self.sigbus_handling.get_mut(&event.pid) {
            handling.injected(event.tid);
        }
    }

    pub(super) fn last_sigbus(&self, pid: u32, no: IncidentNo) -> Option<LastSigbus> {
        self.sigbus_handling.get(&pid)?.at_end(no)
    }

    /// Whether a #MC is open on a thread, of any page.
    fn mc_open_on(&self, pid: u32, tid: u32) -> bool {
        let thread = self.threads.get(tid).filter(|thread| thread.pid == pid);
        thread.is_some_and(|thread| {
            let open = |no: &IncidentNo| {
                self.incidents
                    .get(*no)
                    .is_some_and(|e| e.open_mc.contains_key(&tid))
            };
            thread.in_mc.iter().any(open)
        })
    }
}
