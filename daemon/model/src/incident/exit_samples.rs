//! Samples of one incident's exits, for the plot: all of the first, then ever fewer, evenly spaced. Bounded.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{limits::Detail, model::ExitSample};
use crate::{compact_map, event::PoisonExit, hex::Hex};

/// Exits kept. The kernel sends the first 256 of a page and every power of two after them, so that only sources
/// that show every exit are thinned.
const MAX_KEPT: usize = 512;

const PAGE_MASK: u64 = !0xfff;

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExitSamples {
    kept: Vec<Kept>,
    seen: u64,
    /// log2 of: of how many exits one is kept.
    thinned: u32,
    /// How much less is kept.
    #[serde(default, skip_serializing_if = "Detail::is_full")]
    pub detail: Detail,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    tid: u32,
    /// CLOCK_MONOTONIC, nanoseconds.
    at: u64,
    sample: ExitSample,
}

impl ExitSamples {
    /// Keeps an exit, if it is among those that are kept, and returns whether it is.
    pub fn add(&mut self, tid: u32, vcpu: Option<u32>, exit: &PoisonExit) -> bool {
        let no = self.seen;
        self.seen += 1;
        if self.kept.len() >= self.detail.of(MAX_KEPT) {
            let mut even = false;
            self.kept.retain(|_| {
                even = !even;
                even
            });
            self.thinned += 1;
        }
        let Some(at) = exit.exit_ns.or(exit.fault_ns) else {
            return false;
        };
        if no.trailing_zeros() < self.thinned {
            return false;
        }
        let since_exit = |end: Option<u64>| exit.exit_ns.zip(end).map(|(a, b)| b.saturating_sub(a));
        let kept = Kept {
            tid,
            at,
            sample: ExitSample {
                t_ns: 0,
                vcpu,
                gpa: exit.gpa,
                rip: exit.rip,
                access: exit.access,
                in_kernel_ns: since_exit(exit.user_ns.or(exit.entry_ns)),
                gup_ns: exit.gup_ns,
                exit_to_entry_ns: since_exit(exit.entry_ns),
            },
        };
        compact_map::push(&mut self.kept, kept);
        true
    }

    /// The vCPU entered the guest again after an exit that was kept, which began at `exit_ns`.
    pub fn reentry(&mut self, tid: u32, exit_ns: u64, entry_ns: u64) {
        let last = self
            .kept
            .iter_mut()
            .rev()
            .find(|kept| kept.tid == tid)
            .filter(|kept| kept.at == exit_ns);
        if let Some(kept) = last {
            kept.sample.exit_to_entry_ns = Some(entry_ns.saturating_sub(exit_ns));
        }
    }

    /// Whether the exits of this thread and RIP on the page go upwards rather than anywhere, as far as they are kept.
    pub fn goes_upwards(&self, tid: u32, page: Option<u64>, rip: u64) -> bool {
        let lines = self.kept.iter().filter_map(|kept| {
            let sample = &kept.sample;
            let here = kept.tid == tid
                && sample.rip.is_some_and(|at| at.0 == rip)
                && sample.gpa.map(|gpa| gpa.0 & PAGE_MASK) == page;
            here.then_some(sample.gpa?.0)
        });
        let (mut up, mut down, mut last) = (0_u32, 0_u32, None);
        for at in lines {
            match last {
                Some(last) if at > last => up += 1,
                Some(last) if at < last => down += 1,
                _ => {}
            }
            last = Some(at);
        }
        // A second walk over the page begins below.
        down <= 1 || down * 3 <= up
    }

    /// Adds another incident's exits.
    pub fn absorb(&mut self, other: Self) {
        self.seen += other.seen;
        for kept in other.kept {
            if self.kept.len() < self.detail.of(MAX_KEPT) {
                compact_map::push(&mut self.kept, kept);
            }
        }
        self.kept.sort_by_key(|kept| kept.at);
    }

    /// In order of time, from `t0` on (CLOCK_MONOTONIC, nanoseconds).
    /// `misread`: pages whose addresses are none.
    pub fn report(&self, t0: u64, misread: &BTreeSet<u64>) -> Vec<ExitSample> {
        let known = |gpa: &Hex| !misread.contains(&(gpa.0 & PAGE_MASK));
        let mut samples: Vec<ExitSample> = self
            .kept
            .iter()
            .map(|kept| ExitSample {
                t_ns: i64::try_from(i128::from(kept.at) - i128::from(t0)).unwrap_or(i64::MAX),
                gpa: kept.sample.gpa.filter(known),
                ..kept.sample.clone()
            })
            .collect();
        samples.sort_by_key(|sample| sample.t_ns);
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Access, Isa},
        hex::Hex,
    };

    fn exit(at: u64) -> PoisonExit {
        PoisonExit {
            exit_ns: Some(at),
            fault_ns: None,
            gup_ns: Some(300),
            gup_ret: None,
            signal_ns: None,
            user_ns: Some(at + 700),
            entry_ns: None,
            rip: Some(Hex(0x1000)),
            gpa: Some(Hex(0x5040)),
            hva: None,
            access: Access::Read,
            isa: Isa::Vmx,
            reason: 48,
            user_reason: None,
            user_errno: None,
            insn: None,
            recovered: false,
            other_address: None,
        }
    }

    #[test]
    fn a_million_exits_leave_an_even_and_bounded_sample() {
        let mut samples = ExitSamples::default();
        for n in 0..1_000_000 {
            samples.add(7, Some(0), &exit(1_000 * n));
            samples.reentry(7, 1_000 * n, 1_000 * n + 900);
        }
        let samples = samples.report(0, &BTreeSet::new());
        assert!(
            (MAX_KEPT / 2..=MAX_KEPT).contains(&samples.len()),
            "{}",
            samples.len()
        );
        let step = samples[1].t_ns - samples[0].t_ns;
        assert!(samples.windows(2).all(|w| w[1].t_ns - w[0].t_ns == step));
        assert!(
            samples
                .iter()
                .all(|s| s.in_kernel_ns == Some(700) && s.exit_to_entry_ns == Some(900))
        );
    }

    #[test]
    fn what_the_kernel_sends_of_one_page_is_kept_whole() {
        let mut samples = ExitSamples::default();
        for n in 0..300 {
            samples.add(7, None, &exit(n));
        }
        assert_eq!(samples.report(0, &BTreeSet::new()).len(), 300);
    }
}
