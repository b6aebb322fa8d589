//! The exits of one incident: per page and vCPU thread, as the kernel totalled them or as events told of them,
//! whichever has seen more.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{
    latency::{Floor, Samples},
    singles::Singles,
};
use crate::{
    event::{Isa, PoisonExit, totals::PageTotals},
    few::Few,
};

/// Pages and threads told apart: 512 pages of a huge page on a few vCPUs.
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
    pages: Few<(u32, Option<u64>), Box<Page>>,
    open: Few<(u32, u64), Open>,
    pub samples: Samples,
    /// They were SVM's.
    pub svm: bool,
    /// What a bare exit and entry cost on this host, when the totals were read last.
    pub floor: Option<Floor>,
    pub singles: Singles,
    /// Bytes of the instruction by RIP, hex digits.
    pub instructions: BTreeMap<u64, String>,
    /// Exits on pages beyond [`MAX_PAGES`]: counted, not told apart.
    beyond: Option<Box<PageTotals>>,
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
}

/// An exit that went to user space.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    page: Option<u64>,
    user_ns: Option<u64>,
}

impl Exits {
    pub fn add(&mut self, tid: u32, vcpu: Option<u32>, exit: &PoisonExit) {
        self.singles.add(tid, vcpu, exit);
        let page = exit.gpa.map(|gpa| gpa.0 & PAGE_MASK);
        self.page(tid, page).add_exit(exit);
        self.svm |= exit.isa == Isa::Svm;
        if let (Some(start), Some(end)) = (exit.exit_ns, exit.user_ns.or(exit.entry_ns)) {
            self.samples.in_kernel.add(end.saturating_sub(start));
        }
        if let Some(ns) = exit.gup_ns {
            self.samples.gup.add(ns);
        } else if let (Some(fault), Some(signal)) = (exit.fault_ns, exit.signal_ns) {
            let ns = signal.saturating_sub(fault);
            self.samples.bound.add(ns);
            self.samples.bound_total.add(ns);
        }
        match (exit.exit_ns, exit.entry_ns) {
            (Some(start), Some(entry)) => self.samples.exit_to_entry.add(entry.saturating_sub(start)),
            (Some(start), None) => {
                if self.open.len() >= MAX_OPEN {
                    self.open.remove_first();
                }
                self.open.insert(
                    (tid, start),
                    Open {
                        page,
                        user_ns: exit.user_ns,
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
        self.singles.reentry(tid, exit_ns, entry_ns);
        self.samples.exit_to_entry.add(entry_ns.saturating_sub(exit_ns));
        if let Some(user_ns) = open.user_ns {
            self.samples.vmm.add(entry_ns.saturating_sub(user_ns));
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

    fn page(&mut self, tid: u32, page: Option<u64>) -> &mut PageTotals {
        let key = (tid, page);
        if self.pages.len() >= MAX_PAGES && !self.pages.contains_key(&key) {
            return self.beyond.get_or_insert_default();
        }
        &mut self.pages.entry(key).seen
    }

    pub fn any(&self) -> bool {
        !self.pages.is_empty()
    }

    /// All of them together.
    pub fn total(&self) -> Total {
        let mut total = Total {
            page: self.beyond.as_deref().cloned().unwrap_or_default(),
            ..Total::default()
        };
        for ((_, gpa), page) in self.pages.iter() {
            let page = page.effective();
            total.page.merge(&page);
            if gpa.is_some() || page.lines.0 != 0 {
                *total.lines_by_page.entry(*gpa).or_default() |= page.lines.0;
                total.located += page.exits;
            }
        }
        total
    }
}

/// Sum over pages and threads.
#[derive(Clone, Debug, Default)]
pub struct Total {
    pub page: PageTotals,
    /// Lines touched of each 4 KiB page; `None`: of those whose GPA is not known.
    pub lines_by_page: BTreeMap<Option<u64>, u64>,
    /// Exits whose line is known.
    pub located: u64,
}

impl Total {
    pub fn distinct_lines(&self) -> u64 {
        self.lines_by_page
            .values()
            .map(|lines| u64::from(lines.count_ones()))
            .sum()
    }

    /// The RIP of the last exit before `t`, as far as the RIPs' own times tell.
    pub fn last_rip_before(&self, t: u64) -> Option<u64> {
        self.page
            .rips
            .iter()
            .filter(|rip| rip.first_ns <= t)
            .max_by_key(|rip| rip.last_ns)
            .map(|rip| rip.rip.0)
    }
}
