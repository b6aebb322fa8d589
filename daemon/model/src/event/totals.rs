//! The kernel's totals of one page and one vCPU thread, as an event: exact, and replacing those before.

use alloc::vec::Vec;
use poisontrace_probes::{baseline, page_totals};
use serde::{Deserialize, Serialize};

use super::{Access, PoisonExit};
use crate::{compact_map, hex::Hex};

/// Totals of the poison exits of one thread on one 4 KiB page (`poisontrace_probes::page_totals::PageTotals`). Times
/// are CLOCK_MONOTONIC nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageTotals {
    /// The page, low bits zero.
    pub gpa: Hex,
    /// Exits on the page.
    pub exits: u64,
    /// SIGBUS sent for them.
    pub signals: u64,
    /// Exits for a read.
    pub reads: u64,
    /// Exits for a write.
    pub writes: u64,
    /// Exits for an instruction fetch.
    pub fetches: u64,
    /// Accesses by the walk of the guest's page tables.
    #[serde(default)]
    pub page_walks: u64,
    /// Writes or page walks: which is not known.
    #[serde(default)]
    pub writes_or_walks: u64,
    /// Bit n: line n was touched.
    pub lines: Hex,
    /// Exits on the line of the exit before.
    pub same_line: u64,
    /// Exits without a return to user space.
    pub in_kernel: u64,
    /// Times that gup returned -EHWPOISON.
    pub gup_poison: u64,
    /// Exits by RIPs that are not among `rips`.
    pub other_rips: u64,
    /// Time of the first exit, monotonic nanoseconds.
    pub first_ns: u64,
    /// Time of the last exit, monotonic nanoseconds.
    pub last_ns: u64,
    /// Time of the last entry, monotonic nanoseconds.
    pub last_entry_ns: u64,
    /// From the exit to the next entry.
    pub exit_to_entry: DurationTotals,
    /// The part of it in the kernel.
    pub in_kernel_time: DurationTotals,
    /// In `get_user_pages_unlocked()`.
    pub gup: DurationTotals,
    /// In user space: the VMM.
    pub vmm: DurationTotals,
    /// Exits by RIP: of one thread at most [`page_totals::RIPS`]; the rest is in `other_rips`.
    pub rips: Vec<RipTotals>,
}

/// Exact count, sum and extremes, nanoseconds; `buckets[n]` counts 2^n to 2^(n+1) - 1 ns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurationTotals {
    /// How many.
    pub count: u64,
    /// Their sum, nanoseconds.
    pub sum: u64,
    /// The least, nanoseconds.
    pub min: u64,
    /// The greatest, nanoseconds.
    pub max: u64,
    /// `buckets[n]`: how many of 2^n to 2^(n+1) - 1 ns.
    pub buckets: Vec<u32>,
    /// How many were of at most [`page_totals::CLAIM_NS`]; not known of recordings that were made before it was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_claim: Option<u32>,
}

/// What one RIP did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RipTotals {
    /// The guest's RIP.
    pub rip: Hex,
    /// Exits on the page.
    pub exits: u64,
    /// 64-byte lines of the page that were accessed, bit n: line n.
    pub lines: Hex,
    /// Exits for a write.
    pub writes: u64,
    /// Exits for an instruction fetch.
    pub fetches: u64,
    /// Exits on the line after this RIP's line before.
    pub ascending: u64,
    /// Time of the first exit, monotonic nanoseconds.
    pub first_ns: u64,
    /// Time of the last exit, monotonic nanoseconds.
    pub last_ns: u64,
    /// Line of the first exit, 0 to 63.
    pub first_line: u32,
    /// Line of the last exit, 0 to 63.
    pub last_line: u32,
}

/// Exits that touch no guest memory and stay in the kernel, by kind: what a bare exit and entry costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaselineKind {
    /// CPUID.
    Cpuid,
    /// Reads and writes of MSRs.
    Msr,
    /// Interrupt windows.
    InterruptWindow,
    /// The VMX preemption timer.
    PreemptionTimer,
}

impl BaselineKind {
    /// With its number in the kernel's table.
    pub const ALL: [(u32, Self); baseline::KINDS as usize] = [
        (baseline::CPUID, Self::Cpuid),
        (baseline::MSR, Self::Msr),
        (baseline::INTERRUPT_WINDOW, Self::InterruptWindow),
        (baseline::PREEMPTION_TIMER, Self::PreemptionTimer),
    ];
}

impl core::fmt::Display for BaselineKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Cpuid => "CPUID",
            Self::Msr => "MSR",
            Self::InterruptWindow => "interrupt window",
            Self::PreemptionTimer => "preemption timer",
        })
    }
}

const PAGE_SHIFT: u32 = 12;

