//! What looks like a death by poison, and is none.

use super::*;
use poisontrace_model::incident::model::{Cause, Confidence, Outcome};

#[test]
fn a_guest_that_panics_and_had_not_met_its_lost_page_died_of_something_else() {
    // AMD: the early notice is a deferred error, which raises no #MC.
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .wait(30_000 * MS)
        .pio(VCPU0, 0x505, 1);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::GuestPanicked, Cause::NotPoison, Confidence::Likely)
    );
    assert!(
        incident.summary.contains("no access to it was seen"),
        "{}",
        incident.summary
    );
}

#[test]
fn a_sigbus_that_was_not_of_lost_memory_is_told_from_one_that_was() {
    // A shortage of huge pages (BUS_ADRERR) kills QEMU by signal 7, minutes after an error that it had dealt with.
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .struck(AMD_AR)
        .handled(VCPU0)
        .wait(60_000 * MS)
        .vmm_exit(7);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::VmmKilled, Cause::NotPoison, Confidence::Likely)
    );
    assert!(
        incident.missing.iter().any(|m| m.message.contains("BUS_ADRERR")),
        "{:?}",
        incident.missing
    );
}

#[test]
fn a_vmm_that_is_killed_by_hand_or_for_want_of_memory_is_no_incident_without_poison() {
    let mut story = Story::new();
    story.vm().vmm_exit(9).at(QEMU, QEMU, EventKind::VmDestroyed);
    assert!(story.incidents().is_empty());
}

#[test]
fn soft_offline_is_no_incident() {
    // Its page is moved: no memory_failure(), no signal.
    let mut story = Story::new();
    story.vm().pio(VCPU0, 0x604, 0x2000).vmm_exit(0);
    assert!(story.incidents().is_empty());
}

#[test]
fn guest_that_reboots_before_it_has_met_its_lost_page_is_not_killed_by_it() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .pio(VCPU0, 0xcf9, 6)
        .reset(VCPU0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::Running, Cause::NotTouched, Confidence::Likely)
    );
}

#[test]
fn the_page_that_killed_a_guest_does_not_blame_the_one_that_was_handled_before() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .struck(AMD_AR)
        .handled(VCPU0)
        .poison_other(7)
        .record_injection(VCPU1, AMD_AO, GPA + 0x7000)
        .touch(VCPU1, USER_RIP, GPA + 0x7000, Access::Read, true)
        .record_injection(VCPU1, AMD_AR | mca::OVER, GPA + 0x7000)
        .delivered(VCPU1)
        .pio(VCPU1, 0x505, 1);
    let all = story.incidents();
    assert_eq!(
        verdict(&all[0]),
        (Outcome::Survived, Cause::Contained, Confidence::Likely)
    );
    assert!(
        all[0]
            .timeline
            .iter()
            .any(|m| m.message.contains("because of another poisoned page")),
        "{:?}",
        all[0].timeline
    );
    assert_eq!(
        verdict(&all[1]),
        (Outcome::GuestPanicked, Cause::MceOverflow, Confidence::Certain)
    );
}
