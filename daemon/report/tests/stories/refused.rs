//! Errors that a vCPU could not be reported: `mce_nested`, `mce_disabled`, `mce_dropped`.

use super::*;
use poisontrace_model::{
    event::{AttachDelay, Sregs},
    incident::model::{Cause, Confidence, Outcome},
};

/// In its handler of the first page, the guest touches another one.
fn second_page_in_the_handler() -> Story {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .poison_other(5)
        .record_injection(VCPU0, AMD_AO, GPA)
        .struck(INTEL_AR)
        .touch(VCPU0, KERNEL_RIP, GPA + 0x5000, Access::Read, false);
    story
}

#[test]
fn second_error_while_the_first_is_handled_resets_the_guest() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .struck(INTEL_AR)
        .touch(VCPU0, KERNEL_RIP, GPA, Access::Read, false)
        .back(VCPU0)
        .reset(VCPU0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::GuestReset, Cause::MceNested, Confidence::Certain)
    );
}

#[test]
fn a_nested_machine_check_is_known_where_the_vmms_telling_is_not_seen() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true)
        .delivered(VCPU0)
        .touch(VCPU0, KERNEL_RIP, GPA, Access::Read, false)
        .back(VCPU0)
        .reset(VCPU0);
    let mut blind = session();
    blind.probes.retain(|probe| probe.probe != ProbeId::VcpuIoctlMce);
    let mut correlator = Correlator::new(blind);
    story.events.iter().for_each(|event| correlator.feed(event));
    assert_eq!(correlator.incidents()[0].cause, Cause::MceNested);
}

#[test]
fn both_pages_of_a_nested_machine_check_tell_of_it() {
    let mut story = second_page_in_the_handler();
    story.reset(VCPU0);
    let all = story.incidents();
    assert_eq!(all.len(), 2);
    for incident in &all {
        assert_eq!(
            verdict(incident),
            (Outcome::GuestReset, Cause::MceNested, Confidence::Certain)
        );
    }
}

#[test]
fn qemu_that_may_not_reboot_ends_itself_instead() {
    let mut story = second_page_in_the_handler();
    story.vmm_exit(0);
    assert_eq!(
        verdict(&story.incidents()[0]),
        (Outcome::VmmExited, Cause::MceNested, Confidence::Likely)
    );
}

#[test]
fn a_handler_whose_end_could_not_be_seen_makes_a_nest_only_possible() {
    let mut story = second_page_in_the_handler();
    story.reset(VCPU0);
    let mut blind = session();
    blind.probes.retain(|probe| probe.probe != ProbeId::KvmMsr);
    let mut correlator = Correlator::new(blind);
    story.events.iter().for_each(|event| correlator.feed(event));
    assert_eq!(correlator.incidents()[1].confidence, Confidence::Possible);
}

#[test]
fn a_guest_that_reboots_itself_after_its_error_was_handled_is_not_a_nest() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .struck(INTEL_AR)
        .handled(VCPU0)
        .pio(VCPU0, 0xcf9, 6)
        .reset(VCPU0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::Survived, Cause::Contained, Confidence::Likely)
    );
}

#[test]
fn a_guest_that_panics_in_its_handler_and_then_dumps_the_lost_page_had_panicked_first() {
    // Its crash kernel reads the page: QEMU resets it in the middle of the dump.
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .struck(AMD_AR | mca::OVER)
        .pio(VCPU0, 0x505, 2)
        .wait(5_000 * MS)
        .touch(VCPU0, KERNEL_RIP, GPA, Access::Read, false)
        .reset(VCPU0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::GuestPanicked, Cause::MceOverflow, Confidence::Certain)
    );
}

#[test]
fn guest_with_machine_checks_turned_off_is_reset_without_being_told() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false);
    let mut known = Story {
        now: story.now,
        events: story.events.clone(),
    };
    story.reset(VCPU0);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::GuestReset, Cause::MceDisabled, Confidence::Likely)
    );
    assert!(
        incident.missing.iter().any(|m| m.message.contains("CR4")),
        "{:?}",
        incident.missing
    );

    let sregs = |cr4| Sregs {
        cr0: Hex(0x8005_0033),
        cr3: Hex(0x1000),
        cr4: Hex(cr4),
        efer: Hex(0x500),
        long_code: true,
    };
    let before = known.events.len();
    known.at(VCPU0, QEMU, EventKind::Sregs(sregs(0x6a0))).reset(VCPU0);
    assert_eq!(
        verdict(&known.only()),
        (Outcome::GuestReset, Cause::MceDisabled, Confidence::Certain)
    );
    known.events[before].what = EventKind::Sregs(sregs(0x6e0));
    assert_eq!(verdict(&known.only()).1, Cause::Unknown, "machine checks were on");
}

#[test]
fn a_vmm_that_lets_its_guest_run_on_without_an_injection_did_not_refuse() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true)
        .wait(1_000 * MS)
        .reset(VCPU0);
    assert_eq!(verdict(&story.only()).1, Cause::Unknown);
}

