//! Exits whose address a walk contradicts: same thread, same instruction, between two lines of another page. They are of
//! that page, and make no incident of their own.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{Correlator, IncidentNo};
use crate::{
    event::{Event, EventKind, PoisonExit},
    incident::{
        evidence::Evidence,
        walk::{WALK_LINES, WHOLE_PAGE},
    },
};

/// So long an exit in the midst of a walk waits for what the walk does next, nanoseconds.
const WAITS_NS: u64 = 500_000_000;
/// Walks of a thread, before an exit and after it, that it is held against.
const NEAREST: usize = 4;
/// Incidents that wait at a time.
const MAX_WAITING: usize = 256;

/// Incidents that wait. Each event looks at those of its thread and at the one that has waited longest, never at all of them.
#[derive(Default)]
pub(super) struct Waiting {
    /// Thread, and since when it waits, nanoseconds of the event clock.
    of: BTreeMap<IncidentNo, (u32, u64)>,
    by_thread: BTreeSet<(u32, IncidentNo)>,
    by_since: BTreeSet<(u64, IncidentNo)>,
}

impl Waiting {
    pub fn contains(&self, no: IncidentNo) -> bool {
        self.of.contains_key(&no)
    }

    fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    fn of_thread(&self, tid: u32) -> impl Iterator<Item = IncidentNo> {
        let all = (tid, IncidentNo::MIN)..=(tid, IncidentNo::MAX);
        self.by_thread.range(all).map(|(_, no)| *no)
    }

    /// Those that wait since before `t`, nanoseconds.
    fn since_before(&self, t: u64) -> impl Iterator<Item = IncidentNo> {
        self.by_since.range(..(t, IncidentNo::MIN)).map(|(_, no)| *no)
    }

    /// Unless it waits already, or too many do.
    fn insert(&mut self, no: IncidentNo, tid: u32, since: u64) {
        if self.of.len() < MAX_WAITING && !self.contains(no) {
            self.of.insert(no, (tid, since));
            self.by_thread.insert((tid, no));
            self.by_since.insert((since, no));
        }
    }

    /// Whether it waited.
    fn remove(&mut self, no: IncidentNo) -> bool {
        let Some((tid, since)) = self.of.remove(&no) else {
            return false;
        };
        self.by_thread.remove(&(tid, no));
        self.by_since.remove(&(since, no));
        true
    }

    /// It waits since `t` at the earliest.
    fn prolong(&mut self, no: IncidentNo, t: u64) {
        if let Some((_, since)) = self.of.get_mut(&no).filter(|(_, since)| *since < t) {
            self.by_since.remove(&(*since, no));
            self.by_since.insert((t, no));
            *since = t;
        }
    }
}

impl Correlator {
    /// The thread has left the guest on the page of `no`; `before`: the incident of its exit before.
    pub(super) fn walk_goes_on(
        &mut self,
        event: &Event,
        exit: &PoisonExit,
        no: IncidentNo,
        before: Option<IncidentNo>,
    ) {
        let tid = event.tid;
        if let Some(walk) = before.filter(|walk| *walk != no && !self.waiting.contains(*walk)) {
            if self.interrupts(no, walk, tid, exit) || self.may_begin_walk(no, exit) {
                self.wait(no, event);
            } else if self.waiting.remove(no) {
                self.incidents.mark_changed(no);
            }
            return;
        }
        if before.is_none() && self.may_begin_walk(no, exit) {
            return self.wait(no, event);
        }
        let mine: Vec<IncidentNo> = self.waiting.of_thread(tid).filter(|odd| *odd != no).collect();
        if mine.is_empty() {
            return;
        }
        self.wait_longer(event, exit, no, &mine);
        for odd in mine {
            if self.contradicts(no, odd) {
                self.join_walk(odd, no);
            }
        }
    }

    /// Whether `no` is one exit and nothing else: the first of a walk, if its address was misread.
    fn may_begin_walk(&self, no: IncidentNo, exit: &PoisonExit) -> bool {
        let odd = self.incidents.get(no);
        odd.is_some_and(|odd| {
            odd.known_by_exits_alone() && exit.rip.is_some() && odd.exits.total().page.exits == 1
        })
    }

    /// What waits on this thread waits on while the walk that may be its own has not come far enough to show it.
    fn wait_longer(&mut self, event: &Event, exit: &PoisonExit, no: IncidentNo, waiting: &[IncidentNo]) {
        let walked = self
            .incidents
            .get(no)
            .map_or(0, |walk| walk.exits.lines_of(event.tid, exit.rip).count_ones());
        if !(2..WHOLE_PAGE).contains(&walked) {
            return;
        }
        for odd in waiting {
            self.waiting.prolong(*odd, event.t);
        }
    }

