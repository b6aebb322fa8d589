//! The report as users see it: the text against snapshots, the page against forbidden content.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use poisontrace_model::host::Host;
use poisontrace_report::{
    Look,
    document::{Answer, Incident},
    html, text,
};

/// A kept answer.
fn kept(answer: &str) -> (Host, Incident) {
    let mut answer: Answer = serde_json::from_str(answer).unwrap();
    (answer.host, answer.incidents.remove(0))
}

fn panic() -> (Host, Incident) {
    kept(include_str!("answers/panic-amd.json"))
}

fn storm() -> (Host, Incident) {
    kept(include_str!("answers/storm-intel.json"))
}

#[test]
fn kept_answers_conform_to_the_schema() {
    let schema = serde_json::from_str(include_str!("../report/explain.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for answer in [
        include_str!("answers/panic-amd.json"),
        include_str!("answers/storm-intel.json"),
    ] {
        let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
        let errors: Vec<String> = schema.iter_errors(&answer).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

#[test]
fn answers_of_schema_version_1_are_shown_with_the_text_that_they_hold() {
    let (host, incident) = kept(include_str!("answers/v1/panic-amd.json"));
    assert_eq!(host.poisontrace_version, "0.1.0");
    let shown = text(&host, &incident, Look::PLAIN);
    assert!(shown.contains("still held an earlier one"), "{shown}");
    assert!(shown.contains("the VMM tells vCPU 0"), "{shown}");
    let (host, incident) = kept(include_str!("answers/v1/storm-intel.json"));
    assert!(
        text(&host, &incident, Look::PLAIN).contains("64 exits"),
        "{incident:?}"
    );
}

#[test]
fn text_of_a_panicked_guest() {
    let (host, incident) = panic();
    insta::assert_snapshot!(text(&host, &incident, Look::PLAIN));
}

#[test]
fn text_of_a_storm_on_a_narrow_terminal() {
    let (host, incident) = storm();
    let narrow = Look {
        width: 80,
        colour: false,
    };
    insta::assert_snapshot!(text(&host, &incident, narrow));
}

#[test]
fn text_keeps_its_width_with_any_guest_name() {
    let (host, mut incident) = panic();
    incident.vm.name = Some("客人の仮想マシン".repeat(9));
    incident.summary = format!("Guest {} panicked.", "客人の仮想マシン".repeat(9));
    for width in [80, 120] {
        for colour in [false, true] {
            let text = text(&host, &incident, Look { width, colour });
            for line in text.lines() {
                assert!(console::measure_text_width(line) <= width, "{line}");
            }
            assert_eq!(text.contains('\x1b'), colour);
        }
    }
}

#[test]
fn colours_change_no_text() {
    let (host, incident) = panic();
    let coloured = text(
        &host,
        &incident,
        Look {
            width: 100,
            colour: true,
        },
    );
    let plain = text(&host, &incident, Look::PLAIN);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&console::strip_ansi_codes(&coloured)), words(&plain));
}

#[test]
fn the_page_shows_every_exit_of_a_storm_and_every_bit_of_an_injection() {
    let (host, incident) = storm();
    let page = html(&host, &[incident]);
    assert_eq!(page.matches("<circle").count(), 64);
    let (host, incident) = panic();
    let page = html(&host, &[incident]);
    for bit in [
        "VAL",
        "OVER",
        "UC",
        "PCC",
        "DEFERRED",
        "POISON",
        "MCIP",
        "RIPV",
        "recoverable LSB",
    ] {
        assert!(page.contains(&format!(">{bit}<")), "{bit}");
    }
}

#[test]
fn a_page_about_an_untouched_page_states_it() {
    let (host, mut incident) = panic();
    incident.exits.count = Some(0);
    incident.exits.line_bitmap = Some(0.into());
    incident.exit_samples.clear();
    incident.latency_ns = Default::default();
    incident.injections = Default::default();
    let page = html(&host, &[incident]);
    assert!(page.contains("no VM exit on it was seen"), "{page}");
    let pictures = page.matches("<svg").count();
    assert_eq!(
        (pictures, page.matches("<svg class=\"story\"").count()),
        (1, 1),
        "the story, and no plot of exits: {page}"
    );
}
