//! The wordings that a re-formatted line is recognised by: enough of each to know a line that is whole from one that was
//! wrapped or cut.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

use super::shape::{Fit, Shape};

/// The shapes of lines that begin with the same words.
struct Stem {
    /// No stem begins another.
    words: &'static str,
    shapes: &'static [&'static str],
}

const SIGBUS_TYPE: &[&str] = &[
    "Guest MCE Memory Error at QEMU addr 0x{x} and GUEST addr 0x{x}[[ on lost large page {x}@{x}]] of type {BUS_MCEERR_AR|BUS_MCEERR_AO} injected",
    "Guest MCE Memory Error at {QEMU|GUEST} addr 0x{x} and {QEMU|GUEST} addr 0x{x} injected",
];

const STEMS: &[Stem] = &[
    Stem {
        words: "L1: gpa=0x",
        shapes: &["L1: gpa=0x{x} hpa=0x{x} pfn=0x{x} qemu pid={d}"],
    },
    Stem {
        words: "Host physical address for 0x",
        shapes: &["Host physical address for 0x{x} ({*}) is 0x{x}"],
    },
    Stem {
        words: "Memory failure: 0x",
        shapes: &[
            "Memory failure: 0x{x}: Sending SIGBUS to CPU {d}/KVM:{d} due to hardware memory corruption",
            "Memory failure: 0x{x}: Sending SIGBUS to fc_vcpu {d}:{d} due to hardware memory corruption",
            "Memory failure: 0x{x}: Sending SIGBUS to {qemu-system-x86|qemu-kvm|kvm|firecracker|cloud-hyperviso|ld-linux-x86-64}:{d} due to hardware memory corruption",
            "Memory failure: 0x{x}: Sending SIGBUS to {*}:{d} due to hardware memory corruption",
            "Memory failure: 0x{x}: Killing CPU {d}/KVM:{d} {due|early due} to hardware memory corruption",
            "Memory failure: 0x{x}: Killing {qemu-system-x86|qemu-kvm|kvm}:{d} {due|early due} to hardware memory corruption",
            "Memory failure: 0x{x}: Killing {*}:{d} {due|early due} to hardware memory corruption",
            "Memory failure: 0x{x}: forcibly killing {*}:{d} because of failure to unmap corrupted page",
            "Memory failure: 0x{x}: recovery action for {dirty|clean} {swapcache page|mlocked LRU page|unevictable LRU page|LRU page}: {Ignored|Failed|Delayed|Recovered}",
            "Memory failure: 0x{x}: recovery action for {huge page|free huge page|free buddy page|free buddy page (2nd try)|unknown page|reserved kernel page|kernel slab page|already truncated LRU page|high-order kernel page|dax page|unsplit thp|unmapping failed page|huge page already hardware poisoned|hugepage|already poisoned page|different compound page after locking|non-pmd-sized huge page|kernel folio|unsplit folio}: {Ignored|Failed|Delayed|Recovered}",
            "Memory failure: 0x{x}: recovery action for {*}: {Ignored|Failed|Delayed|Recovered}",
            "Memory failure: 0x{x}: already hardware poisoned",
        ],
    },
    Stem {
        words: "Out of memory: Killed process ",
        shapes: &["Out of memory: Killed process {d} ({*}) total-vm:{d}kB"],
    },
    Stem {
        words: "Memory cgroup out of memory: Killed process ",
        shapes: &["Memory cgroup out of memory: Killed process {d} ({*}) total-vm:{d}kB"],
    },
    Stem {
        words: "MCE 0x",
        shapes: &[
            "MCE 0x{x}: Killing {*}:{d} {due|early due} to hardware memory corruption",
            "MCE 0x{x}: recovery action for {*}: {Ignored|Failed|Delayed|Recovered}",
            "MCE 0x{x}: {*} recovery: {Ignored|Failed|Delayed|Recovered}",
        ],
    },
    Stem {
        words: "MCE: Killing ",
        shapes: &["MCE: Killing {*}:{d} due to hardware memory corruption fault at {x}"],
    },
    Stem {
        words: "Uncorrected hardware memory error in user-access at ",
        shapes: &["Uncorrected hardware memory error in user-access at {x}"],
    },
    Stem {
        words: "[Hardware Error]: ",
        shapes: &[
            "[Hardware Error]: CPU {d}: Machine Check Exception: {x} Bank {d}: {x16}",
            "[Hardware Error]: CPU {d}: Machine Check: {x} Bank {d}: {x16}",
            "[Hardware Error]: CPU {d}: Machine Check Event: {x} Bank {d}: {x16}",
            "[Hardware Error]: RIP [[!INEXACT! ]]{x}:<{x16}>[[ {open}{*}{close}]]",
            "[Hardware Error]: TSC {x}[[ ADDR {x}]][[ MISC {x}]][[ SYND {x}]][[ IPID {x}]][[ PPIN {x}]]",
            "[Hardware Error]: PROCESSOR {d}:{x} TIME {d} SOCKET {d} APIC {x}[[ microcode {x}]]",
            "[Hardware Error]: Machine check: {Action required|Action optional}: {data load error in a user process|data load in error recoverable area of kernel|instruction fetch error in a user process|memory scrubbing error|last level cache writeback error|unknown MCACOD}",
            "[Hardware Error]: Machine check: Action required {with lost events|but kernel thread is not continuable|but unaffected thread is continuable}",
            "[Hardware Error]: Machine check: {Overflowed uncorrected error without MCA Overflow Recovery|Overflowed uncorrected|Processor context corrupt|Uncorrected unrecoverable error|Uncorrected unrecoverable error in kernel context|Uncorrected error without MCA Recovery|Uncorrected Patrol Scrub Error|Uncorrected|Neither restart nor error IP|In kernel and no restart IP|Data load in unrecoverable area of kernel|Instruction fetch error in kernel|MCIP not set in MCA handler}{end}",
            "[Hardware Error]: Machine check: {*}",
            "[Hardware Error]: CPU:{d} ({x}:{x}:{d}) MC{d}_STATUS[{*}]: 0x{x16}",
            "[Hardware Error]: Error Addr: 0x{x16}",
            "[Hardware Error]: PPIN: 0x{x16}",
            "[Hardware Error]: IPID: 0x{x16}[[, Syndrome: 0x{x16}]]",
        ],
    },
    Stem {
        words: "Kernel panic - not syncing: ",
        shapes: &[
            "Kernel panic - not syncing: {Fatal local machine check|Fatal machine check from unknown source|Fatal machine check on current CPU|Fatal machine check|Fatal Machine check|Uncorrected machine check|Attempted to kill init!|Out of memory|Timeout: Not all CPUs entered broadcast exception handler|Unexpected exception handler|Fatal exception in interrupt|Fatal exception}{end}",
            "Kernel panic - not syncing: {*}",
        ],
    },
    Stem {
        words: "Guest MCE Memory Error at ",
        shapes: SIGBUS_TYPE,
    },
    Stem {
        words: "QEMU got Hardware memory error",
        shapes: &["QEMU got Hardware memory error[[ at addr 0x{x}]]"],
    },
    Stem {
        words: "Hardware memory error",
        shapes: &[
            "Hardware memory error at addr 0x{x} of type {BUS_MCEERR_AR|BUS_MCEERR_AO} for memory used by QEMU itself instead of guest system!",
            "Hardware memory error for memory used by QEMU itself instead of guest system!",
            "Hardware memory error!",
        ],
    },
    Stem {
        words: "Memory error: Loosing a large page (size: ",
        shapes: &[
            "Memory error: Loosing a large page (size: {d})[[ at QEMU addr 0x{x}]][[ and GUEST addr 0x{x}]]",
        ],
    },
    Stem {
        words: ": Previous MCE still in progress",
        shapes: &[": Previous MCE still in progress, raising triple fault"],
    },
    Stem {
        words: ": MCE capability is not enabled",
        shapes: &[": MCE capability is not enabled, raising triple fault"],
    },
    Stem {
        words: "kvm run failed ",
        shapes: &[
            "kvm run failed Memory page has hardware error",
            "kvm run failed {*}",
        ],
    },
    Stem {
        words: "-name guest=",
        shapes: &["-name guest={w}"],
    },
    Stem {
        words: "-uuid ",
        shapes: &["-uuid {x8}-{x4}-{x4}-{x4}-{x12}"],
    },
    Stem {
        words: ": shutting down, reason=",
        shapes: &[
            ": shutting down, reason={crashed|destroyed|shutdown|migrated|saved|failed|from-snapshot|daemon|unknown}",
        ],
    },
    Stem {
        words: ": starting up libvirt version: ",
        shapes: &[
            ": starting up libvirt version: {*}, qemu version: {*}[[, kernel: {w}]], hostname: {w}",
            ": starting up libvirt version: {*}, qemu version: {w}",
        ],
    },
    Stem {
        words: ": panic hyper-v: arg1='",
        shapes: &[": panic hyper-v: arg1='0x{x}', arg2='0x{x}', arg3='0x{x}', arg4='0x{x}', arg5='0x{x}'"],
    },
    Stem {
        words: "ANOM_ABEND ",
        shapes: &[
            "ANOM_ABEND {*} pid={d} comm={*} exe={*} sig={d}",
            "ANOM_ABEND {*} pid={d} comm={*} sig={d}",
        ],
    },
    Stem {
        words: "type=1701 audit(",
        shapes: &[
            "type=1701 audit({*}): {*} pid={d} comm={*} exe={*} sig={d}",
            "type=1701 audit({*}): {*} pid={d} comm={*} sig={d}",
        ],
    },
    Stem {
        words: "systemd-coredump[",
        shapes: &[
            "systemd-coredump[{d}]: Process {d} ({*}) of user {d} terminated abnormally with signal {d}/{w}",
            "systemd-coredump[{d}]: Process {d} ({*}) of user {d} dumped core.",
            "systemd-coredump[{d}]: {*}Process {d} ({*}) of user {d} dumped core.",
        ],
    },
    Stem {
        words: ": Main process exited, code=",
        shapes: &[": Main process exited, code={killed|dumped|exited}, status={d}/{w}"],
    },
    Stem {
        words: ":fc_vcpu ",
        shapes: &[
            ":fc_vcpu {d}:ERROR:src/vmm/src/signal_handler.rs:{d}] Shutting down VM after intercepting signal {d}, code {d}.",
        ],
    },
    Stem {
        words: "Shutting down VM after intercepting signal ",
        shapes: &["Shutting down VM after intercepting signal {d}, code {d}."],
    },
    Stem {
        words: "memory_failure_event: ",
        shapes: &[
            "memory_failure_event: {d}-{d}-{d} {*} pfn=0x{x} page_type={*} action_result={Ignored|Failed|Delayed|Recovered}",
        ],
    },
    Stem {
        words: "event MEMORY_FAILURE ",
        shapes: &[
            "event MEMORY_FAILURE {for domain|at} {*}: {open}",
            "event MEMORY_FAILURE {for domain|at} {*}:",
        ],
    },
    Stem {
        words: "event GUEST_PANICKED ",
        shapes: &[
            "event GUEST_PANICKED {for domain|at} {*}: {open}",
            "event GUEST_PANICKED {for domain|at} {*}:",
        ],
    },
    Stem {
        words: "event GUEST_CRASHLOADED ",
        shapes: &[
            "event GUEST_CRASHLOADED {for domain|at} {*}: {open}",
            "event GUEST_CRASHLOADED {for domain|at} {*}:",
        ],
    },
    Stem {
        words: "event SHUTDOWN ",
        shapes: &[
            "event SHUTDOWN {for domain|at} {*}: {open}",
            "event SHUTDOWN {for domain|at} {*}:",
        ],
    },
    Stem {
        words: "event RESET ",
        shapes: &[
            "event RESET {for domain|at} {*}: {open}",
            "event RESET {for domain|at} {*}:",
        ],
    },
    Stem {
        words: "event 'memory-failure' for domain ",
        shapes: &["event 'memory-failure' for domain {*}:"],
    },
    Stem {
        words: "event 'lifecycle' for domain ",
        shapes: &["event 'lifecycle' for domain {*}: {w} {w}"],
    },
];

