//! Walks with holes are walks, and what is none is never called one.

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;
use poisontrace_model::incident::model::{Confidence, FlushVerdict, StormKind};

const LINES: u64 = 64;
const OTHER_RIP: u64 = KERNEL_RIP + 0x40;

/// What became of one exit of a walk on its way to the correlator.
#[derive(Clone, Copy, Debug)]
enum Hole {
    Lost,
    Unknown,
    Misread(u64),
}

/// How the events arrive: from the probes, or as a trace shows them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Probes,
    Trace,
}

impl Story {
    fn leaves_at(&mut self, by: By, rip: u64, gpa: Option<u64>, true_gpa: u64) {
        match by {
            By::Probes => {
                self.touch(VCPU0, rip, true_gpa, Access::Read, true);
                if let Some(exit) = self.last_exit() {
                    exit.gpa = gpa.map(Hex);
                    if gpa.is_none_or(|gpa| gpa & !0xfff != true_gpa & !0xfff) {
                        exit.hva = None;
                    }
                }
            }
            By::Trace => {
                let exit_ns = self.now;
                self.at(
                    VCPU0,
                    QEMU,
                    EventKind::SigbusNoAddress {
                        severity: SigbusSeverity::ActionRequired,
                        target_tid: VCPU0,
                        target_pid: QEMU,
                        comm: "qemu".into(),
                        gpa: gpa.map(Hex),
                        pfn: None,
                    },
                );
                let mut exit = exit_of(exit_ns, rip, Access::Read);
                exit.gpa = gpa.map(Hex);
                self.at(VCPU0, QEMU, EventKind::PoisonExit(exit));
                let entry_ns = self.now;
                self.at(VCPU0, QEMU, EventKind::Reentry { exit_ns, entry_ns });
            }
        }
    }

    fn last_exit(&mut self) -> Option<&mut PoisonExit> {
        self.events
            .iter_mut()
            .rev()
            .find_map(|event| match &mut event.what {
                EventKind::PoisonExit(exit) => Some(exit),
                _ => None,
            })
    }

    /// One RIP goes over these lines of the page.
    fn touches(&mut self, by: By, lines: impl IntoIterator<Item = u64>) -> &mut Self {
        for line in lines {
            let gpa = GPA + line * 64;
            self.leaves_at(by, KERNEL_RIP, Some(gpa), gpa);
        }
        self
    }
}

fn exit_of(exit_ns: u64, rip: u64, access: Access) -> PoisonExit {
    PoisonExit {
        exit_ns: Some(exit_ns),
        fault_ns: Some(exit_ns + 500),
        gup_ns: None,
        gup_ret: None,
        signal_ns: Some(exit_ns + 4_000),
        user_ns: Some(exit_ns + 8_000),
        entry_ns: None,
        rip: Some(Hex(rip)),
        gpa: None,
        hva: None,
        access,
        isa: Isa::Vmx,
        reason: 48,
        user_reason: None,
        user_errno: None,
        insn: None,
        recovered: false,
        other_address: None,
    }
}

/// A VM whose page, as far as is known, nothing but its exits names.
fn begin(by: By) -> Story {
    let mut story = Story::new();
    story.vm();
    if by == By::Probes {
        story.poison(12);
    }
    story
}

fn walk_with(by: By, holes: &[(u64, Hole)]) -> Story {
    let mut story = begin(by);
    for line in 0..LINES {
        let gpa = GPA + line * 64;
        let hole = holes.iter().find(|(at, _)| *at == line).map(|(_, hole)| *hole);
        match hole {
            None => story.leaves_at(by, KERNEL_RIP, Some(gpa), gpa),
            Some(Hole::Lost) => {
                story.wait(40_000);
            }
            Some(Hole::Unknown) => story.leaves_at(by, KERNEL_RIP, None, gpa),
            Some(Hole::Misread(address)) => story.leaves_at(by, KERNEL_RIP, Some(address), gpa),
        }
    }
    story
}

fn kinds(incidents: &[Incident]) -> Vec<Option<StormKind>> {
    incidents
        .iter()
        .map(|incident| incident.storm.as_ref().map(|storm| storm.kind))
        .collect()
}

fn is_walk(incidents: &[Incident]) -> bool {
    kinds(incidents).contains(&Some(StormKind::LineWalk))
}

fn hole() -> impl Strategy<Value = Hole> {
    let elsewhere = prop_oneof![
        3 => Just(0),
        1 => (0x1_0000u64..0x10_0000).prop_map(|page| page << 12),
        1 => (0x1_0000u64..0x10_0000, 0u64..4096).prop_map(|(page, low)| page << 12 | low),
        1 => Just(u64::MAX - 0xfff),
    ];
    prop_oneof![
        Just(Hole::Lost),
        Just(Hole::Unknown),
        elsewhere.prop_map(Hole::Misread),
    ]
}

