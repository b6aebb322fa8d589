//! Keeping the totals of a page: once an exit, and once a re-entry, of a poison exit, on the vCPU's own thread.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use poisontrace_probes::{
    baseline, lost,
    page_totals::{
        BUCKETS, ByRip, CLAIM_NS, Duration, EVENTS_PER_PAGE, FaultAccess, PageKey, PageTotals, RIPS,
        svm_access, vmx_access,
    },
    record::address,
};

use crate::{
    hooks::EHWPOISON,
    slot::Slot,
    state::{Vcpu, count, current_pid, current_tid},
};

/// Entries are not to be taken before there is poison: 16,384 of them are 20 MiB.
const BPF_F_NO_PREALLOC: u32 = 1;

/// Totals by page and thread.
#[map]
static PAGES: HashMap<PageKey, PageTotals> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// A page's totals before its first exit, all zero: too large for the stack.
#[map]
static BLANK: PerCpuArray<PageTotals> = PerCpuArray::with_max_entries(1, 0);

/// Exit to entry of exits that touch no memory, by their kind.
#[map]
static BASELINE: PerCpuArray<Duration> = PerCpuArray::with_max_entries(baseline::KINDS, 0);

const LINE_SHIFT: u64 = 6;
const LINES: u64 = 64;
const PAGE_SHIFT: u64 = 12;
const ISA_VMX: u32 = 1;
const ISA_SVM: u32 = 2;

#[inline(always)]
fn key(vcpu: &Vcpu) -> PageKey {
    PageKey {
        pid: current_pid(),
        tid: current_tid(),
        gfn: vcpu.gpa >> PAGE_SHIFT,
    }
}

#[inline(always)]
fn totals(vcpu: &Vcpu) -> Option<&'static mut PageTotals> {
    let totals = PAGES.get_ptr_mut(key(vcpu))?;
    // SAFETY: a map value of this size, checked by the verifier; only this thread's programs touch it.
    Some(unsafe { &mut *totals })
}

/// Totals for a page that has none yet.
#[inline(always)]
fn first(vcpu: &Vcpu) -> Option<&'static mut PageTotals> {
    // A failure shows itself in the look-up.
    let _ = PAGES.insert(key(vcpu), BLANK.get(0)?, 0);
    totals(vcpu)
}

/// Exits that the page has had: of [`EVENTS_PER_PAGE`] and more only some are sent as records.
#[inline(always)]
pub fn exits_before(vcpu: &Vcpu) -> u64 {
    if vcpu.address != address::GPA {
        return 0;
    }
    totals(vcpu).map_or(0, |totals| totals.exits)
}

/// What becomes of an exit's record: none is sent; one that waits until the daemon looks again; one that wakes it.
pub const NO_RECORD: u32 = 0;
const UNANNOUNCED: u32 = 1;
pub const ANNOUNCED: u32 = 2;
/// So many exits of a page wake the daemon; then one in so many, and each after a while without any ([`LULL_NS`]). Those have three
/// records each (the signal, the exit, the way back into the guest), further ones have one.
pub const ANNOUNCED_EXITS: u64 = 2;
const ANNOUNCED_EVERY: u64 = 32;
/// The daemon looks again so soon after what it was woken for, ns (`FLUSH` of its event loop).
pub const LULL_NS: u64 = 40_000_000;

#[inline(always)]
fn add(duration: &mut Duration, ns: u64) {
    if duration.count == 0 || ns < duration.min {
        duration.min = ns;
    }
    if ns > duration.max {
        duration.max = ns;
    }
    duration.count += 1;
    duration.sum += ns;
    if ns <= CLAIM_NS {
        duration.within_claim += 1;
    }
    duration.buckets[log2(ns) & (BUCKETS - 1)] += 1;
}

/// The bucket that `ns` belongs to. BPF has no instruction that counts leading zeros.
#[inline(always)]
fn log2(ns: u64) -> usize {
    if ns >> BUCKETS != 0 {
        return BUCKETS - 1;
    }
    let mut rest = ns;
    let mut bucket = 0;
    let mut half = BUCKETS / 2;
    while half != 0 {
        if rest >> half != 0 {
            rest >>= half;
            bucket += half;
        }
        half /= 2;
    }
    bucket
}

