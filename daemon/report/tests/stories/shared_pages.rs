//! One page of the host in several VMs, and one page of the host again.

use super::*;
use poisontrace_report::document::Missing;

const OTHER: u32 = 1221;

/// A page that two VMs map is lost (ksm, or a file that both share).
fn shared_page() -> Story {
    let mut story = Story::new();
    story.vm();
    let other = Vmm {
        is_vmm: Some(true),
        name: Some("db01".into()),
        start_ticks: Some(9),
        ..Vmm::default()
    };
    story.at(OTHER, OTHER, EventKind::Vmm(other)).lose(PFN, |story| {
        story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, HVA, 12);
        let what = EventKind::Sigbus {
            hva: Hex(0x7f11_0000_0000),
            severity: SigbusSeverity::ActionOptional,
            lsb: 12,
            target_tid: OTHER,
            target_pid: OTHER,
            forced: false,
            comm: "qemu".into(),
        };
        story.at(WORKER, WORKER, what);
    });
    story
}

#[test]
fn a_page_in_two_vms_is_an_incident_each_that_name_each_other() {
    let all = shared_page().incidents();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].related_incidents, [all[1].id.clone()]);
    assert_eq!(all[1].related_incidents, [all[0].id.clone()]);
    assert_eq!(all[0].page.pfn, all[1].page.pfn);
    let command = format!("poisontrace explain {}", all[1].id);
    assert!(
        all[0].next_steps.iter().any(|advice| advice.contains(&command)),
        "{:?}",
        all[0].next_steps
    );
}

/// One page in `vms` VMs.
fn page_in(vms: u32) -> Story {
    let mut story = Story::new();
    for pid in 1000..1000 + vms {
        let vmm = Vmm {
            is_vmm: Some(true),
            name: Some(format!("vm-{pid}")),
            ..Vmm::default()
        };
        story.at(pid, pid, EventKind::Vmm(vmm));
    }
    story.lose(PFN, |story| {
        for pid in 1000..1000 + vms {
            let what = EventKind::Sigbus {
                hva: Hex(HVA),
                severity: SigbusSeverity::ActionOptional,
                lsb: 12,
                target_tid: pid,
                target_pid: pid,
                forced: false,
                comm: "qemu".into(),
            };
            story.at(WORKER, WORKER, what);
        }
    });
    story
}

#[test]
fn a_page_in_many_vms_names_the_first_few_and_counts_the_others() {
    for (vms, named, total) in [(9, 8, None), (10, 8, Some(9)), (2000, 8, Some(1999))] {
        let all = page_in(vms).incidents();
        assert_eq!(all.len(), vms as usize);
        for incident in &all {
            assert_eq!(incident.related_incidents.len(), named);
            assert_eq!(incident.related_total, total);
            assert!(!incident.related_incidents.contains(&incident.id));
        }
    }
}

#[test]
fn a_page_in_many_vms_is_reported_a_few_times_and_not_once_for_each_of_them() {
    const VMS: u32 = 1024;
    let mut correlator = Correlator::new(session());
    let mut reports = 0;
    for event in &page_in(VMS).events {
        correlator.feed(event);
        reports += correlator.take_numbers().len();
    }
    // Each by itself, then all of them as often as their number doubles, and once at the kernel's answer.
    assert!(reports < 8 * VMS as usize, "{reports}");
}

#[test]
fn an_incident_is_told_anew_when_another_vm_turns_out_to_share_its_page() {
    let story = shared_page();
    let mut correlator = Correlator::new(session());
    let second = story
        .events
        .iter()
        .position(|event| {
            matches!(
                event.what,
                EventKind::Sigbus {
                    target_pid: OTHER,
                    ..
                }
            )
        })
        .unwrap();
    story.events[..second]
        .iter()
        .for_each(|event| correlator.feed(event));
    assert!(correlator.take_changed()[0].incident.related_incidents.is_empty());
    correlator.feed(&story.events[second]);
    let changed = correlator.take_changed();
    assert_eq!(changed.len(), 2);
    assert!(
        changed
            .iter()
            .all(|update| update.incident.related_incidents.len() == 1)
    );
}

