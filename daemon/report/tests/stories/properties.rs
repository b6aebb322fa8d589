//! What holds for every sequence of events, of which most are none that a kernel would make.

use proptest::{prelude::*, sample::Index};

use std::collections::HashMap;

use super::*;
use poisontrace_model::{
    event::totals::PageTotals,
    incident::model::{Cause, Confidence, Outcome},
};

/// One thing that happens to a VM.
#[derive(Clone, Copy, Debug)]
enum Step {
    Lose {
        page: u64,
        huge: bool,
    },
    Touch {
        cpu: bool,
        page: u64,
        line: u64,
        kernel: bool,
        back: bool,
    },
    OwnAccess {
        page: u64,
    },
    Tell {
        cpu: bool,
        page: u64,
        status: u64,
    },
    SetMce {
        cpu: bool,
        page: u64,
    },
    Broadcast,
    Deliver {
        cpu: bool,
    },
    Handle {
        cpu: bool,
    },
    Back {
        cpu: bool,
    },
    Port {
        port: u64,
        value: u64,
    },
    Reset,
    TripleFault,
    Leave {
        reason: u32,
        errno: i32,
    },
    Lost,
    Totals {
        page: u64,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (cpu, page) = (any::<bool>(), 0..3u64);
    let status = prop::sample::select(vec![
        AMD_AO,
        AMD_AR,
        AMD_AR | mca::OVER,
        INTEL_AO,
        INTEL_AR,
        INTEL_AR | mca::OVER,
    ]);
    let port = prop::sample::select(vec![
        (0x505, 1),
        (0x505, 2),
        (0x604, 0x2000),
        (0xcf9, 6),
        (0x64, 0xfe),
    ]);
    let leave = prop::sample::select(vec![(8, 0), (17, 0), (24, 0), (39, -133), (39, -14)]);
    prop_oneof![
        3 => (page.clone(), any::<bool>()).prop_map(|(page, huge)| Step::Lose { page, huge }),
        4 => (cpu, page.clone(), 0..3u64, any::<bool>(), any::<bool>())
            .prop_map(|(cpu, page, line, kernel, back)| Step::Touch { cpu, page, line, kernel, back }),
        1 => page.clone().prop_map(|page| Step::OwnAccess { page }),
        4 => (cpu, page.clone(), status).prop_map(|(cpu, page, status)| Step::Tell { cpu, page, status }),
        2 => (cpu, page.clone()).prop_map(|(cpu, page)| Step::SetMce { cpu, page }),
        1 => Just(Step::Broadcast),
        4 => cpu.prop_map(|cpu| Step::Deliver { cpu }),
        4 => cpu.prop_map(|cpu| Step::Handle { cpu }),
        2 => cpu.prop_map(|cpu| Step::Back { cpu }),
        3 => port.prop_map(|(port, value)| Step::Port { port, value }),
        2 => Just(Step::Reset),
        1 => Just(Step::TripleFault),
        2 => leave.prop_map(|(reason, errno)| Step::Leave { reason, errno }),
        1 => Just(Step::Lost),
        1 => page.prop_map(|page| Step::Totals { page }),
        2 => prop::sample::select(vec![1, 20, 2_000, 700_000]).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn thread(cpu: bool) -> u32 {
    if cpu { VCPU1 } else { VCPU0 }
}

/// The steps as events, from the VMM's introduction to its end, if it comes to one.
fn story(steps: &[Step], end: Option<i32>) -> Story {
    let mut story = Story::new();
    story.vm();
    for step in steps {
        perform(&mut story, *step);
    }
    if let Some(status) = end {
        story.vmm_exit(status).at(QEMU, QEMU, EventKind::VmDestroyed);
    }
    story
}

fn perform(story: &mut Story, step: Step) {
    let gpa = |page: u64| GPA + page * 4096;
    match step {
        Step::Lose { page, huge } => {
            let lsb = if huge { 21 } else { 12 };
            story.lose(PFN + page, |story| {
                story.sigbus(
                    WORKER,
                    QEMU,
                    SigbusSeverity::ActionOptional,
                    HVA + page * 4096,
                    lsb,
                );
            });
        }
        Step::Touch {
            cpu,
            page,
            line,
            kernel,
            back,
        } => {
            let rip = if kernel { KERNEL_RIP } else { USER_RIP };
            story.touch(thread(cpu), rip, gpa(page) + line * 64, Access::Read, back);
        }
        Step::OwnAccess { page } => {
            let what = EventKind::Sigbus {
                hva: Hex(HVA + page * 4096),
                severity: SigbusSeverity::ActionRequired,
                lsb: 12,
                target_tid: QEMU,
                target_pid: QEMU,
                forced: true,
                comm: "qemu".into(),
            };
            story.at(QEMU, QEMU, what);
        }
        Step::Tell { cpu, page, status } => {
            story.record_injection(thread(cpu), status, gpa(page));
        }
        Step::SetMce { cpu, page } => {
            story.set_mce(thread(cpu), INTEL_AR, gpa(page));
        }
        Step::Broadcast => {
            let bank = Bank {
                bank: 1,
                status: Hex(mca::VAL | mca::UC),
                addr: Hex(0),
                misc: Hex(0),
            };
            story.put(VCPU1, &[bank]);
        }
        Step::Deliver { cpu } => {
            story.delivered(thread(cpu));
        }
        Step::Handle { cpu } => {
            story.handled(thread(cpu));
        }
        Step::Back { cpu } => {
            story.back(thread(cpu));
        }
        Step::Port { port, value } => {
            story.pio(VCPU0, port, value);
        }
        Step::Reset => {
            story.reset(VCPU0);
        }
        Step::TripleFault => {
            let (rip, reason) = (Hex(KERNEL_RIP), 0x7f);
            story.at(VCPU0, QEMU, EventKind::TripleFault { rip, reason });
        }
        Step::Leave { reason, errno } => {
            story.leaves(VCPU0, reason, errno);
        }
        Step::Lost => {
            story.at(0, 0, EventKind::Lost { records: 1 });
        }
        Step::Totals { page } => {
            let totals = PageTotals {
                gpa: Hex(gpa(page)),
                exits: 300,
                signals: 300,
                reads: 300,
                lines: Hex(1),
                same_line: 299,
                ..PageTotals::default()
            };
            story.at(VCPU0, QEMU, EventKind::PageTotals(Box::new(totals)));
        }
        Step::Wait { ms } => {
            story.wait(ms * MS);
        }
    }
}

fn any_story() -> impl Strategy<Value = Story> {
    let end = prop::option::of(prop::sample::select(vec![0, 7, 9, 1 << 8, 149 << 8]));
    (prop::collection::vec(step(), 0..30), end).prop_map(|(steps, end)| story(&steps, end))
}

/// The same story of another VM, on another page of the host.
fn elsewhere(story: &Story) -> Vec<Event> {
    let moved = |event: &Event| {
        let mut event = event.clone();
        // No VM of this story: records are lost for all at once.
        if matches!(event.what, EventKind::Lost { .. }) {
            return None;
        }
        event.pid += 1000;
        event.tid += 1000;
        match &mut event.what {
            EventKind::Sigbus {
                target_pid,
                target_tid,
                ..
            } => {
                *target_pid += 1000;
                *target_tid += 1000;
            }
            EventKind::FailureBegin { pfn, .. } | EventKind::FailureAction { pfn, .. } => pfn.0 += 0x10_0000,
            _ => {}
        }
        Some(event)
    };
    story.events.iter().filter_map(moved).collect()
}

fn without_losses(story: &Story) -> Vec<Event> {
    let keeps = |event: &&Event| !matches!(event.what, EventKind::Lost { .. });
    story.events.iter().filter(keeps).cloned().collect()
}

/// Verdicts as events come, after each one.
fn verdicts_on_the_way(events: &[Event]) -> Vec<(String, Outcome, Cause, Confidence)> {
    let mut correlator = Correlator::new(session());
    let mut verdicts = Vec::new();
    for event in events {
        correlator.feed(event);
        for update in correlator.take_changed() {
            let incident = update.incident;
            verdicts.push((incident.id, incident.outcome, incident.cause, incident.confidence));
        }
    }
    verdicts
}

/// Threads of `events` in another order: each thread's own events keep theirs, and nothing passes an event that is more
/// than `window` away from it.
fn shuffled(events: &[Event], picks: &[Index], window: u64) -> Vec<Event> {
    let mut left: Vec<&Event> = events.iter().collect();
    let mut shuffled = Vec::new();
    let mut picks = picks.iter().cycle();
    while let Some(first) = left.first() {
        let near: Vec<usize> = (0..left.len())
            .take_while(|n| left[*n].t <= first.t + window)
            .filter(|n| left[..*n].iter().all(|earlier| earlier.tid != left[*n].tid))
            .collect();
        let pick = picks.next().map_or(0, |pick| pick.index(near.len()));
        shuffled.push(left.remove(near[pick]).clone());
    }
    shuffled
}

/// The guest's two vCPUs are reported at once, and both handle it, or neither: all within a few microseconds, after the host
/// had lost the page some time before.
fn broadcast(handled: bool) -> Vec<Event> {
    let mut story = Story::new();
    let copy = Bank {
        bank: 1,
        status: Hex(mca::VAL | mca::UC),
        addr: Hex(0),
        misc: Hex(0),
    };
    story
        .vm()
        .poison(12)
        .wait(MS)
        .record_injection(VCPU0, INTEL_AO, GPA)
        .wait(MS)
        .put(VCPU1, &[copy])
        .delivered(VCPU0)
        .delivered(VCPU1);
    if handled {
        story.handled(VCPU0).handled(VCPU1);
    } else {
        story.wait(MS).pio(VCPU0, 0x505, 1);
    }
    story.wait(MS).vmm_exit(0);
    story.events
}

#[test]
fn memory_is_bounded_however_many_pages_are_poisoned() {
    let limits = Limits {
        incidents: 100,
        threads: 100,
        processes: 10,
        failures: 10,
        ..Limits::default()
    };
    let mut correlator = Correlator::with_limits(session(), limits);
    let mut story = Story::new();
    story.vm();
    for page in 0..1_000u64 {
        let tid = 10_000 + page as u32;
        story.at(
            tid,
            tid,
            EventKind::FailureBegin {
                pfn: Hex(page),
                flags: 0,
                in_kvm_run: None,
            },
        );
        story.sigbus(tid, QEMU, SigbusSeverity::ActionOptional, HVA + page * 4096, 12);
    }
    story.events.iter().for_each(|event| correlator.feed(event));
    assert_eq!(correlator.incidents().len(), 100);
    assert_eq!(correlator.incidents_evicted(), 900);
    assert!(
        correlator
            .table_evictions()
            .iter()
            .any(|(_, evicted)| *evicted > 0)
    );
    let [threads, _, failures, ..] = correlator.table_sizes();
    assert!(threads <= 100 && failures <= 10);
}

#[test]
fn memory_is_bounded_however_many_silent_losses_and_vmms_there_are() {
    let limits = Limits {
        processes: 10,
        ..Limits::default()
    };
    let mut correlator = Correlator::with_limits(session(), limits);
    let mut story = Story::new();
    for n in 0..1_000u64 {
        let pfn = Hex(n << 9);
        let action = EventKind::FailureAction {
            pfn,
            page_type: "huge page".into(),
            result: "Recovered".into(),
        };
        let pid = 5_000 + n as u32;
        let signal = EventKind::Sigbus {
            hva: Hex(HVA),
            severity: SigbusSeverity::ActionRequired,
            lsb: 12,
            target_tid: pid,
            target_pid: pid,
            forced: false,
            comm: "vmm".into(),
        };
        story
            .at(
                WORKER,
                WORKER,
                EventKind::FailureBegin {
                    pfn,
                    flags: 0,
                    in_kvm_run: None,
                },
            )
            .at(WORKER, WORKER, action)
            .at(WORKER, WORKER, EventKind::FailureEnd { ret: 0 })
            .at(pid, pid, signal);
    }
    story.events.iter().for_each(|event| correlator.feed(event));
    let [.., signals, silent] = correlator.table_sizes();
    // `MAX_SILENT` of the correlator.
    assert_eq!(silent, 64);
    assert!(signals <= 10);
}

proptest! {
    /// Two VMs on one host: however their events interleave, each has its own story.
    #[test]
    fn interleaving_with_another_vm_changes_no_verdict(
        (one, other) in (any_story(), any_story()),
        order in prop::collection::vec(any::<bool>(), 200),
    ) {
        let (one, other) = (without_losses(&one), elsewhere(&other));
        let (mut a, mut b) = (one.iter(), other.iter());
        let mut mixed = Vec::new();
        for first in order {
            let next = if first { a.next().or_else(|| b.next()) } else { b.next().or_else(|| a.next()) };
            mixed.extend(next.cloned());
        }
        mixed.extend(a.cloned());
        mixed.extend(b.cloned());
        // What the host lost for one VM tells whether poison of the other can be the host's at all (see `claims.rs`): the
        // same is known in all three only if it was lost before.
        let lost = mixed.iter().any(|event| matches!(event.what, EventKind::FailureBegin { .. } | EventKind::FailureAction { .. }));
        let session = Session { hardware_corrupted_kb: Some(if lost { 4 } else { 0 }), ..session() };
        let incidents = |events: &[Event]| incidents_in(session.clone(), events);
        let together = incidents(&mixed);
        let of = |pid: u32| together.iter().filter(|i| i.vm.pid == Some(pid)).cloned().collect::<Vec<_>>();
        prop_assert_eq!(of(QEMU), incidents(&one));
        prop_assert_eq!(of(QEMU + 1000), incidents(&other));
    }

    /// What is certain stays: an incident never goes from one certain cause to another, and what is certain on the way is
    /// not unknown in the end.
    #[test]
    fn no_prefix_is_certain_of_what_the_whole_denies(story in any_story()) {
        let mut certain: HashMap<String, (Outcome, Cause)> = HashMap::new();
        for (id, outcome, cause, confidence) in verdicts_on_the_way(&story.events) {
            if let Some((before, was)) = certain.get(&id) {
                prop_assert!(confidence != Confidence::Certain || *was == cause, "{id}: {was} became {cause}");
                prop_assert!(cause != Cause::Unknown, "{id}: {before} by {was} became {outcome} by {cause}");
            }
            if confidence == Confidence::Certain {
                certain.insert(id, (outcome, cause));
            }
        }
    }

    /// The answer is the events' alone.
    #[test]
    fn the_same_events_give_the_same_answer(story in any_story()) {
        prop_assert_eq!(story.incidents(), story.incidents());
    }

    /// Events of several threads that lie microseconds apart may come in another order than they happened.
    #[test]
    fn the_order_of_what_happens_at_once_changes_no_verdict(
        handled in any::<bool>(),
        picks in prop::collection::vec(any::<Index>(), 1..40),
    ) {
        let events = broadcast(handled);
        let injection = incidents(&events).iter().map(verdict).collect::<Vec<_>>();
        let other = incidents(&shuffled(&events, &picks, 200_000)).iter().map(verdict).collect::<Vec<_>>();
        prop_assert_eq!(injection, other);
    }

    /// Whatever is missing, doubled or out of order, nothing panics and the contract holds.
    #[test]
    fn torn_sequences_make_no_panic(
        story in any_story(),
        picks in prop::collection::vec(any::<Index>(), 0..60),
    ) {
        let torn: Vec<Event> = picks.iter().map(|pick| pick.get(&story.events).clone()).collect();
        incidents(&torn);
    }
}
