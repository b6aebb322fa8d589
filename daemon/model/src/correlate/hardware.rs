//! What the host's hardware reported, joined to the pages that `memory_failure()` then took out of use.
//!
//! | source | order and thread | joined by |
//! |---|---|---|
//! | deferred, UCNA, SRAO | one kworker: `mce_record`, `memory_failure()`, `mc_event` (the notifier chain of mce/core.c) | page, else thread and order |
//! | SRAR | `memory_failure()` on the thread that accessed; `mce_record` and `mc_event` on a kworker later | page |
//! | firmware | `mc_event`, `mce_record` without a bank, `memory_failure()` on a kworker | page |
//!
//! A bank's address may be none of the host's memory (AMD's memory controllers report a normalised one).

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::{boxed::Box, vec::Vec};

use super::{Correlator, IncidentNo};
use crate::{
    event::{Event, HostMce},
    hex::Hex,
    incident::{evidence::Unisolated, mca, origin::Consumed, timeline::TimelineEvent},
};

/// Reports that are kept, and for how long before and after `memory_failure()`, nanoseconds.
const MAX_REPORTS: usize = 64;
const JOIN_WITHIN_NS: u64 = 1_000_000_000;
/// kill_me_maybe() signals right after `memory_failure()`, nanoseconds.
const SIGNALLED_WITHIN_NS: u64 = 10_000_000;
const PAGE_SHIFT: u32 = 12;
/// Bits of a physical address (MCI_ADDR_PHYSADDR, arch/x86/include/asm/mce.h).
const PHYSICAL: u64 = (1 << 52) - 1;

/// An error as some part of the host reported it.
struct Report {
    t: u64,
    tid: u32,
    /// `None`: it names no page.
    pfn: Option<u64>,
    what: What,
}

enum What {
    Mce(HostMce),
    Edac { label: String },
    Firmware,
}

/// The latest reports.
#[derive(Default)]
pub(super) struct HostReports(VecDeque<Report>);

/// How `memory_failure()` came to be called, as far as its thread shows.
#[derive(Clone, Copy, Default)]
pub(super) struct Caller {
    pub in_kvm_run: Option<bool>,
    pub consumed: Option<Consumed>,
}

impl Correlator {
    pub(super) fn host_mce(&mut self, event: &Event, mce: &HostMce) {
        let named = mce.status.0 & mca::ADDRV != 0;
        self.host_report(
            event,
            named.then_some((mce.addr.0 & PHYSICAL) >> PAGE_SHIFT),
            What::Mce(*mce),
        );
    }

    pub(super) fn edac_error(&mut self, event: &Event, addr: u64, label: &str) {
        let what = What::Edac { label: label.into() };
        self.host_report(event, (addr != 0).then_some(addr >> PAGE_SHIFT), what);
    }

    pub(super) fn firmware_error(&mut self, event: &Event, addr: u64) {
        self.host_report(event, (addr != 0).then_some(addr >> PAGE_SHIFT), What::Firmware);
    }

    fn host_report(&mut self, event: &Event, pfn: Option<u64>, what: What) {
        if self.host_reports.0.len() >= MAX_REPORTS {
            self.host_reports.0.pop_front();
        }
        self.host_reports.0.push_back(Report {
            t: event.t,
            tid: event.tid,
            pfn,
            what,
        });
        let known: Vec<IncidentNo> = pfn.map(|pfn| self.known_by_pfn(pfn)).unwrap_or_default();
        for no in known {
            self.join_host_reports(no, None);
        }
    }