/// Longest words of a stem.
pub const MAX_STEM: usize = 56;

/// Stems that are looked at in one line.
const MAX_HITS: usize = 8;

struct Table {
    search: AhoCorasick,
    shapes: Vec<Vec<Shape>>,
}

static TABLE: LazyLock<Option<Table>> = LazyLock::new(|| {
    let search = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostFirst)
        .build(STEMS.iter().map(|stem| stem.words))
        .ok()?;
    let shapes = STEMS
        .iter()
        .map(|stem| stem.shapes.iter().map(|shape| Shape::new(shape)).collect())
        .collect();
    Some(Table { search, shapes })
});

/// A known stem in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub at: usize,
    /// Where the stem's own words end.
    pub stem_end: usize,
    pub fit: Fit,
    /// Which of the stem's shapes it is; the most exact stand first.
    pub rank: usize,
    /// A shape that is more exact than the one that fits ends inside.
    pub maybe_cut: bool,
}

/// The known stems of `line`, with how each goes on; ends are those in `line`.
pub fn hits(line: &[u8]) -> impl Iterator<Item = Hit> {
    TABLE.iter().flat_map(move |table| {
        table.search.find_iter(line).take(MAX_HITS).map(move |found| {
            let shapes = table.shapes.get(found.pattern().as_usize());
            let at = found.start();
            let (fit, rank, maybe_cut) =
                shapes.map_or((Fit::No, 0, false), |shapes| best(shapes, &line[at..]));
            let fit = match fit {
                Fit::Whole { end, open } => Fit::Whole { end: at + end, open },
                other => other,
            };
            Hit {
                at,
                stem_end: found.end(),
                fit,
                rank,
                maybe_cut,
            }
        })
    })
}