#[test]
fn a_page_that_is_reported_again_as_already_poisoned_is_one_incident() {
    let mut story = Story::new();
    story.vm().poison(12).wait(5_000 * MS);
    let pfn = Hex(PFN);
    // 6.11 on states it each time; 5.15 on sends AR to who touched it.
    story
        .at(
            VCPU0,
            QEMU,
            EventKind::FailureBegin {
                pfn,
                flags: 2,
                in_kvm_run: None,
            },
        )
        .sigbus(VCPU0, VCPU0, SigbusSeverity::ActionRequired, HVA, 12);
    let (page_type, result) = ("already poisoned".into(), "Failed".into());
    let action = EventKind::FailureAction {
        pfn,
        page_type,
        result,
    };
    story
        .at(VCPU0, QEMU, action)
        .at(VCPU0, QEMU, EventKind::FailureEnd { ret: -133 });
    let incident = story.only();
    assert_eq!(incident.page.action_result.as_deref(), Some("Recovered"));
    assert_eq!(incident.page.kind.as_deref(), Some("dirty LRU page"));
    assert_eq!(incident.signals.action_required, Some(1));
    assert!(
        incident.timeline.iter().any(|m| m.message.contains("again")),
        "{:?}",
        incident.timeline
    );
}

#[test]
fn a_vmm_that_was_started_again_has_an_incident_of_its_own_and_shares_nothing_with_the_dead() {
    let mut story = Story::new();
    story.vm().poison(12).vmm_exit(9).wait(60_000 * MS);
    let new = Vmm {
        is_vmm: Some(true),
        name: Some("web01".into()),
        start_ticks: Some(99),
        ..Vmm::default()
    };
    story.at(OTHER, OTHER, EventKind::Vmm(new)).lose(PFN, |story| {
        let what = EventKind::Sigbus {
            hva: Hex(HVA),
            severity: SigbusSeverity::ActionOptional,
            lsb: 12,
            target_tid: OTHER,
            target_pid: OTHER,
            forced: false,
            comm: "qemu".into(),
        };
        story.at(WORKER, WORKER, what);
    });
    let all = story.incidents();
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|incident| incident.related_incidents.is_empty()));
}

#[test]
fn another_page_of_the_host_at_the_same_address_is_another_incident() {
    // QEMU maps a poisoned page anew when its guest is reset.
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true)
        .reset(VCPU0)
        .wait(1_000 * MS)
        .lose(PFN + 77, |story| {
            story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, HVA, 12);
        });
    let all = story.incidents();
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].page.pfn, Some(Hex(PFN + 77)));
}

#[test]
fn a_touch_that_is_faster_than_memory_failure_gets_its_page_frame() {
    let mut story = Story::new();
    story
        .vm()
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true)
        .poison(12);
    let incident = story.only();
    assert_eq!(incident.page.pfn, Some(Hex(PFN)));
    assert_eq!(incident.page.action_result.as_deref(), Some("Recovered"));
}

#[test]
fn two_pages_that_are_lost_at_once_are_told_apart_by_their_place() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .poison_other(5)
        // The second signal was lost, or its page is notified first: either way the address states which.
        .record_injection(VCPU0, AMD_AO, GPA + 0x5000)
        .record_injection(VCPU0, AMD_AO, GPA);
    let all = story.incidents();
    assert_eq!(all[0].page.gpa, Some(Hex(GPA)));
    assert_eq!(all[1].page.gpa, Some(Hex(GPA + 0x5000)));
}

/// A 2 MiB page whose loss no process was reported, as where no VMM asks for early notice.
fn silent_huge_page() -> Story {
    let mut story = Story::new();
    story.vm();
    story.lose_of_type(0x4_0000, "huge page", |_| {});
    story
}