    /// Adds to an incident what was reported of its page; `by`: the thread of its `memory_failure()`, and when that began.
    pub(super) fn join_host_reports(&mut self, no: IncidentNo, by: Option<(u32, u64)>) {
        let Some(evidence) = self.incidents.get(no) else {
            return;
        };
        let t0 = by.map_or(evidence.t0, |(_, t)| t);
        let near = |report: &&Report| report.t.abs_diff(t0) <= JOIN_WITHIN_NS;
        let of_page = |report: &&Report| report.pfn.is_some_and(|pfn| evidence.holds_pfn(pfn));
        // The last bank that was reported on the same thread before it.
        let in_order = by.and_then(|(tid, t)| {
            self.host_reports.0.iter().rfind(|report| {
                report.tid == tid && report.t <= t && matches!(report.what, What::Mce(_)) && near(report)
            })
        });
        let mut news = Vec::new();
        let mut hardware = evidence.hardware.clone();
        let joined = self.host_reports.0.iter().filter(near).filter(of_page);
        for report in joined.chain(in_order) {
            match &report.what {
                What::Mce(mce) if hardware.mce.is_none() => {
                    hardware.mce = Some(*mce);
                    news.push((report.t, TimelineEvent::HostMce(Box::new(*mce))));
                }
                What::Edac { label } if hardware.label.is_none() && !label.is_empty() => {
                    hardware.label = Some(label.clone());
                    let label = label.as_str().into();
                    news.push((report.t, TimelineEvent::Dimm { label }));
                }
                What::Firmware => hardware.firmware = true,
                What::Mce(_) | What::Edac { .. } => {}
            }
        }
        if hardware == evidence.hardware {
            return;
        }
        if let Some(evidence) = self.incidents.touch(no) {
            evidence.hardware = hardware;
            for (t, entry) in news {
                evidence.timeline.add(t, entry);
            }
        }
    }

    /// The guest was left by #MC. What it consumed, `memory_failure()` shows right after, on the same thread.
    pub(super) fn mc_exit(&mut self, event: &Event, rip: Option<Hex>) {
        let consumed = Consumed {
            t: event.t,
            tid: event.tid,
            vcpu: event.vcpu.or_else(|| self.threads.vcpu_of(event.tid)),
            rip: rip.map(|rip| rip.0),
            exit_seen: true,
        };
        self.threads.of(event).mc_exit = Some(consumed);
    }

    /// The page that this thread's guest has just consumed an error of, where `memory_failure()` for it has returned.
    pub(super) fn consumed_lately(&self, event: &Event) -> Option<u64> {
        let (at, pfn) = self.threads.get(event.tid)?.consumed?;
        (event.t.saturating_sub(at) <= SIGNALLED_WITHIN_NS).then_some(pfn)
    }

    /// Who called `memory_failure()` with these flags on this thread.
    pub(super) fn caller(
        &mut self,
        event: &Event,
        action_required: bool,
        in_kvm_run: Option<bool>,
    ) -> Caller {
        let left = self
            .threads
            .get_mut(event.tid)
            .and_then(|thread| thread.mc_exit.take());
        let fresh = left.filter(|left| event.t.saturating_sub(left.t) <= JOIN_WITHIN_NS);
        let by_flags = (action_required && in_kvm_run == Some(true)).then(|| Consumed {
            t: event.t,
            tid: event.tid,
            vcpu: event.vcpu.or_else(|| self.threads.vcpu_of(event.tid)),
            rip: None,
            exit_seen: false,
        });
        Caller {
            in_kvm_run,
            consumed: fresh.filter(|_| action_required).or(by_flags),
        }
    }

    /// Notes the error's own side of an incident, which `memory_failure()` has just led to.
    pub(super) fn caused_by(
        &mut self,
        no: IncidentNo,
        event: &Event,
        flags: Option<u64>,
        began: u64,
        caller: Caller,
    ) {
        let Some(evidence) = self.incidents.touch(no) else {
            return;
        };
        if evidence.hardware.flags.is_none() {
            evidence.hardware.flags = flags;
            evidence.hardware.in_kvm_run = caller.in_kvm_run;
        }
        if let Some(consumed) = caller.consumed
            && consumed.tid == event.tid
            && evidence.hardware.consumed.is_none()
        {
            evidence.consume(consumed);
            evidence.timeline.add(
                consumed.t,
                TimelineEvent::McExit {
                    vcpu: consumed.vcpu,
                    rip: consumed.rip.map(Hex),
                },
            );
        }
        self.join_host_reports(no, Some((event.tid, began)));
    }

    /// `memory_failure()` for an access of a VMM's own thread failed without a SIGBUS that names the page.
    pub(super) fn not_isolated(&mut self, no: IncidentNo, event: &Event, ret: i64) {
        if let Some(evidence) = self.incidents.touch(no) {
            evidence.poison_at(event.t);
            evidence.unisolated.get_or_insert(Unisolated { t: event.t, ret });
            evidence.timeline.add(event.t, TimelineEvent::FailureEnd { ret });
        }
    }
}
