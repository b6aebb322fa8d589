//! The daemon is killed and started again in the middle of a story.

use super::*;
use poisontrace_model::{
    correlate::resume::{State, TotalsContinuity},
    event::totals::{BaselineKind, DurationTotals, PageTotals},
};

/// The states that the store would hold after these events, as it holds them.
fn stored_after(events: &[Event]) -> Vec<String> {
    let mut correlator = Correlator::new(session());
    for event in events {
        correlator.feed(event);
    }
    let numbers = correlator.take_numbers();
    let states = numbers.into_iter().filter_map(|no| {
        let incident = correlator.report(no)?.incident;
        correlator.state(no, &incident.id, incident.started_at.as_deref())
    });
    states.collect()
}

fn killed_after(events: &[Event]) -> Vec<State> {
    let states = stored_after(events);
    let states = states.iter().map(|json| serde_json::from_str(json).unwrap());
    states.collect()
}

/// Another daemon, whose wall clock has been set since, goes on.
fn goes_on(states: Vec<State>, t: u64, continuity: TotalsContinuity, events: &[Event]) -> Vec<Incident> {
    let mut session = session();
    session.clock.wall_ns = session.clock.wall_ns.map(|ns| ns + 3_600_000_000_000);
    let mut correlator = Correlator::new(session);
    for state in states {
        correlator.resume(state, t, continuity);
    }
    for event in events {
        correlator.feed(event);
    }
    let incidents = documents(&mut correlator);
    conforms(&incidents);
    incidents
}

fn totals(tid: u32, exits: u64) -> EventKind {
    let _ = tid;
    EventKind::PageTotals(Box::new(PageTotals {
        gpa: Hex(GPA),
        exits,
        reads: exits,
        signals: exits,
        lines: Hex(1),
        ..PageTotals::default()
    }))
}

#[test]
fn an_incident_goes_on_under_its_id_whoever_sets_the_clock() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true);
    let whole = {
        let mut rest = Story::new();
        rest.events.clone_from(&story.events);
        rest.now = story.now;
        rest.record_injection(VCPU0, AMD_AR, GPA)
            .delivered(VCPU0)
            .handled(VCPU0);
        rest
    };
    let cut = story.events.len();
    let states = killed_after(&story.events);
    assert_eq!(states.len(), 1);
    let after = goes_on(
        states,
        story.now,
        TotalsContinuity::Continuous,
        &whole.events[cut..],
    );
    let uncut = whole.only();
    assert_eq!(after.len(), 1);
    assert_eq!(
        (&after[0].id, &after[0].started_at),
        (&uncut.id, &uncut.started_at)
    );
    assert_eq!((after[0].outcome, after[0].cause), (uncut.outcome, uncut.cause));
    assert_eq!(after[0].exits, uncut.exits);
    assert_eq!(
        after[0].injections.action_required,
        uncut.injections.action_required
    );
    assert!(
        after[0]
            .timeline
            .iter()
            .any(|m| m.message.contains("restarts") && m.message.contains("counted on")),
        "the gap is in the timeline: {:?}",
        after[0].timeline
    );
}

#[test]
fn a_signal_that_no_daemon_stored_is_known_from_those_that_one_did() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true);
    let is_signal = |event: &Event| {
        matches!(
            event.what,
            EventKind::Sigbus {
                severity: SigbusSeverity::ActionOptional,
                ..
            }
        )
    };
    let at = story.events.iter().position(is_signal).unwrap();
    let signal = &story.events[at];
    let knows = |states: Vec<State>, signal: &Event| {
        let mut correlator = Correlator::new(session());
        for state in states {
            correlator.resume(state, story.now, TotalsContinuity::Continuous);
        }
        correlator.knows_signal(signal)
    };
    assert!(!knows(killed_after(&story.events[..at]), signal));
    let without: Vec<Event> = story
        .events
        .iter()
        .filter(|event| !is_signal(event))
        .cloned()
        .collect();
    let states = killed_after(&without);
    assert_eq!(states.len(), 1);
    assert!(!knows(states, signal));
    assert!(knows(killed_after(&story.events), signal));
    let mut later = signal.clone();
    later.t = story.now;
    assert!(!knows(killed_after(&story.events), &later));
}

#[test]
fn a_stored_incident_of_a_former_daemon_is_read_by_its_names() {
    let mut time = DurationTotals::default();
    time.add(300);
    let kind = BaselineKind::Cpuid;
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true)
        .at(VCPU0, QEMU, EventKind::BaselineExit { kind, time })
        .at(VCPU0, QEMU, totals(VCPU0, 1))
        .pio(VCPU0, 0x505, 1);
    let stored = &stored_after(&story.events)[0];
    let mut former = stored.clone();
    for (new, old) in [
        ("\"baseline_exit\":", "\"floor\":"),
        ("\"accessed\":", "\"met\":"),
    ] {
        assert!(former.contains(new), "{new} {former}");
        former = former.replace(new, old);
    }
    let read = |json: &str| format!("{:?}", serde_json::from_str::<State>(json).unwrap());
    assert_eq!(read(&former), read(stored));
}

#[test]
fn totals_of_probes_that_stayed_attached_go_on() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true);
    story.at(VCPU0, QEMU, totals(VCPU0, 1000));
    let states = killed_after(&story.events);
    let mut rest = Story::new();
    rest.now = story.now;
    rest.at(VCPU0, QEMU, totals(VCPU0, 5000));
    let after = goes_on(states, story.now, TotalsContinuity::Continuous, &rest.events);
    assert_eq!(after[0].exits.count, Some(5000));
    assert_eq!(after[0].signals.action_required, Some(5000));
}

#[test]
fn totals_that_begin_anew_are_added_to_those_before() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true);
    story.at(VCPU0, QEMU, totals(VCPU0, 1000));
    let states = killed_after(&story.events);
    let mut rest = Story::new();
    rest.now = story.now;
    rest.at(VCPU0, QEMU, totals(VCPU0, 20));
    let after = goes_on(states, story.now, TotalsContinuity::Reset, &rest.events);
    assert_eq!(after[0].exits.count, Some(1020));
    assert_eq!(after[0].signals.action_required, Some(1020));
    assert!(
        after[0]
            .timeline
            .iter()
            .any(|m| m.message.contains("were not seen"))
    );
}

#[test]
fn an_incident_whose_vmm_is_gone_needs_no_state() {
    let mut story = Story::new();
    story.vm().poison(12).vmm_exit(7);
    assert!(killed_after(&story.events).is_empty());
}