    /// A signal for an exit of this thread has opened the incident `no`; the exit itself is still to come.
    pub(super) fn signal_in_walk(&mut self, event: &Event, tid: u32, no: IncidentNo) {
        let exited = self.threads.get(tid).and_then(|thread| thread.exited);
        let in_walk = match exited.and_then(|walk| self.incidents.get(walk)) {
            Some(walk) => walk.pid == event.pid && walk.exits.lines_of(tid, None).count_ones() > 1,
            // The first of a walk, if its address was misread.
            None => true,
        };
        if in_walk {
            self.wait(no, event);
        }
    }

    fn wait(&mut self, no: IncidentNo, event: &Event) {
        self.waiting.insert(no, event.tid, event.t);
    }

    /// Whether the first exits of `no` stand in what may be a walk over another page.
    fn interrupts(&self, no: IncidentNo, walk: IncidentNo, tid: u32, exit: &PoisonExit) -> bool {
        let (Some(odd), Some(walk)) = (self.incidents.get(no), self.incidents.get(walk)) else {
            return false;
        };
        odd.pid == walk.pid
            && odd.known_by_exits_alone()
            && exit.rip.is_some()
            && walk.exits.lines_of(tid, exit.rip).count_ones() > 1
            && odd.exits.lines_of(tid, exit.rip).count_ones() < WALK_LINES
    }

    /// Whether a walk over the page of `walk` shows that the exits of `odd` are its own.
    fn contradicts(&self, walk: IncidentNo, odd: IncidentNo) -> bool {
        let (Some(walk), Some(odd)) = (self.incidents.get(walk), self.incidents.get(odd)) else {
            return false;
        };
        walk.pid == odd.pid && may_join(odd, walk) && walk.exits.contradict(&odd.exits)
    }

    /// Makes one incident of both.
    fn join_walk(&mut self, odd: IncidentNo, walk: IncidentNo) {
        self.waiting.remove(odd);
        let Some(gone) = self.remove(odd) else { return };
        let pfn = gone.pfn;
        let threads = gone
            .delivered_to
            .iter()
            .chain(gone.machine_checks.iter().map(|injection| &injection.tid));
        for tid in threads.copied().chain(gone.exits.only_thread()) {
            self.threads.rename_incident(tid, odd, walk);
        }
        let Some(evidence) = self.incidents.touch(walk) else {
            return;
        };
        evidence.absorb(*gone);
        evidence.correct_address();
        if let Some(pfn) = pfn {
            self.index_pfn(walk, pfn);
        }
    }

    /// Incidents that have waited long enough, or whose process ends, stand for themselves.
    pub(super) fn end_waiting(&mut self, event: &Event) {
        if self.waiting.is_empty() {
            return;
        }
        let ends = matches!(
            event.what,
            EventKind::TaskExit { .. }
                | EventKind::VmDestroyed
                | EventKind::VmmGone
                | EventKind::Pio { .. }
                | EventKind::TripleFault { .. }
        );
        let mut over: Vec<IncidentNo> = self
            .waiting
            .since_before(event.t.saturating_sub(WAITS_NS))
            .collect();
        if ends {
            let mine = |no: &IncidentNo| self.incidents.get(*no).is_none_or(|e| e.pid == event.pid);
            over.extend(self.waiting.of.keys().filter(|no| mine(no)));
        }
        for no in over {
            self.waiting.remove(no);
            self.incidents.mark_changed(no);
        }
    }

    /// Joins all exits that walks contradict, once everything has been seen: those before a walk and after it too.
    pub fn settle_walks(&mut self) {
        // By thread, in order of their beginning.
        let mut walks: BTreeSet<(u32, u64, IncidentNo)> = BTreeSet::new();
        let mut odd = Vec::new();
        for (no, evidence) in self.incidents.iter() {
            let total = evidence.exits.total();
            let at = total.page.first_ns;
            if let Some(walk) = total.walk {
                walks.insert((walk.tid, at, no));
            } else if let Some(tid) = evidence.exits.only_thread() {
                odd.push((no, tid, at));
            }
        }
        for (odd, tid, at) in odd {
            let before = walks
                .range((tid, 0, 0)..=(tid, at, IncidentNo::MAX))
                .rev()
                .take(NEAREST);
            let after = walks
                .range((tid, at, IncidentNo::MAX)..=(tid, u64::MAX, IncidentNo::MAX))
                .take(NEAREST);
            let mut near = before.chain(after).map(|(_, _, no)| *no);
            if let Some(walk) = near.find(|walk| self.contradicts(*walk, odd)) {
                self.join_walk(odd, walk);
            }
        }
        self.waiting = Waiting::default();
    }
}

/// Whether nothing but the addresses of its exits makes `odd` an incident beside `walk`.
fn may_join(odd: &Evidence, walk: &Evidence) -> bool {
    if odd.known_by_exits_alone() {
        return true;
    }
    // The failure was joined to the first exit, whose address was misread.
    walk.known_by_exits_alone() && odd.logged.trace && odd.hva.is_none() && odd.logged.sources.is_empty()
}
