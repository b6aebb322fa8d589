//! vCPU threads: the thread is the identity that all KVM events share.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Correlator, IncidentNo, make_room};
use crate::{
    event::{Bank, Event},
    incident::model::Via,
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
    /// The incident that this vCPU was last reported.
    pub machine_checks: Option<IncidentNo>,
    /// The incident of its last exit on poison.
    pub exited: Option<IncidentNo>,
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

impl Correlator {
    pub(super) fn thread(&mut self, event: &Event) -> &mut Thread {
        if !self.threads.contains_key(&event.tid) {
            self.dropped.threads += make_room(&mut self.threads, self.limits.threads);
        }
        let thread = self.threads.entry(event.tid).or_default();
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

    /// Notes the vCPU number of a thread, and hands it to what was notified before it was known.
    pub(super) fn learn_vcpu(&mut self, event: &Event) {
        let Some(vcpu) = event.vcpu else { return };
        let tid = event.tid;
        let thread = self.thread(event);
        if thread.vcpu == Some(vcpu) {
            return;
        }
        thread.vcpu = Some(vcpu);
        for no in self.by_pid.get(&event.pid).into_iter().flatten() {
            if let Some(evidence) = self.incidents.get_mut(no) {
                for injection in evidence
                    .machine_checks
                    .iter_mut()
                    .filter(|injection| injection.tid == tid)
                {
                    injection.vcpu = Some(vcpu);
                    self.changed.insert(*no);
                }
            }
        }
    }

    pub(super) fn vcpu_of(&self, tid: u32) -> Option<u32> {
        self.threads.get(&tid)?.vcpu
    }
}
