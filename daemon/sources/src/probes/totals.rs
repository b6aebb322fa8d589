//! The kernel's totals of the pages that have had poison exits, read when there is reason to.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Pod,
    maps::{HashMap, MapData, PerCpuArray},
};
use poisontrace_probes::page_totals::{Duration, PageKey, PageTotals};

use super::load::{LoadError, Loaded};
use poisontrace_model::event::{
    Event, EventKind,
    totals::{self, BaselineKind, DurationTotals},
};

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(PageKey);
// SAFETY: repr(C) integers without padding, checked at compile time in poisontrace-probes.
unsafe impl Pod for Key {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(PageTotals);
// SAFETY: as above.
unsafe impl Pod for Value {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Time(Duration);
// SAFETY: as above.
unsafe impl Pod for Time {}

const PAGE_SHIFT: u32 = 12;

/// (pid, tid, gfn).
type Page = (u32, u32, u64);

/// See the module.
pub struct Totals {
    map: HashMap<MapData, Key, Value>,
    baseline: PerCpuArray<MapData, Time>,
    /// Pages that records spoke of, and what was read of them last: exits and time of the last entry.
    pages: BTreeMap<Page, (u64, u64)>,
    /// VMMs whose VM is destroyed: read once more, then forgotten, as the numbers may be used again.
    dying: BTreeSet<u32>,
}

impl Totals {
    /// Takes the map out of the loaded object.
    ///
    /// # Errors
    /// An object without this map.
    pub fn new(loaded: &mut Loaded) -> Result<Self, LoadError> {
        let map = loaded
            .ebpf
            .take_map("PAGES")
            .and_then(|map| HashMap::try_from(map).ok());
        let baseline = loaded
            .ebpf
            .take_map("BASELINE")
            .and_then(|map| PerCpuArray::try_from(map).ok());
        let map: HashMap<MapData, Key, Value> = map.ok_or(LoadError::Map("PAGES"))?;
        // Of a daemon before this one.
        let pages = map
            .keys()
            .flatten()
            .map(|Key(key)| ((key.pid, key.tid, key.gfn), <(u64, u64)>::default()))
            .collect();
        Ok(Self {
            map,
            baseline: baseline.ok_or(LoadError::Map("BASELINE"))?,
            pages,
            dying: BTreeSet::new(),
        })
    }

    /// Notes the page that an event speaks of. The kernel's map bounds how many there can be.
    pub fn note(&mut self, event: &Event) {
        match &event.what {
            EventKind::PoisonExit(exit) => {
                if let Some(gpa) = exit.gpa {
                    self.pages
                        .entry((event.pid, event.tid, gpa.0 >> PAGE_SHIFT))
                        .or_default();
                }
            }
            EventKind::VmDestroyed => {
                self.dying.insert(event.pid);
            }
            _ => {}
        }
    }

    fn forget_dying(&mut self) {
        let gone: Vec<Page> = self
            .pages
            .keys()
            .filter(|(pid, ..)| self.dying.contains(pid))
            .copied()
            .collect();
        for page in gone {
            self.pages.remove(&page);
            let (pid, tid, gfn) = page;
            // That it is not there any more is what is wanted.
            let _ = self.map.remove(&Key(PageKey { pid, tid, gfn }));
        }
        self.dying.clear();
    }

    /// The bare exits so far, of all CPUs: where any were seen.
    fn baseline_exits(&self, t: u64) -> impl Iterator<Item = Event> + '_ {
        BaselineKind::ALL.into_iter().filter_map(move |(number, kind)| {
            let per_cpu = self.baseline.get(&number, 0).ok()?;
            let mut time = DurationTotals::default();
            for Time(one) in per_cpu.iter() {
                time.merge(&DurationTotals::new(one));
            }
            (time.count > 0).then_some(Event {
                t,
                tid: 0,
                pid: 0,
                vcpu: None,
                what: EventKind::BaselineExit { kind, time },
            })
        })
    }

    /// The totals that have changed since they were read last, as events of time `t`; before them, what they are
    /// to be held against.
    pub fn changed(&mut self, t: u64) -> Vec<Event> {
        let mut events = Vec::new();
        for ((pid, tid, gfn), last) in &mut self.pages {
            let Ok(Value(totals)) = self.map.get(
                &Key(PageKey {
                    pid: *pid,
                    tid: *tid,
                    gfn: *gfn,
                }),
                0,
            ) else {
                continue;
            };
            let now = (totals.exits, totals.last_entry_ns);
            if *last != now {
                *last = now;
                let totals = totals::PageTotals::new(*gfn, &totals);
                events.push(Event {
                    t,
                    tid: *tid,
                    pid: *pid,
                    vcpu: None,
                    what: EventKind::PageTotals(Box::new(totals)),
                });
            }
        }
        self.forget_dying();
        if events.is_empty() {
            return events;
        }
        self.baseline_exits(t).chain(events).collect()
    }

    /// Whether there are pages to look at.
    pub fn any(&self) -> bool {
        !self.pages.is_empty()
    }
}
