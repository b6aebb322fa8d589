//! Kernels that offer less, or give other addresses: what is stated then, and what is not.

use super::*;
use poisontrace_model::{
    event::{
        OtherAddress,
        probe::{Hook, ProbeBinding, ProbeId, ProbeReason},
    },
    incident::model::{Cause, GupBasis, Outcome},
};

/// The session of a kernel with tracepoints only.
fn tracepoints_only() -> Session {
    let mut session = session();
    for probe in &mut session.probes {
        match probe.probe {
            ProbeId::SendSigMceerr => {
                let stand_in = Hook::Tracepoint("signal:signal_generate".into());
                probe.binding = Some(ProbeBinding::Attached(vec![stand_in]));
            }
            ProbeId::MemoryFailure | ProbeId::ForceSigMceerr | ProbeId::Gup | ProbeId::VmDestroyed => {
                probe.binding = None;
                probe.why = vec![ProbeReason::NoKprobes];
            }
            _ => {}
        }
    }
    session
}

fn reported(session: Session, events: &[Event]) -> Vec<Incident> {
    let mut correlator = Correlator::new(session);
    events.iter().for_each(|event| correlator.feed(event));
    let incidents = documents(&mut correlator);
    conforms(&incidents);
    incidents
}

fn seen(severity: SigbusSeverity, target_tid: u32, gpa: Option<u64>) -> EventKind {
    EventKind::SigbusNoAddress {
        severity,
        target_tid,
        target_pid: QEMU,
        comm: "qemu".into(),
        gpa: gpa.map(Hex),
        pfn: None,
    }
}

/// An exit as [`Story::touch`] has it, as far as such a kernel shows it.
fn exit(story: &Story, change: impl FnOnce(&mut PoisonExit)) -> PoisonExit {
    let mut whole = Story::new();
    whole.now = story.now;
    whole.touch(VCPU0, USER_RIP, GPA, Access::Read, false);
    let found = whole.events.into_iter().find_map(|event| match event.what {
        EventKind::PoisonExit(exit) => Some(exit),
        _ => None,
    });
    let mut exit = found.unwrap();
    change(&mut exit);
    exit
}

#[test]
fn with_tracepoints_only_the_signal_finds_its_page_and_the_gup_share_is_a_bound() {
    let mut story = Story::new();
    story.vm();
    story.at(WORKER, WORKER, seen(SigbusSeverity::ActionOptional, QEMU, None));
    story.at(
        WORKER,
        WORKER,
        EventKind::FailureAction {
            pfn: Hex(PFN),
            page_type: "dirty LRU page".into(),
            result: "Recovered".into(),
        },
    );
    story.record_injection(VCPU0, AMD_AO, GPA).wait(2_000 * MS);
    let exit = exit(&story, |exit| {
        exit.hva = None;
        exit.gup_ns = None;
        exit.gup_ret = None;
    });
    story.at(
        VCPU0,
        QEMU,
        seen(SigbusSeverity::ActionRequired, VCPU0, Some(GPA)),
    );
    story.at(VCPU0, QEMU, EventKind::PoisonExit(exit));
    story
        .record_injection(VCPU0, AMD_AR | mca::OVER, GPA)
        .delivered(VCPU0)
        .pio(VCPU0, 0x505, 1);
    let mut incidents = reported(tracepoints_only(), &story.events);
    assert_eq!(incidents.len(), 1, "{incidents:#?}");
    let incident = incidents.remove(0);
    assert_eq!(
        (incident.outcome, incident.cause),
        (Outcome::GuestPanicked, Cause::MceOverflow)
    );
    assert_eq!(
        (incident.page.pfn, incident.page.gpa),
        (Some(Hex(PFN)), Some(Hex(GPA)))
    );
    assert_eq!(incident.page.kind.as_deref(), Some("dirty LRU page"));
    assert_eq!(
        (
            incident.signals.action_optional,
            incident.signals.action_required,
            incident.exits.count
        ),
        (Some(1), Some(1), Some(1))
    );
    let latency = incident.latency_ns;
    assert_eq!(latency.gup_basis, Some(GupBasis::Bound));
    // From the fault to the signal, 3,500 ns, of 8,000 in the kernel.
    assert_eq!(latency.gup_share, Some(0.4375));
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("gup") && m.message.contains("this kernel has no kprobes")),
        "{:?}",
        incident.missing
    );
}

#[test]
fn under_shadow_paging_no_address_is_called_the_guests_page() {
    let mut story = Story::new();
    story.vm().poison(12).wait(MS);
    let exit = exit(&story, |exit| {
        exit.gpa = None;
        exit.other_address = Some(OtherAddress::Virtual(Hex(0x7f12_3456_7040)));
    });
    story.sigbus(VCPU0, VCPU0, SigbusSeverity::ActionRequired, HVA, 12);
    story.at(VCPU0, QEMU, EventKind::PoisonExit(exit));
    let incident = story.only();
    assert_eq!((incident.page.gpa, incident.page.hva), (None, Some(Hex(HVA))));
    assert_eq!(
        (incident.exits.count, incident.exits.line_bitmap),
        (Some(1), Some(Hex(1 << 1))),
        "paging leaves the line as it is"
    );
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("shadow paging"))
    );
    assert!(
        incident
            .timeline
            .iter()
            .any(|moment| moment.message.contains("guest-virtual address 0x7f1234567040"))
    );
    // What the VMM shows the guest is the guest's own address.
    story.record_injection(VCPU0, AMD_AR, GPA);
    assert_eq!(story.only().page.gpa, Some(Hex(GPA)));
}

#[test]
fn an_address_of_a_nested_guest_is_not_called_the_guests() {
    let mut story = Story::new();
    story.vm().poison(12).wait(MS);
    let exit = exit(&story, |exit| {
        exit.gpa = None;
        exit.other_address = Some(OtherAddress::Nested(Hex(0x1_2040)));
    });
    story.sigbus(VCPU0, VCPU0, SigbusSeverity::ActionRequired, HVA, 12);
    story.at(VCPU0, QEMU, EventKind::PoisonExit(exit));
    let incident = story.only();
    assert_eq!(incident.page.gpa, None);
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("nested (L2) guest"))
    );
}

#[test]
fn a_guest_whose_state_is_protected_has_no_rip_and_not_the_rip_zero() {
    let mut story = Story::new();
    story.vm().poison(12).wait(MS);
    let exit = exit(&story, |exit| exit.rip = None);
    story.sigbus(VCPU0, VCPU0, SigbusSeverity::ActionRequired, HVA, 12);
    story.at(VCPU0, QEMU, EventKind::PoisonExit(exit));
    let mut totals = poisontrace_model::event::totals::PageTotals {
        gpa: Hex(GPA),
        ..Default::default()
    };
    totals.exits = 1;
    totals.reads = 1;
    totals.other_rips = 1;
    story.at(VCPU0, QEMU, EventKind::PageTotals(Box::new(totals)));
    let incident = story.only();
    assert_eq!(incident.exits.distinct_rips, None);
    assert!(
        !incident
            .timeline
            .iter()
            .any(|moment| moment.message.contains("RIP 0x0"))
    );
}