fn holes() -> impl Strategy<Value = Vec<(u64, Hole)>> {
    subsequence((0..LINES).collect::<Vec<_>>(), 1..=6).prop_flat_map(|lines| {
        let count = lines.len();
        vec(hole(), count).prop_map(move |holes| lines.iter().copied().zip(holes).collect())
    })
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![Just(By::Probes), Just(By::Trace)]
}

proptest! {
    #[test]
    fn a_walk_with_holes_is_a_walk_and_names_them(by in by(), holes in holes()) {
        let missing = holes.iter().fold(0, |lines, (line, _)| lines | 1u64 << line);
        // Where more is missing at an end of the page, the walk may as well have begun there.
        prop_assume!(missing.trailing_ones().max(missing.leading_ones()) < 3);
        let incidents = walk_with(by, &holes).incidents();
        prop_assert_eq!(kinds(&incidents), [Some(StormKind::LineWalk)], "{:#?}", incidents);
        let incident = &incidents[0];
        prop_assert_eq!(incident.page.gpa, Some(Hex(GPA)));
        let lost = holes.iter().filter(|(_, hole)| matches!(hole, Hole::Lost)).count() as u64;
        prop_assert_eq!(incident.exits.count, Some(LINES - lost));
        prop_assert_eq!(incident.exits.line_bitmap, Some(Hex(!missing)));
        let storm = incident.storm.as_ref().unwrap();
        let named = storm.missing_lines.map_or(0, |lines| lines.0);
        prop_assert_eq!(named, missing);
        let unknown = holes.len() as u64 - lost;
        prop_assert_eq!(storm.unknown_addresses.unwrap_or(0), unknown);
        prop_assert_eq!(storm.confidence == Some(Confidence::Certain), named == 0 && unknown == 0);
        let count = |words: &str| incident.missing.iter().filter(|m| m.message.contains(words)).count();
        prop_assert_eq!(count("of the page, which the walk"), usize::from(named != 0));
        let elsewhere = incident.exit_samples.iter().filter_map(|sample| sample.gpa);
        prop_assert_eq!(elsewhere.filter(|gpa| gpa.0 & !0xfff != GPA).count(), 0);
    }

    #[test]
    fn a_few_exits_out_of_their_place_leave_it_a_walk(
        by in by(),
        swaps in subsequence((1..15u64).map(|n| n * 4).collect::<Vec<_>>(), 1..=2),
    ) {
        let mut lines: Vec<u64> = (0..LINES).collect();
        for at in swaps {
            lines.swap(at as usize, at as usize + 1);
        }
        prop_assert!(is_walk(&begin(by).touches(by, lines).incidents()));
    }

    #[test]
    fn bounces_at_each_line_leave_it_a_walk(by in by(), bounces in vec(1..4usize, 64), holes in holes()) {
        let lines = (0..LINES).zip(bounces).filter(|(line, _)| holes.iter().all(|(at, _)| at != line));
        let lines: Vec<u64> = lines.flat_map(|(line, count)| std::iter::repeat_n(line, count)).collect();
        prop_assert!(is_walk(&begin(by).touches(by, lines).incidents()));
    }

    #[test]
    fn random_touches_are_no_walk(by in by(), lines in vec(0..LINES, 1..400)) {
        let upwards = lines.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        prop_assume!(upwards * 4 < lines.len() || lines.len() < 8);
        prop_assert!(!is_walk(&begin(by).touches(by, lines).incidents()));
    }

    #[test]
    fn a_shuffled_page_is_no_walk(by in by(), lines in Just((0..LINES).collect::<Vec<_>>()).prop_shuffle()) {
        let upwards = lines.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        prop_assume!(upwards < 40);
        prop_assert!(!is_walk(&begin(by).touches(by, lines).incidents()));
    }

    #[test]
    fn every_second_line_is_no_walk(by in by(), first in 0..2u64, stride in 2..9u64, passes in 1..4usize) {
        let pass = (first..LINES).step_by(stride as usize);
        let lines: Vec<u64> = std::iter::repeat_n(pass, passes).flatten().collect();
        prop_assert!(!is_walk(&begin(by).touches(by, lines).incidents()));
    }

    #[test]
    fn downwards_is_no_walk(by in by(), first in 0..40u64) {
        prop_assert!(!is_walk(&begin(by).touches(by, (first..LINES).rev()).incidents()));
    }

    #[test]
    fn a_spin_stays_one_with_any_hole(by in by(), line in 0..LINES, exits in 32..300usize, strays in vec(0..LINES, 0..2)) {
        let mut lines = vec![line; exits];
        for (n, stray) in strays.iter().enumerate() {
            lines[exits / 2 + n] = *stray;
        }
        let incidents = begin(by).touches(by, lines).incidents();
        prop_assert!(!is_walk(&incidents));
        prop_assert_eq!(kinds(&incidents), [Some(StormKind::SameLineSpin)]);
    }

    #[test]
    fn a_loop_over_two_pages_at_once_is_two_incidents(by in by(), far in 2..1000u64, from in 0..32u64) {
        let mut story = begin(by);
        for line in from..LINES {
            for page in [0, far] {
                let gpa = GPA + page * 4096 + line * 64;
                story.leaves_at(by, KERNEL_RIP, Some(gpa), gpa);
            }
        }
        prop_assert_eq!(kinds(&story.incidents()), [Some(StormKind::LineWalk); 2]);
    }

    #[test]
    fn another_instruction_on_another_page_stays_an_incident(by in by(), at in 0..LINES, far in 2..1000u64) {
        let mut story = begin(by);
        for line in 0..LINES {
            let gpa = GPA + line * 64;
            if line == at {
                let gpa = GPA + far * 4096;
                story.leaves_at(by, OTHER_RIP, Some(gpa), gpa);
            } else {
                story.leaves_at(by, KERNEL_RIP, Some(gpa), gpa);
            }
        }
        prop_assert_eq!(story.incidents().len(), 2);
    }
}

