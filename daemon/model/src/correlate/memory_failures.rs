//! `memory_failure()` as the host runs it: those under way by thread, and those that signalled no process.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::{borrow::ToOwned as _, string::String, vec::Vec};

use super::{
    Correlator, IncidentNo,
    bounded::BoundedMap,
    by_process::HUGE,
    hardware::Caller,
    pages::{New, failure_begin},
};
use crate::{
    event::{Event, SigbusSeverity, probe::ProbeId},
    hex::Hex,
    incident::{evidence::HostLoss, timeline::TimelineEvent},
};

/// A `memory_failure()` under way on one thread.
pub(super) struct Failure {
    pub t: u64,
    pub pfn: Option<u64>,
    pub flags: Option<u64>,
    page_type: Option<String>,
    result: Option<String>,
    incidents: BTreeSet<IncidentNo>,
    caller: Caller,
}

/// A poisoned page for which no process was signalled: its VMMs learn of it when they touch it. Either they did not ask for early
/// notice, or no VM had the page yet (a memory file that outlives its VMs).
pub(super) struct Silent {
    pub t: u64,
    pub pfn: u64,
    pub flags: Option<u64>,
    pub page_type: String,
    pub result: String,
}

impl Silent {
    pub fn is_huge(&self) -> bool {
        self.page_type.starts_with(HUGE)
    }
}

/// Flag of `memory_failure()` (include/linux/mm.h): the thread's own access met the error.
const MF_ACTION_REQUIRED: u64 = 1 << 1;
/// `-EHWPOISON`: the page was known, and the thread is signalled (`kill_me_maybe`).
const EHWPOISON: i64 = -133;
/// Silent losses that are kept: the latest.
const MAX_SILENT: usize = 64;
/// The kernel's name of a page that a process may still come to ends so; a free page, for one, nobody gets any more.
const IN_USE: &str = "LRU page";

/// See the module.
pub(super) struct MemoryFailures {
    by_thread: BoundedMap<u32, Failure>,
    silent: VecDeque<Silent>,
    silent_evicted: u64,
    /// Whether the host has lost any memory since the start, or may have.
    any: bool,
}

impl MemoryFailures {
    pub fn new(limit: usize) -> Self {
        Self {
            by_thread: BoundedMap::new(limit),
            silent: VecDeque::new(),
            silent_evicted: 0,
            any: false,
        }
    }

    /// Notes that the host has poisoned memory, or may have.
    pub fn note_loss(&mut self) {
        self.any = true;
    }

    /// Under way, and those that signalled no process.
    pub fn sizes(&self) -> [usize; 2] {
        [self.by_thread.len(), self.silent.len()]
    }

    /// Entries evicted so far, in the order of [`Self::sizes`].
    pub fn evicted(&self) -> [u64; 2] {
        [self.by_thread.evicted(), self.silent_evicted]
    }

    /// The one that this thread is in.
    pub fn on_thread(&self, tid: u32) -> Option<&Failure> {
        self.by_thread.get(&tid)
    }

    /// Whether a page was lost since `t`, of which no process was notified.
    pub fn silent_since(&self, t: u64) -> bool {
        self.silent.back().is_some_and(|silent| silent.t >= t)
    }

    /// The silent loss, where there is one alone and of this kind.
    pub fn take_only_silent(&mut self, huge: bool) -> Option<Silent> {
        let only = self.silent.len() == 1 && self.silent.front()?.is_huge() == huge;
        only.then(|| self.silent.pop_front()).flatten()
    }

    /// Keeps a failure that has ended, if it signalled no process about a page in use.
    fn keep_silent(&mut self, failure: Failure) {
        let (true, Some(pfn), Some(page_type), Some(result)) = (
            failure.incidents.is_empty(),
            failure.pfn,
            failure.page_type,
            failure.result,
        ) else {
            return;
        };
        if !page_type.starts_with(HUGE) && !page_type.ends_with(IN_USE) {
            return;
        }
        if self.silent.len() == MAX_SILENT {
            self.silent.pop_front();
            self.silent_evicted += 1;
        }
        self.silent.push_back(Silent {
            t: failure.t,
            pfn,
            flags: failure.flags,
            page_type,
            result,
        });
    }
}

/// How long before the kernel's counters showed it a memory_failure() that no probe saw may have been, nanoseconds: they
/// are read every ten seconds.
const UNSEEN_NS: u64 = 30_000_000_000;

impl Correlator {
    /// Takes note that the kernel's own counters show poisoned memory at time `t`: what was a claim shortly before may have been
    /// of it.
    pub(super) fn host_lost_memory(&mut self, t: u64) {
        if self.failures.any {
            return;
        }
        self.failures.note_loss();
        let since = t.saturating_sub(UNSEEN_NS);
        let recent: Vec<IncidentNo> = self
            .incidents
            .iter()
            .filter(|(_, e)| e.host_loss == HostLoss::Nothing && e.last_poison >= since)
            .map(|(no, _)| no)
            .collect();
        for no in recent {
            if let Some(evidence) = self.incidents.change(no) {
                evidence.host_loss = HostLoss::OtherMemory;
            }
        }
    }

