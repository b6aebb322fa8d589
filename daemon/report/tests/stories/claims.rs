//! Poison that the host's kernel has not reported: userfaultfd's, a failed read of swap, or a signal that a process sent
//! itself. Never certain, never the DIMM's, and without a vCPU no guest's fate.

use poisontrace_model::{
    event::probe::{Hook, ProbeBinding, ProbeStatus},
    incident::model::{Cause, Confidence, OriginBasis, OriginKind, Outcome},
};

use super::*;

/// As rt_sigqueueinfo(2) to oneself looks where only `signal_generate` is seen: no memory_failure(), no exit, no vCPU.
fn forged(story: &mut Story, pages: u64) {
    for page in 0..pages {
        let hva = HVA + page * 4096;
        story.sigbus(QEMU, QEMU, SigbusSeverity::ActionRequired, hva, 12);
    }
}

#[test]
fn a_process_that_sends_itself_the_signal_has_claimed_poison() {
    let mut story = Story::new();
    forged(story.vm(), 1);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::Running, Cause::Unknown, Confidence::Possible)
    );
    let origin = (incident.origin.how, incident.origin.basis);
    assert_eq!(origin, (OriginKind::Claimed, OriginBasis::NoMemoryFailure));
    assert!(
        incident.summary.contains("lost no memory"),
        "{}",
        incident.summary
    );
    let steps = incident.next_steps.join(" ");
    assert!(
        !steps.contains("DIMM") && !steps.contains("ras-mc-ctl"),
        "{steps}"
    );

    story.vmm_exit(7);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::VmmKilled, Cause::NotPoison, Confidence::Possible),
        "nobody is woken for it"
    );
}

#[test]
fn a_process_without_a_vcpu_has_no_guest_that_was_reset() {
    let mut story = Story::new();
    forged(story.vm(), 1);
    story
        .at(QEMU, QEMU, EventKind::ResetAsked { port: Hex(0xcf9) })
        .pio(QEMU, 0xcf9, 6)
        .vmm_exit(0);
    let (outcome, cause, confidence) = verdict(&story.only());
    assert_ne!(outcome, Outcome::GuestReset);
    assert_ne!(cause, Cause::MceDisabled);
    assert_ne!(confidence, Confidence::Certain);
}

#[test]
fn a_guest_that_dies_of_a_page_that_userfaultfd_marked_is_never_certain_and_blames_no_dimm() {
    let mut story = Story::new();
    story
        .vm()
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .vmm_exit(7);
    let incident = story.only();
    assert_eq!(
        (incident.outcome, incident.cause, incident.confidence),
        (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Likely)
    );
    assert_eq!(incident.origin.how, OriginKind::Claimed);
}

/// As on Linux 6.12 in the lab: the signal of its first exit kills the VMM before the exit's record is made.
#[test]
fn a_signal_that_kvm_alone_can_have_sent_shows_a_vcpu_though_its_exit_was_not_seen() {
    for (hook, cause) in [
        (Hook::Fentry("send_sig_mceerr".into()), Cause::SigbusUnhandled),
        (Hook::Kprobe("send_sig_mceerr".into()), Cause::SigbusUnhandled),
        (Hook::RawTracepoint("signal_generate".into()), Cause::NotPoison),
    ] {
        let mut session = session();
        for status in &mut session.probes {
            if status.probe == ProbeId::SendSigMceerr {
                status.binding = Some(ProbeBinding::Attached(vec![hook.clone()]));
            }
        }
        let mut story = Story::new();
        forged(story.vm(), 1);
        story.vmm_exit(7);
        let incident = incidents_in(session, &story.events).remove(0);
        assert_eq!((incident.outcome, incident.cause), (Outcome::VmmKilled, cause));
        assert_ne!(incident.confidence, Confidence::Certain);
        assert_eq!(incident.origin.how, OriginKind::Claimed);
    }
}

