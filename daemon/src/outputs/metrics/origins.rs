//! Where the pages that `memory_failure()` handles come from, guests' or not: what its thread and the banks show by then. A bank
//! that is reported later changes the incident's answer, not this count.

use std::collections::{BTreeMap, VecDeque};

use poisontrace_model::{
    event::{Event, EventKind, HostMce},
    incident::{model::OriginKind, origin::HardwareEvidence},
};

const MAX_THREADS: usize = 64;
const MAX_BANKS: usize = 16;
/// A bank that was reported earlier than this is another error's, nanoseconds.
const BEFORE_NS: u64 = 1_000_000_000;
const PAGE_SHIFT: u32 = 12;

/// See the module.
#[derive(Default)]
pub struct Origins {
    /// By thread, while it is in `memory_failure()`.
    under_way: BTreeMap<u32, HardwareEvidence>,
    banks: VecDeque<(u64, u32, HostMce)>,
}

impl Origins {
    pub fn event(&mut self, event: &Event) {
        match &event.what {
            EventKind::HostMce(mce) => {
                if self.banks.len() >= MAX_BANKS {
                    self.banks.pop_front();
                }
                self.banks.push_back((event.t, event.tid, *mce));
            }
            EventKind::FailureBegin {
                pfn,
                flags,
                in_kvm_run,
            } => {
                if self.under_way.len() >= MAX_THREADS {
                    self.under_way.pop_first();
                }
                let evidence = HardwareEvidence {
                    flags: Some(*flags),
                    in_kvm_run: *in_kvm_run,
                    mce: self.bank(event, pfn.0),
                    ..HardwareEvidence::default()
                };
                self.under_way.insert(event.tid, evidence);
            }
            EventKind::FailureEnd { .. } => {
                self.under_way.remove(&event.tid);
            }
            _ => {}
        }
    }

    /// That of the page which this thread's `memory_failure()` handles.
    pub fn of(&self, tid: u32) -> OriginKind {
        let evidence = self.under_way.get(&tid);
        evidence.map_or(OriginKind::Unknown, |evidence| evidence.origin().how)
    }

    /// The bank of this page, else the last one that the same thread handed on.
    fn bank(&self, event: &Event, pfn: u64) -> Option<HostMce> {
        let recent = || {
            let recent = self.banks.iter().rev();
            recent.filter(|(t, _, _)| event.t.saturating_sub(*t) <= BEFORE_NS)
        };
        let of_page = recent().find(|(_, _, mce)| mce.addr.0 >> PAGE_SHIFT == pfn);
        let found = of_page.or_else(|| recent().find(|(_, tid, _)| *tid == event.tid));
        found.map(|(_, _, mce)| *mce)
    }
}
