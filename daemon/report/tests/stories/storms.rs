//! Storms, and whether it was just CLFLUSH.

use super::*;
use poisontrace_model::{
    event::totals::{DurationTotals, PageTotals, RipTotals},
    incident::model::{Cause, Confidence, FlushBasis, FlushVerdict, Spin, StormKind},
};

const OTHER_RIP: u64 = KERNEL_RIP + 0x100;

fn walk(story: &mut Story, access: Access) {
    for line in 0..64 {
        story.touch(VCPU0, KERNEL_RIP, GPA + line * 64, access, true);
    }
}

#[test]
fn guest_flushes_the_page_line_by_line() {
    let mut story = Story::new();
    story.vm().poison(12);
    walk(&mut story, Access::Read);
    let incident = story.only();
    let storm = incident.storm.unwrap();
    assert_eq!(
        (storm.kind, storm.exits, storm.lines),
        (StormKind::LineWalk, 64, 64)
    );
    assert!(storm.duration_ns.is_some_and(|ns| ns > 0));
    let flush = incident.flush;
    assert_eq!(
        (flush.verdict, flush.basis),
        (FlushVerdict::FlushOnly, FlushBasis::LineWalk)
    );
    // A load loop of the same stride looks the same: never more than possible.
    assert_eq!(flush.confidence, Some(Confidence::Possible));
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("loads with a stride")),
        "{:?}",
        incident.missing
    );
}

#[test]
fn guest_that_flushes_and_then_reads_or_writes_did_not_just_flush() {
    for access in [Access::Read, Access::Write] {
        let mut story = Story::new();
        story.vm().poison(12);
        walk(&mut story, Access::Read);
        story.touch(VCPU0, OTHER_RIP, GPA + 0x80, access, true);
        let incident = story.only();
        assert_eq!(incident.flush.verdict, FlushVerdict::FlushThenAccess);
        assert_eq!(incident.exits.distinct_rips, Some(2));
    }
}

#[test]
fn a_walk_of_writes_is_no_flush() {
    let mut story = Story::new();
    story.vm().poison(12);
    walk(&mut story, Access::Write);
    let incident = story.only();
    assert_eq!(incident.flush.verdict, FlushVerdict::NoFlush);
    assert_eq!(incident.storm.unwrap().kind, StormKind::LineWalk);
}

/// A touch whose instruction the processor delivered.
fn with_bytes(story: &mut Story, hex: &str) {
    if let Some(Event {
        what: EventKind::PoisonExit(exit),
        ..
    }) = story
        .events
        .iter_mut()
        .rev()
        .find(|event| matches!(event.what, EventKind::PoisonExit(_)))
    {
        exit.insn = Some(hex.into());
    }
}

#[test]
fn the_instructions_bytes_settle_it_at_the_first_line() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, KERNEL_RIP, GPA, Access::Read, true);
    with_bytes(&mut story, "660fae3f4883c740");
    story
        .record_injection(VCPU0, INTEL_AR, GPA)
        .delivered(VCPU0)
        .pio(VCPU0, 0x505, 1);
    let incident = story.only();
    let flush = incident.flush;
    assert_eq!(
        (flush.verdict, flush.basis),
        (FlushVerdict::FlushOnly, FlushBasis::InstructionBytes)
    );
    assert_eq!(flush.instruction.as_deref(), Some("clflushopt [rdi]"));
    assert_eq!(
        (incident.cause, incident.confidence),
        (Cause::Clflush, Confidence::Certain)
    );
}

#[test]
fn loads_whose_bytes_are_known_are_never_called_a_flush() {
    let mut story = Story::new();
    story.vm().poison(12);
    for line in 0..64 {
        story.touch(VCPU0, KERNEL_RIP, GPA + line * 64, Access::Read, true);
        with_bytes(&mut story, "488b0790");
    }
    let flush = story.only().flush;
    assert_eq!(
        (flush.verdict, flush.confidence),
        (FlushVerdict::NoFlush, Some(Confidence::Certain))
    );
}

/// What the kernel totals of a VMM that swallows a million signals on one line.
fn million(exits: u64) -> PageTotals {
    let duration = |each: u64| DurationTotals {
        count: exits,
        sum: exits * each,
        min: each,
        max: each,
        buckets: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, exits as u32],
        within_claim: Some(exits as u32),
    };
    PageTotals {
        gpa: Hex(GPA),
        exits,
        signals: exits,
        reads: exits,
        lines: Hex(1 << 2),
        same_line: exits - 1,
        gup_poison: exits,
        first_ns: 1_000 * MS,
        last_ns: 9_000 * MS,
        last_entry_ns: 9_000 * MS + 1,
        exit_to_entry: duration(2_000),
        in_kernel_time: duration(1_500),
        gup: duration(1_100),
        vmm: duration(500),
        rips: vec![RipTotals {
            rip: Hex(USER_RIP),
            exits,
            lines: Hex(1 << 2),
            first_ns: 1_000 * MS,
            last_ns: 9_000 * MS,
            first_line: 2,
            last_line: 2,
            ..RipTotals::default()
        }],
        ..PageTotals::default()
    }
}

#[test]
fn a_million_swallowed_signals_are_counted_exactly_from_a_few_events() {
    let mut story = Story::new();
    story.vm().poison(12);
    for _ in 0..256 {
        story.touch(VCPU0, USER_RIP, GPA + 0x80, Access::Read, true);
    }
    story.at(VCPU0, QEMU, EventKind::PageTotals(Box::new(million(1_000_000))));
    let incident = story.only();
    assert_eq!(incident.exits.count, Some(1_000_000));
    assert_eq!(incident.signals.action_required, Some(1_000_000));
    let storm = incident.storm.unwrap();
    assert_eq!(
        (storm.kind, storm.lines, storm.spin),
        (StormKind::SameLineSpin, 1, Some(Spin::Bounced))
    );
    assert_eq!(incident.cause, Cause::SigbusSpin);
    let latency = incident.latency_ns;
    assert_eq!(
        latency.in_kernel.map(|d| (d.count, d.sum)),
        Some((1_000_000, 1_500_000_000))
    );
    assert_eq!(latency.gup_share, Some(0.733333));
    assert!(incident.timeline.len() < 250, "{}", incident.timeline.len());
}

#[test]
fn events_ahead_of_the_totals_are_not_taken_back() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .at(VCPU0, QEMU, EventKind::PageTotals(Box::new(million(2))));
    for _ in 0..5 {
        story.touch(VCPU0, USER_RIP, GPA + 0x80, Access::Read, true);
    }
    assert_eq!(story.only().exits.count, Some(5));
}

#[test]
fn totals_read_after_the_vmms_end_are_still_its() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA + 0x80, Access::Read, false)
        .vmm_exit(9)
        .at(VCPU0, QEMU, EventKind::PageTotals(Box::new(million(700))));
    assert_eq!(story.only().exits.count, Some(700));
}
