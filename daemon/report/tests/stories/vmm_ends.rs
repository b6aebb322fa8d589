//! The VMM's own end: `sigbus_unhandled`, `second_sigbus`, `vmm_own_memory`, `guest_memfd`.

use super::*;
use poisontrace_model::incident::model::{Cause, Confidence, Outcome};

const KVM_EXIT_MEMORY_FAULT: u32 = 39;

/// SIGBUS for the VMM's own access, as `do_sigbus` forces it on the thread.
fn forced(story: &mut Story, tid: u32, hva: u64) {
    let what = EventKind::Sigbus {
        hva: Hex(hva),
        severity: SigbusSeverity::ActionRequired,
        lsb: 12,
        target_tid: tid,
        target_pid: QEMU,
        forced: true,
        comm: "qemu".into(),
    };
    story.at(tid, QEMU, what);
}

#[test]
fn vmm_without_a_handler_is_killed_by_sigbus() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .vmm_exit(7);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Certain)
    );
}

#[test]
fn the_vmms_end_is_its_leaders_and_not_its_last_workers() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false);
    let ends = |exit_code, live, comm: &str| EventKind::TaskExit {
        exit_code,
        live: Some(live),
        comm: comm.into(),
    };
    story
        .at(QEMU, QEMU, ends(7, 1, "qemu"))
        .at(QEMU + 9, QEMU, ends(0, 0, "kvm-nx-lpage-re"));
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Certain)
    );
}

#[test]
fn firecracker_exits_with_its_own_status() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .vmm_exit(149 << 8);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmExited, Cause::SigbusUnhandled, Confidence::Certain)
    );
}

#[test]
fn a_vmm_that_ends_itself_at_once_does_not_pass_errors_on() {
    // QEMU, for a guest without software error recovery: "Hardware memory error!", exit(1).
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .vmm_exit(1 << 8);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmExited, Cause::SigbusUnhandled, Confidence::Likely)
    );
}

#[test]
fn an_early_notice_kills_a_vmm_that_has_no_handler() {
    let mut story = Story::new();
    story.vm().poison(12).vmm_exit(7);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Certain)
    );
    assert!(
        incident.summary.contains("by SIGBUS that announced"),
        "{}",
        incident.summary
    );
}

#[test]
fn qemu_raises_a_second_signal_that_comes_before_the_first_is_dealt_with() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .poison_other(3)
        .record_injection(VCPU0, AMD_AO, GPA)
        .wait(3_000 * MS)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false);
    forced(&mut story, VCPU0, HVA + 0x3000);
    story.vmm_exit(7);
    let all = story.incidents();
    assert_eq!(
        verdict(&all[1]),
        (Outcome::VmmKilled, Cause::SecondSigbus, Confidence::Certain)
    );
    // The page of the first signal did not kill it.
    assert_ne!(all[0].confidence, Confidence::Certain);
}

#[test]
fn a_signal_that_was_answered_is_not_pending() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .struck(AMD_AR)
        .handled(VCPU0)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .vmm_exit(7);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Likely)
    );
}

#[test]
fn a_vmm_that_touches_memory_of_its_own_is_killed_for_that() {
    let mut story = Story::new();
    story.vm().poison(12);
    forced(&mut story, QEMU, HVA);
    story.vmm_exit(7);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::VmmKilled, Cause::VmmOwnMemory, Confidence::Likely)
    );
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("memory slots")),
        "{:?}",
        incident.missing
    );
}

#[test]
fn memory_whose_guest_address_is_known_is_not_the_vmms_own() {
    // A device that QEMU emulates reads the guest's page, in a thread that blocks SIGBUS.
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .wait(3_000 * MS);
    forced(&mut story, QEMU, HVA);
    story.vmm_exit(7);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Likely)
    );
}

#[test]
fn private_memory_sends_no_signal_and_is_an_incident_all_the_same() {
    let mut story = Story::new();
    story.vm().leaves(VCPU0, KVM_EXIT_MEMORY_FAULT, -133);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::Unknown, Cause::GuestMemfd, Confidence::Certain)
    );
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("private page")),
        "{:?}",
        incident.missing
    );
    story.vmm_exit(1 << 8);
    assert_eq!(verdict(&story.only()).0, Outcome::VmmExited);
}

#[test]
fn a_page_that_is_to_change_between_private_and_shared_is_no_poison() {
    let mut story = Story::new();
    story.vm().leaves(VCPU0, KVM_EXIT_MEMORY_FAULT, -14);
    assert!(story.incidents().is_empty());
}
