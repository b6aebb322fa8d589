//! The kernel's own recording of a storm (ftrace text), summed up by rules of its own: exit to entry as `perf kvm stat`
//! does, by exit reason, and of the exits that met poison the parts. Nothing of poisontrace's own reader is used.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab_protocol::storm::{FTRACE_FILE, GUP_ENTER, GUP_RETURN, StormResult};

/// How many, and how long in all, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Time {
    pub count: u64,
    pub ns: f64,
}

impl Time {
    pub fn each(&self) -> f64 {
        self.ns / self.count.max(1) as f64
    }
}

/// How long each took, in order, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn all(&self) -> Time {
        self.last(u64::MAX)
    }

    /// The last so many.
    pub fn last(&self, count: u64) -> Time {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.0.len());
        let last = &self.0[self.0.len() - count..];
        Time {
            count: count as u64,
            ns: last.iter().sum(),
        }
    }

    /// The middle one, nanoseconds; 0 of none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// What interrupts have added, nanoseconds of each: to those that took half as long again as the middle one.
    pub fn interrupted(&self) -> f64 {
        let median = self.median();
        let added: f64 = self
            .0
            .iter()
            .filter(|ns| **ns > 1.5 * median)
            .map(|ns| ns - median)
            .sum();
        added / self.0.len().max(1) as f64
    }
}

#[derive(Debug, Default)]
pub struct Sums {
    /// kvm_exit to kvm_entry, by exit reason: all exits of the VMM.
    pub by_reason: BTreeMap<String, Times>,
    /// Of the exits whose gup met poison.
    pub exit_to_entry: Times,
    pub in_kernel: Time,
    pub gup: Times,
}

/// -EHWPOISON.
const POISONED: &str = "-133";

/// Reads the trace of a storm. `thread`: name of the vCPU's thread.
pub fn read(out: &Path, result: &StormResult, thread: &str) -> Result<Sums> {
    let [(cycles, ns), (cycles_after, ns_after)] = result.clocks.context("the trace has no clocks")?;
    ensure!(
        cycles_after > cycles && ns_after > ns,
        "the trace's clocks do not go forward"
    );
    let ns_per_cycle = (ns_after - ns) as f64 / (cycles_after - cycles) as f64;
    let path = out.join(FTRACE_FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut sums = Sums::default();
    let mut exit = Exit::default();
    for line in text.lines().filter_map(|line| Line::parse(line, thread)) {
        exit.take(&line, &mut sums);
    }
    sums.in_kernel.ns *= ns_per_cycle;
    let each = sums
        .by_reason
        .values_mut()
        .chain([&mut sums.exit_to_entry, &mut sums.gup]);
    each.flat_map(|times| &mut times.0)
        .for_each(|time| *time *= ns_per_cycle);
    Ok(sums)
}

/// `storm-vmm-130     [000] d..1. 2188792957: kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x1000a …`
struct Line<'a> {
    cycles: u64,
    event: &'a str,
    fields: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str, thread: &str) -> Option<Self> {
        let rest = line.trim_start().strip_prefix(thread)?.strip_prefix('-')?;
        let (_, rest) = rest.split_once("] ")?;
        let (_, rest) = rest.split_once(' ')?;
        let (cycles, rest) = rest.trim_start().split_once(": ")?;
        let (event, fields) = rest.split_once(": ").unwrap_or((rest, ""));
        Some(Self {
            cycles: cycles.parse().ok()?,
            event,
            fields,
        })
    }

    /// The word after this one.
    fn after(&self, word: &str) -> Option<&'a str> {
        let mut words = self.fields.split_ascii_whitespace();
        words.by_ref().find(|other| *other == word)?;
        words.next()
    }
}

/// The exit under way, in cycles.
#[derive(Default)]
struct Exit {
    left: Option<(u64, String)>,
    gup_entered: Option<u64>,
    gup: u64,
    poison: bool,
    user: Option<u64>,
}

