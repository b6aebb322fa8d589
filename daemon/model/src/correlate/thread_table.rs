//! vCPU threads: the thread is the identity that all KVM events share.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Correlator, IncidentNo, bounded::BoundedMap};
use crate::{
    event::{Bank, Event},
    incident::{model::Via, origin::Consumed},
};

/// What is known of one thread of a VMM.
#[derive(Default)]
pub struct Thread {
    pub pid: u32,
    pub vcpu: Option<u32>,
    /// The valid banks as the VMM last wrote them for this vCPU.
    pub banks: BTreeMap<u32, Bank>,
    pub mcg_status: Option<u64>,
    /// Banks written with an error that raises #MC, before the #MC itself is queued.
    pub pending: Vec<Pending>,
    /// #MC is queued and not delivered yet.
    pub outstanding: bool,
    /// Its exit status, once it has ended with another than 0.
    pub exit_code: i32,
    /// The incident of the last error injected into this vCPU.
    pub machine_checks: Option<IncidentNo>,
    /// The incident of its last exit on poison.
    pub exited: Option<IncidentNo>,
    /// Its guest was left by #MC, and nothing has shown yet of which page.
    pub mc_exit: Option<Consumed>,
    /// When `memory_failure()` for what its guest consumed returned, and of which page it was.
    pub consumed: Option<(u64, u64)>,
    /// Incidents whose #MC its guest's handler has not finished.
    pub in_mc: Vec<IncidentNo>,
}

/// A bank that waits for its #MC.
pub struct Pending {
    pub t: u64,
    pub bank: Bank,
    pub mcg_status: Option<u64>,
    pub via: Via,
}

/// Threads by their number. A number that another process has now is another thread.
pub(super) struct ThreadTable {
    threads: BoundedMap<u32, Thread>,
}

impl ThreadTable {
    pub fn new(limit: usize) -> Self {
        Self {
            threads: BoundedMap::new(limit),
        }
    }

    pub fn len(&self) -> usize {
        self.threads.len()
    }

    /// Threads evicted so far because the table was full.
    pub fn evicted(&self) -> u64 {
        self.threads.evicted()
    }

    pub fn get(&self, tid: u32) -> Option<&Thread> {
        self.threads.get(&tid)
    }

    /// The thread of an event, made known if it is not.
    pub fn of(&mut self, event: &Event) -> &mut Thread {
        let thread = self.threads.get_or_default(event.tid);
        if thread.pid != event.pid {
            // A reused thread number: what was known is another thread's.
            *thread = Thread {
                pid: event.pid,
                vcpu: event.vcpu,
                ..Thread::default()
            };
        }
        thread
    }

    pub fn get_mut(&mut self, tid: u32) -> Option<&mut Thread> {
        self.threads.get_mut(&tid)
    }

    pub fn vcpu_of(&self, tid: u32) -> Option<u32> {
        self.get(tid)?.vcpu
    }

    /// Removes the threads of a process that is gone.
    pub fn remove_process(&mut self, pid: u32) {
        self.threads.retain(|_, thread| thread.pid != pid);
    }

    /// What a thread refers to as the incident `odd` is part of the incident `walk` now.
    pub fn rename_incident(&mut self, tid: u32, odd: IncidentNo, walk: IncidentNo) {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        let last = [&mut thread.exited, &mut thread.machine_checks]
            .into_iter()
            .flatten();
        for no in last.chain(&mut thread.in_mc) {
            if *no == odd {
                *no = walk;
            }
        }
    }
}

impl Correlator {
    /// Notes the vCPU number of a thread, and hands it to the machine checks that were injected before it was known.
    pub(super) fn learn_vcpu(&mut self, event: &Event) {
        let Some(vcpu) = event.vcpu else { return };
        let thread = self.threads.of(event);
        if thread.vcpu == Some(vcpu) {
            return;
        }
        thread.vcpu = Some(vcpu);
        for no in self.incidents.of_process(event.pid).to_vec() {
            let Some(evidence) = self.incidents.get_mut(no) else {
                continue;
            };
            let mut changed = false;
            let injections = evidence.machine_checks.iter_mut();
            for injection in injections.filter(|injection| injection.tid == event.tid) {
                injection.vcpu = Some(vcpu);
                changed = true;
            }
            if changed {
                self.incidents.mark_changed(no);
            }
        }
    }
}