    /// What the kernel has reported of poisoned memory until now.
    pub(super) fn host_loss(&self) -> HostLoss {
        let session = &self.session;
        let probed = session.has(&ProbeId::MemoryFailure) || session.has(&ProbeId::MemoryFailureEvent);
        let before = match session.hardware_corrupted_kb {
            Some(0) => Some(false),
            // What was lost before is named by the scan at the start; older recordings had none.
            Some(_) => session.counters_watched.then_some(true),
            // A kernel without memory_failure(), if the counters were looked for.
            None => session.counters_watched.then_some(false),
        };
        match before.filter(|_| probed || session.counters_watched) {
            None => HostLoss::Unwatched,
            Some(before) if before || self.failures.any => HostLoss::OtherMemory,
            Some(_) => HostLoss::Nothing,
        }
    }

    pub(super) fn failure_begin(&mut self, event: &Event, pfn: u64, flags: u64, in_kvm_run: Option<bool>) {
        self.failures.note_loss();
        let caller = self.caller(event, flags & MF_ACTION_REQUIRED != 0, in_kvm_run);
        let failure = Failure {
            t: event.t,
            pfn: Some(pfn),
            flags: Some(flags),
            page_type: None,
            result: None,
            incidents: BTreeSet::new(),
            caller,
        };
        self.failures.by_thread.insert(event.tid, failure);
        for no in self.known_by_pfn(pfn) {
            if let Some(evidence) = self.incidents.touch(no) {
                evidence
                    .timeline
                    .add(event.t, TimelineEvent::FailureAgain { pfn: Hex(pfn) });
            }
        }
    }

    pub(super) fn failure_action(&mut self, event: &Event, pfn: u64, page_type: &str, result: &str) {
        self.failures.note_loss();
        let Some(failure) = self.failures.by_thread.get_mut(&event.tid) else {
            return;
        };
        if *failure.pfn.get_or_insert(pfn) != pfn {
            return;
        }
        failure.page_type = Some(page_type.to_owned());
        failure.result = Some(result.to_owned());
        for no in failure.incidents.clone() {
            self.name_pfn(no, pfn);
            let Some(evidence) = self.incidents.touch(no) else {
                continue;
            };
            // "already poisoned" (6.11 on) is about the second report, not about the page.
            if evidence.recovery.is_none() || !page_type.contains("already poisoned") {
                evidence.page_type = Some(page_type.to_owned());
                evidence.recovery = Some(result.to_owned());
            }
            evidence.poison_at(event.t);
            evidence
                .timeline
                .add(event.t, TimelineEvent::action(page_type, result));
        }
    }

    pub(super) fn failure_end(&mut self, event: &Event, ret: i64) {
        let Some(failure) = self.failures.by_thread.remove(&event.tid) else {
            return;
        };
        self.access_not_contained(event, &failure, ret);
        if let (Some(_), Some(pfn)) = (failure.caller.consumed, failure.pfn) {
            self.threads.of(event).consumed = Some((event.t, pfn));
        }
        for no in &failure.incidents {
            if let Some(evidence) = self.incidents.touch(*no) {
                evidence.poison_at(event.t);
                if ret != 0 {
                    evidence.timeline.add(event.t, TimelineEvent::FailureEnd { ret });
                }
            }
        }
        self.failures.keep_silent(failure);
    }

    /// Of an access within KVM_RUN that sent no signal: the page could not be taken out of use, and the VMM is killed for it.
    fn access_not_contained(&mut self, event: &Event, failure: &Failure, ret: i64) {
        let required = failure.flags.is_some_and(|flags| flags & MF_ACTION_REQUIRED != 0);
        let ignored = ret != 0 && ret != EHWPOISON;
        if !required || failure.caller.in_kvm_run != Some(true) || !ignored || !failure.incidents.is_empty() {
            return;
        }
        let Some(pfn) = failure.pfn else { return };
        let known = self.of_pfn(event.pid, pfn);
        let no = known.unwrap_or_else(|| {
            let new = New {
                t0: Some(failure.t),
                pfn: Some(pfn),
                ..New::default()
            };
            self.open_new(event, event.pid, new)
        });
        if let (None, Some(evidence)) = (known, self.incidents.touch(no)) {
            evidence
                .timeline
                .add(failure.t, failure_begin(pfn, failure.flags));
            if let (Some(page_type), Some(result)) = (&failure.page_type, &failure.result) {
                evidence.page_type = Some(page_type.clone());
                evidence.recovery = Some(result.clone());
                evidence
                    .timeline
                    .add(event.t, TimelineEvent::action(page_type, result));
            }
        }
        self.caused_by(no, event, failure.flags, failure.t, failure.caller);
        self.not_isolated(no, event, ret);
    }

    /// Ties a signal to the `memory_failure()` that sent it, on the same thread.
    pub(super) fn signalled_in_failure(&mut self, event: &Event, severity: SigbusSeverity, no: IncidentNo) {
        if let Some(failure) = self.failures.by_thread.get_mut(&event.tid) {
            failure.incidents.insert(no);
            let (flags, began, caller) = (failure.flags, failure.t, failure.caller);
            self.caused_by(no, event, flags, began, caller);
        } else if severity == SigbusSeverity::ActionOptional && !self.session.has(&ProbeId::MemoryFailure) {
            // No probe on memory_failure(): its event on this thread still names the pfn.
            let failure = Failure {
                t: event.t,
                pfn: None,
                flags: None,
                page_type: None,
                result: None,
                incidents: BTreeSet::from([no]),
                caller: Caller::default(),
            };
            self.failures.by_thread.insert(event.tid, failure);
        }
    }
}
