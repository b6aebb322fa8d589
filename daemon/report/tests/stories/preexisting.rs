//! Pages that were lost before the daemon started.

use super::*;
use poisontrace_model::{
    event::log_statement::{LogRecord, LogStatement, Speaker},
    incident::model::{Cause, Confidence, Outcome},
};

fn found(story: &mut Story) -> &mut Story {
    let what = EventKind::Preexisting {
        pfn: Hex(PFN),
        hva: Hex(HVA),
    };
    story.vm().at(QEMU, QEMU, what)
}

#[test]
fn a_guest_with_a_page_that_was_lost_before_the_start_is_at_risk() {
    let mut story = Story::new();
    found(&mut story);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::Running, Cause::NotTouched, Confidence::Possible)
    );
    assert!(incident.summary.contains("at risk"), "{}", incident.summary);
    assert_eq!(incident.page.pfn, Some(Hex(PFN)));
    assert_eq!(
        incident.signals.action_optional, None,
        "what came before is not known"
    );
    assert!(
        incident
            .missing
            .iter()
            .any(|m| m.message.contains("memory_failure()"))
    );
}

#[test]
fn what_its_vmm_says_of_the_poison_makes_it_no_more_than_at_risk() {
    let mut story = Story::new();
    let injection = EventKind::LogStatement(Box::new(LogRecord {
        source: "web01.log".into(),
        line: 0,
        speaker: Speaker::default(),
        vm: 0,
        joined: None,
        answers: None,
        text: String::new(),
        own_clock: None,
        times: Vec::new(),
        statement: LogStatement::VmmInjected {
            hva: Some(Hex(HVA)),
            gpa: Some(Hex(GPA)),
            severity: Some(SigbusSeverity::ActionOptional),
            size: None,
        },
    }));
    found(&mut story).at(0, QEMU, injection);
    let incident = story.only();
    assert_eq!(
        verdict(&incident),
        (Outcome::Running, Cause::NotTouched, Confidence::Possible)
    );
    assert_eq!(incident.page.gpa, Some(Hex(GPA)));
}

#[test]
fn its_first_touch_belongs_to_the_same_incident() {
    let mut story = Story::new();
    found(&mut story)
        .touch(VCPU0, USER_RIP, GPA, Access::Read, true)
        .record_injection(VCPU0, AMD_AR, GPA)
        .delivered(VCPU0)
        .handled(VCPU0);
    let incident = story.only();
    assert_eq!(incident.cause, Cause::Contained);
    assert_eq!(incident.exits.count, Some(1));
    assert_eq!(incident.page.pfn, Some(Hex(PFN)));
}

#[test]
fn a_page_that_is_touched_before_it_is_found_gets_its_frame() {
    let mut story = Story::new();
    story.vm().touch(VCPU0, USER_RIP, GPA, Access::Read, true);
    found(&mut story);
    assert_eq!(story.only().page.pfn, Some(Hex(PFN)));
}

#[test]
fn an_incident_that_nobody_watched_for_a_while_is_not_called_untouched_with_any_weight() {
    let mut story = Story::new();
    story.vm().poison(12);
    let mut correlator = Correlator::new(session());
    story.events.iter().for_each(|event| correlator.feed(event));
    assert_eq!(correlator.incidents()[0].confidence, Confidence::Likely);
    correlator.unwatched(story.events.last().unwrap().t + MS);
    let incident = &documents(&mut correlator)[0];
    assert_eq!(
        verdict(incident),
        (Outcome::Running, Cause::NotTouched, Confidence::Possible)
    );
    assert!(
        incident
            .timeline
            .iter()
            .any(|moment| moment.message.contains("not seen"))
    );
}