/// Adds an exit; `in_kernel`: it went back into the guest without a return to user space, at `left_ns` (0: not seen). Returns
/// what becomes of its record.
#[inline(always)]
pub fn add_exit(vcpu: &Vcpu, left_ns: u64, in_kernel: bool) -> u32 {
    if vcpu.address != address::GPA {
        // No page to add it to: kvm_page_fault is not attached or came before the arming, or its address is none of
        // this guest's (shadow paging, a nested guest).
        return ANNOUNCED;
    }
    let Some(page) = totals(vcpu).or_else(|| first(vcpu)) else {
        // PAGES is full: nothing is lost, as each exit is then sent.
        count(lost::TOTALS);
        return ANNOUNCED;
    };
    let line = (vcpu.gpa >> LINE_SHIFT) & (LINES - 1);
    if page.exits == 0 {
        page.first_ns = vcpu.exit_ns;
    } else if page.last_line == line as u32 {
        page.same_line += 1;
    }
    // A time that is not known counts as long ago.
    let lull = left_ns.wrapping_sub(page.last_ns) > LULL_NS;
    page.exits += 1;
    page.lines |= 1 << line;
    page.last_line = line as u32;
    page.last_ns = vcpu.exit_ns;
    if vcpu.signal_ns != 0 {
        page.signals += 1;
    }
    if vcpu.gup_ret == EHWPOISON {
        page.gup_poison += 1;
    }
    let access = access(vcpu);
    match access {
        FaultAccess::Read => page.reads += 1,
        FaultAccess::Write => page.writes += 1,
        FaultAccess::Fetch => page.fetches += 1,
        FaultAccess::PageWalk => page.page_walks += 1,
        FaultAccess::WriteOrPageWalk => page.writes_or_walks += 1,
    }
    if vcpu.exit_ns != 0 && left_ns != 0 {
        add(&mut page.in_kernel_time, left_ns - vcpu.exit_ns);
    }
    if vcpu.gup_calls != 0 {
        add(&mut page.gup, vcpu.gup_ns);
    }
    if in_kernel {
        page.in_kernel += 1;
        if left_ns != 0 {
            page.last_entry_ns = left_ns;
            if vcpu.exit_ns != 0 {
                add(&mut page.exit_to_entry, left_ns - vcpu.exit_ns);
            }
        }
    }
    let new_rip = by_rip(page, vcpu, line as u32, access);
    if !(new_rip || page.exits <= EVENTS_PER_PAGE || page.exits & (page.exits - 1) == 0) {
        NO_RECORD
    } else if new_rip || lull || page.exits <= ANNOUNCED_EXITS || page.exits % ANNOUNCED_EVERY == 0 {
        ANNOUNCED
    } else {
        UNANNOUNCED
    }
}

/// Adds the way back into the guest of an exit that has been counted.
#[inline(always)]
pub fn add_reentry(vcpu: &Vcpu, entry_ns: u64) {
    if vcpu.address != address::GPA {
        return;
    }
    if let Some(page) = totals(vcpu) {
        page.last_entry_ns = entry_ns;
        if vcpu.exit_ns != 0 {
            add(&mut page.exit_to_entry, entry_ns - vcpu.exit_ns);
        }
        if vcpu.user_ns != 0 {
            add(&mut page.vmm, entry_ns - vcpu.user_ns);
        }
    }
}

/// Adds an exit of a victim that met no page fault and did not leave the kernel, if it is of a kind that is a measure of the bare
/// way out of the guest and back. An exit that waits (HLT, PAUSE) or runs the host's own interrupts is none.
#[inline(always)]
pub fn add_baseline(slot: &Slot, entry_ns: impl FnOnce() -> u64) {
    let Some(kind) = baseline_kind(slot) else { return };
    if let Some(duration) = BASELINE.get_ptr_mut(kind) {
        // SAFETY: a per-CPU map value; tracing programs do not nest on one CPU.
        add(unsafe { &mut *duration }, entry_ns() - slot.exit_ns);
    }
}

#[inline(always)]
fn baseline_kind(slot: &Slot) -> Option<u32> {
    match (slot.isa, slot.exit_reason) {
        (ISA_VMX, 10) | (ISA_SVM, 0x72) => Some(baseline::CPUID),
        (ISA_VMX, 31 | 32) | (ISA_SVM, 0x7c) => Some(baseline::MSR),
        (ISA_VMX, 7) | (ISA_SVM, 0x64) => Some(baseline::INTERRUPT_WINDOW),
        (ISA_VMX, 52) => Some(baseline::PREEMPTION_TIMER),
        _ => None,
    }
}

#[inline(always)]
fn access(vcpu: &Vcpu) -> FaultAccess {
    if vcpu.isa == ISA_VMX {
        vmx_access(vcpu.fault_code)
    } else {
        svm_access(vcpu.fault_code)
    }
}

/// Adds to the counts of this RIP; returns whether it is new on the page.
#[inline(always)]
fn by_rip(page: &mut PageTotals, vcpu: &Vcpu, line: u32, access: FaultAccess) -> bool {
    let used = page.rips_used;
    for n in 0..RIPS {
        let entry = &mut page.rips[n];
        let new = n as u32 >= used;
        if new {
            *entry = ByRip {
                rip: vcpu.rip,
                exits: 0,
                lines: 0,
                writes: 0,
                fetches: 0,
                ascending: 0,
                first_ns: vcpu.exit_ns,
                last_ns: 0,
                first_line: line,
                last_line: line,
            };
            page.rips_used = n as u32 + 1;
        } else if entry.rip != vcpu.rip {
            continue;
        }
        if entry.exits != 0 && line == entry.last_line + 1 {
            entry.ascending += 1;
        }
        entry.exits += 1;
        entry.lines |= 1 << line;
        entry.last_line = line;
        entry.last_ns = vcpu.exit_ns;
        entry.writes += u64::from(matches!(
            access,
            FaultAccess::Write | FaultAccess::WriteOrPageWalk
        ));
        entry.fetches += u64::from(matches!(access, FaultAccess::Fetch));
        return new;
    }
    page.other_rips += 1;
    false
}