impl PageTotals {
    /// From the kernel's record of guest frame `gfn`.
    pub fn new(gfn: u64, t: &page_totals::PageTotals) -> Self {
        let used = (t.rips_used as usize).min(t.rips.len());
        // RIP 0 is what KVM gives for a guest whose state is protected (SEV-ES, TDX): not known, and not one RIP.
        let (known, hidden): (Vec<&page_totals::ByRip>, Vec<&page_totals::ByRip>) =
            t.rips[..used].iter().partition(|rip| rip.rip != 0);
        Self {
            gpa: Hex(gfn << PAGE_SHIFT),
            exits: t.exits,
            signals: t.signals,
            reads: t.reads,
            writes: t.writes,
            fetches: t.fetches,
            page_walks: t.page_walks,
            writes_or_walks: t.writes_or_walks,
            lines: Hex(t.lines),
            same_line: t.same_line,
            in_kernel: t.in_kernel,
            gup_poison: t.gup_poison,
            other_rips: t.other_rips + hidden.iter().map(|rip| rip.exits).sum::<u64>(),
            first_ns: t.first_ns,
            last_ns: t.last_ns,
            last_entry_ns: t.last_entry_ns,
            exit_to_entry: DurationTotals::new(&t.exit_to_entry),
            in_kernel_time: DurationTotals::new(&t.in_kernel_time),
            gup: DurationTotals::new(&t.gup),
            vmm: DurationTotals::new(&t.vmm),
            rips: known.into_iter().map(RipTotals::new).collect(),
        }
    }
}

impl DurationTotals {
    /// From the kernel's map.
    pub fn new(d: &page_totals::Duration) -> Self {
        let used = d
            .buckets
            .iter()
            .rposition(|count| *count != 0)
            .map_or(0, |last| last + 1);
        Self {
            count: d.count,
            sum: d.sum,
            min: d.min,
            max: d.max,
            buckets: d.buckets[..used].to_vec(),
            within_claim: u32::try_from(d.within_claim).ok(),
        }
    }
}

impl RipTotals {
    fn new(r: &page_totals::ByRip) -> Self {
        Self {
            rip: Hex(r.rip),
            exits: r.exits,
            lines: Hex(r.lines),
            writes: r.writes,
            fetches: r.fetches,
            ascending: r.ascending,
            first_ns: r.first_ns,
            last_ns: r.last_ns,
            first_line: r.first_line,
            last_line: r.last_line,
        }
    }
}

/// `-EHWPOISON`.
pub const EHWPOISON: i64 = -133;

impl PageTotals {
    /// Adds one exit, as the kernel's own accounting does (`ebpf-probes/src/totals.rs`): for sources that send
    /// every exit and no totals. An exit without an address has no line.
    pub fn add_exit(&mut self, exit: &PoisonExit) {
        let at = exit.exit_ns.or(exit.fault_ns).or(exit.signal_ns).unwrap_or(0);
        let line = exit.line();
        if self.exits == 0 {
            self.first_ns = at;
        }
        self.exits += 1;
        self.last_ns = at;
        if let Some(line) = line {
            let bit = 1u64 << line;
            if self.exits > 1 && self.last_line() == Some(line) {
                self.same_line += 1;
            }
            self.lines.0 |= bit;
        }
        self.signals += u64::from(exit.signal_ns.is_some());
        self.gup_poison += u64::from(exit.gup_ret == Some(EHWPOISON));
        match exit.access {
            Access::Read => self.reads += 1,
            Access::Write => self.writes += 1,
            Access::Fetch => self.fetches += 1,
            Access::PageWalk => self.page_walks += 1,
            Access::WriteOrPageWalk => self.writes_or_walks += 1,
            Access::Unknown => {}
        }
        if let Some(start) = exit.exit_ns {
            if let Some(end) = exit.user_ns.or(exit.entry_ns) {
                self.in_kernel_time.add(end.saturating_sub(start));
            }
            if let Some(entry) = exit.entry_ns {
                self.exit_to_entry.add(entry.saturating_sub(start));
            }
        }
        if let Some(ns) = exit.gup_ns {
            self.gup.add(ns);
        }
        if let Some(entry) = exit.entry_ns {
            self.in_kernel += 1;
            self.last_entry_ns = entry;
        }
        self.add_rip(exit, at, line);
    }

    /// Adds the way back into the guest of an exit that went to user space.
    pub fn add_reentry(&mut self, exit_ns: u64, user_ns: Option<u64>, entry_ns: u64) {
        self.last_entry_ns = entry_ns;
        self.exit_to_entry.add(entry_ns.saturating_sub(exit_ns));
        if let Some(user_ns) = user_ns {
            self.vmm.add(entry_ns.saturating_sub(user_ns));
        }
    }

    /// The line of the last exit.
    fn last_line(&self) -> Option<u32> {
        self.rips
            .iter()
            .max_by_key(|rip| rip.last_ns)
            .map(|rip| rip.last_line)
    }

