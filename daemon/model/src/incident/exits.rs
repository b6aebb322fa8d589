//! The exits of one incident: per page and vCPU thread, as the kernel totalled them or as events show them,
//! whichever has seen more.

use alloc::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};
use alloc::{borrow::ToOwned as _, boxed::Box, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{
    exit_samples::ExitSamples,
    latency::{BaselineExit, Samples},
    recovered::Recovered,
    walk::Walk,
};
use crate::{
    compact_map::CompactMap,
    event::{Isa, PoisonExit, totals::PageTotals},
    hex::Hex,
};

/// Pages and threads distinguished: 512 pages of a huge page on a few vCPUs.
const MAX_PAGES: usize = 4096;
/// Exits whose re-entry is awaited: one a vCPU.
const MAX_OPEN: usize = 1024;
/// RIPs whose instruction bytes are kept.
const MAX_INSTRUCTIONS: usize = 16;

const PAGE_MASK: u64 = !0xfff;

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Exits {
    /// By thread and page (`None`: the exit's GPA is not known).
    pages: CompactMap<(u32, Option<u64>), Box<Page>>,
    open: CompactMap<(u32, u64), Open>,
    /// Durations of single exits.
    pub samples: Samples,
    /// They were SVM's.
    pub svm: bool,
    /// What a bare exit and entry cost on this host, when the totals were read last.
    #[serde(alias = "floor")]
    pub baseline_exit: Option<BaselineExit>,
    /// Single exits on the page.
    #[serde(alias = "singles")]
    pub exit_samples: ExitSamples,
    /// Bytes of the instruction by RIP, hex digits.
    pub instructions: BTreeMap<u64, String>,
    /// Exits on pages beyond [`MAX_PAGES`]: counted, not distinguished.
    beyond: Option<Box<PageTotals>>,
    /// Exits that kvm_exit did not see.
    #[serde(default)]
    pub recovered: Recovered,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Page {
    /// Of a daemon before this one, whose kernel's totals are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Box<PageTotals>>,
    seen: PageTotals,
    kernel: Option<Box<PageTotals>>,
}

impl Page {
    /// The kernel's totals are exact, but read from time to time: until the next reading events may be ahead.
    fn effective(&self) -> Cow<'_, PageTotals> {
        let now = match &self.kernel {
            Some(kernel) if kernel.exits >= self.seen.exits => kernel,
            _ => &self.seen,
        };
        match &self.before {
            None => Cow::Borrowed(now),
            Some(before) => {
                let mut sum = PageTotals::clone(before);
                sum.merge(now);
                Cow::Owned(sum)
            }
        }
    }

    fn unsent(&self) -> u64 {
        let kernel = self.kernel.as_ref().map_or(0, |kernel| kernel.exits);
        kernel.saturating_sub(self.seen.exits)
    }
}

/// An exit that went to user space.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    page: Option<u64>,
    user_ns: Option<u64>,
    #[serde(default)]
    recovered: bool,
    /// Among [`Exits::exit_samples`].
    #[serde(default = "kept_if_not_known")]
    kept: bool,
}

/// A store of an earlier version does not have it: the exit is then looked for.
const fn kept_if_not_known() -> bool {
    true
}