#[test]
fn what_the_kernel_reports_is_no_claim() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
        .vmm_exit(7);
    let incident = story.only();
    assert_eq!(incident.confidence, Confidence::Certain);
    assert_ne!(incident.origin.how, OriginKind::Claimed);

    // Memory was lost before anybody watched.
    let mut story = Story::new();
    forged(story.vm(), 1);
    let before = Session {
        hardware_corrupted_kb: Some(4),
        ..session()
    };
    assert_ne!(
        incidents_in(before, &story.events)[0].origin.how,
        OriginKind::Claimed
    );
}

#[test]
fn what_the_kernels_counters_show_shortly_after_may_have_been_no_claim() {
    let mut story = Story::new();
    forged(story.vm(), 1);
    let mut correlator = Correlator::new(session());
    story.events.iter().for_each(|event| correlator.feed(event));
    let how = |correlator: &mut Correlator| documents(correlator)[0].origin.how;
    let counters_show_it = |after_ms: u64| Event {
        t: story.now + after_ms * MS,
        tid: 0,
        pid: 0,
        vcpu: None,
        what: EventKind::HostMemoryLost,
    };
    assert_eq!(how(&mut correlator), OriginKind::Claimed);
    correlator.feed(&counters_show_it(10_000));
    assert_eq!(how(&mut correlator), OriginKind::Unknown);

    let mut correlator = Correlator::new(session());
    story.events.iter().for_each(|event| correlator.feed(event));
    correlator.feed(&counters_show_it(3_600_000));
    assert_eq!(how(&mut correlator), OriginKind::Claimed, "an hour before");
}

#[test]
fn claims_of_one_process_are_few_incidents() {
    let mut story = Story::new();
    forged(story.vm(), 3000);
    assert_eq!(story.incidents().len(), 256);
    let mut correlator = Correlator::new(session());
    story.events.iter().for_each(|event| correlator.feed(event));
    assert_eq!(correlator.incidents_evicted(), 3000 - 256, "the rest is counted");
}

