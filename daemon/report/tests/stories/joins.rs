//! What belongs together, and what does not.

use super::*;
use poisontrace_model::{event::container::Container, incident::model::Severity};

#[test]
fn poison_in_a_process_that_runs_no_vm_is_no_incident() {
    let mut story = Story::new();
    let vmm = Vmm {
        is_vmm: Some(false),
        vmm: Some("postgres".into()),
        ..Vmm::default()
    };
    story.at(QEMU, QEMU, EventKind::Vmm(vmm)).poison(12).vmm_exit(7);
    assert!(story.incidents().is_empty());
}

#[test]
fn a_vmm_that_closed_its_vm_before_it_was_looked_at_is_still_one() {
    let mut story = Story::new();
    let closing = Vmm {
        is_vmm: Some(false),
        vmm: Some("vmm".into()),
        ..Vmm::default()
    };
    story
        .at(QEMU, QEMU, EventKind::Vmm(closing))
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false);
    assert_eq!(story.only().signals.action_required, Some(1));
}

#[test]
fn a_vmm_that_dies_without_poison_is_no_incident() {
    let mut story = Story::new();
    story
        .vm()
        .pio(VCPU0, 0x505, 1)
        .vmm_exit(9)
        .at(QEMU, QEMU, EventKind::VmDestroyed);
    assert!(story.incidents().is_empty());
}

#[test]
fn a_process_that_was_gone_is_an_incident_only_if_kvm_spoke_for_it() {
    let mut story = Story::new();
    story.at(QEMU, QEMU, EventKind::Vmm(Vmm::default())).poison(12);
    assert!(story.incidents().is_empty());
    story.touch(VCPU0, USER_RIP, GPA, Access::Read, false).vmm_exit(7);
    let incident = story.only();
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("/proc of the VMM")),
        "{:?}",
        incident.missing
    );
}

#[test]
fn the_same_page_reported_again_is_one_incident() {
    let mut story = Story::new();
    story.vm().poison(12).wait(5 * MS).poison(12);
    let incident = story.only();
    assert_eq!(incident.signals.action_optional, Some(2));
}

#[test]
fn a_huge_page_touched_piece_by_piece_is_one_incident_with_its_gpas() {
    let mut story = Story::new();
    let (hva, gpa) = (0x7f00_0020_0000, 0x4020_0000);
    story.vm();
    story.at(
        WORKER,
        WORKER,
        EventKind::FailureBegin {
            pfn: Hex(PFN),
            flags: 0,
            in_kvm_run: None,
        },
    );
    story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, hva, 21);
    story.at(WORKER, WORKER, EventKind::FailureEnd { ret: 0 });
    for page in 0..8 {
        let exit_ns = story.now;
        story.sigbus(
            VCPU0,
            VCPU0,
            SigbusSeverity::ActionRequired,
            hva + page * 4096,
            12,
        );
        story.at(
            VCPU0,
            QEMU,
            EventKind::PoisonExit(PoisonExit {
                exit_ns: Some(exit_ns),
                fault_ns: Some(exit_ns),
                gup_ns: Some(1),
                gup_ret: Some(-133),
                signal_ns: Some(exit_ns),
                user_ns: Some(exit_ns + 10),
                entry_ns: None,
                rip: Some(Hex(USER_RIP)),
                gpa: Some(Hex(gpa + page * 4096)),
                hva: Some(Hex(hva + page * 4096)),
                access: Access::Read,
                isa: Isa::Vmx,
                reason: 48,
                user_reason: Some(10),
                user_errno: Some(-4),
                insn: None,
                recovered: false,
                other_address: None,
            }),
        );
        story
            .record_injection(VCPU0, INTEL_AR, gpa + page * 4096)
            .delivered(VCPU0)
            .handled(VCPU0);
    }
    let incident = story.only();
    assert_eq!(incident.page.size_bytes, Some(2 << 20));
    assert_eq!(incident.page.gpas.len(), 8);
    assert_eq!(incident.injections.action_required, Some(8));
}

#[test]
fn a_broadcast_to_every_vcpu_is_one_incident_and_its_copies_are_not_counted() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, INTEL_AO, GPA)
        .put(
            VCPU1,
            &[Bank {
                bank: 1,
                status: Hex(mca::VAL | mca::UC),
                addr: Hex(0),
                misc: Hex(0),
            }],
        )
        .delivered(VCPU0)
        .delivered(VCPU1)
        .handled(VCPU0)
        .handled(VCPU1);
    let incident = story.only();
    assert_eq!(
        (
            incident.injections.action_optional,
            incident.injections.action_required
        ),
        (Some(1), Some(0))
    );
    assert_eq!(
        (incident.injections.delivered, incident.injections.vcpus),
        (Some(2), Some(2))
    );
    assert!(
        incident
            .injections
            .events
            .iter()
            .any(|injection| injection.severity == Severity::Broadcast)
    );
}