impl Exits {
    /// Adds an exit that an event shows.
    pub fn add(&mut self, tid: u32, vcpu: Option<u32>, exit: &PoisonExit) {
        let detail = self.exit_samples.detail;
        let kept = self.exit_samples.add(tid, vcpu, exit);
        if exit.recovered {
            self.recovered.exits += 1;
            self.recovered.undated += u64::from(exit.exit_ns.is_none());
            self.recovered.reentered += u64::from(exit.entry_ns.is_some());
        }
        let page = exit.gpa.map(|gpa| gpa.0 & PAGE_MASK);
        self.page(tid, page).add_exit(exit);
        self.svm |= exit.isa == Isa::Svm;
        if let (Some(start), Some(end)) = (exit.exit_ns, exit.user_ns.or(exit.entry_ns)) {
            self.samples.in_kernel.add(end.saturating_sub(start), detail);
        }
        if let Some(ns) = exit.gup_ns {
            self.samples.gup.add(ns, detail);
        } else if let (Some(fault), Some(signal)) = (exit.fault_ns, exit.signal_ns) {
            let ns = signal.saturating_sub(fault);
            self.samples.bound.add(ns, detail);
            self.samples.bound_total.add(ns);
        }
        match (exit.exit_ns, exit.entry_ns) {
            (Some(start), Some(entry)) => self
                .samples
                .exit_to_entry
                .add(entry.saturating_sub(start), detail),
            (Some(start), None) => {
                if self.open.len() >= MAX_OPEN {
                    self.open.remove_first();
                }
                self.open.insert(
                    (tid, start),
                    Open {
                        page,
                        user_ns: exit.user_ns,
                        recovered: exit.recovered,
                        kept,
                    },
                );
            }
            _ => {}
        }
        if let (Some(rip), Some(bytes)) = (exit.rip, &exit.insn)
            && self.instructions.len() < MAX_INSTRUCTIONS
        {
            self.instructions.insert(rip.0, bytes.clone());
        }
    }

    /// Bytes at `rip` that were read from the guest's memory. Returns whether that RIP touched the page and its bytes
    /// were not known.
    pub fn guest_code(&mut self, rip: u64, bytes: &str) -> bool {
        let touched = self
            .pages
            .values()
            .any(|page| page.effective().rips.iter().any(|r| r.rip.0 == rip));
        if !touched || self.instructions.contains_key(&rip) || self.instructions.len() >= MAX_INSTRUCTIONS {
            return false;
        }
        self.instructions.insert(rip, bytes.to_owned());
        true
    }

    /// The vCPU entered the guest again. Returns whether it was one of these exits.
    pub fn reentry(&mut self, tid: u32, exit_ns: u64, entry_ns: u64) -> bool {
        let Some(open) = self.open.remove(&(tid, exit_ns)) else {
            return false;
        };
        let detail = self.exit_samples.detail;
        if open.kept {
            self.exit_samples.reentry(tid, exit_ns, entry_ns);
        }
        self.recovered.reentered += u64::from(open.recovered);
        self.samples
            .exit_to_entry
            .add(entry_ns.saturating_sub(exit_ns), detail);
        if let Some(user_ns) = open.user_ns {
            self.samples.vmm.add(entry_ns.saturating_sub(user_ns), detail);
        }
        self.page(tid, open.page)
            .add_reentry(exit_ns, open.user_ns, entry_ns);
        true
    }

    /// The kernel's totals of one page and thread.
    pub fn kernel(&mut self, tid: u32, totals: &PageTotals) {
        let key = (tid, Some(totals.gpa.0));
        if self.pages.len() < MAX_PAGES || self.pages.contains_key(&key) {
            self.pages.entry(key).kernel = Some(Box::new(totals.clone()));
        }
    }

    /// The kernel's totals begin at zero again: what was counted until now stays counted.
    pub fn begin_anew(&mut self) {
        for page in self.pages.values_mut() {
            page.before = Some(Box::new(page.effective().into_owned()));
            page.seen = PageTotals::default();
            page.kernel = None;
        }
        self.open.clear();
    }

    /// Adds the exits of another incident.
    pub fn absorb(&mut self, other: Self) {
        for (key, page) in other.pages {
            if self.pages.len() < MAX_PAGES && !self.pages.contains_key(&key) {
                *self.pages.entry(key) = page;
            } else {
                self.page(key.0, key.1).merge(&page.effective());
            }
        }
        for (key, open) in other.open {
            if self.open.len() < MAX_OPEN {
                self.open.insert(key, open);
            }
        }
        self.samples.absorb(other.samples);
        self.svm |= other.svm;
        self.baseline_exit = self.baseline_exit.take().or(other.baseline_exit);
        self.exit_samples.absorb(other.exit_samples);
        for (rip, bytes) in other.instructions {
            if self.instructions.len() < MAX_INSTRUCTIONS {
                self.instructions.entry(rip).or_insert(bytes);
            }
        }
        if let Some(beyond) = other.beyond {
            self.beyond.get_or_insert_default().merge(&beyond);
        }
        self.recovered.exits += other.recovered.exits;
        self.recovered.undated += other.recovered.undated;
        self.recovered.reentered += other.recovered.reentered;
    }