/// How many known wordings of `line` are whole.
pub fn whole(line: &[u8]) -> usize {
    hits(line)
        .filter(|hit| matches!(hit.fit, Fit::Whole { .. }))
        .count()
}

/// Whether any stem stands in `line`.
pub fn any(line: &[u8]) -> bool {
    TABLE.as_ref().is_some_and(|table| table.search.is_match(line))
}

/// The first shape that fits as a whole, and whether the text ends in one before it; the most exact stand first.
fn best(shapes: &[Shape], text: &[u8]) -> (Fit, usize, bool) {
    let mut cut = false;
    for (rank, shape) in shapes.iter().enumerate() {
        match shape.fit(text) {
            whole @ Fit::Whole { .. } => return (whole, rank, cut),
            Fit::Cut => cut = true,
            Fit::No => {}
        }
    }
    (if cut { Fit::Cut } else { Fit::No }, 0, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stem_begins_its_shapes_and_no_other_stem() {
        for stem in STEMS {
            assert!(stem.words.len() <= MAX_STEM, "{}", stem.words);
            for shape in stem.shapes {
                assert!(
                    shape.starts_with(stem.words)
                        || stem
                            .words
                            .starts_with(&shape[..shape.find(['{', '[']).unwrap_or(0)]),
                    "{shape}"
                );
            }
            for other in STEMS {
                assert!(
                    std::ptr::eq(stem, other) || !other.words.starts_with(stem.words),
                    "{}",
                    other.words
                );
            }
        }
    }

    #[test]
    fn real_lines_are_whole_and_their_beginnings_are_cut() {
        for line in [
            "Memory failure: 0x8aa9a1: Sending SIGBUS to qemu-system-x86:4711 due to hardware memory corruption",
            "Memory failure: 0x8aa9a1: recovery action for free buddy page (2nd try): Delayed",
            "Memory failure: 0x8aa9a1: recovery action for some new kind of page: Failed",
            "MCE 0xf7eb: dirty LRU page recovery: Recovered",
            "mce: [Hardware Error]: CPU 0: Machine Check Exception: 7 Bank 9: fc00080000000000",
            "mce: [Hardware Error]: RIP !INEXACT! 10:<ffffffff8106a01c> {clflush_cache_range+0x1c/0x30}",
            "[Hardware Error]: CPU:1 (17:1:2) MC9_STATUS[Over|UE|MiscV|AddrV|-|-|-|-|-|-|-]: 0xfc00080000000000",
            "qemu-kvm: Guest MCE Memory Error at QEMU addr 0x7fc1f5dd6000 and GUEST addr 0x19fd6000 on lost large page 200000@19e00000 of type BUS_MCEERR_AR injected",
            "Guest MCE Memory Error at GUEST addr 0x2beb000 and QEMU addr 0x7fccea9eb000 injected",
            "systemd-coredump[1331]: Process 1330 (qemu-system-x86) of user 107 dumped core.",
            "systemd-coredump[1331]: [-] Process 1330 (qemu-system-x86) of user 107 dumped core.",
            "-name guest=db-7 -uuid 5e1f1e55-0000-4000-8000-00000000feed",
            "2025-06-09 13:23:11.100+0000: panic hyper-v: arg1='0x3e', arg2='0x46d359bbdff', arg3='0x56d359bbdff', arg4='0x0', arg5='0x0'",
        ] {
            let last = hits(line.as_bytes()).last().unwrap();
            assert!(
                matches!(last.fit, Fit::Whole { end, .. } if end == line.len()),
                "{line}: {last:?}"
            );
            let shorter = &line.as_bytes()[..line.len() - 1];
            let last = hits(shorter).last().unwrap();
            let ends = matches!(last.fit, Fit::Cut | Fit::Whole { open: true, .. });
            assert!(ends, "{line}: {last:?}");
        }
    }
}