/// KVM_X86_SET_MCE with MCIP set: KVM_REQ_TRIPLE_FAULT, and no triple-fault exit.
fn shut_down_in_the_handler() -> Story {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .set_mce(VCPU0, INTEL_AR, GPA)
        .delivered(VCPU0)
        .back(VCPU0)
        .touch(VCPU0, KERNEL_RIP, GPA, Access::Read, false)
        .set_mce(VCPU0, INTEL_AR, GPA)
        .leaves(VCPU0, KVM_EXIT_SHUTDOWN, 0);
    story
}

#[test]
fn kvm_shuts_a_vcpu_down_whose_handler_meets_another_error() {
    let story = shut_down_in_the_handler();
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::GuestReset, Cause::MceNested, Confidence::Certain)
    );
    assert!(
        incident.summary.contains("KVM shut the vCPU down"),
        "{}",
        incident.summary
    );
}

#[test]
fn what_no_probe_showed_before_all_were_at_work_is_not_taken_for_absent() {
    let shut_down = |attached_at: u64| {
        let mut story = shut_down_in_the_handler();
        let end = story.now;
        story.events.push(Event {
            t: attached_at,
            tid: 0,
            pid: 0,
            vcpu: None,
            what: EventKind::AllProbesAttached,
        });
        story.events.sort_by_key(|event| event.t);
        let session = Session {
            standby: true,
            ..session()
        };
        let mut correlator = Correlator::new(session);
        story.events.iter().for_each(|event| correlator.feed(event));
        (documents(&mut correlator).remove(0), end)
    };
    let (seen, end) = shut_down(1);
    assert_eq!(verdict(&seen).1, Cause::MceNested);
    // The vCPU may have ended by a triple fault that nothing showed.
    let (blind, _) = shut_down(end);
    assert_ne!(blind.cause, Cause::MceNested);
    assert_ne!(blind.confidence, Confidence::Certain);
    assert!(
        blind
            .missing
            .iter()
            .any(|m| m.message.starts_with("triple faults"))
    );
}

#[test]
fn kvm_shuts_a_vcpu_down_whose_machine_checks_are_off() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .set_mce(VCPU0, INTEL_AR, GPA)
        .leaves(VCPU0, KVM_EXIT_SHUTDOWN, 0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::GuestReset, Cause::MceDisabled, Confidence::Likely)
    );
}

#[test]
fn a_guest_without_a_handler_triple_faults_by_itself() {
    let mut story = Story::new();
    let fault = EventKind::TripleFault {
        rip: Hex(KERNEL_RIP),
        reason: 0x7f,
    };
    story
        .vm()
        .poison(12)
        .touch(VCPU0, KERNEL_RIP, GPA, Access::Read, false)
        .set_mce(VCPU0, INTEL_AR, GPA)
        .delivered(VCPU0)
        .at(VCPU0, QEMU, fault)
        .leaves(VCPU0, KVM_EXIT_SHUTDOWN, 0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::GuestReset, Cause::KernelAccess, Confidence::Likely)
    );
}

#[test]
fn a_machine_check_that_kvm_took_and_never_delivered_was_dropped() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .set_mce(VCPU0, INTEL_AR, GPA)
        .back(VCPU0);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::Running, Cause::MceDropped, Confidence::Likely)
    );
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("return value")),
        "{:?}",
        incident.missing
    );
}

#[test]
fn exits_before_kvm_exit_was_attached_are_counted_and_their_times_are_named() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .touch(VCPU0, USER_RIP, GPA + 64, Access::Read, true);
    let mut exits = story.events.iter_mut().filter_map(|event| match &mut event.what {
        EventKind::PoisonExit(exit) => Some(exit),
        _ => None,
    });
    for exit in exits.by_ref() {
        exit.recovered = true;
    }
    story.at(
        0,
        0,
        EventKind::ExitProbesAttached(AttachDelay {
            after_ns: 1_250_000,
            clock_error_ns: Some(300),
        }),
    );
    story.touch(VCPU0, USER_RIP, GPA + 128, Access::Read, true);
    let incident = story.only();
    assert_eq!(incident.exits.count, Some(3));
    let latency = &incident.latency_ns;
    assert_eq!(latency.in_kernel.as_ref().unwrap().count, 3);
    assert_eq!(latency.exit_to_entry.as_ref().unwrap().count, 2);
    let named = incident.missing.iter().find(|m| m.kind == "first_exit_times");
    let message = &named.unwrap().message;
    for part in [
        "2 exits",
        "1.2 ms",
        "0.3 µs",
        "that of 0 is unknown",
        "behind 1 was not seen",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_guest_that_dies_before_its_ports_are_watched_again_is_not_certain() {
    let story = shut_down_in_the_handler();
    let session = Session {
        standby: true,
        ..session()
    };
    let mut correlator = Correlator::new(session);
    let event = |t, what| Event {
        t,
        tid: 0,
        pid: 0,
        vcpu: None,
        what,
    };
    // All was at work for an earlier page, and was detached again.
    correlator.feed(&event(1, EventKind::AllProbesAttached));
    correlator.feed(&event(2, EventKind::ExitProbesDetached));
    story.events.iter().for_each(|event| correlator.feed(event));
    correlator.feed(&event(story.now, EventKind::AllProbesAttached));
    let blind = documents(&mut correlator).remove(0);
    assert_ne!(blind.cause, Cause::MceNested);
    assert!(blind.missing.iter().any(|m| m.kind == "early_termination"));
}