    fn add_rip(&mut self, exit: &PoisonExit, at: u64, line: Option<u32>) {
        let Some(rip) = exit.rip else {
            self.other_rips += 1;
            return;
        };
        let known = self.rips.iter().position(|known| known.rip == rip);
        let entry = match known {
            Some(n) => &mut self.rips[n],
            None if self.rips.len() < page_totals::RIPS => {
                let first = RipTotals {
                    rip,
                    first_ns: at,
                    ..RipTotals::default()
                };
                compact_map::push(&mut self.rips, first);
                let last = self.rips.len() - 1;
                &mut self.rips[last]
            }
            None => {
                self.other_rips += 1;
                return;
            }
        };
        if let Some(line) = line {
            if entry.lines.0 == 0 {
                entry.first_line = line;
            } else if line == entry.last_line + 1 {
                entry.ascending += 1;
            }
            entry.lines.0 |= 1 << line;
            entry.last_line = line;
        }
        entry.exits += 1;
        entry.last_ns = at;
        entry.writes += u64::from(matches!(exit.access, Access::Write | Access::WriteOrPageWalk));
        entry.fetches += u64::from(exit.access == Access::Fetch);
    }

    /// The same exits, without an address.
    pub fn without_lines(&self) -> Self {
        let mut totals = self.clone();
        totals.lines = Hex(0);
        for rip in &mut totals.rips {
            rip.lines = Hex(0);
        }
        totals
    }

    /// Adds another page's or thread's totals; `gpa` stays.
    pub fn merge(&mut self, other: &Self) {
        if other.exits == 0 {
            return;
        }
        self.first_ns = if self.exits == 0 {
            other.first_ns
        } else {
            self.first_ns.min(other.first_ns)
        };
        self.last_ns = self.last_ns.max(other.last_ns);
        self.last_entry_ns = self.last_entry_ns.max(other.last_entry_ns);
        self.exits = self.exits.saturating_add(other.exits);
        self.signals = self.signals.saturating_add(other.signals);
        self.reads = self.reads.saturating_add(other.reads);
        self.writes = self.writes.saturating_add(other.writes);
        self.fetches = self.fetches.saturating_add(other.fetches);
        self.page_walks = self.page_walks.saturating_add(other.page_walks);
        self.writes_or_walks = self.writes_or_walks.saturating_add(other.writes_or_walks);
        self.lines.0 |= other.lines.0;
        self.same_line = self.same_line.saturating_add(other.same_line);
        self.in_kernel = self.in_kernel.saturating_add(other.in_kernel);
        self.gup_poison = self.gup_poison.saturating_add(other.gup_poison);
        self.other_rips = self.other_rips.saturating_add(other.other_rips);
        self.exit_to_entry.merge(&other.exit_to_entry);
        self.in_kernel_time.merge(&other.in_kernel_time);
        self.gup.merge(&other.gup);
        self.vmm.merge(&other.vmm);
        for rip in &other.rips {
            match self.rips.iter_mut().find(|known| known.rip == rip.rip) {
                Some(known) => known.merge(rip),
                None => self.rips.push(rip.clone()),
            }
        }
    }
}

impl RipTotals {
    fn merge(&mut self, other: &Self) {
        if other.first_ns < self.first_ns {
            self.first_ns = other.first_ns;
            self.first_line = other.first_line;
        }
        if other.last_ns > self.last_ns {
            self.last_ns = other.last_ns;
            self.last_line = other.last_line;
        }
        self.exits = self.exits.saturating_add(other.exits);
        self.lines.0 |= other.lines.0;
        self.writes = self.writes.saturating_add(other.writes);
        self.fetches = self.fetches.saturating_add(other.fetches);
        self.ascending = self.ascending.saturating_add(other.ascending);
    }
}

impl Default for DurationTotals {
    fn default() -> Self {
        Self {
            count: 0,
            sum: 0,
            min: 0,
            max: 0,
            buckets: Vec::new(),
            within_claim: Some(0),
        }
    }
}

impl DurationTotals {
    /// `None` without any, nanoseconds.
    pub fn mean(&self) -> Option<u64> {
        self.sum.checked_div(self.count)
    }

    /// Adds one duration, nanoseconds.
    pub fn add(&mut self, ns: u64) {
        self.min = if self.count == 0 { ns } else { self.min.min(ns) };
        self.max = self.max.max(ns);
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(ns);
        let bucket = (ns.max(1).ilog2() as usize).min(page_totals::BUCKETS - 1);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        if ns <= page_totals::CLAIM_NS {
            self.within_claim = self.within_claim.and_then(|n| n.checked_add(1));
        }
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 {
            other.min
        } else {
            self.min.min(other.min)
        };
        self.max = self.max.max(other.max);
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to = to.saturating_add(*from);
        }
        let both = self.within_claim.zip(other.within_claim);
        self.within_claim = both.and_then(|(a, b)| a.checked_add(b));
    }
}