#[test]
fn vcpus_that_share_the_lines_of_a_page_are_no_walk() {
    let mut story = begin(By::Probes);
    for line in 0..LINES {
        let vcpu = if line % 2 == 0 { VCPU0 } else { VCPU1 };
        story.touch(vcpu, KERNEL_RIP, GPA + line * 64, Access::Read, true);
    }
    assert!(!is_walk(&story.incidents()));
}

#[test]
fn vcpus_that_walk_at_once_are_a_walk() {
    let mut story = begin(By::Probes);
    for line in 0..LINES {
        for vcpu in [VCPU0, VCPU1] {
            story.touch(vcpu, KERNEL_RIP, GPA + line * 64, Access::Read, true);
        }
    }
    let incident = story.only();
    assert_eq!(incident.exits.count, Some(128));
    let storm = incident.storm.unwrap();
    assert_eq!((storm.kind, storm.lines), (StormKind::LineWalk, 64));
    assert_eq!(
        (storm.missing_lines, storm.confidence),
        (None, Some(Confidence::Certain))
    );
}

#[test]
fn a_page_that_the_host_names_is_no_misread_address() {
    let mut story = begin(By::Probes);
    story.poison_other(9);
    for line in 0..LINES {
        let page = if line == 20 { 9 } else { 0 };
        story.touch(
            VCPU0,
            KERNEL_RIP,
            GPA + page * 4096 + line * 64,
            Access::Read,
            true,
        );
    }
    assert_eq!(story.incidents().len(), 2);
}

#[test]
fn a_flush_with_a_hole_is_still_a_flush_and_no_other_access() {
    let holes = [
        (0, Hole::Misread(0)),
        (20, Hole::Lost),
        (41, Hole::Misread(0x7777_7000)),
    ];
    for by in [By::Probes, By::Trace] {
        let incident = walk_with(by, &holes).only();
        assert_eq!(incident.flush.verdict, FlushVerdict::FlushOnly);
        assert_eq!(incident.flush.confidence, Some(Confidence::Possible));
        assert_eq!(incident.storm.unwrap().confidence, Some(Confidence::Likely));
    }
}

/// The kernel's totals of a walk over these lines.
fn totals_of(lines: impl IntoIterator<Item = u64>) -> poisontrace_model::event::totals::PageTotals {
    let mut totals = poisontrace_model::event::totals::PageTotals {
        gpa: Hex(GPA),
        ..Default::default()
    };
    for (n, line) in lines.into_iter().enumerate() {
        let mut exit = exit_of(1_000 * MS + 40_000 * n as u64, KERNEL_RIP, Access::Read);
        exit.gpa = Some(Hex(GPA + line * 64));
        totals.add_exit(&exit);
    }
    totals
}

#[test]
fn the_kernels_totals_of_sixty_three_lines_are_a_walk() {
    for hole in 0..LINES {
        let mut story = begin(By::Probes);
        story.touch(
            VCPU0,
            KERNEL_RIP,
            GPA + (hole + 1) % LINES * 64,
            Access::Read,
            true,
        );
        let lines = (0..LINES).filter(|line| *line != hole);
        story.at(VCPU0, QEMU, EventKind::PageTotals(Box::new(totals_of(lines))));
        let incident = story.only();
        let storm = incident.storm.unwrap();
        assert_eq!((storm.kind, storm.exits), (StormKind::LineWalk, 63), "{hole}");
        assert_eq!(storm.missing_lines, Some(Hex(1 << hole)));
    }
}

