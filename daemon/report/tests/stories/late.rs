//! Deaths some time after the poison.

use super::*;
use poisontrace_model::incident::model::{Cause, Confidence, Outcome};

/// The guest touched the page, was notified, and handled it to the end.
fn handled() -> Story {
    let mut story = Story::new();
    story.vm().poison(12).struck(AMD_AR).handled(VCPU0);
    story
}

#[test]
fn a_death_after_the_window_is_not_the_poisons_and_is_told_all_the_same() {
    let mut story = handled();
    story.wait(601_000 * MS).pio(VCPU0, 0x505, 1);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::Survived, Cause::Contained, Confidence::Certain)
    );
    let last = incident.timeline.last().map(|moment| moment.message.clone());
    assert!(
        last.as_deref()
            .is_some_and(|event| event.contains("too long after")),
        "{last:?}"
    );
}

#[test]
fn a_death_minutes_after_the_handler_finished_is_only_possibly_its() {
    let mut story = handled();
    story.wait(120_000 * MS).pio(VCPU0, 0x505, 1);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::GuestPanicked, Cause::Unknown, Confidence::Possible)
    );
    assert!(incident.summary.contains("120.0 s after"), "{}", incident.summary);
}

#[test]
fn the_window_is_the_users_to_choose() {
    let mut story = handled();
    story.wait(120_000 * MS).pio(VCPU0, 0x505, 1);
    let mut correlator = Correlator::new(session());
    correlator.attribution_window(60_000 * MS);
    story.events.iter().for_each(|event| correlator.feed(event));
    assert_eq!(correlator.incidents()[0].cause, Cause::Contained);
}

#[test]
fn a_guest_that_hangs_in_its_handler_for_an_hour_still_died_of_it() {
    let mut story = Story::new();
    story.vm().poison(12).struck(AMD_AR | mca::OVER);
    let hanging = story.only();
    assert_eq!(verdict(&hanging).0, Outcome::Unknown);
    assert!(
        hanging.summary.contains("panicked, or hangs"),
        "{}",
        hanging.summary
    );
    story.wait(3_600_000 * MS).reset(VCPU0);
    assert_eq!(
        verdict(&story.only()),
        (Outcome::GuestPanicked, Cause::MceOverflow, Confidence::Likely)
    );
}

#[test]
fn a_guest_that_turned_itself_off_is_not_killed_by_what_follows() {
    let mut story = handled();
    story.pio(VCPU0, 0x604, 0x2000);
    let off = verdict(&story.only());
    assert_eq!(off, (Outcome::Survived, Cause::Contained, Confidence::Certain));
    story.pio(VCPU0, 0x505, 1).vmm_exit(9);
    assert_eq!(verdict(&story.only()), off);
}

#[test]
fn a_vmm_that_is_killed_after_its_guest_had_handled_the_error_was_not_killed_by_it() {
    let mut story = handled();
    story.vmm_exit(9);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::VmmKilled, Cause::NotPoison, Confidence::Likely)
    );
    assert!(incident.summary.contains("by signal 9"), "{}", incident.summary);
}

#[test]
fn guest_that_is_told_in_advance_and_handles_it_survives() {
    let mut story = Story::new();
    story
        .vm()
        .poison(12)
        .record_injection(VCPU0, INTEL_AO, GPA)
        .delivered(VCPU0)
        .handled(VCPU0);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::Survived, Cause::Contained, Confidence::Likely)
    );
    assert!(
        incident.summary.contains("no access to the page was seen"),
        "{}",
        incident.summary
    );
}