impl Exit {
    fn take(&mut self, line: &Line, sums: &mut Sums) {
        let now = line.cycles;
        match line.event {
            "kvm_exit" => {
                let reason = line.after("reason").unwrap_or("?").to_owned();
                *self = Self {
                    left: Some((now, reason)),
                    ..Self::default()
                };
            }
            GUP_ENTER => self.gup_entered = Some(now),
            GUP_RETURN => {
                if let Some(entered) = self.gup_entered.take() {
                    self.gup += now.saturating_sub(entered);
                    self.poison |= line.fields.ends_with(&format!("ret={POISONED}"));
                }
            }
            "kvm_userspace_exit" => {
                self.user.get_or_insert(now);
            }
            "kvm_entry" => self.end(now, sums),
            _ => {}
        }
    }

    fn end(&mut self, entry: u64, sums: &mut Sums) {
        let Self {
            left: Some((left, reason)),
            gup,
            poison,
            user,
            ..
        } = std::mem::take(self)
        else {
            return;
        };
        let whole = entry.saturating_sub(left);
        sums.by_reason.entry(reason).or_default().0.push(whole as f64);
        if poison {
            sums.exit_to_entry.0.push(whole as f64);
            sums.in_kernel.count += 1;
            sums.in_kernel.ns += user.unwrap_or(entry).saturating_sub(left) as f64;
            sums.gup.0.push(gup as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
       storm-vmm-130     [000] d..1.      1000: kvm_exit: vcpu 0 reason CPUID rip 0x1000a info1 0x0
       storm-vmm-130     [000] d..1.      1100: kvm_entry: vcpu 0, rip 0x1000c
       storm-vmm-130     [000] d..1.      2000: kvm_exit: vcpu 0 reason EPT_VIOLATION rip 0x1000e info1 0x581
       storm-vmm-130     [000] .....      2010: kvm_page_fault: vcpu 0 rip 0x1000e address 0x100000 error_code 0x581
       storm-vmm-130     [000] .....      2020: gup_enter: (get_user_pages_unlocked+0x0/0x90)
       storm-vmm-130     [000] .....      2050: gup_return: (hva_to_pfn+0xd9/0x3a0 <- get_user_pages_unlocked) ret=-133
         cat-131         [000] .....      2060: kvm_entry: vcpu 0, rip 0x1
       storm-vmm-130     [000] .....      2200: kvm_userspace_exit: reason KVM_EXIT_UNKNOWN (0)
       storm-vmm-130     [000] d..1.      2500: kvm_entry: vcpu 0, rip 0x10011
";

    #[test]
    fn exits_on_poison_are_told_apart_and_cut_into_their_parts() {
        let folder = tempfile::TempDir::new().unwrap();
        fs::write(folder.path().join(FTRACE_FILE), TRACE).unwrap();
        let result = StormResult {
            clocks: Some([(0, 0), (1000, 10_000)]),
            ..StormResult::default()
        };
        let sums = read(folder.path(), &result, "storm-vmm").unwrap();
        let time = |ns| Time { count: 1, ns };
        assert_eq!(sums.exit_to_entry.all(), time(5000.0));
        assert_eq!((sums.in_kernel, sums.gup.all()), (time(2000.0), time(300.0)));
        assert_eq!(sums.by_reason["CPUID"].all(), time(1000.0));
        assert_eq!(sums.by_reason["EPT_VIOLATION"].all(), time(5000.0));
    }

    #[test]
    fn the_last_of_several_are_summed_up() {
        let times = Times(vec![100.0, 20.0, 3.0]);
        assert_eq!(times.last(2), Time { count: 2, ns: 23.0 });
        assert_eq!(times.last(0), Time::default());
        assert_eq!(times.last(9), times.all());
        assert_eq!((times.median(), Times::default().median()), (20.0, 0.0));
    }
}
