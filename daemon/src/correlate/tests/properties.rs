//! What holds for every sequence.

use proptest::prelude::*;

use super::*;
use crate::incident::model::{Cause, Confidence};

/// The stories of the panic and of the survival, whole.
fn stories() -> [Story; 2] {
    let mut panic = Story::new();
    panic
        .vm()
        .poison(12)
        .tell(VCPU0, AMD_AO, GPA)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true)
        .tell(VCPU0, AMD_AR | mca::OVER, GPA)
        .delivered(VCPU0)
        .pio(VCPU0, 0x505, 1)
        .vmm_exit(0);
    let mut survive = Story::new();
    survive
        .vm()
        .poison(12)
        .tell(VCPU0, AMD_AO, GPA)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true)
        .tell(VCPU0, AMD_AR, GPA)
        .delivered(VCPU0)
        .handled(VCPU0)
        .pio(VCPU0, 0x604, 0x2000)
        .vmm_exit(0);
    [panic, survive]
}

#[test]
fn no_prefix_is_certain_of_what_the_whole_denies() {
    for story in stories() {
        let whole = story.only();
        let mut certain: Option<Cause> = None;
        for end in 0..=story.events.len() {
            for incident in incidents(&story.events[..end]) {
                if incident.confidence == Confidence::Certain {
                    assert_eq!(incident.cause, whole.cause, "after {end} events");
                    assert!(
                        certain.is_none_or(|cause| cause == incident.cause),
                        "after {end} events"
                    );
                    certain = Some(incident.cause);
                }
            }
        }
    }
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
            What::FailureBegin {
                pfn: Hex(page),
                flags: 0,
            },
        );
        story.sigbus(tid, QEMU, SigbusSeverity::ActionOptional, HVA + page * 4096, 12);
    }
    story.events.iter().for_each(|event| correlator.feed(event));
    assert_eq!(correlator.incidents().len(), 100);
    assert_eq!(correlator.forgotten(), 900);
    assert!(correlator.threads.len() <= 100 && correlator.failures.len() <= 10);
}

proptest! {
    /// Two VMs on one host: however their events interleave, each has its own story.
    #[test]
    fn interleaving_with_another_vm_changes_no_verdict(order in proptest::collection::vec(any::<bool>(), 64)) {
        let [panic, survive] = stories();
        let other: Vec<Event> = survive.events.iter().map(|event| {
            let mut event = event.clone();
            event.pid += 1000;
            event.tid += 1000;
            if let What::Sigbus { target_pid, target_tid, .. } = &mut event.what {
                *target_pid += 1000;
                *target_tid += 1000;
            }
            event
        }).collect();
        let (mut a, mut b) = (panic.events.iter(), other.iter());
        let mut mixed = Vec::new();
        for first in order {
            let next = if first { a.next().or_else(|| b.next()) } else { b.next().or_else(|| a.next()) };
            mixed.extend(next.cloned());
        }
        mixed.extend(a.cloned());
        mixed.extend(b.cloned());
        let together = incidents(&mixed);
        let apart = [panic.only(), incidents(&other).remove(0)];
        for lone in apart {
            let same = together.iter().find(|incident| incident.vm.pid == lone.vm.pid);
            prop_assert_eq!(same, Some(&lone));
        }
    }

    /// Whatever is missing or doubled, nothing panics and the contract holds.
    #[test]
    fn torn_sequences_make_no_panic(picks in proptest::collection::vec(0usize..20, 0..60)) {
        let [panic, survive] = stories();
        let events: Vec<Event> = panic.events.iter().chain(&survive.events).cloned().collect();
        let torn: Vec<Event> = picks.into_iter().filter_map(|pick| events.get(pick).cloned()).collect();
        incidents(&torn);
    }
}