#[test]
fn the_same_bank_told_again_after_a_delivery_is_told_twice_but_a_put_state_is_not() {
    let mut story = Story::new();
    story.vm().poison(12);
    for _ in 0..2 {
        story
            .struck(AMD_AR | mca::OVER)
            // Caught in the middle of its delivery and put again: injected, not pending.
            .at(
                VCPU0,
                QEMU,
                EventKind::QueueException {
                    pending: false,
                    injected: true,
                },
            )
            .handled(VCPU0);
    }
    assert_eq!(story.only().injections.action_required, Some(2));
}

#[test]
fn two_pages_of_one_vm_are_told_apart() {
    let mut story = Story::new();
    story.vm().poison(12).record_injection(VCPU0, AMD_AO, GPA);
    story.at(
        WORKER,
        WORKER,
        EventKind::FailureBegin {
            pfn: Hex(0x999),
            flags: 0,
            in_kvm_run: None,
        },
    );
    story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, HVA + 0x5000, 12);
    story.at(WORKER, WORKER, EventKind::FailureEnd { ret: 0 });
    story.record_injection(VCPU0, AMD_AO, GPA + 0x5000);
    let incidents = story.incidents();
    assert_eq!(incidents.len(), 2);
    assert_eq!(incidents[0].page.gpa, Some(Hex(GPA)));
    assert_eq!(
        (incidents[1].page.gpa, incidents[1].page.pfn),
        (Some(Hex(GPA + 0x5000)), Some(Hex(0x999)))
    );
    assert!(incidents.iter().all(|i| i.injections.action_optional == Some(1)));
}

/// A VMM of a pod of Kubernetes.
fn of_a_pod(name: &str) -> Vmm {
    Vmm {
        is_vmm: Some(true),
        name: Some(name.into()),
        container: Some(Box::new(Container {
            id: "3f0c52a6d1f94e3c9a7d0e6f18b2a45c".repeat(2),
            pod_uid: Some("1b2c3d4e-0000-4000-8000-00000000feed".into()),
        })),
        ..Vmm::default()
    }
}

#[test]
fn a_vmm_in_a_pod_is_named_with_it_and_started_again_by_it() {
    for (name, command) in [
        ("shop_db-7", "virtctl start db-7 -n shop"),
        ("sandbox-3f0c", "kubectl delete pod"),
    ] {
        let mut story = Story::new();
        let vmm = EventKind::Vmm(of_a_pod(name));
        let incident = story.at(QEMU, QEMU, vmm).poison(12).vmm_exit(9).only();
        assert_eq!(
            incident.vm.container,
            of_a_pod(name).container.map(|container| *container)
        );
        let steps = incident.next_steps.join(" ");
        assert!(steps.contains(command) && !steps.contains("virsh"), "{steps}");
    }
}

#[test]
fn a_reused_pid_does_not_inherit_the_dead_vms_pages() {
    let mut story = Story::new();
    story.vm().poison(12).vmm_exit(9);
    let other = Vmm {
        is_vmm: Some(true),
        name: Some("other".into()),
        start_ticks: Some(8),
        ..Vmm::default()
    };
    story.at(QEMU, QEMU, EventKind::Vmm(other)).poison(12);
    let incidents = story.incidents();
    assert_eq!(incidents.len(), 2);
    assert_eq!(incidents[0].vm.name.as_deref(), Some("web01"));
    assert_eq!(incidents[1].vm.name.as_deref(), Some("other"));
    assert_eq!(incidents[1].signals.action_optional, Some(1));
}

#[test]
fn lost_records_are_said_where_they_may_matter() {
    let mut story = Story::new();
    story.vm().poison(12).at(0, 0, EventKind::Lost { records: 17 });
    let incident = story.only();
    assert!(
        incident.missing.iter().any(|m| m.message.contains("17 records")),
        "{:?}",
        incident.missing
    );
}

#[test]
fn a_probe_that_was_not_attached_makes_null_and_not_zero() {
    let mut story = Story::new();
    story.vm().poison(12);
    let mut blind = session();
    for probe in &mut blind.probes {
        if let ProbeId::VcpuIoctlMce | ProbeId::KvmInjException = probe.probe {
            probe.binding = None;
        }
    }
    let mut correlator = Correlator::new(blind);
    story.events.iter().for_each(|event| correlator.feed(event));
    let incident = documents(&mut correlator).remove(0);
    assert_eq!(
        (incident.injections.action_optional, incident.injections.delivered),
        (None, None)
    );
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("vcpu_ioctl_mce")),
        "{:?}",
        incident.missing
    );
}
