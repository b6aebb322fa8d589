//! The schema lists each kind of timeline entry and of missing evidence, and no other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use poisontrace_model::incident::{missing::MissingEvidence, timeline::TimelineEvent};

fn listed(kinds: &serde_json::Value) -> Vec<&str> {
    let kinds = kinds.as_array().unwrap().iter();
    kinds.map(|kind| kind.as_str().unwrap()).collect()
}

#[test]
fn the_schema_lists_the_kinds_of_entries_and_of_missing_evidence() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../explain.schema.json")).unwrap();
    // Incidents of schema 1 have texts without kinds.
    let known = [MissingEvidence::KINDS, &["text"]].concat();
    assert_eq!(listed(&schema["$defs"]["missing_kind"]["enum"]), known);
    let timeline = &schema["$defs"]["incident"]["properties"]["timeline"]["items"]["properties"]["kind"];
    assert_eq!(listed(&timeline["enum"]), TimelineEvent::KINDS);
}