/// What leaves it open whether a page that the kernel has not named is one that it has lost: the session, and events of before.
fn other_losses() -> [(&'static str, Session, Story); 5] {
    let lost_before = |probes: Vec<ProbeStatus>| Session {
        probes,
        hardware_corrupted_kb: Some(4),
        counters_watched: true,
        ..session()
    };
    let after = |what: fn(&mut Story)| {
        let mut story = Story::new();
        what(&mut story);
        story
    };
    [
        (
            "memory was lost before the start",
            lost_before(session().probes),
            Story::new(),
        ),
        (
            "and memory_failure() cannot be probed",
            lost_before(Vec::new()),
            Story::new(),
        ),
        (
            "other pages were lost, and nobody signalled",
            session(),
            after(|story| {
                story.lose(PFN + 77, |_| {}).lose(PFN + 78, |_| {});
            }),
        ),
        (
            "the counters showed a loss",
            session(),
            after(|story| {
                story.at(0, 0, EventKind::HostMemoryLost).wait(3_600_000 * MS);
            }),
        ),
        (
            "records were lost",
            session(),
            after(|story| {
                story.at(0, 0, EventKind::Lost { records: 5 });
            }),
        ),
    ]
}

#[test]
fn where_other_memory_was_lost_a_page_that_the_kernel_has_not_named_is_never_certain() {
    for (why, session, before) in other_losses() {
        let mut story = before;
        story
            .vm()
            .touch(VCPU0, USER_RIP, GPA, Access::Read, false)
            .vmm_exit(7);
        let incidents = incidents_in(session, &story.events);
        let incident = incidents.last().unwrap();
        assert_eq!(
            (incident.outcome, incident.cause, incident.confidence),
            (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Likely),
            "{why}"
        );
        assert!(
            matches!(incident.origin.how, OriginKind::Claimed | OriginKind::Unknown),
            "{why}: {:?}",
            incident.origin
        );
        assert_eq!(incident.page.pfn, None, "{why}");
    }
}

#[test]
fn a_page_that_the_scan_names_is_no_claim_though_it_was_lost_before() {
    let (_, lost_before, mut story) = other_losses().into_iter().next().unwrap();
    story.vm().touch(VCPU0, USER_RIP, GPA, Access::Read, false);
    let what = EventKind::Preexisting {
        pfn: Hex(PFN),
        hva: Hex(HVA),
    };
    story.at(QEMU, QEMU, what).vmm_exit(7);
    let incidents = incidents_in(lost_before, &story.events);
    assert_eq!(incidents[0].confidence, Confidence::Certain);
}

#[test]
fn claims_of_one_process_are_few_incidents_where_other_memory_was_lost() {
    for (why, session, before) in other_losses() {
        let mut story = before;
        forged(story.vm(), 300);
        assert_eq!(incidents_in(session, &story.events).len(), 256, "{why}");
    }
}

#[test]
fn claims_do_not_go_to_an_incident_of_a_page_that_the_kernel_has_named() {
    let mut story = Story::new();
    story.vm();
    for page in 1..=300 {
        story.poison_other(page);
    }
    let named = story.incidents();
    for page in 1000..1600 {
        let hva = HVA + page * 4096;
        story.sigbus(QEMU, QEMU, SigbusSeverity::ActionRequired, hva, 12);
    }
    let incidents = story.incidents();
    assert_eq!(incidents.len(), 300 + 256);
    for (before, after) in named.iter().zip(&incidents) {
        assert_eq!(
            (&before.id, before.signals.action_required),
            (&after.id, after.signals.action_required)
        );
    }
}

/// As any user forks them: processes that run no VM, each with a signal that it sent itself.
fn strangers(story: &mut Story, pids: std::ops::Range<u32>) {
    for pid in pids {
        let stranger = Vmm {
            is_vmm: Some(false),
            vmm: Some("forge".into()),
            ..Vmm::default()
        };
        story.at(pid, pid, EventKind::Vmm(stranger)).at(
            pid,
            pid,
            EventKind::Sigbus {
                hva: Hex(HVA),
                severity: SigbusSeverity::ActionRequired,
                lsb: 12,
                target_tid: pid,
                target_pid: pid,
                forced: true,
                comm: "forge".into(),
            },
        );
    }
}

#[test]
fn processes_without_end_cost_a_vm_neither_its_incidents_nor_its_name_nor_its_verdict() {
    let limits = Limits {
        incidents: 64,
        processes: 64,
        ..Limits::default()
    };
    let mut story = Story::new();
    story.vm();
    strangers(&mut story, 1000..1200);
    story.poison(12);
    story.poison_other(1).poison_other(2);
    strangers(&mut story, 1200..1400);
    story.touch(VCPU0, USER_RIP, GPA, Access::Read, false);
    strangers(&mut story, 1400..1600);
    story.vmm_exit(7);
    let mut correlator = Correlator::with_limits(session(), limits);
    story.events.iter().for_each(|event| correlator.feed(event));
    let incidents = documents(&mut correlator);
    assert_eq!(incidents.len(), 3, "a stranger's are none of a guest");
    assert!(incidents.iter().all(|i| i.vm.name.as_deref() == Some("web01")));
    assert_eq!(
        verdict(&incidents[0]),
        (Outcome::VmmKilled, Cause::SigbusUnhandled, Confidence::Certain)
    );
    assert!(correlator.incidents_evicted() > 0);
}

/// As on a kernel without CONFIG_MEMORY_FAILURE, or where nothing can be attached to it: the counters alone show a loss.
#[test]
fn without_a_probe_on_memory_failure_the_kernels_counters_tell_a_claim() {
    let mut story = Story::new();
    forged(story.vm(), 300);
    for (hardware_corrupted_kb, counters_watched, claimed) in [
        (None, true, true),
        (Some(0), true, true),
        (Some(4), true, false),
        (None, false, false),
        (Some(0), false, false),
    ] {
        let unprobed = Session {
            probes: Vec::new(),
            hardware_corrupted_kb,
            counters_watched,
            ..session()
        };
        let incidents = incidents_in(unprobed, &story.events);
        let claims = incidents
            .iter()
            .filter(|i| i.origin.how == OriginKind::Claimed)
            .count();
        let expected = if claimed { 256 } else { 0 };
        assert_eq!(claims, expected, "{hardware_corrupted_kb:?} {counters_watched}");
    }
}