    fn page(&mut self, tid: u32, page: Option<u64>) -> &mut PageTotals {
        let key = (tid, page);
        if self.pages.len() >= MAX_PAGES && !self.pages.contains_key(&key) {
            return self.beyond.get_or_insert_default();
        }
        &mut self.pages.entry(key).seen
    }

    /// Lines that this RIP, or any, touched on the thread, of any page.
    pub fn lines_of(&self, tid: u32, rip: Option<Hex>) -> u64 {
        let of_thread = self.pages.iter().filter(|((of, _), _)| *of == tid);
        let rips = of_thread.flat_map(|(_, page)| &page.seen.rips);
        rips.filter(|known| rip.is_none_or(|rip| known.rip == rip))
            .fold(0, |lines, rip| lines | rip.lines.0)
    }

    /// The thread of all of them.
    pub fn only_thread(&self) -> Option<u32> {
        let mut threads = self.pages.iter().map(|((tid, _), _)| *tid);
        let first = threads.next()?;
        threads.all(|tid| tid == first).then_some(first)
    }

    /// Whether there was any.
    pub fn any(&self) -> bool {
        !self.pages.is_empty()
    }

    /// All of them together.
    pub fn total(&self) -> Total {
        let mut total = Total {
            page: self.beyond.as_deref().cloned().unwrap_or_default(),
            ..Total::default()
        };
        let pages = self.effective();
        let mut walks = self.walks(&pages);
        for page in &pages {
            let walk = walks.get_mut(&page.tid).and_then(|walk| walk.take(page));
            match walk {
                Some(Taken::Counted) => {
                    total.misread.extend(page.gpa);
                }
                Some(Taken::New) => {
                    total.misread.extend(page.gpa);
                    total.page.merge(&page.now.without_lines());
                }
                None => {
                    total.page.merge(&page.now);
                    if page.gpa.is_some() || page.now.lines.0 != 0 {
                        *total.lines_by_page.entry(page.gpa).or_default() |= page.now.lines.0;
                        total.located += page.now.exits;
                    }
                }
            }
        }
        let longest = walks.into_values().map(|walk| walk.walk);
        total.walk = longest.max_by_key(|walk| walk.lines.count_ones());
        total
    }

    fn effective(&self) -> Vec<Effective<'_>> {
        self.pages
            .iter()
            .map(|((tid, gpa), page)| Effective {
                tid: *tid,
                gpa: *gpa,
                now: page.effective(),
                unsent: page.unsent(),
            })
            .collect()
    }

    /// The longest walk of each thread.
    fn walks<'a>(&self, pages: &'a [Effective<'_>]) -> BTreeMap<u32, Walking<'a>> {
        let mut walks: BTreeMap<u32, Walking<'a>> = BTreeMap::new();
        for page in pages {
            let Some(walk) = Walk::of(page.tid, page.gpa, &page.now) else {
                continue;
            };
            let lines = walk.lines.count_ones();
            let longer = walks
                .get(&page.tid)
                .is_none_or(|known| known.walk.lines.count_ones() < lines);
            if longer && self.exit_samples.goes_upwards(page.tid, page.gpa, walk.rip) {
                let walking = Walking {
                    room: walk.room(),
                    walk,
                    page: &page.now,
                    unsent: page.unsent,
                };
                walks.insert(page.tid, walking);
            }
        }
        walks
    }

    /// Whether all exits in `odd` are on pages that a walk in these contradicts.
    pub fn contradict(&self, odd: &Self) -> bool {
        let pages: Vec<Effective<'_>> = self.effective();
        let mut walks = self.walks(&pages);
        odd.any()
            && odd.beyond.is_none()
            && odd.effective().iter().all(|page| {
                let walk = walks.get_mut(&page.tid);
                walk.is_some_and(|walk| walk.take(page).is_some() || walk.has_room_for(page))
            })
    }
}

