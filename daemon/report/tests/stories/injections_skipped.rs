//! Errors that a VMM lets pass: it neither shows its guest nor ends it. The lab shows the first (`nested`, `mce-off`).

use super::*;
use poisontrace_model::incident::model::{Cause, Confidence, Outcome};

/// The guest's handler meets the other poisoned page, again and again: QEMU leaves errors out while an AMD guest's MCIP is
/// set.
fn stuck_in_its_handler() -> Story {
    let mut story = Story::new();
    story.vm().poison(12).poison_other(5).struck(AMD_AR).back(VCPU0);
    for _ in 0..20 {
        story
            .touch(VCPU0, KERNEL_RIP, GPA + 0x5000, Access::Fetch, false)
            .back(VCPU0);
    }
    story
}

#[track_caller]
fn each(story: &Story, expected: (Outcome, Cause, Confidence)) {
    let all = story.incidents();
    assert_eq!(all.len(), 2);
    for incident in &all {
        assert_eq!(verdict(incident), expected, "{}", incident.summary);
    }
}

#[test]
fn a_guest_stuck_in_its_handler_runs_until_somebody_ends_it() {
    let mut story = stuck_in_its_handler();
    each(&story, (Outcome::Running, Cause::MceNested, Confidence::Likely));
    story.vmm_exit(9);
    each(
        &story,
        (Outcome::VmmKilled, Cause::MceNested, Confidence::Certain),
    );
    let summaries: Vec<String> = story.incidents().into_iter().map(|i| i.summary).collect();
    assert!(
        summaries[0].contains("accessed another poisoned page"),
        "{}",
        summaries[0]
    );
    assert!(summaries[1].contains("again and again"), "{}", summaries[1]);
}

#[test]
fn an_operator_who_resets_a_stuck_guest_does_not_make_it_panic() {
    let mut story = stuck_in_its_handler();
    story.wait(30_000 * MS).reset(VCPU0);
    each(
        &story,
        (Outcome::GuestReset, Cause::MceNested, Confidence::Likely),
    );
}

/// Seen in the lab: the vCPU shut down at its handler's first instruction after 5,572 exits on it.
#[test]
fn a_stuck_vcpu_that_triple_faults_in_the_end_died_of_being_stuck() {
    let mut story = stuck_in_its_handler();
    story
        .at(
            VCPU0,
            QEMU,
            EventKind::TripleFault {
                rip: Hex(KERNEL_RIP),
                reason: 127,
            },
        )
        .leaves(VCPU0, KVM_EXIT_SHUTDOWN, 0);
    each(
        &story,
        (Outcome::GuestReset, Cause::MceNested, Confidence::Likely),
    );
}

#[test]
fn a_vmm_that_swallowed_signals_and_ends_has_not_reset_its_guest() {
    let mut story = Story::new();
    story.vm().poison(12);
    for _ in 0..100 {
        story.touch(VCPU0, USER_RIP, GPA, Access::Read, false).back(VCPU0);
    }
    story.touch(VCPU0, USER_RIP, GPA, Access::Read, false).vmm_exit(0);
    let incident = story.only();
    assert_eq!(
        (incident.outcome, incident.cause),
        (Outcome::VmmExited, Cause::SigbusSpin),
        "{}",
        incident.summary
    );
}

#[test]
fn a_vmm_whose_machine_checks_were_dropped_and_ends_has_not_reset_its_guest() {
    let mut story = Story::new();
    story.vm().poison(12);
    for _ in 0..2 {
        story
            .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
            .set_mce(VCPU0, INTEL_AR, GPA)
            .back(VCPU0);
    }
    story.touch(VCPU0, USER_RIP, GPA, Access::Read, false).vmm_exit(0);
    let incident = story.only();
    assert_eq!(
        (incident.outcome, incident.cause),
        (Outcome::VmmExited, Cause::MceDropped),
        "{}",
        incident.summary
    );
}

#[test]
fn a_panic_long_after_an_overflow_was_handled_is_not_of_the_overflow() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .struck(AMD_AR | mca::OVER)
        .handled(VCPU0)
        .wait(8_000 * MS)
        .pio(VCPU0, 0x505, 1);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::GuestPanicked, Cause::Unknown, Confidence::Possible)
    );
}

#[test]
fn both_pages_of_a_second_sigbus_tell_of_it() {
    let mut story = Story::new();
    story
        .vm()
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .sigbus(VCPU0, VCPU0, SigbusSeverity::ActionRequired, HVA + 0x5000, 12)
        .vmm_exit(7);
    let all = story.incidents();
    assert_eq!(all.len(), 2);
    for incident in &all {
        assert_eq!(
            (incident.outcome, incident.cause),
            (Outcome::VmmKilled, Cause::SecondSigbus),
            "{}",
            incident.summary
        );
    }
}