#[test]
fn pieces_of_a_huge_page_are_one_incident_though_no_signal_named_it() {
    let mut story = silent_huge_page();
    for piece in 0..4 {
        story
            .touch(VCPU0, USER_RIP, GPA + piece * 4096, Access::Read, true)
            .record_injection(VCPU0, AMD_AR, GPA + piece * 4096)
            .delivered(VCPU0)
            .handled(VCPU0);
    }
    let incident = story.only();
    assert_eq!(incident.page.size_bytes, Some(2 << 20));
    assert_eq!(incident.page.gpas.len(), 4);
    assert_eq!(
        (incident.page.pfn, incident.page.kind.as_deref()),
        (Some(Hex(0x4_0000)), Some("huge page"))
    );
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("the only one that fits")),
        "{:?}",
        incident.missing
    );
}

/// A page that was lost before its VM was started, or whose VMM did not ask for early notice.
fn met_as_the_first(losses: &[(u64, &str)]) -> Story {
    let mut story = Story::new();
    for (pfn, page_type) in losses {
        story.lose_of_type(*pfn, page_type, |_| {});
    }
    story
        .wait(2_000 * MS)
        .vm()
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true);
    story
}

#[test]
fn page_whose_loss_no_process_was_told_of_is_the_one_that_a_guest_meets() {
    let incident = met_as_the_first(&[(PFN, "dirty LRU page"), (0x77, "free buddy page")]).only();
    assert_eq!(
        (incident.page.pfn, incident.page.kind.as_deref()),
        (Some(Hex(PFN)), Some("dirty LRU page"))
    );
    assert_eq!(incident.page.size_bytes, Some(4096));
    assert!(
        incident.timeline[0].message.contains("memory_failure") && incident.timeline[0].t_ns == Some(0),
        "{:?}",
        incident.timeline
    );
    let inferred = |m: &Missing| m.message.contains("the only one that fits");
    assert!(incident.missing.iter().any(inferred), "{:?}", incident.missing);
}

#[test]
fn of_two_such_pages_none_is_named() {
    let incident = met_as_the_first(&[(PFN, "dirty LRU page"), (0x77, "clean LRU page")]).only();
    assert_eq!(incident.page.pfn, None);
}

#[test]
fn nothing_is_inferred_on_a_host_that_had_lost_pages_before() {
    let story = met_as_the_first(&[(PFN, "dirty LRU page")]);
    let mut correlator = Correlator::new(Session {
        hardware_corrupted_kb: Some(4),
        ..session()
    });
    story.events.iter().for_each(|event| correlator.feed(event));
    assert_eq!(correlator.incidents()[0].page.pfn, None);
}

#[test]
fn one_touch_does_not_make_a_page_huge() {
    let mut story = silent_huge_page();
    story.touch(VCPU0, USER_RIP, GPA, Access::Read, true);
    let incident = story.only();
    assert_eq!((incident.page.size_bytes, incident.page.pfn), (Some(4096), None));
}

#[test]
fn a_page_of_1_gib_is_one_incident_wherever_in_it_the_guest_touches() {
    let (hva, gpa) = (0x7f40_0000_0000, 0x1_0000_0000);
    let mut story = Story::new();
    story.vm().lose(0x10_0000, |story| {
        story.sigbus(WORKER, QEMU, SigbusSeverity::ActionOptional, hva, 30);
    });
    for offset in [0, 0x1000, 0x2000_0000, 0x3fff_f000] {
        let exit_ns = story.now;
        story.sigbus(VCPU0, VCPU0, SigbusSeverity::ActionRequired, hva + offset, 12);
        let exit = PoisonExit {
            exit_ns: Some(exit_ns),
            fault_ns: Some(exit_ns),
            gup_ns: None,
            gup_ret: None,
            signal_ns: Some(exit_ns),
            user_ns: Some(exit_ns + 10),
            entry_ns: None,
            rip: Some(Hex(USER_RIP)),
            gpa: Some(Hex(gpa + offset)),
            hva: Some(Hex(hva + offset)),
            access: Access::Read,
            other_address: None,
            isa: Isa::Svm,
            reason: 0x400,
            user_reason: None,
            user_errno: None,
            insn: None,
            recovered: false,
        };
        story.at(VCPU0, QEMU, EventKind::PoisonExit(exit));
    }
    let incident = story.only();
    assert_eq!(incident.page.size_bytes, Some(1 << 30));
    assert_eq!(incident.page.gpas.len(), 4);
}
