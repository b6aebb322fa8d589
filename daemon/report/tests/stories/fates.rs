//! What became of the guest.

use super::*;
use poisontrace_model::incident::model::{Cause, Confidence, FlushVerdict, Outcome, Severity};

#[test]
fn amd_guest_without_overflow_recovery_panics_at_the_second_error() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .wait(3_000 * MS)
        .touch(VCPU0, USER_RIP, GPA + 0x40, Access::Read, true)
        .record_injection(VCPU0, AMD_AR | mca::OVER, GPA)
        .delivered(VCPU0)
        .at(
            VCPU0,
            QEMU,
            EventKind::McgStatus {
                write: false,
                data: Hex(7),
                mc_on: None,
            },
        )
        .pio(VCPU0, 0x505, 1)
        .vmm_exit(0)
        .at(QEMU, QEMU, EventKind::VmDestroyed);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::GuestPanicked, Cause::MceOverflow, Confidence::Certain)
    );
    assert_eq!(incident.page.pfn, Some(Hex(PFN)));
    assert_eq!(incident.page.gpa, Some(Hex(GPA)));
    assert_eq!(
        (incident.signals.action_optional, incident.signals.action_required),
        (Some(1), Some(1))
    );
    let injection: Vec<(Severity, Option<bool>)> = incident
        .injections
        .events
        .iter()
        .map(|injection| (injection.severity, injection.overflow))
        .collect();
    assert_eq!(
        injection,
        [(Severity::Ao, Some(false)), (Severity::Ar, Some(true))]
    );
    assert_eq!(incident.injections.delivered, Some(1));
    assert_eq!(incident.exits.line_bitmap, Some(Hex(0b10)));
    assert_eq!(incident.latency_ns.gup_share, Some(0.25));
    assert!(
        incident.summary.contains("web01 panicked"),
        "{}",
        incident.summary
    );
}

/// As with hugetlbfs, of whose page the guest's kernel learns 4 KiB and meets the others by itself.
#[test]
fn a_kernels_write_is_fatal_whatever_the_bank_held() {
    for (access, cause) in [
        (Access::Write, Cause::KernelAccess),
        (Access::Read, Cause::MceOverflow),
    ] {
        let mut story = Story::new();
        story
            .vm()
            .poison(21)
            .record_injection(VCPU0, AMD_AO, GPA)
            .wait(3_000 * MS)
            .touch(VCPU0, KERNEL_RIP, GPA + 0x11c0, access, true)
            .record_injection(VCPU0, AMD_AR | mca::OVER, GPA + 0x1000)
            .delivered(VCPU0)
            .pio(VCPU0, 0x505, 1);
        assert_eq!(
            verdict(&story.only()),
            (Outcome::GuestPanicked, cause, Confidence::Likely)
        );
    }
}

#[test]
fn without_a_panic_device_the_panic_is_inferred_and_said_to_be() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .struck(AMD_AR | mca::OVER)
        .pio(VCPU0, 0x64, 0xfe)
        .vmm_exit(0);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::GuestPanicked, Cause::MceOverflow, Confidence::Likely)
    );
    assert!(
        incident.missing.iter().any(|m| m.message.contains("pvpanic")),
        "{:?}",
        incident.missing
    );
}

#[test]
fn guest_that_handles_the_machine_check_survives() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .struck(AMD_AR)
        .handled(VCPU0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::Survived, Cause::Contained, Confidence::Likely)
    );
    story.pio(VCPU0, 0x604, 0x2000).vmm_exit(0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::Survived, Cause::Contained, Confidence::Certain)
    );
}

/// A VMM may drive a vCPU with several threads in turn.
#[test]
fn guest_that_handles_the_machine_check_on_another_thread_of_the_vcpu_survives() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .struck(AMD_AR)
        .handled_elsewhere(VCPU1, VCPU0)
        .pio(VCPU1, 0x604, 0x2000)
        .vmm_exit(0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::Survived, Cause::Contained, Confidence::Certain)
    );
    // Of another process: it shows nothing.
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, AMD_AO, GPA)
        .struck(AMD_AR)
        .handled_elsewhere(VCPU1, VCPU0 + 1000)
        .vmm_exit(0);
    assert_ne!(story.only().outcome, Outcome::Survived);
}

#[test]
fn intel_guest_without_recovery_dies_of_the_notice_alone() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, INTEL_AO, GPA)
        .delivered(VCPU0)
        .pio(VCPU0, 0x505, 1)
        .vmm_exit(0);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (
            Outcome::GuestPanicked,
            Cause::FatalNotification,
            Confidence::Certain
        )
    );
    assert_eq!(incident.exits.count, Some(0));
}

#[test]
fn guest_kernel_that_touches_the_page_panics() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, INTEL_AO, GPA)
        .delivered(VCPU0)
        .handled(VCPU0)
        .touch(VCPU0, KERNEL_RIP, GPA, Access::Read, true)
        .record_injection(VCPU0, INTEL_AR, GPA)
        .delivered(VCPU0)
        .pio(VCPU0, 0x505, 1);
    let incident = story.only();
    assert_eq!(
        (incident.outcome, incident.cause),
        (Outcome::GuestPanicked, Cause::KernelAccess)
    );
    // One read at line 0 by a kernel RIP may be a CLFLUSH or a load: never claimed.
    assert_eq!(incident.flush.verdict, FlushVerdict::Undetermined);
}

#[test]
fn a_write_is_no_flush() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, KERNEL_RIP, GPA, Access::Write, false);
    assert_eq!(story.only().flush.verdict, FlushVerdict::NoFlush);
}

#[test]
fn a_page_that_nobody_touches_kills_nobody() {
    let mut story = Story::new();
    story.vm().poison(12).record_injection(VCPU0, AMD_AO, GPA);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::Running, Cause::NotTouched, Confidence::Likely)
    );
    story.vmm_exit(9);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmKilled, Cause::NotPoison, Confidence::Likely)
    );
}

#[test]
fn vmm_that_swallows_the_signal_spins_on_one_line() {
    let mut story = Story::new();
    story.vm().poison(12);
    for _ in 0..100 {
        story.touch(VCPU0, USER_RIP, GPA + 0x80, Access::Read, true);
    }
    let incident = story.only();
    assert_eq!(
        (incident.outcome, incident.cause),
        (Outcome::Running, Cause::SigbusSpin)
    );
    assert_eq!(
        (incident.exits.count, incident.exits.distinct_lines),
        (Some(100), Some(1))
    );
}

#[test]
fn sixty_four_lines_are_sixty_four_exits_and_a_full_bitmap() {
    let mut story = Story::new();
    story.vm().poison(12);
    for line in 0..64 {
        story.touch(VCPU0, KERNEL_RIP, GPA + line * 64, Access::Read, true);
    }
    let incident = story.only();
    assert_eq!(incident.exits.line_bitmap, Some(Hex(u64::MAX)));
    assert_eq!(
        (incident.exits.count, incident.exits.distinct_rips),
        (Some(64), Some(1))
    );
    let latency = incident.latency_ns;
    assert_eq!(latency.in_kernel.unwrap().sum, 64 * 8_000);
    assert_eq!(latency.exit_to_entry.unwrap().count, 64);
    assert_eq!(
        latency.claim_63_exits.map(|c| (c.in_kernel_ns, c.within_50us)),
        Some((504_000, false))
    );
}