/// Exits of one thread on one page, as they count.
struct Effective<'a> {
    tid: u32,
    /// `None`: without an address.
    gpa: Option<u64>,
    now: Cow<'a, PageTotals>,
    /// Exits that the kernel counted and no event showed.
    unsent: u64,
}

/// A thread's walk while the thread's other exits are held against it.
struct Walking<'a> {
    walk: Walk,
    page: &'a PageTotals,
    /// Lines of the walk for which no exit has been found yet.
    room: u64,
    /// As of [`Effective`], of the walk's own page.
    unsent: u64,
}

enum Taken {
    /// The kernel's totals of the walk have these exits.
    Counted,
    New,
}

impl Walking<'_> {
    /// Exits by the walk's RIP without an address.
    fn without_address(&self, odd: &Effective<'_>) -> u64 {
        if odd.gpa.is_some() || odd.now.lines.0 != 0 || self.walk.page.is_none() {
            return 0;
        }
        let same = odd.now.rips.iter().filter(|rip| rip.rip.0 == self.walk.rip);
        same.map(|rip| rip.exits).sum()
    }

    fn has_room_for(&self, odd: &Effective<'_>) -> bool {
        self.without_address(odd) == odd.now.exits && odd.now.exits <= self.room
    }

    /// Takes the exits of another page, or of none, where they are the walk's.
    fn take(&mut self, odd: &Effective<'_>) -> Option<Taken> {
        let exits = odd.now.exits;
        let Some(gpa) = odd.gpa else {
            if exits <= self.unsent && self.without_address(odd) == exits {
                self.unsent -= exits;
                return Some(Taken::Counted);
            }
            let unplaced = self.without_address(odd).min(self.room);
            self.walk.unplaced += unplaced;
            self.room -= unplaced;
            return None;
        };
        let counted = exits <= self.unsent;
        let fits = counted || exits <= self.room;
        if !fits || !self.walk.contradicts(self.page, gpa, &odd.now, counted) {
            return None;
        }
        if counted {
            self.unsent -= exits;
            return Some(Taken::Counted);
        }
        self.room -= exits;
        self.walk.unplaced += exits;
        Some(Taken::New)
    }
}

/// Sum over pages and threads.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// Totals over all threads.
    pub page: PageTotals,
    /// Lines touched of each 4 KiB page; `None`: of those whose GPA is not known.
    pub lines_by_page: BTreeMap<Option<u64>, u64>,
    /// Exits whose line is known.
    pub located: u64,
    /// The walk, if the exits are one.
    pub walk: Option<Walk>,
    /// Pages whose exits are those of a walk on another page, with a misread address.
    pub misread: BTreeSet<u64>,
}

impl Total {
    /// 64-byte lines that were accessed.
    pub fn distinct_lines(&self) -> u64 {
        self.lines_by_page
            .values()
            .map(|lines| u64::from(lines.count_ones()))
            .sum()
    }

    /// Whether the page was accessed by stores alone.
    pub fn writes_only(&self) -> bool {
        let x = &self.page;
        x.writes > 0 && x.reads == 0 && x.fetches == 0 && x.page_walks == 0 && x.writes_or_walks == 0
    }

    /// The RIP of the last exit before `t`, as far as the RIPs' own times show.
    pub fn last_rip_before(&self, t: u64) -> Option<u64> {
        self.page
            .rips
            .iter()
            .filter(|rip| rip.first_ns <= t)
            .max_by_key(|rip| rip.last_ns)
            .map(|rip| rip.rip.0)
    }
}