#[test]
fn an_event_with_a_misread_address_is_counted_once_beside_the_kernels_totals() {
    let mut story = walk_with(By::Probes, &[(20, Hole::Misread(0))]);
    story.at(VCPU0, QEMU, EventKind::PageTotals(Box::new(totals_of(0..LINES))));
    let incident = story.only();
    assert_eq!(incident.exits.count, Some(64));
    assert_eq!(incident.exits.line_bitmap, Some(Hex(u64::MAX)));
    let storm = incident.storm.unwrap();
    assert_eq!((storm.missing_lines, storm.unknown_addresses), (None, None));
}

#[test]
fn the_kernels_totals_of_random_touches_are_no_walk() {
    let scattered = (0..40_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
    let mut story = begin(By::Probes);
    story.touch(VCPU0, KERNEL_RIP, GPA, Access::Read, true);
    story.at(VCPU0, QEMU, EventKind::PageTotals(Box::new(totals_of(scattered))));
    assert_eq!(story.only().storm, None);
}

#[test]
fn an_exit_in_the_midst_of_a_walk_is_reported_once_the_walk_has_gone_on() {
    let mut correlator = Correlator::new(session());
    let reported = |correlator: &mut Correlator| -> Vec<Option<Hex>> {
        let updates = correlator.take_changed();
        updates.iter().map(|update| update.incident.page.gpa).collect()
    };
    let mut story = walk_with(By::Trace, &[(20, Hole::Misread(0))]);
    for event in &story.events {
        correlator.feed(event);
        let pages = reported(&mut correlator);
        assert!(
            pages.iter().all(|gpa| gpa.is_none_or(|gpa| gpa.0 == GPA)),
            "{pages:x?}"
        );
    }
    // One that nothing contradicts is reported half a second later.
    story.events.clear();
    story.leaves_at(By::Trace, KERNEL_RIP, Some(0x7777_7000), 0x7777_7000);
    story.wait(600 * MS).at(
        VCPU1,
        QEMU,
        EventKind::McgStatus {
            write: false,
            data: Hex(0),
            mc_on: None,
        },
    );
    let mut pages = Vec::new();
    for event in &story.events {
        correlator.feed(event);
        pages.extend(reported(&mut correlator));
    }
    assert!(pages.contains(&Some(Hex(0x7777_7000))), "{pages:x?}");
}

/// A walk of a processor of this kind, whose exits have holes.
fn walk_of(isa: Isa, by: By, holes: &[(u64, Hole)]) -> Story {
    const NESTED_PAGE_FAULT: u64 = 1024;
    let mut story = walk_with(by, holes);
    for event in &mut story.events {
        if let EventKind::PoisonExit(exit) = &mut event.what
            && isa == Isa::Svm
        {
            (exit.isa, exit.reason) = (isa, NESTED_PAGE_FAULT as _);
        }
    }
    story
}

#[test]
fn a_misread_first_exit_is_never_reported_as_a_page_of_its_own() {
    for isa in [Isa::Vmx, Isa::Svm] {
        for by in [By::Probes, By::Trace] {
            for address in [0, 0x7777_7000] {
                let story = walk_of(isa, by, &[(0, Hole::Misread(address))]);
                let mut correlator = Correlator::new(session());
                let mut last = None;
                for event in &story.events {
                    correlator.feed(event);
                    for update in correlator.take_changed() {
                        let gpa = update.incident.page.gpa;
                        assert!(gpa.is_none_or(|gpa| gpa.0 == GPA), "{isa:?} {by:?}: {gpa:?}");
                        last = Some(update.incident);
                    }
                }
                let last = last.unwrap();
                assert_eq!(last.exits.count, Some(LINES), "{isa:?} {by:?}");
                assert_eq!(last.storm.unwrap().unknown_addresses, Some(1), "{isa:?} {by:?}");
            }
        }
    }
}

#[test]
fn a_single_exit_on_a_page_of_its_own_is_reported_after_its_wait() {
    let mut story = begin(By::Probes);
    story.leaves_at(By::Probes, KERNEL_RIP, Some(0x7777_7000), 0x7777_7000);
    story.wait(600 * MS).at(
        VCPU1,
        QEMU,
        EventKind::McgStatus {
            write: false,
            data: Hex(0),
            mc_on: None,
        },
    );
    let mut correlator = Correlator::new(session());
    let mut pages = Vec::new();
    for event in &story.events {
        correlator.feed(event);
        let updates = correlator.take_changed();
        pages.extend(updates.iter().map(|update| update.incident.page.gpa));
    }
    assert!(pages.contains(&Some(Hex(0x7777_7000))), "{pages:x?}");
}
